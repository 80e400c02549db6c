"""Which colours are the object's and which its surroundings': two histograms that learn slowly."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.types import RgbImage

Floats = NDArray[np.float32]
Bins = NDArray[np.intp]

# Bins of lightness, and of each of the two colour axes. Lightness is the coarse one: shadows
# change it, paint does not.
SHAPE = (16, 32, 32)
BINS = SHAPE[0] * SHAPE[1] * SHAPE[2]
# What a colour that neither has shown so far counts for: rather something new in front of it.
UNSEEN_OBJECT, UNSEEN_AROUND = 0.02, 0.08
# How strongly one pixel may speak, as log odds.
MOST = 3.0


def colour_bins(image: RgbImage) -> Bins:
    """Return each pixel's bin, (H, W), of an (H, W, 3) RGB image."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness, a, b = (lab[..., axis].astype(np.intp) for axis in range(3))
    # The colours of surfaces lie in the middle half of the axes; the rest is cut to the edge.
    a, b = (np.clip((axis - 64) >> 2, 0, SHAPE[1] - 1) for axis in (a, b))
    bins: Bins = ((lightness >> 4) * SHAPE[1] + a) * SHAPE[2] + b
    return bins


class ColourModel:
    """What tells an object from its surroundings.

    Half of what is known of the object stays what the answer's mask showed, so that whatever
    slides in front of it is never taken for it in the long run.
    """

    def __init__(self, bins: Bins, inside: Floats, around: Floats) -> None:
        """Learn from one picture.

        Args:
            bins: the pixels' bins.
            inside: how much each pixel is the object's, 0 to 1.
            around: how much it is known not to be.
        """
        self.answer = histogram(bins, inside)
        self._recent = self.answer
        self._around = histogram(bins, around)
        self._table: Floats | None = None

    def learn_object(self, bins: Bins, inside: Floats, rate: float) -> None:
        """Move towards what the object looks like now."""
        self._recent = _mixed(self._recent, histogram(bins, inside), rate)
        self._table = None

    def learn_around(self, bins: Bins, around: Floats, rate: float) -> None:
        """Move towards what its surroundings look like now."""
        self._around = _mixed(self._around, histogram(bins, around), rate)
        self._table = None

    def log_odds(self, bins: Bins) -> Floats:
        """Return how much each pixel's colour speaks for the object, from -MOST to MOST."""
        if self._table is None:
            self._table = self.odds_against(self._around)
        odds: Floats = self._table[bins]
        return odds

    def odds_against(self, around: Floats) -> Floats:
        """Return the log odds of every bin against surroundings of this histogram."""
        looks = 0.5 * (self.answer + self._recent)
        mine = (1 - UNSEEN_OBJECT) * looks + UNSEEN_OBJECT / BINS
        others = (1 - UNSEEN_AROUND) * around + UNSEEN_AROUND / BINS
        return np.clip(np.log(mine / others), -MOST, MOST).astype(np.float32)

    def likeness(self, bins: Bins, inside: Floats) -> float:
        """Return how like the answer's object these pixels are: histograms' overlap, 0 to 1."""
        return float(np.sqrt(histogram(bins, inside) * self.answer).sum())


def histogram(bins: Bins, weights: Floats) -> Floats:
    """Return the weighted share of every bin, blurred to its neighbours, summing to 1."""
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
