"""A ROS domain for each test run and worker, so that nobody hears another's nodes."""

import fcntl
from pathlib import Path
import random
import socket
import tempfile
from typing import IO


def free_domain() -> tuple[int, IO[str]]:
    """Return a ROS domain that nobody uses, and the lock that keeps other test runs out of it."""
    for domain in random.sample(range(1, 102), 101):
        lock = (Path(tempfile.gettempdir()) / f'segzero_ros_domain_{domain}.lock').open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                # The port of the domain's first participant.
                probe.bind(('', 7400 + 250 * domain + 10))
        except OSError:
            lock.close()
        else:
            return domain, lock
    raise RuntimeError('every ROS domain of this machine is in use')
