"""Publisher of an answer's objects and their support for MoveIt's planning scene.

The planning scene keeps what it was sent, so each object is added once, moved while it is tracked,
and removed when the next answer does not have it. A new subscriber is sent the whole scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import threading
from typing import Any

import numpy as np
from rclpy.publisher import Publisher

from segzero_ros.ros.message_factory import header_of
from segzero_ros.ros.perception import display_messages
from segzero_ros.ros.perception.make_publisher import MakePublisher
from segzero_ros.spatial.placement import Placed
from segzero_ros.spatial.support_box import support_box
from segzero_ros.types import Pose3D, Segment, Task

SUPPORT = 'support'
# An answer has at most 200 objects.
DEPTH = 256
# A tracked box of about the same size, in metres and as a share of a side, is moved. One of
# another size replaces it: more of the object is seen, or its sides are along other axes.
_SAME, _SAME_SHARE = 0.01, 0.15


@dataclass(frozen=True)
class _Box:
    """A box in the planning scene."""

    header: Any
    pose: Pose3D
    label: str


class CollisionObjectPublisher:
    """Publishes `collision_objects`, where moveit_msgs is installed.

    Attributes:
        leave_out_target: whether the first object of an answer is left out, because a gripper is
            to touch it; counts from the next answer on.

    Args:
        publisher: creates the publisher.
    """

    def __init__(self, publisher: MakePublisher) -> None:
        self.leave_out_target = False
        self._publisher: Publisher | None = None
        self._scene: dict[str, _Box] = {}
        # The answer in the scene, while its support is not known, and its query.
        self._unmeasured: Placed | None = None
        self._query_id = ''
        self._lock = threading.Lock()
        try:
            from moveit_msgs.msg import CollisionObject
        except ImportError:
            return
        # Volatile subscribers, as MoveIt is, get nothing that was published before they came;
        # transient local ones would not match a volatile publisher.
        self._publisher = publisher(
            CollisionObject, 'collision_objects', DEPTH, latched=True, on_matched=self._on_matched
        )

    def publish(self, placed: Placed) -> None:
        """Replace the scene by an answer's objects, if it is one about where things are."""
        answer = placed.geometry or placed.answer
        if self._publisher is None or answer.task is not Task.SEGMENT:
            return
        if placed.geometry is None and answer.segments:
            # Where the objects are is not known, for lack of a transform.
            return
        skipped = 1 if self.leave_out_target else 0
        header = header_of(answer)
        objects = {
            name_of(segment): _Box(header, segment.pose, segment.label)
            for segment in answer.segments[skipped:]
            if segment.pose is not None and any(segment.pose.size)
        }
        with self._lock:
            before, self._scene = self._scene, objects
            self._query_id = answer.query.id
            self._unmeasured = placed if answer.segments else None
            if not self._publisher.get_subscription_count():
                return
            self._measure_support()
            for name in before.keys() - self._scene.keys():
                self._publisher.publish(display_messages.removed_object(header, name))
            self._publish_scene()

    def publish_tracked(self, placed: Placed) -> None:
        """Move the objects of the answer in the scene to where they are in a later frame."""
        answer = placed.geometry
        if self._publisher is None or answer is None or answer.query.id != self._query_id:
            return
        header = header_of(answer)
        with self._lock:
            subscribed = self._publisher.get_subscription_count()
            for segment in answer.segments:
                name = name_of(segment)
                if segment.pose is None or name not in self._scene:
                    # Lost, or left out: it stays where it was.
                    continue
                size, pose = self._scene[name].pose.size, segment.pose
                same_shape = np.allclose(size, pose.size, _SAME_SHARE, _SAME)
                if same_shape:
                    pose = replace(pose, size=size)
                self._scene[name] = box = _Box(header, pose, segment.label)
                if subscribed and same_shape:
                    self._publisher.publish(display_messages.moved_object(header, name, pose))
                elif subscribed:
                    self._publish_added(name, box)

    def _on_matched(self, change: Any) -> None:
        """Publish the whole scene if a subscriber has come; in the executor's thread."""
        if change.current_count_change > 0:
            with self._lock:
                self._measure_support()
                self._publish_scene()

    def _measure_support(self) -> None:
        placed, self._unmeasured = self._unmeasured, None
        if placed is None or placed.geometry is None or placed.answer.frame is None:
            return
        pose = support_box(placed.answer.frame, placed.answer.segments)
        if pose is None:
            return
        if placed.transform is not None:
            pose = placed.transform.pose(pose)
        self._scene[SUPPORT] = _Box(header_of(placed.geometry), pose, SUPPORT)

    def _publish_scene(self) -> None:
        assert self._publisher is not None
        for name, box in self._scene.items():
            self._publish_added(name, box)

    def _publish_added(self, name: str, box: _Box) -> None:
        assert self._publisher is not None
        message = display_messages.added_object(box.header, name, box.pose, box.label)
        self._publisher.publish(message)


def name_of(segment: Segment) -> str:
    """Return an object's name in the planning scene."""
    return f'object_{segment.id}'
