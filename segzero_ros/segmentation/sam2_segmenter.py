"""Segment with Meta's SAM 2: the image is encoded once, and every object is a prompt for it.

The masks are identical to those of `SAM2ImagePredictor` with one object at a time, but faster: the
image is preprocessed on the model's device, on a GPU objects are batched in the decoder, and only
each object's best mask is upsampled and copied to the host. On a CPU, OpenVINO may run the encoder
and the decoder (`sam2_runtime`); its masks differ by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segzero_ros.cancellation import cancellable, Check
from segzero_ros.loading_steps import loading_step
from segzero_ros.segmentation.prompted_masks import (
    best_masks,
    in_batches,
    MAX_PER_PASS,
    POINT_LABEL,
)
from segzero_ros.segmentation.sam2_checkpoint import build_model, find_checkpoint
from segzero_ros.segmentation.sam2_runtime import load_runtime
from segzero_ros.segmentation.torch_model import (
    autocast,
    choose_device,
    choose_dtype,
    model_context,
    new_stream,
    takes_all_processors,
)
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import (
    Box,
    Frame,
    GroundedObject,
    Grounding,
    Point,
    RgbImage,
)

# ImageNet's channel means and standard deviations, as in `SAM2Transforms`.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# The prompt encoder's labels of the two corners of a box.
BOX_LABELS = (2, 3)


@dataclass(frozen=True, eq=False)
class Sam2Encoding:
    """The encoder's output for one image, on the model's device.

    Attributes:
        features: (1, C, h, w) image embedding.
        high_resolution: finer feature maps, finest first; each (1, C', h', w').
        height: rows of the source image.
        width: columns of the source image.
    """

    features: Tensor
    high_resolution: tuple[Tensor, ...]
    height: int
    width: int


class ImageFeatures(NamedTuple):
    """The encoder's feature maps of one image, finest first; each map (cells, 1, channels)."""

    maps: list[Tensor]
    positions: list[Tensor]
    sizes: list[tuple[int, int]]

    def expand(self, times: int) -> ImageFeatures:
        """Return the features for a batch of objects."""
        if times == 1:
            return self
        return ImageFeatures(
            [values.expand(-1, times, -1) for values in self.maps],
            [values.expand(-1, times, -1) for values in self.positions],
            self.sizes,
        )


class Sam2Segmenter:
    """SAM 2 or 2.1 of any size.

    Attributes:
        model: the `SAM2Base` network, shared with the tracker.
        device: of the network.
    """

    def __init__(
        self,
        model: str = 'facebook/sam2-hiera-large',
        config: str = '',
        device: str = 'auto',
        dtype: str = 'auto',
        offline: bool = False,
        runtime: str = 'torch',
    ) -> None:
        """Load the model.

        Args:
            model: one of the eight published names, a local file of weights, or its folder.
            config: the weights' configuration; empty: known from their name or next to them.
            device: `auto` (the GPU with the most free memory, else the CPU), `cpu`, `cuda`,
                `cuda:1` …
            dtype: for autocast: `bfloat16`, `float16`, `float32` or `auto` (bfloat16 on a GPU, as
                in the published results, float16 on a GPU without bfloat16, float32 on a CPU by
                torch, bfloat16 by OpenVINO on a CPU that has it).
            offline: do not access the hub.
            runtime: what runs the encoder and the decoder, `torch`, `openvino` or `auto`: see
                `sam2_runtime`.

        Raises:
            SegmenterUnavailable: it cannot be loaded; the text gives the reason and a hint.
        """
        self.device = choose_device(device)
        self._dtype = choose_dtype(dtype, self.device)
        checkpoint = find_checkpoint(model, config, offline)
        with model_context('load', self.device):
            with loading_step(f'reading the weights of {checkpoint.name}'):
                self.model = build_model(checkpoint, self.device)
            self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
            self._std = torch.tensor(STD, device=self.device).view(3, 1, 1)
            self._runtime = load_runtime(runtime, self.model, checkpoint, self.device, dtype)
        # A separate stream lets encoding use the gaps that the reasoner's decoding leaves.
        self._stream = new_stream(self.device)
        self._name = checkpoint.name

    @property
    def name(self) -> str:
        """The hub name, or the file's."""
        return self._name

    @property
    def runtime(self) -> str:
        """What runs the encoder and the decoder: `torch`, or another runtime with its version."""
        return 'torch' if self._runtime is None else self._runtime.name

    @property
    def takes_all_processors(self) -> bool:
        """Whether it leaves no processor for a reasoner beside it."""
        return takes_all_processors(self.device)

    def encode(self, frame: Frame, check: Check | None = None) -> Sam2Encoding:
        """Encode the frame's image; `check` is called before each module of the encoder."""
        parts = self.model.image_encoder.modules()
        with (
            model_context('encode', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            if self._stream is None:
                return self._encode(frame, check)
            with torch.cuda.stream(self._stream):
                encoding = self._encode(frame, check)
            # The encoding is used on another stream, so it must be complete. This waits without
            # the GIL, and makes the measured duration correct.
            self._stream.synchronize()
            return encoding

    def segment(
        self, encoding: Sam2Encoding, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Segment each object from its box and points.

        Of the three masks that SAM 2 predicts for each object, the one with the highest score is
        used; in case of a tie the last, as in the published code. `check` is called before each
        module of the decoder and before masks are upsampled.
        """
        parts = (*self.model.sam_prompt_encoder.modules(), *self.model.sam_mask_decoder.modules())
        with (
            model_context('segment', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            return in_batches(
                grounding.objects, lambda batch: self._segment(encoding, batch, check)
            )

    def prepare(self, image: RgbImage) -> Tensor:
        """Preprocess an image for the encoder, like `SAM2Transforms`, but on the device.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (1, 3, S, S) float32 on the device, where S is the model's image size: resized with an
            antialiased bilinear filter without keeping the aspect ratio, and normalised.
        """
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        channels = pixels.permute(2, 0, 1).contiguous().float().div_(255)
        size = self.model.image_size
        square = functional.interpolate(
            channels[None], (size, size), mode='bilinear', align_corners=False, antialias=True
        )
        return square.sub_(self._mean).div_(self._std)

    def encode_image(self, image: RgbImage, check: Check | None = None) -> ImageFeatures:
        """Run the image encoder.

        Args:
            image: (H, W, 3) uint8.
            check: called repeatedly while another runtime than torch encodes.
        """
        pixels = self.prepare(image)
        with self.autocast():
            if self._runtime is None:
                backbone = self.model.forward_image(pixels)
            else:
                backbone = self._runtime.forward_image(pixels, check)
            _, maps, positions, sizes = self.model._prepare_backbone_features(backbone)
        return ImageFeatures(maps, positions, sizes)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for every call of the model."""
        return autocast(self.device, self._dtype)

    def close(self) -> None:
        """Free the model's memory."""
        self.model = self._runtime = None
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _encode(self, frame: Frame, check: Check | None) -> Sam2Encoding:
        maps, _, sizes = self.encode_image(frame.image, check)
        if self.model.directly_add_no_mem_embed:
            maps[-1] = maps[-1] + self.model.no_mem_embed
        features = [
            values.permute(1, 2, 0).view(1, -1, *size)
            for values, size in zip(maps, sizes, strict=True)
        ]
        return Sam2Encoding(features[-1], tuple(features[:-1]), frame.height, frame.width)

    def _segment(
        self, encoding: Sam2Encoding, objects: list[GroundedObject], check: Check | None
    ) -> Iterator[SegmentedMask]:
        """Decode objects with the same kind of prompt."""
        with self.autocast():
            logits, scores = self._decode(encoding, *self._prompts(encoding, objects), check)
        yield from best_masks(logits, scores, encoding.height, encoding.width, check)

    def _prompts(
        self, encoding: Sam2Encoding, objects: list[GroundedObject]
    ) -> tuple[Tensor, Tensor]:
        """Return coordinates, in pixels of the model's image, and labels.

        Both are (n, prompts, …): two corners of the box if there is one, then the points.
        """
        prompts = [(*_corners(grounded.box), *grounded.points) for grounded in objects]
        coordinates = torch.tensor(prompts, dtype=torch.float32, device=self.device)
        coordinates[..., 0] /= encoding.width
        coordinates[..., 1] /= encoding.height
        coordinates *= self.model.image_size
        box_labels = () if objects[0].box is None else BOX_LABELS
        labels = torch.tensor(
            [*box_labels, *[POINT_LABEL] * len(objects[0].points)],
            dtype=torch.int32,
            device=self.device,
        )
        return coordinates, labels.repeat(len(objects), 1)

    def _decode(
        self, encoding: Sam2Encoding, coordinates: Tensor, labels: Tensor, check: Check | None
    ) -> tuple[Tensor, Tensor]:
        """Return three masks' logits (n, 3, h, w) and their scores (n, 3)."""
        size = MAX_PER_PASS.get(self.device.type, 1)
        passes = [
            self._decode_batch(encoding, *batch, check)
            for batch in zip(
                torch.split(coordinates, size), torch.split(labels, size), strict=True
            )
        ]
        logits, scores = zip(*passes, strict=True)
        return torch.cat(logits), torch.cat(scores)

    def _decode_batch(
        self, encoding: Sam2Encoding, coordinates: Tensor, labels: Tensor, check: Check | None
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.sam_prompt_encoder(
            points=(coordinates, labels), boxes=None, masks=None
        )
        if self._runtime is not None and self._runtime.decodes:
            features = encoding.features, encoding.high_resolution
            return self._runtime.decode(sparse, *features, check)
        logits, scores, _, _ = self.model.sam_mask_decoder(
            image_embeddings=encoding.features,
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=len(coordinates) > 1,
            high_res_features=list(encoding.high_resolution),
        )
        return logits, scores


def _corners(box: Box | None) -> tuple[Point, ...]:
    return () if box is None else (box[:2], box[2:])
