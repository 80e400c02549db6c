"""Lift a mask to an oriented 3-D box, or report why there is none.

`boxes` describes the assumptions. OpenCV is imported only when there is depth to lift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math

import numpy as np

from segzero_ros.quantiles import median, quantile
from segzero_ros.types import (
    Box,
    Frame,
    Intrinsics,
    Mask,
    Point,
    Pose3D,
    PoseStatus,
    Segment,
)

# Limits of a plausible calibration: the tangent of the angle between an image border and the
# optical axis, and the focal length in pixels. Larger values come from a corrupt calibration.
_MAX_TANGENT, _MAX_FOCAL_LENGTH = 1e3, 1e8
# Points lower than this above the plane, in metres, may belong to the plane.
_PLANE_MARGIN = 0.006
# Half the side of the square around a point whose depth is measured, as a share of the image's
# width: three pixels of VGA, so that a hole of the depth camera is bridged and an edge seldom hit.
_POINT_RADIUS = 3 / 640


def lift(mask: Mask, frame: Frame) -> tuple[Pose3D | None, PoseStatus]:
    """Return the oriented box of a masked object.

    The result depends only on the mask and the frame.

    Args:
        mask: (H, W) bool, of the frame's size.
        frame: with depth and intrinsics; otherwise the status names what is missing.

    Returns:
        The box in the frame's optical frame and POSE_OK, or None and the reason. If a support
        plane was found, the box's z axis is its normal.
    """
    if frame.depth is None:
        return None, PoseStatus.NO_DEPTH
    intrinsics = fitting_intrinsics(frame)
    if intrinsics is None:
        return None, PoseStatus.NO_INTRINSICS
    # These import OpenCV.
    from segzero_ros.spatial.boxes import free_box, supported_box
    from segzero_ros.spatial.support import plane_under
    from segzero_ros.spatial.surface import MIN_PIXELS, visible_surface

    surface = visible_surface(mask, frame.depth, intrinsics)
    if surface is None:
        return None, PoseStatus.DEPTH_TOO_SPARSE
    points = surface.points()
    plane = plane_under(points, mask, frame, intrinsics)
    if plane is None:
        return free_box(surface.without_strays().smooth_points()), PoseStatus.POSE_OK
    # Pixels of the plane inside the mask must not widen the object.
    top = float(quantile(plane.heights(points), 0.97))
    body = surface.above(plane, min(_PLANE_MARGIN, 0.25 * top)).without_strays()
    if body.reliable.sum() < MIN_PIXELS:
        return None, PoseStatus.DEPTH_TOO_SPARSE
    return supported_box(body.smooth_points(), plane), PoseStatus.POSE_OK


def locate(
    box: Box | None, points: Sequence[Point], frame: Frame
) -> tuple[Pose3D | None, PoseStatus]:
    """Return the place on an object's surface, for an object without a mask.

    It is measured around the object's first point; without points, in the middle of its box.

    Args:
        box: in pixels of the frame.
        points: likewise; at least one without a box.
        frame: with depth and intrinsics; otherwise the status names what is missing.

    Returns:
        The position in the frame's optical frame with its axes and size 0, and POSE_OK; or None
        and the reason.
    """
    if frame.depth is None:
        return None, PoseStatus.NO_DEPTH
    intrinsics = fitting_intrinsics(frame)
    if intrinsics is None:
        return None, PoseStatus.NO_INTRINSICS
    if points:
        x, y = points[0]
        half_width = half_height = max(1.0, _POINT_RADIUS * frame.width)
    else:
        assert box is not None
        x, y = (box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2
        half_width, half_height = (box[2] - box[0]) / 6, (box[3] - box[1]) / 6
    rows = slice(max(0, round(y - half_height)), round(y + half_height) + 1)
    columns = slice(max(0, round(x - half_width)), round(x + half_width) + 1)
    window = frame.depth[rows, columns]
    measured = window[np.isfinite(window) & (window > 0)]
    if not measured.size:
        return None, PoseStatus.DEPTH_TOO_SPARSE
    z = float(median(measured))
    position = (x - intrinsics.cx) / intrinsics.fx * z, (y - intrinsics.cy) / intrinsics.fy * z, z
    return Pose3D(position, (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0)), PoseStatus.POSE_OK


def fitting_intrinsics(frame: Frame) -> Intrinsics | None:
    """Return the intrinsics for the frame's image size, or None if they do not fit.

    For an image that was resized by the same factor in both directions they are scaled; for any
    other size the crop is unknown.
    """
    given = frame.intrinsics
    if given is None or not _usable(given):
        return None
    if (given.width, given.height) == (frame.width, frame.height):
        return given
    if frame.width * given.height != frame.height * given.width:
        return None
    scale = frame.width / given.width
    # Pixel centres are at integers, so the image's corner is at -0.5.
    return replace(
        given,
        fx=given.fx * scale,
        fy=given.fy * scale,
        cx=(given.cx + 0.5) * scale - 0.5,
        cy=(given.cy + 0.5) * scale - 0.5,
        width=frame.width,
        height=frame.height,
    )


def rectification_warning(frame: Frame) -> str:
    """Return a warning if lens distortion makes poses less accurate; empty otherwise.

    Poses assume a pinhole camera, which is off by many pixels near the borders of an unrectified
    wide-angle image.
    """
    given = frame.intrinsics
    if given is None or not any(given.distortion):
        return ''
    return (
        'The image is not rectified (its camera_info has non-zero distortion coefficients), so '
        'poses are less accurate near its borders; use the rectified image and its camera_info.'
    )


def missing_pose_warning(frame: Frame, segments: Sequence[Segment]) -> str:
    """Return why objects in a frame with depth have no pose; empty if all have one.

    Missing depth or intrinsics are reported where the frame is assembled, see `rgbd.frames`.

    Args:
        frame: the frame.
        segments: the objects found in it.
    """
    sparse = [s for s in segments if s.pose_status is PoseStatus.DEPTH_TOO_SPARSE]
    if sparse:
        objects = 'any object'
        if len(sparse) < len(segments):
            objects = f'object {", ".join(str(segment.id) for segment in sparse)}'
        return (
            f'There is no pose of {objects}: too little depth was measured there '
            '(objects that are too near, too far, shiny, black or transparent have none).'
        )
    given = frame.intrinsics
    if segments and frame.depth is not None and given is not None and not _usable(given):
        return (
            'There are no poses, because the camera_info has implausible intrinsics: focal '
            f'lengths {given.fx:g} and {given.fy:g}, centre {given.cx:g}, {given.cy:g}.'
        )
    return ''


def _usable(intrinsics: Intrinsics) -> bool:
    """Return whether a camera is calibrated, with plausible values."""
    return _plausible(intrinsics.fx, intrinsics.cx, intrinsics.width) and _plausible(
        intrinsics.fy, intrinsics.cy, intrinsics.height
    )


def _plausible(focal: float, centre: float, pixels: int) -> bool:
    """Return whether a lens can have this focal length and centre along one axis."""
    if not (math.isfinite(centre) and 0 < focal < _MAX_FOCAL_LENGTH and pixels > 0):
        return False
    return max(abs(centre), abs(pixels - centre)) < _MAX_TANGENT * focal
