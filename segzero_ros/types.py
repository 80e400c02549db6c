"""The words of the house: frames, queries, groundings, segments and answers.

Every room speaks these. Pixels are always those of the source image, x to the right, y down, pixel
centres at integers; a box (x1, y1, x2, y2) holds the pixels x1 … x2-1 and y1 … y2-1; lengths are
metres, times are seconds unless a name ends in `_ns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
import math
from typing import NamedTuple
import zlib

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]
DepthImage = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

# Nanoseconds per second, as in rclpy.constants.
S_TO_NS = 1_000_000_000

# A mask whose box has more pixels than this is kept packed until it is used.
MOST_UNPACKED_PIXELS = 2**20
# zlib's fastest level: most masks are a few runs a row.
_FAST = 1


class SegZeroError(Exception):
    """Base of every error that this package raises on purpose."""


class BadImage(SegZeroError):
    """An image cannot be used; the text says what is wrong with it and what would do."""


class MalformedAnswer(SegZeroError):
    """The model answered, but its text cannot be read as an answer."""

    def __init__(self, reason: str, raw_answer: str) -> None:
        super().__init__(f'The answer cannot be read: {reason}')
        self.reason = reason
        self.raw_answer = raw_answer


class Cancelled(SegZeroError):
    """Somebody asked the models to stop, and they did."""

    def __init__(self, raw_answer: str = '') -> None:
        super().__init__('Cancelled')
        self.raw_answer = raw_answer


class ReasonerTimeout(SegZeroError):
    """The reasoning model did not finish in the time it was given."""

    def __init__(self, reason: str, raw_answer: str = '') -> None:
        super().__init__(reason)
        self.raw_answer = raw_answer


class SegmenterTimeout(SegZeroError):
    """The masks were not made in the time that the answer was given."""

    def __init__(self, reason: str, raw_answer: str = '') -> None:
        super().__init__(reason)
        self.raw_answer = raw_answer


class ReasonerUnavailable(SegZeroError):
    """The reasoning model cannot be had; the text names the cause and the cure."""


class SegmenterUnavailable(SegZeroError):
    """The segmenter cannot be had; the text names the cause and the cure."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera, in pixels of the image it belongs to (as CameraInfo's K)."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of the world.

    Attributes:
        image: (H, W, 3) uint8, RGB order.
        stamp_ns: when it was taken, in nanoseconds of the camera's clock.
        frame_id: the optical frame that poses are given in (x right, y down, z forward).
        depth: (H, W) float32 metres, NaN where unknown; None without a depth camera.
        intrinsics: the colour camera's, None while unknown.
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
        """Rows of the image."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of the image."""
        return int(self.image.shape[1])


@dataclass(frozen=True)
class Query:
    """A sentence with an id."""

    text: str
    id: str = ''


@dataclass(frozen=True)
class GroundedObject:
    """One object as the reasoning model gave it: before any mask, in source pixels, unclipped."""

    box: Box
    points: tuple[Point, ...] = ()
    label: str = ''


@dataclass(frozen=True)
class Grounding:
    """What the reasoning model said about one frame.

    Attributes:
        reasoning: its thinking, in words.
        objects: what it found, best first; empty when it found nothing.
        raw_answer: its whole text.
        generated_tokens: how many tokens it wrote; 0 for reasoners without tokens.
        note: for a person: why there are no objects, or what had to be repaired.
    """

    reasoning: str
    objects: tuple[GroundedObject, ...]
    raw_answer: str = ''
    generated_tokens: int = 0
    note: str = ''


class Roi(NamedTuple):
    """A rectangle of whole pixels inside the image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index (rows, columns) of this rectangle in an image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @classmethod
    def around(cls, mask: Mask) -> Roi:
        """Return the smallest rectangle that holds the mask; an empty one for an empty mask."""
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            return cls(0, 0, 0, 0)
        x, y = int(columns[0]), int(rows[0])
        return cls(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


class SegmentedMask:
    """What a segmenter makes of one grounded object; unpacks as its mask and its score.

    Only the rectangle that holds the mask is kept, a large one packed: the masks of all objects
    of a large image would not fit otherwise.

    Attributes:
        roi: tight box of the mask; width and height 0 for an empty mask.
        size: (height, width) of the source image.
        score: the segmenter's own estimate of the mask's IoU, 0 to 1; NaN when it gives none.
    """

    __slots__ = ('_bits', '_cropped', 'roi', 'score', 'size')

    def __init__(self, mask: Mask, score: float) -> None:
        """Keep a mask.

        Args:
            mask: (H, W) bool, of the source image's size; it is copied.
            score: the segmenter's own estimate of its IoU; NaN when it gives none.
        """
        self.roi = Roi.around(mask)
        self.size = (int(mask.shape[0]), int(mask.shape[1]))
        self.score = score
        cropped = mask[self.roi.slices]
        packed = cropped.size > MOST_UNPACKED_PIXELS
        self._bits = zlib.compress(np.packbits(cropped).tobytes(), _FAST) if packed else b''
        self._cropped: Mask | None = None if packed else cropped.copy()

    @classmethod
    def placed(
        cls, window: Mask, x: int, y: int, size: tuple[int, int], score: float
    ) -> SegmentedMask:
        """Return a mask of which one window of the image is known; there is nothing beyond it.

        Args:
            window: (h, w) bool.
            x: column of the image at which the window begins.
            y: row of the image at which it begins.
            size: (height, width) of the source image.
            score: the segmenter's own estimate of the mask's IoU; NaN when it gives none.
        """
        made = cls(window, score)
        if made.roi.width:
            made.roi = made.roi._replace(x=made.roi.x + x, y=made.roi.y + y)
        made.size = size
        return made

    @property
    def cropped(self) -> Mask:
        """The mask inside its box, (roi.height, roi.width) bool."""
        if self._cropped is not None:
            return self._cropped
        count = self.roi.width * self.roi.height
        bits = np.frombuffer(zlib.decompress(self._bits), np.uint8)
        mask: Mask = np.unpackbits(bits, count=count).astype(np.bool_, copy=False)
        return mask.reshape(self.roi.height, self.roi.width)

    @property
    def mask(self) -> Mask:
        """The mask at the source image's size, (H, W) bool; made anew each time."""
        return in_image(self.cropped, self.roi, *self.size)

    def __iter__(self) -> Iterator[Mask | float]:
        """Give the mask at the source image's size, then the score."""
        yield self.mask
        yield self.score


def in_image(cropped: Mask, roi: Roi, height: int, width: int) -> Mask:
    """Return a (roi.height, roi.width) bool mask in an empty one of (height, width)."""
    full = np.zeros((height, width), dtype=np.bool_)
    full[roi.slices] = cropped
    return full


class PoseStatus(IntEnum):
    """Why there is or is no pose; the values of SegmentedObject.pose_status."""

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
        label: what it is, in the words of the model or of the query.
        score: the segmenter's own estimate of the mask's IoU; NaN when it gives none.
        box: the reasoning model's box, clipped to the image, in whole pixels.
        points: the reasoning model's points.
        mask_roi: tight box of the mask; width and height 0 for an empty mask.
        mask: (mask_roi.height, mask_roi.width) bool.
        pose: the object's box in 3-D, where pose_status is POSE_OK.
        pose_status: why there is or is no pose.
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

    def full_mask(self, height: int, width: int) -> Mask:
        """Return the mask at the source image's size, (height, width) bool."""
        return in_image(self.mask, self.mask_roi, height, width)


@dataclass(frozen=True, eq=False)
class Track:
    """An object of an answer in a later frame.

    Attributes:
        segment: the object there: id and label are the answer's, mask, score and pose the frame's;
            box is the mask's tight box, and there are no points. Without a mask while it is lost.
        lost: whether it is not seen in the frame.
        age: followed frames since it was last seen; 0 unless it is lost.
    """

    segment: Segment
    lost: bool = False
    age: int = 0


class Status(IntEnum):
    """What came of a query; the values of SegmentationResult.status."""

    OK = 0
    NOT_FOUND = 1
    CANCELED = 2
    REJECTED = 3
    MALFORMED_ANSWER = 4
    TIMEOUT = 5
    NO_IMAGE = 6
    ERROR = 7


class Stage(IntEnum):
    """Where a query is; the values of the action's feedback."""

    QUEUED = 0
    REASONING = 1
    SEGMENTING = 2


@dataclass(frozen=True)
class Timing:
    """Where the time went, in seconds."""

    queued: float = 0.0
    reasoning: float = 0.0
    encoding: float = 0.0
    segmenting: float = 0.0
    total: float = 0.0
    frame_age: float = math.nan
    generated_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything that came of one query about one frame.

    Attributes:
        query: the query.
        status: what came of it.
        message: for a person; never empty when status is not OK.
        frame: the frame it is about; None when there was none to ask about.
        reasoning: the thinking, in words.
        raw_answer: the model's whole text.
        segments: the objects, in the reasoner's order; ids count from 1.
        reasoner: which model answered.
        segmenter: which model made the masks.
        timing: where the time went.
        failed_in: where it came to nothing: REASONING for the reasoner, its server and its time
            limit, SEGMENTING for the segmenter, QUEUED before either; None where it did not.
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
