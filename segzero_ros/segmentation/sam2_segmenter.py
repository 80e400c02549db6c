"""Segment with Meta's SAM 2: the image is encoded once, and every object is a prompt for it.

The masks are identical to those of `SAM2ImagePredictor` with one object at a time, but faster: the
image is preprocessed on the model's device, on a GPU objects are batched in the decoder, and only
each object's best mask is upsampled and copied to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
import logging
import os
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segzero_ros import gpus, onednn
from segzero_ros.cancellation import cancellable, Check
from segzero_ros.segmentation.sam2_checkpoint import build_model, find_checkpoint
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import (
    Box,
    Frame,
    GroundedObject,
    Grounding,
    Point,
    RgbImage,
    SegmenterUnavailable,
)

DTYPES = ('auto', 'bfloat16', 'float16', 'float32')
# ImageNet's channel means and standard deviations, as in `SAM2Transforms`.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Maximum number of objects that are decoded together.
MAX_BATCH = 15
# Maximum number of objects in one pass through the decoder. On a GPU batching saves hundreds of
# kernel launches. On a CPU it saves nothing, and rounding differs between batch sizes (about one
# pixel in ten million): one at a time gives the published masks exactly.
MAX_PER_PASS = {'cuda': MAX_BATCH, 'cpu': 1}
# sam2 upsamples three masks at a time, and torch's rounding depends on their number.
MASKS_PER_UPSAMPLING = 3
# Limit for the pixels of the logits that are upsampled at a time, but at least those three masks:
# a large image's masks would take gigabytes otherwise.
MAX_UPSAMPLED_PIXELS = 2**25
# The prompt encoder's labels: the two corners of a box, a point inside the object.
BOX_LABELS = (2, 3)
POINT_LABEL = 1

_logger = logging.getLogger(__name__)


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
    ) -> None:
        """Load the model.

        Args:
            model: one of the eight published names, a local file of weights, or its folder.
            config: the weights' configuration; empty: known from their name or next to them.
            device: `auto` (the GPU with the most free memory, else the CPU), `cpu`, `cuda`,
                `cuda:1` …
            dtype: for autocast: `bfloat16`, `float16`, `float32` or `auto` (bfloat16 on a GPU, as
                in the published results, float16 on a GPU without bfloat16, float32 on a CPU).
            offline: do not access the hub.

        Raises:
            SegmenterUnavailable: it cannot be loaded; the text gives the reason and a hint.
        """
        self.device = choose_device(device)
        self._dtype = choose_dtype(dtype, self.device)
        checkpoint = find_checkpoint(model, config, offline)
        with model_context('load', self.device):
            self.model = build_model(checkpoint, self.device)
            self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
            self._std = torch.tensor(STD, device=self.device).view(3, 1, 1)
        # A separate stream lets encoding use the gaps that the reasoner's decoding leaves.
        self._stream = new_stream(self.device)
        self._name = checkpoint.name

    @property
    def name(self) -> str:
        """The hub name, or the file's."""
        return self._name

    @property
    def takes_all_processors(self) -> bool:
        """Whether two OpenMP teams have more threads than this process has processors.

        Counted as OpenMP does: the process's first thread, and each team without its first thread.
        """
        processors = len(os.sched_getaffinity(0))
        return self.device.type == 'cpu' and 1 + 2 * (torch.get_num_threads() - 1) > processors

    def encode(self, frame: Frame, check: Check | None = None) -> Sam2Encoding:
        """Encode the frame's image; `check` is called before each module of the encoder."""
        parts = self.model.image_encoder.modules()
        with (
            model_context('encode', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            if self._stream is None:
                return self._encode(frame)
            with torch.cuda.stream(self._stream):
                encoding = self._encode(frame)
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
        objects = grounding.objects
        masks: dict[int, SegmentedMask] = {}
        parts = (*self.model.sam_prompt_encoder.modules(), *self.model.sam_mask_decoder.modules())
        with (
            model_context('segment', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            for indices in batches(objects):
                batch = [objects[index] for index in indices]
                masks.update(zip(indices, self._segment(encoding, batch, check), strict=True))
        return [masks[index] for index in range(len(objects))]

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

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for every call of the model."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def close(self) -> None:
        """Free the model's memory."""
        self.model = None
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _encode(self, frame: Frame) -> Sam2Encoding:
        image = self.prepare(frame.image)
        with self.autocast():
            backbone = self.model.forward_image(image)
            _, maps, _, sizes = self.model._prepare_backbone_features(backbone)
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
            logits, scores = self._decode(encoding, *self._prompts(encoding, objects))
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
        self, encoding: Sam2Encoding, coordinates: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return three masks' logits (n, 3, h, w) and their scores (n, 3)."""
        size = MAX_PER_PASS.get(self.device.type, 1)
        passes = [
            self._decode_batch(encoding, *batch)
            for batch in zip(
                torch.split(coordinates, size), torch.split(labels, size), strict=True
            )
        ]
        logits, scores = zip(*passes, strict=True)
        return torch.cat(logits), torch.cat(scores)

    def _decode_batch(
        self, encoding: Sam2Encoding, coordinates: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.sam_prompt_encoder(
            points=(coordinates, labels), boxes=None, masks=None
        )
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


def best_masks(
    logits: Tensor, scores: Tensor, height: int, width: int, check: Check | None
) -> Iterator[SegmentedMask]:
    """Yield the mask with the highest score of each object, at the source image's size.

    Args:
        logits: (n, 3, h, w) of three masks for each object.
        scores: (n, 3) their scores.
        height: of the image.
        width: of the image.
        check: called before masks are upsampled.
    """
    scores = scores.float()
    # torch's argmax returns the first of equal scores; the published code uses the last.
    best = scores.shape[1] - 1 - scores.flip(1).argmax(1)
    row = torch.arange(len(scores), device=scores.device)
    chosen = scores[row, best].tolist()
    for small in torch.split(logits[row, best].float(), upsampling_batch(height, width)):
        if check is not None:
            check()
        for mask in (upsample(small, height, width) > 0).cpu().numpy():
            yield SegmentedMask(mask, chosen.pop(0))


def upsampling_batch(height: int, width: int) -> int:
    """Return the number of masks to upsample at a time for an image of this size."""
    groups = MAX_UPSAMPLED_PIXELS // (MASKS_PER_UPSAMPLING * height * width)
    return MASKS_PER_UPSAMPLING * max(1, groups)


def upsample(logits: Tensor, height: int, width: int) -> Tensor:
    """Upsample masks' logits to the source image's size.

    Args:
        logits: (n, h, w) float32.
        height: of the image.
        width: of the image.

    Returns:
        (n, height, width) float32.
    """
    missing = -len(logits) % MASKS_PER_UPSAMPLING
    filled = torch.cat([logits, logits[:1].expand(missing, -1, -1)])
    upsampled = functional.interpolate(
        filled.view(-1, MASKS_PER_UPSAMPLING, *filled.shape[1:]),
        (height, width),
        mode='bilinear',
        align_corners=False,
    )
    return upsampled.flatten(0, 1)[: len(logits)]


def batches(objects: tuple[GroundedObject, ...]) -> Iterator[list[int]]:
    """Yield the objects' indices in batches for the decoder.

    A batch has objects that all have a box or none, and the same number of points: padding a
    shorter prompt adds tokens that the decoder attends to, which changes the masks.
    """
    groups: dict[tuple[bool, int], list[int]] = {}
    for index, grounded in enumerate(objects):
        kind = grounded.box is None, len(grounded.points)
        groups.setdefault(kind, []).append(index)
    for indices in groups.values():
        for start in range(0, len(indices), MAX_BATCH):
            yield indices[start : start + MAX_BATCH]


def _corners(box: Box | None) -> tuple[Point, ...]:
    return () if box is None else (box[:2], box[2:])


def choose_device(name: str, model: str = 'SAM 2') -> torch.device:
    """Return the device for a name; `auto` without a GPU is the CPU, with a warning.

    `auto` and `cuda` select the GPU with the most free memory.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1` …
        model: what runs there, for messages.

    Raises:
        SegmenterUnavailable: there is no such device.
    """
    if name in ('auto', 'cuda') and torch.cuda.is_available():
        return torch.device('cuda', gpus.find_gpu(name))
    if name == 'auto':
        _logger.warning(
            'torch finds no GPU: %s runs on the CPU and takes seconds per frame', model
        )
        return torch.device('cpu')
    if re.fullmatch(r'cpu|cuda(:\d+)?', name) is None:
        raise SegmenterUnavailable(f'There is no device {name!r}: use auto, cpu, cuda or cuda:1.')
    device = torch.device(name)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise SegmenterUnavailable(
            f'{model} cannot run on {name}: torch finds {torch.cuda.device_count()} GPUs. '
            'Check the driver, name an existing GPU, or set the device to cpu or auto.'
        )
    return device


def choose_dtype(name: str, device: torch.device, model: str = 'SAM 2') -> torch.dtype:
    """Return the dtype for a name in DTYPES: a 16-bit type for autocast, or float32.

    Args:
        name: one of DTYPES.
        device: of the model.
        model: what it is for, for messages.

    Raises:
        SegmenterUnavailable: the name is not in DTYPES.
    """
    if name not in DTYPES:
        raise SegmenterUnavailable(
            f'{model} has no dtype {name!r}: use one of {", ".join(DTYPES)}.'
        )
    if name != 'auto':
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type != 'cuda':
        return torch.float32
    if gpus.has_bfloat16(device.index or 0):
        return torch.bfloat16
    _logger.info('This GPU has no bfloat16: %s computes in float16', model)
    return torch.float16


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream of a GPU's own; None on a CPU."""
    if device.type != 'cuda':
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def model_context(action: str, device: torch.device, model: str = 'SAM 2') -> Iterator[None]:
    """Enable oneDNN and select the device; turn a full GPU into SegmenterUnavailable.

    The reasoner, which runs in parallel, disables oneDNN if it can, and may use another GPU.

    Args:
        action: a verb for the error message.
        device: of the model.
        model: its name for the error message.
    """
    try:
        with onednn.needed(), gpus.current(device):
            yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise SegmenterUnavailable(
            f'{device} has too little free memory to {action} with {model}. Use a smaller '
            'checkpoint (facebook/sam2-hiera-tiny), another device, or a remote reasoner. '
            f'({error})'
        ) from error
