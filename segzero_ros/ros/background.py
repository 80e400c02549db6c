"""A ROS node that spins in a thread of its own, for programs that are not nodes themselves.

Imports rclpy. Signals stay with the program: Ctrl-C is a KeyboardInterrupt in its main thread.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from types import TracebackType
from typing import TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

Value = TypeVar('Value')

# The graph tells nobody that it changed, so it has to be asked.
_GRAPH_PERIOD = 0.02


class BackgroundNode:
    """A node with a context and an executor of its own, on the graph until `close()`."""

    def __init__(self, name: str, namespace: str = '') -> None:
        self.context = Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node: Node = rclpy.create_node(
            name, namespace=namespace, context=self.context, enable_rosout=False
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
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
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return


def wait_for_graph(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until a condition about the graph holds; return whether it does after `timeout` s."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= deadline:
            return False
        pause.wait(_GRAPH_PERIOD)
    return True


def wait_for_future(future: Future, timeout: float) -> bool:
    """Wait until a future is done; return whether it is after `timeout` s."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return done.wait(timeout)
