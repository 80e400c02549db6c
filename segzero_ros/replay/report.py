"""HTML report of a replay, in one self-contained file.

Written while the answers are read, so that memory does not grow with the bag.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from itertools import zip_longest
import json
from typing import Any

import cv2
import numpy as np

from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record
from segzero_ros.types import S_TO_NS, Status

# Maximum number of images in the file, evenly spaced, and their width in pixels; 30 kB each.
MAX_IMAGES = 200
WIDTH = 480
_QUALITY = 82
# Threads that decode the overlays and encode the images.
_ENCODER_THREADS = 2
_STAGES = ('reasoning', 'encoding', 'segmenting', 'total')
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #777; }
body { font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
article { display: flex; gap: 1.2rem; flex-wrap: wrap; }
article img { width: 30rem; max-width: 100%; align-self: flex-start; border-radius: 4px; }
article div { flex: 1; min-width: 16rem; } .faint { color: var(--faint); }
.status { font-weight: 600; padding: .05rem .5rem; border-radius: .6rem; }
.answer { font-weight: 600; }
.status { color: #fff; background: #b34700; }
.OK { background: #00714f; } .NOT_FOUND { background: #8a5a00; }
.reasoning { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(folder: ReplayOutput, manifest: dict[str, Any], warnings: Sequence[str]) -> None:
    """Write the report of a replay.

    Args:
        folder: has the results, timings and overlays.
        manifest: bag, topics, queries and models.
        warnings: warnings of the replay.
    """
    path = folder.work / folder.report.name
    with path.open('w', encoding='utf-8') as page:
        for part in _parts(folder, manifest, warnings):
            page.write(part)
    path.replace(folder.report)


def _parts(
    folder: ReplayOutput, manifest: dict[str, Any], warnings: Sequence[str]
) -> Iterator[str]:
    title = f'Replay of {manifest["bag"]["name"]}'
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{escape(title)}</title><style>{_STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1>'
    )
    statuses = Counter(record.answer.status for record in folder.records())
    timings = _read_timings(folder)
    yield _summary(manifest, statuses)
    yield ''.join(f'<p>⚠ {escape(warning)}</p>' for warning in warnings)
    yield _latencies(timings)
    yield '<h2>Answers</h2>'
    count = sum(statuses.values())
    evenly = np.linspace(0, count - 1, min(count, MAX_IMAGES)).round().astype(int).tolist()
    with_image = dict.fromkeys(evenly)
    if count > MAX_IMAGES:
        yield f'<p class="faint">Images of {len(with_image)} of {count} answers.</p>'
    begin_ns = None
    with ThreadPoolExecutor(_ENCODER_THREADS, 'report') as encoders:
        images = encoders.map(partial(_image, OverlayFiles(folder)), with_image)
        for number, (record, total) in enumerate(zip_longest(folder.records(), timings['total'])):
            begin_ns = record.time_ns if begin_ns is None else begin_ns
            image = next(images) if number in with_image else ''
            yield _entry(record, record.time_ns - begin_ns, total, image)
    yield '</body></html>\n'


def _summary(manifest: dict[str, Any], statuses: Counter[Status]) -> str:
    rows = {
        'camera': ', '.join(filter(None, manifest['topics'].values())),
        'reasoner': manifest['models']['reasoner']['backend'],
        'segmenter': manifest['models']['segmenter']['backend'],
        'queries': str(sum(statuses.values())),
        'answers': ', '.join(f'{n} {status.name}' for status, n in sorted(statuses.items())),
    }
    cells = ''.join(
        f'<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows.items()
    )
    return f'<table>{cells}</table>'


def _read_timings(folder: ReplayOutput) -> dict[str, list[float]]:
    """Return the durations of the answers in seconds, by stage."""
    lines = [json.loads(line) for line in folder.timings.read_text('ascii').splitlines()]
    return {stage: [line[stage] for line in lines] for stage in _STAGES}


def _latencies(timings: dict[str, list[float]]) -> str:
    rows = []
    for stage, seconds in timings.items():
        if seconds:
            values = [*np.percentile(seconds, [50, 90, 99]), max(seconds)]
            cells = ''.join(f'<td class="n">{value * 1000:.1f}</td>' for value in values)
            rows.append(f'<tr><th>{stage}</th>{cells}</tr>')
    heads = ''.join(f'<th class="n">{name}</th>' for name in ('median', '90 %', '99 %', 'max'))
    return f'<h2>Milliseconds</h2><table><tr><th></th>{heads}</tr>{"".join(rows)}</table>'


def _image(overlays: OverlayFiles, number: int) -> str:
    image = overlays.read(number)
    height = round(image.shape[0] * WIDTH / image.shape[1])
    small = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
    quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    _, data = cv2.imencode('.jpg', small, quality)
    text = base64.b64encode(data.tobytes()).decode('ascii')
    return f'<img alt="" src="data:image/jpeg;base64,{text}">'


def _entry(record: Record, since_ns: int, total: float | None, image: str) -> str:
    answer = record.answer
    stamp = '' if record.stamp_ns is None else f' · stamp {record.stamp_ns / S_TO_NS:.3f}'
    took = '' if total is None else f' · {total * 1000:.0f} ms'
    status = answer.status.name
    parts = [
        f'<b>“{_safe(answer.query.text)}”</b> '
        f'<span class="status {status}">{status.replace("_", " ")}</span>',
        f'<span class="faint">{_safe(answer.query.id)} · '
        f'at {since_ns / S_TO_NS:.3f} s{stamp}{took}</span>',
        _safe(answer.message),
        f'<div class="reasoning">{_safe(answer.reasoning)}</div>' if answer.reasoning else '',
        f'<div class="answer">{_safe(answer.answer)}</div>' if answer.answer else '',
        '' if answer.count is None else f'<div class="answer">Number: {answer.count}</div>',
        _objects(record),
    ]
    return f'<article>{image}<div>{"<br>".join(filter(None, parts))}</div></article>'


def _objects(record: Record) -> str:
    if not record.answer.segments:
        return ''
    rows = []
    for segment in record.answer.segments:
        pose = segment.pose
        position = ', '.join(f'{value:.3f}' for value in pose.position) if pose else ''
        score = '' if np.isnan(segment.score) else f'{segment.score:.2f}'
        cells = (', '.join(map(str, segment.box)), str(int(segment.mask.sum())), score, position)
        numbers = ''.join(f'<td class="n">{cell}</td>' for cell in cells)
        rows.append(f'<tr><td>{segment.id}</td><td>{_safe(segment.label)}</td>{numbers}</tr>')
    heads = ''.join(
        f'<th class="n">{name}</th>'
        for name in ('box x, y, w, h', 'mask px', 'score', 'x, y, z m')
    )
    return f'<table><tr><th>id</th><th>label</th>{heads}</tr>{"".join(rows)}</table>'


def _safe(text: str) -> str:
    """Return text for HTML, with question marks for incomplete characters of a model."""
    return escape(text.encode('utf-8', 'replace').decode('utf-8'))
