"""The fields of image messages, and the pixels of a sensor_msgs/Image without row padding."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import BadImage

# More than any robot's camera has: a compressed image can claim more pixels than fit into memory.
MAX_PIXELS = 64_000_000


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


@runtime_checkable
class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


def read_rows(msg: ImageMessage, count: int, row_bytes: int, step: int) -> NDArray[np.uint8]:
    """Return the image's rows including their padding.

    Args:
        msg: the image.
        count: number of rows.
        row_bytes: bytes of a row without padding.
        step: bytes of a row with padding.

    Returns:
        (count, step) uint8, a view of the message.

    Raises:
        BadImage: step or data is too small.
    """
    if step < row_bytes:
        raise BadImage(
            f'step is {step}, but a row of {msg.width} pixels in {msg.encoding!r} takes '
            f'{row_bytes} bytes.'
        )
    if len(msg.data) < count * step:
        raise BadImage(
            f'The image is truncated: {msg.width}x{msg.height} pixels in {msg.encoding!r} with '
            f'step {msg.step} take {count * step} bytes, but it has {len(msg.data)}.'
        )
    return np.frombuffer(msg.data, np.uint8, count * step).reshape(count, step)


def read_pixels(msg: ImageMessage, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """Return the pixels of an image with interleaved channels.

    Args:
        msg: the image.
        dtype: of a channel; the message gives the byte order.
        channels: channels per pixel.

    Returns:
        (H, W) or (H, W, channels) without padding, a view of the message.

    Raises:
        BadImage: step or data is too small.
    """
    row_bytes = msg.width * channels * dtype.itemsize
    rows = read_rows(msg, msg.height, row_bytes, msg.step)[:, :row_bytes]
    pixels: NDArray[Any] = rows.view(dtype.newbyteorder('>' if msg.is_bigendian else '<'))
    return pixels if channels == 1 else pixels.reshape(msg.height, msg.width, channels)
