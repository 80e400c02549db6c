"""One object as the classical tracker knows it: its shape, its colours and where it is.

The shape is a soft mask in a small grid of the object's own; `place` says where the grid lies in
the image. Nothing here depends on the object's size or on how long it is followed. Imports
`types`, OpenCV and NumPy.
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
# The longest side that a growing shape may take there, in cells.
LARGEST = 160
# Share of an object that has to be visible for its turn and scale to be measured.
TURNING = 0.8
# How far from the template's edge the outline may be, in cells.
SOFTNESS = 2.0
# What the shape alone says of a cell far inside and far outside it, as probability.
INSIDE, OUTSIDE = 0.75, 0.02
# How far colours may move the grid beyond what motion says, in cells, and what a cell of that
# costs, in log odds: less where no motion is known.
REACH = 12
COST, COST_BLIND = 0.04, 0.03
# What speaks against a cell in a search, in log odds: an object may be hidden in part.
LEAST = -1.0
# An object's longest side in the picture that is searched for it, and that picture's, in pixels.
SEARCH_SIZE, SEARCH_PICTURE = 16, 320
BLUR = 1.2
# How fast looks, surroundings and shape are learnt, as shares per frame. A shape shrinks slowly:
# something that creeps over the object must not eat it up.
RATE_LOOKS, RATE_AROUND = 0.05, 0.2
RATE_GROW, RATE_SHRINK = 0.12, 0.03
# The brush that draws what lies close around the object, in cells of its grid.
RING = 9


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A frame's image (H, W, 3) RGB and its brightness (H, W)."""

    image: RgbImage
    gray: NDArray[np.uint8]

    @classmethod
    def of(cls, frame: Frame) -> ImageFeatures:
        """Return the frame's picture."""
        image = np.ascontiguousarray(frame.image)
        return cls(image, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))

    def seen_through(self, place: Matrix, shape: tuple[int, int]) -> RgbImage:
        """Return the picture on a grid of this place and (rows, columns)."""
        patch = cv2.warpAffine(
            self.image,
            place,
            shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(patch, np.uint8)


class Sighting(NamedTuple):
    """Where an object may be in a picture.

    Attributes:
        place: from the grid to the image.
        bins: the colours there, on the grid.
        odds: log odds of every cell that it shows the object, on the grid.
        fit: mean log odds by colour alone of what shows the object.
        agreement: how well shape and colours agree, as `_fits` gives it.
        likeness: how like the answer's object the colours of what shows it are together, 0 to 1.
        roi: the part of the image that the grid covers.
        expected: pixels that would show the object if nothing hid it.
    """

    place: Matrix
    bins: Bins
    odds: Floats
    fit: float
    agreement: float
    likeness: float
    roi: Roi
    expected: float

    @property
    def claim(self) -> Floats:
        """The log odds of every pixel of the roi; made anew each time, for it may be large."""
        if not self.roi.width or not self.roi.height:
            return np.zeros((0, 0), np.float32)
        onto = image_motion.compose(image_motion.shift(-self.roi.x, -self.roi.y), self.place)
        size = (self.roi.width, self.roi.height)
        return np.asarray(cv2.warpAffine(self.odds, onto, size, borderValue=-99), np.float32)


class TrackedObject:
    """An object and what was seen of it last.

    Attributes:
        segment: as it was added.
        picture: where it was looked for last.
        age: followed frames since it was seen.
        visible: share of it that was visible when it was seen last.
        fit: how well its colours fitted in the answer's picture, log odds.
        agreement: how well its shape and colours agreed there, log odds.
    """

    def __init__(self, picture: ImageFeatures, segment: Segment) -> None:
        self.segment = segment
        self.picture = picture
        self._roi, self._seen = segment.mask_roi, segment.mask
        self.age = 0
        self.visible = 1.0
        self._drift = np.zeros(2)
        self._place, shape = _grid_over(segment.mask_roi)
        self._template = np.asarray(
            cv2.warpAffine(
                self.mask.astype(np.float32),
                self._place,
                shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            ),
            np.float32,
        )
        bins = colour_bins(picture.seen_through(self._place, shape))
        self._colours = ColourModel(bins, self._template, self._around())
        colour = self._colours.log_odds(bins)
        self.fit = self._fit(colour, self._template > 0.5)
        self.agreement = float(_fits(colour, self._template, RING)[0, 0])
        # Where else it would have been found when it was seen last, (n, 2) pixels.
        self._rivals = np.zeros((0, 2))

    @property
    def mask(self) -> Mask:
        """What was visible of it in the last picture, (H, W) bool; all False while it is lost."""
        return in_image(self._seen, self._roi, *self.picture.gray.shape)

    @property
    def longest(self) -> float:
        """Its longest side, in pixels."""
        cells: int = max(self._template.shape) - 2 * MARGIN
        return cells * image_motion.scale_of(self._place)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The middle of its grid, (x, y) pixels."""
        return self._centre(self._place)

    def look(self, picture: ImageFeatures) -> Sighting:
        """Look for it where its motion has brought it."""
        guess = image_motion.shift(*self._drift)
        moved = None
        if not self.age:
            moved = image_motion.motion(
                self.picture.gray,
                picture.gray,
                self.mask,
                guess,
                rigid=self.visible < TURNING,
            )
        place = image_motion.compose(guess if moved is None else moved, self._place)
        return self.look_at(picture, place, COST_BLIND if moved is None else COST)

    def look_at(self, picture: ImageFeatures, place: Matrix, cost: float = COST_BLIND) -> Sighting:
        """Look for it near a place."""
        shape = self._template.shape
        bins = colour_bins(picture.seen_through(place, shape))
        dx, dy, agreement = _best_shift(self._colours.log_odds(bins), self._template, cost)
        if dx or dy:
            place = image_motion.compose(place, image_motion.shift(dx, dy))
            bins = colour_bins(picture.seen_through(place, shape))
        colour = self._colours.log_odds(bins)
        odds = cv2.GaussianBlur(colour, (0, 0), BLUR) + self._shape_odds()
        seen = (odds > 0) & (self._template > 0.5)
        return Sighting(
            place,
            bins,
            odds,
            self._fit(colour, seen),
            agreement,
            self._colours.likeness(bins, seen.astype(np.float32)),
            _under(odds.shape, place, picture.gray.shape),
            self._expected(place, picture.gray.shape),
        )

    def search(self, picture: ImageFeatures, taken: Mask) -> Matrix | None:
        """Return the place in the whole picture that looks most like it; None if none does.

        Args:
            picture: where to search.
            taken: (H, W) what is known to be something else.
        """
        scores, factor = self._likeness(picture, taken)
        for x, y in self._rivals / factor:
            cv2.circle(scores, (round(x), round(y)), round(0.6 * self.longest / factor), -9, -1)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        if best < 0.35 * self.fit:
            return None
        return self._moved_to(np.array([x, y]) * factor)

    def see(self, picture: ImageFeatures, sighting: Sighting, mask: Mask, visible: float) -> None:
        """Take a sighting for true."""
        moved = self._centre(sighting.place) - self.centre
        self._drift = moved if not self.age else np.zeros(2)
        self._place = sighting.place
        self._roi = Roi.around(mask)
        self._seen = mask[self._roi.slices].copy()
        self.picture, self.age, self.visible = picture, 0, visible
        self._rivals = np.zeros((0, 2))

    def learn(self, sighting: Sighting, looks: bool, shape: bool) -> None:
        """Learn from a sighting: the surroundings always, looks and shape where they are seen."""
        seen = (sighting.odds > 0).astype(np.float32)
        self._colours.learn_around(sighting.bins, self._around(), RATE_AROUND)
        if looks:
            self._colours.learn_object(sighting.bins, seen * self._template, RATE_LOOKS)
        if shape:
            rate = np.where(seen > self._template, RATE_GROW, RATE_SHRINK).astype(np.float32)
            self._template += rate * (seen - self._template)
            self._make_room()

    def _make_room(self) -> None:
        """Lay the grid anew around the shape when it has grown into the margin."""
        rows, columns = self._template.shape
        x, y, width, height = Roi.around(self._template > 0.5)
        gap = min(x, y, columns - x - width, rows - y - height)
        if gap >= MARGIN // 2 or not width or max(width, height) > LARGEST:
            return
        offset = image_motion.shift(MARGIN - x, MARGIN - y)
        size = (width + 2 * MARGIN, height + 2 * MARGIN)
        self._template = np.asarray(cv2.warpAffine(self._template, offset, size), np.float32)
        self._place = image_motion.compose(self._place, image_motion.shift(x - MARGIN, y - MARGIN))

    def miss(self, picture: ImageFeatures) -> None:
        """Take it for lost in this picture."""
        if not self.age:
            self._rivals = self._look_alikes()
        self.age += 1
        self._drift = np.zeros(2)
        self.picture = picture
        self._roi, self._seen = Roi(0, 0, 0, 0), np.zeros((0, 0), np.bool_)

    def _look_alikes(self) -> NDArray[np.float64]:
        """Return where else in the last picture with the object it would have been found."""
        scores, factor = self._likeness(self.picture, np.zeros(self.picture.gray.shape, np.bool_))
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

    def _likeness(self, picture: ImageFeatures, taken: Mask) -> tuple[Floats, float]:
        """Return how well it would fit at every pixel of the reduced picture, and how reduced."""
        height, width = picture.gray.shape
        factor = max(self.longest / SEARCH_SIZE, max(height, width) / SEARCH_PICTURE, 1.0)
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        reduced = cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA)
        bins = colour_bins(np.asarray(reduced, np.uint8))
        odds = self._colours.odds_against(histogram(bins, np.ones(bins.shape, np.float32)))[bins]
        odds[cv2.resize(taken.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0] = LEAST
        template = self._template
        rows, columns = template.shape
        linear = self._place[:, :2] / factor
        reach = math.ceil(0.5 * (np.abs(linear) @ [columns, rows]).max()) + 1
        middle = linear @ [(columns - 1) / 2, (rows - 1) / 2]
        onto = np.column_stack([linear, reach - middle])
        side = 2 * reach + 1
        kernel = np.asarray(cv2.warpAffine(template, onto, (side, side)), np.float32)
        padded = cv2.copyMakeBorder(odds, *(reach,) * 4, cv2.BORDER_CONSTANT, value=0)
        return _fits(np.asarray(padded, np.float32), kernel, 3), factor

    def _moved_to(self, centre: NDArray[np.float64]) -> Matrix:
        x, y = (centre - self.centre).tolist()
        return image_motion.compose(image_motion.shift(x, y), self._place)

    def _centre(self, place: Matrix) -> NDArray[np.float64]:
        rows, columns = self._template.shape
        middle = np.array([[(columns - 1) / 2, (rows - 1) / 2]])
        return image_motion.moved(place, middle).reshape(2)

    def _around(self) -> Floats:
        """Return which cells of the grid are surely not the object's."""
        near = cv2.dilate(self._template, np.ones((9, 9), np.uint8))
        return np.asarray(near < 0.05, np.float32)

    def _shape_odds(self) -> Floats:
        """Return what the shape alone says of each cell, in log odds."""
        soft = np.clip(cv2.GaussianBlur(self._template, (0, 0), SOFTNESS), OUTSIDE, INSIDE)
        return np.asarray(np.log(soft / (1 - soft)), np.float32)

    def _fit(self, colour: Floats, seen: Mask) -> float:
        return float(colour[seen].mean()) if seen.any() else -math.inf

    def _expected(self, place: Matrix, shape: tuple[int, ...]) -> float:
        """Return how many pixels inside the image the whole object covers at a place."""
        rows, columns = np.nonzero(self._template > 0.5)
        x, y = image_motion.moved(place, np.stack([columns, rows], axis=1).astype(float)).T
        inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
        return float(inside.sum()) * image_motion.scale_of(place) ** 2


def _grid_over(roi: Roi) -> tuple[Matrix, tuple[int, int]]:
    """Return the place of a grid over a rectangle, with a margin, and its (rows, columns)."""
    pitch = max(1.0, max(roi.width, roi.height) / GRID)
    columns, rows = (math.ceil(side / pitch) + 2 * MARGIN for side in (roi.width, roi.height))
    # The first cell inside the margin covers the rectangle's first pixels.
    x, y = (start + 0.5 * pitch - 0.5 - MARGIN * pitch for start in (roi.x, roi.y))
    return np.array([[pitch, 0.0, x], [0.0, pitch, y]]), (rows, columns)


def _best_shift(odds: Floats, template: Floats, cost: float) -> tuple[float, float, float]:
    """Return by how many cells (x, y) the template moves to fit the colours best, and how well."""
    fits = _fits(odds, template[REACH:-REACH, REACH:-REACH], RING)
    offsets = np.arange(-REACH, REACH + 1, dtype=np.float32)
    costly: Floats = fits - np.float32(cost) * np.hypot(offsets[:, None], offsets[None, :])
    _, _, _, (column, row) = cv2.minMaxLoc(costly)
    dx, dy = _peak(costly[row], column), _peak(costly[:, column], row)
    return column - REACH + dx, row - REACH + dy, float(fits[row, column])


def _fits(odds: Floats, kernel: Floats, ring: int) -> Floats:
    """Return how well a shape fits the colours wherever it lies wholly inside them.

    What the shape covers should speak for the object, what lies close around it should not.

    Args:
        odds: (h, w) log odds of every cell by its colour.
        kernel: (rows, columns) the shape, 0 to 1.
        ring: the diameter of the brush that draws around it, in cells.

    Returns:
        (h - rows + 1, w - columns + 1) log odds per cell of the shape.
    """
    around = cv2.dilate(kernel, np.ones((ring, ring), np.uint8)) - kernel
    covered = cv2.matchTemplate(np.maximum(odds, LEAST), kernel, cv2.TM_CCORR)
    left_over = cv2.matchTemplate(np.maximum(odds, 0), around, cv2.TM_CCORR)
    return np.asarray((covered - left_over) / max(float(kernel.sum()), 1e-6), np.float32)


def _peak(values: Floats, at: int) -> float:
    """Return how far the top of the parabola through three values is from the middle one."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, top, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * top + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _under(shape: tuple[int, ...], place: Matrix, image: tuple[int, ...]) -> Roi:
    """Return the part of an image that a grid at a place covers; both of (rows, columns)."""
    rows, columns = shape
    corners = np.array([[x, y] for x in (0, columns - 1) for y in (0, rows - 1)], float)
    x, y = image_motion.moved(place, corners).T
    left, top = max(0, math.floor(x.min())), max(0, math.floor(y.min()))
    right, bottom = min(image[1], math.ceil(x.max()) + 1), min(image[0], math.ceil(y.max()) + 1)
    roi = Roi(left, top, max(0, right - left), max(0, bottom - top))
    return roi if roi.width and roi.height else Roi(0, 0, 0, 0)
