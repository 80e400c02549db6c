"""Shards as tasks of a Ray cluster, one task each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
import logging
from pathlib import Path
import socket
from typing import Any
import uuid

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)

from segzero_ros.sharding.base import Died, Event, Failed, Progress, ShardError, ShardTask
from segzero_ros.sharding.needs import Needs
from segzero_ros.sharding.ray_worker import code_digest

# Seconds to wait for an answer from the cluster's address.
_CONNECT_TIMEOUT = 10.0
# More than any cluster runs at a time: Ray has the others wait.
_UNLIMITED = 100_000
# What the machine or its operating system did, and not the shard.
_DEATHS = {
    WorkerCrashedError: 'was killed',
    NodeDiedError: 'is gone with its node',
    LocalRayletDiedError: 'is gone with its node',
    OutOfMemoryError: 'was killed by Ray because its node ran out of memory',
}


class RayTasks:
    """The tasks of one connection to a Ray cluster.

    Args:
        address: of the cluster, `HOST:PORT`, or `auto` for the one of this machine.
        needs: what each task needs.
        folder: where the tasks write their results; all nodes must see it.
        limit: most tasks at a time; 0 for as many as the cluster takes.

    Raises:
        ShardError: there is no such cluster, or it cannot run the tasks.
    """

    def __init__(self, address: str, needs: Needs, folder: Path, limit: int = 0) -> None:
        _connect(address)
        # A worker that does not find it looks at another folder of the same path.
        self._token = folder / f'.shared-{uuid.uuid4().hex}'
        self._running: dict[ray.ObjectRefGenerator, int] = {}
        try:
            cpus, gpus = _resources(needs)
            self._task = ray.remote(_remote_function()).options(
                num_cpus=cpus, num_gpus=gpus, max_retries=0
            )
            self._places = _places(cpus, gpus)
            self._token.touch()
        except BaseException:
            self.close()
            raise
        self._digest = code_digest()
        self.slots = limit or _UNLIMITED

    @property
    def places(self) -> int:
        """How many tasks run at a time, as far as is known now."""
        return min(self.slots, self._places)

    def submit(self, number: int, shard: ShardTask) -> None:
        """Hand a shard to Ray, which starts it where its needs are met."""
        reads = tuple(map(str, shard.reads))
        # Inside a tuple it is not loaded before the task, which first looks for this package.
        packed = (ray.put(shard),)
        stream = self._task.remote(self._digest, reads, str(self._token), packed)
        self._running[stream] = number

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait for events of the tasks."""
        streams, _ = ray.wait(list(self._running), num_returns=1)
        events: list[tuple[int, Event]] = []
        for stream in streams:
            event = _next_event(stream)
            number = self._running[stream]
            if not isinstance(event, Progress):
                del self._running[stream]
            events.append((number, event))
        return events

    def close(self) -> None:
        """Cancel what is still running, and leave the cluster."""
        self._token.unlink(missing_ok=True)
        for stream in self._running:
            with suppress(RayError):
                ray.cancel(stream, force=True)
        self._running.clear()
        ray.shutdown()


def _connect(address: str) -> None:
    if '://' in address:
        raise ShardError(
            f'{address} is an address for remote clients: run the command on a machine of the '
            'cluster, with --ray auto or --ray HOST:PORT.'
        )
    host, separator, port = address.rpartition(':')
    if separator:
        # Ray itself tries for more than a minute.
        try:
            socket.create_connection((host.strip('[]'), int(port)), _CONNECT_TIMEOUT).close()
        except (OSError, ValueError) as error:
            raise ShardError(
                f'There is no Ray cluster at {address} ({error}): give the address that '
                '"ray start --head" printed.'
            ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        first = str(error).strip().partition('\n')[0]
        raise ShardError(
            f'The Ray cluster {address} cannot be used ({first}): start it with "ray start", and '
            'use the same versions of Python and Ray here and there.'
        ) from error


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    return [node['Resources'] for node in ray.nodes() if node['Alive']]


def _resources(needs: Needs) -> tuple[int, int]:
    """Return the CPUs and GPUs of one task; raise ShardError if the cluster lacks them."""
    nodes = _nodes()
    if needs.gpu and any(node.get('GPU', 0) >= 1 for node in nodes):
        return 1, 1
    if needs.must_have_gpu:
        raise ShardError(
            'The models are to run on a GPU, and the Ray cluster has none: start its nodes with '
            '--num-gpus, or use -p device:=cpu.'
        )
    cpus = [int(node['CPU']) for node in nodes if node.get('CPU', 0) >= 1]
    if not cpus:
        raise ShardError('The Ray cluster has no CPUs for tasks: start a node with --num-cpus.')
    return (min(cpus) if needs.alone else 1), 0


def _places(cpus: int, gpus: int) -> int:
    """Return how many such tasks the cluster runs at a time."""
    fit = 0
    for node in _nodes():
        by_cpus = int(node.get('CPU', 0) // cpus)
        fit += min(by_cpus, int(node.get('GPU', 0) // gpus)) if gpus else by_cpus
    return fit


def _next_event(stream: ray.ObjectRefGenerator) -> Event:
    """Return the next event of a task; how it ended, if Ray ended it."""
    try:
        value = ray.get(next(stream))
    except StopIteration:
        return Failed('Its task ended without a result.')
    except RayError as error:
        for kind, reason in _DEATHS.items():
            if isinstance(error, kind):
                return Died(reason)
        first = str(error).strip().partition('\n')[0]
        return Failed(f'Ray could not run it ({first}); the log has the details.', str(error))
    if isinstance(value, str):
        return Failed(value)
    event: Event = value
    return event


def _remote_function() -> Callable[..., Iterator[Any]]:
    """Return the function of the tasks. Ray sends it as code, as it is no module's own.

    So it runs on nodes that lack this package, and can report that.
    """

    def run(digest: str, reads: tuple[str, ...], token: str, packed: tuple[Any]) -> Iterator[Any]:
        import sys

        import ray

        node = ray.util.get_node_ip_address()
        try:
            from segzero_ros.sharding import ray_worker
        except ImportError as error:
            yield (
                f'The Ray node {node} lacks segzero_ros ({sys.executable}: {error}): install '
                'it there as here, and start the node with that Python.'
            )
            return
        yield from ray_worker.events(node, digest, reads, token, lambda: ray.get(packed[0]))

    return run
