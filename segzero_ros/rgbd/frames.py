"""Convert RGB-D messages to a Frame, for the node and the replay of bags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import logging
from typing import Any

from segzero_ros.conversions.camera_info import intrinsics_from
from segzero_ros.conversions.depth import decode_depth
from segzero_ros.conversions.image import decode_image
from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.conversions.result import to_ns
from segzero_ros.rgbd.buffer import DEPTH_WAIT_NS, RgbdMessages
from segzero_ros.rgbd.message_buffer import read_frame_id
from segzero_ros.types import BadImage, DepthImage, Frame, S_TO_NS

NO_POSES = 'There are no poses:'
# A larger gap between depth and image, in nanoseconds, is not caused by latency.
_LARGE_GAP_NS = 2 * DEPTH_WAIT_NS
_logger = logging.getLogger(__name__)


def frame_of(message: Any, max_pixels: int = MAX_PIXELS) -> Frame:
    """Return an image message as a Frame without depth.

    Args:
        message: sensor_msgs/Image or CompressedImage.
        max_pixels: larger images are refused.

    Raises:
        BadImage: the image cannot be decoded or is too large.
    """
    header = message.header
    return Frame(decode_image(message, max_pixels), to_ns(header.stamp), header.frame_id)


def make_frame(
    image: Any,
    read_depth: Callable[[], Any],
    info: Any,
    *,
    rectified: bool,
    max_pixels: int = MAX_PIXELS,
    warnings: Sequence[str] = (),
) -> tuple[Frame, str]:
    """Combine an image, its depth and its camera_info into a Frame.

    Args:
        image: sensor_msgs/Image or CompressedImage.
        read_depth: returns the depth message that belongs to it, None without one; may raise
            BadImage.
        info: sensor_msgs/CameraInfo; None while unknown.
        rectified: whether the image is rectified, see `camera_info.intrinsics_from`.
        max_pixels: a larger image is refused, larger depth is ignored.
        warnings: from `pairing_warnings`.

    Returns:
        The frame, and a warning for the user: why there are no poses although there is a depth
        camera, or why they may be wrong; empty otherwise.

    Raises:
        BadImage: the image cannot be decoded.
    """
    intrinsics = None if info is None else intrinsics_from(info, rectified)
    frame = replace(frame_of(image, max_pixels), intrinsics=intrinsics)
    all_warnings = list(warnings)
    try:
        depth = read_depth()
        if depth is not None:
            frame = replace(frame, depth=_registered_depth(depth, frame, max_pixels))
            all_warnings += _info_warnings(frame, info, rectified)
    except BadImage as error:
        _logger.warning('Answering without depth: %s', error)
        all_warnings = [f'{NO_POSES} the depth image cannot be used: {error}']
    return frame, ' '.join(all_warnings)


def _registered_depth(depth: Any, frame: Frame, max_pixels: int) -> DepthImage:
    metres = decode_depth(depth, max_pixels)
    if metres.shape != frame.image.shape[:2]:
        raise BadImage(
            f'it has {metres.shape[1]}x{metres.shape[0]} pixels, the colour image {frame.width}x'
            f'{frame.height}; use depth registered to the colour image.'
        )
    return metres


def pairing_warnings(
    rgbd: RgbdMessages, depth_topic: str, *, no_depth: str = '', no_info: str = ''
) -> list[str]:
    """Return why an image has no depth, or may have the wrong one, without decoding anything.

    Args:
        rgbd: the paired messages.
        depth_topic: the depth topic, for the warnings.
        no_depth: why no depth has arrived although there is a depth camera; empty without one.
        no_info: why there is no camera_info, if there is none.
    """
    where = f' on {depth_topic}' if depth_topic else ''
    if rgbd.depth is None:
        if rgbd.depth_gap_ns is not None:
            return [f'{NO_POSES} {_gap(rgbd.depth_gap_ns, where)}']
        return [f'{NO_POSES} {no_depth.rstrip(".")}.'] if no_depth else []
    if rgbd.info is None:
        return [f'{NO_POSES} {no_info.rstrip(".")}.']
    image_frame, depth_frame = read_frame_id(rgbd.image.data), read_frame_id(rgbd.depth.data)
    warnings = []
    if image_frame and depth_frame and image_frame != depth_frame:
        warnings.append(
            f'Poses may be wrong: the depth image{where} has the frame_id {depth_frame!r}, the '
            f'colour image {image_frame!r}; use depth registered to the colour image '
            '(RealSense: align_depth.enable, others: depth_registered).'
        )
    info_frame = read_frame_id(rgbd.info.data)
    if image_frame and info_frame and image_frame != info_frame:
        warnings.append(
            f'Poses may be wrong: the camera_info has the frame_id {info_frame!r}, the image '
            f"{image_frame!r}; use the image's own camera_info."
        )
    return warnings


def _gap(gap_ns: int, where: str) -> str:
    """Return the time difference to the nearest depth image, and its possible causes."""
    seconds = abs(gap_ns) / S_TO_NS
    gap = f'{seconds:.1f} s' if abs(gap_ns) >= _LARGE_GAP_NS else f'{seconds:.3f} s'
    side = 'older' if gap_ns < 0 else 'newer'
    nearest = f'the nearest depth image{where} is {gap} {side} than the image'
    if abs(gap_ns) >= _LARGE_GAP_NS:
        return f'{nearest}: depth has stopped, or its stamps are from another clock.'
    delay = f'{DEPTH_WAIT_NS / S_TO_NS:g} s'
    return (
        f'{nearest}, more than camera.max_depth_offset: depth has stopped, is delayed by more '
        f'than {delay}, has not arrived yet, or is stamped differently.'
    )


def _info_warnings(frame: Frame, info: Any, rectified: bool) -> list[str]:
    """Return why the intrinsics of a frame with depth cannot be used, or may be wrong."""
    if info is None:
        return []
    given = frame.intrinsics
    if given is None:
        matrix = 'P' if rectified else 'K'
        return [
            f'{NO_POSES} the camera_info is uncalibrated (its {matrix} is zero or not finite); '
            "calibrate the camera, or load its calibration in its driver's parameters."
        ]
    if (given.width, given.height) == (frame.width, frame.height):
        return []
    if min(given.width, given.height) <= 0:
        return [f'{NO_POSES} the camera_info has no image size; set its width and height.']
    sizes = (
        f'camera_info is for {given.width}x{given.height} pixels, the image has '
        f'{frame.width}x{frame.height}'
    )
    if frame.width * given.height != frame.height * given.width:
        return [f"{NO_POSES} the {sizes}; use the image's own camera_info."]
    return [
        f'Poses may be wrong: the {sizes}; the intrinsics are scaled, assuming a resized image.'
    ]
