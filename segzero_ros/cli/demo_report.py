"""The demo's report: on the terminal, as tables, as images and as summary.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import json
import math
import os
from pathlib import Path
import re
import sys
from typing import Any, TYPE_CHECKING

from segzero_ros.cli.demo_questions import Question
from segzero_ros.conversions.text import printable
from segzero_ros.types import RgbImage

if TYPE_CHECKING:
    from rich.console import Console

    from segzero_ros.ros.client import Progress, Reply

MINI = 'mini'
# Minimum mean IoU, see `demo_questions.iou`. The mini reasoner is asked about scenes too.
FLOORS = {'scene': 0.7, 'photograph': 0.5, MINI: 0.6}


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one question.

    Attributes:
        question: the question.
        reply: the node's answer.
        overlay: the node's overlay.
        iou: with the ground truth; NaN without any.
        waited: seconds from query to answer.
    """

    question: Question
    reply: Reply
    overlay: RgbImage
    iou: float
    waited: float

    @property
    def as_expected(self) -> bool:
        """Whether the answer has the expected status."""
        return self.reply.answer.status is self.question.status


class DemoProgress:
    """Live display of the question, its reasoning and a progress bar."""

    def __init__(self, console: Console, count: int) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        self._console = console
        self._text = Text
        self._reasoning = Text(style='dim')
        self._heading = Text()
        self._bar = Progress(
            TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), console=console
        )
        self._task = self._bar.add_task('Questions', total=count)
        self.live = Live(console=console, refresh_per_second=12, transient=True)

    def begin(self, number: int, question: Question) -> None:
        """Show a question."""
        self._heading = self._text(f'{number}. {question.item}: “{question.text}”', style='bold')
        self._reasoning = self._text(style='dim')
        self._update()

    def reasoning(self, progress: Progress) -> None:
        """Show the reasoning while it is generated."""
        self._reasoning.append(printable(progress.text))
        self._update()

    def end(self, outcome: Outcome) -> None:
        """Print the question, its reasoning and its outcome."""
        answer = outcome.reply.answer
        mark = '[green]✓[/]' if outcome.as_expected else '[red]✗[/]'
        # In one call: the live display below is redrawn after each.
        status = f'[dim]by {outcome.question.way}[/] {answer.status.name}'
        self._console.print(mark, self._heading, status)
        text = printable(answer.reasoning or answer.message)
        self._console.print(self._text(f'  {text}', style='dim'))
        self._bar.advance(self._task)
        self._update()

    def _update(self) -> None:
        from rich.console import Group

        self.live.update(Group(self._heading, self._reasoning, self._bar))


@contextmanager
def demo_progress(console: Console, count: int) -> Iterator[DemoProgress]:
    """Show progress through `count` questions; without a terminal only the finished ones."""
    show = DemoProgress(console, count)
    with show.live:
        yield show


def failures_of(outcomes: list[Outcome], mini_outcomes: list[Outcome]) -> list[str]:
    """Return a sentence for each failed expectation.

    Args:
        outcomes: of all questions.
        mini_outcomes: of the mini reasoner, which makes mistakes: only its mean IoU counts.
    """
    failures = [
        f'“{outcome.question.text}” about {outcome.question.item}: status '
        f'{outcome.reply.answer.status.name}, expected {outcome.question.status.name}: '
        f'{outcome.reply.answer.message}'
        for outcome in outcomes
        if not outcome.as_expected
    ]
    for name, (mean, count) in figures_of(outcomes, mini_outcomes).items():
        if mean < FLOORS[name]:
            kind = f'about {name}s' if name != MINI else 'to the mini reasoner'
            failures.append(
                f'The mean IoU of {count} questions {kind} is {mean:.2f}, '
                f'below the minimum of {FLOORS[name]}.'
            )
    return failures


def figures_of(
    outcomes: list[Outcome], mini_outcomes: list[Outcome]
) -> dict[str, tuple[float, int]]:
    """Return the mean IoU and the number of questions with ground truth, by the keys of FLOORS."""
    values: dict[str, list[float]] = {name: [] for name in FLOORS}
    for outcome in outcomes:
        values[outcome.question.source].append(outcome.iou)
    values[MINI] = [outcome.iou for outcome in mini_outcomes]
    known = {name: [iou for iou in all_ if not math.isnan(iou)] for name, all_ in values.items()}
    return {name: (sum(ious) / len(ious), len(ious)) for name, ious in known.items() if ious}


def table_of(outcomes: list[Outcome]) -> Any:
    """Return the `rich` table of all outcomes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('question', 'image', 'by', 'status', 'objects', 'mask px', 'ms', 'IoU'):
        numeric = heading in ('objects', 'mask px', 'ms', 'IoU')
        table.add_column(heading, justify='right' if numeric else 'left')
    for outcome in outcomes:
        answer = outcome.reply.answer
        colour = 'green' if outcome.as_expected else 'red'
        table.add_row(
            Text(outcome.question.text),
            outcome.question.item,
            outcome.question.way,
            f'[{colour}]{answer.status.name}[/]',
            str(len(answer.segments)),
            str(sum(int(segment.mask.sum()) for segment in answer.segments)),
            f'{outcome.waited * 1000:.0f}',
            '' if math.isnan(outcome.iou) else f'{outcome.iou:.2f}',
        )
    for source, (mean, count) in figures_of(outcomes, []).items():
        table.caption = (
            f'{table.caption or ""}  {source}s: mean IoU {mean:.2f} of {count} questions'
        )
    return table


def mini_table(outcomes: list[Outcome], mini_outcomes: list[Outcome]) -> Any:
    """Return the `rich` table that compares the mini reasoner with the default one."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('query to profile:=mini', 'status', 'objects', 'ms', 'IoU', 'IoU of offline'):
        numeric = heading not in ('query to profile:=mini', 'status')
        table.add_column(heading, justify='right' if numeric else 'left')
    for ours, other in _pairs(outcomes, mini_outcomes):
        answer = other.reply.answer
        colour = 'green' if other.as_expected else 'yellow'
        table.add_row(
            Text(other.question.text),
            f'[{colour}]{answer.status.name}[/]',
            str(len(answer.segments)),
            f'{other.waited * 1000:.0f}',
            *('' if math.isnan(each.iou) else f'{each.iou:.2f}' for each in (other, ours)),
        )
    mean, count = figures_of([], mini_outcomes)[MINI]
    table.caption = f'mean IoU {mean:.2f} of {count} questions'
    return table


def _pairs(
    outcomes: list[Outcome], mini_outcomes: list[Outcome]
) -> Iterator[tuple[Outcome, Outcome]]:
    """Yield the outcome of a question by the default reasoner and by the mini reasoner."""
    first = {(each.question.item, each.question.text): each for each in outcomes}
    for other in mini_outcomes:
        yield first[other.question.item, other.question.text], other


def write_mini_page(folder: Path, outcomes: list[Outcome], mini_outcomes: list[Outcome]) -> None:
    """Write `mini.jpg`: both reasoners' overlays for each question to the mini reasoner."""
    import numpy as np

    from segzero_ros.cli.ask import save_image
    from segzero_ros.cli.contact_sheet import contact_sheet

    rows = [
        contact_sheet([ours.overlay, other.overlay], columns=2)
        for ours, other in _pairs(outcomes, mini_outcomes)
    ]
    if rows:
        save_image(folder / 'mini.jpg', np.concatenate(rows), quality=80)


def write_overlays(folder: Path, outcomes: list[Outcome]) -> None:
    """Write each answer's overlay, and `overview.jpg` with some of them."""
    from segzero_ros.cli.ask import save_image
    from segzero_ros.cli.contact_sheet import contact_sheet

    for number, outcome in enumerate(outcomes, start=1):
        save_image(folder / file_name(number, outcome.question), outcome.overlay)
    chosen = [outcome.overlay for outcome in outcomes if outcome.question.on_overview]
    save_image(folder / 'overview.jpg', contact_sheet(chosen), quality=80)


def file_name(number: int, question: Question) -> str:
    """Return the file name of an answer's overlay."""
    words = re.sub(r'[^a-z0-9]+', '-', question.text.lower()).strip('-')
    return f'{number:02d}_{question.item}_{words[:40]}.png'


def write_summary(
    folder: Path,
    outcomes: list[Outcome],
    mini_outcomes: list[Outcome],
    failures: list[str],
    counts: dict[str, int],
    seconds: float,
) -> None:
    """Write summary.json, last and atomically: if it exists, all other files are complete.

    Args:
        folder: the output folder.
        outcomes: of all questions.
        mini_outcomes: of the mini reasoner's questions.
        failures: see `failures_of`.
        counts: recorded messages by topic.
        seconds: total time of the demo.
    """
    summary = {
        'ok': not failures,
        'failures': failures,
        'seconds': round(seconds, 2),
        'figures': {
            source: {'mean_iou': round(mean, 4), 'questions': count, 'floor': FLOORS[source]}
            for source, (mean, count) in figures_of(outcomes, mini_outcomes).items()
        },
        'questions': [
            {**_entry(outcome), 'file': file_name(number, outcome.question)}
            for number, outcome in enumerate(outcomes, start=1)
        ],
        MINI: [_entry(outcome) for outcome in mini_outcomes],
        'recorded_messages': counts,
        'machine': machine(),
    }
    partial = folder / 'summary.json.part'
    partial.write_text(json.dumps(summary, ensure_ascii=False, indent=2) + '\n')
    partial.replace(folder / 'summary.json')


def _entry(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome's entry in summary.json."""
    from segzero_ros.cli.ask import as_dictionary

    return {
        'picture': f'{outcome.question.source} {outcome.question.item}',
        'way': outcome.question.way,
        'expected': outcome.question.status.name,
        'iou': None if math.isnan(outcome.iou) else round(outcome.iou, 4),
        'seconds_waited': round(outcome.waited, 4),
        'answer': as_dictionary(outcome.reply),
    }


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
    import platform

    import cv2
    import numpy as np

    information = Path('/proc/cpuinfo')
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return {
        'processor': names[0] if names else platform.processor(),
        'cores': os.cpu_count(),
        'system': platform.platform(),
        'python': sys.version.split()[0],
        'numpy': np.__version__,
        'opencv': cv2.__version__,
    }
