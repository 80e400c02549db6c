"""Resize images for a model as the published code does."""

from __future__ import annotations

import numpy as np
from PIL import Image

from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.reasoning.patch_position_codes import with_position_codes
from segzero_ros.types import RgbImage


def resize_for_model(dialect: Dialect, image: RgbImage) -> RgbImage:
    """Resize an image for a model of this dialect.

    Args:
        dialect: of the model.
        image: (H, W, 3) uint8, RGB order.

    Returns:
        (h, w, 3) uint8 of the dialect's size: the same pixels as Pillow's `resize`, with position
        codes where the dialect has them.

    Raises:
        BadImage: the aspect ratio is beyond what the model takes.
    """
    size = dialect.image_size(image.shape[1], image.shape[0])
    resampling = Image.Resampling[dialect.resampling.upper()]
    seen = np.asarray(Image.fromarray(image).resize(size, resampling))
    return (
        with_position_codes(seen, dialect.position_code_cell)
        if dialect.position_code_cell
        else seen
    )
