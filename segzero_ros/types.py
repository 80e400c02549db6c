"""The data types shared by all packages: frames, queries, groundings, segments and answers.

Pixels are those of the source image, x to the right, y down, with pixel centres at integers. A box
(x1, y1, x2, y2) contains the pixels x1 … x2-1 and y1 … y2-1. Lengths are in metres, times in
seconds unless a name ends in `_ns`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]
DepthImage = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

# Nanoseconds per second, as in rclpy.constants.
S_TO_NS = 1_000_000_000


class SegZeroError(Exception):
    """Base class of the errors that this package raises deliberately."""


class BadImage(SegZeroError):
    """An image cannot be used; the text gives the reason."""


class MalformedAnswer(SegZeroError):
    """The model's answer cannot be parsed."""

    def __init__(self, reason: str, raw_answer: str) -> None:
        super().__init__(f'The answer cannot be parsed: {reason}')
        self.reason = reason
        self.raw_answer = raw_answer


class Cancelled(SegZeroError):
    """The query was cancelled, and the models have stopped."""

    def __init__(self, raw_answer: str = '') -> None:
        super().__init__('Cancelled')
        self.raw_answer = raw_answer


class ReasonerTimeout(SegZeroError):
    """The reasoning model did not finish within its time limit."""

    def __init__(self, reason: str, raw_answer: str = '') -> None:
        super().__init__(reason)
        self.raw_answer = raw_answer


class SegmenterTimeout(SegZeroError):
    """The masks were not finished within the answer's time limit."""

    def __init__(self, reason: str, raw_answer: str = '') -> None:
        super().__init__(reason)
        self.raw_answer = raw_answer


class ReasonerUnavailable(SegZeroError):
    """The reasoning model cannot be loaded or reached; the text gives the reason and a hint."""


class RouterFailed(SegZeroError):
    """The model that chooses the task did not reply; the text gives the reason."""


class UnsupportedTask(SegZeroError):
    """There is no such task, or the reasoner cannot do it; the text names those it can do."""


class SegmenterUnavailable(SegZeroError):
    """The segmenter cannot be loaded; the text gives the reason and a hint."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels of its image, as in CameraInfo's K, with OpenCV's distortion."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Frame:
    """An image with its depth and intrinsics.

    Attributes:
        image: (H, W, 3) uint8, RGB order.
        stamp_ns: time of capture by the camera's clock, nanoseconds.
        frame_id: the optical frame of the poses (x right, y down, z forward).
        depth: (H, W) float32 metres, NaN where unknown; None without a depth camera.
        intrinsics: of the colour camera; None while unknown.
    """

    image: RgbImage
    stamp_ns: int = 0
    frame_id: str = ''
    depth: DepthImage | None = None
    intrinsics: Intrinsics | None = None

    def __post_init__(self) -> None:
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise BadImage(f'image must be (H, W, 3) uint8, but got {image.shape} {image.dtype}')
        if not image.size:
            raise BadImage(f'image must not be empty, but got {image.shape}')
        if self.depth is not None and self.depth.shape != image.shape[:2]:
            raise BadImage(
                f"depth must have the image's size {image.shape[:2]}, but got {self.depth.shape}"
            )

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.image.shape[1])


class Task(IntEnum):
    """What is wanted of a query; the values of SegmentationResult.task."""

    SEGMENT = 0
    DETECT = 1
    COUNT = 2
    ANSWER = 3
    POINT = 4


# The task of a query that leaves the choice to the router.
AUTO = 'auto'
TASK_NAMES = (*(task.name.lower() for task in Task), AUTO)


def task_named(name: str) -> Task | None:
    """Return the task of a name, in any case; None for `auto`.

    Args:
        name: one of TASK_NAMES; empty: `segment`.

    Raises:
        UnsupportedTask: there is no such task.
    """
    wanted = name.strip().lower()
    if wanted == AUTO:
        return None
    try:
        return Task[wanted.upper()] if wanted else Task.SEGMENT
    except KeyError:
        raise UnsupportedTask(
            f'There is no task {name[:40]!r}; there are {", ".join(TASK_NAMES)}.'
        ) from None


@dataclass(frozen=True)
class Query:
    """A natural-language query with an id.

    Attributes:
        text: the query.
        id: returned with the answer.
        task: what is wanted; None leaves the choice to the router.
        candidates: boxes of another detector to choose among, in pixels of the image; empty: any
            object.
    """

    text: str
    id: str = ''
    task: Task | None = Task.SEGMENT
    candidates: tuple[Box, ...] = ()


@dataclass(frozen=True)
class GroundedObject:
    """An object as given by the reasoning model: in source pixels, not clipped, without a mask.

    Attributes:
        box: None if the model gave points only.
        points: inside the object; at least one without a box.
        label: its name; empty if the model gave none.
    """

    box: Box | None
    points: tuple[Point, ...] = ()
    label: str = ''


@dataclass(frozen=True)
class Grounding:
    """The reasoning model's answer about one frame.

    Attributes:
        reasoning: the text of its reasoning.
        objects: the objects found, best first; empty if there are none.
        raw_answer: its complete output.
        generated_tokens: number of generated tokens; 0 for reasoners without tokens.
        note: for the user: why there are no objects, or what was repaired in the answer.
        answer: the answer in words, for the task ANSWER; empty for the others.
        unanswered: whether these words only say why there is no answer, as the note does.
        count: the number that the model wrote, for the task COUNT; None if it wrote none.
        reasoner: what found the objects, if it was not the reasoner that was asked.
    """

    reasoning: str
    objects: tuple[GroundedObject, ...]
    raw_answer: str = ''
    generated_tokens: int = 0
    note: str = ''
    answer: str = ''
    count: int | None = None
    reasoner: str = ''
    unanswered: bool = False


class Roi(NamedTuple):
    """A rectangle of pixels inside the image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle's (rows, columns) index into an image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @classmethod
    def around(cls, mask: Mask) -> Roi:
        """Return the mask's bounding box; an empty one for an empty mask."""
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            return cls(0, 0, 0, 0)
        x, y = int(columns[0]), int(rows[0])
        return cls(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def in_image(cropped: Mask, roi: Roi, height: int, width: int) -> Mask:
    """Paste a cropped mask into an empty mask of the image's size.

    Args:
        cropped: (roi.height, roi.width) bool.
        roi: its position in the image.
        height: of the image.
        width: of the image.

    Returns:
        (height, width) bool.
    """
    full = np.zeros((height, width), dtype=np.bool_)
    full[roi.slices] = cropped
    return full


class PoseStatus(IntEnum):
    """Whether there is a pose, or why not; the values of SegmentedObject.pose_status."""

    POSE_OK = 0
    NO_DEPTH = 1
    DEPTH_TOO_SPARSE = 2
    NO_INTRINSICS = 3


@dataclass(frozen=True)
class Pose3D:
    """An oriented box in the camera's optical frame.

    Attributes:
        position: centre of the box (x, y, z), metres.
        orientation: unit quaternion (x, y, z, w) of the box's axes.
        size: full extents along those axes, metres.
    """

    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]
    size: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Segment:
    """One object of an answer.

    Attributes:
        id: its value in the label image, from 1.
        label: the object's name, from the model or the query.
        score: the segmenter's estimate of the mask's IoU; NaN if it has none.
        box: the reasoning model's box, clipped to the image, in integer pixels; the mask's
            bounding box if the model gave points only.
        points: the reasoning model's points.
        mask_roi: the mask's bounding box; width and height 0 for an empty mask or none.
        mask: (mask_roi.height, mask_roi.width) bool.
        pose: the object's 3-D box, if pose_status is POSE_OK. Without a mask (the tasks DETECT,
            COUNT and POINT) it is the place on its surface at its first point, or in the middle
            of its box, with size 0.
        pose_status: whether there is a pose, or why not.
        box_from_mask: whether the model gave points only.
    """

    id: int
    label: str
    score: float
    box: Roi
    points: tuple[Point, ...]
    mask_roi: Roi
    mask: Mask
    pose: Pose3D | None = None
    pose_status: PoseStatus = PoseStatus.NO_DEPTH
    box_from_mask: bool = False

    def full_mask(self, height: int, width: int) -> Mask:
        """Return the mask at the source image's size, (height, width) bool."""
        return in_image(self.mask, self.mask_roi, height, width)


@dataclass(frozen=True, eq=False)
class Track:
    """An object of an answer in a later frame.

    Attributes:
        segment: the object in the frame, with the answer's id and label. Its box is the mask's
            bounding box, and it has no points. The mask is empty while the object is lost.
        lost: whether the object was not found in the frame.
        age: number of frames since it was last found; 0 unless it is lost.
    """

    segment: Segment
    lost: bool = False
    age: int = 0


class Status(IntEnum):
    """The outcome of a query; the values of SegmentationResult.status."""

    OK = 0
    NOT_FOUND = 1
    CANCELED = 2
    REJECTED = 3
    MALFORMED_ANSWER = 4
    TIMEOUT = 5
    NO_IMAGE = 6
    ERROR = 7


class Stage(IntEnum):
    """The processing stage of a query; the values of the action's feedback."""

    QUEUED = 0
    REASONING = 1
    SEGMENTING = 2


@dataclass(frozen=True)
class Timing:
    """Durations of the stages, in seconds."""

    queued: float = 0.0
    reasoning: float = 0.0
    encoding: float = 0.0
    segmenting: float = 0.0
    total: float = 0.0
    frame_age: float = math.nan
    generated_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one query about one frame.

    Attributes:
        query: the query.
        status: the outcome.
        message: for the user; never empty unless status is OK.
        frame: the frame; None if no image was available.
        reasoning: the text of the model's reasoning.
        raw_answer: the model's complete output.
        segments: the objects, in the reasoner's order; each has an id of its own, from 1.
        reasoner: name of the reasoning model.
        segmenter: name of the segmenter.
        timing: durations of the stages.
        failed_in: the stage that failed: REASONING for the reasoner, its server and its time
            limit, SEGMENTING for the segmenter, QUEUED before either; None if none failed.
        task: what was done; SEGMENT if the query failed before the router chose.
        answer: the answer in words, for the task ANSWER.
        count: the number of objects, for the task COUNT; None for the others.
    """

    query: Query
    status: Status
    message: str = ''
    frame: Frame | None = None
    reasoning: str = ''
    raw_answer: str = ''
    segments: tuple[Segment, ...] = field(default=())
    reasoner: str = ''
    segmenter: str = ''
    timing: Timing = field(default_factory=Timing)
    failed_in: Stage | None = None
    task: Task = Task.SEGMENT
    answer: str = ''
    count: int | None = None
