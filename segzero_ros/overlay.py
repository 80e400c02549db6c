"""Draw an answer for people: masks, 2-D and 3-D boxes, points, labels and a caption.

The node publishes it as `overlay`, `segzero ask` saves it and the demo displays it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.overlay_layout import (
    BOX_EDGES,
    Colour,
    DARK,
    object_colour,
    place_label,
    project_box,
    readable_on,
    scale_point,
    Style,
    WHITE,
)
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Answer, Box, Intrinsics, Mask, Point, RgbImage, Roi, Segment, Status

_STATUS_COLOURS = {Status.OK: (0, 158, 115), Status.NOT_FOUND: (230, 159, 0)}
_FAILED: Colour = (213, 94, 0)
_INK: Colour = (236, 236, 236)
_FAINT: Colour = (168, 172, 178)
_STRIP: Colour = (27, 29, 33)
_EMPTY: Colour = (48, 51, 57)
_MASK_OPACITY = 0.32
# The background is dimmed to this share, so that a mask stands out on its own colour too.
_DIMMED = 0.66
# Narrower images are enlarged to keep the caption readable.
_MIN_WIDTH = 480
# Limit for enlarged images: a narrow one may be very high.
_MAX_ENLARGED_PIXELS = 2**25
_REASONING_LINES = 5
_QUERY_LINES = 2
# With more objects than this, labels contain only the id.
_MAX_FULL_LABELS = 12
# Corners nearer to the camera than this, in metres, are not drawn.
_MIN_DEPTH = 0.05
# OpenCV's sub-pixel drawing: 4 fractional bits, and a limit for corners far outside.
_FRACTION_BITS = 4
_MAX_COORDINATE = 1 << 20


def draw_overlay(answer: Answer) -> RgbImage:
    """Draw an answer on its own frame, with a caption strip below.

    Args:
        answer: any answer; without a frame, a placeholder image is drawn.

    Returns:
        (H + strip, W, 3) uint8 RGB; frames narrower than 480 pixels are enlarged by an integer
        factor.
    """
    canvas, scale = _canvas(answer)
    style = Style.fitting(canvas)
    if answer.frame is None:
        _draw_no_image(canvas, style)
    else:
        _draw_segments(canvas, answer.segments, answer.frame.intrinsics, scale, style)
    return np.ascontiguousarray(np.vstack([canvas, _caption(answer, canvas.shape[1], style)]))


def draw_marks(image: RgbImage, boxes: Sequence[Box]) -> RgbImage:
    """Draw boxes with their numbers, from 1, into a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: with integer corners inside the image.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas: RgbImage = image.copy()
    style = Style.fitting(canvas)
    occupied: list[Roi] = []
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        colour = object_colour(number)
        box = Roi(int(x1), int(y1), int(x2 - x1), int(y2 - y1))
        corner = box.x + box.width - 1, box.y + box.height - 1
        for thickness, tone in ((style.line + 2, DARK), (style.line, colour)):
            cv2.rectangle(canvas, (box.x, box.y), corner, tone, thickness)
        _draw_number(canvas, box, number, occupied, style)
    return canvas


def draw_numbered_masks(image: RgbImage, masks: Sequence[SegmentedMask]) -> RgbImage:
    """Draw the outlines of masks with their numbers, from 1, into a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: of the image's size.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas: RgbImage = image.copy()
    style = Style.fitting(canvas)
    for number, mask in enumerate(masks, start=1):
        _outline(canvas, _PlacedMask(mask.roi, mask.cropped), object_colour(number), style)
    occupied: list[Roi] = []
    # Above all outlines.
    for number, mask in enumerate(masks, start=1):
        _draw_number(canvas, mask.roi, number, occupied, style)
    return canvas


def _draw_number(
    canvas: RgbImage, box: Roi, number: int, occupied: list[Roi], style: Style
) -> None:
    """Draw a number beside a box, and add its place to those that are occupied."""
    text = str(number)
    width = round(style.text_drawing.width(text, style.text, bold=True)) + 2 * style.pad
    size = width, round(style.text * 1.25) + style.pad
    label = place_label(box, size, canvas.shape[:2], occupied)
    occupied.append(label)
    _draw_label(canvas, label, [text], object_colour(number), style)


def _canvas(answer: Answer) -> tuple[RgbImage, int]:
    if answer.frame is None:
        return np.full((360, 640, 3), _EMPTY, np.uint8), 1
    image = answer.frame.image
    height, width = image.shape[:2]
    room = math.isqrt(_MAX_ENLARGED_PIXELS // (height * width))
    scale = max(1, min(math.ceil(_MIN_WIDTH / width), room))
    if scale == 1:
        return image.copy(), 1
    size = (width * scale, height * scale)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8), scale


def _draw_no_image(canvas: RgbImage, style: Style) -> None:
    height, width = canvas.shape[:2]
    text = 'no image'
    left = (width - round(style.text_drawing.width(text, style.text))) // 2
    style.text_drawing.write(canvas, text, (left, height // 2), style.text, _FAINT)


def _draw_segments(
    canvas: RgbImage,
    segments: tuple[Segment, ...],
    camera: Intrinsics | None,
    scale: int,
    style: Style,
) -> None:
    if any(segment.mask.any() for segment in segments):
        _tint(canvas, segments, scale)
    for segment in segments:
        _outline(canvas, _enlarged(segment, scale), object_colour(segment.id), style)
    boxes = [Roi(*(value * scale for value in segment.box)) for segment in segments]
    for segment, box in zip(segments, boxes, strict=True):
        if not box.width:
            continue
        _draw_box(canvas, box, object_colour(segment.id), style)
    for segment in segments:
        if segment.pose is not None and any(segment.pose.size) and camera is not None:
            corners = project_box(segment.pose, camera)
            _draw_edges(canvas, corners, scale, object_colour(segment.id), style)
    for segment in segments:
        for point in segment.points:
            centre = scale_point(point, scale)
            _draw_point(canvas, centre, object_colour(segment.id), style)
    anchors = [_anchor(segment, box, scale) for segment, box in zip(segments, boxes, strict=True)]
    _draw_labels(canvas, segments, anchors, style)


def _anchor(segment: Segment, box: Roi, scale: int) -> Roi:
    """Return the rectangle that a label stands beside: the box, or the first point."""
    if box.width or not segment.points:
        return box
    x, y = segment.points[0]
    return Roi(int(x * scale), int(y * scale), 1, 1)


@dataclass(frozen=True, eq=False)
class _PlacedMask:
    """A mask and its position in the canvas."""

    roi: Roi
    mask: Mask


def _enlarged(segment: Segment, scale: int) -> _PlacedMask:
    x, y, width, height = segment.mask_roi
    roi = Roi(x * scale, y * scale, width * scale, height * scale)
    if scale == 1:
        return _PlacedMask(roi, segment.mask)
    return _PlacedMask(roi, segment.mask.repeat(scale, axis=0).repeat(scale, axis=1))


def _tint(canvas: RgbImage, segments: tuple[Segment, ...], scale: int) -> None:
    """Tint each mask in its colour, and dim the background."""
    bright = canvas.copy()
    np.copyto(canvas, cv2.convertScaleAbs(canvas, alpha=_DIMMED))
    for segment in segments:
        placed, colour = _enlarged(segment, scale), object_colour(segment.id)
        if not placed.mask.any():
            continue
        window = np.ascontiguousarray(bright[placed.roi.slices])
        tinted = cv2.addWeighted(
            window, 1 - _MASK_OPACITY, np.full_like(window, colour), _MASK_OPACITY, 0
        )
        canvas[placed.roi.slices] = cv2.copyTo(
            tinted, placed.mask.astype(np.uint8), canvas[placed.roi.slices].copy()
        )


def _outline(canvas: RgbImage, placed: _PlacedMask, colour: Colour, style: Style) -> None:
    if not placed.mask.any():
        return
    # Padding keeps the contour on the mask's own edge.
    padded = np.pad(placed.mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(
        padded,
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_NONE,
        offset=(placed.roi.x - 1, placed.roi.y - 1),
    )
    cv2.drawContours(canvas, contours, -1, DARK, style.line + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, colour, style.line, cv2.LINE_AA)


def _draw_box(canvas: RgbImage, box: Roi, colour: Colour, style: Style) -> None:
    """Draw only the box's corners, to hide little of the mask."""
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    arm_x, arm_y = (max(2, min(side // 2, style.text)) for side in (box.width, box.height))
    for thickness, tone in ((style.line + 2, DARK), (style.line, colour)):
        for x, towards_x in ((box.x, arm_x), (right, -arm_x)):
            for y, towards_y in ((box.y, arm_y), (bottom, -arm_y)):
                cv2.line(canvas, (x, y), (x + towards_x, y), tone, thickness)
                cv2.line(canvas, (x, y), (x, y + towards_y), tone, thickness)


def _draw_edges(
    canvas: RgbImage, corners: NDArray[np.float64], scale: int, colour: Colour, style: Style
) -> None:
    """Draw a 3-D box, unless a part of it is too near to or behind the camera."""
    if not (corners[:, 2] > _MIN_DEPTH).all():
        return
    ends = [
        (round(x * 2**_FRACTION_BITS), round(y * 2**_FRACTION_BITS))
        for x, y in (scale_point((float(x), float(y)), scale) for x, y, _ in corners)
    ]
    if max(abs(value) for end in ends for value in end) > _MAX_COORDINATE:
        return
    hidden = int(corners[:, 2].argmax())
    thin = max(1, style.line // 2)
    # The edges at the farthest corner first, without a rim.
    for behind in (True, False):
        for first, last in BOX_EDGES:
            if (hidden in (first, last)) == behind:
                for width, tone in ((thin + 2, DARK), (thin, colour))[behind:]:
                    cv2.line(
                        canvas, ends[first], ends[last], tone, width, cv2.LINE_AA, _FRACTION_BITS
                    )


def _draw_point(canvas: RgbImage, point: Point, colour: Colour, style: Style) -> None:
    centre = (round(point[0] * 2**_FRACTION_BITS), round(point[1] * 2**_FRACTION_BITS))
    for radius, tone in (
        (style.dot + style.line + 1, DARK),
        (style.dot + style.line, WHITE),
        (style.dot, colour),
    ):
        cv2.circle(
            canvas,
            centre,
            radius * 2**_FRACTION_BITS,
            tone,
            cv2.FILLED,
            cv2.LINE_AA,
            shift=_FRACTION_BITS,
        )


def _draw_labels(
    canvas: RgbImage, segments: tuple[Segment, ...], boxes: list[Roi], style: Style
) -> None:
    occupied: list[Roi] = []
    for segment, box in zip(segments, boxes, strict=True):
        lines = _label_lines(segment, short=len(segments) > _MAX_FULL_LABELS)
        limit = canvas.shape[1] - 2 * style.pad
        lines = [style.text_drawing.shorten(line, style.text, limit, bold=True) for line in lines]
        widths = [
            style.text_drawing.width(line, style.text, bold=number == 0)
            for number, line in enumerate(lines)
        ]
        leading = round(style.text * 1.25)
        size = (round(max(widths)) + 2 * style.pad, leading * len(lines) + style.pad)
        label = place_label(box, size, canvas.shape[:2], occupied)
        occupied.append(label)
        _draw_label(canvas, label, lines, object_colour(segment.id), style)


def _label_lines(segment: Segment, *, short: bool) -> list[str]:
    if short:
        return [str(segment.id)]
    lines = [f'{segment.id}  {segment.label}'.rstrip()]
    if segment.pose is not None:
        x, y, z = segment.pose.position
        lines.append(f'x {x:.2f}  y {y:.2f}  z {z:.2f} m')
    return lines


def _draw_label(
    canvas: RgbImage, label: Roi, lines: list[str], colour: Colour, style: Style
) -> None:
    _rounded(canvas, label, DARK, style)
    inner = Roi(label.x + 1, label.y + 1, label.width - 2, label.height - 2)
    _rounded(canvas, inner, colour, style)
    ink = readable_on(colour)
    for number, line in enumerate(lines):
        y = label.y + style.pad // 2 + round(style.text * (1.25 * number + 1.0))
        style.text_drawing.write(
            canvas, line, (label.x + style.pad, y), style.text, ink, bold=number == 0
        )


def _rounded(canvas: RgbImage, area: Roi, colour: Colour, style: Style) -> None:
    radius = min(style.pad // 2 + 1, area.height // 2, area.width // 2)
    x1, y1, x2, y2 = area.x, area.y, area.x + area.width - 1, area.y + area.height - 1
    cv2.rectangle(canvas, (x1 + radius, y1), (x2 - radius, y2), colour, cv2.FILLED)
    cv2.rectangle(canvas, (x1, y1 + radius), (x2, y2 - radius), colour, cv2.FILLED)
    for x in (x1 + radius, x2 - radius):
        for y in (y1 + radius, y2 - radius):
            cv2.circle(canvas, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)


def _caption(answer: Answer, width: int, style: Style) -> RgbImage:
    """Draw the caption strip: query, status, message and reasoning."""
    blocks = [_heading(answer, width, style)]
    for index, text in enumerate(_caption_texts(answer)):
        blocks.append(_paragraph(text, width, style, _FAINT if index else _INK))
    blocks.append(np.full((style.pad, width, 3), _STRIP, np.uint8))
    return np.vstack(blocks)


def _paragraph(text: str, width: int, style: Style, tone: Colour) -> RgbImage:
    size = max(12, round(style.text * 0.85))
    margin, leading = 2 * style.pad, round(size * 1.45)
    lines = style.text_drawing.wrap(text, size, width - 2 * margin, _REASONING_LINES)
    block = np.full((leading * len(lines), width, 3), _STRIP, np.uint8)
    for number, line in enumerate(lines):
        style.text_drawing.write(block, line, (margin, leading * number + size), size, tone)
    return block


def _caption_texts(answer: Answer) -> list[str]:
    texts = [answer.message, answer.reasoning]
    if answer.status == Status.OK:
        texts.reverse()
    if answer.count is not None:
        texts.insert(0, f'Number of objects: {answer.count}')
    texts.insert(0, answer.answer)
    texts = [' '.join(text.split()) for text in texts if text.strip()]
    return list(dict.fromkeys(texts))


def _heading(answer: Answer, width: int, style: Style) -> RgbImage:
    """Draw the query on the left, the status and the duration on the right."""
    text_drawing, margin = style.text_drawing, 2 * style.pad
    size, small = round(style.text * 1.15), max(11, round(style.text * 0.85))
    notes = _heading_notes(answer)
    left = width - margin
    places = []
    for text, bold in notes:
        left -= round(text_drawing.width(text, small, bold=bold)) + (style.pad if bold else 0)
        places.append(left)
        left -= margin
    query = f'“{" ".join(answer.query.text.split())}”'
    lines = text_drawing.wrap(query, size, left - margin, _QUERY_LINES, bold=True)
    leading, baseline = round(size * 1.3), style.pad + round(size * 1.2)
    strip = np.full((baseline + leading * len(lines) - size // 2, width, 3), _STRIP, np.uint8)
    for number, line in enumerate(lines):
        origin = (margin, baseline + leading * number)
        text_drawing.write(strip, line, origin, size, WHITE, bold=True)
    for (text, is_status), x in zip(notes, places, strict=True):
        if is_status:
            _draw_status(strip, answer.status, (x, baseline), small, style)
        else:
            text_drawing.write(strip, text, (x, baseline), small, _FAINT)
    return strip


def _heading_notes(answer: Answer) -> list[tuple[str, bool]]:
    """Return the texts on the right, from right to left, and whether each is the status."""
    notes = [(answer.status.name.replace('_', ' '), True)]
    milliseconds = answer.timing.total * 1000
    if milliseconds >= 1000:
        notes.append((f'{milliseconds / 1000:.1f} s', False))
    elif milliseconds > 0:
        notes.append((f'{milliseconds:.0f} ms', False))
    return notes


def _draw_status(
    strip: RgbImage, status: Status, origin: tuple[int, int], size: int, style: Style
) -> None:
    text = status.name.replace('_', ' ')
    colour = _STATUS_COLOURS.get(status, _FAILED)
    width = round(style.text_drawing.width(text, size, bold=True)) + 2 * style.pad
    pill = Roi(origin[0] - style.pad, origin[1] - round(size * 1.22), width, round(size * 1.7))
    _rounded(strip, pill, colour, style)
    style.text_drawing.write(strip, text, origin, size, readable_on(colour), bold=True)
