"""The response of the service `ask`: an answer without masks, for agents."""

from __future__ import annotations

import cv2
from geometry_msgs.msg import PoseStamped, Vector3
from sensor_msgs.msg import CompressedImage

from segzero_ros.conversions.text import clean_text
from segzero_ros.msg import SegmentationResult, SegmentedObject
from segzero_ros.overlay import draw_overlay
from segzero_ros.srv import Ask
from segzero_ros.types import Answer, Status, Task

JPEG_QUALITY = 85


def compact(result: SegmentationResult, drawn: Answer | None) -> Ask.Response:
    """Return the response.

    Args:
        result: the result.
        drawn: the answer it was made from, if its overlay is wanted; it is drawn with a frame.
    """
    response = Ask.Response(
        status=result.status,
        message=result.message,
        answer=clean_text(in_words(result)),
        reasoning=result.reasoning,
        labels=[found.label for found in result.objects],
        scores=[found.score for found in result.objects],
        boxes=[found.bbox for found in result.objects],
        poses=[_pose(found, result) for found in result.objects],
        sizes=[_size(found) for found in result.objects],
    )
    if drawn is not None and drawn.frame is not None:
        bgr = cv2.cvtColor(draw_overlay(drawn), cv2.COLOR_RGB2BGR)
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


def _pose(found: SegmentedObject, result: SegmentationResult) -> PoseStamped:
    if found.pose_status != SegmentedObject.POSE_OK:
        return PoseStamped()
    return PoseStamped(header=result.header, pose=found.pose)


def _size(found: SegmentedObject) -> Vector3:
    return found.size if found.pose_status == SegmentedObject.POSE_OK else Vector3()
