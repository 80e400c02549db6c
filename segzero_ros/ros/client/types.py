"""What the client returns and raises, and its conversion from messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.message_factory import answer_from, to_ns
from segzero_ros.ros.opencv_images import in_order, Order, Pixels
from segzero_ros.types import Answer, Frame, SegZeroError, Stage


class ClientError(SegZeroError):
    """The query could not be sent; the text gives the reason and what else is on the graph."""


class NoNode(ClientError):
    """There is no perception node in this namespace."""


class NoAnswer(ClientError):
    """The node did not answer in time."""


@dataclass(frozen=True)
class Progress:
    """Progress of a query.

    Attributes:
        stage: what the node is doing.
        text: what the model wrote since the last progress.
        elapsed: seconds since acceptance; NaN if unknown.
    """

    stage: Stage
    text: str
    elapsed: float


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer and what its message says about the frame.

    Attributes:
        answer: the answer; it has a frame if the image came from this client.
        stamp_ns: when the frame was taken.
        frame_id: the optical frame of the poses.
        width: of the frame, pixels; 0 without a frame.
        height: of the frame, pixels; 0 without a frame.
    """

    answer: Answer
    stamp_ns: int
    frame_id: str
    width: int
    height: int


OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Ignore progress."""


def progress_from(feedback: Segment.Feedback) -> Progress:
    """Convert feedback of the action.

    Raises:
        ClientError: this version does not know the stage.
    """
    try:
        stage = Stage(feedback.stage)
    except ValueError:
        raise ClientError(
            f'The node reports stage {feedback.stage}, which this client does not know: install '
            'the same version of segzero_ros on both sides.'
        ) from None
    return Progress(stage, feedback.reasoning_delta, feedback.elapsed)


def reply_from(result: SegmentationResult, image: Pixels | None, order: Order = 'rgb8') -> Reply:
    """Convert a result.

    Args:
        result: the node's.
        image: (H, W, 3) uint8 that was sent with the query; None for the camera's frame.
        order: of the image's channels.
    """
    header = result.header
    return Reply(
        answer_from(result, None if image is None else Frame(in_order(image, order))),
        to_ns(header.stamp),
        header.frame_id,
        result.image_width,
        result.image_height,
    )
