"""From a camera's messages to a Frame, the same for the node and for the replay of a bag.

Imports `types`, `image_codec` and `results`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import logging
from typing import Any

from segzero_ros.types import BadImage, Frame
from segzero_ros.wire.image_codec import decode_depth, decode_image, intrinsics_from, MAX_PIXELS
from segzero_ros.wire.results import to_ns

_logger = logging.getLogger(__name__)


def frame_of(message: Any, max_pixels: int = MAX_PIXELS) -> Frame:
    """Return the picture of an Image or CompressedImage, with its stamp and frame_id.

    Raises:
        BadImage: it cannot be decoded, or has more than max_pixels.
    """
    header = message.header
    return Frame(decode_image(message, max_pixels), to_ns(header.stamp), header.frame_id)


def make_frame(
    image: Any,
    read_depth: Callable[[], Any],
    info: Any,
    *,
    rectified: bool,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Frame, str]:
    """Put a picture, its depth and its camera's intrinsics together.

    Args:
        image: sensor_msgs/Image or CompressedImage.
        read_depth: returns the depth message that belongs to it, None without one; may raise
            BadImage.
        info: sensor_msgs/CameraInfo; None while it is not known.
        rectified: whether the picture is a rectified one; see `image_codec.intrinsics_from`.
        max_pixels: a larger picture is refused, larger depth left out.

    Returns:
        The frame, and a remark for a person about depth that could not be used, else empty.

    Raises:
        BadImage: the picture cannot be decoded.
    """
    intrinsics = None if info is None else intrinsics_from(info, rectified)
    frame = replace(frame_of(image, max_pixels), intrinsics=intrinsics)
    try:
        depth = read_depth()
        return replace(frame, depth=None if depth is None else decode_depth(depth, max_pixels)), ''
    except BadImage as error:
        _logger.warning('Answering without depth: %s', error)
        return frame, f'There are no poses, for the depth image cannot be used: {error}'
