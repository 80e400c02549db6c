"""Reasoning by one of Qwen's vision models in this process, through transformers.

A reasoner is created, queried and closed in one thread, the pipeline's worker: compiled decoding
records CUDA graphs, which belong to the thread that recorded them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import gc
import logging
from typing import Any, TYPE_CHECKING

import numpy as np
import torch

from segzero_ros import gpus
from segzero_ros.cancellation import cancellable
from segzero_ros.loading_steps import loading_step
from segzero_ros.reasoning import checkpoints, memory
from segzero_ros.reasoning.answers import AnswerParser, StreamReporter
from segzero_ros.reasoning.base import (
    Companion,
    FastPathError,
    ignore,
    IsCancelled,
    never,
    one_line_summary,
    OnObject,
    OnText,
)
from segzero_ros.reasoning.control_tokens import control_tokens
from segzero_ros.reasoning.detokenizer import Detokenizer, numbers_of
from segzero_ros.reasoning.devices import (
    choose_dtype,
    place,
    Placement,
    quantization_config,
    refuse_if_it_cannot_compute,
)
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.reasoning.dialects.fitting import warn_of_few_tokens, warn_of_other_name
from segzero_ros.reasoning.partial_answer import PartialAnswer
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.processors import (
    chat_text,
    load_processor,
    LoadedProcessor,
    opens_reasoning,
)
from segzero_ros.reasoning.resize_like_pillow import resize_like_pillow
from segzero_ros.reasoning.stop_with_answer import StopWithAnswer
from segzero_ros.reasoning.weights import load_model, make_greedy
from segzero_ros.types import (
    Frame,
    Grounding,
    Query,
    ReasonerUnavailable,
    RgbImage,
    SegZeroError,
    Task,
)

if TYPE_CHECKING:
    # Imported where it is used: it needs private names of transformers, which may be removed.
    from segzero_ros.reasoning.decoding import Decoder, Prompt

# Most tokens of a prompt without the image: the published templates take about 200.
_MAX_TEXT_TOKENS = 640

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransformersOptions:
    """Options of the model; the fields are those of `loading.ReasonerOptions`."""

    model: str
    dialect: str = 'vision_reasoner'
    answer_parser: AnswerParser = 'repair'
    device: str = 'auto'
    dtype: str = 'auto'
    quantization: str = ''
    max_new_tokens: int = 1024
    time_limit: float = 0.0
    seed: int = 0
    offline: bool = False
    fast_decoding: bool = True


class TransformersReasoner:
    """A Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 on this machine's GPU or CPU."""

    def __init__(self, options: TransformersOptions, beside: Companion | None = None) -> None:
        """Load a model and warm it up.

        Args:
            options: the model and its options.
            beside: what is loaded after it and shares the memory.

        Raises:
            ReasonerUnavailable: it cannot be loaded; the text names the cause and a hint.
        """
        self._options = options
        try:
            dialect = dialect_named(options.dialect)
            dialect.reader(1, 1, options.answer_parser)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        loaded = _load(options, dialect, beside)
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor.processor
        self._dialect = loaded.processor.dialect
        self._control_tokens = control_tokens(self._processor)
        self._device = self._model.get_input_embeddings().weight.device
        self._end_tokens = frozenset(self._model.generation_config.eos_token_id)
        self._frame: Frame | None = None
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._decoder: Decoder | None = None
        if opens_reasoning(self._chat(Query('the red cup'))):
            warn_of_few_tokens(self.name, options.max_new_tokens, self._dialect)
        if options.fast_decoding:
            with gpus.current(self._device):
                self._use_fast_path(loaded.placement)

    @property
    def name(self) -> str:
        """The model, with its quantisation."""
        quantization = self._options.quantization
        return f'{self._options.model} ({quantization})' if quantization else self._options.model

    @property
    def leaves_processors_free(self) -> bool:
        """Whether the model is on a GPU."""
        return bool(self._device.type != 'cpu')

    @property
    def reads_marks(self) -> bool:
        """Whether the dialect answers in words."""
        return Task.ANSWER in self._dialect.tasks

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Find the queried objects; see `base.Reasoner`."""
        if self._model is None:
            raise ReasonerUnavailable('The reasoner was closed.')
        reader = self._dialect.for_task(query.task or Task.SEGMENT).reader(
            frame.width,
            frame.height,
            self._options.answer_parser,
            query.text,
            thinking=opens_reasoning(self._chat(query)),
        )
        answer = PartialAnswer(
            StreamReporter(reader, on_text, on_object),
            Detokenizer(self._processor.tokenizer),
            cancelled,
            self._options.time_limit,
        )
        torch.manual_seed(self._options.seed)
        try:
            with torch.inference_mode(), gpus.current(self._device):
                self._generate(answer, frame, query)
        except torch.OutOfMemoryError as error:
            self.forget_frame()
            raise ReasonerUnavailable(
                f'{self.name} ran out of memory on {self._device}. Quantise it '
                '(reasoner.quantization:=bnb4), lower reasoner.max_new_tokens, or free the '
                f'device; {checkpoints.ELSEWHERE}.'
            ) from error
        return answer.finish(self._options.max_new_tokens)

    def forget_frame(self) -> None:
        """Drop all that is cached of the last frame."""
        self._frame = None
        self._seen = None
        if self._decoder is not None:
            self._decoder.reset()

    def close(self) -> None:
        """Free the model's memory; the reasoner is not used again."""
        self.forget_frame()
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
        self._model = None
        if torch.cuda.is_available():
            # The vision tower's replaced forward methods form reference cycles.
            gc.collect()
            torch.cuda.empty_cache()

    def _use_fast_path(self, placement: Placement) -> None:
        """Use the fast path if it matches `generate`; else warn and do without."""
        try:
            with loading_step('checking the fast path'):
                self._decoder = self._make_decoder(placement)
            if placement.compile:
                with loading_step('compiling the decode step'):
                    self._warm_up()
        except ReasonerUnavailable:
            raise
        except Exception as error:
            self._abandon_fast_path(error)

    def _make_decoder(self, placement: Placement) -> Decoder:
        from segzero_ros.reasoning import fast_path
        from segzero_ros.reasoning.decoding import Decoder

        query, frame = Query('the red cup'), Frame(_noise(480, 640))
        if not np.array_equal(
            self._pixels(frame).cpu(), resize_for_model(self._dialect, frame.image)
        ):
            raise FastPathError('resizing on the GPU gives other pixels than Pillow')
        cell = self._processor.image_processor.patch_size
        cell *= self._processor.image_processor.merge_size
        # Has windows of all four sizes: inner, two edges, corner.
        inputs = self._inputs(_noise(6 * cell, 7 * cell), query)
        return fast_path.prepare(
            self._model,
            inputs,
            lambda features, grid: self._prompt(query, features, grid),
            lambda: Decoder(
                self._model,
                self._dialect.max_image_tokens + _MAX_TEXT_TOKENS,
                self._options.max_new_tokens,
                static=placement.compile,
                is_number=numbers_of(self._processor.tokenizer),
            ),
        )

    def _abandon_fast_path(self, error: Exception) -> None:
        """Have `generate` write this answer and all after it, and say why."""
        self.forget_frame()
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            from segzero_ros.reasoning import fast_path

            fast_path.undo(self._model, decoder)
        _logger.warning(
            "The fast path is not used, for %s: answers are written by transformers' own "
            'generate, which is slower.',
            error if isinstance(error, FastPathError) else one_line_summary(error),
        )
        _logger.debug('The fast path failed', exc_info=error)

    def _warm_up(self) -> None:
        """Compile and record the step now instead of at the first query."""
        frame = Frame(np.zeros((480, 640, 3), np.uint8))
        prompt = self._read_prompt(frame, Query('warm up'), never_stop)
        assert self._decoder is not None
        with torch.inference_mode():
            for count, _ in enumerate(self._decoder.generate(prompt, never_stop)):
                if count == 8:
                    break
        self.forget_frame()

    def _generate(self, answer: PartialAnswer, frame: Frame, query: Query) -> None:
        """Generate the answer."""
        answer.check()
        if self._decoder is None or not self._generate_fast(answer, frame, query):
            self._generate_with_transformers(answer, frame, query)

    def _generate_fast(self, answer: PartialAnswer, frame: Frame, query: Query) -> bool:
        """Return whether the answer is complete; if not, `generate` continues it."""
        tokens = self._fast_tokens(answer, frame, query)
        while True:
            try:
                token = next(tokens)
            except (SegZeroError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                self._abandon_fast_path(error)
                return False
            if answer.take(token, self._end_tokens):
                return True
            if answer.count >= self._options.max_new_tokens:
                return True

    def _fast_tokens(self, answer: PartialAnswer, frame: Frame, query: Query) -> Iterator[int]:
        assert self._decoder is not None
        prompt = self._read_prompt(frame, query, answer.check)
        yield from self._decoder.generate(prompt, answer.check)

    def _generate_with_transformers(
        self, answer: PartialAnswer, frame: Frame, query: Query
    ) -> None:
        """Generate with transformers' own `generate`, as the published code does.

        Tokens that the answer already has are its prefix.
        """
        inputs = self._inputs(resize_for_model(self._dialect, frame.image), query)
        self._refuse_resized(inputs['image_grid_thw'], frame)
        written = torch.tensor([answer.tokens], dtype=torch.long, device=self._device)
        for name, more in (
            ('input_ids', written),
            ('attention_mask', torch.ones_like(written)),
            ('mm_token_type_ids', torch.zeros_like(written)),
        ):
            if name in inputs and answer.tokens:
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], dim=1)
        with cancellable(self._model.modules(), answer.check):
            self._model.generate(
                **inputs,
                do_sample=False,
                use_cache=True,
                max_new_tokens=self._options.max_new_tokens - answer.count,
                stopping_criteria=[StopWithAnswer(answer, self._end_tokens)],
            )

    def _inputs(self, image: RgbImage, query: Query) -> Any:
        """Return the inputs that transformers' processor makes of a query.

        Args:
            image: (h, w, 3) uint8, already resized.
            query: the query.
        """
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        return self._processor(text=[self._chat(query)], images=[pixels], return_tensors='pt').to(
            self._device
        )

    def _read_prompt(self, frame: Frame, query: Query, check: Callable[[], None]) -> Prompt:
        """Return the prompt's tokens and the image's features, cached for the last frame."""
        if self._seen is None or self._frame is not frame:
            self.forget_frame()
            with torch.inference_mode(), cancellable(self._model.modules(), check):
                self._seen = self._encode_image(frame)
            self._frame = frame
        return self._prompt(query, *self._seen)

    def _prompt(self, query: Query, features: torch.Tensor, grid: torch.Tensor) -> Prompt:
        """Return a query's tokens with its image's features."""
        from segzero_ros.reasoning.decoding import Prompt

        placeholder = self._processor.image_token
        text = self._chat(query).replace(placeholder, placeholder * len(features), 1)
        return Prompt(self._processor.tokenizer(text)['input_ids'], features, grid)

    def _encode_image(self, frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image's features, (tokens, width), and its grid of patches, (1, 3)."""
        processed = self._processor.image_processor(
            images=[self._pixels(frame).permute(2, 0, 1)], return_tensors='pt'
        ).to(self._device)
        grid = processed['image_grid_thw']
        self._refuse_resized(grid, frame)
        seen = self._model.get_image_features(processed['pixel_values'], grid, return_dict=True)
        return torch.cat(seen.pooler_output), grid

    def _refuse_resized(self, grid: torch.Tensor, frame: Frame) -> None:
        """Raise ReasonerUnavailable if the checkpoint's image processor changed the size."""
        side = self._processor.image_processor.patch_size
        rows, columns = (int(patches) * side for patches in grid[0, 1:])
        width, height = self._dialect.image_size(frame.width, frame.height)
        if (columns, rows) != (width, height):
            raise ReasonerUnavailable(
                f'The image processor of {self.name} makes {columns}x{rows} pixels of an image '
                f"of {width}x{height}, so every box would be off: take the checkpoint's own "
                'preprocessor_config.json or processor_config.json.'
            )

    def _pixels(self, frame: Frame) -> torch.Tensor:
        """Return the resized image, (h, w, 3) uint8; identical on all devices."""
        if self._device.type == 'cpu' or self._dialect.position_code_cell:
            return torch.from_numpy(resize_for_model(self._dialect, frame.image).copy())
        image = torch.from_numpy(np.ascontiguousarray(frame.image)).to(self._device)
        size = self._dialect.image_size(frame.width, frame.height)
        return resize_like_pillow(image, size, self._dialect.resampling)

    def _chat(self, query: Query) -> str:
        """Return the whole prompt as text, with one image placeholder."""
        dialect = self._dialect.for_task(query.task or Task.SEGMENT)
        prompt = dialect.prompt(query.text, self._control_tokens)
        return chat_text(self._processor, prompt, dialect.template_options)


def _noise(height: int, width: int) -> RgbImage:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def never_stop() -> None:
    """Never cancel."""


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: LoadedProcessor
    placement: Placement


def _load(options: TransformersOptions, dialect: Dialect, beside: Companion | None) -> _Loaded:
    """Find, check and load a model; raise ReasonerUnavailable at the first obstacle."""
    warn_of_other_name(options.model, dialect)
    folder = checkpoints.local_folder(options.model, dialect.recipe)
    if folder is None:
        _refuse_download(options)
        folder = checkpoints.download(options.model)
    checkpoint = checkpoints.open_checkpoint(folder, dialect)
    processor = load_processor(checkpoint, dialect)
    image_tokens = processor.dialect.max_image_tokens
    dtype = choose_dtype(options.dtype, options.device, checkpoint)
    needs = memory.needs_of(
        checkpoint,
        dtype.itemsize,
        image_tokens + _MAX_TEXT_TOKENS + options.max_new_tokens,
        image_tokens,
        options.quantization,
        on_gpu=options.device != 'cpu' and torch.cuda.is_available(),
    )
    placement = place(
        options.device, options.model, checkpoint, needs, options.quantization, beside
    )
    quantised = quantization_config(options.quantization, checkpoint, dtype)
    gigabytes = checkpoint.weight_bytes / 1e9
    with loading_step(f'reading the weights of {options.model} ({gigabytes:.1f} GB)'):
        model = load_model(
            checkpoint, processor, dtype, device_map=placement.device_map, **quantised
        )
    make_greedy(model)
    if options.quantization or checkpoint.quantized:
        refuse_if_it_cannot_compute(model, options.quantization, checkpoint)
    return _Loaded(model.eval(), processor, placement)


def _refuse_download(options: TransformersOptions) -> None:
    """Raise ReasonerUnavailable where a download is disabled or the model could not run."""
    missing = checkpoints.missing_weights(options.model)
    if options.device != 'cpu' and not torch.cuda.is_available():
        raise ReasonerUnavailable(
            f'This machine has no GPU that torch can use, and: {missing} device:=cpu insists on '
            'the CPU, where an answer of a 7B model takes minutes.'
        )
    if options.offline:
        raise ReasonerUnavailable(f'{missing} The hub is not asked, since offline is set.')
