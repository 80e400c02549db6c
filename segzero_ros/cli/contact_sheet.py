"""Several pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segzero_ros.types import RgbImage

_PAPER = (250, 250, 250)


def contact_sheet(
    pictures: Sequence[RgbImage], *, columns: int = 3, width: int = 480, gap: int = 12
) -> RgbImage:
    """Put pictures of any size side by side, each where the page is shortest so far.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        columns: how many stand side by side.
        width: of a column, pixels.
        gap: between pictures and around them, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    scaled = [_scaled(picture, width) for picture in pictures]
    heights = [gap] * columns
    places = []
    for picture in scaled:
        column = int(np.argmin(heights))
        places.append((heights[column], gap + column * (width + gap)))
        heights[column] += picture.shape[0] + gap
    page = np.full((max(heights), gap + columns * (width + gap), 3), _PAPER, np.uint8)
    for (y, x), picture in zip(places, scaled, strict=True):
        page[y : y + picture.shape[0], x : x + width] = picture
    return page


def _scaled(picture: RgbImage, width: int) -> RgbImage:
    height = round(picture.shape[0] * width / picture.shape[1])
    smaller = width < picture.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8)
