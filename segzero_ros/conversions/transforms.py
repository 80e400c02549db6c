"""Transforms in messages: tf2_msgs/TFMessage, read from its CDR bytes and created.

A robot publishes thousands of transforms a second, and rclpy needs a tenth of a millisecond to
deserialise one. So they are read from the bytes.
"""

from __future__ import annotations

import struct
from typing import Any

from segzero_ros.conversions.result import Make, to_time, to_vector
from segzero_ros.conversions.text import clean_text
from segzero_ros.spatial.transforms import StampedTransform, Transform
from segzero_ros.types import S_TO_NS, SegZeroError

TRANSFORM = 'geometry_msgs/msg/TransformStamped'
TRANSFORMS = 'tf2_msgs/msg/TFMessage'

# For each byte order, big-endian first: a transform; a stamp with the length of the frame_id; the
# length of anything else.
_LAYOUTS = tuple(
    tuple(struct.Struct(order + numbers) for numbers in ('7d', 'iII', 'I')) for order in '><'
)


class BadTransforms(SegZeroError):
    """The bytes are not a complete TFMessage; the text gives the reason."""


def read_transforms(data: bytes) -> list[StampedTransform]:
    """Return the transforms of a serialised tf2_msgs/TFMessage.

    Args:
        data: the message in CDR: four bytes of header, the lowest bit of the second one set for
            little-endian numbers, then the sequence; numbers are aligned to their size.

    Returns:
        The transforms, valid or not; a leading slash of a frame id (ROS 1 tf) is removed.

    Raises:
        BadTransforms: the message is cut off or of another format.
    """
    if len(data) < 8 or data[0] or data[1] > 1:
        raise BadTransforms(f'{len(data)} bytes are no tf2_msgs/TFMessage in CDR')
    numbers, time, length = _LAYOUTS[data[1]]
    try:
        (count,) = length.unpack_from(data, 4)
        offset = 8
        transforms = []
        for _ in range(count):
            seconds, nanoseconds, size = time.unpack_from(data, offset)
            parent, offset = _text(data, offset + time.size, size)
            offset += -offset % 4
            (size,) = length.unpack_from(data, offset)
            child, offset = _text(data, offset + length.size, size)
            # Counted from the end of the header.
            offset += -(offset - 4) % 8
            x, y, z, qx, qy, qz, qw = numbers.unpack_from(data, offset)
            offset += numbers.size
            transforms.append(
                StampedTransform(
                    parent,
                    child,
                    seconds * S_TO_NS + nanoseconds,
                    Transform((x, y, z), (qx, qy, qz, qw)),
                )
            )
    except (struct.error, UnicodeDecodeError) as error:
        raise BadTransforms(
            f'{len(data)} bytes are no complete tf2_msgs/TFMessage: {error}'
        ) from error
    return transforms


def _text(data: bytes, start: int, size: int) -> tuple[str, int]:
    """Return a string, whose size includes its final zero, and where it ends."""
    end = start + size
    return data[start:end].rstrip(b'\0').decode().lstrip('/'), end


def to_transforms(make: Make, transforms: list[StampedTransform]) -> Any:
    """Return transforms as a tf2_msgs/TFMessage."""
    return make(TRANSFORMS, transforms=[_to_stamped(make, each) for each in transforms])


def _to_stamped(make: Make, stamped: StampedTransform) -> Any:
    qx, qy, qz, qw = stamped.transform.rotation
    header = make(
        'std_msgs/msg/Header',
        stamp=to_time(make, stamped.stamp_ns),
        frame_id=clean_text(stamped.parent),
    )
    transform = make(
        'geometry_msgs/msg/Transform',
        translation=to_vector(make, stamped.transform.translation),
        rotation=make('geometry_msgs/msg/Quaternion', x=qx, y=qy, z=qz, w=qw),
    )
    child = clean_text(stamped.child)
    return make(TRANSFORM, header=header, child_frame_id=child, transform=transform)
