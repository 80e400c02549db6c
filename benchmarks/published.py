"""Reimplementation of the published inference procedure, sequential and without caching.

As published: resize with Pillow, the processor, `generate` with its defaults, the regular
expressions of `published_reading`, then SAM 2's predictor, once per object, with three full-size
masks each. It uses only the prompts of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import time
from typing import Any

import numpy as np
from PIL import Image
import torch
import transformers

from benchmarks.published_reading import Found, READINGS
from segzero_ros.reasoning.answers import AnswerReader, StreamReporter
from segzero_ros.reasoning.detokenizer import Detokenizer
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.types import Mask, RgbImage


@dataclass(frozen=True)
class PublishedTimes:
    """Seconds since the query.

    Attributes:
        first_word: of the first generated word of the reasoning, which is shown only at the end.
        text: of the complete text.
        mask: of the mask.
        tokens: number of generated tokens.
    """

    first_word: float
    text: float
    mask: float
    tokens: int


class Published:
    """Both models, loaded as in the published code, on any device."""

    def __init__(
        self,
        folder: Path,
        predictor: Any,
        device: str,
        dtype: torch.dtype,
        dialect: str = 'vision_reasoner',
    ) -> None:
        self._dialect = dialect_named(dialect)
        self.processor: Any = transformers.AutoProcessor.from_pretrained(
            folder, padding_side='left'
        )
        # Flash-attention, which the published code asks for, is taken where it is installed.
        flash = device != 'cpu' and transformers.utils.is_flash_attn_2_available()
        self.model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation='flash_attention_2' if flash else 'sdpa'
        ).to(device)
        self.model.eval()
        self._predictor = predictor

    def answer(self, image: RgbImage, query: str) -> tuple[PublishedTimes, Mask]:
        """Answer one query; return the times, and the (H, W) bool mask."""
        started = time.perf_counter()
        text, first_word, tokens = self.reason(image, query)
        written = time.perf_counter()
        mask = self.segment(image, self.read(image, text))
        ended = time.perf_counter()
        times = PublishedTimes(first_word - started, written - started, ended - started, tokens)
        return times, mask

    def reason(self, image: RgbImage, query: str) -> tuple[str, float, int]:
        """Return the model's text, the time of its first word, and the number of tokens."""
        squashed = Image.fromarray(image).resize((840, 840), Image.Resampling.BILINEAR)
        content = [
            {'type': 'image', 'image': squashed},
            {'type': 'text', 'text': self._dialect.prompt(query)},
        ]
        prompt = self.processor.apply_chat_template(
            [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
        )
        inputs = self.processor(
            text=[prompt], images=[squashed], padding=True, return_tensors='pt'
        )
        inputs = inputs.to(self.model.device)
        watch = _FirstWord(self.processor.tokenizer, self._dialect.reader(840, 840))
        ids = self.model.generate(
            **inputs, use_cache=True, max_new_tokens=1024, do_sample=False, streamer=watch
        )
        new = ids[:, inputs['input_ids'].shape[1] :]
        texts = self.processor.batch_decode(
            new, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts[0], watch.at, int(new.shape[1])

    def read(self, image: RgbImage, text: str) -> list[Found]:
        """Return boxes and points in the image; raise the exceptions of the published code."""
        height, width = image.shape[:2]
        return READINGS[self._dialect.name](text, width / 840, height / 840)

    def segment(self, image: RgbImage, objects: list[Found]) -> Mask:
        """Return the union of all masks, (H, W) bool."""
        together = np.zeros(image.shape[:2], np.bool_)
        on_gpu = self.model.device.type == 'cuda'
        with torch.inference_mode(), torch.autocast('cuda', torch.bfloat16, enabled=on_gpu):
            self._predictor.set_image(Image.fromarray(image))
            for box, points in objects:
                masks, scores, _ = self._predictor.predict(
                    point_coords=points, point_labels=[1] * len(points), box=box
                )
                together |= masks[np.argsort(scores)[::-1]][0].astype(bool)
        return together


class _FirstWord:
    """Streamer that records the time of the first word of the reasoning."""

    def __init__(self, tokenizer: Any, reader: AnswerReader) -> None:
        self._text = Detokenizer(tokenizer)
        self._narrator = StreamReporter(reader, self._word)
        self._prompt = True
        self.at = float('nan')

    def _word(self, _: str) -> None:
        if np.isnan(self.at):
            self.at = time.perf_counter()

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, then token by token."""
        if self._prompt:
            self._prompt = False
        elif np.isnan(self.at):
            self._narrator.feed(self._text.add(int(value.flatten()[0])))

    def end(self) -> None:
        """Receive the end."""


def predictor_of(weights: Path, device: str) -> Any:
    """Return SAM 2's predictor for a checkpoint with its configuration next to it as .yaml."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    config = OmegaConf.load(weights.with_suffix('.yaml'))
    model = instantiate(config.model, _recursive_=True)
    model.load_state_dict(torch.load(weights, weights_only=True)['model'])
    predictor = SAM2ImagePredictor(model.to(device).eval())
    # It knows these for 1024-pixel models only.
    side = config.model.image_size
    predictor._bb_feat_sizes = [(side // part, side // part) for part in (4, 8, 16)]
    return predictor
