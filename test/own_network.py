"""A network of its own for tests with Ray, which listens on the machine's own address otherwise.

Ray replaces 127.0.0.1 by the machine's address wherever it finds one, and then listens on all
interfaces. In a network namespace there is the loopback alone.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
import socket
import struct
import subprocess
import sys

# Set for what runs in it.
_VARIABLE = 'SEGZERO_OWN_NETWORK'
INSIDE = _VARIABLE in os.environ
# Its processes end with it.
UNSHARE = ('unshare', '--user', '--map-root-user', '--net', '--pid', '--fork', '--kill-child')
UNSHARE += ('--mount-proc',)
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x1 | 0x40


def why_not() -> str:
    """Return why this machine gives no network namespace; empty if it does."""
    try:
        done = subprocess.run([*UNSHARE, 'true'], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ''


def run_pytest(*words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a network of its own."""
    variables = {name: value for name, value in os.environ.items() if 'PYTEST' not in name}
    return subprocess.run(
        [*UNSHARE, sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**variables, _VARIABLE: '1'},
    )


def start_loopback() -> None:
    """Bring up the loopback, which is down in a new namespace."""
    interfaces = [line.split(':')[0].strip() for line in _lines('/proc/net/dev') if ':' in line]
    assert INSIDE and interfaces == ['lo'], interfaces
    with socket.socket() as any_socket:
        request = struct.pack('16sH14s', b'lo', _UP_AND_RUNNING, b'')
        fcntl.ioctl(any_socket, _SET_FLAGS, request)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
