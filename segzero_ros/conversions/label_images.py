"""Images of an answer's objects for costmaps: ids, classes and confidence, with what ids mean.

In `label_image` each object has its id; in `class_image` all objects with the same label have the
same id, which is what a costmap layer takes. `label_info` has the label of every id.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.result import frame_of, header_of, Make, to_image
from segzero_ros.conversions.text import clean_text
from segzero_ros.types import Answer

LABEL_INFO = 'vision_msgs/msg/LabelInfo'
# The largest id that fits into a label image: vision_msgs/LabelInfo keeps the value above it for
# pixels without a label.
MAX_IDS = {'mono16': 65534, 'mono8': 254}
BACKGROUND = 'background'
_FULL = 255


def label_image(make: Make, answer: Answer, encoding: str = 'mono16') -> Any:
    """Return each pixel's object id as an image; 0 is background.

    Where masks overlap, the object that comes first in the answer, the better one, wins.

    Args:
        make: creates the messages.
        answer: with a frame.
        encoding: `mono16` or `mono8`. Objects whose id does not fit are left out, see `too_large`.
    """
    values = {segment.id: segment.id for segment in answer.segments}
    return _painted(make, answer, values, encoding)


def class_image(
    make: Make, answer: Answer, classes: Mapping[int, int], encoding: str = 'mono16'
) -> Any:
    """Return each pixel's class id as an image; otherwise as `label_image`.

    Args:
        make: creates the messages.
        answer: with a frame.
        classes: the class id of each object id.
        encoding: as for `label_image`.
    """
    values = {segment.id: classes[segment.id] for segment in answer.segments}
    return _painted(make, answer, values, encoding)


def confidence_image(make: Make, answer: Answer) -> Any:
    """Return each pixel's confidence as mono8: its object's score, 0 to 255; 0 is background.

    An object without a score has 255. Where masks overlap, see `label_image`.

    Args:
        make: creates the messages.
        answer: with a frame.
    """
    values = {segment.id: _as_byte(segment.score) for segment in answer.segments}
    return _painted(make, answer, values, 'mono8', largest=_FULL)


def label_info(make: Make, header: Any, labels: Mapping[int, str]) -> Any:
    """Return the label of each id as a vision_msgs/LabelInfo.

    Ids come in descending order. So a reader that keeps one id for each name keeps the smallest
    one, which is the id of the class, see `class_ids`.

    Args:
        make: creates the messages.
        header: the message's.
        labels: by id.
    """
    class_map = [
        make('vision_msgs/msg/VisionClass', class_id=number, class_name=clean_text(label))
        for number, label in sorted(labels.items(), reverse=True)
    ]
    return make(LABEL_INFO, header=header, class_map=class_map, threshold=0.0)


def class_ids(labels: Mapping[int, str]) -> dict[int, int]:
    """Return the class id of each id: the smallest id with the same label.

    Args:
        labels: by id.
    """
    smallest: dict[str, int] = {}
    for number, label in sorted(labels.items()):
        smallest.setdefault(label, number)
    return {number: smallest[label] for number, label in labels.items()}


def too_large(answer: Answer, encoding: str) -> list[int]:
    """Return the ids of an answer's objects that do not fit into a label image.

    Args:
        answer: the answer.
        encoding: of the label image.
    """
    return [s.id for s in answer.segments if s.mask.size and s.id > MAX_IDS[encoding]]


def _painted(
    make: Make,
    answer: Answer,
    values: Mapping[int, int],
    encoding: str,
    *,
    largest: int | None = None,
) -> Any:
    """Return an image with a value for each object, by its id; larger values are left out."""
    frame = frame_of(answer)
    kind = np.uint8 if encoding == 'mono8' else np.uint16
    if largest is None:
        largest = MAX_IDS[encoding]
    pixels: NDArray[Any] = np.zeros((frame.height, frame.width), kind)
    for segment in reversed(answer.segments):
        value = values[segment.id]
        if value <= largest:
            pixels[segment.mask_roi.slices][segment.mask] = value
    return to_image(make, pixels, encoding, header_of(make, answer))


def _as_byte(score: float) -> int:
    return _FULL if math.isnan(score) else round(_FULL * min(max(score, 0.0), 1.0))
