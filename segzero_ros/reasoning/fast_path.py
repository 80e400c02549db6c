"""Set up the fast path of a Qwen2-VL or Qwen2.5-VL and check it against the unmodified model.

The fast path replaces parts of transformers (names, call order, arithmetic) that its next release
may change. So it is used only with tested releases, and each part must reproduce the unmodified
model's output; if one does not, the model is restored. Importing this module may fail where
transformers has removed a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from segzero_ros.reasoning.base import FastPathError, one_line_summary
from segzero_ros.reasoning.decoding import Decoder, Prompt, unsupported_settings
from segzero_ros.reasoning.gqa_decode_attention import use_gqa_decode_attention, use_sdpa
from segzero_ros.reasoning.packed_linear import unpack_all
from segzero_ros.reasoning.vision_tower import (
    attend_by_window_size,
    embed_patches_by_matmul,
    restore_vision_tower,
)
from segzero_ros.types import ReasonerUnavailable

# By model type, the releases of transformers, 5.N, with which it was tested.
KNOWN_RELEASES = {'qwen2_vl': range(17, 25), 'qwen2_5_vl': range(17, 25)}
# Tokens of the answer that the paths are compared on.
_CHECKED_TOKENS = 6


@dataclass(frozen=True)
class _Reference:
    """The unmodified model's output.

    Attributes:
        features: (image tokens, width) of the image.
        generated: the answer's tokens.
        logits: (tokens, vocabulary) float32, before each of them.
        allowed: largest difference relative to the norm. Another summation order rounds
            differently; a wrong computation differs by much more.
    """

    features: torch.Tensor
    generated: list[int]
    logits: torch.Tensor
    allowed: float

    def compare(self, what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Raise FastPathError where the output differs too much from the expected one."""
        if found.shape == expected.shape:
            difference = (found.float() - expected.float()).norm()
            # False for NaN, too.
            if difference <= self.allowed * expected.float().norm():
                return
        raise FastPathError(f'{what} computes otherwise than the model does')


def prepare(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    prompt_of: Callable[[torch.Tensor, torch.Tensor], Prompt],
    make_decoder: Callable[[], Decoder],
) -> Decoder:
    """Switch a loaded model to the fast path and check it.

    Args:
        model: as it was loaded.
        inputs: a short question about a small image, as transformers' processor makes it.
        prompt_of: returns the same question's prompt, from the image's features and grid.
        make_decoder: called once the model is modified.

    Returns:
        The decoder.

    Raises:
        FastPathError: it cannot be used; the text names the part and the reason. The model is
            restored.
        ReasonerUnavailable: the model's own output is not finite.
    """
    _refuse_unknown(model)
    decoder: Decoder | None = None
    try:
        with torch.inference_mode():
            with _step("transformers' own answer"):
                reference = _reference_of(model, inputs)
            _change_tower(model, inputs, reference)
            with _step('the packed attention'):
                use_gqa_decode_attention(model)
            with _step('the fused decode step'):
                decoder = make_decoder()
            _compare_decoding(
                decoder, prompt_of(reference.features, inputs['image_grid_thw']), reference, inputs
            )
    except BaseException:
        undo(model, decoder)
        raise
    return decoder


def undo(model: Any, decoder: Decoder | None) -> None:
    """Restore a model to transformers' own computation and close the decoder."""
    if decoder is not None:
        decoder.close()
    # A part that transformers has renamed was not modified either.
    for restore in (unpack_all, restore_vision_tower, use_sdpa):
        with suppress(AttributeError):
            restore(model)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _refuse_unknown(model: Any) -> None:
    kind = model.config.model_type
    major, minor = (int(part) for part in transformers.__version__.split('.')[:2])
    releases = KNOWN_RELEASES.get(kind, range(0))
    if major != 5 or minor not in releases:
        raise FastPathError(
            f'transformers {transformers.__version__} is not known with {kind}; '
            f'5.{releases.start} to 5.{releases.stop - 1} are'
            if releases
            else f'a model of the type {kind} is not known'
        )
    unsupported = unsupported_settings(model)
    if unsupported:
        raise FastPathError(f'the checkpoint asks for {", ".join(unsupported)}')


def _reference_of(model: Any, inputs: Mapping[str, torch.Tensor]) -> _Reference:
    features = model.get_image_features(
        inputs['pixel_values'], inputs['image_grid_thw'], return_dict=True
    )
    output = model.generate(
        **inputs,
        do_sample=False,
        use_cache=True,
        max_new_tokens=_CHECKED_TOKENS,
        min_new_tokens=_CHECKED_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.cat(output.logits).float()
    if not bool(logits.isfinite().all()):
        raise ReasonerUnavailable(
            f'The model computes no finite numbers in {model.dtype}: set reasoner_dtype:=float32, '
            'or bfloat16 on a GPU that has it.'
        )
    rounding_dtype = model.dtype
    if getattr(model, 'hf_quantizer', None) is not None:
        # Quantised products jump by a step where an input rounds the other way.
        rounding_dtype = torch.bfloat16
    generated = output.sequences[0, inputs['input_ids'].shape[1] :].tolist()
    return _Reference(
        torch.cat(features.pooler_output),
        generated,
        logits,
        torch.finfo(rounding_dtype).eps ** 0.5,
    )


def _change_tower(model: Any, inputs: Mapping[str, torch.Tensor], reference: _Reference) -> None:
    """Modify the vision tower, part by part."""
    for what, change in (
        ('the patch embedding', embed_patches_by_matmul),
        ('the windowed attention', attend_by_window_size),
    ):
        with _step(what):
            change(model)
            features = model.get_image_features(
                inputs['pixel_values'], inputs['image_grid_thw'], return_dict=True
            )
            reference.compare(what, torch.cat(features.pooler_output), reference.features)


def _compare_decoding(
    decoder: Decoder, prompt: Prompt, reference: _Reference, inputs: Mapping[str, torch.Tensor]
) -> None:
    if prompt.ids != inputs['input_ids'][0].tolist():
        raise FastPathError("the prompt's tokens are others than the processor's")
    with _step('decoding'):
        for what, start, logits in decoder.logits_by_path(prompt, reference.generated):
            expected = reference.logits[start : start + len(logits)]
            reference.compare(what, logits, expected)


@contextmanager
def _step(part: str) -> Iterator[None]:
    """Name this part in the error of whatever fails in it."""
    try:
        yield
    except (FastPathError, ReasonerUnavailable):
        raise
    except Exception as error:
        raise FastPathError(f'{part} failed ({one_line_summary(error)})') from error
