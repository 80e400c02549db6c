"""`segzero demo`: the real node, a camera and a client, each its own program, on real pictures.

What goes over the graph is recorded; what is answered is measured, drawn and told. Where torch and
transformers are installed, a second node asks the small reasoner about the generated scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
import importlib.util
import math
import os
from pathlib import Path
import re
import shutil
import sys
import time
from typing import Any, TYPE_CHECKING

from segzero_ros.cli.child_processes import ChildProcesses, choose_domain, executable, installed
from segzero_ros.cli.demo_questions import iou, Question, QUESTIONS
from segzero_ros.cli.demo_report import (
    failures_of,
    FLOORS,
    MINI,
    Outcome,
    shown_progress,
    table_beside,
    table_of,
    write_beside,
    write_pictures,
    write_summary,
)
from segzero_ros.types import RgbImage, SegZeroError, Status

if TYPE_CHECKING:
    from rich.console import Console

    from segzero_ros.ros.camera_sim.control import CameraControl
    from segzero_ros.ros.client import PerceptionClient, Reply
    from segzero_ros.ros.recorder import Recorder

CAMERA, NODE = 'camera', 'segzero'
CAMERA_RATE = 4.0
STARTING = 60.0
ANSWERING = 30.0
# In which the node has to hear a new picture: on a busy machine more than the next one passes by.
SEEING = 30.0
RECORDED = ('query', 'result', 'reasoning', 'overlay')
# What the profile `mini` is loaded with.
NEEDS = ('rclpy', 'rosbags', 'skimage')
MINI_NEEDS = ('torch', 'torchvision', 'transformers', 'accelerate')
# The node and the recorder.
HEARERS = 2
FAILED = 1
"""Exit code when a question ended otherwise than it should, or a figure is below its floor."""

EPILOG = f"""\
writes into the output folder
  NN_<picture>_<question>.png   the node's own picture of each answer
  overview.jpg                  some of them on one page
  mini.jpg                      scenes as the embedded default (left) and the small reasoner answer
  bag/                          everything that went over the graph (MCAP), for Foxglove, ros2 bag
  summary.json                  questions, statuses, figures, machine
  node.log, camera.log, mini.log   what the programs said

exit codes: 0 every question ended as it should and the figures are above their floors
({FLOORS['scene']} for masks in generated scenes, {FLOORS['photograph']} for boxes in photographs,
{FLOORS[MINI]} for the small reasoner's masks, whatever its statuses);
1 if not; 2 when the graph could not be run; 130 after Ctrl-C.
"""


class DemoFailed(SegZeroError):
    """The demo could not be run to its end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        '--output',
        type=Path,
        default=Path('out/demo'),
        help='folder for pictures, bag and summary (default: %(default)s)',
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; return its exit code."""
    from rich.console import Console

    # Before anything is started or written: what is missing ends the demo.
    for name in NEEDS:
        if importlib.util.find_spec(name) is None:
            importlib.import_module(name)
    # Where the output is no terminal, wide enough for the table.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    folder: Path = options.output
    clear(folder)
    domain = choose_domain(os.environ)
    console.print(f'ROS domain {domain}, this machine only. Starting the node and a camera …')
    outcomes, beside, mishap, counts = ask_all(folder, console)
    failures = [*failures_of(outcomes, beside), *filter(None, [mishap])]
    seconds = time.monotonic() - started
    write_pictures(folder, outcomes)
    write_beside(folder, outcomes, beside)
    write_summary(folder, outcomes, beside, failures, counts, seconds)
    console.print(table_of(outcomes))
    if beside:
        console.print(table_beside(outcomes, beside))
    elif not mishap:
        console.print(f'profile:=mini is not shown: it needs {", ".join(MINI_NEEDS)}.')
    console.print(f'{sum(counts.values())} messages of {len(counts)} topics in {folder / "bag"}')
    console.print(f'Pictures and summary.json in {folder}. {seconds:.0f} s in all.')
    for failure in failures:
        console.print(f'[red]{failure}')
    return FAILED if failures else 0


def clear(folder: Path) -> None:
    """Make the output folder, and remove what an earlier demo wrote there, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(
            r'\d\d_.*\.png|(overview|mini)\.jpg|summary\.json|(node|camera|mini)\.log', path.name
        ):
            path.unlink()
    bag = folder / 'bag'
    if bag.is_dir() and {path.name for path in bag.iterdir()} <= {'bag.mcap', 'metadata.yaml'}:
        shutil.rmtree(bag)


def ask_all(
    folder: Path, console: Console
) -> tuple[list[Outcome], list[Outcome], str, dict[str, int]]:
    """Run the graph and ask every question.

    Returns:
        What came of them, what came of those that the small reasoner was asked too, why it could
        not be asked (empty if it could, or is not installed), and how many messages of each topic
        were recorded.
    """
    with ExitStack() as stack:
        children = stack.enter_context(ChildProcesses(folder))
        # The children first: they load while this process imports its own half.
        start_node(children, 'node', NODE, 'offline')
        start_camera(children)
        from segzero_ros.replay.bag import BagWriter
        from segzero_ros.ros.camera_sim.control import CameraControl
        from segzero_ros.ros.client import PerceptionClient
        from segzero_ros.ros.recorder import Recorder

        try:
            bag = stack.enter_context(BagWriter(folder / 'bag'))
            recorder = stack.enter_context(
                Recorder(bag, [f'/{CAMERA}', f'/{NODE}', f'/{MINI}'], ['/diagnostics'])
            )
            camera = stack.enter_context(CameraControl(CAMERA))
            client = stack.enter_context(PerceptionClient(NODE, overlays=True))
            wait_until_active(client, children)
            wait_until_recorded(recorder, client)
            outcomes = list(ask_each(client, camera, QUESTIONS, console))
            beside, mishap = ask_beside(children, camera, folder, console)
            # The camera goes on, and what is counted has to be what is in the bag.
            recorder.close()
        except SegZeroError as error:
            raise DemoFailed(
                '\n'.join(filter(None, [str(error), children.exit_report()]))
            ) from error
        return outcomes, beside, mishap, bag.counts


def ask_beside(
    children: ChildProcesses, camera: CameraControl, folder: Path, console: Console
) -> tuple[list[Outcome], str]:
    """Ask the small reasoner, where it is installed; return what came of it, or why nothing did.

    Only when all else has been asked, for while it loads other answers would take longer.
    """
    from segzero_ros.ros.client import PerceptionClient

    if not all(map(importlib.util.find_spec, MINI_NEEDS)):
        return [], ''
    console.print('The same to a small reasoning model, profile:=mini. Loading …')
    try:
        start_node(children, 'mini', MINI, 'mini')
        with PerceptionClient(MINI, overlays=True) as client:
            wait_until_active(client, children)
            return list(ask_each(client, camera, asked_beside(), console)), ''
    except SegZeroError as error:
        log = folder / 'mini.log'
        last = log.read_text(errors='replace').splitlines()[-3:] if log.exists() else []
        return [], '\n'.join(['The small reasoner could not be asked.', str(error), *last])


def asked_beside() -> list[Question]:
    """Return the questions for the small reasoner, which knows generated scenes only."""
    return [replace(each, way='action') for each in QUESTIONS if each.source == 'scene']


def environment() -> dict[str, str]:
    """Return the environment of the demo's programs."""
    return {**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_COLORIZED_OUTPUT': '0'}


def start_node(children: ChildProcesses, name: str, namespace: str, profile: str) -> None:
    """Start a perception node with a profile that needs nothing to be fetched."""
    config = f'config/{profile}.yaml'
    remaps = [f'{name}:=/{CAMERA}/{name}' for name in ('image', 'depth', 'camera_info')]
    children.start(
        name,
        [
            *executable('perception_node'),
            '--ros-args',
            *(word for remap in (f'__ns:=/{namespace}', *remaps) for word in ('-r', remap)),
            '--params-file',
            str(installed(f'share/segzero_ros/{config}', config)),
        ],
        environment(),
    )


def start_camera(children: ChildProcesses) -> None:
    """Start a camera that shows what it is told to."""
    children.start(
        'camera',
        [
            *executable('camera_sim'),
            '--ros-args',
            '-r',
            f'__ns:=/{CAMERA}',
            '-p',
            f'rate:={CAMERA_RATE}',
            # Metres: the pair's depth was measured finer than whole millimetres.
            '-p',
            'depth_encoding:=32FC1',
        ],
        environment(),
    )


def wait_until_active(client: PerceptionClient, children: ChildProcesses) -> None:
    """Wait until the node answers queries; raise as soon as it is clear that it will not."""
    deadline = time.monotonic() + STARTING
    state = 'not there'
    while state != 'active':
        try:
            state = client.wait_for_node(1.0)
        except SegZeroError:
            if children.exit_report() or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise DemoFailed(f'After {STARTING:g} s the node is {state}.')


def wait_until_recorded(recorder: Recorder, client: PerceptionClient) -> None:
    """Wait until nothing that is asked or answered from now on is missing from the bag."""
    topics = [f'/{CAMERA}/image', *(f'/{NODE}/{name}' for name in RECORDED)]
    if not recorder.wait_for(topics, STARTING):
        raise DemoFailed(f'Not all of {", ".join(topics)} are on the graph.')
    if not client.wait_for_subscribers(HEARERS, STARTING):
        raise DemoFailed(f'Not both the node and the recorder hear /{NODE}/query.')


def ask_each(
    client: PerceptionClient,
    camera: CameraControl,
    questions: Sequence[Question],
    console: Console,
) -> Iterator[Outcome]:
    """Ask the questions one after the other, each about the picture that it is meant for."""
    since, before = 0, ('', '')
    with shown_progress(console, len(questions)) as show:
        for number, question in enumerate(questions, start=1):
            show.begin(number, question)
            if (question.source, question.item) != before:
                since = camera.select(question.source, question.item)
                before = (question.source, question.item)
            outcome = ask_one(client, camera, question, since, show.reasoning)
            show.end(outcome)
            yield outcome


def ask_one(
    client: PerceptionClient,
    camera: CameraControl,
    question: Question,
    since: int,
    on_progress: Any,
) -> Outcome:
    """Ask a question, again if the node had not got the new picture yet."""
    until = time.monotonic() + SEEING
    while True:
        asked = time.monotonic()
        if question.way == 'topic':
            reply = client.ask_by_topic(question.text, on_progress, ANSWERING)
        elif question.way == 'service':
            reply = client.ask_by_service(question.text, timeout=ANSWERING)
        else:
            reply = client.ask(question.text, on_progress=on_progress, timeout=ANSWERING)
        waited = time.monotonic() - asked
        if reply.stamp_ns >= since:
            break
        if time.monotonic() > until:
            raise DemoFailed(f'The node does not see the pictures of {question.item}.')
        camera.wait_for_next_image()
    overlay = picture_of(client, reply)
    covered = math.nan
    if question.has_truth:
        covered = iou(question, reply.answer.segments, (reply.height, reply.width))
    return Outcome(question, reply, overlay, covered, waited)


def picture_of(client: PerceptionClient, reply: Reply) -> RgbImage:
    """Return the node's picture of an answer; one drawn here where the node has none to show."""
    from segzero_ros.overlay import draw_overlay

    if reply.answer.status in (Status.OK, Status.NOT_FOUND):
        return client.overlay(reply)
    return draw_overlay(reply.answer)
