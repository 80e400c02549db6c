"""`segzero replay`: ask a bag, and write a bag, pictures, a video and a report of the answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
import shutil
import sys
from typing import TYPE_CHECKING

from segzero_ros import hub
from segzero_ros.cli.model_arguments import add_model_arguments, BadArgument, read_parameters
from segzero_ros.conversions.text import printable
from segzero_ros.types import Answer

if TYPE_CHECKING:
    from segzero_ros.replay.output import ReplayOutput
    from segzero_ros.replay.query_file import QueryPlan
    from segzero_ros.replay.replay import ReplayListener

DIFFERENT = 1
_OUTPUTS = ('bag', 'originals', 'overlays', 'video', 'report')
# Differences that are printed at most; a changed model changes every answer.
_MOST = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('bag', type=Path, help='a bag of ROS 2 (folder, .mcap, .db3) or ROS 1')
    parser.add_argument(
        '-o', '--output', type=Path, help='folder for the results; default: <bag>_replay'
    )
    asking = parser.add_argument_group(
        'what is asked', 'Without any of these: the queries that were recorded in the bag.'
    )
    asking.add_argument(
        '--query', action='append', metavar='TEXT', help='ask this about every frame; repeatable'
    )
    asking.add_argument(
        '--every', type=float, metavar='S', help='with --query: one frame in S seconds'
    )
    asking.add_argument('--queries', type=Path, metavar='FILE', help='a YAML file of queries')
    asking.add_argument('--query-topic', default='', help='the topic with recorded queries')
    camera = parser.add_argument_group('the camera', 'Found by type and name where not given.')
    camera.add_argument('--image', default='', metavar='TOPIC', help='colour images')
    camera.add_argument('--depth', default='', metavar='TOPIC', help='depth images; none: without')
    camera.add_argument(
        '--camera-info', default='', metavar='TOPIC', help='intrinsics; none: without'
    )
    add_model_arguments(parser)
    _add_output_arguments(parser)
    _add_judging_arguments(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    making = parser.add_argument_group('what is made')
    making.add_argument(
        '--rate', type=float, default=0.0, help='seconds of the bag per second; 0: all it can'
    )
    making.add_argument(
        '--workers',
        type=int,
        default=0,
        metavar='N',
        help='processes that answer, with --profile offline; 0: as many as pay',
    )
    making.add_argument(
        '--without',
        action='append',
        default=[],
        choices=_OUTPUTS,
        help='leave this out; repeatable. originals: those messages in the bag with the results',
    )
    making.add_argument('--namespace', default='/segzero', help="of the results' topics")
    making.add_argument(
        '--overlay-topic', action='store_true', help='put the pictures into the bag too'
    )
    making.add_argument(
        '--restart', action='store_true', help='begin anew what was interrupted before'
    )
    making.add_argument('-q', '--quiet', action='store_true', help='no progress, no summary')


def _add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    judging = parser.add_argument_group('regression')
    judging.add_argument(
        '--expect', type=Path, metavar='FILE', help='compare with accepted answers; exits 1 if not'
    )
    judging.add_argument('--accept', type=Path, metavar='FILE', help='accept the answers')
    judging.add_argument(
        '--iou', type=float, default=0.95, help='least IoU with an accepted mask; %(default)s'
    )


def run(options: argparse.Namespace) -> int:
    """Replay; return 1 when the answers differ from the accepted ones."""
    from segzero_ros.replay.bags_extra import needs_bags

    with needs_bags():
        from segzero_ros.replay.replay import replay, ReplayOptions
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
        frozenset(options.without),
        options.restart,
        options.workers,
    )
    if options.expect is not None and not options.expect.is_file():
        raise BadArgument(f'{options.expect} does not exist: make it with --accept.')
    output = options.output or Path(f'{options.bag.name.removesuffix(options.bag.suffix)}_replay')
    with _progress(quiet=options.quiet) as listener:
        folder = replay(options.bag, output, parameters, replay_options, listener)
    if not options.quiet:
        _print_summary(folder)
    code = _judge(folder, options.expect, options.iou) if options.expect else 0
    if options.accept:
        options.accept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.results, options.accept)
        print(f'Accepted: {options.accept}')
    return code


def _plan(options: argparse.Namespace) -> QueryPlan | None:
    from segzero_ros.replay.query_file import QueryPlan, read_queries
    from segzero_ros.types import S_TO_NS

    if options.query and options.queries:
        raise BadArgument('Give either --query or --queries.')
    if (options.query or options.queries) and options.query_topic:
        raise BadArgument('Give either --query-topic or queries of your own.')
    if options.every is not None and not (options.query and options.every > 0):
        raise BadArgument('--every needs --query TEXT, and a time above 0.')
    if options.workers < 0:
        raise BadArgument('--workers must not be negative.')
    if options.rate < 0 or not 0 <= options.iou <= 1:
        raise BadArgument('--rate must not be negative, and --iou must be 0 to 1.')
    if options.queries:
        return QueryPlan(asks=read_queries(options.queries))
    if options.query:
        return QueryPlan(
            texts=tuple(options.query), every_ns=round((options.every or 0) * S_TO_NS)
        )
    return None


@contextmanager
def _progress(*, quiet: bool) -> Iterator[ReplayListener]:
    """Show a bar with the rate and the time left, on a terminal; remarks are always shown."""
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
        task = bar.add_task('Asking', total=None)

        def begin(done: int, expected: int) -> None:
            bar.update(task, description='Asking', total=expected or None, completed=done)
            if done and not quiet:
                console.print(f'Going on after {done} answers.')

        def answered(number: int, answer: Answer) -> None:
            bar.update(task, completed=number + 1)

        def write(what: str) -> None:
            bar.update(task, description=f'Writing {what}')

        def remark(text: str) -> None:
            console.print(printable(text), style='yellow', markup=False)

        def fetched(reached: hub.Progress) -> None:
            bar.update(task, description=str(reached))

        with hub.reporting(fetched) if console.is_terminal else nullcontext():
            yield ReplayListener(remark, begin, answered, write)


def _print_summary(folder: ReplayOutput) -> None:
    from collections import Counter

    statuses = Counter(record.answer.status for record in folder.records())
    answers = ', '.join(f'{count} {status.name}' for status, count in sorted(statuses.items()))
    print(f'{sum(statuses.values())} answers ({answers or "none"}) in {folder.path}')
    for path in (folder.bag, folder.results, folder.overlays, folder.video, folder.report):
        if path.exists():
            print(f'  {path.name}')


def _judge(folder: ReplayOutput, golden: Path, least_iou: float) -> int:
    from segzero_ros.replay.regression import compare, read_golden

    result = compare(read_golden(golden), folder.records(), least_iou)
    for difference in result.differences[:_MOST]:
        print(printable(str(difference)))
    if len(result.differences) > _MOST:
        print(f'… and {len(result.differences) - _MOST} more differences')
    if result.differences:
        print(
            f'{result.differing} of {result.compared} answers differ from {golden}',
            file=sys.stderr,
        )
        return DIFFERENT
    print(f'All {result.compared} answers are as in {golden}')
    return 0
