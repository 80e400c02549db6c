"""Reasoning by Qwen2-VL or Qwen2.5-VL in this process, through transformers.

A reasoner is made, asked and closed in one thread, the pipeline's worker: compiled decoding
records CUDA graphs, which belong to the thread that recorded them. Imports `types`, its
neighbours in this room, torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import gc
import logging
import time
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria

from segzero_ros.reasoning import checkpoints, memory
from segzero_ros.reasoning.answers import AnswerParser, Narrator
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.control_tokens import control_tokens
from segzero_ros.reasoning.decoding import between_modules, Decoder, Prompt, unknown_settings
from segzero_ros.reasoning.devices import (
    choose_dtype,
    place,
    Placement,
    quantization_config,
    refuse_if_it_cannot_compute,
)
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.reasoning.packed_attention import pack_attention
from segzero_ros.reasoning.pretrained import load_model
from segzero_ros.reasoning.processors import chat_text, load_processor, LoadedProcessor
from segzero_ros.reasoning.resizing import seen_by
from segzero_ros.reasoning.squashing import squash
from segzero_ros.reasoning.token_text import numbers_of, TokenText
from segzero_ros.reasoning.vision_tower import attend_by_window_size, embed_by_product
from segzero_ros.types import (
    Cancelled,
    Frame,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
)

# Tokens of a prompt beside the image: the published templates take about 200.
_LONGEST_TEXT = 640

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransformersOptions:
    """How a model is loaded and asked; the fields are those of `loading.ReasonerOptions`."""

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
    fast: bool = True


class TransformersReasoner:
    """A Qwen2-VL or Qwen2.5-VL on this machine's GPU, or on its CPU for those who insist."""

    def __init__(self, options: TransformersOptions) -> None:
        """Load a model and warm it up.

        Raises:
            ReasonerUnavailable: it cannot be had here; the text says why and what would help.
        """
        self._options = options
        try:
            dialect = dialect_named(options.dialect)
            dialect.reader(1, 1, options.answer_parser)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        loaded = _load(options, dialect)
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor.processor
        self._dialect = loaded.processor.dialect
        self._control_tokens = control_tokens(self._processor)
        self._device = self._model.get_input_embeddings().weight.device
        config = self._model.generation_config
        self._end_tokens = _as_set(config.eos_token_id)
        self._decoder = self._make_decoder(loaded.placement)
        self._frame: Frame | None = None
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        if self._decoder is not None and loaded.placement.compile:
            self._warm_up()

    @property
    def name(self) -> str:
        """Which model answers."""
        quantization = self._options.quantization
        return f'{self._options.model} ({quantization})' if quantization else self._options.model

    @property
    def leaves_processors_free(self) -> bool:
        """Whether the model is on a GPU."""
        return bool(self._device.type != 'cpu')

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Say what in the frame the query means; see `base.Reasoner`."""
        if self._model is None:
            raise ReasonerUnavailable('The reasoner was closed.')
        reader = self._dialect.reader(
            frame.width, frame.height, self._options.answer_parser, query.text
        )
        answer = _Answer(
            Narrator(reader, on_text, on_object),
            TokenText(self._processor.tokenizer),
            cancelled,
            self._options.time_limit,
        )
        torch.manual_seed(self._options.seed)
        try:
            with torch.inference_mode():
                self._write(answer, frame, query)
        except torch.OutOfMemoryError as error:
            self.forget_frame()
            raise ReasonerUnavailable(
                f'{self.name} ran out of memory on {self._device}. Quantise it '
                f'(quantization:=bnb4), lower max_new_tokens, or free the device; '
                f'{checkpoints.ELSEWHERE}.'
            ) from error
        return self._finish(answer)

    def forget_frame(self) -> None:
        """Drop what is kept of the last frame."""
        self._frame = None
        self._seen = None
        if self._decoder is not None:
            self._decoder.forget()

    def close(self) -> None:
        """Free the model's memory; the reasoner is not used again."""
        self.forget_frame()
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
        self._model = None
        if torch.cuda.is_available():
            # The eyes' attention is bound to its own modules, which only this lets go of.
            gc.collect()
            torch.cuda.empty_cache()

    def _make_decoder(self, placement: Placement) -> Decoder | None:
        """Return the fast decoder, or None where `generate` has to do it."""
        if not self._options.fast:
            return None
        unknown = unknown_settings(self._model)
        if unknown:
            _logger.warning(
                'The checkpoint asks for %s; answers are written by '
                'transformers itself, without the fast path.',
                ', '.join(unknown),
            )
            return None
        pack_attention(self._model)
        embed_by_product(self._model)
        blocks = attend_by_window_size(self._model)
        _logger.info('Windows of a size share their attention in %d blocks', blocks)
        return Decoder(
            self._model,
            self._dialect.largest_image + _LONGEST_TEXT,
            self._options.max_new_tokens,
            static=placement.compile,
            is_number=numbers_of(self._processor.tokenizer),
        )

    def _warm_up(self) -> None:
        """Record the compiled step now, so that the first query does not wait for it."""
        started = time.perf_counter()
        frame = Frame(np.zeros((480, 640, 3), np.uint8))
        prompt = self._read_prompt(frame, Query('warm up'), never_stop)
        assert self._decoder is not None
        with torch.inference_mode():
            for count, _ in enumerate(self._decoder.generate(prompt, never_stop)):
                if count == 8:
                    break
        self.forget_frame()
        _logger.info('Warmed up in %.1f s', time.perf_counter() - started)

    def _write(self, answer: _Answer, frame: Frame, query: Query) -> None:
        """Have the model write its answer."""
        answer.check()
        if self._decoder is None:
            self._write_plainly(answer, frame, query)
            return
        prompt = self._read_prompt(frame, query, answer.check)
        for token in self._decoder.generate(prompt, answer.check):
            if answer.take(token, self._end_tokens):
                return
            if answer.count >= self._options.max_new_tokens:
                return

    def _write_plainly(self, answer: _Answer, frame: Frame, query: Query) -> None:
        """Have transformers' own `generate` write the answer, as the published code does."""
        image = torch.from_numpy(seen_by(self._dialect, frame.image).copy()).permute(2, 0, 1)
        inputs = self._processor(text=[self._chat(query)], images=[image], return_tensors='pt').to(
            self._device
        )
        self._refuse_resized(inputs['image_grid_thw'], frame)
        with between_modules(self._model, answer.check):
            self._model.generate(
                **inputs,
                do_sample=False,
                use_cache=True,
                max_new_tokens=self._options.max_new_tokens,
                stopping_criteria=[_AsTheAnswerSays(answer, self._end_tokens)],
            )

    def _read_prompt(self, frame: Frame, query: Query, check: Callable[[], None]) -> Prompt:
        """Return the prompt's tokens, and the image's features, kept while the frame stays."""
        if self._seen is None or self._frame is not frame:
            self.forget_frame()
            with torch.inference_mode(), between_modules(self._model, check):
                self._seen = self._look_at(frame)
            self._frame = frame
        features, grid = self._seen
        placeholder = self._processor.image_token
        text = self._chat(query).replace(placeholder, placeholder * len(features), 1)
        return Prompt(self._processor.tokenizer(text)['input_ids'], features, grid)

    def _look_at(self, frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image's features, (tokens, width), and its grid of patches, (1, 3)."""
        processed = self._processor.image_processor(
            images=[self._pixels(frame).permute(2, 0, 1)], return_tensors='pt'
        ).to(self._device)
        grid = processed['image_grid_thw']
        self._refuse_resized(grid, frame)
        seen = self._model.get_image_features(processed['pixel_values'], grid, return_dict=True)
        return torch.cat(seen.pooler_output), grid

    def _refuse_resized(self, grid: torch.Tensor, frame: Frame) -> None:
        """Raise ReasonerUnavailable where the checkpoint's processor made another size of it."""
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
        """Return the image as the model sees it, (h, w, 3) uint8; the same on any device."""
        if self._device.type == 'cpu' or self._dialect.mark_cell:
            return torch.from_numpy(seen_by(self._dialect, frame.image).copy())
        image = torch.from_numpy(np.ascontiguousarray(frame.image)).to(self._device)
        size = self._dialect.image_size(frame.width, frame.height)
        return squash(image, size, self._dialect.resampling)

    def _chat(self, query: Query) -> str:
        """Return the whole prompt as text, with one placeholder for the image."""
        return chat_text(self._processor, self._dialect.prompt(query.text, self._control_tokens))

    def _finish(self, answer: _Answer) -> Grounding:
        try:
            return answer.finish()
        except MalformedAnswer as error:
            if answer.count < self._options.max_new_tokens:
                raise
            raise MalformedAnswer(
                f'{error.reason}; it was cut off at max_new_tokens={answer.count}',
                error.raw_answer,
            ) from None


def never_stop() -> None:
    """Let reading go on."""


class _Answer:
    """One answer while it is written: what it says, and whether it may go on."""

    def __init__(
        self, narrator: Narrator, text: TokenText, cancelled: IsCancelled, time_limit: float
    ) -> None:
        self._narrator = narrator
        self._text = text
        self._cancelled = cancelled
        self._time_limit = time_limit
        self._started = time.monotonic()
        self.count = 0

    def take(self, token: int, end_tokens: frozenset[int]) -> bool:
        """Take the next token; return whether the answer is complete."""
        self.count += 1
        if token in end_tokens:
            return True
        self._narrator.feed(self._text.add(token))
        self.check()
        return self._narrator.complete

    def check(self) -> None:
        """Raise Cancelled or ReasonerTimeout when the answer may not go on."""
        if self._cancelled():
            raise Cancelled(self._narrator.text)
        if 0 < self._time_limit < time.monotonic() - self._started:
            raise ReasonerTimeout(
                f'The answer took longer than its {self._time_limit:g} s; {self.count} tokens '
                'were written. Raise time_limit, lower max_new_tokens, or use a faster model.',
                self._narrator.text,
            )

    def finish(self) -> Grounding:
        """Return what the whole text says."""
        self._narrator.feed(self._text.rest())
        return self._narrator.finish(self.count)


class _AsTheAnswerSays(StoppingCriteria):
    """Stops `generate` where the fast path stops."""

    def __init__(self, answer: _Answer, end_tokens: frozenset[int]) -> None:
        self._answer = answer
        self._end_tokens = end_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether the one sequence is complete, (1,) bool."""
        done = self._answer.take(int(input_ids[0, -1]), self._end_tokens)
        return torch.tensor([done], device=input_ids.device)


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: LoadedProcessor
    placement: Placement


def _load(options: TransformersOptions, dialect: Dialect) -> _Loaded:
    """Find, check and load a model; raise ReasonerUnavailable at the first thing in the way."""
    folder = checkpoints.local_folder(options.model, dialect.recipe)
    if folder is None:
        _refuse_download(options)
        folder = checkpoints.download(options.model)
    checkpoint = checkpoints.open_checkpoint(folder, dialect)
    processor = load_processor(checkpoint, dialect)
    image_tokens = processor.dialect.largest_image
    dtype = choose_dtype(options.dtype, options.device, checkpoint)
    needs = memory.needs_of(
        checkpoint,
        dtype.itemsize,
        image_tokens + _LONGEST_TEXT + options.max_new_tokens,
        image_tokens,
        options.quantization,
        on_gpu=options.device != 'cpu' and torch.cuda.is_available(),
    )
    placement = place(options.device, options.model, checkpoint, needs, options.quantization)
    quantised = quantization_config(options.quantization, checkpoint, dtype)
    model = load_model(checkpoint, processor, dtype, device_map=placement.device_map, **quantised)
    _make_greedy(model)
    if options.quantization or checkpoint.quantized:
        refuse_if_it_cannot_compute(model, options.quantization, checkpoint)
    return _Loaded(model.eval(), processor, placement)


def _refuse_download(options: TransformersOptions) -> None:
    """Raise ReasonerUnavailable where fetching the weights is not allowed or would be in vain."""
    missing = checkpoints.missing_weights(options.model)
    if options.device != 'cpu' and not torch.cuda.is_available():
        raise ReasonerUnavailable(
            f'This machine has no GPU that torch can use, and: {missing} device:=cpu insists on '
            'the CPU, where an answer of a 7B model takes minutes.'
        )
    if options.offline:
        raise ReasonerUnavailable(f'{missing} The hub is not asked, since offline is set.')


def _make_greedy(model: Any) -> None:
    """Have no sampling settings left: the published settings are greedy.

    A repetition penalty stays, since the published code leaves it to the checkpoint as well.
    """
    config = model.generation_config
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    if config.repetition_penalty not in (None, 1.0):
        _logger.info(
            "The checkpoint's generation_config penalises repetition by %s",
            config.repetition_penalty,
        )


def _as_set(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
