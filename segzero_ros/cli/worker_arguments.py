"""Command-line arguments for several workers, and what runs the shards of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzero_ros.cli.model_arguments import BadArgument
from segzero_ros.loading import ReasonerOptions, SegmenterOptions

if TYPE_CHECKING:
    from segzero_ros.sharding.base import Backend, Outcome


def add_worker_arguments(parser: argparse.ArgumentParser, default: int, help_text: str) -> None:
    """Declare the arguments.

    Args:
        parser: of the command.
        default: number of workers.
        help_text: about their number.
    """
    workers = parser.add_argument_group('several workers')
    workers.add_argument('--workers', type=int, default=default, metavar='N', help=help_text)
    workers.add_argument(
        '--ray',
        nargs='?',
        const='auto',
        default='',
        metavar='ADDRESS',
        help='use a Ray cluster, HOST:PORT; auto: the one of this machine. --workers N then '
        'limits its tasks to N at a time',
    )


def open_backend(
    options: argparse.Namespace,
    reasoner: ReasonerOptions,
    segmenter: SegmenterOptions,
    folder: Path,
    workers: int,
) -> tuple[Backend, int]:
    """Return what runs the shards, and how many it runs at a time.

    Args:
        options: with the arguments above.
        reasoner: the models of each worker.
        segmenter: the models of each worker.
        folder: existing folder for the results.
        workers: number of workers; with Ray the largest, and 0 for as many as fit.

    Raises:
        BadArgument: several were requested for models that can be loaded only once.
        ShardError: the cluster cannot be used.
    """
    from segzero_ros.sharding.local import LocalProcesses
    from segzero_ros.sharding.needs import heavy_models, needs_of

    if options.ray:
        from segzero_ros.sharding.ray_tasks import RayTasks

        tasks = RayTasks(options.ray, needs_of(reasoner, segmenter), folder.absolute(), workers)
        return tasks, tasks.places
    heavy = heavy_models(reasoner.backend, segmenter.backend)
    if workers > 1 and heavy:
        raise BadArgument(
            f'The {" and the ".join(heavy)} cannot be loaded several times on one machine: do '
            'not use --workers; --ray gives each worker a GPU or a machine of its own.'
        )
    return LocalProcesses(workers), workers


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a sentence for each different error, with the names of its shards."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error:
            names.setdefault(outcome.error, []).append(outcome.shard.name)
    return [f'{", ".join(shards)}: {error}' for error, shards in names.items()]
