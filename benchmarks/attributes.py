"""How well the offline default finds what sentences mean, on generated table-tops.

Run `python -m benchmarks.attributes --scenes 300 --seed 100000`. One sentence of each kind is
asked about each scene, each paying for everything (no frame is remembered between queries). The
camera measures depth too, with noise; `--without-depth` takes it away.

gIoU: mean IoU of the union of the answered masks with the union of the true ones, over sentences
that mean something. Wrong object: share of those sentences whose answer has a mask that belongs to
no object meant, or lacks an object meant; a mask belongs to the instance that it overlaps most.
Not found: share answered NOT_FOUND; right for sentences that mean nothing, wrong for others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
import time

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.simulation.scenes import make_scene, Scene, Sentence
from segzero_ros.types import Answer, Query, Status


@dataclass(frozen=True)
class Outcome:
    """One sentence about one scene.

    Attributes:
        seed: of the scene.
        text: the sentence.
        kind: its kind.
        difficulty: its difficulty.
        status: the answer's.
        iou: of the unions of masks; NaN for sentences that mean nothing.
        wrong: whether a wrong object was marked or a meant one was not; False where none is meant.
        milliseconds: from the question to the answer.
    """

    seed: int
    text: str
    kind: str
    difficulty: str
    status: str
    iou: float
    wrong: bool
    milliseconds: float


def judge(scene: Scene, sentence: Sentence, answer: Answer, milliseconds: float) -> Outcome:
    """Compare an answer with the truth."""
    height, width = scene.labels.shape
    union, owners = np.zeros((height, width), np.bool_), set()
    for segment in answer.segments:
        mask = segment.full_mask(height, width)
        union |= mask
        owners.add(_owner(scene, mask))
    iou = float('nan')
    if sentence.targets:
        meant = np.isin(scene.labels, [scene.objects[index].id for index in sentence.targets])
        iou = float((union & meant).sum() / max((union | meant).sum(), 1))
    wrong = bool(sentence.targets) and owners != set(sentence.targets)
    return Outcome(
        scene.seed, sentence.text, sentence.kind, sentence.difficulty,
        answer.status.name, iou, wrong, milliseconds,
    )  # fmt: skip


def _owner(scene: Scene, mask: np.ndarray) -> int:
    """Return the index of the object that a mask overlaps most, -1 for none."""
    covered = scene.labels[mask]
    counts = np.bincount(covered[covered > 0], minlength=len(scene.objects) + 1)
    return int(counts.argmax()) - 1 if counts.any() else -1


def ask(pipeline: Pipeline, scene: Scene, per_kind: int = 1) -> Iterator[Outcome]:
    """Ask the scene's first sentences of each kind."""
    asked: dict[str, int] = {}
    for sentence in scene.sentences:
        asked[sentence.kind] = asked.get(sentence.kind, 0) + 1
        if asked[sentence.kind] > per_kind:
            continue
        # A new frame each time, so that neither model knows it.
        frame = replace(scene.frame)
        started = time.perf_counter()
        answer = pipeline.answer(frame, Query(sentence.text))
        yield judge(scene, sentence, answer, 1000 * (time.perf_counter() - started))


def summarise(outcomes: list[Outcome]) -> dict[str, float]:
    """Return the figures of some outcomes; NaN where there is nothing to count."""
    meant = [outcome for outcome in outcomes if outcome.kind != 'none']
    nothing = [outcome for outcome in outcomes if outcome.kind == 'none']
    times = [outcome.milliseconds for outcome in outcomes]

    def share(flags: list[bool]) -> float:
        return sum(flags) / len(flags) if flags else float('nan')

    p50, p95 = np.percentile(times, (50, 95)) if times else (float('nan'),) * 2
    return {
        'sentences': len(outcomes),
        'giou': float(np.mean([outcome.iou for outcome in meant])) if meant else float('nan'),
        'wrong_object': share([outcome.wrong for outcome in meant]),
        'missed': share([outcome.status == Status.NOT_FOUND.name for outcome in meant]),
        'not_found': share([outcome.status == Status.NOT_FOUND.name for outcome in nothing]),
        'p50_ms': float(p50),
        'p95_ms': float(p95),
    }


def report(outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
    """Return the figures over all outcomes, per kind and per difficulty."""
    figures = {'all': summarise(outcomes)}
    for field in ('kind', 'difficulty'):
        names = dict.fromkeys(getattr(outcome, field) for outcome in outcomes)
        for name in names:
            chosen = [outcome for outcome in outcomes if getattr(outcome, field) == name]
            figures[f'{field}: {name}'] = summarise(chosen)
    return figures


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
    parser.add_argument('--scenes', type=int, default=300)
    parser.add_argument('--seed', type=int, default=100000, help='of the first scene')
    parser.add_argument('--per-kind', type=int, default=1, help='sentences of a kind per scene')
    parser.add_argument('--without-depth', action='store_true', help='a colour camera alone')
    parser.add_argument('--output', type=Path, help='a JSON file for figures and outcomes')
    parser.add_argument('--failures', action='store_true', help='print every wrong answer')
    options = parser.parse_args()
    pipeline = Pipeline(load_reasoner(ReasonerOptions()), load_segmenter(SegmenterOptions()))
    outcomes: list[Outcome] = []
    for seed in range(options.seed, options.seed + options.scenes):
        scene = make_scene(seed)
        if options.without_depth:
            scene = replace(scene, frame=replace(scene.frame, depth=None))
        outcomes.extend(ask(pipeline, scene, options.per_kind))
    pipeline.close()
    if options.failures:
        for outcome in outcomes:
            false_alarm = outcome.kind == 'none' and outcome.status != Status.NOT_FOUND.name
            if outcome.wrong or false_alarm:
                print(f'{outcome.seed} {outcome.kind}: {outcome.text!r} -> {outcome.status}')
    figures = report(outcomes)
    _print(figures)
    if options.output:
        content = {'figures': figures, 'outcomes': [asdict(outcome) for outcome in outcomes]}
        options.output.write_text(json.dumps(content, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
