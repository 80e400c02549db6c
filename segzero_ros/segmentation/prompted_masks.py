"""What SAM 2 and SAM 3 share: prompts in batches, and the best of three masks for each object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from segzero_ros.cancellation import Check
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import GroundedObject

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
# The prompt encoder's label of a point inside the object.
POINT_LABEL = 1


def in_batches(
    objects: tuple[GroundedObject, ...],
    decode: Callable[[list[GroundedObject]], Iterable[SegmentedMask]],
) -> list[SegmentedMask]:
    """Return the masks of objects in their order, decoded in batches.

    Args:
        objects: the objects.
        decode: returns one mask for each object of a batch, see `batches`.
    """
    masks: dict[int, SegmentedMask] = {}
    for indices in batches(objects):
        batch = [objects[index] for index in indices]
        masks.update(zip(indices, decode(batch), strict=True))
    return [masks[index] for index in range(len(objects))]


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
