"""Waiting until a perception node has received an image of its camera."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray

from segzero_ros.ros.background_node import BackgroundNode, wait_for_graph
from segzero_ros.ros.health.diagnostics import CAMERA, NO_IMAGE


def wait_for_image(background: BackgroundNode, node: str, timeout: float) -> bool:
    """Wait until a node reports an image on /diagnostics, which it publishes once a second.

    Args:
        background: subscribes to /diagnostics.
        node: fully qualified name, such as /segzero/perception.
        timeout: seconds.

    Returns:
        Whether it reports one.

    Raises:
        SegZeroError: a report cannot be handled.
    """
    received: list[bool] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        for report in message.status:
            if report.name == f'{node}: {CAMERA}':
                ages = [pair.value for pair in report.values if pair.key == 'age']
                received.append(ages != [NO_IMAGE])

    subscription = background.node.create_subscription(
        DiagnosticArray, '/diagnostics', on_diagnostics, 10
    )
    try:
        return wait_for_graph(lambda: any(received), timeout, background)
    finally:
        background.node.destroy_subscription(subscription)
