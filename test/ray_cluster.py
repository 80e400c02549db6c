"""A Ray cluster of several nodes on this machine, in a network of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
import os
from pathlib import Path
import subprocess
import sys
from threading import Thread

import pytest

from segzero_ros import serving

RAY = Path(sys.executable).with_name('ray')


@contextmanager
def running(command: list[str], variables: Mapping[str, str], ready: str) -> Iterator[None]:
    """Run a command from the line on in which it says that it is ready."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        env=variables,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f'{command} ended:\n{"".join(lines)}')
        # What nobody reads would hold it up.
        Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        yield
    finally:
        process.terminate()
        process.wait(120)


class Cluster:
    """The cluster, and how to start its nodes."""

    def __init__(self, folder: str, path: str) -> None:
        self.folder = folder
        self.address = f'{serving.HOST}:{serving.free_port()}'
        self.environment = {
            **os.environ,
            'PYTHONPATH': path,
            'RAY_USAGE_STATS_ENABLED': '0',
            # A busy machine's workers would give way to everything else, and a node that answers
            # late five times would be taken for dead.
            'RAY_worker_niceness': '0',
            'RAY_health_check_failure_threshold': '100',
        }

    @contextmanager
    def node(self, *words: str, **variables: str) -> Iterator[None]:
        """Start a node with one CPU, and stop it at the end."""
        command = [str(RAY), 'start', '--block', f'--node-ip-address={serving.HOST}']
        command += ['--num-cpus=1', '--object-store-memory=80000000', *words]
        with running(command, {**self.environment, **variables}, 'Ray runtime started'):
            yield

    def head(self) -> AbstractContextManager[None]:
        """Start the node that the others join."""
        port = self.address.partition(':')[2]
        words = ['--head', f'--port={port}', '--include-dashboard=false', '--num-gpus=0']
        words += [f'--ray-client-server-port={serving.free_port()}', f'--temp-dir={self.folder}']
        return self.node(*words)

    def another(self, gpus: int = 0, **variables: str) -> AbstractContextManager[None]:
        """Start a node that joins the head's, and says that it has some GPUs."""
        words = (f'--address={self.address}', f'--num-gpus={gpus}')
        return self.node(*words, **variables)
