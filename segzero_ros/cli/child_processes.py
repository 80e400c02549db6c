"""Child processes and an isolated ROS domain for the demo.

All children are terminated before the parent continues, whatever happens.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

from segzero_ros.types import SegZeroError

# Seconds that a child may take to exit after each signal.
_SIGNALS = ((signal.SIGINT, 4.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))


# With one of these set, the user has configured the transport.
_FAST_DDS_SETTINGS = {
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTDDS_BUILTIN_TRANSPORTS',
}


class NotInstalled(SegZeroError):
    """An executable or a file of this package is not installed."""


class ChildProcesses:
    """Child processes that are terminated at the end of the `with` block, also on SIGTERM."""

    def __init__(self, log_folder: Path) -> None:
        self._folder = log_folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> ChildProcesses:
        self._handle(_interrupt, signal.SIGTERM, signal.SIGHUP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not leave children running; `stop` takes bounded time.
        self._handle(signal.SIG_IGN, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        self.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, handler: Any, *numbers: signal.Signals) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                before = signal.signal(number, handler)
                self._before.setdefault(number, before)

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start a process whose output goes to `<name>.log`.

        Args:
            name: of the process, for its log and for `exit_report`.
            command: the executable and its arguments.
            environment: all its environment variables.
        """
        with (self._folder / f'{name}.log').open('wb') as log:
            # In its own session: Ctrl-C reaches only the parent, which stops the children.
            self._children[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=True,
            )

    def exit_report(self) -> str:
        """Return which children have exited, with the end of their logs; empty while all run."""
        texts = []
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                log = self._folder / f'{name}.log'
                last = '\n'.join(log.read_text(errors='replace').splitlines()[-12:])
                texts.append(f'The process {name} exited with code {code} ({log}):\n{last}')
        return '\n'.join(texts)

    def stop(self) -> None:
        """Stop all children: signal them all, then wait for each."""
        for number, timeout in _SIGNALS:
            running = [child for child in self._children.values() if child.poll() is None]
            for child in running:
                child.send_signal(number)
            deadline = time.monotonic() + timeout
            for child in running:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        self._children.clear()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def executable(name: str) -> list[str]:
    """Return the command that runs an installed executable of this package.

    Raises:
        NotInstalled: it is neither in a prefix of AMENT_PREFIX_PATH nor in a checkout.
    """
    return [sys.executable, str(installed(f'lib/segzero_ros/{name}', f'scripts/{name}'))]


def installed(in_prefix: str, in_checkout: str) -> Path:
    """Return a file of this package; raise NotInstalled if there is none.

    Args:
        in_prefix: its path in an installation prefix.
        in_checkout: its path in a checkout.
    """
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    candidates = [Path(prefix, in_prefix) for prefix in prefixes if prefix]
    candidates.append(Path(__file__).parent.parent.parent / in_checkout)
    for path in candidates:
        if path.is_file():
            return path
    searched = ', '.join(str(path) for path in candidates)
    raise NotInstalled(f'{in_prefix} is not installed (looked for {searched}): run `make build`.')


def choose_domain(environment: MutableMapping[str, str]) -> int:
    """Use only this machine and a free ROS domain, unless the user has set something else.

    Args:
        environment: modified: ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE, and for Fast DDS a
            profile with enough shared memory for images.

    Returns:
        The domain ID.
    """
    environment.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if not set(environment) & _FAST_DDS_SETTINGS:
        name = 'config/fast_dds_large_images.xml'
        profile = installed(f'share/segzero_ros/{name}', name)
        # Fast DDS 2 (Jazzy) reads the first, 3 (Kilted and later) the second.
        environment['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(profile)
        environment['FASTDDS_DEFAULT_PROFILES_FILE'] = str(profile)
    if not environment.get('ROS_DOMAIN_ID'):
        environment['ROS_DOMAIN_ID'] = str(_free_domain())
    return int(environment['ROS_DOMAIN_ID'])


def _free_domain() -> int:
    """Return a domain ID with a free first participant port (DDS: 7400 + 250 · domain + 10)."""
    domains = random.sample(range(1, 102), 101)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain + 10))
            except OSError:
                continue
        return domain
    return domains[0]
