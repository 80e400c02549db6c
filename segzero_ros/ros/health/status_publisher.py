"""The node's health as one line on the topic `status`, for `ros2 topic echo`."""

from __future__ import annotations

from collections.abc import Sequence
import re
import time

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

# Seconds after which a line is published in which only numbers have changed.
REFRESH = 5.0
_LEVELS = {
    DiagnosticStatus.OK: 'OK',
    DiagnosticStatus.WARN: 'WARN',
    DiagnosticStatus.ERROR: 'ERROR',
}
_NUMBERS = re.compile(r'\d+(\.\d+)?')


class StatusPublisher:
    """Publishes the line, latched: at once when its words change, else every REFRESH seconds.

    Args:
        node: owner of the publisher.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(
            String,
            'status',
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )
        self._words = ''
        self._published_at = 0.0

    def publish(self, reports: Sequence[DiagnosticStatus]) -> None:
        """Publish the reports as one line, if its words have changed or a refresh is due."""
        line = one_line(reports)
        words = _NUMBERS.sub('#', line)
        now = time.monotonic()
        if words != self._words or now - self._published_at >= REFRESH:
            self._words, self._published_at = words, now
            self._publisher.publish(String(data=line))

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)


def one_line(reports: Sequence[DiagnosticStatus]) -> str:
    """Return the reports that are not OK, the worst first, or else all of them.

    `ros2 topic echo` truncates at 128 characters. So the models, which change least, come last,
    except while they are being downloaded or loaded.
    """
    worst = max(report.level for report in reports)
    texts = [(report, ' '.join(report.message.split())) for report in reports]
    if worst == DiagnosticStatus.OK and any(each.key == 'progress' for each in reports[0].values):
        return ' | '.join(['OK', *(text for _, text in texts)])
    if worst == DiagnosticStatus.OK:
        return ' | '.join(['OK', *(text for _, text in texts[1:]), texts[0][1]])
    texts.sort(key=lambda pair: pair[0].level, reverse=True)
    problems = [
        f'{report.name.rpartition(": ")[2]}: {text}'
        for report, text in texts
        if report.level != DiagnosticStatus.OK
    ]
    return ' | '.join([_LEVELS[worst], *problems])
