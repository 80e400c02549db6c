"""A picture of an answer, for people: masks, boxes in 2-D and 3-D, points, labels and a caption.

`draw_overlay` is what the node publishes as `overlay`, what `segzero ask` saves and what the demo
shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.text_drawing import TextDrawing
from segzero_ros.types import (
    Answer,
    Intrinsics,
    Mask,
    Point,
    Pose3D,
    RgbImage,
    Roi,
    Segment,
    Status,
)

Colour = tuple[int, int, int]

# Okabe and Ito's set, which people with each kind of colour blindness can tell apart, without its
# black, and ordered so that neighbours differ most in lightness too.
_PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
    (0, 158, 115),
)
_STATUS_COLOURS = {Status.OK: (0, 158, 115), Status.NOT_FOUND: (230, 159, 0)}
_FAILED: Colour = (213, 94, 0)
_INK: Colour = (236, 236, 236)
_FAINT: Colour = (168, 172, 178)
_STRIP: Colour = (27, 29, 33)
_EMPTY: Colour = (48, 51, 57)
_DARK: Colour = (16, 16, 16)
_WHITE: Colour = (255, 255, 255)

_MASK_OPACITY = 0.32
# What is no object is dimmed to this share, so that a mask stands out on its own colour too.
_REST = 0.66
# Smaller pictures are enlarged: below this the caption cannot be read.
_LEAST_WIDTH = 480
# A picture is not enlarged beyond so many pixels: one may be narrow and very high.
_MOST_ENLARGED = 2**25
_REASONING_LINES = 5
_QUERY_LINES = 2
# With more objects than this the chips carry the number alone.
_MOST_LABELS = 12
# Corners of a 3-D box, in halves of its sides; an edge joins two that differ in one of them.
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
_EDGES = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
# A corner nearer to the camera than this, in metres, has no place in the picture.
_NEAREST = 0.05
# OpenCV's sub-pixel drawing: 4 fractional bits, and room for a corner far outside.
_BITS = 4
_FARTHEST = 1 << 20


def object_colour(id: int) -> Colour:  # noqa: A002  (the message's word)
    """Return the colour (r, g, b) in which the object of this id is drawn everywhere.

    Seven colours that do not depend on telling red from green, then lighter and darker ones.
    """
    cycle, index = divmod(max(id, 1) - 1, len(_PALETTE))
    colour = _PALETTE[index]
    if cycle % 3 == 1:
        return _mix(colour, _WHITE, 0.5)
    if cycle % 3 == 2:
        return _mix(colour, (0, 0, 0), 0.4)
    return colour


def draw_overlay(answer: Answer) -> RgbImage:
    """Draw an answer on its own frame, with a caption strip below.

    Args:
        answer: any answer; one without a frame or without objects gives a picture that says so.

    Returns:
        (H + strip, W, 3) uint8 RGB; frames narrower than 480 pixels are enlarged by a
        whole number.
    """
    picture, scale = _canvas(answer)
    style = _Style.fitting(picture)
    if answer.frame is None:
        _draw_no_image(picture, style)
    else:
        _draw_segments(picture, answer.segments, answer.frame.intrinsics, scale, style)
    return np.ascontiguousarray(np.vstack([picture, _caption(answer, picture.shape[1], style)]))


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that fit a picture."""

    line: int
    dot: int
    text: int
    pad: int
    lettering: TextDrawing

    @classmethod
    def fitting(cls, picture: RgbImage) -> _Style:
        height, width = picture.shape[:2]
        text = max(13, round(math.sqrt(height * width) / 38))
        return cls(
            line=max(1, round(text / 8)),
            dot=max(3, round(text / 4)),
            text=text,
            pad=max(4, round(text / 2.4)),
            lettering=TextDrawing(),
        )


def _canvas(answer: Answer) -> tuple[RgbImage, int]:
    if answer.frame is None:
        return np.full((360, 640, 3), _EMPTY, np.uint8), 1
    image = answer.frame.image
    height, width = image.shape[:2]
    room = math.isqrt(_MOST_ENLARGED // (height * width))
    scale = max(1, min(math.ceil(_LEAST_WIDTH / width), room))
    if scale == 1:
        return image.copy(), 1
    size = (width * scale, height * scale)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8), scale


def _draw_no_image(picture: RgbImage, style: _Style) -> None:
    height, width = picture.shape[:2]
    text = 'no image'
    left = (width - round(style.lettering.width(text, style.text))) // 2
    style.lettering.write(picture, text, (left, height // 2), style.text, _FAINT)


def _draw_segments(
    picture: RgbImage,
    segments: tuple[Segment, ...],
    camera: Intrinsics | None,
    scale: int,
    style: _Style,
) -> None:
    if any(segment.mask.any() for segment in segments):
        _tint(picture, segments, scale)
    for segment in segments:
        _outline(picture, _enlarged(segment, scale), object_colour(segment.id), style)
    boxes = [Roi(*(value * scale for value in segment.box)) for segment in segments]
    for segment, box in zip(segments, boxes, strict=True):
        _draw_box(picture, box, object_colour(segment.id), style)
    for segment in segments:
        if segment.pose is not None and camera is not None:
            corners = project_box(segment.pose, camera)
            _draw_edges(picture, corners, scale, object_colour(segment.id), style)
    for segment in segments:
        for point in segment.points:
            centre = _in_enlarged(point, scale)
            _draw_point(picture, centre, object_colour(segment.id), style)
    _draw_chips(picture, segments, boxes, style)


@dataclass(frozen=True, eq=False)
class _PlacedMask:
    """A mask where it lies in the picture."""

    roi: Roi
    mask: Mask


def _enlarged(segment: Segment, scale: int) -> _PlacedMask:
    x, y, width, height = segment.mask_roi
    roi = Roi(x * scale, y * scale, width * scale, height * scale)
    if scale == 1:
        return _PlacedMask(roi, segment.mask)
    return _PlacedMask(roi, segment.mask.repeat(scale, axis=0).repeat(scale, axis=1))


def _tint(picture: RgbImage, segments: tuple[Segment, ...], scale: int) -> None:
    """Give each mask its colour, and dim what lies in none."""
    bright = picture.copy()
    np.copyto(picture, cv2.convertScaleAbs(picture, alpha=_REST))
    for segment in segments:
        placed, colour = _enlarged(segment, scale), object_colour(segment.id)
        if not placed.mask.any():
            continue
        window = np.ascontiguousarray(bright[placed.roi.slices])
        tinted = cv2.addWeighted(
            window, 1 - _MASK_OPACITY, np.full_like(window, colour), _MASK_OPACITY, 0
        )
        picture[placed.roi.slices] = cv2.copyTo(
            tinted, placed.mask.astype(np.uint8), picture[placed.roi.slices].copy()
        )


def _outline(picture: RgbImage, placed: _PlacedMask, colour: Colour, style: _Style) -> None:
    if not placed.mask.any():
        return
    # A frame of background lets the contour run along the mask's own edge.
    padded = np.pad(placed.mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(
        padded,
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_NONE,
        offset=(placed.roi.x - 1, placed.roi.y - 1),
    )
    cv2.drawContours(picture, contours, -1, _DARK, style.line + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, colour, style.line, cv2.LINE_AA)


def _draw_box(picture: RgbImage, box: Roi, colour: Colour, style: _Style) -> None:
    """Draw the box's corners, so that it is told apart from the mask and hides little of it."""
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    arm_x, arm_y = (max(2, min(side // 2, style.text)) for side in (box.width, box.height))
    for thickness, tone in ((style.line + 2, _DARK), (style.line, colour)):
        for x, towards_x in ((box.x, arm_x), (right, -arm_x)):
            for y, towards_y in ((box.y, arm_y), (bottom, -arm_y)):
                cv2.line(picture, (x, y), (x + towards_x, y), tone, thickness)
                cv2.line(picture, (x, y), (x, y + towards_y), tone, thickness)


def project_box(pose: Pose3D, camera: Intrinsics) -> NDArray[np.float64]:
    """Return where the corners of a 3-D box are in the picture.

    Args:
        pose: in the camera's optical frame.
        camera: without distortion.

    Returns:
        (8, 3): x and y in pixels, and the depth in metres. Depths may be 0 or below; x and y of
        such a corner mean nothing.
    """
    x, y, z, w = pose.orientation
    rotation = np.array(
        [
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ]
    )
    corners = (_CORNERS * pose.size) @ rotation.T + pose.position
    depths = corners[:, 2:]
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = corners[:, :2] / depths * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    return np.hstack([pixels, depths])


def _draw_edges(
    picture: RgbImage, corners: NDArray[np.float64], scale: int, colour: Colour, style: _Style
) -> None:
    """Draw a 3-D box, none of it if a part of it is at the lens or behind."""
    if not (corners[:, 2] > _NEAREST).all():
        return
    ends = [
        (round(x * 2**_BITS), round(y * 2**_BITS))
        for x, y in (_in_enlarged((float(x), float(y)), scale) for x, y, _ in corners)
    ]
    if max(abs(value) for end in ends for value in end) > _FARTHEST:
        return
    hidden = int(corners[:, 2].argmax())
    thin = max(1, style.line // 2)
    # Those in front over those behind, which have no rim.
    for behind in (True, False):
        for first, last in _EDGES:
            if (hidden in (first, last)) == behind:
                for width, tone in ((thin + 2, _DARK), (thin, colour))[behind:]:
                    cv2.line(picture, ends[first], ends[last], tone, width, cv2.LINE_AA, _BITS)


def _in_enlarged(point: Point, scale: int) -> Point:
    # Pixel centres are at integers, so an enlarged pixel's centre is not at x · scale.
    return (point[0] + 0.5) * scale - 0.5, (point[1] + 0.5) * scale - 0.5


def _draw_point(picture: RgbImage, point: Point, colour: Colour, style: _Style) -> None:
    centre = (round(point[0] * 2**_BITS), round(point[1] * 2**_BITS))
    for radius, tone in (
        (style.dot + style.line + 1, _DARK),
        (style.dot + style.line, _WHITE),
        (style.dot, colour),
    ):
        cv2.circle(picture, centre, radius * 2**_BITS, tone, cv2.FILLED, cv2.LINE_AA, shift=_BITS)


def _draw_chips(
    picture: RgbImage, segments: tuple[Segment, ...], boxes: list[Roi], style: _Style
) -> None:
    taken: list[Roi] = []
    for segment, box in zip(segments, boxes, strict=True):
        lines = _chip_lines(segment, short=len(segments) > _MOST_LABELS)
        limit = picture.shape[1] - 2 * style.pad
        lines = [style.lettering.shorten(line, style.text, limit, bold=True) for line in lines]
        widths = [
            style.lettering.width(line, style.text, bold=number == 0)
            for number, line in enumerate(lines)
        ]
        leading = round(style.text * 1.25)
        size = (round(max(widths)) + 2 * style.pad, leading * len(lines) + style.pad)
        chip = _place(box, size, picture.shape[:2], taken)
        taken.append(chip)
        _draw_chip(picture, chip, lines, object_colour(segment.id), style)


def _chip_lines(segment: Segment, *, short: bool) -> list[str]:
    if short:
        return [str(segment.id)]
    lines = [f'{segment.id}  {segment.label}'.rstrip()]
    if segment.pose is not None:
        x, y, z = segment.pose.position
        lines.append(f'x {x:.2f}  y {y:.2f}  z {z:.2f} m')
    return lines


def _place(box: Roi, size: tuple[int, int], picture: tuple[int, int], taken: list[Roi]) -> Roi:
    """Return the first place near the box that covers no other chip, else the first place."""
    chips = [_inside(x, y, size, picture) for x, y in _places(box, size)]
    return next((chip for chip in chips if not any(_overlap(chip, t) for t in taken)), chips[0])


def _places(box: Roi, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    width, height = size
    right, bottom = box.x + box.width, box.y + box.height
    for y in (box.y - height, bottom, box.y, bottom - height):
        yield box.x, y
        yield right - width, y
    for step in range(1, 6):
        yield box.x, box.y - height - step * height
        yield box.x, bottom + step * height


def _inside(x: int, y: int, size: tuple[int, int], picture: tuple[int, int]) -> Roi:
    width, height = size
    return Roi(
        max(0, min(x, picture[1] - width)), max(0, min(y, picture[0] - height)), width, height
    )


def _overlap(a: Roi, b: Roi) -> bool:
    return (
        a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )


def _draw_chip(
    picture: RgbImage, chip: Roi, lines: list[str], colour: Colour, style: _Style
) -> None:
    _rounded(picture, chip, _DARK, style)
    inner = Roi(chip.x + 1, chip.y + 1, chip.width - 2, chip.height - 2)
    _rounded(picture, inner, colour, style)
    ink = readable_on(colour)
    for number, line in enumerate(lines):
        y = chip.y + style.pad // 2 + round(style.text * (1.25 * number + 1.0))
        style.lettering.write(
            picture, line, (chip.x + style.pad, y), style.text, ink, bold=number == 0
        )


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever contrasts more with the colour (WCAG 2 luminance)."""
    channels = np.asarray(colour, np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return _DARK if (luminance + 0.05) / 0.055 > 1.05 / (luminance + 0.05) else _WHITE


def _rounded(picture: RgbImage, area: Roi, colour: Colour, style: _Style) -> None:
    radius = min(style.pad // 2 + 1, area.height // 2, area.width // 2)
    x1, y1, x2, y2 = area.x, area.y, area.x + area.width - 1, area.y + area.height - 1
    cv2.rectangle(picture, (x1 + radius, y1), (x2 - radius, y2), colour, cv2.FILLED)
    cv2.rectangle(picture, (x1, y1 + radius), (x2, y2 - radius), colour, cv2.FILLED)
    for x in (x1 + radius, x2 - radius):
        for y in (y1 + radius, y2 - radius):
            cv2.circle(picture, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)


def _caption(answer: Answer, width: int, style: _Style) -> RgbImage:
    """Draw the strip: what was asked, what came of it, why."""
    blocks = [_heading(answer, width, style)]
    for index, text in enumerate(_says(answer)):
        blocks.append(_paragraph(text, width, style, _FAINT if index else _INK))
    blocks.append(np.full((style.pad, width, 3), _STRIP, np.uint8))
    return np.vstack(blocks)


def _paragraph(text: str, width: int, style: _Style, tone: Colour) -> RgbImage:
    size = max(12, round(style.text * 0.85))
    margin, leading = 2 * style.pad, round(size * 1.45)
    lines = style.lettering.wrap(text, size, width - 2 * margin, _REASONING_LINES)
    block = np.full((leading * len(lines), width, 3), _STRIP, np.uint8)
    for number, line in enumerate(lines):
        style.lettering.write(block, line, (margin, leading * number + size), size, tone)
    return block


def _says(answer: Answer) -> list[str]:
    texts = [answer.message, answer.reasoning]
    if answer.status == Status.OK:
        texts.reverse()
    tidied = [' '.join(text.split()) for text in texts if text.strip()]
    return list(dict.fromkeys(tidied))


def _heading(answer: Answer, width: int, style: _Style) -> RgbImage:
    """Draw the query on the left, the status and the time it took on the right."""
    lettering, margin = style.lettering, 2 * style.pad
    size, small = round(style.text * 1.15), max(11, round(style.text * 0.85))
    notes = _heading_notes(answer)
    left = width - margin
    places = []
    for text, bold in notes:
        left -= round(lettering.width(text, small, bold=bold)) + (style.pad if bold else 0)
        places.append(left)
        left -= margin
    query = f'“{" ".join(answer.query.text.split())}”'
    lines = lettering.wrap(query, size, left - margin, _QUERY_LINES, bold=True)
    leading, baseline = round(size * 1.3), style.pad + round(size * 1.2)
    strip = np.full((baseline + leading * len(lines) - size // 2, width, 3), _STRIP, np.uint8)
    for number, line in enumerate(lines):
        origin = (margin, baseline + leading * number)
        lettering.write(strip, line, origin, size, _WHITE, bold=True)
    for (text, is_status), x in zip(notes, places, strict=True):
        if is_status:
            _draw_status(strip, answer.status, (x, baseline), small, style)
        else:
            lettering.write(strip, text, (x, baseline), small, _FAINT)
    return strip


def _heading_notes(answer: Answer) -> list[tuple[str, bool]]:
    """Return what stands at the right, from the right: the text, and whether it is the status."""
    notes = [(answer.status.name.replace('_', ' '), True)]
    milliseconds = answer.timing.total * 1000
    if milliseconds >= 1000:
        notes.append((f'{milliseconds / 1000:.1f} s', False))
    elif milliseconds > 0:
        notes.append((f'{milliseconds:.0f} ms', False))
    return notes


def _draw_status(
    strip: RgbImage, status: Status, origin: tuple[int, int], size: int, style: _Style
) -> None:
    text = status.name.replace('_', ' ')
    colour = _STATUS_COLOURS.get(status, _FAILED)
    width = round(style.lettering.width(text, size, bold=True)) + 2 * style.pad
    pill = Roi(origin[0] - style.pad, origin[1] - round(size * 1.22), width, round(size * 1.7))
    _rounded(strip, pill, colour, style)
    style.lettering.write(strip, text, origin, size, readable_on(colour), bold=True)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * a + share * o) for a, o in zip(colour, other, strict=True))
    return r, g, b
