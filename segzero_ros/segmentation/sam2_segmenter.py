"""Masks by Meta's SAM 2: the picture is encoded once, every object prompts the same encoding.

The masks are those of the published procedure (`SAM2ImagePredictor`, one object after the other),
made with less work: the picture is prepared on the model's device, on a GPU objects share one pass
through the decoder, and only each object's chosen mask is enlarged and brought to the host.
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
from segzero_ros.types import (
    Frame,
    GroundedObject,
    Grounding,
    RgbImage,
    SegmentedMask,
    SegmenterUnavailable,
)

DTYPES = ('auto', 'bfloat16', 'float16', 'float32')
# Channel means and deviations of the pictures that the encoder was trained on (ImageNet's).
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# Most objects whose prompts are decoded together.
MOST_TOGETHER = 15
# Most objects in one pass through the decoder. On a GPU one pass for many saves hundreds of small
# launches. On a CPU a pass costs what its objects cost, and rounding differs between batch sizes
# (about one pixel in ten million): one at a time there gives the published masks exactly.
MOST_PER_PASS = {'cuda': MOST_TOGETHER, 'cpu': 1}
# The package enlarges three masks at a time, and torch rounds otherwise with another number.
MASKS_ENLARGED_AT_ONCE = 3
# Most pixels that enlarged logits may have together, above those three masks of one image: a
# large image's masks would take gigabytes otherwise.
MOST_ENLARGED_PIXELS = 2**25
# The prompt encoder's labels: the two corners of a box, a point inside the object.
BOX_LABELS = (2, 3)
POINT_LABEL = 1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sam2Encoding:
    """What the encoder made of one picture; on the model's device.

    Attributes:
        features: (1, C, h, w) the coarse map that prompts attend to.
        high_resolution: finer maps for the mask's outline, finest first; each (1, C', h', w').
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
        model: the `SAM2Base` network; the tracker runs on the same one.
        device: where it is.
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
            config: the weights' configuration; empty: known from their name or beside them.
            device: `auto` (the GPU with the most free memory, else the CPU), `cpu`, `cuda`,
                `cuda:1` …
            dtype: what to compute in by autocast: `bfloat16`, `float16`, `float32` or `auto`
                (bfloat16 on a GPU, as the published results used, float16 on one that has none,
                float32 on a CPU).
            offline: never ask the hub.

        Raises:
            SegmenterUnavailable: it cannot be had; the text names the cause and the cure.
        """
        self.device = choose_device(device)
        self._dtype = choose_dtype(dtype, self.device)
        checkpoint = find_checkpoint(model, config, offline)
        with at_work('load', self.device):
            self.model = build_model(checkpoint, self.device)
            self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
            self._deviation = torch.tensor(DEVIATION, device=self.device).view(3, 1, 1)
        # Encoding beside a reasoning model in the same process: a stream of its own lets the GPU
        # fill the gaps that decoding leaves.
        self._stream = _new_stream(self.device)
        self._name = checkpoint.name

    @property
    def name(self) -> str:
        """The hub name, or the file's."""
        return self._name

    @property
    def takes_all_processors(self) -> bool:
        """Whether a second team of torch's threads would outnumber this process's processors.

        OpenMP counts so: the process's first thread, and each team's but its own first.
        """
        processors = len(os.sched_getaffinity(0))
        return self.device.type == 'cpu' and 1 + 2 * (torch.get_num_threads() - 1) > processors

    def encode(self, frame: Frame, check: Check | None = None) -> Sam2Encoding:
        """Encode the frame's picture; `check` is called before each part of the encoder."""
        parts = self.model.image_encoder.modules()
        with (
            at_work('encode', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            if self._stream is None:
                return self._encode(frame)
            with torch.cuda.stream(self._stream):
                encoding = self._encode(frame)
            # Whoever uses the encoding does so on another stream, so it has to be complete; this
            # waits without Python's lock, and makes the time measured around it the true one.
            self._stream.synchronize()
            return encoding

    def segment(
        self, encoding: Sam2Encoding, grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Make one mask per object from its box and points.

        Of the three masks that SAM 2 offers for each object, the one with the highest score is
        taken; of equal ones the last, as the published code does. `check` is called before each
        part of the decoder and before masks are enlarged.
        """
        objects = grounding.objects
        made: dict[int, SegmentedMask] = {}
        parts = (*self.model.sam_prompt_encoder.modules(), *self.model.sam_mask_decoder.modules())
        with (
            at_work('segment', self.device),
            torch.inference_mode(),
            cancellable(parts, check),
        ):
            for numbers in batches(objects):
                prompted = [objects[number] for number in numbers]
                made.update(zip(numbers, self._segment(encoding, prompted, check), strict=True))
        return [made[number] for number in range(len(objects))]

    def prepare(self, image: RgbImage) -> Tensor:
        """Return the picture as the encoder wants it.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (1, 3, S, S) float32 on the device, S being the model's image size: squashed with an
            antialiasing bilinear filter, then normalised. What `SAM2Transforms` makes of it, but
            from the bytes on, on the device.
        """
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        channels = pixels.permute(2, 0, 1).contiguous().float().div_(255)
        size = self.model.image_size
        square = functional.interpolate(
            channels[None], (size, size), mode='bilinear', align_corners=False, antialias=True
        )
        return square.sub_(self._mean).div_(self._deviation)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that every call of the model has to be in."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def close(self) -> None:
        """Free the model's memory."""
        self.model = None
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _encode(self, frame: Frame) -> Sam2Encoding:
        picture = self.prepare(frame.image)
        with self.autocast():
            backbone = self.model.forward_image(picture)
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
        """Decode objects that have the same number of points."""
        with self.autocast():
            logits, scores = self._decode(encoding, *self._prompts(encoding, objects))
        scores = scores.float()
        # torch's argmax takes the first of equal scores; the published choice is the last.
        best = scores.shape[1] - 1 - scores.flip(1).argmax(1)
        row = torch.arange(len(objects), device=self.device)
        chosen = scores[row, best].tolist()
        size = (encoding.height, encoding.width)
        for small in torch.split(logits[row, best].float(), enlarged_together(*size)):
            if check is not None:
                check()
            for mask in (enlarge(small, *size) > 0).cpu().numpy():
                yield SegmentedMask(mask, chosen.pop(0))

    def _prompts(
        self, encoding: Sam2Encoding, objects: list[GroundedObject]
    ) -> tuple[Tensor, Tensor]:
        """Return coordinates (n, 2 + points, 2), in the model's picture, and their labels."""
        corners = [
            ((found.box[0], found.box[1]), (found.box[2], found.box[3]), *found.points)
            for found in objects
        ]
        coordinates = torch.tensor(corners, dtype=torch.float32, device=self.device)
        coordinates[..., 0] /= encoding.width
        coordinates[..., 1] /= encoding.height
        coordinates *= self.model.image_size
        labels = torch.tensor(
            [*BOX_LABELS, *[POINT_LABEL] * len(objects[0].points)],
            dtype=torch.int32,
            device=self.device,
        )
        return coordinates, labels.repeat(len(objects), 1)

    def _decode(
        self, encoding: Sam2Encoding, coordinates: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return three masks' logits (n, 3, h, w) and their scores (n, 3)."""
        most = MOST_PER_PASS.get(self.device.type, 1)
        passes = [
            self._pass(encoding, *part)
            for part in zip(torch.split(coordinates, most), torch.split(labels, most), strict=True)
        ]
        logits, scores = zip(*passes, strict=True)
        return torch.cat(logits), torch.cat(scores)

    def _pass(
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


def enlarged_together(height: int, width: int) -> int:
    """Return how many masks of an image of this size are enlarged at a time."""
    groups = MOST_ENLARGED_PIXELS // (MASKS_ENLARGED_AT_ONCE * height * width)
    return MASKS_ENLARGED_AT_ONCE * max(1, groups)


def enlarge(logits: Tensor, height: int, width: int) -> Tensor:
    """Return masks' logits (n, h, w) float32 at the source image's size, (n, height, width)."""
    missing = -len(logits) % MASKS_ENLARGED_AT_ONCE
    filled = torch.cat([logits, logits[:1].expand(missing, -1, -1)])
    enlarged = functional.interpolate(
        filled.view(-1, MASKS_ENLARGED_AT_ONCE, *filled.shape[1:]),
        (height, width),
        mode='bilinear',
        align_corners=False,
    )
    return enlarged.flatten(0, 1)[: len(logits)]


def batches(objects: tuple[GroundedObject, ...]) -> Iterator[list[int]]:
    """Yield the objects' numbers in groups that can be decoded at once.

    Objects are decoded together only with others that have as many points: padding the shorter
    prompt adds tokens that the decoder attends to, and with them other masks than alone.
    """
    groups: dict[int, list[int]] = {}
    for number, found in enumerate(objects):
        groups.setdefault(len(found.points), []).append(number)
    for numbers in groups.values():
        for start in range(0, len(numbers), MOST_TOGETHER):
            yield numbers[start : start + MOST_TOGETHER]


def choose_device(name: str) -> torch.device:
    """Return the device a name stands for; `auto` without a GPU is the CPU, and says so.

    Of several GPUs `auto` and `cuda` mean the one with the most free memory.

    Raises:
        SegmenterUnavailable: there is no such device here.
    """
    if name in ('auto', 'cuda') and torch.cuda.is_available():
        return torch.device('cuda', gpus.find_gpu(name))
    if name == 'auto':
        _logger.warning('No GPU that torch can use: SAM 2 runs on the CPU, in seconds per frame')
        return torch.device('cpu')
    if re.fullmatch(r'cpu|cuda(:\d+)?', name) is None:
        raise SegmenterUnavailable(f'There is no device {name!r}: name auto, cpu, cuda or cuda:1.')
    device = torch.device(name)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise SegmenterUnavailable(
            f'SAM 2 was to run on {name}, but torch sees {torch.cuda.device_count()} GPUs here. '
            'Put the driver right, name a GPU that is there, or set the device to cpu or auto.'
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format to compute in: 16 bits by autocast, or float32 throughout.

    Raises:
        SegmenterUnavailable: the name is none of DTYPES.
    """
    if name not in DTYPES:
        raise SegmenterUnavailable(
            f'SAM 2 has no dtype {name!r}: name one of {", ".join(DTYPES)}.'
        )
    if name != 'auto':
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type != 'cuda':
        return torch.float32
    if gpus.has_bfloat16(device.index or 0):
        return torch.bfloat16
    _logger.info('This GPU has no bfloat16: SAM 2 computes in float16')
    return torch.float16


def _new_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != 'cuda':
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def at_work(doing: str, device: torch.device) -> Iterator[None]:
    """Have oneDNN, and turn a GPU that is full into an error that says what to do about it.

    The reasoner works beside the encoder, and does without oneDNN where it may. On another GPU,
    too, perhaps.
    """
    try:
        with onednn.needed(), gpus.current(device):
            yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise SegmenterUnavailable(
            f'{device} has too little memory left to {doing} with SAM 2. Take a smaller '
            'checkpoint (facebook/sam2-hiera-tiny), another device, or a remote reasoner. '
            f'({error})'
        ) from error
