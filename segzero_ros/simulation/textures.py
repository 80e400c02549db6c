"""Procedural surfaces: wood, cloth, marble and laminate, and labels on objects.

A texture gives a factor or a colour per point; colours are sRGB 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.colours import Rgb

Values = NDArray[np.float32]
Rng = np.random.Generator

_NOISE_SIZE = 512
_REMAP_COLUMNS = 1024


@lru_cache(maxsize=1)
def _noise() -> Values:
    """Return (512, 512) fractal noise in 0 to 1 that repeats without a seam."""
    rng = np.random.default_rng(20)
    total = np.zeros((_NOISE_SIZE, _NOISE_SIZE), np.float32)
    for octave, cells in enumerate((4, 8, 16, 32, 64, 128)):
        grid = rng.random((cells, cells), np.float32)
        tiled = np.tile(grid, (3, 3))
        large = cv2.resize(tiled, (3 * _NOISE_SIZE,) * 2, interpolation=cv2.INTER_CUBIC)
        total += 0.6**octave * large[_NOISE_SIZE : 2 * _NOISE_SIZE, _NOISE_SIZE : 2 * _NOISE_SIZE]
    low, high = np.percentile(total, (1, 99))
    noise: Values = np.clip((total - low) / (high - low), 0, 1).astype(np.float32)
    return noise


def noise_at(x: Values, y: Values, metres: float, offset: tuple[float, float]) -> Values:
    """Return noise in 0 to 1 with a period of `metres`, at points of any shape."""
    scale = _NOISE_SIZE / metres
    u = (x * scale + offset[0] * _NOISE_SIZE).astype(np.float32) % _NOISE_SIZE
    v = (y * scale + offset[1] * _NOISE_SIZE).astype(np.float32) % _NOISE_SIZE
    # cv2.remap supports less than 2**15 rows and columns: reshape a long row of points.
    rows = max(1, -(-u.size // _REMAP_COLUMNS))
    u, v = (np.resize(each, (rows, _REMAP_COLUMNS)) for each in (u, v))
    found = cv2.remap(_noise(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(found, np.float32).ravel()[: x.size].reshape(x.shape)


@dataclass(frozen=True)
class Ground:
    """A flat texture.

    Attributes:
        kind: its material.
        mean: its approximate mean colour.
        gloss: strength of its highlight, 0 to 1.
        colour: from x and y in metres, float32 of one shape, to colours with a last axis of 3.
        dyes: names of its colours.
    """

    kind: str
    mean: Rgb
    gloss: float
    colour: Callable[[Values, Values], Values]
    dyes: tuple[Rgb, ...] = ()


def _turned(x: Values, y: Values, angle: float) -> tuple[Values, Values]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _blend(low: Rgb, high: Rgb, amount: Values) -> Values:
    one, other = np.asarray(low, np.float32), np.asarray(high, np.float32)
    blended: Values = one + (other - one) * amount[..., None]
    return blended


def _middle(low: Rgb, high: Rgb) -> Rgb:
    return tuple((a + b) / 2 for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def wood(rng: Rng) -> Ground:
    """Return planks with grain."""
    woods: list[tuple[Rgb, Rgb]] = [
        ((0.52, 0.37, 0.24), (0.68, 0.52, 0.36)),
        ((0.72, 0.60, 0.45), (0.84, 0.74, 0.60)),
        ((0.30, 0.20, 0.14), (0.42, 0.30, 0.21)),
        ((0.60, 0.57, 0.52), (0.74, 0.71, 0.66)),
    ]
    low, high = woods[rng.integers(len(woods))]
    angle, offset = rng.uniform(0, np.pi), (float(rng.random()), float(rng.random()))
    plank = float(rng.uniform(0.09, 0.16))
    tones = rng.uniform(-0.16, 0.16, 64).astype(np.float32)

    def colour(x: Values, y: Values) -> Values:
        along, across = _turned(x, y, angle)
        number = np.floor(across / plank).astype(np.int32)
        shift = (number * np.float32(0.37)).astype(np.float32)
        grain = noise_at(along * 0.12 + shift, across * 1.6, 0.5, offset)
        fine = noise_at(along * 0.15 + shift, across * 4.0, 0.35, offset)
        seam = np.abs(across / plank - number - 0.5) > 0.485
        amount = 0.65 * grain + 0.35 * fine + tones[number % 64]
        return _blend(low, high, np.where(seam, amount - 0.7, amount))

    return Ground('wood', _middle(low, high), float(rng.uniform(0.02, 0.22)), colour)


def marble(rng: Rng) -> Ground:
    """Return stone with veins."""
    stones: list[tuple[Rgb, Rgb]] = [
        ((0.55, 0.55, 0.57), (0.90, 0.89, 0.87)),
        ((0.10, 0.10, 0.11), (0.27, 0.27, 0.29)),
        ((0.62, 0.56, 0.48), (0.88, 0.83, 0.75)),
    ]
    low, high = stones[rng.integers(len(stones))]
    angle, offset = rng.uniform(0, np.pi), (float(rng.random()), float(rng.random()))

    def colour(x: Values, y: Values) -> Values:
        along, _ = _turned(x, y, angle)
        turbulence = noise_at(x, y, 0.8, offset)
        vein = np.abs(np.sin(22.0 * along + 9.0 * turbulence)) ** np.float32(0.35)
        cloud = noise_at(x, y, 1.9, offset)
        return _blend(low, high, np.clip(0.35 + 0.45 * vein + 0.35 * (cloud - 0.4), 0, 1.1))

    mean = tuple(0.35 * a + 0.65 * b for a, b in zip(low, high, strict=True))
    return Ground('marble', mean, float(rng.uniform(0.1, 0.3)), colour)  # type: ignore[arg-type]


def laminate(rng: Rng) -> Ground:
    """Return an office desk: one pale or dark colour with fine speckles."""
    plains: list[Rgb] = [
        (0.86, 0.85, 0.83), (0.70, 0.71, 0.72), (0.45, 0.46, 0.48),
        (0.20, 0.20, 0.22), (0.80, 0.76, 0.69), (0.62, 0.68, 0.70),
    ]  # fmt: skip
    plain = plains[rng.integers(len(plains))]
    strength, offset = float(rng.uniform(0.02, 0.14)), (float(rng.random()), float(rng.random()))

    def colour(x: Values, y: Values) -> Values:
        fine = noise_at(x, y, 0.16, offset) - 0.5
        broad = noise_at(x, y, 1.4, offset) - 0.5
        factor = 1.0 + strength * fine + 0.08 * broad
        return np.asarray(plain, np.float32) * factor[..., None]

    return Ground('laminate', plain, float(rng.uniform(0.02, 0.3)), colour)


_CLOTHS: tuple[Rgb, ...] = (
    (0.82, 0.79, 0.72), (0.36, 0.45, 0.58), (0.44, 0.53, 0.40), (0.58, 0.34, 0.33),
    (0.72, 0.62, 0.45), (0.30, 0.30, 0.33), (0.88, 0.88, 0.88),
)  # fmt: skip


def cloth(rng: Rng) -> Ground:
    """Return a table cloth of one colour with soft folds and a weave."""
    plain = _CLOTHS[rng.integers(len(_CLOTHS))]
    angle, offset = rng.uniform(0, np.pi), (float(rng.random()), float(rng.random()))
    thread = float(rng.uniform(350, 600))

    def colour(x: Values, y: Values) -> Values:
        along, across = _turned(x, y, angle)
        weave = np.sin(along * thread) * np.sin(across * thread)
        folds = noise_at(along * 0.4, across, 1.1, offset) - 0.5
        factor = 1.0 + 0.035 * weave + 0.22 * folds
        return np.asarray(plain * factor[..., None], np.float32)

    return Ground('cloth', plain, 0.0, colour, (plain,))


def gingham(rng: Rng) -> Ground:
    """Return a patterned table cloth: checks or stripes of a muted colour on a pale one."""
    pale: Rgb = (0.88, 0.86, 0.82)
    plain = _CLOTHS[rng.integers(1, 5)]
    angle, cell = rng.uniform(0, np.pi), float(rng.uniform(0.03, 0.07))
    striped = rng.random() < 0.4
    offset = (float(rng.random()), float(rng.random()))

    def colour(x: Values, y: Values) -> Values:
        along, across = _turned(x, y, angle)
        one = np.clip(6.0 * np.sin(along * np.float32(np.pi / cell)), -1, 1) * 0.5 + 0.5
        other = np.clip(6.0 * np.sin(across * np.float32(np.pi / cell)), -1, 1) * 0.5 + 0.5
        amount = one if striped else 0.5 * (one + other)
        folds = noise_at(x, y, 0.9, offset) - 0.5
        mixed: Values = _blend(pale, plain, amount) * (1.0 + 0.15 * folds)[..., None]
        return mixed

    return Ground('gingham', _middle(pale, plain), 0.0, colour, (pale, plain))


GROUNDS: dict[str, Callable[[Rng], Ground]] = {
    maker.__name__: maker for maker in (wood, marble, laminate, cloth, gingham)
}


@dataclass(frozen=True)
class Skin:
    """The texture of an object's body over its plain colour.

    Attributes:
        kind: 'plain', 'speckled', 'label', 'stripes' or 'brushed'.
        accent: colour of the label, the stripes or the cap.
        strength: of the unevenness, 0 to 1.
        offset: of this object in the noise.
    """

    kind: str
    accent: Rgb
    strength: float
    offset: tuple[float, float]


SKINS = ('plain', 'speckled', 'label', 'stripes', 'brushed')


def skin_colours(plain: Rgb, skin: Skin, points: Values, height: float) -> Values:
    """Return (N, 3) colours of a body at (N, 3) points of its own frame."""
    x, y, z = (np.ascontiguousarray(axis, np.float32) for axis in points.T)
    around = np.arctan2(y, x).astype(np.float32)
    u, v = around * np.float32(0.04) + x, z + y
    metres = {'speckled': 0.05, 'brushed': 0.2}.get(skin.kind, 0.25)
    stretch = np.float32(6.0 if skin.kind == 'brushed' else 1.0)
    uneven = noise_at(u, v * stretch, metres, skin.offset) - 0.5
    colours = np.asarray(plain, np.float32) * (1.0 + skin.strength * uneven)[:, None]
    level = z / max(height, 1e-6)
    if skin.kind == 'label':
        # A band with a row of dark dashes, like distant text.
        band = (level > 0.36) & (level < 0.62)
        colours[band] = skin.accent
        dashes = (np.sin(u * 420) > 0) & (np.abs(level - 0.52) < 0.035)
        lines = (np.sin(u * 260 + 1) > -0.3) & (np.abs(level - 0.44) < 0.018)
        colours[band & (dashes | lines)] = np.asarray(skin.accent, np.float32) * 0.35
    elif skin.kind == 'stripes':
        colours[np.abs(np.mod(level * 3.0, 1.0) - 0.5) < 0.09] = skin.accent
    return np.clip(colours, 0.0, 1.0)
