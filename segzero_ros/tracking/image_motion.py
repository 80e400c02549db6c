"""Estimate the motion of a patch between two images from tracked feature points."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask, Roi

Matrix = NDArray[np.float64]  # (2, 3) affine: [x, y] in the earlier image to [x, y] in the later
GrayImage = NDArray[np.uint8]
Points = NDArray[np.float32]  # (n, 2) [x, y]

# Corners that are followed per object, the fewest that give a motion, and the side of the
# window of the Lucas-Kanade method, pixels.
MAX_POINTS = 60
MIN_POINTS = 6
WINDOW = 15
# Forward-backward check: maximum distance in pixels between a point and itself tracked back.
MAX_BACKWARD_ERROR = 1.0
# RANSAC threshold in pixels: small, so that a slow occluder does not count as part of the object.
TOLERANCE = 0.6
# Largest plausible motion in one step: change of scale, and rotation in radians.
MAX_SCALE, MAX_ROTATION = 1.15, 0.35


def motion(
    before: GrayImage, after: GrayImage, mask: Mask, guess: Matrix, *, rigid: bool = False
) -> Matrix | None:
    """Return the common translation, rotation and scale of the points inside a mask.

    Points on an occluder are outliers.

    Args:
        before: (H, W) the earlier image.
        after: (H, W) the later one.
        mask: (H, W) where the object was visible in the earlier one.
        guess: the expected motion.
        rigid: estimate only a translation. The points of a partly hidden object near its occluder
            are dragged along, and would rotate and shrink it.

    Returns:
        The motion; None if too few points agree.
    """
    roi = Roi.around(mask)
    if not roi.width:
        return None
    start = _points(before, mask, roi)
    if len(start) < MIN_POINTS:
        return None
    window = _window(roi, guess, before.shape)
    start, end = _track_points(before[window.slices], after[window.slices], start, window, guess)
    if len(start) < MIN_POINTS:
        return None
    return _common_shift(start, end) if rigid else _common_motion(start, end)


def _common_shift(start: Points, end: Points) -> Matrix | None:
    x, y = np.median(end - start, axis=0).tolist()
    agree = np.linalg.norm(end - start - [x, y], axis=1) < TOLERANCE
    return shift(x, y) if agree.sum() >= _min_inliers(len(start)) else None


def _common_motion(start: Points, end: Points) -> Matrix | None:
    estimate, inliers = cv2.estimateAffinePartial2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE
    )
    if np.ndim(estimate) == 0 or inliers.sum() < _min_inliers(len(start)):
        return None
    matrix: Matrix = np.asarray(estimate, np.float64)
    rotation = abs(math.atan2(matrix[1, 0], matrix[0, 0]))
    if not 1 / MAX_SCALE < scale_of(matrix) < MAX_SCALE or rotation > MAX_ROTATION:
        return None
    return matrix


def _min_inliers(points: int) -> float:
    return max(MIN_POINTS, 0.5 * points)


def shift(x: float, y: float) -> Matrix:
    """Return a translation in pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def compose(second: Matrix, first: Matrix) -> Matrix:
    """Return the motion that applies `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    offset = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, offset])


def scale_of(matrix: Matrix) -> float:
    """Return the scale factor of a motion."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def moved(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a motion to (n, 2) points."""
    result: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def _points(image: GrayImage, mask: Mask, roi: Roi) -> Points:
    """Return (n, 2) corner points of the object."""
    inside = mask[roi.slices].astype(np.uint8)
    # The neighbourhood of points at the edge contains too much background.
    core = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=0)
    distance = max(3.0, 0.5 * np.sqrt(max(int(core.sum()), 1) / MAX_POINTS))
    corners = cv2.goodFeaturesToTrack(
        np.ascontiguousarray(image[roi.slices]), MAX_POINTS, 0.01, distance, mask=core
    )
    if np.ndim(corners) == 0:  # None, which OpenCV's type hints omit
        return np.zeros((0, 2), np.float32)
    return np.asarray(corners, np.float32).reshape(-1, 2) + np.array([roi.x, roi.y], np.float32)


def _window(roi: Roi, guess: Matrix, shape: tuple[int, ...]) -> Roi:
    """Return the part of both images that is searched for the points."""
    x, y = guess[:, 2] + guess[:, :2] @ [roi.x, roi.y] - [roi.x, roi.y]
    reach = 24 + max(roi.width, roi.height) // 4
    left, top = max(0, int(min(0, x)) + roi.x - reach), max(0, int(min(0, y)) + roi.y - reach)
    right = min(shape[1], roi.x + roi.width + int(max(0, x)) + reach)
    bottom = min(shape[0], roi.y + roi.height + int(max(0, y)) + reach)
    return Roi(left, top, right - left, bottom - top)


def _track_points(
    before: GrayImage, after: GrayImage, start: Points, window: Roi, guess: Matrix
) -> tuple[Points, Points]:
    """Return the points that pass the forward-backward check, in both images, in pixels."""
    corner = np.array([window.x, window.y], np.float32)
    expected = moved(guess, start.astype(np.float64)).astype(np.float32)
    before, after = np.ascontiguousarray(before), np.ascontiguousarray(after)
    end, forward = _flow(before, after, start - corner, expected - corner)
    back, backward = _flow(after, before, end, start - corner)
    error = np.linalg.norm(back + corner - start, axis=1)
    good = forward & backward & (error < MAX_BACKWARD_ERROR)
    return start[good], (end + corner)[good]


def _flow(
    before: GrayImage, after: GrayImage, start: Points, expected: Points
) -> tuple[Points, NDArray[np.bool_]]:
    """Return the (n, 2) points in the later image (Lucas-Kanade), and which were found there."""
    end, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start,
        expected.copy(),
        winSize=(WINDOW, WINDOW),
        maxLevel=2,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(end, np.float32), np.asarray(status).ravel() == 1
