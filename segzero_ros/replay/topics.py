"""Which of a bag's topics are the camera: by type, by what their first messages hold, by name.

Imports `bag`, `types` and `wire`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
import re
from typing import Any

from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.types import BadImage
from segzero_ros.wire.image_codec import decode_depth, decode_image

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
INFO = 'sensor_msgs/msg/CameraInfo'
TEXT = 'std_msgs/msg/String'
RESULT = 'segzero_ros/msg/SegmentationResult'

_DEPTH_ENCODINGS = ('16UC1', '32FC1', 'mono16')
_GREY = re.compile(r'mono|8UC1|16UC1')
_DEPTH_NAME = re.compile(r'depth|disparity')
_ALIGNED = re.compile(r'aligned|registered')
_TRANSPORTS = ('/compressed', '/compressedDepth')


class NoTopic(BagError):
    """The bag does not hold what is asked for, or several of it; the text lists what it holds."""


@dataclass(frozen=True)
class Topics:
    """The topics of one camera.

    Attributes:
        image: colour images.
        depth: depth images in the same pixels; empty without any.
        camera_info: the intrinsics; empty without any.
        queries: queries that were recorded; empty without any.
        remarks: for a person: what was left out and why.
    """

    image: str
    depth: str = ''
    camera_info: str = ''
    queries: str = ''
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def camera(self) -> set[str]:
        """The names that are there."""
        return {name for name in (self.image, self.depth, self.camera_info) if name}


@dataclass(frozen=True)
class _Picture:
    """A topic with images, and what its first message holds."""

    topic: str
    size: tuple[int, int] | None
    depth: bool
    grey: bool

    @property
    def camera(self) -> str:
        """The namespace in which its camera publishes."""
        return without_transport(self.topic).rsplit('/', 1)[0]

    @property
    def transported(self) -> bool:
        return without_transport(self.topic) != self.topic


def find_topics(
    bag: BagReader, image: str = '', depth: str = '', camera_info: str = '', queries: str = ''
) -> Topics:
    """Find the camera in a bag.

    Of one camera's topics, raw images go before compressed ones, colour before grey; of several
    cameras none is chosen. Depth must have the image's size; what is aligned by name goes first.

    Args:
        bag: an open bag.
        image: the topic to take instead; empty to find it.
        depth: the same; `none` for no depth.
        camera_info: the same; `none` for none.
        queries: the same.

    Raises:
        NoTopic: there is no such topic, or there are several cameras.
    """
    pictures = [_look(bag, topic) for topic in _candidates(bag)]
    colour = _choose_image(bag, pictures, image)
    remarks: list[str] = []
    found_depth = _choose_depth(bag, pictures, colour, depth, remarks)
    info = _choose_info(bag, colour.topic, camera_info)
    if not info:
        remarks.append('There is no camera_info for the camera, so there are no poses.')
    return Topics(colour.topic, found_depth, info, _choose_queries(bag, queries), tuple(remarks))


def without_transport(topic: str) -> str:
    """Return the name of the raw topic that a transport's topic belongs to."""
    for transport in _TRANSPORTS:
        topic = topic.removesuffix(transport)
    return topic


def _candidates(bag: BagReader) -> list[str]:
    """Return the topics with images that a camera may have sent: what an answer shows is none."""
    topics, counts = bag.topics, bag.counts
    ours = {name.rsplit('/', 1)[0] + '/' for name, kind in topics.items() if kind == RESULT}
    return sorted(
        name
        for name, kind in topics.items()
        if kind in (IMAGE, COMPRESSED) and counts[name] and not name.startswith(tuple(ours))
    )


def _look(bag: BagReader, topic: str) -> _Picture:
    message = _first(bag, topic)
    if message is None:
        return _Picture(topic, None, depth=False, grey=False)
    named_depth = _DEPTH_NAME.search(topic) is not None
    size: tuple[int, int] | None
    if bag.topics[topic] == IMAGE:
        encoding = message.encoding
        is_depth = encoding in _DEPTH_ENCODINGS[:2] or (encoding == 'mono16' and named_depth)
        size = (message.width, message.height)
    else:
        encoding = message.format
        is_depth = 'compressedDepth' in encoding or (named_depth and '16UC1' in encoding)
        size = _decoded_size(message, is_depth)
    return _Picture(topic, size, is_depth, _GREY.match(encoding) is not None)


def _first(bag: BagReader, topic: str) -> Any:
    """Return the first message of a topic that can be read, None without any."""
    for number, message in enumerate(bag.messages({topic})):
        try:
            return bag.parse(message)
        except BagError:
            if number == 10:
                break
    return None


def _decoded_size(message: Any, is_depth: bool) -> tuple[int, int] | None:
    try:
        pixels: Any = decode_depth(message) if is_depth else decode_image(message)
    except BadImage:
        return None
    return pixels.shape[1], pixels.shape[0]


def _choose_image(bag: BagReader, pictures: list[_Picture], wanted: str) -> _Picture:
    colours = [picture for picture in pictures if not picture.depth]
    names = ', '.join(picture.topic for picture in colours)
    if wanted:
        for picture in pictures:
            if picture.topic == wanted:
                return picture
        raise NoTopic(
            f'{bag.path} has no images on {wanted!r}; '
            + (f'it has some on {names}.' if names else f'{_holds(bag)}.')
        )
    if not colours:
        raise NoTopic(f'{bag.path} has no colour images; {_holds(bag)}.')
    coloured = [picture for picture in colours if not picture.grey] or colours
    if len({picture.camera for picture in coloured}) > 1:
        raise NoTopic(
            f'{bag.path} has images of several cameras; choose one with --image: {names}.'
        )
    return min(coloured, key=lambda picture: (picture.transported, picture.topic))


def _holds(bag: BagReader) -> str:
    topics = sorted(f'{name} ({kind})' for name, kind in bag.topics.items())
    return f'it has {", ".join(topics)}' if topics else 'it is empty'


def _choose_depth(
    bag: BagReader, pictures: list[_Picture], image: _Picture, wanted: str, remarks: list[str]
) -> str:
    if wanted == 'none':
        return ''
    if wanted:
        return _named(bag, wanted, (IMAGE, COMPRESSED), 'depth images')
    depths = [picture for picture in pictures if picture.depth and picture is not image]
    fitting = [p for p in depths if p.size is None or image.size is None or p.size == image.size]
    remarks += [
        f'{p.topic} is left out: its depth images have {p.size[0]}x{p.size[1]} pixels, those of '
        f'{image.topic} {image.size[0]}x{image.size[1]}.'
        for p in depths
        if p not in fitting and p.size and image.size
    ]
    if not fitting:
        return ''
    return min(
        fitting,
        key=lambda p: (
            _ALIGNED.search(p.topic) is None,
            -_kinship(p.topic, image.topic),
            p.transported,
            p.topic,
        ),
    ).topic


def _choose_info(bag: BagReader, image: str, wanted: str) -> str:
    if wanted == 'none':
        return ''
    if wanted:
        return _named(bag, wanted, (INFO,), 'camera_info')
    counts = bag.counts
    infos = sorted(name for name, kind in bag.topics.items() if kind == INFO and counts[name])
    sibling = f'{without_transport(image).rsplit("/", 1)[0]}/camera_info'
    if sibling in infos or len(infos) == 1:
        return sibling if sibling in infos else infos[0]
    kin = [name for name in infos if _kinship(name, image) > 1]
    return max(kin, key=lambda name: _kinship(name, image), default='')


def _choose_queries(bag: BagReader, wanted: str) -> str:
    if wanted:
        return _named(bag, wanted, (TEXT,), 'queries')
    counts = bag.counts
    named = [
        name
        for name, kind in bag.topics.items()
        if kind == TEXT and counts[name] and name.rsplit('/', 1)[-1] == 'query'
    ]
    if len(named) > 1:
        raise NoTopic(
            f'{bag.path} has several topics with queries; choose one with --query-topic: '
            f'{", ".join(sorted(named))}.'
        )
    return named[0] if named else ''


def _named(bag: BagReader, wanted: str, kinds: tuple[str, ...], what: str) -> str:
    if bag.topics.get(wanted) in kinds:
        return wanted
    raise NoTopic(f'{bag.path} has no {what} on {wanted!r}; {_holds(bag)}.')


def _kinship(topic: str, other: str) -> int:
    """Return how many leading parts of their names two topics share."""
    pairs = zip(topic.split('/'), other.split('/'), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
