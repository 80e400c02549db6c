"""Accuracy of the offline default on generated table-tops.

Run `python -m benchmarks.attributes --scenes 300 --seed 100000`. One sentence of each kind is
asked about each scene, without caching of frames between queries. Depth has noise;
`--without-depth` removes it. The figures are explained in `segzero_ros.evaluation.tabletop`;
`segzero evaluate tabletop` measures other models on the same data.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.runner import answer_sample
from segzero_ros.evaluation.tabletop import report, SCENES, SEED, Tabletop
from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.simulation.affordances import KIND
from segzero_ros.simulation.sentences import KINDS
from segzero_ros.types import Status


def outcomes_of(dataset: Tabletop, kinds: Collection[str] = ()) -> Iterator[SampleRecord]:
    """Return the offline default's answers to all sentences, or to those of some kinds."""
    pipeline = Pipeline(load_reasoner(ReasonerOptions()), load_segmenter(SegmenterOptions()))
    try:
        for index, sample in dataset.read(range(len(dataset))):
            if not kinds or sample.group[0].removeprefix('kind: ') in kinds:
                yield answer_sample(pipeline, None, index, sample)
    finally:
        pipeline.close()


def as_outcome(row: SampleRecord) -> dict[str, Any]:
    """Return an answer's entry in the output file."""
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
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--scenes', type=int, default=SCENES)
    parser.add_argument('--seed', type=int, default=SEED, help='of the first scene')
    parser.add_argument('--per-kind', type=int, default=1, help='sentences of each kind per scene')
    parser.add_argument('--without-depth', action='store_true', help='use colour images only')
    parser.add_argument(
        '--kind', choices=(*KINDS, KIND), action='append', default=[],
        help='only sentences of this kind; repeatable; default: all but "use"',
    )  # fmt: skip
    parser.add_argument('--output', type=Path, help='JSON file for figures and outcomes')
    parser.add_argument('--failures', action='store_true', help='print every wrong answer')
    options = parser.parse_args()
    depth = not options.without_depth
    # The published figures are without affordances, which need world knowledge.
    uses = KIND in options.kind
    dataset = Tabletop(options.scenes, options.seed, options.per_kind, depth, uses)
    rows = list(outcomes_of(dataset, options.kind))
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
