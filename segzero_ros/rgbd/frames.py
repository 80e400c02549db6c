"""From a camera's messages to a Frame, the same for the node and for the replay of a bag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import logging
from typing import Any

from segzero_ros.conversions.camera_info import intrinsics_from
from segzero_ros.conversions.depth import decode_depth
from segzero_ros.conversions.image import decode_image, MAX_PIXELS
from segzero_ros.conversions.result import to_ns
from segzero_ros.rgbd.buffer import DEPTH_WAIT_NS, RgbdMessages
from segzero_ros.rgbd.message_buffer import read_frame_id
from segzero_ros.types import BadImage, DepthImage, Frame

NO_POSES = 'There are no poses, for'
# Depth this far from the image, in nanoseconds, is not depth that only comes a little late.
_FAR_NS = 2 * DEPTH_WAIT_NS
_logger = logging.getLogger(__name__)


def frame_of(message: Any, max_pixels: int = MAX_PIXELS) -> Frame:
    """Return the image of an Image or CompressedImage, with its stamp and frame_id.

    Raises:
        BadImage: it cannot be decoded, or has more than max_pixels.
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
    """Put an image, its depth and its camera's intrinsics together.

    Args:
        image: sensor_msgs/Image or CompressedImage.
        read_depth: returns the depth message that belongs to it, None without one; may raise
            BadImage.
        info: sensor_msgs/CameraInfo; None while it is not known.
        rectified: whether the image is a rectified one; see `image_codec.intrinsics_from`.
        max_pixels: a larger image is refused, larger depth left out.
        warnings: what `pairing_warnings` found out about the messages.

    Returns:
        The frame, and a warning for a person: why there are no poses although there is a depth
        camera, or why they may be wrong; empty where all is well.

    Raises:
        BadImage: the image cannot be decoded.
    """
    intrinsics = None if info is None else intrinsics_from(info, rectified)
    frame = replace(frame_of(image, max_pixels), intrinsics=intrinsics)
    found = list(warnings)
    try:
        depth = read_depth()
        if depth is not None:
            frame = replace(frame, depth=_registered_depth(depth, frame, max_pixels))
            found += _info_warnings(frame, info, rectified)
    except BadImage as error:
        _logger.warning('Answering without depth: %s', error)
        found = [f'{NO_POSES} the depth image cannot be used: {error}']
    return frame, ' '.join(found)


def _registered_depth(depth: Any, frame: Frame, max_pixels: int) -> DepthImage:
    metres = decode_depth(depth, max_pixels)
    if metres.shape != frame.image.shape[:2]:
        raise BadImage(
            f'it has {metres.shape[1]}x{metres.shape[0]} pixels, the colour image {frame.width}x'
            f'{frame.height}; use depth that is registered to the colour image.'
        )
    return metres


def pairing_warnings(
    rgbd: RgbdMessages, depth_topic: str, *, no_depth: str = '', no_info: str = ''
) -> list[str]:
    """Say what is wrong with an image's depth, without decoding anything.

    Args:
        rgbd: the messages that belong together.
        depth_topic: where depth comes from, for the sentences.
        no_depth: why no depth has come at all although there is a depth camera; empty without one.
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
            f'Poses may be wrong: the depth image{where} is of the frame {depth_frame!r}, the '
            f'colour image of {image_frame!r}; use depth that is registered to the colour image '
            '(RealSense: align_depth.enable, others: depth_registered).'
        )
    info_frame = read_frame_id(rgbd.info.data)
    if image_frame and info_frame and image_frame != info_frame:
        warnings.append(
            f'Poses may be wrong: the camera_info is of the frame {info_frame!r}, the image of '
            f"{image_frame!r}; use the image's own camera_info."
        )
    return warnings


def _gap(gap_ns: int, where: str) -> str:
    """Say how far the nearest depth image is, and why that may be."""
    seconds = abs(gap_ns) / 1e9
    far = f'{seconds:.1f} s' if abs(gap_ns) >= _FAR_NS else f'{seconds:.3f} s'
    side = 'older' if gap_ns < 0 else 'newer'
    nearest = f'the nearest depth image{where} is {far} {side} than the image'
    if abs(gap_ns) >= _FAR_NS:
        return f'{nearest}: depth has stopped, or its stamps are of another clock.'
    late = f'{DEPTH_WAIT_NS / 1e9:g} s'
    return (
        f'{nearest}, more than camera.max_depth_offset: it has stopped, comes more than {late} '
        'late, is still on its way, or the two are stamped differently.'
    )


def _info_warnings(frame: Frame, info: Any, rectified: bool) -> list[str]:
    """Say why the intrinsics of a frame with depth cannot be used, or may be another camera's."""
    if info is None:
        return []
    given = frame.intrinsics
    if given is None:
        matrix = 'P' if rectified else 'K'
        return [
            f'{NO_POSES} the camera_info has no calibration (its {matrix} is zero or no numbers): '
            "calibrate the camera, or load its calibration in its driver's parameters."
        ]
    if (given.width, given.height) == (frame.width, frame.height):
        return []
    if min(given.width, given.height) <= 0:
        return [f'{NO_POSES} the camera_info gives no image size: set its width and height.']
    sizes = (
        f'camera_info is of {given.width}x{given.height} pixels, the image of '
        f'{frame.width}x{frame.height}'
    )
    if frame.width * given.height != frame.height * given.width:
        return [f"{NO_POSES} the {sizes}: use the image's own camera_info."]
    return [
        f'Poses may be wrong: the {sizes}; its numbers are scaled, as for an image that was '
        'resized.'
    ]
