"""Colours with their names, and other names that people may use."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[float, float, float]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Paint:
    """A colour with its name.

    Attributes:
        name: the plain English name.
        shade: 'light', 'dark' or '' for neither.
        rgb: sRGB under white light, 0 to 1.
    """

    name: str
    shade: str
    rgb: Rgb


# Ranges of hue in degrees, saturation and value. Neighbours are separated by a gap of hue without
# paints, so that names are unambiguous.
_RANGES: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ('red', ''): ((-7, 5), (0.82, 0.95), (0.68, 0.84)),
    ('red', 'dark'): ((-6, 2), (0.80, 0.95), (0.44, 0.54)),
    ('orange', ''): ((20, 27), (0.86, 0.98), (0.86, 0.96)),
    ('yellow', ''): ((48, 56), (0.74, 0.94), (0.84, 0.96)),
    ('green', ''): ((108, 146), (0.58, 0.85), (0.48, 0.66)),
    ('green', 'dark'): ((112, 150), (0.55, 0.80), (0.29, 0.38)),
    ('green', 'light'): ((100, 130), (0.38, 0.52), (0.80, 0.92)),
    ('turquoise', ''): ((174, 184), (0.58, 0.80), (0.62, 0.80)),
    ('blue', ''): ((212, 228), (0.74, 0.92), (0.62, 0.82)),
    ('blue', 'dark'): ((218, 232), (0.68, 0.85), (0.35, 0.46)),
    ('blue', 'light'): ((205, 216), (0.34, 0.48), (0.86, 0.96)),
    ('purple', ''): ((270, 286), (0.55, 0.75), (0.48, 0.66)),
    ('purple', 'dark'): ((270, 284), (0.52, 0.68), (0.36, 0.43)),
    ('pink', ''): ((328, 344), (0.36, 0.55), (0.90, 0.99)),
    ('brown', ''): ((18, 27), (0.58, 0.72), (0.34, 0.44)),
    ('black', ''): ((0, 360), (0.0, 0.08), (0.09, 0.15)),
    ('gray', ''): ((0, 360), (0.0, 0.05), (0.40, 0.56)),
    ('white', ''): ((0, 360), (0.0, 0.03), (0.92, 0.98)),
}

SHADES: dict[str, tuple[str, ...]] = {}
for _name, _shade in _RANGES:
    SHADES[_name] = (*SHADES.get(_name, ()), _shade)
NAMES = tuple(SHADES)

# Other names that people may use for this colour: no sentence is made with them.
ALSO: dict[str, tuple[str, ...]] = {
    'red': ('orange', 'pink', 'brown'),
    'orange': ('red', 'brown', 'yellow'),
    'yellow': ('orange',),
    'green': ('turquoise',),
    'turquoise': ('blue', 'green'),
    'blue': ('turquoise', 'purple'),
    'purple': ('blue', 'pink'),
    'pink': ('purple', 'red'),
    'brown': ('red', 'orange', 'black'),
    'black': ('gray', 'brown'),
    'gray': ('black', 'white'),
    'white': ('gray',),
}

# Other words for a colour: (word, shade that it fits; None fits every shade).
WORDS: dict[str, tuple[tuple[str, str | None], ...]] = {
    'red': (('red', None), ('crimson', 'dark'), ('scarlet', ''), ('dark red', 'dark')),
    'orange': (('orange', None), ('orange-coloured', None)),
    'yellow': (('yellow', None),),
    'green': (('green', None), ('dark green', 'dark'), ('light green', 'light')),
    'turquoise': (('turquoise', None), ('teal', None)),
    'blue': (('blue', None), ('navy', 'dark'), ('dark blue', 'dark'), ('light blue', 'light')),
    'purple': (('purple', None), ('violet', None)),
    'pink': (('pink', None),),
    'brown': (('brown', None),),
    'black': (('black', None),),
    'gray': (('gray', None), ('grey', None)),
    'white': (('white', None),),
}


def mix(rng: np.random.Generator, name: str, shade: str = '') -> Paint:
    """Return a random paint of a name and shade."""
    (hue_low, hue_high), saturation, value = _RANGES[name, shade]
    hue = rng.uniform(hue_low, hue_high) % 360 / 360
    rgb = colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))
    return Paint(name, shade, rgb)


def difference(one: Rgb, other: Rgb) -> float:
    """Return the colour difference of two sRGB colours (CIE 1976 ΔE)."""
    return float(differences(one, np.array([other]))[0])


def differences(one: Rgb, others: Array) -> Array:
    """Return (N,) colour differences of (N, 3) sRGB colours to one (CIE 1976 ΔE)."""
    return np.asarray(np.linalg.norm(_lab(others) - _lab(np.array([one])), axis=1))


def alike(one: Rgb, other: Rgb) -> bool:
    """Return whether two colours have similar hues, if both are chromatic."""
    (hue, saturation, _), (other_hue, other_saturation, _) = (
        colorsys.rgb_to_hsv(*rgb) for rgb in (one, other)
    )
    apart = abs((hue - other_hue + 0.5) % 1.0 - 0.5)
    return min(saturation, other_saturation) > 0.15 and apart < 28 / 360


def _lab(srgb: Array) -> Array:
    # Standard formulas with the D65 white point; OpenCV needs an image.
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
