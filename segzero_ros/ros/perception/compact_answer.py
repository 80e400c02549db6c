"""The response of the service `ask`: an answer without masks, for agents."""

from __future__ import annotations

import cv2
from geometry_msgs.msg import PoseStamped, Vector3
from sensor_msgs.msg import CompressedImage

from segzero_ros.conversions.text import clean_text
from segzero_ros.msg import SegmentationResult
from segzero_ros.overlay import draw_overlay
from segzero_ros.ros.message_factory import header_of, to_pose, to_vector
from segzero_ros.spatial.placement import Placed
from segzero_ros.srv import Ask
from segzero_ros.types import Answer, Status, Task

# Of the overlay, 0 to 100.
JPEG_QUALITY = 85


def compact(
    result: SegmentationResult, placed: Placed, *, with_overlay: bool = False
) -> Ask.Response:
    """Return the response.

    Args:
        result: the result.
        placed: the answer it was made from; the poses are in the frame that it is published in.
        with_overlay: whether its overlay is wanted; an answer with a frame is drawn.
    """
    boxes = _boxes(result, placed.geometry)
    response = Ask.Response(
        status=result.status,
        message=result.message,
        answer=clean_text(in_words(result)),
        reasoning=result.reasoning,
        labels=[found.label for found in result.objects],
        scores=[found.score for found in result.objects],
        boxes=[found.bbox for found in result.objects],
        poses=[pose for pose, _ in boxes],
        sizes=[size for _, size in boxes],
    )
    if with_overlay and placed.answer.frame is not None:
        bgr = cv2.cvtColor(draw_overlay(placed.answer), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        response.overlay = CompressedImage(
            header=result.header, format='rgb8; jpeg compressed bgr8', data=data.tobytes()
        )
    return response


def in_words(result: SegmentationResult) -> str:
    """Return what came of a query in a few words: the answer, the count, or what was found."""
    if result.status not in (Status.OK, Status.NOT_FOUND):
        return ''
    if result.task == Task.ANSWER:
        return str(result.answer)
    if result.task == Task.COUNT:
        return str(result.count)
    if not result.objects:
        return 'nothing'
    return ', '.join(found.label or result.query for found in result.objects)


def _boxes(
    result: SegmentationResult, geometry: Answer | None
) -> list[tuple[PoseStamped, Vector3]]:
    """Return pose and size of each object of the result; empty ones for those without a pose."""
    if geometry is None or len(geometry.segments) != len(result.objects):
        return [(PoseStamped(), Vector3()) for _ in result.objects]
    header = header_of(geometry)
    return [
        (PoseStamped(), Vector3())
        if segment.pose is None
        else (
            PoseStamped(header=header, pose=to_pose(segment.pose)),
            to_vector(segment.pose.size),
        )
        for segment in geometry.segments
    ]
