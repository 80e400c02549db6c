"""Fourth stage: thirteen colour names, by a table from RGB, and a region's colour summary.

The limits between names are hue angles (HSV), which shading hardly changes, with lightness, chroma
(CIE Lab) and saturation where a name needs them: brown is dark orange, pink is pale red, beige is
pale yellow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.reasoning.attributes.oversegmentation import level, mean_colour
from segzero_ros.types import RgbImage

Array = NDArray[np.float64]

NAMES = (
    'red', 'orange', 'yellow', 'green', 'turquoise', 'blue', 'purple', 'pink', 'brown', 'beige',
    'white', 'grey', 'black',
)  # fmt: skip
_INDEX = {name: index for index, name in enumerate(NAMES)}
_GREYS = ('white', 'grey', 'black')
_IS_GREY = np.isin(NAMES, _GREYS)
# Bits of each channel in the table of names: 32,768 entries, which fit the cache.
_BITS = 5

# Neighbouring names, which people use on the other side of a limit: half a fit.
_CLOSE = {
    'red': ('pink', 'brown', 'orange'), 'orange': ('brown', 'yellow', 'red'), 'yellow': ('beige',),
    'turquoise': ('green', 'blue'), 'blue': ('turquoise',), 'green': ('turquoise', 'yellow'),
    'purple': ('pink', 'blue'), 'pink': ('purple', 'red'), 'brown': ('beige', 'orange'),
    'beige': ('brown', 'yellow', 'white'), 'white': ('grey', 'beige'), 'grey': ('white', 'black'),
    'black': ('grey',),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ColourSummary:
    """The colour of a region's pixels.

    Attributes:
        shares: share of the region's pixels of each of NAMES; they sum to 1.
        name: the colour that a person would name.
        lightness: CIE L of the lit part of that colour, 0 to 100.
        saturation: HSV saturation of that colour, 0 to 1.
        lab: CIE Lab mean of that colour's pixels.
        grey_levels: CIE L of the darker (30 %) and the lighter (65 %) of the colourless pixels.
    """

    shares: dict[str, float]
    name: str
    lightness: float
    saturation: float
    lab: tuple[float, float, float]
    grey_levels: tuple[float, float]

    @property
    def tone(self) -> str:
        """`light`, `dark`, or empty for neither."""
        if self.name in _GREYS:
            return {'white': 'light', 'black': 'dark'}.get(self.name, '')
        if self.lightness > 52 and self.saturation < 0.56:
            return 'light'
        return 'dark' if self.lightness < _DARK_BELOW.get(self.name, 30) else ''

    @property
    def described(self) -> str:
        """The colour in words: "dark blue", "orange and white"."""
        first = f'{self.tone} {self.name}' if self.tone and self.name not in _GREYS else self.name
        if self.name == 'brown' and self.tone == 'dark':
            first = 'brown'
        more = [n for n, share in self.shares.items() if n != self.name and share >= 0.25]
        return f'{first} and {more[0]}' if more and self._distinct(more[0]) else first

    def _distinct(self, other: str) -> bool:
        """Whether a second colour is more than highlight or shadow of the first."""
        return (
            other not in _CLOSE[self.name]
            and self.name not in _CLOSE[other]
            and not (other in ('black', 'grey') and self.lightness < 40)
        )

    def fit(self, term: str) -> float:
        """Return how well a colour word fits, 0 to 1; above 0.5 a person would agree.

        Args:
            term: one of NAMES, with `light`, `dark` or `bright` before it or alone.
        """
        tone, _, name = term.rpartition(' ')
        if name in ('light', 'dark', 'bright'):
            return self._tone_fit(name)
        fits = self._name_fit(name)
        return fits * (1.0 if self._tone_allows(tone) else 0.3)

    def share(self, name: str) -> float:
        """Return the share of pixels of this name, without regard to tone."""
        return self.shares[name.rpartition(' ')[2]]

    def _name_fit(self, name: str) -> float:
        if name in _GREYS and self.name in _GREYS:
            return self._grey_fit(name)
        if name == self.name:
            return 1.0
        share = self.shares[name]
        if self.name in _GREYS:
            # A bowl that is white inside shows little of its colour.
            coloured = sum(part for other, part in self.shares.items() if other not in _GREYS)
            least = 0.15 if name in _FAINT else 0.05
            return 0.6 if share > max(least, 0.6 * coloured) else 0.45 * min(1.0, 4 * share)
        total = self.shares[self.name] + share
        if name in _CLOSE[self.name] and share > 0.3 * total:
            return 0.35 + 0.5 * share / total
        return 0.45 * share / total if total else 0.0

    def _grey_fit(self, name: str) -> float:
        """Return the fit of white, grey or black by lightness; near a limit two fit."""
        shadow, lit = self.grey_levels
        fit = {
            'white': (lit - 48) / 14,
            'grey': min((72 - lit) / 12, (shadow - 10) / 10),
            'black': (26 - shadow) / 12,
        }[name]
        return float(np.clip(fit, 0, 1))

    def _tone_allows(self, tone: str) -> bool:
        if tone == 'light':
            return self.tone != 'dark' and (self.lightness > 45 or self.saturation < 0.5)
        if tone == 'dark':
            return self.tone != 'light' and self.lightness < 50
        return tone != 'bright' or (self.tone != 'dark' and self.saturation > 0.4)

    def _tone_fit(self, tone: str) -> float:
        if tone == 'bright':
            return float(np.clip((self.lightness - 30) / 40, 0, 1)) * (self.saturation > 0.35)
        fit = (self.lightness - 30) / 40 if tone == 'light' else (60 - self.lightness) / 40
        return float(np.clip(fit, 0, 1))


# White things have these colours in warm light.
_FAINT = ('yellow', 'beige', 'brown', 'orange')
# CIE L of a colour's lit part below which people say "dark".
_DARK_BELOW = {'yellow': 45, 'orange': 42, 'turquoise': 35, 'red': 29, 'brown': 18, 'purple': 25}


@cache
def _table() -> NDArray[np.uint8]:
    """Return the index into NAMES of each RGB colour of five bits a channel."""
    steps = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) / (1 << _BITS)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), axis=-1)
    rgb = np.ascontiguousarray(cube.reshape(1, -1, 3))
    hue, saturation, value = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[0].T.astype(np.float64)
    lightness, a, b = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0].T.astype(np.float64)
    names = _named(hue, saturation, value, lightness, np.hypot(a, b))
    return np.array([_INDEX[str(name)] for name in names], np.uint8)


def _named(
    hue: Array, saturation: Array, value: Array, lightness: Array, chroma: Array
) -> NDArray[np.str_]:
    colourless = chroma < 8 + 0.25 * np.maximum(lightness - 70, 0)
    warm = (hue >= 12) & (hue < 40)
    dull = (
        (value < 0.4)
        | ((value < 0.66) & (saturation < 0.78))
        | ((value < 0.56) & (saturation < 0.87))
    )
    return np.select(
        [
            (lightness < 6) | (colourless & (lightness < 20)),
            colourless & (lightness < 64),
            colourless,
            (hue >= 20) & (hue < 75) & (saturation < 0.42) & (value > 0.55),
            warm & dull,
            warm,
            (hue >= 40) & (hue < 66) & (value < 0.28),
            (hue >= 40) & (hue < 66),
            (hue >= 66) & (hue < 160),
            (hue >= 160) & (hue < 196),
            (hue >= 196) & (hue < 250),
            (hue >= 250) & (hue < 313),
            (hue >= 313) & (hue < 348) & ~((hue > 335) & (saturation > 0.66)),
            (saturation < 0.5) & (value > 0.6),
        ],
        [
            'black', 'grey', 'white', 'beige', 'brown', 'orange', 'brown', 'yellow', 'green',
            'turquoise', 'blue', 'purple', 'pink', 'pink',
        ],
        'red',
    )  # fmt: skip


def classify_pixels(image: RgbImage) -> NDArray[np.uint8]:
    """Return (H, W) uint8: each pixel's colour as an index into NAMES."""
    r, g, b = (channel.astype(np.int32) >> (8 - _BITS) for channel in cv2.split(image))
    return _table().take((((r << _BITS) | g) << _BITS) | b)


def summarise(
    names: NDArray[np.uint8], rgb: NDArray[np.uint8], lab: NDArray[np.uint8]
) -> ColourSummary:
    """Summarise the colour of a region's pixels.

    Args:
        names: (N,) indices into NAMES.
        rgb: (N, 3) the same pixels.
        lab: (N, 3) the same pixels in OpenCV's 8-bit Lab.
    """
    shares = np.bincount(names, minlength=len(NAMES)) / max(len(names), 1)
    coloured = 1.0 - float(shares[_IS_GREY].sum())
    levels = _grey_levels(names, lab[:, 0])
    # Coloured things have colourless parts: cap, label, highlight, shadow.
    ranked = shares.copy()
    if coloured >= 0.3:
        ranked[_IS_GREY] = 0
    best = int(ranked.argmax())
    if coloured < 0.3:
        best = _grey_name(*levels)
    chosen = names == best
    if not chosen.any():
        chosen = np.ones(len(names), np.bool_)
    lit = np.flatnonzero(chosen & (lab[:, 0] >= level(lab[chosen, 0], 0.5)))
    red, green, blue = rgb.take(lit, axis=0).T
    peak = np.maximum(np.maximum(red, green), blue).astype(np.float64)
    low = np.minimum(np.minimum(red, green), blue)
    mean = mean_colour(lab.take(lit, axis=0))
    return ColourSummary(
        {name: float(share) for name, share in zip(NAMES, shares, strict=True)},
        NAMES[best],
        float(mean[0]) / 2.55,
        float(np.mean((peak - low) / np.maximum(peak, 1))),
        (float(mean[0]) / 2.55, float(mean[1]) - 128, float(mean[2]) - 128),
        levels,
    )


def _grey_levels(names: NDArray[np.uint8], lightness: NDArray[np.uint8]) -> tuple[float, float]:
    grey = lightness[_IS_GREY[names]]
    some = grey if grey.size else lightness
    return level(some, 0.30) / 2.55, level(some, 0.65) / 2.55


def _grey_name(shadow: float, lit: float) -> int:
    if shadow < 14:
        return _INDEX['black']
    return _INDEX['white' if lit > 58 else 'grey']
