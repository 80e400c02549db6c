"""Answers to look at, worst first: one HTML file that needs nothing besides itself."""

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
from segzero_ros.types import Box, Mask, RgbImage

# Pictures in the file at most, and their width in pixels: some 25 kB each.
MOST = 300
WIDTH = 480
_QUALITY = 80
# Told apart without telling red from green.
_FOUND, _MISSED, _WRONG = (0, 114, 178), (230, 159, 0), (204, 60, 160)
_BOX = (255, 255, 255)
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
    """Return a JPEG of the truth and the answer on the picture.

    Blue where both agree, orange what is missed, pink what is too much; boxes white. Where the
    truth is boxes alone they are orange, and what is marked is blue.
    """
    height, width = sample.image.shape[:2]
    scale = min(1.0, WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
    true, said = (_shrunk(mask, size) for mask in (sample.mask, prediction.mask))
    picture = np.asarray(small, np.uint8)
    if sample.mask is None:
        # Nobody drew what is too much or missed; true boxes are drawn instead.
        true = said
        _outline(picture, sample.boxes, scale, _MISSED)
    for where, colour in (
        (true & said, _FOUND),
        (true & ~said, _MISSED),
        (said & ~true, _WRONG),
    ):
        _tint(picture, where, colour)
    _outline(picture, prediction.boxes, scale, _BOX)
    quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    _, data = cv2.imencode('.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()


def _outline(
    picture: RgbImage, boxes: Sequence[Box], scale: float, colour: tuple[int, int, int]
) -> None:
    for box in boxes:
        if all(map(math.isfinite, box)):
            x1, y1, x2, y2 = (round(max(-1e4, min(1e4, value * scale))) for value in box)
            cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1, cv2.LINE_AA)


def _shrunk(mask: Mask | None, size: tuple[int, int]) -> Mask:
    if mask is None:
        return np.zeros((size[1], size[0]), np.bool_)
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small != 0)


def _tint(picture: RgbImage, where: Mask, colour: tuple[int, int, int]) -> None:
    picture[where] = (picture[where] * 0.45 + np.array(colour) * 0.55).astype(np.uint8)


def write_gallery(
    path: Path,
    title: str,
    rows: Sequence[SampleRecord],
    convention: Convention,
    picture: Callable[[int], Path],
    most: int = MOST,
) -> None:
    """Write the worst answers by IoU, failures first.

    Args:
        path: the HTML file.
        title: its heading.
        rows: all answers.
        convention: whose IoU sorts; what it drops counts as failed, but what rightly has no
            mask comes last.
        picture: returns the file of a sample's picture by its index.
        most: how many answers are in the file.
    """
    ordered = sorted(rows, key=lambda row: (_iou(row, convention), row.index))
    new = path.with_name(f'{path.name}.new')
    with new.open('w', encoding='utf-8') as page:
        page.writelines(_parts(title, ordered, convention, picture, most))
    new.replace(path)


def _iou(row: SampleRecord, convention: Convention) -> float:
    if _rightly_nothing(row):
        return 1.0
    scored = score([row.item], convention)
    return scored[0].iou if scored and not row.item.failure.value else -1.0


def _rightly_nothing(row: SampleRecord) -> bool:
    """Return whether nothing is meant and nothing marked: no IoU, but nothing to look into."""
    whole = row.item.whole
    return not row.item.failure.value and whole is not None and whole.union == 0


def _parts(
    title: str,
    rows: Sequence[SampleRecord],
    convention: Convention,
    picture: Callable[[int], Path],
    most: int,
) -> Iterator[str]:
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>'
        f'<h1>{_safe(title)}</h1><p>The {min(most, len(rows))} worst of {len(rows)} answers, '
        f'failures first. {_key("found", _FOUND)} {_key("missed", _MISSED)} '
        f'{_key("too much", _WRONG)}</p>'
        '<p><input type="search" placeholder="show only answers with this word"></p><main>'
    )
    for row in rows[:most]:
        yield _entry(row, _iou(row, convention), picture(row.index))
    yield f'</main><script>{_SCRIPT}</script></body></html>\n'


def _key(word: str, colour: tuple[int, int, int]) -> str:
    return f'<span class="key" style="background: rgb{colour}">{word}</span>'


def _entry(row: SampleRecord, iou: float, picture: Path) -> str:
    worth = (
        'rightly nothing'
        if _rightly_nothing(row)
        else f'IoU {iou:.3f}'
        if iou >= 0
        else row.item.failure.value or 'not counted'
    )
    text = base64.b64encode(picture.read_bytes()).decode('ascii') if picture.is_file() else ''
    image = f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{text}">' if text else ''
    about = ' · '.join(filter(None, [f'#{row.index}', row.image_id, *row.group]))
    parts = [
        f'<b>“{_safe(row.text)}”</b>',
        f'<span class="n">{worth}</span> {row.status.name.replace("_", " ")}',
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
