"""The pictures of the answers as a video. Imports `folder`, `results_bag`, `types` and OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
import os

import cv2
import numpy as np

from segzero_ros.replay.folder import Folder
from segzero_ros.replay.overlay_files import read_overlay
from segzero_ros.types import SegZeroError

# A bag asked seldom is shown as a slow sequence, one asked at every frame as it was taken.
SLOWEST, FASTEST = 1.0, 30.0


class VideoError(SegZeroError):
    """The video cannot be written."""


def write_video(
    folder: Folder, count: int, rate: float, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Write the pictures one after another, at the largest one's size.

    Args:
        folder: holds the pictures.
        count: how many there are; with none, there is no video.
        rate: pictures per second.
        stopped: asked throughout; the video is given up when it becomes True.
    """
    sizes = [_png_size(folder, number) for number in range(count)]
    if not sizes:
        return
    # Coders want even sides. Captions differ in height: shorter ones get a dark rest.
    width, height = (max(side) + max(side) % 2 for side in zip(*sizes, strict=True))
    path = folder.work / folder.video.name
    fourcc = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), fourcc, min(max(rate, SLOWEST), FASTEST), (width, height))
    if not writer.isOpened():
        raise VideoError(f'{path} cannot be written: this OpenCV has no coder for mp4.')
    page = np.zeros((height, width, 3), np.uint8)
    # The next overlay is decoded while one is coded.
    with ThreadPoolExecutor(1, 'decoder') as decoder, ExitStack() as stack:
        stack.callback(writer.release)
        upcoming = decoder.submit(read_overlay, folder, 0)
        for number in range(count):
            if stopped():
                return
            picture = upcoming.result()
            if number + 1 < count:
                upcoming = decoder.submit(read_overlay, folder, number + 1)
            page[:] = 0
            page[: picture.shape[0], : picture.shape[1]] = picture[..., ::-1]
            writer.write(page)
    path.replace(folder.video)


def _png_size(folder: Folder, number: int) -> tuple[int, int]:
    """Return (width, height), from the file's first bytes alone."""
    with folder.overlay(number).open('rb') as file:
        file.seek(16, os.SEEK_SET)
        numbers = file.read(8)
    return int.from_bytes(numbers[:4], 'big'), int.from_bytes(numbers[4:], 'big')
