"""What a bag's image topics hold, by their first messages: colour or depth, size, frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
import re
from typing import Any

from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.types import BadImage
from segzero_ros.wire.image_codec import decode_depth, decode_image

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
RESULT = 'segzero_ros/msg/SegmentationResult'

# The topics that image_transport's plugins publish beside a raw one. Of equally good ones, those
# named first are taken; of depth, `compressed` keeps nothing or little.
_TRANSPORTS = ('compressed', 'compressedDepth', 'zstd', 'theora', 'ffmpeg', 'foxglove')
_DEPTH_TRANSPORTS = ('compressedDepth', 'zstd', 'compressed')
_DEPTH_ENCODINGS = ('16UC1', '32FC1')
_GREY = re.compile(r'mono|8UC1|16UC1')
_DEPTH_NAME = re.compile(r'depth(?!ai)|disparity')
# A recording may begin with images that nobody can decode; after as many, none is expected.
_TRIES = 10


@dataclass(frozen=True)
class ImageTopic:
    """A topic with images, and what its first ones hold.

    Attributes:
        topic: its name.
        raw: the name of the raw topic that it is a transport of; its own name for a raw one.
        size: width and height in pixels; None where they are not known.
        is_depth: whether it holds depth.
        is_grey: whether it holds one channel.
        frame_id: the optical frame; empty where the camera does not say.
        count: how many messages it has.
        fault: why its images cannot be decoded; empty where they can.
    """

    topic: str
    raw: str
    size: tuple[int, int] | None
    is_depth: bool
    is_grey: bool
    frame_id: str
    count: int
    fault: str = ''

    @property
    def camera(self) -> str:
        """The namespace in which its camera publishes."""
        return self.raw.rsplit('/', 1)[0]

    @property
    def transport_rank(self) -> int:
        """How far it is from the raw image: 0 for that, then in the order of preference."""
        if self.topic == self.raw:
            return 0
        order = _DEPTH_TRANSPORTS if self.is_depth else _TRANSPORTS
        transport = self.topic.rsplit('/', 1)[-1]
        return 1 + (order.index(transport) if transport in order else len(order))


def find_image_topics(bag: BagReader) -> list[ImageTopic]:
    """Return the topics with images that a camera may have sent: what an answer shows is none."""
    topics, counts = bag.topics, bag.counts
    ours = tuple(name.rsplit('/', 1)[0] + '/' for name, kind in topics.items() if kind == RESULT)
    names = sorted(
        name
        for name, kind in topics.items()
        if kind in (IMAGE, COMPRESSED) and counts[name] and not (ours and name.startswith(ours))
    )
    found = [_look(bag, name, _raw_of(name, topics)) for name in names]
    # All that is made of a depth image is depth, whatever its format says.
    depths = {topic.raw for topic in found if topic.is_depth}
    return [
        topic
        if topic.is_depth or topic.raw not in depths
        else _look(bag, topic.topic, topic.raw, of_depth=True)
        for topic in found
    ]


def first_messages(bag: BagReader, topic: str) -> Iterator[Any]:
    """Give the first messages of a topic that can be parsed."""
    for number, message in enumerate(bag.messages({topic})):
        if number == _TRIES:
            return
        try:
            yield bag.parse(message)
        except BagError:
            continue


def frame_of_header(message: Any) -> str:
    """Return the optical frame of a message; ROS 1 put a slash before it."""
    return str(message.header.frame_id).lstrip('/')


def _raw_of(name: str, topics: dict[str, str]) -> str:
    parent, _, transport = name.rpartition('/')
    is_transport = transport in _TRANSPORTS or topics.get(parent) == IMAGE
    return parent if is_transport and parent else name


def _look(bag: BagReader, name: str, raw: str, *, of_depth: bool = False) -> ImageTopic:
    named_depth = _DEPTH_NAME.search(raw) is not None
    is_depth = of_depth or named_depth
    found = ImageTopic(name, raw, None, is_depth, False, '', bag.counts[name], 'it is empty')
    size: tuple[int, int] | None
    for message in first_messages(bag, name):
        if bag.topics[name] == IMAGE:
            encoding, size, fault = message.encoding, (message.width, message.height), ''
            is_depth = encoding in _DEPTH_ENCODINGS or (encoding == 'mono16' and named_depth)
            is_grey = _GREY.match(encoding) is not None
        else:
            encoding = message.format
            is_depth = of_depth or _is_compressed_depth(encoding, named_depth)
            size, fault, is_colour = _decoded(message, is_depth)
            # Not every format says what it was made of.
            is_grey = _GREY.match(encoding) is not None or (';' not in encoding and not is_colour)
            if named_depth and not is_depth and not is_colour:
                is_depth = True
                size, fault, _ = _decoded(message, is_depth)
        found = replace(
            found,
            size=size,
            is_depth=is_depth,
            is_grey=is_grey,
            frame_id=frame_of_header(message),
            fault=fault,
        )
        if not fault:
            break
    return found


def _is_compressed_depth(form: str, named_depth: bool) -> bool:
    source = form.partition(';')[0].strip()
    if 'compressedDepth' in form or source in _DEPTH_ENCODINGS:
        return True
    return named_depth and source == 'mono16'


def _decoded(message: Any, is_depth: bool) -> tuple[tuple[int, int] | None, str, bool]:
    """Return an image's size, why it cannot be decoded, and whether it has colours."""
    try:
        pixels: Any = decode_depth(message) if is_depth else decode_image(message)
    except BadImage as error:
        return None, str(error), False
    is_colour = pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())
    return (pixels.shape[1], pixels.shape[0]), '', is_colour
