"""Which reasoner and which segmenter, by name, with what they need to know.

The node's parameters, the command line and the tests all fill these two records.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
import logging
from typing import Any

from segzero_ros.extras import lacking
from segzero_ros.loading_steps import loading_step
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning.base import Companion, Reasoner
from segzero_ros.reasoning.credentials import masked
from segzero_ros.reasoning.router import route_by_rules, Router
from segzero_ros.segmentation.base import Segmenter
from segzero_ros.tracking.base import Tracker
from segzero_ros.types import ReasonerUnavailable, SegmenterUnavailable

REASONERS = ('transformers', 'openai', 'attributes')
SEGMENTERS = ('sam2', 'sam3', 'sam3_fast_lane', 'grabcut')
SAM3 = ('sam3', 'sam3_fast_lane')
RUNTIMES = ('auto', 'torch', 'openvino')


@dataclass(frozen=True)
class ReasonerOptions:
    """What a reasoner is made from.

    Attributes:
        backend: one of REASONERS.
        model: a hub name, a local folder, or the served model's name; unused by `attributes`.
        dialect: how the checkpoint is spoken to: see `reasoning.dialects`.
        answer_parser: `repair` (default) or `strict`, which reads only what the published code
            does.
        device: `auto`, `cpu`, `cuda`, `cuda:1` …
        dtype: `auto`, `bfloat16`, `float16` or `float32`.
        quantization: empty, or `bnb4`, `bnb8`, `int8`, `fp8`.
        max_new_tokens: most tokens an answer may have.
        time_limit: most seconds an answer may take; 0 for no limit.
        seed: for sampling checkpoints; the published settings are greedy.
        offline: never ask the hub.
        fast_decoding: use the fast decoding path (static cache, compiled step, cached prefixes);
            the tokens are the same either way.
        base_url: of an OpenAI-compatible server.
        api_key_env: the environment variable that holds the server's key.
        router: a text model that chooses the task of queries that leave it open; with `openai`
            one on the same server; empty: rules.
        constrain_answer: have the server hold the answer to its JSON schema (vLLM, SGLang).
    """

    backend: str = 'attributes'
    model: str = 'Ricky06662/VisionReasoner-7B'
    dialect: str = 'vision_reasoner'
    answer_parser: str = 'repair'
    device: str = 'auto'
    dtype: str = 'auto'
    quantization: str = ''
    max_new_tokens: int = 1024
    time_limit: float = 60.0
    seed: int = 0
    offline: bool = False
    fast_decoding: bool = True
    base_url: str = ''
    api_key_env: str = 'OPENAI_API_KEY'
    constrain_answer: bool = False
    router: str = ''


@dataclass(frozen=True)
class SegmenterOptions:
    """What a segmenter is made from.

    Attributes:
        backend: one of SEGMENTERS; with `sam3_fast_lane` SAM 3 also answers plain noun phrases,
            without the reasoner.
        model: a hub name or a local checkpoint: a file for `sam2`, a folder for SAM 3; unused
            by `grabcut`.
        config: name or path of SAM 2's configuration; empty: known from the model's name.
        device: `auto`, `cpu`, `cuda`, `cuda:1` …
        dtype: `auto` (16 bits by autocast on a GPU, bfloat16 by OpenVINO on a CPU that has it),
            `bfloat16`, `float16` or `float32`.
        offline: never ask the hub.
        runtime: what runs SAM 2, one of RUNTIMES; `auto`: OpenVINO on a CPU where it is
            installed, else torch.
    """

    backend: str = 'grabcut'
    model: str = 'facebook/sam2-hiera-large'
    config: str = ''
    device: str = 'auto'
    dtype: str = 'auto'
    offline: bool = False
    runtime: str = 'auto'


def described(options: ReasonerOptions | SegmenterOptions) -> dict[str, Any]:
    """Return options by name, for files that others may read: without passwords."""
    values = asdict(options)
    if 'base_url' in values:
        values['base_url'] = masked(values['base_url'])
    return values


def load_pipeline(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Pipeline:
    """Load both models; leaves none in memory when the other cannot be had.

    Raises:
        ReasonerUnavailable: the reasoner cannot be had, or not both of them fit.
        SegmenterUnavailable: the segmenter cannot be had.
    """
    loaded = load_reasoner(reasoner, _companion(segmenter))
    try:
        router = load_router(reasoner, loaded)
        masks = load_segmenter(segmenter)
        finder: Any = masks if segmenter.backend == 'sam3_fast_lane' else None
        return Pipeline(loaded, masks, reasoner.time_limit, router, phrase_finder=finder)
    except BaseException:
        loaded.close()
        raise


def load_router(options: ReasonerOptions, reasoner: Reasoner) -> Router:
    """Return what chooses the task of queries that leave it open.

    Args:
        options: those of the reasoner.
        reasoner: the loaded one; a router on its server shares its connection.

    Raises:
        ReasonerUnavailable: the model cannot be had.
    """
    if not options.router:
        return route_by_rules
    if options.backend == 'openai':
        from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
        from segzero_ros.reasoning.served_router import ServedRouter

        assert isinstance(reasoner, OpenAIReasoner)
        return ServedRouter(reasoner.server, options.router, options.time_limit, options.seed)
    try:
        from segzero_ros.reasoning.model_router import ModelRouter
    except ImportError as error:
        raise ReasonerUnavailable(
            f'{lacking("The router needs", error, "models")}, or leave reasoner.router empty.'
        ) from error
    with loading_step(f'reading the weights of the router {options.router}'):
        return ModelRouter(options.router, options.device, offline=options.offline)


def _companion(segmenter: SegmenterOptions) -> Companion | None:
    """Return what a reasoner has to leave room for."""
    if segmenter.backend == 'sam2':
        from segzero_ros.segmentation.sam2_checkpoint import bytes_needed
    elif segmenter.backend in SAM3:
        from segzero_ros.segmentation.sam3_checkpoint import bytes_needed
    else:
        return None
    return Companion(segmenter.device, bytes_needed(segmenter.model))


def load_reasoner(options: ReasonerOptions, beside: Companion | None = None) -> Reasoner:
    """Load the reasoner that the options name.

    Args:
        options: which one.
        beside: what is loaded after it, and has to fit as well.

    Raises:
        ReasonerUnavailable: it cannot be had.
    """
    if options.backend == 'attributes':
        from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner

        return AttributeReasoner()
    if options.backend == 'openai':
        try:
            from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
        except ImportError as error:
            raise ReasonerUnavailable(
                f'{lacking("The reasoner openai needs", error, "openai")}, or take the reasoner '
                'attributes.'
            ) from error
        return OpenAIReasoner(
            options.base_url,
            options.model,
            options.dialect,
            options.answer_parser,
            options.max_new_tokens,
            options.time_limit,
            options.seed,
            options.api_key_env,
            options.constrain_answer,
        )
    if options.backend == 'transformers':
        return _load_transformers(options, beside)
    raise ReasonerUnavailable(
        f'There is no reasoner {options.backend!r}; there are {", ".join(REASONERS)}.'
    )


def _load_transformers(options: ReasonerOptions, beside: Companion | None) -> Reasoner:
    # transformers imports torchao where that is installed, and torch warns of its enumerations.
    logging.getLogger('torch.utils._pytree').setLevel(logging.ERROR)
    try:
        if _may_be_small(options):
            from segzero_ros.reasoning.small_model.reasoner import load_small_model

            small = load_small_model(options)
            if small is not None:
                return small
        with loading_step('importing transformers'):
            from segzero_ros.reasoning.transformers_reasoner import (
                TransformersOptions,
                TransformersReasoner,
            )
    except ImportError as error:
        raise ReasonerUnavailable(
            f'{lacking("The reasoner transformers needs", error, "models")}, or take '
            'profile:=remote or profile:=offline.'
        ) from error
    wanted = {field.name for field in fields(TransformersOptions)}
    chosen = {name: value for name, value in vars(options).items() if name in wanted}
    return TransformersReasoner(TransformersOptions(**chosen), beside)


def _may_be_small(options: ReasonerOptions) -> bool:
    """Return whether NumPy may compute the model: in float32, on the CPU, unless told not to."""
    exact = options.device == 'cpu' and options.dtype == 'float32' and not options.quantization
    return exact and options.fast_decoding


def load_segmenter(options: SegmenterOptions) -> Segmenter[Any]:
    """Load the segmenter that the options name; raise SegmenterUnavailable if it cannot be had."""
    if options.backend == 'grabcut':
        from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter

        return GrabCutSegmenter()
    if options.backend == 'sam2':
        try:
            with loading_step('importing SAM 2'):
                from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
        except ImportError as error:
            raise SegmenterUnavailable(
                f'{lacking("The segmenter sam2 needs", error, "models")}, or take the segmenter '
                'grabcut.'
            ) from error
        return Sam2Segmenter(
            options.model,
            options.config,
            options.device,
            options.dtype,
            options.offline,
            options.runtime,
        )
    if options.backend in SAM3:
        try:
            with loading_step('importing SAM 3'):
                from segzero_ros.segmentation.sam3_segmenter import Sam3Segmenter
        except ImportError as error:
            raise SegmenterUnavailable(
                f'{lacking(f"The segmenter {options.backend} needs", error, "models")}, or take '
                'the segmenter grabcut.'
            ) from error
        return Sam3Segmenter(
            options.model,
            options.device,
            options.dtype,
            options.offline,
            phrases=options.backend == 'sam3_fast_lane',
        )
    raise SegmenterUnavailable(
        f'There is no segmenter {options.backend!r}; there are {", ".join(SEGMENTERS)}.'
    )


def load_tracker(options: SegmenterOptions, segmenter: Segmenter[Any]) -> Tracker:
    """Return the tracker that goes with a loaded segmenter.

    SAM 2's runs on the same weights. SAM 3 has none here, because transformers' keeps every frame:
    its objects are tracked without weights.
    """
    if options.backend == 'sam2':
        from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter
        from segzero_ros.tracking.sam2_tracker import Sam2Tracker

        assert isinstance(segmenter, Sam2Segmenter)
        return Sam2Tracker(segmenter)
    from segzero_ros.tracking.classical_tracker import ClassicalTracker

    return ClassicalTracker()
