"""From a mask and a depth image to a box in 3-D, or the reason why there is none.

What is assumed is said in `boxes`. OpenCV is loaded when there is depth to lift: importing this
module alone costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math

from segzero_ros.quantiles import quantile
from segzero_ros.types import Frame, Intrinsics, Mask, Pose3D, PoseStatus, Segment

# No lens sees further from its axis (the tangent of the angle), nor has so many pixels of focal
# length: numbers beyond come of a damaged calibration, and are too large to calculate with.
_STEEPEST, _LONGEST = 1e3, 1e8
# What is lower above the plane than this, in metres, may be the plane.
_SPILL = 0.006


def lift(mask: Mask, frame: Frame) -> tuple[Pose3D | None, PoseStatus]:
    """Return the oriented box of what a mask covers.

    The same mask and frame give the same box, whatever was lifted before.

    Args:
        mask: (H, W) bool, of the frame's size.
        frame: with depth and intrinsics; else the status says which is missing.

    Returns:
        The box in the frame's optical frame and POSE_OK, or None and the reason. The box's z axis
        points away from the surface that the object stands on, where one was found.
    """
    if frame.depth is None:
        return None, PoseStatus.NO_DEPTH
    intrinsics = fitting_intrinsics(frame)
    if intrinsics is None:
        return None, PoseStatus.NO_INTRINSICS
    # OpenCV is loaded with these, and only where there is depth.
    from segzero_ros.spatial.boxes import free_box, standing_box
    from segzero_ros.spatial.support import plane_under
    from segzero_ros.spatial.surface import FEWEST, visible_surface

    surface = visible_surface(mask, frame.depth, intrinsics)
    if surface is None:
        return None, PoseStatus.DEPTH_TOO_SPARSE
    points = surface.points()
    plane = plane_under(points, mask, frame, intrinsics)
    if plane is None:
        return free_box(surface.without_strays().smooth_points()), PoseStatus.POSE_OK
    # A mask that spills over onto the plane must not widen the object.
    top = float(quantile(plane.heights(points), 0.97))
    body = surface.above(plane, min(_SPILL, 0.25 * top)).without_strays()
    if body.steady.sum() < FEWEST:
        return None, PoseStatus.DEPTH_TOO_SPARSE
    return standing_box(body.smooth_points(), plane), PoseStatus.POSE_OK


def fitting_intrinsics(frame: Frame) -> Intrinsics | None:
    """Return the intrinsics for the frame's own size, or None where there are none that fit.

    A picture that was resized by the same factor in both directions keeps its calibration, scaled;
    for any other size nobody can know what was cut off.
    """
    given = frame.intrinsics
    if given is None or not _usable(given):
        return None
    if (given.width, given.height) == (frame.width, frame.height):
        return given
    if frame.width * given.height != frame.height * given.width:
        return None
    scale = frame.width / given.width
    # Pixel centres are at integers, so the picture's corner is at -0.5.
    return replace(
        given,
        fx=given.fx * scale,
        fy=given.fy * scale,
        cx=(given.cx + 0.5) * scale - 0.5,
        cy=(given.cy + 0.5) * scale - 0.5,
        width=frame.width,
        height=frame.height,
    )


def rectification_remark(frame: Frame) -> str:
    """Return a sentence for a person if poses are off because the lens distorts, else nothing.

    Poses treat the picture as a pinhole camera's; towards the borders of an unrectified wide-angle
    picture that is wrong by many pixels.
    """
    given = frame.intrinsics
    if given is None or not any(given.distortion):
        return ''
    return (
        'The image is not rectified (its camera_info has distortion coefficients that are not '
        'zero), so poses are less exact towards its borders; use the rectified image and its '
        'camera_info.'
    )


def missing_pose_warning(frame: Frame, segments: Sequence[Segment]) -> str:
    """Say why objects in a frame with depth have no pose; empty if all have one.

    Why depth or intrinsics are missing is said by who put the frame together.

    Args:
        frame: the frame.
        segments: what was found in it.
    """
    sparse = [s for s in segments if s.pose_status is PoseStatus.DEPTH_TOO_SPARSE]
    if sparse:
        some = 'any object'
        if len(sparse) < len(segments):
            some = f'object {", ".join(str(segment.id) for segment in sparse)}'
        return (
            f'There is no pose of {some}: too little depth was measured inside the mask (things '
            'that are too near, too far, shiny, black or transparent give none).'
        )
    given = frame.intrinsics
    if segments and frame.depth is not None and given is not None and not _usable(given):
        return (
            'There are no poses, for the camera_info holds numbers that no lens has: focal '
            f'lengths {given.fx:g} and {given.fy:g}, centre {given.cx:g}, {given.cy:g}.'
        )
    return ''


def _usable(intrinsics: Intrinsics) -> bool:
    """Return whether a camera is calibrated at all, an uncalibrated one says 0, and by a lens."""
    return _possible(intrinsics.fx, intrinsics.cx, intrinsics.width) and _possible(
        intrinsics.fy, intrinsics.cy, intrinsics.height
    )


def _possible(focal: float, centre: float, pixels: int) -> bool:
    """Return whether a lens can have this focal length and centre in one direction."""
    if not (math.isfinite(centre) and 0 < focal < _LONGEST and pixels > 0):
        return False
    return max(abs(centre), abs(pixels - centre)) < _STEEPEST * focal
