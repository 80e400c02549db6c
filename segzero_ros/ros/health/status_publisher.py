"""The node's health in one line on the topic `status`, for `ros2 topic echo`."""

from __future__ import annotations

from collections.abc import Sequence
import re
import time

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

# A line in which only figures have changed is published after so many seconds.
REFRESH = 5.0
_LEVELS = {
    DiagnosticStatus.OK: 'OK',
    DiagnosticStatus.WARN: 'WARN',
    DiagnosticStatus.ERROR: 'ERROR',
}
_FIGURES = re.compile(r'\d+(\.\d+)?')


class StatusPublisher:
    """Publishes the line, latched: at once when its words change, else in time.

    Args:
        node: whose health it is.
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

    def show(self, reports: Sequence[DiagnosticStatus]) -> None:
        """Publish what the reports say, if it is time to."""
        line = one_line(reports)
        words = _FIGURES.sub('#', line)
        now = time.monotonic()
        if words != self._words or now - self._published_at >= REFRESH:
            self._words, self._published_at = words, now
            self._publisher.publish(String(data=line))

    def close(self) -> None:
        """Show no more."""
        self._node.destroy_publisher(self._publisher)


def one_line(reports: Sequence[DiagnosticStatus]) -> str:
    """Return what is wrong, the worst first, or else what each report says.

    `ros2 topic echo` shows 128 characters: the models, which change least, come last, but for
    their download.
    """
    worst = max(report.level for report in reports)
    said = [(report, ' '.join(report.message.split())) for report in reports]
    if worst == DiagnosticStatus.OK and any(each.key == 'download' for each in reports[0].values):
        return ' | '.join(['OK', *(text for _, text in said)])
    if worst == DiagnosticStatus.OK:
        return ' | '.join(['OK', *(text for _, text in said[1:]), said[0][1]])
    said.sort(key=lambda pair: pair[0].level, reverse=True)
    wrong = [
        f'{report.name.rpartition(": ")[2]}: {text}'
        for report, text in said
        if report.level != DiagnosticStatus.OK
    ]
    return ' | '.join([_LEVELS[worst], *wrong])
