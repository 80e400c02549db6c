"""The demo's own ROS world: executables as child processes, a domain that nobody else uses.

Whatever happens, the children are ended before the parent goes on.
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

# How long a child may take to end after each signal, from the kindest on.
_PATIENCE = ((signal.SIGINT, 4.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))


# Who sets one of these has thought about the transport.
_FAST_DDS_SETTINGS = {
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTDDS_BUILTIN_TRANSPORTS',
}


class NotInstalled(SegZeroError):
    """An executable or a file of this package is not where it should be."""


class ChildProcesses:
    """Child processes that end when the `with` block does, also by SIGTERM or an error."""

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
        # An impatient second Ctrl-C must not leave anybody behind; `stop` takes bounded time.
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
        """Start a process whose output goes to `<name>.log`."""
        with (self._folder / f'{name}.log').open('wb') as log:
            # In a process group of its own: Ctrl-C is for the parent, which ends them in order.
            self._children[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=True,
            )

    def exit_report(self) -> str:
        """Say which children have died and what they said last; empty while all live."""
        texts = []
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                log = self._folder / f'{name}.log'
                last = '\n'.join(log.read_text(errors='replace').splitlines()[-12:])
                texts.append(f'The process {name} ended with {code} ({log}):\n{last}')
        return '\n'.join(texts)

    def stop(self) -> None:
        """End all children: all are asked at once, and each is waited for."""
        for number, patience in _PATIENCE:
            living = [child for child in self._children.values() if child.poll() is None]
            for child in living:
                child.send_signal(number)
            deadline = time.monotonic() + patience
            for child in living:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        self._children.clear()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def executable(name: str) -> list[str]:
    """Return the command that starts an installed executable of this package.

    Raises:
        NotInstalled: it is in no prefix of AMENT_PREFIX_PATH, nor in a checkout.
    """
    return [sys.executable, str(installed(f'lib/segzero_ros/{name}', f'scripts/{name}'))]


def installed(in_prefix: str, in_checkout: str) -> Path:
    """Return a file of this package, installed or in the checkout; raise NotInstalled."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    places = [Path(prefix, in_prefix) for prefix in prefixes if prefix]
    places.append(Path(__file__).parent.parent.parent / in_checkout)
    for place in places:
        if place.is_file():
            return place
    looked = ', '.join(str(place) for place in places)
    raise NotInstalled(f'{in_prefix} is not installed (looked for {looked}): run `make build`.')


def choose_domain(environment: MutableMapping[str, str]) -> int:
    """Keep to this machine and to a free ROS domain, where the user has chosen nothing else.

    Args:
        environment: is changed: ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE are set in it, and
            shared memory large enough for images where Fast DDS is used.

    Returns:
        The domain.
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
    """Return a domain whose first participant's port is free (DDS: 7400 + 250 · domain + 10)."""
    domains = random.sample(range(1, 102), 101)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain + 10))
            except OSError:
                continue
        return domain
    return domains[0]
