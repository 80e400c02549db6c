"""Segment with SAM 3 by transformers' classes: boxes and points, and plain noun phrases.

The masks are those of `Sam3TrackerModel` and its processor with one object at a time. Unlike
SAM 2, the same checkpoint also finds what a phrase names (`Sam3Model`), from the same encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

from segzero_ros.cancellation import cancellable, Check
from segzero_ros.loading_steps import loading_step
from segzero_ros.segmentation.prompted_masks import (
    best_masks,
    in_batches,
    MAX_PER_PASS,
    POINT_LABEL,
)
from segzero_ros.segmentation.sam3_checkpoint import (
    find_checkpoint,
    PHRASE_CLASSES,
    PROMPT_CLASSES,
    PUBLISHED,
    Sam3Checkpoint,
)
from segzero_ros.segmentation.torch_model import (
    autocast,
    choose_device,
    choose_dtype,
    model_context,
    new_stream,
    takes_all_processors,
)
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Frame, GroundedObject, Grounding, RgbImage, SegmenterUnavailable

SAM3 = 'SAM 3'
# The lowest score of an object that a phrase names, as in Meta's package; transformers' default
# is 0.3.
PHRASE_THRESHOLD = 0.5
# Word pieces of a phrase: the text encoder has 32 positions, two of them for its begin and end.
MAX_PHRASE_PIECES = 30


@dataclass(frozen=True, eq=False)
class Sam3Encoding:
    """The encoder's output for one image, on the model's device.

    Attributes:
        embeddings: feature maps for prompts, finest first; each (1, C, h, w).
        backbone: the image encoder's output before its neck, for phrases; None without them.
        height: rows of the source image.
        width: columns of the source image.
    """

    embeddings: tuple[Tensor, ...]
    backbone: Any
    height: int
    width: int


class Sam3Segmenter:
    """SAM 3 for images.

    Attributes:
        model: transformers' `Sam3TrackerModel`.
        device: of the network.
    """

    def __init__(
        self,
        model: str = PUBLISHED,
        device: str = 'auto',
        dtype: str = 'auto',
        offline: bool = False,
        phrases: bool = False,
    ) -> None:
        """Load the model.

        Args:
            model: a folder in transformers' layout, or a hub name.
            device: `auto` (the GPU with the most free memory, else the CPU), `cpu`, `cuda`,
                `cuda:1` …
            dtype: for autocast: `bfloat16`, `float16`, `float32` or `auto` (bfloat16 on a GPU,
                float16 on a GPU without bfloat16, float32 on a CPU).
            offline: do not access the hub.
            phrases: load what `find` needs, too: the image encoder is the same.

        Raises:
            SegmenterUnavailable: it cannot be loaded; the text gives the reason and a hint.
        """
        self.device = choose_device(device, SAM3)
        self._dtype = choose_dtype(dtype, self.device, SAM3)
        checkpoint = find_checkpoint(model, offline, phrases=phrases)
        with (
            model_context('load', self.device, SAM3),
            loading_step(f'reading the weights of {checkpoint.name}'),
        ):
            self.model, self._processor = _prompted(checkpoint)
            self._phrases = _Phrases(checkpoint, self.model) if phrases else None
            self.model.to(self.device)
            if self._phrases is not None:
                self._phrases.model.to(self.device)
        # A separate stream lets encoding use the gaps that the reasoner's decoding leaves.
        self._stream = new_stream(self.device)
        self._name = checkpoint.name

    @property
    def name(self) -> str:
        """The hub name, or the folder's."""
        return self._name

    @property
    def finds_phrases(self) -> bool:
        """Whether `find` may be called."""
        return self._phrases is not None

    @property
    def takes_all_processors(self) -> bool:
        """Whether it leaves no processor for a reasoner beside it."""
        return takes_all_processors(self.device)

    def encode(self, frame: Frame, check: Check | None = None) -> Sam3Encoding:
        """Encode the frame's image; `check` is called before each module of the encoder."""
        with (
            model_context('encode', self.device, SAM3),
            torch.inference_mode(),
            cancellable(self.model.vision_encoder.modules(), check),
        ):
            if self._stream is None:
                return self._encode(frame)
            with torch.cuda.stream(self._stream):
                encoding = self._encode(frame)
            # The encoding is used on another stream, so it must be complete.
            self._stream.synchronize()
            return encoding

    def segment(
        self, encoding: Sam3Encoding, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Segment each object from its box, its points or both.

        Of the three masks that SAM 3 predicts for each object, the one with the highest score is
        used. `check` is called before each module of the decoder and before masks are upsampled.
        """
        parts = (*self.model.prompt_encoder.modules(), *self.model.mask_decoder.modules())
        with (
            model_context('segment', self.device, SAM3),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            return in_batches(
                grounding.objects, lambda batch: self._segment(encoding, batch, check)
            )

    def find(
        self, encoding: Sam3Encoding, phrase: str, check: Check | None = None
    ) -> tuple[GroundedObject, ...] | None:
        """Return all objects that a noun phrase names, the best first.

        Args:
            encoding: from `encode`.
            phrase: such as `red mug`.
            check: called before each module; an exception it raises aborts the search.

        Returns:
            Their boxes, not clipped to the image; None for a phrase of more than
            MAX_PHRASE_PIECES word pieces.
        """
        assert self._phrases is not None
        modules = self._phrases.model.modules()
        with (
            model_context('find objects', self.device, SAM3),
            torch.inference_mode(),
            cancellable(modules, check),
            self._autocast(),
        ):
            return self._phrases.find(encoding, phrase)

    def prepare(self, image: RgbImage) -> Tensor:
        """Preprocess an image as the checkpoint's processor does, but on the model's device.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (1, 3, S, S) float32 on the device, where S is the model's image size: resized without
            keeping the aspect ratio, and normalised.
        """
        pixels: Tensor = self._processor.image_processor(
            torch.from_numpy(image.copy()).permute(2, 0, 1),
            input_data_format='channels_first',
            device=self.device,
            return_tensors='pt',
        )['pixel_values']
        return pixels

    def close(self) -> None:
        """Free the model's memory."""
        self.model = self._phrases = None
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self._dtype)

    def _encode(self, frame: Frame) -> Sam3Encoding:
        pixels = self.prepare(frame.image)
        seen: list[Any] = []
        backbone = self.model.vision_encoder.backbone
        hook = backbone.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            with self._autocast():
                embeddings = self.model.get_image_embeddings(pixels)
        finally:
            hook.remove()
        kept = seen[0] if self._phrases is not None else None
        return Sam3Encoding(tuple(embeddings), kept, frame.height, frame.width)

    def _segment(
        self, encoding: Sam3Encoding, objects: list[GroundedObject], check: Check | None
    ) -> Iterator[SegmentedMask]:
        """Decode objects with the same kind of prompt."""
        size = MAX_PER_PASS.get(self.device.type, 1)
        logits, scores = [], []
        for start in range(0, len(objects), size):
            prompts = self._prompts(encoding, objects[start : start + size])
            with self._autocast():
                decoded = self.model(image_embeddings=list(encoding.embeddings), **prompts)
            logits.append(decoded.pred_masks[0])
            scores.append(decoded.iou_scores[0])
        yield from best_masks(
            torch.cat(logits), torch.cat(scores), encoding.height, encoding.width, check
        )

    def _prompts(
        self, encoding: Sam3Encoding, objects: list[GroundedObject]
    ) -> dict[str, Tensor | bool]:
        """Return the model's arguments for objects that have the same kind of prompt."""
        given: dict[str, Any] = {}
        if objects[0].box is not None:
            given['input_boxes'] = [[list(found.box or ()) for found in objects]]
        if objects[0].points:
            given['input_points'] = [
                [[list(point) for point in found.points] for found in objects]
            ]
            given['input_labels'] = [[[POINT_LABEL] * len(found.points) for found in objects]]
        sizes = [[encoding.height, encoding.width]]
        prompts = self._processor(original_sizes=sizes, **given, return_tensors='pt')
        return {name: prompts[name].to(self.device) for name in given} | {'multimask_output': True}


class _Computed(nn.Module):
    """Stands for an image encoder whose output is known."""

    output: Any = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output


class _Phrases:
    """Finds what a phrase names, from an encoding for prompts."""

    def __init__(self, checkpoint: Sam3Checkpoint, prompted: Any) -> None:
        model_class, processor_class = PHRASE_CLASSES
        self.model = checkpoint.network(model_class)
        self._processor = checkpoint.processor(processor_class)
        # Both networks have the same image encoder: one of them, and one pass, is enough.
        self._backbone = self.model.vision_encoder.backbone = _Computed()
        self._size = prompted.prompt_encoder.input_image_size

    def find(self, encoding: Sam3Encoding, phrase: str) -> tuple[GroundedObject, ...] | None:
        text = self._processor(text=phrase, return_tensors='pt')
        # Longer ones are not cut by the processor, and the encoder has no positions for them.
        if text['input_ids'].shape[1] > MAX_PHRASE_PIECES + 2:
            return None
        device = encoding.embeddings[0].device
        self._backbone.output = encoding.backbone
        try:
            # Only the shape is read.
            pixels = torch.empty(1, device=device).expand(1, 3, self._size, self._size)
            features = self.model.get_vision_features(pixel_values=pixels)
        finally:
            self._backbone.output = None
        outputs = self.model(vision_embeds=features, **text.to(device))
        # Without sizes, so that no mask is made at the image's size: there may be two hundred.
        (found,) = self._processor.post_process_instance_segmentation(
            outputs, threshold=PHRASE_THRESHOLD
        )
        order = found['scores'].argsort(descending=True, stable=True)
        size = torch.tensor([encoding.width, encoding.height] * 2, device=device)
        boxes = (found['boxes'][order].float() * size).tolist()
        return tuple(GroundedObject((x1, y1, x2, y2), (), phrase) for x1, y1, x2, y2 in boxes)


def _prompted(checkpoint: Sam3Checkpoint) -> tuple[Any, Any]:
    """Return the network that takes boxes and points, on the CPU, and its processor."""
    model_class, processor_class = PROMPT_CLASSES
    model, processor = checkpoint.network(model_class), checkpoint.processor(processor_class)
    trained, prepared = model.prompt_encoder.input_image_size, processor.target_size
    if trained != prepared:
        raise SegmenterUnavailable(
            f'The files of {checkpoint.folder} do not belong together: the network takes images '
            f'of {trained} pixels, and its processor makes {prepared}. Download it again.'
        )
    return model, processor
