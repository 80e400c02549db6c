"""The overlays of the answers as a video, written while the queries are answered."""

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

# A bag asked seldom is shown as a slow sequence, one asked at every frame as it was taken.
SLOWEST, FASTEST = 1.0, 30.0
# The video is as large as its largest overlay. When a larger one comes, it is begun again; later
# than at this number it is given up until all are there, so that none is coded many times.
_LATEST_START = 100

Picture = NDArray[np.uint8]


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
    """Write the overlays one after another, at the largest one's size.

    Args:
        folder: where the video goes; without an answer there is none.
        overlays: of the answers.
        answers: all of them in order, each as soon as its overlay is there; an error that they
            raise leaves no video.
        expected_rate: overlays per second, as far as it is known before.
        rate: from the count of the answers, the overlays per second.
        stopped: asked once all answers are there; the video is given up when it becomes True.

    Raises:
        VideoError: there is no coder.
    """
    path = folder.work / folder.video.name
    count = 0
    with closing(_Early(path, overlays, _shown(expected_rate))) as early:
        for count, _ in enumerate(answers, 1):
            early.add(count - 1)
    if not count:
        return
    if not early.is_complete or _shown(rate(count)) != _shown(expected_rate):
        with closing(_Coder(path, early.sides, _shown(rate(count)))) as coder:
            for number in range(count):
                if stopped():
                    return
                coder.add(overlays.read(number))
    path.replace(folder.video)


def _shown(rate: float) -> float:
    return min(max(rate, SLOWEST), FASTEST)


class _Early:
    """Codes each overlay when it comes, as long as the size found at first is large enough.

    Attributes:
        sides: (width, height) of the largest overlays so far.
        is_complete: whether all overlays that were added are in the file.
    """

    def __init__(self, path: Path, overlays: OverlayFiles, rate: float) -> None:
        self._path = path
        self._overlays = overlays
        self._rate = rate
        self._coder: _Coder | None = None
        self.sides = 0, 0
        self.is_complete = True

    def add(self, number: int) -> None:
        """Add the overlay of an answer; its number is one more than the last one's."""
        picture = self._overlays.read(number)
        height, width = picture.shape[:2]
        if width > self.sides[0] or height > self.sides[1]:
            self.sides = max(width, self.sides[0]), max(height, self.sides[1])
            self._begin(number)
        if self._coder is not None:
            self._coder.add(picture)

    def close(self) -> None:
        """End the file."""
        if self._coder is not None:
            self._coder.close()
            self._coder = None

    def _begin(self, number: int) -> None:
        """Code all overlays before a number at the new size, unless that are too many."""
        self.close()
        self.is_complete = number <= _LATEST_START
        if self.is_complete:
            self._coder = _Coder(self._path, self.sides, self._rate)
            for earlier in range(number):
                self._coder.add(self._overlays.read(earlier))


class _Coder:
    """Writes pictures up to a size into a video file."""

    def __init__(self, path: Path, sides: tuple[int, int], rate: float) -> None:
        # Coders want even sides. Captions differ in height: shorter ones get a dark rest.
        width, height = (side + side % 2 for side in sides)
        fourcc = cv2.VideoWriter.fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(str(path), fourcc, rate, (width, height))
        if not self._writer.isOpened():
            raise VideoError(f'{path} cannot be written: this OpenCV has no coder for mp4.')
        self._page = np.zeros((height, width, 3), np.uint8)

    def add(self, picture: Picture) -> None:
        height, width = picture.shape[:2]
        page = self._page
        page[:height, :width] = picture
        page[height:] = page[:height, width:] = 0
        self._writer.write(page)

    def close(self) -> None:
        self._writer.release()
