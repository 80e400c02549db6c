"""Publishers of results, reasoning, images, clouds, poses, markers and detections.

Images, clouds, markers, detections and collision objects are made only while they have
subscribers. What is published in 3-D is made from `Placed.geometry`, in the frame of the parameter
`target_frame`; results, with their masks, are about the camera's frame. All methods may be called
from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from segzero_ros.conversions.point_cloud import PointPacker
from segzero_ros.msg import ReasoningDelta, SegmentationResult
from segzero_ros.overlay import draw_overlay
from segzero_ros.ros import message_factory
from segzero_ros.ros.perception import display_messages
from segzero_ros.ros.perception.collision_publisher import CollisionObjectPublisher
from segzero_ros.ros.perception.label_publishers import LabelPublishers
from segzero_ros.ros.perception.make_publisher import OnMatched
from segzero_ros.ros.perception.object_frames import ObjectFrames
from segzero_ros.spatial.placement import Placed
from segzero_ros.types import Answer, Status

# QoS depths that lose nothing in a burst of queries. The middleware keeps that many messages for a
# subscriber that is slow or has crashed, so results, which hold masks, are not kept as deep.
RESULT_DEPTH = 256
BURST_DEPTH = 1000
IMAGE_DEPTH = 5
# A cloud of a large image has tens of megabytes.
CLOUD_DEPTH = 1
# Statuses for which displays are published; after the others, the last display stays.
DISPLAYED = (Status.OK, Status.NOT_FOUND)

# QoS policies that a params file may override, as qos_overrides.TOPIC.publisher.POLICY.
OVERRIDABLE_POLICIES = (
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.RELIABILITY,
)

MakeImage = Callable[[Answer], Any]
# The second argument is the answer with its poses in the frame to publish in.
MakeGeometry = Callable[[Placed, Answer], Any]


class ResultPublishers:
    """Creates the publishers and publishes on them.

    Attributes:
        object_frames: the objects as frames on `/tf`.
        labels: label images and what their values mean.
        collision_objects: for MoveIt's planning scene.
        admit_target: whether the pose of an answer's first object is published, called in the
            thread that publishes.
        target_lock: held meanwhile.

    Args:
        node: owner of the publishers.
    """

    def __init__(self, node: Node) -> None:
        self.admit_target: Callable[[Answer], bool] = lambda _: True
        self._node = node
        self.target_lock = threading.Lock()
        self._result = self._publisher(SegmentationResult, 'result', RESULT_DEPTH)
        self._tracked = self._publisher(SegmentationResult, 'tracked', IMAGE_DEPTH)
        self._reasoning = self._publisher(String, 'reasoning', BURST_DEPTH)
        self._reasoning_stream = self._publisher(ReasoningDelta, 'reasoning_stream', BURST_DEPTH)
        self._in_pixels: list[tuple[Publisher, MakeImage]] = [
            (self._publisher(Image, 'overlay', IMAGE_DEPTH), _overlay),
        ]
        self._in_metres: list[tuple[Publisher, MakeGeometry]] = [
            (self._publisher(MarkerArray, 'markers', IMAGE_DEPTH), _markers),
        ]
        self._points = self._publisher(PointCloud2, 'points', CLOUD_DEPTH)
        self._object_points = self._publisher(PointCloud2, 'object_points', CLOUD_DEPTH)
        self._packer = PointPacker()
        self._target_pose = self._publisher(PoseStamped, 'target_pose', IMAGE_DEPTH)
        self.object_frames = ObjectFrames(node)
        self.labels = LabelPublishers(self._publisher)
        self.collision_objects = CollisionObjectPublisher(self._publisher)
        self._add_detections()

    @property
    def target_subscribers(self) -> int:
        """Number of subscribers to `target_pose`."""
        return int(self._target_pose.get_subscription_count())

    def publish_result(self, message: SegmentationResult) -> None:
        """Publish the result of a query."""
        self._result.publish(message)

    def publish_tracked(self, placed: Placed) -> None:
        """Publish an answer's objects as tracked in a later frame."""
        self._tracked.publish(message_factory.to_result(placed.answer))
        self.object_frames.publish(placed.answer)
        self._publish_target_pose(placed)
        self.labels.publish(placed.answer)
        self._publish_clouds(placed)
        self.collision_objects.publish_tracked(placed)

    def publish_reasoning(self, query_id: str, piece: str) -> None:
        """Publish the next piece of a query's reasoning."""
        text = message_factory.clean_text(piece)
        self._reasoning.publish(String(data=text))
        name = message_factory.clean_text(query_id)
        self._reasoning_stream.publish(ReasoningDelta(query_id=name, text=text))

    def end_reasoning(self, query_id: str, *, wrote: bool) -> None:
        """Publish the end of a query's reasoning.

        Args:
            query_id: of the query.
            wrote: whether there was any, to be ended with a newline on `reasoning`.
        """
        if wrote:
            self._reasoning.publish(String(data='\n'))
        name = message_factory.clean_text(query_id)
        self._reasoning_stream.publish(ReasoningDelta(query_id=name, final=True))

    def publish_displays(self, placed: Placed) -> None:
        """Publish the pose of an answer's first object, and what has subscribers."""
        answer, geometry = placed.answer, placed.geometry
        if answer.frame is None or answer.status not in DISPLAYED:
            return
        self._publish_target_pose(placed)
        self.labels.publish(answer)
        for publisher, make in self._in_pixels:
            if publisher.get_subscription_count():
                publisher.publish(make(answer))
        self.object_frames.publish(answer)
        if geometry is not None:
            for publisher, make_geometry in self._in_metres:
                if publisher.get_subscription_count():
                    publisher.publish(make_geometry(placed, geometry))
        self._publish_clouds(placed)
        self.collision_objects.publish(placed)

    def _publish_target_pose(self, placed: Placed) -> None:
        """Publish the pose of the first object, if it has one."""
        geometry = placed.geometry
        if geometry is not None and geometry.segments and geometry.segments[0].pose is not None:
            pose = message_factory.to_pose(geometry.segments[0].pose)
            header = message_factory.header_of(geometry)
            with self.target_lock:
                if self.admit_target(placed.answer):
                    self._target_pose.publish(PoseStamped(header=header, pose=pose))

    def _publish_clouds(self, placed: Placed) -> None:
        """Publish the clouds that have subscribers, if there is depth."""
        organised = self._points.get_subscription_count() > 0
        objects = self._object_points.get_subscription_count() > 0
        if not (organised or objects):
            return
        geometry, cloud = placed.geometry, placed.cloud()
        if geometry is None or geometry.frame is None or cloud is None:
            return
        points, own = self._packer.pack(
            cloud, geometry.frame.image, organised=organised, objects=objects
        )
        if points is not None:
            self._points.publish(display_messages.cloud(geometry, points, is_dense=False))
        if own is not None:
            self._object_points.publish(display_messages.cloud(geometry, own, is_dense=True))

    def _add_detections(self) -> None:
        try:
            from vision_msgs.msg import Detection2DArray, Detection3DArray
        except ImportError:
            return
        self._in_pixels.append(
            (
                self._publisher(Detection2DArray, 'detections', IMAGE_DEPTH),
                display_messages.detections,
            )
        )
        self._in_metres.append(
            (self._publisher(Detection3DArray, 'detections_3d', IMAGE_DEPTH), _detections_3d)
        )

    def _publisher(
        self,
        message_type: Any,
        topic: str,
        depth: int,
        *,
        latched: bool = False,
        on_matched: OnMatched | None = None,
    ) -> Publisher:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        # Without rclpy's own event handlers, which the executor would check at every wake-up.
        return self._node.create_publisher(
            message_type,
            topic,
            QoSProfile(depth=depth, durability=durability),
            event_callbacks=PublisherEventCallbacks(
                matched=on_matched, use_default_callbacks=False
            ),
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE_POLICIES),
        )


def _markers(placed: Placed, geometry: Answer) -> MarkerArray:
    return display_messages.markers(geometry, placed.up)


def _detections_3d(_: Placed, geometry: Answer) -> Any:
    return display_messages.detections_3d(geometry)


def _overlay(answer: Answer) -> Image:
    return message_factory.rgb_image(draw_overlay(answer), message_factory.header_of(answer))
