"""The real node of `profile:=remote`, and the demo's questions through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import time
from typing import Any

from real_servers import PATIENCE

from segzero_ros.cli.child_processes import executable, installed
from segzero_ros.ros.client import NoNode, PerceptionClient
from segzero_ros.types import Answer

NAMESPACE = 'robot'
# Seconds in which a node that has ended before it was asked is noticed.
_LOOK = 5.0


@contextmanager
def remote_node(
    url: str, model: str, segmenter: str, folder: Path, before: Sequence[str] = ()
) -> Iterator[tuple[PerceptionClient, subprocess.Popen[bytes]]]:
    """Start the node with what the launch file gives it; yield a client once it is active.

    Args:
        url: of the server.
        model: as it is served.
        segmenter: a checkpoint of SAM 2.
        folder: for what the node says, `node.log`.
        before: what goes before its command, as `serve:=…` has it.
    """
    profile = installed('share/segzero_ros/config/remote.yaml', 'config/remote.yaml')
    given = {'server.base_url': url, 'reasoner.model': model, 'segmenter.model': segmenter}
    given['device'] = 'cpu'
    parameters = [f'{name}:={value}' for name, value in given.items()]
    parameters.append(f'limits.answer_time:={PATIENCE}')
    words = [*before, *executable('perception_node'), '--ros-args', '-r', f'__ns:=/{NAMESPACE}']
    words += ['--params-file', str(profile)]
    words += [word for parameter in parameters for word in ('-p', parameter)]
    log = folder / 'node.log'
    with log.open('wb') as output, PerceptionClient(NAMESPACE) as client:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(os.environ)
        )
        try:
            _wait_until_active(client, process, log)
            yield client, process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _wait_until_active(
    client: PerceptionClient, process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + PATIENCE
    state = 'not there'
    while state != 'active' and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors='replace')
        try:
            state = client.wait_for_node(_LOOK)
        except NoNode:
            continue
    assert state == 'active', log.read_text(errors='replace')


def answers(client: PerceptionClient, pairs: Sequence[Any]) -> list[Answer]:
    """Ask the node all questions by its action."""
    return [client.ask(pair.query, pair.image, timeout=PATIENCE).answer for pair in pairs]


def gist(answer: Answer) -> tuple[Any, ...]:
    """Return the status, the model's text, and the boxes and points of an answer."""
    objects = [(segment.box, segment.points) for segment in answer.segments]
    return answer.status, answer.raw_answer, objects
