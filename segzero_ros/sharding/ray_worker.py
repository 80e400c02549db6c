"""What a task of Ray does on its node, once this package is found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
import hashlib
from pathlib import Path
from queue import SimpleQueue
import threading

from segzero_ros.sharding.base import Event, Failed, Progress, ShardTask
from segzero_ros.sharding.worker import run_shard


def events(
    node: str, digest: str, reads: Sequence[str], token: str, load: Callable[[], ShardTask]
) -> Iterator[Event | str]:
    """Run a shard and yield its events; a sentence if this node cannot run it.

    Args:
        node: this node's address, for messages.
        digest: of the package's modules where the command runs.
        reads: paths that must be seen here.
        token: a file in the output folder, made where the command runs.
        load: returns the shard.
    """
    reason = _hindrance(node, digest, reads, token)
    if reason:
        yield reason
        return
    shard = load()
    queue: SimpleQueue[Event] = SimpleQueue()
    thread = threading.Thread(
        target=lambda: queue.put(run_shard(shard, queue.put)), name='shard', daemon=True
    )
    thread.start()
    while True:
        event = queue.get()
        if isinstance(event, Failed):
            event = replace(event, reason=f'{event.reason} (Ray node {node})')
        yield event
        if not isinstance(event, Progress):
            return


def _hindrance(node: str, digest: str, reads: Sequence[str], token: str) -> str:
    """Return why this node cannot run the shard; empty if it can."""
    if digest != code_digest():
        return (
            f'The Ray node {node} has another version of segzero_ros ({_root()}): install the '
            'same there and here, and restart the node.'
        )
    unseen = [path for path in reads if not Path(path).exists()]
    if unseen:
        return (
            f'The Ray node {node} does not see {", ".join(unseen)}: mount it there at the same '
            'path, or copy it there.'
        )
    if not Path(token).exists():
        return (
            f'The Ray node {node} does not see the output folder {Path(token).parent}: choose '
            'with --output a folder that all nodes mount at the same path.'
        )
    return ''


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


def code_digest() -> str:
    """Return a digest of this package's modules, to tell other versions of it."""
    root = _root()
    digest = hashlib.sha256()
    for path in sorted(root.rglob('*.py')):
        name = path.relative_to(root)
        # Generated at build time, and not used here.
        if name.parts[0] not in ('msg', 'srv', 'action'):
            digest.update(f'{name}\n'.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
