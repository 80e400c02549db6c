"""Answers to SegmentationResult messages and back.

Messages are read by their fields and created by a `Make`, with rclpy's classes in the node and the
bag reader's in the replay.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segzero_ros import types
from segzero_ros.conversions.text import clean_text
from segzero_ros.types import (
    Answer,
    BadImage,
    Frame,
    Mask,
    Pose3D,
    RgbImage,
    Roi,
    S_TO_NS,
    Segment,
)


class Make(Protocol):
    """Creates a message from its type's name, such as `std_msgs/msg/Header`, and all its fields.

    Pixels are given as bytes, points as an array of bytes.
    """

    def __call__(self, name: str, /, **fields: Any) -> Any:
        """Return the message."""
        ...


# Pose and size fields of an object without a pose: ROS's default values.
NO_POSE = Pose3D((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
_MASK_ENCODING = 'mono8'
# SegmentationResult.count where none was asked for.
NO_COUNT = -1


def to_time(make: Make, stamp_ns: int) -> Any:
    """Return nanoseconds as a builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, S_TO_NS)
    return make('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)


def to_ns(time: Any) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return int(time.sec) * S_TO_NS + int(time.nanosec)


def header_of(make: Make, answer: Answer) -> Any:
    """Return the header of the answer's frame; an empty one for an answer without a frame."""
    stamp_ns, frame_id = (
        (0, '') if answer.frame is None else (answer.frame.stamp_ns, answer.frame.frame_id)
    )
    stamp = to_time(make, stamp_ns)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=clean_text(frame_id))


def to_result(make: Make, answer: Answer) -> Any:
    """Return an answer as a SegmentationResult, for the topic, the action and the service."""
    header = header_of(make, answer)
    height, width = (answer.frame.height, answer.frame.width) if answer.frame else (0, 0)
    return make(
        'segzero_ros/msg/SegmentationResult',
        header=header,
        query_id=clean_text(answer.query.id),
        query=clean_text(answer.query.text),
        task=int(answer.task),
        status=int(answer.status),
        message=clean_text(answer.message),
        reasoning=clean_text(answer.reasoning),
        answer=clean_text(answer.answer),
        count=NO_COUNT if answer.count is None else answer.count,
        raw_answer=clean_text(answer.raw_answer),
        reasoner=clean_text(answer.reasoner),
        segmenter=clean_text(answer.segmenter),
        image_height=height,
        image_width=width,
        objects=[to_object(make, segment, header) for segment in answer.segments],
        timing=_to_timing(make, answer.timing),
    )


def to_object(make: Make, segment: Segment, header: Any) -> Any:
    """Return one object of an answer as a SegmentedObject.

    Args:
        make: creates the messages.
        segment: the object.
        header: of the result.
    """
    return make(
        'segzero_ros/msg/SegmentedObject',
        id=segment.id,
        label=clean_text(segment.label),
        score=float(segment.score),
        bbox=to_region(make, segment.box),
        bbox_from_mask=segment.box_from_mask,
        points=[make('segzero_ros/msg/Pixel', x=float(x), y=float(y)) for x, y in segment.points],
        mask_roi=to_region(make, segment.mask_roi),
        mask=to_image(make, segment.mask.astype(np.uint8) * np.uint8(255), _MASK_ENCODING, header),
        pose_status=int(segment.pose_status),
        pose=to_pose(make, segment.pose or NO_POSE),
        size=to_vector(make, (segment.pose or NO_POSE).size),
    )


def to_pose(make: Make, pose: Pose3D) -> Any:
    """Return the position and orientation of a box as a geometry_msgs/Pose."""
    x, y, z = map(float, pose.position)
    qx, qy, qz, qw = map(float, pose.orientation)
    return make(
        'geometry_msgs/msg/Pose',
        position=make('geometry_msgs/msg/Point', x=x, y=y, z=z),
        orientation=make('geometry_msgs/msg/Quaternion', x=qx, y=qy, z=qz, w=qw),
    )


def to_vector(make: Make, values: tuple[float, float, float]) -> Any:
    """Return (x, y, z) as a geometry_msgs/Vector3."""
    x, y, z = map(float, values)
    return make('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def rgb_image(make: Make, rgb: RgbImage, header: Any) -> Any:
    """Return an (H, W, 3) uint8 RGB image as a sensor_msgs/Image."""
    return to_image(make, rgb, 'rgb8', header)


def mask_from(message: Any) -> Mask:
    """Return the mask of a SegmentedObject, (mask_roi.height, mask_roi.width) bool.

    Raises:
        BadImage: the mask does not match mask_roi.
    """
    mask, roi = message.mask, message.mask_roi
    size = (roi.height, roi.width)
    matches = mask.encoding == _MASK_ENCODING and (mask.height, mask.width) == size
    if not matches or mask.step < mask.width or len(mask.data) < mask.height * mask.step:
        raise BadImage(
            f'The mask of object {message.id} must be {_MASK_ENCODING} of '
            f'{roi.width}x{roi.height} pixels as its mask_roi, but is '
            f'{mask.encoding or "empty"} of '
            f'{mask.width}x{mask.height} with step {mask.step} and {len(mask.data)} bytes.'
        )
    if not mask.data:
        return np.zeros(size, np.bool_)
    rows = np.frombuffer(mask.data, np.uint8, mask.height * mask.step)
    return rows.reshape(mask.height, mask.step)[:, : mask.width] > 0


def segments_from(result: Any) -> tuple[Segment, ...]:
    """Return the objects of a SegmentationResult.

    Raises:
        BadImage: a mask does not match its mask_roi, or is not inside the image.
    """
    return tuple(_segment_from(message, result) for message in result.objects)


def answer_from(result: Any, frame: Frame | None = None) -> Answer:
    """Return the answer that a SegmentationResult was made from.

    Args:
        result: the message.
        frame: the image it is about, for drawing; the message does not contain it.

    Raises:
        BadImage: the frame or a mask does not have the size given in the result.
    """
    size = (result.image_width, result.image_height)
    if frame is not None and size not in ((frame.width, frame.height), (0, 0)):
        raise BadImage(
            f'The result is about an image of {size[0]}x{size[1]} pixels, but the frame has '
            f'{frame.width}x{frame.height}.'
        )
    return Answer(
        query=types.Query(result.query, result.query_id, types.Task(result.task)),
        task=types.Task(result.task),
        status=types.Status(result.status),
        message=result.message,
        frame=frame,
        reasoning=result.reasoning,
        answer=result.answer,
        count=None if result.count == NO_COUNT else result.count,
        raw_answer=result.raw_answer,
        segments=segments_from(result),
        reasoner=result.reasoner,
        segmenter=result.segmenter,
        timing=_timing_from(result.timing),
    )


def frame_of(answer: Answer) -> Frame:
    """Return an answer's frame.

    Raises:
        BadImage: it has none.
    """
    if answer.frame is None:
        raise BadImage(f'The answer to query {answer.query.id!r} has no image.')
    return answer.frame


def to_image(make: Make, pixels: NDArray[Any], encoding: str, header: Any) -> Any:
    """Return an (H, W) or (H, W, C) array as a sensor_msgs/Image."""
    height, width = pixels.shape[:2]
    packed = np.ascontiguousarray(pixels)
    return make(
        'sensor_msgs/msg/Image',
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(not np.little_endian),
        step=width * packed.itemsize * (packed.shape[2] if packed.ndim == 3 else 1),
        data=packed.tobytes(),
    )


def to_region(make: Make, roi: Roi) -> Any:
    """Return a rectangle of pixels as a sensor_msgs/RegionOfInterest."""
    x, y, width, height = map(int, roi)
    return make(
        'sensor_msgs/msg/RegionOfInterest',
        x_offset=x,
        y_offset=y,
        width=width,
        height=height,
        do_rectify=False,
    )


def _roi_from(region: Any) -> Roi:
    return Roi(region.x_offset, region.y_offset, region.width, region.height)


def _to_timing(make: Make, timing: types.Timing) -> Any:
    return make(
        'segzero_ros/msg/Timing',
        queued=float(timing.queued),
        reasoning=float(timing.reasoning),
        encoding=float(timing.encoding),
        segmenting=float(timing.segmenting),
        total=float(timing.total),
        frame_age=float(timing.frame_age),
        generated_tokens=timing.generated_tokens,
    )


def _timing_from(timing: Any) -> types.Timing:
    return types.Timing(
        queued=timing.queued,
        reasoning=timing.reasoning,
        encoding=timing.encoding,
        segmenting=timing.segmenting,
        total=timing.total,
        frame_age=timing.frame_age,
        generated_tokens=timing.generated_tokens,
    )


def _segment_from(message: Any, result: Any) -> Segment:
    roi = _roi_from(message.mask_roi)
    if roi.x + roi.width > result.image_width or roi.y + roi.height > result.image_height:
        raise BadImage(
            f'The mask of object {message.id} ({roi}) exceeds the image of '
            f'{result.image_width}x{result.image_height} pixels.'
        )
    status = types.PoseStatus(message.pose_status)
    return Segment(
        id=message.id,
        label=message.label,
        score=message.score,
        box=_roi_from(message.bbox),
        box_from_mask=message.bbox_from_mask,
        points=tuple((point.x, point.y) for point in message.points),
        mask_roi=roi,
        mask=mask_from(message),
        pose=_pose_from(message) if status is types.PoseStatus.POSE_OK else None,
        pose_status=status,
    )


def _pose_from(message: Any) -> Pose3D:
    position, orientation, size = message.pose.position, message.pose.orientation, message.size
    return Pose3D(
        position=(position.x, position.y, position.z),
        orientation=(orientation.x, orientation.y, orientation.z, orientation.w),
        size=(size.x, size.y, size.z),
    )
