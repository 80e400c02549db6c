"""A ROS node that spins in a thread of its own, for programs that are not nodes themselves.

Signals stay with the program: Ctrl-C is a KeyboardInterrupt in its main thread.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from types import TracebackType
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from segzero_ros.ros.process import Reports
from segzero_ros.ros.rclpy_internals import private
from segzero_ros.types import SegZeroError

# The graph tells nobody that it changed, so it has to be asked.
_GRAPH_PERIOD = 0.02
# How soon a waiting caller notices that a callback has failed, in seconds.
_FAILURE_PERIOD = 0.1
# What rclpy sends the requests for a goal's result and for its end by.
REPLACED = ('_get_result_async', '_cancel_goal_async')


class BackgroundError(SegZeroError):
    """A callback of a node in the background failed; the text says what went wrong."""


class ThreadSafeActionClient(ActionClient):
    """An action client that may be used while another thread spins its node.

    rclpy notes a request only after sending it, so that an answer that is quicker is taken for a
    stray one and dropped, and its future is never done. Here answers wait for the note.

    Raises:
        UnsupportedRclpy: this rclpy sends its requests in another way.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        for replaced in REPLACED:
            private(ActionClient, replaced)
        # Before rclpy's part: the node may already be spinning when that puts the client into it.
        self._sending = threading.RLock()
        super().__init__(*args, **options)

    def send_goal_async(self, *args: Any, **options: Any) -> Future:
        """Send a goal, as rclpy's."""
        with self._sending:
            return super().send_goal_async(*args, **options)

    def _get_result_async(self, goal_handle: Any) -> Future:
        with self._sending:
            return super()._get_result_async(goal_handle)

    def _cancel_goal_async(self, goal_handle: Any) -> Future:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    async def execute(self, taken_data: Any) -> None:
        """Handle what came, as rclpy's, once no request is being sent."""
        with self._sending:
            pass
        await super().execute(taken_data)


class BackgroundNode:
    """A node with a context and an executor of its own, on the graph until `close()`.

    A callback that fails is logged, and the node goes on; `check` raises what went wrong in the
    thread of whoever waits for that callback.
    """

    def __init__(self, name: str, namespace: str = '') -> None:
        self.context = Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node: Node = rclpy.create_node(
            name, namespace=namespace, context=self.context, enable_rosout=False
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._leaving = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> BackgroundNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph; safe to call twice."""
        if not self.context.ok():
            return
        # rclpy's shutdown() takes away from the executor what its thread may still be using.
        self._executor.create_task(self._leave)
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def check(self) -> None:
        """Raise what a callback raised since the last `forget`, if one did.

        Raises:
            SegZeroError: what it raised, or a BackgroundError that tells of it.
        """
        failure = self._failure
        if isinstance(failure, SegZeroError):
            raise failure
        if failure is not None:
            name = self.node.get_name()
            raise BackgroundError(
                f'{name} could not handle what it received: {type(failure).__name__}: {failure}'
            ) from failure

    def forget(self) -> None:
        """Let `check` raise only what fails from now on."""
        self._failure = None

    def _leave(self) -> None:
        self._leaving = True

    def _spin(self) -> None:
        reports = Reports()
        while not self._leaving:
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except BaseException as error:
                # Were the thread to end here, whoever waits for an answer would wait in vain.
                self._failure = error
                reports.failed()


def wait_for_graph(
    condition: Callable[[], bool], timeout: float, background: BackgroundNode | None = None
) -> bool:
    """Wait until a condition about the graph holds.

    Args:
        condition: asked again and again.
        timeout: seconds.
        background: whose callbacks the condition waits for.

    Returns:
        Whether it holds after `timeout` s.

    Raises:
        SegZeroError: a callback of `background` failed.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if background is not None:
            background.check()
        if time.monotonic() >= deadline:
            return False
        pause.wait(_GRAPH_PERIOD)
    return True


def wait_for_future(
    future: Future, timeout: float, background: BackgroundNode | None = None
) -> bool:
    """Wait until a future is done.

    Args:
        future: rclpy's.
        timeout: seconds.
        background: whose callbacks have to do it.

    Returns:
        Whether it is done after `timeout` s.

    Raises:
        SegZeroError: a callback of `background` failed.
    """
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if background is None:
        return done.wait(timeout)
    deadline = time.monotonic() + timeout
    while not done.wait(max(0.0, min(_FAILURE_PERIOD, deadline - time.monotonic()))):
        background.check()
        if time.monotonic() >= deadline:
            return False
    return True
