"""A planning scene is sent what changes, and nothing is made for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='the publisher needs ROS 2')

from geometry_msgs.msg import Pose
from std_msgs.msg import Header

from segzero_ros.ros.perception import collision_publisher, display_messages
from segzero_ros.ros.perception.collision_publisher import CollisionObjectPublisher
from segzero_ros.spatial.placement import in_camera_frame, in_frame, Placed, without_geometry
from segzero_ros.spatial.transforms import Transform
from segzero_ros.types import Answer, Frame, Pose3D, PoseStatus, Query, Roi, Segment, Status, Task

UPRIGHT = (0.0, 0.0, 0.0, 1.0)
ADD, REMOVE, MOVE = b'\0', b'\1', b'\3'
TABLE = Pose3D((0.0, 0.0, 1.0), UPRIGHT, (1.0, 1.0, 0.02))


@dataclass
class ObjectType:
    key: str = ''
    db: str = ''


@dataclass
class CollisionObject:
    header: Header = field(default_factory=Header)
    pose: Pose = field(default_factory=Pose)
    id: str = ''
    type: ObjectType = field(default_factory=ObjectType)
    primitives: list[Any] = field(default_factory=list)
    primitive_poses: list[Any] = field(default_factory=list)
    meshes: list[Any] = field(default_factory=list)
    mesh_poses: list[Any] = field(default_factory=list)
    planes: list[Any] = field(default_factory=list)
    plane_poses: list[Any] = field(default_factory=list)
    subframe_names: list[Any] = field(default_factory=list)
    subframe_poses: list[Any] = field(default_factory=list)
    operation: bytes = ADD


@pytest.fixture
def moveit_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give moveit_msgs: the installed one, or classes with its fields."""
    if importlib.util.find_spec('moveit_msgs'):
        return
    for package, message in (
        ('moveit_msgs', CollisionObject),
        ('object_recognition_msgs', ObjectType),
    ):
        module = ModuleType(f'{package}.msg')
        setattr(module, message.__name__, message)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f'{package}.msg', module)


class Topic:
    """Stands in for rclpy's publisher: as many subscribers as it is told."""

    def __init__(self) -> None:
        self.subscribers = 1
        self.sent: list[Any] = []
        self.on_matched: Any = None
        self.publisher = CollisionObjectPublisher(self._create)

    def _create(
        self, _: Any, topic: str, depth: int, *, latched: bool = False, on_matched: Any = None
    ) -> Any:
        assert (topic, latched) == ('collision_objects', True)
        assert depth >= 201, 'all objects and their support at once'
        self.on_matched = on_matched
        return self

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message: Any) -> None:
        self.sent.append(message)

    def match(self, change: int) -> None:
        self.subscribers += change
        self.on_matched(SimpleNamespace(current_count_change=change))

    def taken(self) -> list[tuple[bytes, str]]:
        """Return operation and name of what was sent since the last call."""
        sent, self.sent = self.sent, []
        return [(message.operation, message.id) for message in sent]


@pytest.fixture
def topic(moveit_msgs: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    monkeypatch.setattr(collision_publisher, 'support_box', lambda *_: TABLE)
    return Topic()


def segment(number: int, pose: Pose3D | None, label: str = 'cup') -> Segment:
    status = PoseStatus.NO_DEPTH if pose is None else PoseStatus.POSE_OK
    roi = Roi(0, 0, 2, 2)
    return Segment(number, label, 1.0, roi, (), roi, np.ones((2, 2), np.bool_), pose, status)


def box(x: float = 0.0, size: tuple[float, float, float] = (0.1, 0.1, 0.2)) -> Pose3D:
    return Pose3D((x, 0.0, 0.8), UPRIGHT, size)


def answer(*segments: Segment, query_id: str = 'a', stamp_ns: int = 1) -> Placed:
    frame = Frame(np.zeros((4, 4, 3), np.uint8), stamp_ns, 'optical')
    status = Status.OK if segments else Status.NOT_FOUND
    return in_camera_frame(Answer(Query('cups', query_id), status, frame=frame, segments=segments))


def test_objects_are_added_replaced_and_removed(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(1, box()), segment(2, box(1))))
    assert topic.taken() == [(ADD, 'object_1'), (ADD, 'object_2'), (ADD, 'support')]
    topic.publisher.publish(answer(segment(2, box(2)), query_id='b'))
    assert topic.taken() == [(REMOVE, 'object_1'), (ADD, 'object_2'), (ADD, 'support')]
    topic.publisher.publish(answer(query_id='c'))
    assert sorted(topic.taken()) == [(REMOVE, 'object_2'), (REMOVE, 'support')]
    topic.publisher.publish(answer(query_id='d'))
    assert topic.taken() == []


def test_a_support_that_is_not_seen_any_more_is_removed(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.publisher.publish(answer(segment(1, box())))
    topic.taken()
    monkeypatch.setattr(collision_publisher, 'support_box', lambda *_: None)
    topic.publisher.publish(answer(segment(1, box())))
    assert topic.taken() == [(REMOVE, 'support'), (ADD, 'object_1')]


def test_what_has_no_size_or_no_pose_is_no_obstacle(topic: Topic) -> None:
    point = segment(2, Pose3D((0.0, 0.0, 1.0), UPRIGHT, (0.0, 0.0, 0.0)))
    flat = segment(3, box(size=(0.1, 0.2, 0.0)))
    topic.publisher.publish(answer(segment(1, None), point, flat))
    (sent,) = (message for message in topic.sent if message.id != 'support')
    assert sent.id == 'object_3'
    assert list(sent.primitives[0].dimensions) == [0.1, 0.2, 0.001], 'a box has three sides'


@pytest.mark.parametrize('task', [task for task in Task if task is not Task.SEGMENT])
def test_answers_without_masks_say_nothing_about_obstacles(topic: Topic, task: Task) -> None:
    topic.publisher.publish(answer(segment(1, box())))
    topic.taken()
    other = replace(answer(query_id='b').answer, task=task)
    topic.publisher.publish(in_camera_frame(other))
    assert topic.taken() == []


def test_a_tracked_object_is_moved_or_replaced_if_it_has_another_size(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(1, box()), segment(2, box(1))))
    topic.taken()
    later = answer(
        segment(1, box(0.3, (0.104, 0.1, 0.21))),
        segment(2, box(1.1, (0.2, 0.1, 0.2))),
        segment(3, box(2)),
        stamp_ns=5,
    )
    topic.publisher.publish_tracked(later)
    moved, replaced = topic.sent
    assert topic.taken() == [(MOVE, 'object_1'), (ADD, 'object_2')]
    assert (moved.pose.position.x, moved.header.stamp.nanosec) == (0.3, 5)
    assert not moved.primitives
    assert not moved.primitive_poses
    assert list(replaced.primitives[0].dimensions) == [0.2, 0.1, 0.2]


def test_a_lost_object_stays_where_it_was(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(1, box()), segment(2, box(1))))
    topic.taken()
    topic.publisher.publish_tracked(answer(segment(1, None), segment(2, box(1.2))))
    assert topic.taken() == [(MOVE, 'object_2')]
    topic.match(+1)
    first = next(message for message in topic.sent if message.id == 'object_1')
    assert first.pose.position.x == 0.0


def test_objects_of_an_earlier_answer_do_not_come_back_when_tracked(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(1, box())))
    topic.publisher.publish(answer(query_id='nothing there'))
    topic.taken()
    topic.publisher.publish_tracked(answer(segment(1, box(0.3))))
    assert topic.taken() == []


def test_a_new_subscriber_gets_everything_as_it_is_now(topic: Topic) -> None:
    topic.subscribers = 0
    topic.publisher.publish(answer(segment(1, box()), segment(2, box(1))))
    topic.publisher.publish_tracked(answer(segment(1, box(0.3)), segment(2, box(1)), stamp_ns=7))
    assert topic.taken() == []
    topic.match(+1)
    first = topic.sent[0]
    assert topic.taken() == [(ADD, 'object_1'), (ADD, 'object_2'), (ADD, 'support')]
    assert (first.pose.position.x, first.header.stamp.nanosec) == (0.3, 7)
    topic.match(-1)
    assert topic.taken() == []


def test_the_target_is_left_out_also_while_it_is_tracked(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(7, box()), segment(8, box(1))))
    topic.taken()
    topic.publisher.leave_out_target = True
    topic.publisher.publish(answer(segment(7, box()), segment(8, box(1))))
    assert topic.taken() == [(REMOVE, 'object_7'), (ADD, 'object_8'), (ADD, 'support')]
    topic.publisher.publish_tracked(answer(segment(7, box(0.1)), segment(8, box(1.1))))
    assert topic.taken() == [(MOVE, 'object_8')]


def test_nothing_is_made_or_measured_for_nobody(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError('this was made for nobody')

    topic.subscribers = 0
    monkeypatch.setattr(collision_publisher, 'support_box', fail)
    for name in ('added_object', 'moved_object', 'removed_object'):
        monkeypatch.setattr(display_messages, name, fail)
    for stamp in range(3):
        topic.publisher.publish(answer(segment(1, box()), stamp_ns=stamp))
        topic.publisher.publish_tracked(answer(segment(1, box(0.3))))
    topic.publisher.publish(answer(query_id='b'))


def test_without_moveit_there_is_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'moveit_msgs', None)

    def create(*_: Any, **__: Any) -> None:
        raise AssertionError('a topic without its messages')

    publisher = CollisionObjectPublisher(create)
    publisher.publish(answer(segment(1, box())))
    publisher.publish_tracked(answer(segment(1, box())))


def test_everything_is_in_the_target_frame(topic: Topic) -> None:
    up = Transform((0.0, 0.0, 5.0), UPRIGHT)
    found = answer(segment(1, box(1.0))).answer
    topic.publisher.publish(in_frame(found, 'base_link', up))
    first, support = topic.sent
    assert (first.id, support.id) == ('object_1', 'support')
    assert {message.header.frame_id for message in topic.sent} == {'base_link'}
    assert first.pose.position.z == pytest.approx(5.8)
    assert support.pose.position.z == pytest.approx(6.0)
    topic.taken()
    topic.publisher.publish_tracked(in_frame(answer(segment(1, box(2.0))).answer, 'base_link', up))
    (moved,) = topic.sent
    assert (moved.header.frame_id, moved.pose.position.x) == ('base_link', 2.0)


def test_without_a_transform_the_scene_stays_but_for_what_is_gone(topic: Topic) -> None:
    topic.publisher.publish(answer(segment(1, box())))
    topic.taken()
    unplaced = without_geometry(answer(segment(1, box(1)), query_id='b').answer, 'No transform.')
    topic.publisher.publish(unplaced)
    topic.publisher.publish_tracked(without_geometry(answer(segment(1, box(1))).answer, 'None.'))
    assert topic.taken() == []
    topic.publisher.publish(without_geometry(answer(query_id='c').answer, 'No transform.'))
    assert sorted(topic.taken()) == [(REMOVE, 'object_1'), (REMOVE, 'support')]
