"""Gallery of answers, worst first: one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from html import escape
import math
from pathlib import Path

import cv2
import numpy as np

from segzero_ros.evaluation.measurements import Prediction
from segzero_ros.evaluation.metrics import Convention, score
from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.samples import Sample
from segzero_ros.types import Box, Mask, Point, RgbImage

# Maximum number of images in the file, and their width in pixels; about 25 kB each.
MAX_ENTRIES = 300
WIDTH = 480
_QUALITY = 80
# Distinguishable also with red-green colour blindness.
_FOUND, _MISSED, _WRONG = (0, 114, 178), (230, 159, 0), (204, 60, 160)
_BOX = (255, 255, 255)
# Of a point, in pixels.
_RADIUS = 4
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #777; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; }
body { padding: 0 1rem; } h1 { font-size: 1.4rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; border-top: 1px solid var(--line); padding-top: .8rem; }
img { width: 100%; border-radius: 4px; } .faint { color: var(--faint); }
.n { font-variant-numeric: tabular-nums; font-weight: 600; }
.key { padding: .05rem .5rem; border-radius: .6rem; color: #fff; }
.text { overflow-wrap: anywhere; } input { width: 22rem; max-width: 100%; padding: .3rem; }
"""
_SCRIPT = """
const sought = document.querySelector('input');
sought.addEventListener('input', () => {
  const word = sought.value.toLowerCase();
  for (const entry of document.querySelectorAll('figure'))
    entry.hidden = !entry.textContent.toLowerCase().includes(word);
});
"""


def draw_comparison(sample: Sample, prediction: Prediction) -> bytes:
    """Return a JPEG with the truth and the answer drawn on the image.

    True positives are blue, false negatives orange, false positives pink, predicted boxes and
    points white.
    If the truth is boxes only, they are orange, and the predicted mask is blue.
    """
    height, width = sample.image.shape[:2]
    scale = min(1.0, WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
    true, found = (_downscaled(mask, size) for mask in (sample.mask, prediction.mask))
    image = np.asarray(small, np.uint8)
    if sample.mask is None:
        # Without a true mask there are no errors to draw; the true boxes are drawn instead.
        true = found
        _outline(image, sample.boxes, scale, _MISSED)
    for where, colour in (
        (true & found, _FOUND),
        (true & ~found, _MISSED),
        (found & ~true, _WRONG),
    ):
        _tint(image, where, colour)
    _outline(image, prediction.boxes, scale, _BOX)
    _dot(image, prediction.points, scale, _BOX)
    quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()


def _outline(
    image: RgbImage, boxes: Sequence[Box], scale: float, colour: tuple[int, int, int]
) -> None:
    for box in boxes:
        if all(map(math.isfinite, box)):
            x1, y1, x2, y2 = (round(max(-1e4, min(1e4, value * scale))) for value in box)
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, 1, cv2.LINE_AA)


def _dot(
    image: RgbImage, points: Sequence[Point], scale: float, colour: tuple[int, int, int]
) -> None:
    for point in points:
        if all(map(math.isfinite, point)):
            x, y = (round(max(-1e4, min(1e4, value * scale))) for value in point)
            cv2.circle(image, (x, y), _RADIUS, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(image, (x, y), _RADIUS - 1, colour, -1, cv2.LINE_AA)


def _downscaled(mask: Mask | None, size: tuple[int, int]) -> Mask:
    if mask is None:
        return np.zeros((size[1], size[0]), np.bool_)
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small != 0)


def _tint(image: RgbImage, where: Mask, colour: tuple[int, int, int]) -> None:
    image[where] = (image[where] * 0.45 + np.array(colour) * 0.55).astype(np.uint8)


def write_gallery(
    path: Path,
    title: str,
    rows: Sequence[SampleRecord],
    convention: Convention,
    image: Callable[[int], Path],
    max_entries: int = MAX_ENTRIES,
) -> None:
    """Write the worst answers by IoU, failures first.

    Args:
        path: the HTML file.
        title: its heading.
        rows: all answers.
        convention: its IoU is the sort key; samples that it drops count as failed, but correct
            answers without a mask come last.
        image: returns the file of a sample's image by its index.
        max_entries: number of answers in the file.
    """
    ordered = sorted(rows, key=lambda row: (_iou(row, convention), row.index))
    new = path.with_name(f'{path.name}.new')
    with new.open('w', encoding='utf-8') as page:
        page.writelines(_parts(title, ordered, convention, image, max_entries))
    new.replace(path)


def _iou(row: SampleRecord, convention: Convention) -> float:
    if _is_correctly_empty(row):
        return 1.0
    if row.item.is_pointed and not row.item.failure.value:
        return row.item.points_on_target / max(row.item.points, 1)
    scored = score([row.item], convention)
    return scored[0].iou if scored and not row.item.failure.value else -1.0


def _is_correctly_empty(row: SampleRecord) -> bool:
    """Return whether the sample has no target and the answer no mask, which is correct."""
    whole = row.item.whole
    return not row.item.failure.value and whole is not None and whole.union == 0


def _parts(
    title: str,
    rows: Sequence[SampleRecord],
    convention: Convention,
    image: Callable[[int], Path],
    max_entries: int,
) -> Iterator[str]:
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>'
        f'<h1>{_safe(title)}</h1>'
        f'<p>The {min(max_entries, len(rows))} worst of {len(rows)} answers, '
        f'failures first. {_key("found", _FOUND)} {_key("missed", _MISSED)} '
        f'{_key("extra", _WRONG)}</p>'
        '<p><input type="search" placeholder="filter answers by text"></p><main>'
    )
    for row in rows[:max_entries]:
        yield _entry(row, _iou(row, convention), image(row.index))
    yield f'</main><script>{_SCRIPT}</script></body></html>\n'


def _key(word: str, colour: tuple[int, int, int]) -> str:
    return f'<span class="key" style="background: rgb{colour}">{word}</span>'


def _entry(row: SampleRecord, iou: float, path: Path) -> str:
    verdict = (
        'correctly empty'
        if _is_correctly_empty(row)
        else f'{row.item.points_on_target} of {row.item.points} points'
        if row.item.is_pointed and not row.item.failure.value
        else f'IoU {iou:.3f}'
        if iou >= 0
        else row.item.failure.value or 'not scored'
    )
    text = base64.b64encode(path.read_bytes()).decode('ascii') if path.is_file() else ''
    image = f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{text}">' if text else ''
    about = ' · '.join(filter(None, [f'#{row.index}', row.image_id, *row.group]))
    parts = [
        f'<b>“{_safe(row.text)}”</b>',
        f'<span class="n">{verdict}</span> {row.status.name.replace("_", " ")}',
        f'<span class="faint">{_safe(about)}</span>',
        _safe(row.message),
        _details(row),
    ]
    caption = '<br>'.join(filter(None, parts))
    return f'<figure>{image}<figcaption class="text">{caption}</figcaption></figure>'


def _details(row: SampleRecord) -> str:
    text = row.reasoning or row.raw_answer
    return f'<details><summary>reasoning</summary>{_safe(text)}</details>' if text else ''


def _safe(text: str) -> str:
    return escape(text.encode('utf-8', 'replace').decode('utf-8'))
