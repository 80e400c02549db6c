"""Layout for overlays: sizes that fit an image, label placement, colours, 3-D box projection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from segzero_ros.rotations import matrix_from_quaternion
from segzero_ros.text_drawing import TextDrawing
from segzero_ros.types import Intrinsics, Point, Pose3D, RgbImage, Roi

Colour = tuple[int, int, int]

# The palette of Okabe and Ito (Color Universal Design, 2008), distinguishable with every kind of
# colour blindness, without black; ordered so that neighbours differ most in lightness too.
_PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
    (0, 158, 115),
)
DARK: Colour = (16, 16, 16)
WHITE: Colour = (255, 255, 255)

# Corners of a 3-D box in units of its sides; an edge joins two that differ along one axis.
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
BOX_EDGES = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]


@dataclass(frozen=True)
class Style:
    """Sizes in pixels that suit an image's size.

    Attributes:
        line: thickness of lines.
        dot: radius of points.
        text: height of text.
        pad: padding around text.
        text_drawing: draws the text.
    """

    line: int
    dot: int
    text: int
    pad: int
    text_drawing: TextDrawing

    @classmethod
    def fitting(cls, canvas: RgbImage) -> Style:
        """Return the sizes for an image."""
        height, width = canvas.shape[:2]
        text = max(13, round(math.sqrt(height * width) / 38))
        return cls(
            line=max(1, round(text / 8)),
            dot=max(3, round(text / 4)),
            text=text,
            pad=max(4, round(text / 2.4)),
            text_drawing=TextDrawing(),
        )


def object_colour(id: int) -> Colour:  # noqa: A002  (the message's field)
    """Return the colour (r, g, b) of an object in overlays and markers, by its id.

    Seven colours that do not depend on telling red from green, then lighter and darker variants.
    """
    cycle, index = divmod(max(id, 1) - 1, len(_PALETTE))
    colour = _PALETTE[index]
    if cycle % 3 == 1:
        return _mix(colour, WHITE, 0.5)
    if cycle % 3 == 2:
        return _mix(colour, (0, 0, 0), 0.4)
    return colour


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever has more contrast to the colour (WCAG 2 luminance)."""
    channels = np.asarray(colour, np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return DARK if (luminance + 0.05) / 0.055 > 1.05 / (luminance + 0.05) else WHITE


def project_box(pose: Pose3D, camera: Intrinsics) -> NDArray[np.float64]:
    """Project the corners of a 3-D box into the image.

    Args:
        pose: in the camera's optical frame.
        camera: without distortion.

    Returns:
        (8, 3): x and y in pixels, and the depth in metres. Corners with a depth of 0 or less have
        no valid x and y.
    """
    rotation = matrix_from_quaternion(pose.orientation)
    corners = (_CORNERS * pose.size) @ rotation.T + pose.position
    depths = corners[:, 2:]
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = corners[:, :2] / depths * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    return np.hstack([pixels, depths])


def scale_point(point: Point, scale: int) -> Point:
    """Return a point's pixel coordinates in the image enlarged by an integer factor."""
    # Pixel centres are at integers, so an enlarged pixel's centre is not at x * scale.
    return (point[0] + 0.5) * scale - 0.5, (point[1] + 0.5) * scale - 0.5


def place_label(
    box: Roi, size: tuple[int, int], canvas: tuple[int, int], occupied: list[Roi]
) -> Roi:
    """Return a free position for a label near a box, or the first candidate if none is free.

    Args:
        box: the object's box.
        size: (width, height) of the label.
        canvas: (height, width) of the image.
        occupied: the labels placed before.
    """
    labels = [_inside(x, y, size, canvas) for x, y in _candidates(box, size)]
    free = (label for label in labels if not any(_overlap(label, other) for other in occupied))
    return next(free, labels[0])


def _candidates(box: Roi, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    width, height = size
    right, bottom = box.x + box.width, box.y + box.height
    for y in (box.y - height, bottom, box.y, bottom - height):
        yield box.x, y
        yield right - width, y
    for step in range(1, 6):
        yield box.x, box.y - height - step * height
        yield box.x, bottom + step * height


def _inside(x: int, y: int, size: tuple[int, int], canvas: tuple[int, int]) -> Roi:
    width, height = size
    return Roi(
        max(0, min(x, canvas[1] - width)), max(0, min(y, canvas[0] - height)), width, height
    )


def _overlap(a: Roi, b: Roi) -> bool:
    return (
        a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * a + share * o) for a, o in zip(colour, other, strict=True))
    return r, g, b
