"""`segzero replay` of several bags: in parallel, and with one summary."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
import os
from pathlib import Path
import shutil
import sys
from typing import Any, TYPE_CHECKING

from segzero_ros.cli.model_arguments import BadArgument
from segzero_ros.cli.replay_differences import print_differences
from segzero_ros.cli.worker_arguments import open_backend
from segzero_ros.config import reasoner_options, segmenter_options
from segzero_ros.conversions.text import printable

if TYPE_CHECKING:
    from segzero_ros.replay.bag_folder import NamedBag
    from segzero_ros.replay.replay import ReplayOptions
    from segzero_ros.sharding.base import Outcome, Progress
    from segzero_ros.sharding.executor import OnOutcome, OnProgress

FAILED = 2
# With more processes on one machine, reading and writing the bags is the bottleneck.
_MAX_WORKERS = 8


def replay_many(
    options: argparse.Namespace,
    bags: Sequence[NamedBag],
    parameters: Mapping[str, Any],
    replay_options: ReplayOptions,
) -> int:
    """Replay several bags; return 1 if answers differ from the accepted ones, 2 after an error.

    Args:
        options: of the command.
        bags: the bags.
        parameters: of the node.
        replay_options: of each replay.
    """
    from segzero_ros.replay.many import replay_task
    from segzero_ros.sharding.executor import run_shards
    from segzero_ros.sharding.needs import heavy_models

    output = options.output or Path('replays')
    for folder in (options.expect, options.accept):
        if folder is not None and folder.is_file():
            raise BadArgument(f'{folder} is one file: several bags need a folder.')
    if options.expect is not None:
        golden = [options.expect / f'{name}.jsonl' for name, _ in bags]
        if missing := [str(path) for path in golden if not path.is_file()]:
            raise BadArgument(f'{", ".join(missing)}: missing; create with --accept.')
    models = reasoner_options(parameters.__getitem__), segmenter_options(parameters.__getitem__)
    workers = options.workers
    if not workers and not options.ray:
        idle = min(len(os.sched_getaffinity(0)), _MAX_WORKERS, len(bags))
        workers = 1 if heavy_models(models[0].backend, models[1].backend) else idle
    output.mkdir(parents=True, exist_ok=True)
    backend, _ = open_backend(options, *models, output, workers)
    tasks = [replay_task(bag, output, parameters, replay_options) for bag in bags]
    with _progress(tasks, quiet=options.quiet) as (on_progress, on_outcome):
        outcomes = run_shards(tasks, backend, on_progress, on_outcome)
    _write_summary(output, outcomes)
    if not options.quiet:
        _print_summary(output, outcomes)
    code = _compare(options, output, outcomes)
    for outcome in outcomes:
        if outcome.error:
            text = f'segzero replay: {outcome.shard.name}: {outcome.error}'
            print(printable(text), file=sys.stderr)
    return FAILED if any(outcome.error for outcome in outcomes) else code


def _write_summary(output: Path, outcomes: Sequence[Outcome]) -> None:
    """Write `summary.json`: the numbers of answers by status, of each bag and of all."""
    total: Counter[str] = Counter()
    bags = {}
    for outcome in outcomes:
        if outcome.error:
            bags[outcome.shard.name] = {'error': outcome.error}
        else:
            bags[outcome.shard.name] = {'answers': outcome.result}
            total.update(outcome.result)
    summary = {'complete': not any(one.error for one in outcomes), 'answers': total, 'bags': bags}
    new = output / 'summary.json.new'
    new.write_text(json.dumps(summary, indent=1) + '\n', encoding='utf-8')
    new.replace(output / 'summary.json')


def _print_summary(output: Path, outcomes: Sequence[Outcome]) -> None:
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.result or {})
    done = sum(not outcome.error for outcome in outcomes)
    print(f'{done} of {len(outcomes)} bags, {_counted(total)} in {output}')


def _counted(answers: Mapping[str, int]) -> str:
    parts = ', '.join(f'{count} {status}' for status, count in answers.items())
    return f'{sum(answers.values())} answers ({parts or "none"})'


def _compare(options: argparse.Namespace, output: Path, outcomes: Sequence[Outcome]) -> int:
    """Compare with the accepted answers, and save them; return 1 if any differ."""
    from segzero_ros.replay.output import ReplayOutput

    code = 0
    for outcome in outcomes:
        if outcome.error:
            continue
        name = outcome.shard.name
        folder = ReplayOutput(output / name)
        if options.expect is not None:
            golden = options.expect / f'{name}.jsonl'
            code = max(code, print_differences(folder, golden, options.iou))
        if options.accept is not None:
            accepted = options.accept / f'{name}.jsonl'
            accepted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.results, accepted)
            print(f'Accepted: {accepted}')
    return code


@contextmanager
def _progress(tasks: Sequence[Any], *, quiet: bool) -> Iterator[tuple[OnProgress, OnOutcome]]:
    """Show a bar over all bags on a terminal, and a line for each that has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[answers]} answers'),
        TimeElapsedColumn(),
    )
    answers = [0] * len(tasks)
    ended = 0
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        shown = bar.add_task('Bags', total=len(tasks), answers=0)

        def on_progress(number: int, now: Progress) -> None:
            answers[number] = max(answers[number], now.done)
            bar.update(shown, answers=sum(answers))
            if now.note:
                text = printable(f'{tasks[number].name}: {now.note}')
                console.print(text, style='yellow', markup=False, soft_wrap=True)

        def on_outcome(number: int, outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            bar.update(shown, completed=ended)
            if not quiet:
                what = 'failed' if outcome.error else _counted(outcome.result)
                line = printable(f'[{ended}/{len(tasks)}] {outcome.shard.name}: {what}')
                console.print(line, markup=False, soft_wrap=True)

        yield on_progress, on_outcome
