"""Resize images as the published code does, before a model sees them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.reasoning.patch_position_codes import with_position_codes
from segzero_ros.types import RgbImage


def resize_for_model(dialect: Dialect, image: RgbImage) -> RgbImage:
    """Return the image as a model of this dialect sees it.

    Args:
        dialect: how the model is spoken to.
        image: (H, W, 3) uint8, RGB order.

    Returns:
        (h, w, 3) uint8 of the dialect's size: the same pixels as Pillow's `resize`, with marks
        where the dialect has them.

    Raises:
        BadImage: the image is too long and thin for the model.
    """
    size = dialect.image_size(image.shape[1], image.shape[0])
    resampling = Image.Resampling[dialect.resampling.upper()]
    seen = np.asarray(Image.fromarray(image).resize(size, resampling))
    return (
        with_position_codes(seen, dialect.position_code_cell)
        if dialect.position_code_cell
        else seen
    )
