"""Which of a bag's topics are the camera: by type, by what their first messages hold, by name.

The one choice for all that reads bags: replay, evaluation, training rows, the simulated camera.
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
# In place of a topic's name: none is wanted.
NONE = 'none'

_ALIGNED = re.compile(r'aligned|registered')
# A transport with less than this share of the messages of another was recorded by chance.
_LEAST_SHARE = 0.5


class NoTopic(BagError):
    """The bag does not hold what is asked for, or several of it; the text lists what it holds."""


class SeveralCameras(NoTopic):
    """The bag holds several cameras.

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
        image: colour images.
        depth: depth images in the same pixels; empty without any.
        camera_info: the intrinsics; empty without any.
        queries: queries that were recorded; empty without any.
        remarks: for a person: what was left out and why, and what may be wrong with the rest.
        no_depth: why depth that was recorded is left out; empty where none is.
        no_info: the same of the intrinsics.
    """

    image: str
    depth: str = ''
    camera_info: str = ''
    queries: str = ''
    remarks: tuple[str, ...] = field(default=(), compare=False)
    no_depth: str = field(default='', compare=False)
    no_info: str = field(default='', compare=False)

    @property
    def camera(self) -> set[str]:
        """The names that are there."""
        return {name for name in (self.image, self.depth, self.camera_info) if name}


@dataclass(frozen=True)
class _Info:
    """A topic with intrinsics, the size of images that they are for (0: not said), its frame."""

    topic: str
    size: tuple[int, int]
    frame_id: str

    @property
    def camera(self) -> str:
        return self.topic.rsplit('/', 1)[0]


def find_topics(
    bag: BagReader, image: str = '', depth: str = '', camera_info: str = '', queries: str = ''
) -> Topics:
    """Find the camera in a bag.

    Of one camera's topics, raw images go before those of transports, colour before grey; of
    several cameras none is chosen. Depth must have the image's size; what has its optical frame
    goes first, then what is aligned by name. Depth and intrinsics of another optical frame are
    not taken without a remark, and those of another camera not at all.

    Args:
        bag: an open bag.
        image: the topic to take instead; empty to find it.
        depth: the same; `none` for no depth.
        camera_info: the same; `none` for none.
        queries: the same; `none` for none.

    Raises:
        NoTopic: there is no such topic.
        SeveralCameras: there are several.
    """
    images = find_image_topics(bag)
    remarks: list[str] = []
    colour = _choose_image(bag, images, image, remarks)
    found_depth = _choose_depth(bag, images, colour, depth, remarks)
    no_depth = '' if found_depth else _joined(remarks)
    of_info: list[str] = []
    info = _choose_info(bag, images, colour, camera_info, of_info)
    no_info = '' if info else _joined(of_info)
    remarks += of_info
    if not info:
        remarks.append('There is no camera_info for the camera, so there are no poses.')
    asked = _choose_queries(bag, queries)
    return Topics(colour.topic, found_depth, info, asked, tuple(remarks), no_depth, no_info)


def _joined(remarks: list[str]) -> str:
    return '; '.join(remark.rstrip('.') for remark in remarks)


def _choose_image(
    bag: BagReader, images: list[ImageTopic], wanted: str, remarks: list[str]
) -> ImageTopic:
    colours = [topic for topic in images if not topic.is_depth and not topic.fault]
    names = ', '.join(topic.topic for topic in colours)
    if wanted:
        for topic in images:
            if topic.topic == wanted:
                return topic
        raise NoTopic(
            f'{bag.path} has no images on {wanted!r}; '
            + (f'it has some on {names}.' if names else f'{_holds(bag)}.')
        )
    if not colours:
        faults = [
            f'{t.topic}: {t.fault.rstrip(".")}' for t in images if t.fault and not t.is_depth
        ]
        unread = f' ({"; ".join(faults)})' if faults else ''
        raise NoTopic(f'{bag.path} has no colour images that can be read{unread}; {_holds(bag)}.')
    coloured = [topic for topic in colours if not topic.is_grey] or colours
    # Depth that was painted for people, or made a JPEG, is no camera beside one.
    painted = [topic for topic in coloured if topic.is_named_depth]
    if len(painted) < len(coloured):
        coloured = [topic for topic in coloured if not topic.is_named_depth]
        remarks += [
            f'{topic.topic} is left out: its name says depth, and its images cannot be decoded as '
            'depth; --image takes it for the camera.'
            for topic in painted
        ]
    if len({topic.camera for topic in coloured}) > 1:
        raise SeveralCameras(
            f'{bag.path} has images of several cameras; choose one with --image: {names}.',
            [topic.topic for topic in coloured],
        )
    return _best(coloured)


def _best(topics: list[ImageTopic]) -> ImageTopic:
    """Return the topic of one camera that is nearest to the raw image and is not cut short."""
    most = max(topic.count for topic in topics)
    return min(
        topics,
        key=lambda topic: (topic.count < _LEAST_SHARE * most, topic.transport_rank, topic.topic),
    )


def _holds(bag: BagReader) -> str:
    topics = sorted(f'{name} ({kind})' for name, kind in bag.topics.items())
    unread = '; '.join(f'{name} cannot be read: {why}' for name, why in bag.left_out.items())
    if not topics:
        return unread or 'it is empty'
    return f'it has {", ".join(topics)}' + (f'; {unread}' if unread else '')


def _choose_depth(
    bag: BagReader, images: list[ImageTopic], image: ImageTopic, wanted: str, remarks: list[str]
) -> str:
    if wanted == NONE:
        return ''
    if wanted:
        return _named(bag, wanted, (IMAGE, COMPRESSED), 'depth images')
    # The same depth by several transports is one.
    cameras: dict[str, list[ImageTopic]] = {}
    for topic in images:
        if topic.is_depth and topic is not image:
            cameras.setdefault(topic.raw, []).append(topic)
    fitting = []
    for transports in cameras.values():
        readable = [topic for topic in transports if not topic.fault]
        depth = _best(readable or transports)
        reason = _why_not_depth(depth, image, images)
        if reason:
            remarks.append(f'{depth.topic} is left out: {reason}')
        else:
            fitting.append(depth)
    if not fitting:
        return ''
    found = min(
        fitting,
        key=lambda depth: (
            _other_frame(depth.frame_id, image.frame_id),
            _ALIGNED.search(depth.topic) is None,
            -_kinship(depth.topic, image.topic),
            depth.transport_rank,
            depth.topic,
        ),
    )
    if _other_frame(found.frame_id, image.frame_id):
        remarks.append(
            f'The depth on {found.topic} has the optical frame {found.frame_id!r}, the image '
            f'{image.frame_id!r}: where it is not registered to the image, poses are wrong; '
            '--depth none leaves it out.'
        )
    return found.topic


def _why_not_depth(depth: ImageTopic, image: ImageTopic, images: list[ImageTopic]) -> str:
    if depth.fault:
        return f'its images cannot be decoded: {depth.fault}'
    if depth.size and image.size and depth.size != image.size:
        return (
            f'its depth images have {depth.size[0]}x{depth.size[1]} pixels, those of '
            f'{image.topic} {image.size[0]}x{image.size[1]}.'
        )
    colours = [topic for topic in images if not topic.is_depth]
    owner = _other_owner(depth.topic, depth.frame_id, image, colours)
    return f'it belongs to {owner}.' if owner else ''


def _choose_info(
    bag: BagReader, images: list[ImageTopic], image: ImageTopic, wanted: str, remarks: list[str]
) -> str:
    if wanted == NONE:
        remarks.append(f'camera_info is left out by --camera-info {NONE}.')
        return ''
    if wanted:
        return _named(bag, wanted, (INFO,), 'camera_info')
    infos = _infos(bag)
    rejected = []
    for info in sorted(
        infos,
        key=lambda info: (
            info.camera != image.camera,
            _other_frame(info.frame_id, image.frame_id),
            -_kinship(info.topic, image.topic),
            info.topic,
        ),
    ):
        reason = _why_not_info(info, image, images)
        if reason:
            rejected.append(f'{info.topic} is not used for {image.topic}: {reason}')
            continue
        if _other_frame(info.frame_id, image.frame_id):
            remarks.append(
                f'The intrinsics on {info.topic} have the optical frame {info.frame_id!r}, the '
                f'image {image.frame_id!r}: where they are of another camera, poses are wrong.'
            )
        return info.topic
    remarks += rejected
    return ''


def _infos(bag: BagReader) -> list[_Info]:
    counts, found = bag.counts, []
    for name, kind in bag.topics.items():
        if kind == INFO and counts[name]:
            message = next(first_messages(bag, name), None)
            if message is not None:
                # A region of the sensor and binned pixels count as the image has them.
                intrinsics = intrinsics_from(message)
                size = message.width, message.height
                if intrinsics is not None:
                    size = intrinsics.width, intrinsics.height
                found.append(_Info(name, size, frame_of_header(message)))
    return found


def _why_not_info(info: _Info, image: ImageTopic, images: list[ImageTopic]) -> str:
    """Return why intrinsics are not for an image."""
    take = f'; --camera-info {info.topic} takes it all the same.'
    is_own = info.camera == image.camera
    # A camera's own intrinsics are scaled with an image that was resized as a whole.
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
    """Return an image topic of another camera, with which a topic shares more of its name.

    Of a topic with the image's own optical frame, that is another camera only where it has the
    same frame too, which then tells nothing.
    """
    is_same = bool(frame_id and frame_id == image.frame_id)
    own = _kinship(topic, image.topic)
    namespace = topic.rsplit('/', 1)[0]
    others = [
        other.topic
        for other in images
        if other.camera != image.camera
        and other.raw != topic
        and _kinship(topic, other.topic) > own
        and not (is_same and (other.is_depth or other.frame_id != frame_id))
        # What was painted of depth lies beside it, and is no camera.
        and not (other.is_named_depth and not other.is_depth and other.camera == namespace)
    ]
    return max(others, key=lambda other: _kinship(topic, other), default='')


def _other_frame(frame_id: str, image_frame_id: str) -> bool:
    """Return whether two optical frames are known to be different."""
    return bool(frame_id and image_frame_id and frame_id != image_frame_id)


def _choose_queries(bag: BagReader, wanted: str) -> str:
    if wanted == NONE:
        return ''
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
