"""How well the offline default finds what sentences mean, on generated table-tops.

Run `python -m benchmarks.attributes --scenes 300 --seed 100000`. One sentence of each kind is
asked about each scene, each paying for everything (no frame is remembered between queries). The
camera measures depth too, with noise; `--without-depth` takes it away. What the figures are:
`segzero_ros.evaluation.tabletop`; `segzero evaluate tabletop` asks the same of any models.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.runner import ask
from segzero_ros.evaluation.tabletop import report, SCENES, SEED, Tabletop
from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.types import Status


def outcomes_of(dataset: Tabletop) -> Iterator[SampleRecord]:
    """Ask the offline default everything."""
    pipeline = Pipeline(load_reasoner(ReasonerOptions()), load_segmenter(SegmenterOptions()))
    try:
        for index, sample in dataset.read(range(len(dataset))):
            yield ask(pipeline, None, index, sample)
    finally:
        pipeline.close()


def as_outcome(row: SampleRecord) -> dict[str, Any]:
    """Return an answer as the file of outcomes holds it."""
    overlap = row.item.whole
    meant = row.item.wrong_object is not None
    kind, difficulty = (name.partition(': ')[2] for name in row.group)
    return {
        'seed': int(row.image_id),
        'text': row.text,
        'kind': kind,
        'difficulty': difficulty,
        'status': row.status.name,
        'iou': overlap.intersection / max(overlap.union, 1) if meant and overlap else None,
        'wrong': bool(row.item.wrong_object),
        'milliseconds': 1000 * row.seconds['total'],
    }


def _print(figures: dict[str, dict[str, float]]) -> None:
    table = Table(
        Column('sentences', no_wrap=True),
        *('count', 'gIoU', 'wrong object', 'missed', 'not found', 'p50', 'p95'),
    )
    for name, row in figures.items():
        percent = (row['wrong_object'], row['missed'], row['not_found'])
        cells = ['-' if np.isnan(value) else f'{100 * value:.1f} %' for value in percent]
        giou = '-' if np.isnan(row['giou']) else f'{row["giou"]:.3f}'
        times = (f'{row["p50_ms"]:.0f} ms', f'{row["p95_ms"]:.0f} ms')
        table.add_row(name, str(int(row['sentences'])), giou, *cells, *times)
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--scenes', type=int, default=SCENES)
    parser.add_argument('--seed', type=int, default=SEED, help='of the first scene')
    parser.add_argument('--per-kind', type=int, default=1, help='sentences of a kind per scene')
    parser.add_argument('--without-depth', action='store_true', help='a colour camera alone')
    parser.add_argument('--output', type=Path, help='a JSON file for figures and outcomes')
    parser.add_argument('--failures', action='store_true', help='print every wrong answer')
    options = parser.parse_args()
    depth = not options.without_depth
    # What things are for is known to models of language; here is measured what can be seen.
    dataset = Tabletop(options.scenes, options.seed, options.per_kind, depth, uses=False)
    rows = list(outcomes_of(dataset))
    outcomes = [as_outcome(row) for row in rows]
    if options.failures:
        for outcome in outcomes:
            found = outcome['status'] != Status.NOT_FOUND.name
            if outcome['wrong'] or (outcome['kind'] == 'none' and found):
                print('{seed} {kind}: {text!r} -> {status}'.format(**outcome))
    figures = report(rows)
    _print(figures)
    if options.output:
        content = {'figures': figures, 'outcomes': outcomes}
        options.output.write_text(json.dumps(content, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
