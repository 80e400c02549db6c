"""Detect a camera's topics in a bag, by type, content and name.

Used by replay, evaluation, training rows and the simulated camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
import re

from segzero_ros.conversions.camera_info import intrinsics_from
from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.replay.image_topics import (
    COMPRESSED,
    find_image_topics,
    first_messages,
    frame_of_header,
    IMAGE,
    ImageTopic,
    RESULT,
)

__all__ = [
    'COMPRESSED',
    'IMAGE',
    'INFO',
    'NONE',
    'RESULT',
    'TEXT',
    'NoTopic',
    'SeveralCameras',
    'Topics',
    'find_topics',
]

INFO = 'sensor_msgs/msg/CameraInfo'
TEXT = 'std_msgs/msg/String'
QUERY = 'segzero_ros/msg/Query'
# The last part of the names of the topics with queries, by type.
_QUERY_NAMES = {TEXT: 'query', QUERY: 'typed_query'}
# Instead of a topic's name: do not use any.
NONE = 'none'

_ALIGNED = re.compile(r'aligned|registered')
# A transport with a smaller fraction of the messages of another one is ignored.
_MIN_SHARE = 0.5


class NoTopic(BagError):
    """The bag has no such topic, or several; the message lists its topics."""


class SeveralCameras(NoTopic):
    """The bag has several cameras.

    Attributes:
        images: their image topics.
    """

    def __init__(self, text: str, images: Sequence[str]) -> None:
        super().__init__(text)
        self.images = tuple(images)


@dataclass(frozen=True)
class Topics:
    """The topics of one camera.

    Attributes:
        image: topic of the colour images.
        depth: topic of depth images of the same size; empty without any.
        camera_info: topic of the intrinsics; empty without any.
        queries: topic of recorded queries; empty without any.
        warnings: sentences about ignored topics and possible problems.
        no_depth: why recorded depth is not used; empty otherwise.
        no_info: why recorded intrinsics are not used; empty otherwise.
    """

    image: str
    depth: str = ''
    camera_info: str = ''
    queries: str = ''
    warnings: tuple[str, ...] = field(default=(), compare=False)
    no_depth: str = field(default='', compare=False)
    no_info: str = field(default='', compare=False)

    @property
    def camera(self) -> set[str]:
        """The camera's topics."""
        return {name for name in (self.image, self.depth, self.camera_info) if name}


@dataclass(frozen=True)
class _Info:
    """A topic with intrinsics, their image size (0: unknown) and their frame."""

    topic: str
    size: tuple[int, int]
    frame_id: str

    @property
    def camera(self) -> str:
        return self.topic.rsplit('/', 1)[0]


def find_topics(
    bag: BagReader, image: str = '', depth: str = '', camera_info: str = '', queries: str = ''
) -> Topics:
    """Find the camera's topics in a bag.

    Raw images are preferred to transports, and colour to grey. Depth must have the image's size;
    the same optical frame is preferred, then an aligned topic by name. Depth and intrinsics of
    another optical frame give a warning; those of another camera are not used.

    Args:
        bag: an open bag.
        image: image topic; empty to detect it.
        depth: depth topic; empty to detect it, `none` for no depth.
        camera_info: topic of the intrinsics; empty to detect it, `none` for no intrinsics.
        queries: topic of recorded queries; empty to detect it, `none` for no queries.

    Raises:
        NoTopic: there is no such topic.
        SeveralCameras: there are several cameras.
    """
    images = find_image_topics(bag)
    warnings: list[str] = []
    colour = _choose_image(bag, images, image, warnings)
    found_depth = _choose_depth(bag, images, colour, depth, warnings)
    no_depth = '' if found_depth else _joined(warnings)
    of_info: list[str] = []
    info = _choose_info(bag, images, colour, camera_info, of_info)
    no_info = '' if info else _joined(of_info)
    warnings += of_info
    if not info:
        warnings.append('There is no camera_info for the camera, so there are no poses.')
    query_topic = _choose_queries(bag, queries)
    return Topics(colour.topic, found_depth, info, query_topic, tuple(warnings), no_depth, no_info)


def _joined(warnings: list[str]) -> str:
    return '; '.join(warning.rstrip('.') for warning in warnings)


def _choose_image(
    bag: BagReader, images: list[ImageTopic], requested: str, warnings: list[str]
) -> ImageTopic:
    colours = [topic for topic in images if not topic.is_depth and not topic.error]
    names = ', '.join(topic.topic for topic in colours)
    if requested:
        for topic in images:
            if topic.topic == requested:
                return topic
        raise NoTopic(
            f'{bag.path} has no images on {requested!r}; '
            + (f'it has images on {names}.' if names else f'{_contents(bag)}.')
        )
    if not colours:
        errors = [
            f'{t.topic}: {t.error.rstrip(".")}' for t in images if t.error and not t.is_depth
        ]
        unread = f' ({"; ".join(errors)})' if errors else ''
        raise NoTopic(
            f'{bag.path} has no colour images that can be read{unread}; {_contents(bag)}.'
        )
    coloured = [topic for topic in colours if not topic.is_grey] or colours
    # Colour-mapped or JPEG depth is not a second camera.
    coloured_depth = [topic for topic in coloured if topic.is_named_depth]
    if len(coloured_depth) < len(coloured):
        coloured = [topic for topic in coloured if not topic.is_named_depth]
        warnings += [
            f'{topic.topic} is left out: its name says depth, and its images cannot be decoded as '
            'depth; --image takes it for the camera.'
            for topic in coloured_depth
        ]
    if len({topic.camera for topic in coloured}) > 1:
        raise SeveralCameras(
            f'{bag.path} has images of several cameras; choose one with --image: {names}.',
            [topic.topic for topic in coloured],
        )
    return _best(coloured)


def _best(topics: list[ImageTopic]) -> ImageTopic:
    """Return the preferred topic of one camera, without incomplete ones."""
    most = max(topic.count for topic in topics)
    return min(
        topics,
        key=lambda topic: (topic.count < _MIN_SHARE * most, topic.transport_rank, topic.topic),
    )


def _contents(bag: BagReader) -> str:
    topics = sorted(f'{name} ({kind})' for name, kind in bag.topics.items())
    unread = '; '.join(f'{name} cannot be read: {why}' for name, why in bag.unreadable.items())
    if not topics:
        return unread or 'it is empty'
    return f'it has {", ".join(topics)}' + (f'; {unread}' if unread else '')


def _choose_depth(
    bag: BagReader,
    images: list[ImageTopic],
    image: ImageTopic,
    requested: str,
    warnings: list[str],
) -> str:
    if requested == NONE:
        return ''
    if requested:
        return _require_topic(bag, requested, (IMAGE, COMPRESSED), 'depth images')
    # Group the transports of the same depth.
    cameras: dict[str, list[ImageTopic]] = {}
    for topic in images:
        if topic.is_depth and topic is not image:
            cameras.setdefault(topic.raw, []).append(topic)
    fitting = []
    for transports in cameras.values():
        readable = [topic for topic in transports if not topic.error]
        depth = _best(readable or transports)
        reason = _why_not_depth(depth, image, images)
        if reason:
            warnings.append(f'{depth.topic} is left out: {reason}')
        else:
            fitting.append(depth)
    if not fitting:
        return ''
    found = min(
        fitting,
        key=lambda depth: (
            _other_frame(depth.frame_id, image.frame_id),
            _ALIGNED.search(depth.topic) is None,
            -_shared_parts(depth.topic, image.topic),
            depth.transport_rank,
            depth.topic,
        ),
    )
    if _other_frame(found.frame_id, image.frame_id):
        warnings.append(
            f'The depth on {found.topic} has the optical frame {found.frame_id!r}, the image '
            f'{image.frame_id!r}: where it is not registered to the image, poses are wrong; '
            'use --depth none to ignore it.'
        )
    return found.topic


def _why_not_depth(depth: ImageTopic, image: ImageTopic, images: list[ImageTopic]) -> str:
    if depth.error:
        return f'its images cannot be decoded: {depth.error}'
    if depth.size and image.size and depth.size != image.size:
        return (
            f'its depth images have {depth.size[0]}x{depth.size[1]} pixels, those of '
            f'{image.topic} {image.size[0]}x{image.size[1]}.'
        )
    colours = [topic for topic in images if not topic.is_depth]
    owner = _other_owner(depth.topic, depth.frame_id, image, colours)
    return f'it belongs to {owner}.' if owner else ''


def _choose_info(
    bag: BagReader,
    images: list[ImageTopic],
    image: ImageTopic,
    requested: str,
    warnings: list[str],
) -> str:
    if requested == NONE:
        warnings.append(f'camera_info is left out by --camera-info {NONE}.')
        return ''
    if requested:
        return _require_topic(bag, requested, (INFO,), 'camera_info')
    infos = _infos(bag)
    rejected = []
    for info in sorted(
        infos,
        key=lambda info: (
            info.camera != image.camera,
            _other_frame(info.frame_id, image.frame_id),
            -_shared_parts(info.topic, image.topic),
            info.topic,
        ),
    ):
        reason = _why_not_info(info, image, images)
        if reason:
            rejected.append(f'{info.topic} is not used for {image.topic}: {reason}')
            continue
        if _other_frame(info.frame_id, image.frame_id):
            warnings.append(
                f'The intrinsics on {info.topic} have the optical frame {info.frame_id!r}, the '
                f'image {image.frame_id!r}: where they are of another camera, poses are wrong.'
            )
        return info.topic
    warnings += rejected
    return ''


def _infos(bag: BagReader) -> list[_Info]:
    counts, found = bag.counts, []
    for name, kind in bag.topics.items():
        if kind == INFO and counts[name]:
            message = next(first_messages(bag, name), None)
            if message is not None:
                # Sizes after ROI and binning, as of the image.
                intrinsics = intrinsics_from(message)
                size = message.width, message.height
                if intrinsics is not None:
                    size = intrinsics.width, intrinsics.height
                found.append(_Info(name, size, frame_of_header(message)))
    return found


def _why_not_info(info: _Info, image: ImageTopic, images: list[ImageTopic]) -> str:
    """Return why intrinsics do not belong to an image; empty if they do."""
    take = f'; --camera-info {info.topic} takes it all the same.'
    is_own = info.camera == image.camera
    # A camera's own intrinsics are scaled to a resized image.
    scalable = is_own or (info.frame_id and info.frame_id == image.frame_id)
    if not _fits(info.size, image.size, scalable=bool(scalable)):
        return f'it is for images of {info.size[0]}x{info.size[1]} pixels, and these have ' + (
            f'{image.size[0]}x{image.size[1]}{take}' if image.size else f'others{take}'
        )
    if is_own:
        return ''
    if _other_frame(info.frame_id, image.frame_id):
        return (
            f'its optical frame is {info.frame_id!r}, that of the image {image.frame_id!r}{take}'
        )
    owner = _other_owner(info.topic, info.frame_id, image, images)
    return f'it belongs to {owner}{take}' if owner else ''


def _fits(size: tuple[int, int], of: tuple[int, int] | None, *, scalable: bool) -> bool:
    if of is None or not all(size) or size == of:
        return True
    return scalable and size[0] * of[1] == size[1] * of[0]


def _other_owner(topic: str, frame_id: str, image: ImageTopic, images: list[ImageTopic]) -> str:
    """Return an image topic of another camera that a topic belongs to by its name; else ''.

    A topic with the image's optical frame belongs to another camera only if that one has the same
    frame too.
    """
    is_same = bool(frame_id and frame_id == image.frame_id)
    own = _shared_parts(topic, image.topic)
    namespace = topic.rsplit('/', 1)[0]
    others = [
        other.topic
        for other in images
        if other.camera != image.camera
        and other.raw != topic
        and _shared_parts(topic, other.topic) > own
        and not (is_same and (other.is_depth or other.frame_id != frame_id))
        # Colour-mapped depth next to the depth is not a camera.
        and not (other.is_named_depth and not other.is_depth and other.camera == namespace)
    ]
    return max(others, key=lambda other: _shared_parts(topic, other), default='')


def _other_frame(frame_id: str, image_frame_id: str) -> bool:
    """Return whether two optical frames differ; False if one is unknown."""
    return bool(frame_id and image_frame_id and frame_id != image_frame_id)


def _choose_queries(bag: BagReader, requested: str) -> str:
    if requested == NONE:
        return ''
    if requested:
        return _require_topic(bag, requested, (TEXT, QUERY), 'queries')
    counts = bag.counts
    named = [
        name
        for name, kind in bag.topics.items()
        if counts[name] and name.rsplit('/', 1)[-1] == _QUERY_NAMES.get(kind)
    ]
    if len(named) > 1:
        raise NoTopic(
            f'{bag.path} has several topics with queries; choose one with --query-topic: '
            f'{", ".join(sorted(named))}.'
        )
    return named[0] if named else ''


def _require_topic(bag: BagReader, requested: str, kinds: tuple[str, ...], what: str) -> str:
    if bag.topics.get(requested) in kinds:
        return requested
    raise NoTopic(f'{bag.path} has no {what} on {requested!r}; {_contents(bag)}.')


def _shared_parts(topic: str, other: str) -> int:
    """Return the number of leading name parts that two topics share."""
    pairs = zip(topic.split('/'), other.split('/'), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
