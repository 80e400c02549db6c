"""The overlays of a replay's answers, as PNG files numbered from 1."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.overlay import draw_overlay
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.types import Answer


class OverlayFiles:
    """Writes and reads overlays, with a cache of the recent ones. Thread-safe.

    Args:
        folder: the replay's.
        recent: number of recent overlays to cache until they are read.
    """

    def __init__(self, folder: ReplayOutput, recent: int = 0) -> None:
        self._folder = folder
        self._max_recent = recent
        self._recent: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def write(self, number: int, answer: Answer) -> None:
        """Draw an answer and write the overlay.

        Args:
            number: of the answer, from 0.
            answer: with its frame, if there is one.

        Raises:
            OutputError: the file cannot be written.
        """
        path = self._folder.overlay(number)
        bgr = np.asarray(cv2.cvtColor(draw_overlay(answer), cv2.COLOR_RGB2BGR), np.uint8)
        # OpenCV's own settings: half the time of a compression level, and smaller files.
        if not cv2.imwrite(str(path), bgr):
            raise OutputError(f'{path} cannot be written; is the disk full?')
        if self._max_recent:
            with self._lock:
                self._recent[number] = bgr
                if len(self._recent) > self._max_recent:
                    del self._recent[min(self._recent)]

    def read(self, number: int) -> NDArray[np.uint8]:
        """Return the (H, W, 3) uint8 BGR overlay of an answer, by its number from 0.

        Raises:
            OutputError: its file is missing, or is not an image.
        """
        with self._lock:
            image = self._recent.pop(number, None)
        if image is not None:
            return image
        path = self._folder.overlay(number)
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR_BGR)
        if decoded is None:
            raise OutputError(
                f'{path} is missing, or is not an image; --restart creates it again.'
            )
        return np.asarray(decoded, np.uint8)
