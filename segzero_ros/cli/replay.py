"""`segzero replay`: query a bag, and write a bag, overlays, a video and a report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
import shutil
from typing import Any, TYPE_CHECKING

from segzero_ros import hub
from segzero_ros.cli.model_arguments import add_model_arguments, BadArgument, read_parameters
from segzero_ros.cli.replay_differences import print_differences
from segzero_ros.cli.worker_arguments import add_worker_arguments
from segzero_ros.conversions.text import printable
from segzero_ros.types import Answer, TASK_NAMES

if TYPE_CHECKING:
    from segzero_ros.replay.output import ReplayOutput
    from segzero_ros.replay.query_file import QueryPlan
    from segzero_ros.replay.replay import ReplayListener, ReplayOptions

_OUTPUTS = ('bag', 'originals', 'overlays', 'video', 'report')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'bags',
        type=Path,
        nargs='+',
        metavar='BAG',
        help='ROS 2 bag (folder, .mcap, .db3) or ROS 1 bag; several, or a folder of bags in '
        'folders of their own',
    )
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        help='folder for the results; default: <bag>_replay, of several bags replays/<bag>',
    )
    asking = parser.add_argument_group(
        'queries', 'Default: the queries that were recorded in the bag.'
    )
    asking.add_argument(
        '--query', action='append', metavar='TEXT', help='a query for every frame; repeatable'
    )
    asking.add_argument(
        '--every', type=float, metavar='S', help='with --query: only one frame every S seconds'
    )
    asking.add_argument(
        '--task', choices=TASK_NAMES, help='with --query: what is wanted; default: segment'
    )
    asking.add_argument('--queries', type=Path, metavar='FILE', help='YAML file with queries')
    asking.add_argument('--query-topic', default='', help='topic of recorded queries')
    camera = parser.add_argument_group('camera topics', 'Default: detected by type and name.')
    camera.add_argument('--image', default='', metavar='TOPIC', help='colour images')
    camera.add_argument(
        '--depth', default='', metavar='TOPIC', help='depth images; "none" to ignore them'
    )
    camera.add_argument(
        '--camera-info', default='', metavar='TOPIC', help='intrinsics; "none" to ignore them'
    )
    add_model_arguments(parser)
    add_worker_arguments(parser, 0, 'processes that answer, with --profile offline; 0: automatic')
    _add_output_arguments(parser)
    _add_regression_arguments(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    outputs = parser.add_argument_group('output')
    outputs.add_argument(
        '--rate',
        type=float,
        default=0.0,
        help='playback rate, 1 is real time; 0: as fast as possible',
    )
    outputs.add_argument(
        '--without',
        action='append',
        default=[],
        choices=_OUTPUTS,
        help="do not write this; repeatable. originals: the input bag's messages in the new bag",
    )
    outputs.add_argument(
        '--namespace', default='/segzero', help='of the result topics; default: %(default)s'
    )
    outputs.add_argument(
        '--overlay-topic', action='store_true', help='also write the overlays to the bag'
    )
    outputs.add_argument(
        '--clouds', action='store_true', help='also write points and object_points to the bag'
    )
    outputs.add_argument(
        '--restart', action='store_true', help='do not resume an interrupted replay'
    )
    outputs.add_argument('-q', '--quiet', action='store_true', help='no progress, no summary')


def _add_regression_arguments(parser: argparse.ArgumentParser) -> None:
    regression = parser.add_argument_group('regression')
    regression.add_argument(
        '--expect',
        type=Path,
        metavar='FILE',
        help='compare with accepted answers; exit code 1 if they differ. Of several bags: folder '
        'with FOLDER/<bag>.jsonl',
    )
    regression.add_argument(
        '--accept',
        type=Path,
        metavar='FILE',
        help='save the answers as accepted; of several bags: folder',
    )
    regression.add_argument(
        '--iou',
        type=float,
        default=0.95,
        help='minimum IoU with an accepted mask; default: %(default)s',
    )


def run(options: argparse.Namespace) -> int:
    """Replay bags; return 1 if the answers differ from the accepted ones."""
    from segzero_ros.replay.bags_extra import require_bags

    with require_bags():
        from segzero_ros.cli.replay_many import replay_many
        from segzero_ros.replay.bag_folder import find_bags
        from segzero_ros.replay.replay import ReplayOptions
    plan = _plan(options)
    parameters = read_parameters(options)
    replay_options = ReplayOptions(
        plan,
        options.image,
        options.depth,
        options.camera_info,
        options.query_topic,
        options.rate,
        options.namespace,
        options.overlay_topic,
        options.clouds,
        frozenset(options.without),
        options.restart,
        options.workers,
    )
    bags = find_bags(options.bags)
    if len(options.bags) > 1 or options.ray or bags[0].path != options.bags[0].absolute():
        return replay_many(options, bags, parameters, replay_options)
    return _replay(options, parameters, replay_options)


def _replay(
    options: argparse.Namespace, parameters: dict[str, Any], replay_options: ReplayOptions
) -> int:
    """Replay one bag into the output folder itself."""
    from segzero_ros.replay.replay import replay

    (bag,) = options.bags
    if options.expect is not None and not options.expect.is_file():
        raise BadArgument(f'{options.expect} does not exist: create it with --accept.')
    output = options.output or Path(f'{bag.name.removesuffix(bag.suffix)}_replay')
    with _progress(quiet=options.quiet) as listener:
        folder = replay(bag, output, parameters, replay_options, listener)
    if not options.quiet:
        _print_summary(folder)
    code = print_differences(folder, options.expect, options.iou) if options.expect else 0
    if options.accept:
        options.accept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.results, options.accept)
        print(f'Accepted: {options.accept}')
    return code


def _plan(options: argparse.Namespace) -> QueryPlan | None:
    from segzero_ros.replay.query_file import QueryPlan, read_queries
    from segzero_ros.types import S_TO_NS

    if options.query and options.queries:
        raise BadArgument('Give either --query or --queries, not both.')
    if (options.query or options.queries) and options.query_topic:
        raise BadArgument('Give either --query-topic, or --query or --queries, not both.')
    if options.every is not None and not (options.query and options.every > 0):
        raise BadArgument('--every needs --query TEXT and a time above 0.')
    if options.task and not options.query:
        raise BadArgument('--task needs --query TEXT; in a file, each query has its own task.')
    if options.workers < 0:
        raise BadArgument('--workers must not be negative.')
    if options.rate < 0 or not 0 <= options.iou <= 1:
        raise BadArgument('--rate must not be negative, and --iou must be between 0 and 1.')
    if options.queries:
        return QueryPlan(asks=read_queries(options.queries))
    if options.query:
        return QueryPlan(
            texts=tuple(options.query),
            every_ns=round((options.every or 0) * S_TO_NS),
            task=options.task or '',
        )
    return None


@contextmanager
def _progress(*, quiet: bool) -> Iterator[ReplayListener]:
    """Show a progress bar with rate and remaining time on a terminal; always show warnings."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from segzero_ros.replay.replay import ReplayListener

    class Rate(ProgressColumn):
        """Answers per second."""

        def render(self, task: Task) -> Text:
            return Text(f'{task.speed:.1f}/s' if task.speed else '', style='dim')

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task('Answering', total=None)

        def begin(done: int, expected: int) -> None:
            bar.update(task, description='Answering', total=expected or None, completed=done)
            if done and not quiet:
                console.print(f'Resuming after {done} answers.')

        def answered(number: int, answer: Answer) -> None:
            bar.update(task, completed=number + 1)

        def write(what: str) -> None:
            bar.update(task, description=f'Writing {what}')

        def warn(text: str) -> None:
            console.print(printable(text), style='yellow', markup=False)

        def downloading(reached: hub.Progress) -> None:
            bar.update(task, description=str(reached))

        with hub.reporting(downloading) if console.is_terminal else nullcontext():
            yield ReplayListener(warn, begin, answered, write)


def _print_summary(folder: ReplayOutput) -> None:
    from collections import Counter

    statuses = Counter(record.answer.status for record in folder.records())
    answers = ', '.join(f'{count} {status.name}' for status, count in sorted(statuses.items()))
    print(f'{sum(statuses.values())} answers ({answers or "none"}) in {folder.path}')
    for path in (folder.bag, folder.results, folder.overlays, folder.video, folder.report):
        if path.exists():
            print(f'  {path.name}')
