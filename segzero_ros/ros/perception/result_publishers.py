"""What the node publishes about its answers.

Pictures and markers are made only while somebody subscribes to them. All methods may be called
from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from segzero_ros.msg import SegmentationResult
from segzero_ros.overlay import draw_overlay
from segzero_ros.ros import message_factory
from segzero_ros.ros.perception import display_messages
from segzero_ros.types import Answer, Status

# Deep enough that a burst of queries loses neither a result nor a word. The middleware keeps so
# many for a subscriber that is slow or gone without a word, and results hold masks: not deeper.
RESULTS = 256
BURST = 1000
PICTURES = 5
# Of these, there is something to show; of the others, what was shown before stays.
SHOWN = (Status.OK, Status.NOT_FOUND)

# What a params file may say otherwise of each publisher, as qos_overrides.TOPIC.publisher.POLICY.
OVERRIDABLE = (
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.RELIABILITY,
)

MakeMessage = Callable[[Answer], Any]


class ResultPublishers:
    """The publishers of results, reasoning, pictures, markers and detections."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._result = self._publisher(SegmentationResult, 'result', RESULTS)
        self._tracked = self._publisher(SegmentationResult, 'tracked', PICTURES)
        self._reasoning = self._publisher(String, 'reasoning', BURST)
        self._on_demand: list[tuple[Publisher, MakeMessage]] = [
            (self._publisher(Image, 'label_image', PICTURES), message_factory.label_image),
            (self._publisher(Image, 'overlay', PICTURES), _overlay),
            (self._publisher(MarkerArray, 'markers', PICTURES), display_messages.markers),
        ]
        self._add_detections()

    def result(self, message: SegmentationResult) -> None:
        """Publish what came of a query."""
        self._result.publish(message)

    def tracked(self, answer: Answer) -> None:
        """Publish where an answer's objects are in a later frame."""
        self._tracked.publish(message_factory.to_result(answer))

    def reasoning(self, piece: str) -> None:
        """Publish a further piece of the reasoning."""
        self._reasoning.publish(String(data=message_factory.clean_text(piece)))

    def show(self, answer: Answer) -> None:
        """Publish everything about an answer that somebody listens to, besides the result."""
        if answer.frame is None or answer.status not in SHOWN:
            return
        for publisher, make in self._on_demand:
            if publisher.get_subscription_count():
                publisher.publish(make(answer))

    def _add_detections(self) -> None:
        try:
            from vision_msgs.msg import Detection2DArray, Detection3DArray
        except ImportError:
            return
        self._on_demand += [
            (
                self._publisher(Detection2DArray, 'detections', PICTURES),
                display_messages.detections,
            ),
            (
                self._publisher(Detection3DArray, 'detections_3d', PICTURES),
                display_messages.detections_3d,
            ),
        ]

    def _publisher(self, message_type: Any, topic: str, depth: int) -> Publisher:
        # Without rclpy's event handlers, which every wake of the executor would have to look at.
        return self._node.create_publisher(
            message_type,
            topic,
            QoSProfile(depth=depth),
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
        )


def _overlay(answer: Answer) -> Image:
    return message_factory.rgb_image(draw_overlay(answer), message_factory.header_of(answer))
