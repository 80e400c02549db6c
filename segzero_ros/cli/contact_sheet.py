"""Contact sheet: several images on one page."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segzero_ros.types import RgbImage

_BACKGROUND = (250, 250, 250)


def contact_sheet(
    images: Sequence[RgbImage], *, columns: int = 3, width: int = 480, gap: int = 12
) -> RgbImage:
    """Arrange images of any size in columns, each in the shortest column so far.

    Args:
        images: (H, W, 3) uint8 RGB each.
        columns: number of columns.
        width: of a column, pixels.
        gap: between images and around them, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    scaled = [_scaled(image, width) for image in images]
    heights = [gap] * columns
    positions = []
    for image in scaled:
        column = int(np.argmin(heights))
        positions.append((heights[column], gap + column * (width + gap)))
        heights[column] += image.shape[0] + gap
    page = np.full((max(heights), gap + columns * (width + gap), 3), _BACKGROUND, np.uint8)
    for (y, x), image in zip(positions, scaled, strict=True):
        page[y : y + image.shape[0], x : x + width] = image
    return page


def _scaled(image: RgbImage, width: int) -> RgbImage:
    height = round(image.shape[0] * width / image.shape[1])
    smaller = width < image.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
