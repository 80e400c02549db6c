"""`segzero demo`: the perception node, a simulated camera and a client on real images.

All messages are recorded; the answers are measured, drawn and reported. If torch and transformers
are installed, a second node answers the queries about generated scenes with the mini reasoner.
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
    demo_progress,
    failures_of,
    FLOORS,
    MINI,
    mini_table,
    Outcome,
    table_of,
    write_mini_page,
    write_overlays,
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
START_TIMEOUT = 60.0
# Seconds for loading models: after an installation, torch and transformers are compiled first,
# which takes minutes on a busy machine.
LOAD_TIMEOUT = 300.0
ANSWER_TIMEOUT = 30.0
# Seconds in which the node has to receive a new image; a busy machine may miss several.
NEW_IMAGE_TIMEOUT = 30.0
RECORDED = ('query', 'result', 'reasoning', 'overlay')
# Modules that the demo needs, and those that the profile `mini` needs.
REQUIRED = ('rclpy', 'rosbags', 'skimage')
MINI_REQUIRED = ('torch', 'torchvision', 'transformers', 'accelerate')
# Subscribers of the query topic: the node and the recorder.
QUERY_SUBSCRIBERS = 2
FAILED = 1
"""Exit code if an answer has an unexpected status, or a figure is below its minimum."""

EPILOG = f"""\
writes into the output folder
  NN_<image>_<query>.png        the node's overlay of each answer
  overview.jpg                  some of them on one page
  mini.jpg                      scenes answered by the default (left) and by the mini reasoner
  bag/                          all recorded messages (MCAP), for Foxglove and ros2 bag
  summary.json                  queries, statuses, figures, machine
  node.log, camera.log, mini.log   logs of the processes

  exit codes: 0 all statuses are as expected and the mean IoUs reach their minimum
  ({FLOORS['scene']} for masks in generated scenes, {FLOORS['photograph']} for boxes in photos,
  {FLOORS[MINI]} for the mini reasoner's masks, whatever its statuses);
  1 otherwise; 2 if the demo could not run; 130 after Ctrl-C.
"""


class DemoFailed(SegZeroError):
    """The demo could not be completed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        '--output',
        type=Path,
        default=Path('out/demo'),
        help='folder for images, bag and summary (default: %(default)s)',
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; return its exit code."""
    from rich.console import Console

    # Before anything is started or written: a missing module ends the demo.
    for name in REQUIRED:
        if importlib.util.find_spec(name) is None:
            importlib.import_module(name)
    # Without a terminal, wide enough for the table.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    folder: Path = options.output
    clear_output(folder)
    domain = choose_domain(os.environ)
    console.print(f'ROS domain {domain}, localhost only. Starting the node and a camera …')
    outcomes, mini_outcomes, mini_error, counts = ask_all(folder, console)
    failures = [*failures_of(outcomes, mini_outcomes), *filter(None, [mini_error])]
    seconds = time.monotonic() - started
    write_overlays(folder, outcomes)
    write_mini_page(folder, outcomes, mini_outcomes)
    write_summary(folder, outcomes, mini_outcomes, failures, counts, seconds)
    console.print(table_of(outcomes))
    if mini_outcomes:
        console.print(mini_table(outcomes, mini_outcomes))
    elif not mini_error:
        console.print(f'profile:=mini is skipped: it needs {", ".join(MINI_REQUIRED)}.')
        total = sum(counts.values())
        console.print(f'Recorded {total} messages on {len(counts)} topics in {folder / "bag"}.')
        console.print(f'Images and summary.json are in {folder}. Total time: {seconds:.0f} s.')
    for failure in failures:
        console.print(f'[red]{failure}')
    return FAILED if failures else 0


def clear_output(folder: Path) -> None:
    """Create the output folder; remove only the files of an earlier demo."""
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
    """Start the processes and ask every question.

    Returns:
        The outcomes; those of the mini reasoner; why it could not be queried (empty if it could,
        or is not installed); and the number of recorded messages by topic.
    """
    with ExitStack() as stack:
        children = stack.enter_context(ChildProcesses(folder))
        # The children first: they load while this process imports its own modules.
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
            mini_outcomes, mini_error = ask_mini(children, camera, folder, console)
            # The camera still publishes, but the counts have to be those of the bag.
            recorder.close()
        except SegZeroError as error:
            raise DemoFailed(
                '\n'.join(filter(None, [str(error), children.exit_report()]))
            ) from error
        return outcomes, mini_outcomes, mini_error, bag.counts


def ask_mini(
    children: ChildProcesses, camera: CameraControl, folder: Path, console: Console
) -> tuple[list[Outcome], str]:
    """Query the mini reasoner if it is installed; return its outcomes, or an error.

    Called last, because loading it slows down other answers.
    """
    from segzero_ros.ros.client import PerceptionClient

    if not all(map(importlib.util.find_spec, MINI_REQUIRED)):
        return [], ''
    console.print('Now the scenes again with the mini reasoner, profile:=mini. Loading …')
    try:
        start_node(children, 'mini', MINI, 'mini')
        with PerceptionClient(MINI, overlays=True) as client:
            wait_until_active(client, children)
            return list(ask_each(client, camera, mini_questions(), console)), ''
    except SegZeroError as error:
        log = folder / 'mini.log'
        last = log.read_text(errors='replace').splitlines()[-3:] if log.exists() else []
        return [], '\n'.join(['The mini reasoner could not be queried.', str(error), *last])


def mini_questions() -> list[Question]:
    """Return the questions for the mini reasoner, which was trained on generated scenes only."""
    return [replace(each, way='action') for each in QUESTIONS if each.source == 'scene']


def environment() -> dict[str, str]:
    """Return the environment of the child processes."""
    return {**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_COLORIZED_OUTPUT': '0'}


def start_node(children: ChildProcesses, name: str, namespace: str, profile: str) -> None:
    """Start a perception node with a profile that needs no download."""
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
    """Start the simulated camera."""
    children.start(
        'camera',
        [
            *executable('camera_sim'),
            '--ros-args',
            '-r',
            f'__ns:=/{CAMERA}',
            '-p',
            f'rate:={CAMERA_RATE}',
            # In metres: the stereo pair's depth is more precise than integer millimetres.
            '-p',
            'depth_encoding:=32FC1',
        ],
        environment(),
    )


def wait_until_active(client: PerceptionClient, children: ChildProcesses) -> None:
    """Wait until the node is active; raise as soon as it has exited or on a timeout."""
    started = time.monotonic()
    state = 'not there'
    while state != 'active':
        limit = LOAD_TIMEOUT if state == 'configuring' else START_TIMEOUT
        late = time.monotonic() > started + limit
        try:
            state = client.wait_for_node(1.0)
        except SegZeroError:
            if children.exit_report() or late:
                raise
        if late and state != 'active':
            raise DemoFailed(f'After {limit:g} s the node is {state}.')


def wait_until_recorded(recorder: Recorder, client: PerceptionClient) -> None:
    """Wait until all queries and answers from now on are recorded."""
    topics = [f'/{CAMERA}/image', *(f'/{NODE}/{name}' for name in RECORDED)]
    if not recorder.wait_for(topics, START_TIMEOUT):
        raise DemoFailed(f'Not all of these topics are published: {", ".join(topics)}.')
    if not client.wait_for_subscribers(QUERY_SUBSCRIBERS, START_TIMEOUT):
        raise DemoFailed(f'The node and the recorder do not both subscribe to /{NODE}/query.')


def ask_each(
    client: PerceptionClient,
    camera: CameraControl,
    questions: Sequence[Question],
    console: Console,
) -> Iterator[Outcome]:
    """Ask the questions one after the other, each about its image."""
    since, before = 0, ('', '')
    with demo_progress(console, len(questions)) as show:
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
    """Ask a question; repeat it if the node has not received the new image yet."""
    until = time.monotonic() + NEW_IMAGE_TIMEOUT
    while True:
        asked = time.monotonic()
        if question.way == 'topic':
            reply = client.ask_by_topic(question.text, on_progress, ANSWER_TIMEOUT)
        elif question.way == 'service':
            reply = client.ask_by_service(question.text, timeout=ANSWER_TIMEOUT)
        else:
            reply = client.ask(question.text, on_progress=on_progress, timeout=ANSWER_TIMEOUT)
        waited = time.monotonic() - asked
        if reply.answer.status is Status.CANCELED:
            # Nobody else asks in this domain: it was Ctrl-C, which cancels an action's goal.
            raise KeyboardInterrupt
        if reply.stamp_ns >= since:
            break
        if time.monotonic() > until:
            raise DemoFailed(f'The node does not receive the images of {question.item}.')
        camera.wait_for_next_image()
    overlay = overlay_of(client, reply)
    iou_value = math.nan
    if question.has_truth:
        iou_value = iou(question, reply.answer.segments, (reply.height, reply.width))
    return Outcome(question, reply, overlay, iou_value, waited)


def overlay_of(client: PerceptionClient, reply: Reply) -> RgbImage:
    """Return the node's overlay of an answer, or one drawn here if the node publishes none."""
    from segzero_ros.overlay import draw_overlay

    if reply.answer.status in (Status.OK, Status.NOT_FOUND):
        return client.overlay(reply)
    return draw_overlay(reply.answer)
