"""Video of the overlays, written while queries are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.types import SegZeroError

# Range of the frame rate: that of the answers in the bag, but viewable.
MIN_RATE, MAX_RATE = 1.0, 30.0
# The video has the size of its largest overlay. A larger overlay restarts it; after this many
# overlays it is written at the end instead, to not encode many overlays again.
_MAX_RESTART = 100

BgrImage = NDArray[np.uint8]


class VideoError(SegZeroError):
    """The video cannot be written."""


def write_video(
    folder: ReplayOutput,
    overlays: OverlayFiles,
    answers: Iterable[object],
    expected_rate: float,
    rate: Callable[[int], float],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write the overlays as a video of the largest overlay's size.

    Args:
        folder: of the replay; without answers there is no video.
        overlays: of the answers.
        answers: yields once for each written overlay, in order; after an exception from it there
            is no video.
        expected_rate: expected overlays per second.
        rate: returns the overlays per second for a number of answers.
        stopped: returns True to abort while writing after the last answer.

    Raises:
        VideoError: there is no encoder.
    """
    path = folder.work / folder.video.name
    count = 0
    with closing(_IncrementalVideo(path, overlays, _clamped(expected_rate))) as incremental:
        for count, _ in enumerate(answers, 1):
            incremental.add(count - 1)
    if not count:
        return
    if not incremental.is_complete or _clamped(rate(count)) != _clamped(expected_rate):
        with closing(_Encoder(path, incremental.sides, _clamped(rate(count)))) as encoder:
            for number in range(count):
                if stopped():
                    return
                encoder.add(overlays.read(number))
    path.replace(folder.video)


def _clamped(rate: float) -> float:
    return min(max(rate, MIN_RATE), MAX_RATE)


class _IncrementalVideo:
    """Encodes each overlay when it is added; restarts when one is larger than the video.

    Attributes:
        sides: maximum (width, height) of the overlays so far.
        is_complete: whether the file has all added overlays.
    """

    def __init__(self, path: Path, overlays: OverlayFiles, rate: float) -> None:
        self._path = path
        self._overlays = overlays
        self._rate = rate
        self._encoder: _Encoder | None = None
        self.sides = 0, 0
        self.is_complete = True

    def add(self, number: int) -> None:
        """Add the next answer's overlay."""
        image = self._overlays.read(number)
        height, width = image.shape[:2]
        if width > self.sides[0] or height > self.sides[1]:
            self.sides = max(width, self.sides[0]), max(height, self.sides[1])
            self._begin(number)
        if self._encoder is not None:
            self._encoder.add(image)

    def close(self) -> None:
        """Close the file."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _begin(self, number: int) -> None:
        """Encode all overlays before a number at the new size, unless there are too many."""
        self.close()
        self.is_complete = number <= _MAX_RESTART
        if self.is_complete:
            self._encoder = _Encoder(self._path, self.sides, self._rate)
            for earlier in range(number):
                self._encoder.add(self._overlays.read(earlier))


class _Encoder:
    """Writes images up to a size into a video file."""

    def __init__(self, path: Path, sides: tuple[int, int], rate: float) -> None:
        # Encoders need even sides. Overlays differ in height with their captions: pad with black.
        width, height = (side + side % 2 for side in sides)
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(str(path), fourcc, rate, (width, height))
        if not self._writer.isOpened():
            raise VideoError(f'{path} cannot be written: this OpenCV has no MP4 encoder.')
        self._canvas = np.zeros((height, width, 3), np.uint8)

    def add(self, image: BgrImage) -> None:
        height, width = image.shape[:2]
        canvas = self._canvas
        canvas[:height, :width] = image
        canvas[height:] = canvas[:height, width:] = 0
        self._writer.write(canvas)

    def close(self) -> None:
        self._writer.release()
