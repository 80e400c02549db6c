"""Classify a bag's image topics by their first messages: colour or depth, size, frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
import re
from typing import Any

from segzero_ros.conversions.depth import decode_depth
from segzero_ros.conversions.image import decode_image
from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.types import BadImage

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
RESULT = 'segzero_ros/msg/SegmentationResult'

# Topics of image_transport's plugins next to a raw topic, in order of preference. `compressed`
# loses most of the depth.
_TRANSPORTS = ('compressed', 'compressedDepth', 'zstd', 'theora', 'ffmpeg', 'foxglove')
_DEPTH_TRANSPORTS = ('compressedDepth', 'zstd', 'compressed')
_DEPTH_ENCODINGS = ('16UC1', '32FC1')
_GREY = re.compile(r'mono|8UC1|16UC1')
# Source encodings that are not depth, whatever the transport is called.
_COLOUR_OR_GREY = re.compile(r'(rgb|bgr|mono8|bayer|yuv|uyvy|yuyv|nv|8[US]C|16UC[34])', re.I)
_DEPTH_NAME = re.compile(r'depth(?!ai)|disparity')
# A recording may start with images that cannot be decoded. More are tried only if there is no
# other camera.
_MAX_TRIES = 10


@dataclass(frozen=True)
class ImageTopic:
    """An image topic, and the properties of its first images.

    Attributes:
        topic: its name.
        raw: name of the raw topic that it is a transport of; its own name for a raw topic.
        size: width and height in pixels; None if unknown.
        is_depth: whether it has depth.
        is_grey: whether it has one channel.
        frame_id: the optical frame; empty if not set.
        count: number of messages.
        error: why its images cannot be decoded; empty if they can.
        is_certain: whether `is_depth` is known from more than the transport's name.
    """

    topic: str
    raw: str
    size: tuple[int, int] | None
    is_depth: bool
    is_grey: bool
    frame_id: str
    count: int
    error: str = ''
    is_certain: bool = True

    @property
    def camera(self) -> str:
        """The camera's namespace."""
        return self.raw.rsplit('/', 1)[0]

    @property
    def is_named_depth(self) -> bool:
        """Whether its name or its last namespace is that of a depth camera."""
        return _DEPTH_NAME.search('/'.join(self.raw.rsplit('/', 2)[-2:])) is not None

    @property
    def transport_rank(self) -> int:
        """0 for a raw topic, then by the order of preference."""
        if self.topic == self.raw:
            return 0
        order = _DEPTH_TRANSPORTS if self.is_depth else _TRANSPORTS
        transport = self.topic.rsplit('/', 1)[-1]
        return 1 + (order.index(transport) if transport in order else len(order))


def find_image_topics(bag: BagReader) -> list[ImageTopic]:
    """Return the image topics of cameras, without the overlays of recorded answers."""
    topics, counts = bag.topics, bag.counts
    ours = tuple(name.rsplit('/', 1)[0] + '/' for name, kind in topics.items() if kind == RESULT)
    names = sorted(
        name
        for name, kind in topics.items()
        if kind in (IMAGE, COMPRESSED) and counts[name] and not (ours and name.startswith(ours))
    )
    found = [_inspect(bag, name, _raw_of(name, topics)) for name in names]
    # All transports of a depth image are depth, whatever their format says; no transport of a
    # decodable colour image is, whatever it is called.
    depths = {topic.raw for topic in found if topic.is_depth and topic.is_certain}
    images = {topic.raw for topic in found if not topic.is_depth and not topic.error} - depths
    depths |= {topic.raw for topic in found if topic.is_depth} - images
    found = [
        topic
        if topic.is_depth == (topic.raw in depths)
        else _inspect(bag, topic.topic, topic.raw, of_depth=topic.raw in depths)
        for topic in found
    ]
    if all(topic.is_depth or topic.error for topic in found):
        depths = {topic.raw for topic in found if topic.is_depth and not topic.error}
        found = [
            _inspect(bag, topic.topic, topic.raw, topic.raw in depths or None, max_tries=None)
            if topic.error
            else topic
            for topic in found
        ]
    return found


def first_messages(
    bag: BagReader, topic: str, max_tries: int | None = _MAX_TRIES
) -> Iterator[Any]:
    """Yield the valid ones of a topic's first messages; of all messages without a limit."""
    for message in islice(bag.messages({topic}), max_tries):
        try:
            yield bag.parse(message)
        except BagError:
            continue


def frame_of_header(message: Any) -> str:
    """Return a message's frame, without the leading slash of ROS 1."""
    return str(message.header.frame_id).lstrip('/')


def _raw_of(name: str, topics: dict[str, str]) -> str:
    parent, _, transport = name.rpartition('/')
    is_transport = transport in _TRANSPORTS or topics.get(parent) == IMAGE
    return parent if is_transport and parent else name


def _inspect(
    bag: BagReader,
    name: str,
    raw: str,
    of_depth: bool | None = None,
    max_tries: int | None = _MAX_TRIES,
) -> ImageTopic:
    """Classify a topic by its first decodable image.

    `of_depth` is whether it has depth, if that is known.
    """
    named_depth = _DEPTH_NAME.search(raw) is not None
    is_depth = named_depth if of_depth is None else of_depth
    found = ImageTopic(name, raw, None, is_depth, False, '', bag.counts[name], 'it is empty')
    size: tuple[int, int] | None
    for message in first_messages(bag, name, max_tries):
        is_certain = True
        if bag.topics[name] == IMAGE:
            encoding, size, error = message.encoding, (message.width, message.height), ''
            is_depth = encoding in _DEPTH_ENCODINGS or (encoding == 'mono16' and named_depth)
            is_grey = _GREY.match(encoding) is not None
        else:
            encoding = message.format
            format_depth = (
                of_depth if of_depth is not None else _is_depth_format(encoding, named_depth)
            )
            is_depth = format_depth or (format_depth is None and 'compressedDepth' in encoding)
            size, error, is_colour = _decoded(message, is_depth)
            if format_depth is None and not is_depth and named_depth and not is_colour:
                # An 8-bit grey image is not depth; what is not an image may be.
                as_depth, why_not, _ = _decoded(message, True)
                if error or not why_not:
                    is_depth, size, error = True, as_depth, why_not
            # 16-bit grey may also be thermal.
            is_certain = not is_depth or bool(
                format_depth or named_depth or not (error or encoding.startswith('mono16'))
            )
            # Not every format names its source encoding.
            is_grey = _GREY.match(encoding) is not None or (';' not in encoding and not is_colour)
        found = replace(
            found,
            size=size,
            is_depth=is_depth,
            is_grey=is_grey,
            frame_id=frame_of_header(message),
            error=error,
            is_certain=is_certain,
        )
        if not error:
            break
    return found


def _is_depth_format(image_format: str, named_depth: bool) -> bool | None:
    """Return whether a format and a name mean depth; None if they do not decide it."""
    source = image_format.partition(';')[0].strip()
    if source in _DEPTH_ENCODINGS:
        return True
    if _COLOUR_OR_GREY.match(source):
        return False
    if source == 'mono16' and 'compressedDepth' not in image_format:
        return named_depth
    return True if 'compressedDepth' in image_format and named_depth else None


def _decoded(message: Any, is_depth: bool) -> tuple[tuple[int, int] | None, str, bool]:
    """Return an image's size, its decoding error, and whether it has colours."""
    try:
        pixels: Any = decode_depth(message) if is_depth else decode_image(message)
    except BadImage as error:
        return None, str(error), False
    is_colour = pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())
    return (pixels.shape[1], pixels.shape[0]), '', is_colour
