"""Whether a perception node has an image of its camera yet, as a client hears it."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray

from segzero_ros.ros.background_node import BackgroundNode, wait_for_graph
from segzero_ros.ros.health.diagnostics import CAMERA, NO_IMAGE


def wait_for_image(background: BackgroundNode, node: str, timeout: float) -> bool:
    """Wait until a node reports an image on /diagnostics, where it reports once a second.

    Args:
        background: hears the reports.
        node: its full name, as /segzero/perception.
        timeout: seconds.

    Returns:
        Whether it did.

    Raises:
        SegZeroError: a report cannot be understood.
    """
    seen: list[bool] = []

    def hear(message: DiagnosticArray) -> None:
        for report in message.status:
            if report.name == f'{node}: {CAMERA}':
                ages = [pair.value for pair in report.values if pair.key == 'age']
                seen.append(ages != [NO_IMAGE])

    ears = background.node.create_subscription(DiagnosticArray, '/diagnostics', hear, 10)
    try:
        return wait_for_graph(lambda: any(seen), timeout, background)
    finally:
        background.node.destroy_subscription(ears)
