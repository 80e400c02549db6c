"""Awaiting a job of the worker in the executor's thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import threading
from typing import Any

from rclpy.node import Node
from rclpy.task import Future

from segzero_ros.pipeline import describe_error
from segzero_ros.ros.perception.worker import Worker


def run_in_worker(node: Node, worker: Worker, job: Callable[[], Any], name: str) -> Future:
    """Run a job in the worker's thread.

    Args:
        node: its executor is woken when the job returns.
        worker: runs the job.
        job: what to run.
        name: for the log, such as `freeing the models`.

    Returns:
        The future of what the job returns or raises; its result is None if the job is abandoned.
    """
    future = Future()
    # A job may return at the moment it is abandoned: only the first of the two sets the future.
    unset = threading.Lock()

    def set_once(setter: Callable[[], None]) -> None:
        if unset.acquire(blocking=False):
            setter()

    def run() -> None:
        try:
            setter = partial(future.set_result, job())
        except Exception as error:
            setter = partial(future.set_exception, error)
        except BaseException as error:
            # A library that calls sys.exit() must not end the executor that awaits this.
            setter = partial(future.set_exception, RuntimeError(describe_error(error)))
        set_once(setter)
        if node.executor is not None:
            node.executor.wake()

    worker.submit(run, name, lambda: set_once(partial(future.set_result, None)))
    return future
