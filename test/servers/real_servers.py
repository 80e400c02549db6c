"""Run a real server that `make test-servers` has installed; without it, skip and say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
from typing import Any

import pytest

from segzero_ros import serving
from segzero_ros.reasoning.base import Reasoner
from segzero_ros.types import Frame, Grounding, Query

# What `make test-servers` has made.
ROOT = os.environ.get('SEGZERO_SERVERS', '')
# Seconds for an answer: none of these tests is about speed, and machines are busy.
PATIENCE = 600.0


def installed() -> None:
    """Skip the test where `make test-servers` does not run it."""
    if not ROOT:
        pytest.skip('needs the servers that `make test-servers` installs')


def environment(name: str) -> Path:
    """The environment of one server; the test is skipped, or fails, without it."""
    installed()
    folder = Path(ROOT, name).resolve()
    failed = folder.with_suffix('.failed')
    if failed.exists():
        pytest.fail(f'{name} could not be installed here: {failed.read_text()}')
    if not (folder / '.made').exists():
        pytest.skip(f'needs `make test-servers SERVERS={name}`')
    return folder


@contextmanager
def served(kind: str, folder: Path, model: Path, *extra: str) -> Iterator[str]:
    """Run a server as the launch file does, until the block ends; give its base_url."""
    port = serving.free_port()
    words = [sys.executable, '-m', 'segzero_ros.serving', kind, '--model', str(model)]
    # What it runs says that the server answers, and lives as long as this test wants it.
    beside = [sys.executable, '-c', 'print("ready", flush=True); import signal; signal.pause()']
    process = subprocess.Popen(
        [*words, f'--port={port}', f'--server-args={shlex.join(extra)}', '--', *beside],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}',
            'HF_HUB_OFFLINE': '1',
        },
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n', 'the server did not start; see above'
        yield serving.base_url(port)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(reasoner: Reasoner, pairs: list[Any]) -> list[Grounding]:
    """Ask a reasoner all questions."""
    return [reasoner.reason(Frame(pair.image), Query(pair.query)) for pair in pairs]


def same(one: Grounding, other: Grounding) -> bool:
    """Whether two answers have the same text, boxes and points.

    Their tokens are counted differently: servers count the one that ends an answer.
    """
    return (one.raw_answer, one.objects) == (other.raw_answer, other.objects)
