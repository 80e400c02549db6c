"""What a bag's image topics hold, by their first messages: colour or depth, size, frame."""

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

# The topics that image_transport's plugins publish beside a raw one. Of equally good ones, those
# named first are taken; of depth, `compressed` keeps nothing or little.
_TRANSPORTS = ('compressed', 'compressedDepth', 'zstd', 'theora', 'ffmpeg', 'foxglove')
_DEPTH_TRANSPORTS = ('compressedDepth', 'zstd', 'compressed')
_DEPTH_ENCODINGS = ('16UC1', '32FC1')
_GREY = re.compile(r'mono|8UC1|16UC1')
# The source of a transport that is no depth, whatever the transport is called.
_COLOUR_OR_GREY = re.compile(r'(rgb|bgr|mono8|bayer|yuv|uyvy|yuyv|nv|8[US]C|16UC[34])', re.I)
_DEPTH_NAME = re.compile(r'depth(?!ai)|disparity')
# A recording may begin with images that nobody can decode; only where there is no other camera
# more of them are looked at.
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
        is_certain: whether it is known by more than a transport's name that it holds depth or not.
    """

    topic: str
    raw: str
    size: tuple[int, int] | None
    is_depth: bool
    is_grey: bool
    frame_id: str
    count: int
    fault: str = ''
    is_certain: bool = True

    @property
    def camera(self) -> str:
        """The namespace in which its camera publishes."""
        return self.raw.rsplit('/', 1)[0]

    @property
    def is_named_depth(self) -> bool:
        """Whether its name, or the last namespace, says that it is of a depth camera."""
        return _DEPTH_NAME.search('/'.join(self.raw.rsplit('/', 2)[-2:])) is not None

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
    # All that is made of a depth image is depth, whatever its format says; and of an image that
    # can be seen nothing is, whatever the transport is called.
    depths = {topic.raw for topic in found if topic.is_depth and topic.is_certain}
    images = {topic.raw for topic in found if not topic.is_depth and not topic.fault} - depths
    depths |= {topic.raw for topic in found if topic.is_depth} - images
    found = [
        topic
        if topic.is_depth == (topic.raw in depths)
        else _look(bag, topic.topic, topic.raw, of_depth=topic.raw in depths)
        for topic in found
    ]
    if all(topic.is_depth or topic.fault for topic in found):
        depths = {topic.raw for topic in found if topic.is_depth and not topic.fault}
        found = [
            _look(bag, topic.topic, topic.raw, topic.raw in depths or None, most=None)
            if topic.fault
            else topic
            for topic in found
        ]
    return found


def first_messages(bag: BagReader, topic: str, most: int | None = _TRIES) -> Iterator[Any]:
    """Give the first messages of a topic that can be parsed; all without a limit."""
    for message in islice(bag.messages({topic}), most):
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


def _look(
    bag: BagReader, name: str, raw: str, of_depth: bool | None = None, most: int | None = _TRIES
) -> ImageTopic:
    """Look at the first images of a topic until one can be decoded, at most at so many.

    Whether a transport is one of depth may be known already.
    """
    named_depth = _DEPTH_NAME.search(raw) is not None
    is_depth = named_depth if of_depth is None else of_depth
    found = ImageTopic(name, raw, None, is_depth, False, '', bag.counts[name], 'it is empty')
    size: tuple[int, int] | None
    for message in first_messages(bag, name, most):
        is_certain = True
        if bag.topics[name] == IMAGE:
            encoding, size, fault = message.encoding, (message.width, message.height), ''
            is_depth = encoding in _DEPTH_ENCODINGS or (encoding == 'mono16' and named_depth)
            is_grey = _GREY.match(encoding) is not None
        else:
            encoding = message.format
            says_depth = of_depth if of_depth is not None else _says_depth(encoding, named_depth)
            is_depth = says_depth or (says_depth is None and 'compressedDepth' in encoding)
            size, fault, is_colour = _decoded(message, is_depth)
            if says_depth is None and not is_depth and named_depth and not is_colour:
                # A grey picture of 8 bits is none of depth; what is no picture at all may be.
                as_depth, why_not, _ = _decoded(message, True)
                if fault or not why_not:
                    is_depth, size, fault = True, as_depth, why_not
            # 16 bits that may be of a thermal camera, and nothing at all, prove no depth.
            is_certain = not is_depth or bool(
                says_depth or named_depth or not (fault or encoding.startswith('mono16'))
            )
            # Not every format says what it was made of.
            is_grey = _GREY.match(encoding) is not None or (';' not in encoding and not is_colour)
        found = replace(
            found,
            size=size,
            is_depth=is_depth,
            is_grey=is_grey,
            frame_id=frame_of_header(message),
            fault=fault,
            is_certain=is_certain,
        )
        if not fault:
            break
    return found


def _says_depth(form: str, named_depth: bool) -> bool | None:
    """Return whether a format and a name tell depth from colour and grey; None: they do not."""
    source = form.partition(';')[0].strip()
    if source in _DEPTH_ENCODINGS:
        return True
    if _COLOUR_OR_GREY.match(source):
        return False
    if source == 'mono16' and 'compressedDepth' not in form:
        return named_depth
    return True if 'compressedDepth' in form and named_depth else None


def _decoded(message: Any, is_depth: bool) -> tuple[tuple[int, int] | None, str, bool]:
    """Return an image's size, why it cannot be decoded, and whether it has colours."""
    try:
        pixels: Any = decode_depth(message) if is_depth else decode_image(message)
    except BadImage as error:
        return None, str(error), False
    is_colour = pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())
    return (pixels.shape[1], pixels.shape[0]), '', is_colour
