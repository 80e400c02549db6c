"""The overlays of a replay's answers, as PNG files numbered from 1."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.overlay import draw_overlay
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.types import Answer

# An overlay is mostly a photograph, which a higher level makes hardly smaller.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class OverlayFiles:
    """Writes overlays and reads them again; what is read soon need not be decoded.

    Its methods may be called from several threads.

    Args:
        folder: the replay's.
        recent: how many of the overlays written last stay in memory until they are read.
    """

    def __init__(self, folder: ReplayOutput, recent: int = 0) -> None:
        self._folder = folder
        self._most = recent
        self._recent: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def write(self, number: int, answer: Answer) -> None:
        """Draw an answer and write the overlay.

        Args:
            number: the answer's, from 0.
            answer: with the frame it is about, where there is one.

        Raises:
            OutputError: the file cannot be written.
        """
        path = self._folder.overlay(number)
        bgr = np.asarray(cv2.cvtColor(draw_overlay(answer), cv2.COLOR_RGB2BGR), np.uint8)
        if not cv2.imwrite(str(path), bgr, _PNG):
            raise OutputError(f'{path} cannot be written; is the disk full?')
        if self._most:
            with self._lock:
                self._recent[number] = bgr
                if len(self._recent) > self._most:
                    del self._recent[min(self._recent)]

    def read(self, number: int) -> NDArray[np.uint8]:
        """Return the (H, W, 3) uint8 BGR overlay of an answer, by its number from 0.

        Raises:
            OutputError: its file is not there any more, or is no picture.
        """
        with self._lock:
            picture = self._recent.pop(number, None)
        if picture is not None:
            return picture
        path = self._folder.overlay(number)
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR_BGR)
        if decoded is None:
            raise OutputError(f'{path} is gone, or is no picture; --restart makes it again.')
        return np.asarray(decoded, np.uint8)
