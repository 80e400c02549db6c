"""Colour histograms of an object and its surroundings, updated slowly."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import RgbImage

Floats = NDArray[np.float32]
Bins = NDArray[np.intp]

# Bins of lightness (L), and of a and b in CIE Lab. Lightness is coarser, because shadows change
# it.
SHAPE = (16, 32, 32)
BINS = SHAPE[0] * SHAPE[1] * SHAPE[2]
# Uniform share mixed into each histogram, so that an unseen colour counts rather as an occluder.
UNSEEN_OBJECT, UNSEEN_AROUND = 0.02, 0.08
# Limit for the log odds of a pixel.
MAX_LOG_ODDS = 3.0


def colour_bins(image: RgbImage) -> Bins:
    """Return the (H, W) bins of an (H, W, 3) RGB image's pixels."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness, a, b = (lab[..., axis].astype(np.intp) for axis in range(3))
    # Surface colours are in the middle half of the axes; the rest is clipped.
    a, b = (np.clip((axis - 64) >> 2, 0, SHAPE[1] - 1) for axis in (a, b))
    bins: Bins = ((lightness >> 4) * SHAPE[1] + a) * SHAPE[2] + b
    return bins


class ColourModel:
    """The colours that distinguish an object from its surroundings.

    Half of the object's histogram stays that of the answer's mask, so that an occluder never
    replaces it in the long run.
    """

    def __init__(self, bins: Bins, inside: Floats, around: Floats) -> None:
        """Initialise from one image.

        Args:
            bins: of the pixels.
            inside: each pixel's weight for the object, 0 to 1.
            around: each pixel's weight for the surroundings, 0 to 1.
        """
        self.answer = histogram(bins, inside)
        self._recent = self.answer
        self._around = histogram(bins, around)
        self._table: Floats | None = None

    def learn_object(self, bins: Bins, inside: Floats, rate: float) -> None:
        """Update the object's colours; `rate` is the weight of the new ones."""
        self._recent = _mixed(self._recent, histogram(bins, inside), rate)
        self._table = None

    def learn_around(self, bins: Bins, around: Floats, rate: float) -> None:
        """Update the surroundings' colours; `rate` is the weight of the new ones."""
        self._around = _mixed(self._around, histogram(bins, around), rate)
        self._table = None

    def log_odds(self, bins: Bins) -> Floats:
        """Return each pixel's log odds for the object, clipped to MAX_LOG_ODDS."""
        if self._table is None:
            self._table = self.odds_against(self._around)
        odds: Floats = self._table[bins]
        return odds

    def odds_against(self, around: Floats) -> Floats:
        """Return every bin's log odds for the object, given the surroundings' histogram."""
        recent_and_answer = 0.5 * (self.answer + self._recent)
        own = (1 - UNSEEN_OBJECT) * recent_and_answer + UNSEEN_OBJECT / BINS
        other = (1 - UNSEEN_AROUND) * around + UNSEEN_AROUND / BINS
        return np.clip(np.log(own / other), -MAX_LOG_ODDS, MAX_LOG_ODDS).astype(np.float32)

    def similarity(self, bins: Bins, inside: Floats) -> float:
        """Return the Bhattacharyya coefficient of these pixels and the answer's object, 0 to 1."""
        return float(np.sqrt(histogram(bins, inside) * self.answer).sum())


def histogram(bins: Bins, weights: Floats) -> Floats:
    """Return the weighted, smoothed histogram, (BINS,), normalised to 1."""
    counts = np.bincount(bins.ravel(), weights.ravel(), minlength=BINS).reshape(SHAPE)
    for axis in range(3):
        padded = np.pad(counts, [(int(axis == other),) * 2 for other in range(3)], 'edge')
        lower, upper = (np.take(padded, range(k, k + SHAPE[axis]), axis) for k in (0, 2))
        counts = 0.5 * counts + 0.25 * (lower + upper)
    total = counts.sum()
    shares: Floats = (counts.ravel() / total if total else np.full(BINS, 1 / BINS)).astype(
        np.float32
    )
    return shares


def _mixed(old: Floats, new: Floats, rate: float) -> Floats:
    mixed: Floats = ((1 - rate) * old + rate * new).astype(np.float32)
    return mixed
