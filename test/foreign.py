"""MCAP files as other recorders and converters write them, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mcap.writer import Writer
import numpy as np
from rosbags.typesys import get_typestore, Stores

START = 1_700_000_000_000_000_000
STEP = 33_000_000
JAZZY, NOETIC = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
IMAGE = 'sensor_msgs/msg/Image'
_CHANNELS = {'rgb8': 3, '16UC1': 2, 'mono8': 1}


class Message(NamedTuple):
    topic: str
    stamp_ns: int
    data: bytes


class Channel(NamedTuple):
    """A channel; without a schema where it has no name."""

    schema: str = IMAGE
    schema_encoding: str = 'ros2msg'
    definition: bytes = b''
    encoding: str = 'cdr'
    metadata: tuple[tuple[str, str], ...] = ()


def defined(kind: str) -> bytes:
    """Return how a type of ROS 2 is defined."""
    return JAZZY.generate_msgdef(kind, ros_version=2)[0].encode()


CAMERA = Channel(definition=defined(IMAGE))


def image(number: int, encoding: str = 'rgb8', frame_id: str = 'camera', ros1: bool = False):
    """Return a serialized Image of 16x12 pixels, STEP after the one before."""
    store = NOETIC if ros1 else JAZZY
    stamp = store.types['builtin_interfaces/msg/Time'](*divmod(START + number * STEP, 10**9))
    fields = (number, stamp, frame_id) if ros1 else (stamp, frame_id)
    header = store.types['std_msgs/msg/Header'](*fields)
    step = 16 * _CHANNELS[encoding]
    data = np.full(12 * step, 9, np.uint8)
    made = store.types[IMAGE](header, 12, 16, encoding, 0, step, data)
    return bytes(store.serialize_ros1(made, IMAGE) if ros1 else store.serialize_cdr(made, IMAGE))


def images(topic: str, count: int = 10, **options: Any) -> list[Message]:
    """Return a camera's messages."""
    return [Message(topic, START + n * STEP, image(n, **options)) for n in range(count)]


def serialized(kind: str, *fields: Any) -> bytes:
    """Return a message of ROS 2."""
    return bytes(JAZZY.serialize_cdr(JAZZY.types[kind](*fields), kind))


def write_mcap(
    path: Path,
    channels: Sequence[tuple[str, Channel]],
    messages: Sequence[Message],
    *,
    profile: str = 'ros2',
    **options: Any,
) -> Path:
    """Write messages in the order in which they are given; each is of its topic's last channel."""
    with path.open('wb') as file:
        writer = Writer(file, **options)
        writer.start(profile=profile, library='a recorder')
        numbers = {}
        for topic, channel in channels:
            schema = 0
            if channel.schema:
                schema = writer.register_schema(
                    channel.schema, channel.schema_encoding, channel.definition
                )
            numbers[topic] = writer.register_channel(
                topic, channel.encoding, schema, dict(channel.metadata)
            )
        for message in messages:
            stamp = message.stamp_ns
            writer.add_message(numbers[message.topic], stamp, message.data, stamp)
        writer.finish()
    return path
