"""ROS node that spins in its own thread, for programs that are not nodes.

The program keeps its signal handlers: Ctrl-C is a KeyboardInterrupt in its main thread.
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

from segzero_ros.ros.process import FailureLog
from segzero_ros.ros.rclpy_internals import private
from segzero_ros.types import SegZeroError

# Period of polling the graph, seconds; rclpy does not notify of its changes.
_GRAPH_PERIOD = 0.02
# Period of checking for a failed callback while waiting, seconds.
_FAILURE_PERIOD = 0.1
# Private methods of rclpy that are overridden here: they request a goal's result and its cancel.
OVERRIDDEN = ('_get_result_async', '_cancel_goal_async')


class BackgroundError(SegZeroError):
    """A callback of a background node failed; the text gives the error."""


class ThreadSafeActionClient(ActionClient):
    """An action client that may be used while another thread spins its node.

    rclpy registers a request only after sending it, so a response that arrives in between is
    dropped as unknown, and its future is never done. Here responses wait for the registration.

    Args:
        args: of rclpy's ActionClient.
        options: likewise.

    Raises:
        UnsupportedRclpy: this rclpy sends its requests in another way.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        for method in OVERRIDDEN:
            private(ActionClient, method)
        # Before the base class adds the client to the node, which may be spinning already.
        self._sending = threading.RLock()
        super().__init__(*args, **options)

    def send_goal_async(self, *args: Any, **options: Any) -> Future:
        """Send a goal, as rclpy does."""
        with self._sending:
            return super().send_goal_async(*args, **options)

    def _get_result_async(self, goal_handle: Any) -> Future:
        with self._sending:
            return super()._get_result_async(goal_handle)

    def _cancel_goal_async(self, goal_handle: Any) -> Future:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    async def execute(self, taken_data: Any) -> None:
        """Handle a response, as rclpy does, once no request is being sent."""
        with self._sending:
            pass
        await super().execute(taken_data)


class BackgroundNode:
    """A node with its own context and executor, on the graph until `close()`.

    An exception of a callback is logged and the node goes on; `check` raises it in the thread that
    waits for the callback.

    Args:
        name: of the node.
        namespace: of the node.
    """

    def __init__(self, name: str, namespace: str = '') -> None:
        self.context = Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node: Node = rclpy.create_node(
            name, namespace=namespace, context=self.context, enable_rosout=False
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closing = False
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
        # End the thread first: rclpy's shutdown() destroys what it may still use.
        self._executor.create_task(self._set_closing)
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def check(self) -> None:
        """Raise the exception of a callback since the last `clear_failure`, if there was one.

        Raises:
            SegZeroError: the exception itself, or a BackgroundError caused by it.
        """
        failure = self._failure
        if isinstance(failure, SegZeroError):
            raise failure
        if failure is not None:
            name = self.node.get_name()
            raise BackgroundError(
                f'{name} could not handle a message: {type(failure).__name__}: {failure}'
            ) from failure

    def clear_failure(self) -> None:
        """Have `check` raise only exceptions from now on."""
        self._failure = None

    def _set_closing(self) -> None:
        self._closing = True

    def _spin(self) -> None:
        failures = FailureLog()
        while not self._closing:
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except BaseException as error:
                # If the thread ended here, callers would wait for a response until their timeout.
                self._failure = error
                failures.log_exception()


def wait_for_graph(
    condition: Callable[[], bool], timeout: float, background: BackgroundNode | None = None
) -> bool:
    """Wait until a condition about the graph holds.

    Args:
        condition: evaluated periodically.
        timeout: seconds.
        background: node whose callbacks the condition depends on.

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
        background: node whose callbacks complete it.

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
