"""Simulated sensors: exposure, blur and noise of images, noise and holes of depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.solids import Array
from segzero_ros.types import DepthImage, RgbImage

Rng = np.random.Generator


@dataclass(frozen=True)
class Look:
    """Constant properties of a colour camera.

    Attributes:
        exposure: factor on the automatic exposure.
        balance: factors on red, green and blue.
        vignette: how much darker the corners are, 0 to 1.
        blur: of the lens, standard deviation in pixels.
        noise: standard deviation, of white.
    """

    exposure: float
    balance: tuple[float, float, float]
    vignette: float
    blur: float
    noise: float


def look(rng: Rng) -> Look:
    """Return the properties of a random camera."""
    exposure = float(rng.uniform(0.88, 1.12))
    balance = 1.0 + rng.uniform(-0.05, 0.05, 3)
    r, g, b = (float(value) for value in balance / balance.mean())
    vignette, blur = float(rng.uniform(0.0, 0.16)), float(rng.uniform(0.55, 0.85))
    return Look(exposure, (r, g, b), vignette, blur, float(rng.uniform(0.006, 0.018)))


def photograph(rng: Rng, light: NDArray[np.float32], look: Look) -> RgbImage:
    """Return the (H, W, 3) uint8 image of a colour camera for linear light."""
    height, width = light.shape[:2]
    gain = 0.23 / max(float(np.median(light[::8, ::8])), 0.05)
    # Automatic exposure compensates part of the deviation from medium brightness.
    exposure = np.clip(gain**0.45, 0.75, 1.35) * look.exposure
    scale = (exposure * np.array(look.balance)).astype(np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    vignette = 1.0 - np.float32(look.vignette) * (x * x + y * y) / 2
    linear = light * scale * vignette[..., None]
    # Soft clipping of bright light.
    linear = np.where(linear > 0.7, 0.7 + 0.3 * np.tanh((linear - 0.7) / 0.3), linear)
    picture = np.sqrt(np.maximum(linear, 0.0))
    picture = cv2.GaussianBlur(picture, (0, 0), look.blur)
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(look.noise)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.5)
    rgb = np.clip(picture + noise, 0, 1) * 255.0
    return np.asarray(rgb + 0.5, np.uint8)


def measure_depth(
    rng: Rng, depth: Array, facing: Array, strength: float, farthest: float = 4.0
) -> DepthImage:
    """Return the depth that a depth camera measures.

    The noise follows Nguyen, Izadi and Lovell (3DIMPVT 2012): 1.2 mm + 1.9 mm · (z - 0.4)², z in
    metres; edges are jagged and blurred by less than a pixel; slanted and edge pixels have holes.

    Args:
        rng: random generator.
        depth: (H, W) true depth, metres.
        facing: (H, W) cosine between the surface's normal and the ray.
        strength: 1 for a typical camera, 0 for the true depth.
        farthest: maximum range, metres.
    """
    if strength <= 0:
        return np.where(depth < farthest, depth, np.nan).astype(np.float32)
    height, width = depth.shape
    true = np.minimum(depth, 20.0).astype(np.float32)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    shift = rng.standard_normal((2, height, width), np.float32) * np.float32(0.45 * strength)
    moved = cv2.remap(
        true,
        columns + shift[0],
        rows + shift[1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    spread = (0.0012 + 0.0019 * (moved - 0.4) ** 2) * strength
    noise = rng.standard_normal((height, width), np.float32)
    noise = 0.7 * noise + 1.1 * cv2.GaussianBlur(noise, (0, 0), 1.2)
    measured = moved + spread * noise
    measured = np.round(measured * 1000.0) / 1000.0
    reach = cv2.dilate(true, np.ones((3, 3), np.uint8)) - cv2.erode(
        true, np.ones((3, 3), np.uint8)
    )
    chance = rng.random((height, width), np.float32)
    lost = (reach > 0.03) & (chance < 0.35 * strength)
    lost |= (facing < 0.22) & (chance < 0.6 * strength)
    blobs = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 2.5)
    lost |= blobs > 0.36
    return np.where(lost | (true > farthest), np.float32(np.nan), measured).astype(np.float32)
