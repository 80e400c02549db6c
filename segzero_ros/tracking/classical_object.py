"""The classical tracker's state of one object: shape, colours and position.

The shape is a soft mask on a small grid; `to_image` is the affine transform from the grid to the
image. Cost and memory do not depend on the object's size or on the duration of tracking.
benchmarks/tracking.py measures the effect of the constants.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.tracking import image_motion
from segzero_ros.tracking.colour_model import Bins, colour_bins, ColourModel, Floats, histogram
from segzero_ros.tracking.image_motion import Matrix
from segzero_ros.types import Frame, in_image, Mask, RgbImage, Roi, Segment

# The longest side of an object in its own grid, and the margin around it, in cells.
GRID, MARGIN = 80, 20
# Limit for the longest side of a growing shape, in cells.
MAX_GRID = 160
# Visible share of an object from which its rotation and scale are estimated.
MIN_VISIBLE_FOR_ROTATION = 0.8
# Uncertainty of the template's outline, in cells.
SOFTNESS = 2.0
# Prior probability of the object for a cell far inside and far outside the shape.
INSIDE, OUTSIDE = 0.75, 0.02
# Largest shift by colours beyond the estimated motion, in cells, and its cost per cell, in log
# odds; lower if the motion is unknown.
MAX_SHIFT = 12
SHIFT_COST, SHIFT_COST_WITHOUT_MOTION = 0.04, 0.03
# Lower limit for a cell's log odds in a search: an object may be partly hidden.
MIN_LOG_ODDS = -1.0
# Longest side of the object and of the image in the reduced image for a search, in pixels.
SEARCH_SIZE, SEARCH_IMAGE = 16, 320
BLUR = 1.2
# Learning rates per frame. A shape shrinks slowly, so that a slow occluder does not erase it.
RATE_COLOURS, RATE_AROUND = 0.05, 0.2
RATE_GROW, RATE_SHRINK = 0.12, 0.03
# Size of the kernel that dilates the shape to its close surroundings, in cells.
RING = 9


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A frame's image (H, W, 3) RGB and its brightness (H, W)."""

    image: RgbImage
    gray: NDArray[np.uint8]

    @classmethod
    def of(cls, frame: Frame) -> ImageFeatures:
        """Return the features of a frame."""
        image = np.ascontiguousarray(frame.image)
        return cls(image, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))

    def warp(self, to_image: Matrix, shape: tuple[int, int]) -> RgbImage:
        """Return the image sampled on a grid.

        Args:
            to_image: from the grid to the image.
            shape: (rows, columns) of the grid.
        """
        patch = cv2.warpAffine(
            self.image,
            to_image,
            shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(patch, np.uint8)


class Candidate(NamedTuple):
    """A candidate position of an object in an image.

    Attributes:
        to_image: from the grid to the image.
        bins: the colours on the grid.
        odds: log odds of every cell for the object.
        fit: mean log odds by colour of the object's cells.
        agreement: match of shape and colours, see `_match`.
        similarity: of the colours to the answer's object, 0 to 1.
        roi: the part of the image that the grid covers.
        expected: number of pixels of the object without occlusion.
    """

    to_image: Matrix
    bins: Bins
    odds: Floats
    fit: float
    agreement: float
    similarity: float
    roi: Roi
    expected: float

    @property
    def image_odds(self) -> Floats:
        """The log odds of every pixel of the roi; a new array each time, since it may be large."""
        if not self.roi.width or not self.roi.height:
            return np.zeros((0, 0), np.float32)
        onto = image_motion.compose(image_motion.shift(-self.roi.x, -self.roi.y), self.to_image)
        size = (self.roi.width, self.roi.height)
        return np.asarray(cv2.warpAffine(self.odds, onto, size, borderValue=-99), np.float32)


class TrackedObject:
    """A tracked object and its last known state.

    Attributes:
        segment: as it was added.
        features: of the last processed image.
        age: number of frames since it was last found.
        visible: share of it that was visible when it was last found.
        fit: match of its colours in the answer's image, log odds.
        agreement: match of its shape and colours there, log odds.
    """

    def __init__(self, features: ImageFeatures, segment: Segment) -> None:
        self.segment = segment
        self.features = features
        self._roi, self._seen = segment.mask_roi, segment.mask
        self.age = 0
        self.visible = 1.0
        self._velocity = np.zeros(2)
        self._to_image, shape = _grid_over(segment.mask_roi)
        self._template = np.asarray(
            cv2.warpAffine(
                self.mask.astype(np.float32),
                self._to_image,
                shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            ),
            np.float32,
        )
        bins = colour_bins(features.warp(self._to_image, shape))
        self._colours = ColourModel(bins, self._template, self._around())
        colour = self._colours.log_odds(bins)
        self.fit = self._fit(colour, self._template > 0.5)
        self.agreement = float(_match(colour, self._template, RING)[0, 0])
        # Other positions that matched in the last image with the object, (n, 2) pixels.
        self._distractors = np.zeros((0, 2))

    @property
    def mask(self) -> Mask:
        """Its visible mask in the last image, (H, W) bool; all False while it is lost."""
        return in_image(self._seen, self._roi, *self.features.gray.shape)

    @property
    def longest(self) -> float:
        """Its longest side, in pixels."""
        cells: int = max(self._template.shape) - 2 * MARGIN
        return cells * image_motion.scale_of(self._to_image)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The centre of its grid, (x, y) pixels."""
        return self._centre(self._to_image)

    def locate(self, features: ImageFeatures) -> Candidate:
        """Locate it at the position given by its motion."""
        guess = image_motion.shift(*self._velocity)
        moved = None
        if not self.age:
            moved = image_motion.motion(
                self.features.gray,
                features.gray,
                self.mask,
                guess,
                rigid=self.visible < MIN_VISIBLE_FOR_ROTATION,
            )
        to_image = image_motion.compose(guess if moved is None else moved, self._to_image)
        return self.locate_near(
            features, to_image, SHIFT_COST_WITHOUT_MOTION if moved is None else SHIFT_COST
        )

    def locate_near(
        self, features: ImageFeatures, to_image: Matrix, cost: float = SHIFT_COST_WITHOUT_MOTION
    ) -> Candidate:
        """Locate it near a position.

        Args:
            features: of the image.
            to_image: the position, from the grid to the image.
            cost: of a shift, in log odds per cell.
        """
        shape = self._template.shape
        bins = colour_bins(features.warp(to_image, shape))
        dx, dy, agreement = _best_shift(self._colours.log_odds(bins), self._template, cost)
        if dx or dy:
            to_image = image_motion.compose(to_image, image_motion.shift(dx, dy))
            bins = colour_bins(features.warp(to_image, shape))
        colour = self._colours.log_odds(bins)
        odds = cv2.GaussianBlur(colour, (0, 0), BLUR) + self._shape_odds()
        seen = (odds > 0) & (self._template > 0.5)
        return Candidate(
            to_image,
            bins,
            odds,
            self._fit(colour, seen),
            agreement,
            self._colours.similarity(bins, seen.astype(np.float32)),
            _covered_roi(odds.shape, to_image, features.gray.shape),
            self._expected(to_image, features.gray.shape),
        )

    def search(self, features: ImageFeatures, taken: Mask) -> Matrix | None:
        """Search the whole image for it.

        Args:
            features: of the image.
            taken: (H, W) pixels that belong to other objects.

        Returns:
            The most similar position; None if none is similar enough.
        """
        scores, factor = self._search_scores(features, taken)
        for x, y in self._distractors / factor:
            cv2.circle(scores, (round(x), round(y)), round(0.6 * self.longest / factor), -9, -1)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        if best < 0.35 * self.fit:
            return None
        return self._moved_to(np.array([x, y]) * factor)

    def accept(
        self, features: ImageFeatures, candidate: Candidate, mask: Mask, visible: float
    ) -> None:
        """Update the state with an accepted candidate."""
        moved = self._centre(candidate.to_image) - self.centre
        self._velocity = moved if not self.age else np.zeros(2)
        self._to_image = candidate.to_image
        self._roi = Roi.around(mask)
        self._seen = mask[self._roi.slices].copy()
        self.features, self.age, self.visible = features, 0, visible
        self._distractors = np.zeros((0, 2))

    def learn(self, candidate: Candidate, colours: bool, shape: bool) -> None:
        """Update the models from an accepted candidate; the surroundings are always learnt.

        Args:
            candidate: the accepted candidate.
            colours: whether to learn the object's colours.
            shape: whether to learn its shape.
        """
        seen = (candidate.odds > 0).astype(np.float32)
        self._colours.learn_around(candidate.bins, self._around(), RATE_AROUND)
        if colours:
            self._colours.learn_object(candidate.bins, seen * self._template, RATE_COLOURS)
        if shape:
            rate = np.where(seen > self._template, RATE_GROW, RATE_SHRINK).astype(np.float32)
            self._template += rate * (seen - self._template)
            self._recentre_grid()

    def _recentre_grid(self) -> None:
        """Recentre the grid on the shape when it has grown into the margin."""
        rows, columns = self._template.shape
        x, y, width, height = Roi.around(self._template > 0.5)
        gap = min(x, y, columns - x - width, rows - y - height)
        if gap >= MARGIN // 2 or not width or max(width, height) > MAX_GRID:
            return
        offset = image_motion.shift(MARGIN - x, MARGIN - y)
        size = (width + 2 * MARGIN, height + 2 * MARGIN)
        self._template = np.asarray(cv2.warpAffine(self._template, offset, size), np.float32)
        self._to_image = image_motion.compose(
            self._to_image, image_motion.shift(x - MARGIN, y - MARGIN)
        )

    def mark_lost(self, features: ImageFeatures) -> None:
        """Mark it as lost in this image."""
        if not self.age:
            self._distractors = self._similar_positions()
        self.age += 1
        self._velocity = np.zeros(2)
        self.features = features
        self._roi, self._seen = Roi(0, 0, 0, 0), np.zeros((0, 0), np.bool_)

    def _similar_positions(self) -> NDArray[np.float64]:
        """Return the other positions that match in the last image with the object."""
        scores, factor = self._search_scores(
            self.features, np.zeros(self.features.gray.shape, np.bool_)
        )
        radius = round(0.6 * self.longest / factor)
        own = np.round(self.centre / factor).astype(int)
        cv2.circle(scores, tuple(map(int, own)), radius, -9, -1)
        found: list[tuple[float, float]] = []
        while len(found) < 8:
            _, best, _, (x, y) = cv2.minMaxLoc(scores)
            if best < 0.35 * self.fit:
                break
            found.append((x * factor, y * factor))
            cv2.circle(scores, (x, y), radius, -9, -1)
        return np.array(found).reshape(-1, 2)

    def _search_scores(self, features: ImageFeatures, taken: Mask) -> tuple[Floats, float]:
        """Return the match at every pixel of the reduced image, and the reduction factor."""
        height, width = features.gray.shape
        factor = max(self.longest / SEARCH_SIZE, max(height, width) / SEARCH_IMAGE, 1.0)
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        reduced = cv2.resize(features.image, size, interpolation=cv2.INTER_AREA)
        bins = colour_bins(np.asarray(reduced, np.uint8))
        odds = self._colours.odds_against(histogram(bins, np.ones(bins.shape, np.float32)))[bins]
        odds[cv2.resize(taken.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0] = (
            MIN_LOG_ODDS
        )
        template = self._template
        rows, columns = template.shape
        linear = self._to_image[:, :2] / factor
        reach = math.ceil(0.5 * (np.abs(linear) @ [columns, rows]).max()) + 1
        middle = linear @ [(columns - 1) / 2, (rows - 1) / 2]
        onto = np.column_stack([linear, reach - middle])
        side = 2 * reach + 1
        kernel = np.asarray(cv2.warpAffine(template, onto, (side, side)), np.float32)
        padded = cv2.copyMakeBorder(odds, *(reach,) * 4, cv2.BORDER_CONSTANT, value=0)
        return _match(np.asarray(padded, np.float32), kernel, 3), factor

    def _moved_to(self, centre: NDArray[np.float64]) -> Matrix:
        x, y = (centre - self.centre).tolist()
        return image_motion.compose(image_motion.shift(x, y), self._to_image)

    def _centre(self, to_image: Matrix) -> NDArray[np.float64]:
        rows, columns = self._template.shape
        middle = np.array([[(columns - 1) / 2, (rows - 1) / 2]])
        return image_motion.moved(to_image, middle).reshape(2)

    def _around(self) -> Floats:
        """Return the cells of the grid that certainly do not belong to the object."""
        near = cv2.dilate(self._template, np.ones((9, 9), np.uint8))
        return np.asarray(near < 0.05, np.float32)

    def _shape_odds(self) -> Floats:
        """Return each cell's log odds by the shape alone."""
        soft = np.clip(cv2.GaussianBlur(self._template, (0, 0), SOFTNESS), OUTSIDE, INSIDE)
        return np.asarray(np.log(soft / (1 - soft)), np.float32)

    def _fit(self, colour: Floats, seen: Mask) -> float:
        return float(colour[seen].mean()) if seen.any() else -math.inf

    def _expected(self, to_image: Matrix, shape: tuple[int, ...]) -> float:
        """Return the number of pixels inside the image that the whole object covers."""
        rows, columns = np.nonzero(self._template > 0.5)
        x, y = image_motion.moved(to_image, np.stack([columns, rows], axis=1).astype(float)).T
        inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
        return float(inside.sum()) * image_motion.scale_of(to_image) ** 2


def _grid_over(roi: Roi) -> tuple[Matrix, tuple[int, int]]:
    """Return a grid over a rectangle with a margin: its `to_image` and (rows, columns)."""
    pitch = max(1.0, max(roi.width, roi.height) / GRID)
    columns, rows = (math.ceil(side / pitch) + 2 * MARGIN for side in (roi.width, roi.height))
    # The first cell inside the margin covers the rectangle's first pixels.
    x, y = (start + 0.5 * pitch - 0.5 - MARGIN * pitch for start in (roi.x, roi.y))
    return np.array([[pitch, 0.0, x], [0.0, pitch, y]]), (rows, columns)


def _best_shift(odds: Floats, template: Floats, cost: float) -> tuple[float, float, float]:
    """Return the template's best shift (x, y) in cells, and its match."""
    scores = _match(odds, template[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT], RING)
    offsets = np.arange(-MAX_SHIFT, MAX_SHIFT + 1, dtype=np.float32)
    penalised: Floats = scores - np.float32(cost) * np.hypot(offsets[:, None], offsets[None, :])
    _, _, _, (column, row) = cv2.minMaxLoc(penalised)
    dx, dy = _peak(penalised[row], column), _peak(penalised[:, column], row)
    return column - MAX_SHIFT + dx, row - MAX_SHIFT + dy, float(scores[row, column])


def _match(odds: Floats, kernel: Floats, ring: int) -> Floats:
    """Return the match of a shape and colours at every position where the shape fits completely.

    Log odds inside the shape count for a match, positive ones close around it count against it.

    Args:
        odds: (h, w) log odds of every cell by its colour.
        kernel: (rows, columns) the shape, 0 to 1.
        ring: size of the kernel that dilates the shape to its surroundings, in cells.

    Returns:
        (h - rows + 1, w - columns + 1) log odds per cell of the shape.
    """
    around = cv2.dilate(kernel, np.ones((ring, ring), np.uint8)) - kernel
    covered = cv2.matchTemplate(np.maximum(odds, MIN_LOG_ODDS), kernel, cv2.TM_CCORR)
    spilled = cv2.matchTemplate(np.maximum(odds, 0), around, cv2.TM_CCORR)
    return np.asarray((covered - spilled) / max(float(kernel.sum()), 1e-6), np.float32)


def _peak(values: Floats, at: int) -> float:
    """Return the offset of the maximum of the parabola through three values."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, top, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * top + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _covered_roi(shape: tuple[int, ...], to_image: Matrix, image: tuple[int, ...]) -> Roi:
    """Return the part of an image that a grid covers.

    Args:
        shape: (rows, columns) of the grid.
        to_image: from the grid to the image.
        image: (rows, columns) of the image.
    """
    rows, columns = shape
    corners = np.array([[x, y] for x in (0, columns - 1) for y in (0, rows - 1)], float)
    x, y = image_motion.moved(to_image, corners).T
    left, top = max(0, math.floor(x.min())), max(0, math.floor(y.min()))
    right, bottom = min(image[1], math.ceil(x.max()) + 1), min(image[0], math.ceil(y.max()) + 1)
    roi = Roi(left, top, max(0, right - left), max(0, bottom - top))
    return roi if roi.width and roi.height else Roi(0, 0, 0, 0)
