"""The overlays of a replay's answers, as PNG files numbered from 1. Imports OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from segzero_ros.drawing import draw_overlay
from segzero_ros.replay.folder import Folder, FolderError
from segzero_ros.types import Answer, RgbImage

# An overlay is mostly a photograph, which a higher level makes hardly smaller.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def write_overlay(folder: Folder, number: int, answer: Answer) -> None:
    """Draw an answer and write the overlay.

    Args:
        folder: the replay's.
        number: the answer's, from 0.
        answer: with the frame it is about, where there is one.

    Raises:
        FolderError: the file cannot be written.
    """
    path = folder.overlay(number)
    bgr = cv2.cvtColor(draw_overlay(answer), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), bgr, _PNG):
        raise FolderError(f'{path} cannot be written; is the disk full?')


def read_overlay(folder: Folder, number: int) -> RgbImage:
    """Return the (H, W, 3) uint8 RGB overlay of an answer, by its number from 0."""
    return np.asarray(cv2.imread(str(folder.overlay(number)), cv2.IMREAD_COLOR_RGB), np.uint8)
