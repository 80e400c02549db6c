"""Estimate how a patch moved from one image to the next, from points that can be tracked."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import Mask, Roi

Matrix = NDArray[np.float64]  # (2, 3): [x, y] of the earlier picture to [x, y] of the later one
GrayImage = NDArray[np.uint8]
Points = NDArray[np.float32]  # (n, 2) [x, y]

MOST_POINTS = 60
FEWEST_POINTS = 6
WINDOW = 15
# A point that does not come back to where it started, this near in pixels, was lost on the way.
WAY_BACK = 1.0
# How far from the common motion, in pixels, a point may be that follows it: what passes in front
# slowly must not be taken for a part of the object.
TOLERANCE = 0.6
# The motion of one step that is believed: change of scale, and turn in radians.
MOST_SCALE, MOST_TURN = 1.15, 0.35


def motion(
    before: GrayImage, after: GrayImage, mask: Mask, guess: Matrix, *, rigid: bool = False
) -> Matrix | None:
    """Return the shift, turn and scale that the points inside a mask share.

    Points on something that passes in front of the object disagree with the others and are left
    out.

    Args:
        before: (H, W) the earlier picture.
        after: (H, W) the later one.
        mask: (H, W) where the object was visible in the earlier one.
        guess: where it is expected to have moved.
        rigid: look for a shift only. Of an object that is hidden in part, the points near what
            hides it are dragged along, and would make it turn and shrink.

    Returns:
        The motion; None where too few points agree on one.
    """
    roi = Roi.around(mask)
    if not roi.width:
        return None
    start = _points(before, mask, roi)
    if len(start) < FEWEST_POINTS:
        return None
    window = _window(roi, guess, before.shape)
    start, end = _follow(before[window.slices], after[window.slices], start, window, guess)
    if len(start) < FEWEST_POINTS:
        return None
    return _shared_shift(start, end) if rigid else _shared_motion(start, end)


def _shared_shift(start: Points, end: Points) -> Matrix | None:
    x, y = np.median(end - start, axis=0).tolist()
    agree = np.linalg.norm(end - start - [x, y], axis=1) < TOLERANCE
    return shift(x, y) if agree.sum() >= _enough(len(start)) else None


def _shared_motion(start: Points, end: Points) -> Matrix | None:
    found, agree = cv2.estimateAffinePartial2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE
    )
    if np.ndim(found) == 0 or agree.sum() < _enough(len(start)):
        return None
    matrix: Matrix = np.asarray(found, np.float64)
    turn = abs(math.atan2(matrix[1, 0], matrix[0, 0]))
    if not 1 / MOST_SCALE < scale_of(matrix) < MOST_SCALE or turn > MOST_TURN:
        return None
    return matrix


def _enough(points: int) -> float:
    return max(FEWEST_POINTS, 0.5 * points)


def shift(x: float, y: float) -> Matrix:
    """Return the motion by so many pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def compose(second: Matrix, first: Matrix) -> Matrix:
    """Return the motion that does the first, then the second."""
    linear = second[:, :2] @ first[:, :2]
    offset = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, offset])


def scale_of(matrix: Matrix) -> float:
    """Return how many times larger lengths become."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def moved(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move (n, 2) points."""
    result: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return result


def _points(image: GrayImage, mask: Mask, roi: Roi) -> Points:
    """Return (n, 2) points of the object that look unlike their neighbourhood."""
    inside = mask[roi.slices].astype(np.uint8)
    # Points on the very edge see as much of the background as of the object.
    core = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=0)
    apart = max(3.0, 0.5 * np.sqrt(max(int(core.sum()), 1) / MOST_POINTS))
    corners = cv2.goodFeaturesToTrack(
        np.ascontiguousarray(image[roi.slices]), MOST_POINTS, 0.01, apart, mask=core
    )
    if np.ndim(corners) == 0:  # None, which the types do not tell
        return np.zeros((0, 2), np.float32)
    return np.asarray(corners, np.float32).reshape(-1, 2) + np.array([roi.x, roi.y], np.float32)


def _window(roi: Roi, guess: Matrix, shape: tuple[int, ...]) -> Roi:
    """Return the part of both pictures in which the points are looked for."""
    x, y = guess[:, 2] + guess[:, :2] @ [roi.x, roi.y] - [roi.x, roi.y]
    reach = 24 + max(roi.width, roi.height) // 4
    left, top = max(0, int(min(0, x)) + roi.x - reach), max(0, int(min(0, y)) + roi.y - reach)
    right = min(shape[1], roi.x + roi.width + int(max(0, x)) + reach)
    bottom = min(shape[0], roi.y + roi.height + int(max(0, y)) + reach)
    return Roi(left, top, right - left, bottom - top)


def _follow(
    before: GrayImage, after: GrayImage, start: Points, window: Roi, guess: Matrix
) -> tuple[Points, Points]:
    """Return those points, in whole pictures, that are found again and lead back, and where."""
    corner = np.array([window.x, window.y], np.float32)
    expected = moved(guess, start.astype(np.float64)).astype(np.float32)
    before, after = np.ascontiguousarray(before), np.ascontiguousarray(after)
    end, ahead = _flow(before, after, start - corner, expected - corner)
    back, behind = _flow(after, before, end, start - corner)
    off = np.linalg.norm(back + corner - start, axis=1)
    good = ahead & behind & (off < WAY_BACK)
    return start[good], (end + corner)[good]


def _flow(
    before: GrayImage, after: GrayImage, start: Points, expected: Points
) -> tuple[Points, NDArray[np.bool_]]:
    """Return where (n, 2) points are in the later picture, and which were found there."""
    end, found, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start,
        expected.copy(),
        winSize=(WINDOW, WINDOW),
        maxLevel=2,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(end, np.float32), np.asarray(found).ravel() == 1
