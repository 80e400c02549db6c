"""The transform between any two frames, as worked out by hand and as tf2 has it."""

from __future__ import annotations

from importlib.util import find_spec
import math
from typing import Any

import pytest

from segzero_ros.rotations import rotated
from segzero_ros.spatial.transform_buffer import NoTransform, TransformBuffer
from segzero_ros.spatial.transforms import StampedTransform, Transform

S = 1_000_000_000
HALF = 0.5**0.5
ALIGNED = (0.0, 0.0, 0.0, 1.0)
# A camera that looks along x of its body's frame, REP 103: x right, y down, z ahead.
OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def about_z(degrees: float) -> tuple[float, float, float, float]:
    return 0.0, 0.0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2)


def own() -> TransformBuffer:
    return TransformBuffer()


def of_tf2() -> Any:
    from segzero_ros.ros.tf2_buffer import Tf2Buffer

    return Tf2Buffer()


@pytest.fixture(params=[own, of_tf2], ids=['own', 'tf2'])
def buffer(request: pytest.FixtureRequest) -> Any:
    """Give each buffer that the node may use: tf2's only where it is installed."""
    if request.param is of_tf2 and find_spec('tf2_py') is None:
        pytest.skip('needs tf2_py')
    return request.param()


def put(
    buffer: Any,
    parent: str,
    child: str,
    stamp: float | None,
    translation: tuple[float, float, float],
    rotation: tuple[float, float, float, float] = ALIGNED,
) -> None:
    """Store a transform; static without a stamp."""
    stamped = StampedTransform(
        parent, child, round((stamp or 0) * S), Transform(translation, rotation)
    )
    buffer.add(stamped, static=stamp is None)


def point(
    buffer: Any, target: str, source: str, stamp: float, point: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return a point of the source frame in the target frame."""
    found: tuple[float, float, float] = buffer.look_up(target, source, round(stamp * S)).point(
        point
    )
    return found


def close(*wanted: float) -> Any:
    return pytest.approx(wanted, abs=1e-9)


@pytest.fixture
def robot(buffer: Any) -> Any:
    """Give a robot that drives along odom's x axis and turns left, with an arm and a camera."""
    put(buffer, 'map', 'odom', None, (10.0, 20.0, 0.0), about_z(90))
    put(buffer, 'odom', 'base_link', 100.0, (0.0, 0.0, 0.0), about_z(0))
    put(buffer, 'odom', 'base_link', 101.0, (2.0, 0.0, 0.0), about_z(90))
    put(buffer, 'odom', 'base_link', 102.0, (2.0, 4.0, 0.0), about_z(180))
    put(buffer, 'base_link', 'camera_link', None, (0.3, 0.0, 1.2))
    put(buffer, 'camera_link', 'camera_optical_frame', None, (0.0, 0.0, 0.0), OPTICAL)
    put(buffer, 'base_link', 'arm', 100.0, (0.5, 0.0, 0.4))
    put(buffer, 'base_link', 'arm', 102.0, (0.5, 0.2, 0.4))
    return buffer


CAMERA = 'camera_optical_frame'
# 0.1 m right of, 0.2 m below and 2 m before the camera.
SEEN = (0.1, 0.2, 2.0)


def test_up_the_tree_through_several_frames(robot: Any) -> None:
    assert point(robot, 'camera_link', CAMERA, 101, SEEN) == close(2.0, -0.1, -0.2)
    assert point(robot, 'base_link', CAMERA, 101, SEEN) == close(2.3, -0.1, 1.0)
    # The robot is at (2, 0) and looks along y.
    assert point(robot, 'odom', CAMERA, 101, SEEN) == close(2.1, 2.3, 1.0)
    assert point(robot, 'map', CAMERA, 101, SEEN) == close(10 - 2.3, 20 + 2.1, 1.0)


def test_down_the_tree(robot: Any) -> None:
    assert point(robot, CAMERA, 'map', 101, (7.7, 22.1, 1.0)) == close(*SEEN)
    assert point(robot, CAMERA, 'camera_link', 101, (1.0, 0.0, 0.0)) == close(0.0, 0.0, 1.0)


def test_up_and_down_again_to_a_frame_of_another_branch(robot: Any) -> None:
    # At 101 the arm is half way between (0.5, 0, 0.4) and (0.5, 0.2, 0.4).
    assert point(robot, 'arm', CAMERA, 101, SEEN) == close(1.8, -0.2, 0.6)
    assert point(robot, CAMERA, 'arm', 101, (1.8, -0.2, 0.6)) == close(*SEEN)


def test_between_two_transforms_both_parts_are_interpolated(robot: Any) -> None:
    # A quarter of the way from (0, 0) at 0 degrees to (2, 0) at 90 degrees.
    found = robot.look_up('odom', 'base_link', round(100.25 * S))
    assert found.translation == close(0.5, 0.0, 0.0)
    assert rotated(found.rotation, (1.0, 0.0, 0.0)) == close(
        math.cos(math.radians(22.5)), math.sin(math.radians(22.5)), 0.0
    )
    assert robot.look_up('odom', 'base_link', 102 * S).translation == close(2.0, 4.0, 0.0)


def test_a_nanosecond_is_told_from_the_next(buffer: Any) -> None:
    now = 1_790_000_000 * S
    for at, x in ((now, 0.0), (now + 10, 10.0)):
        stamped = StampedTransform('odom', 'base', at, Transform((x, 0.0, 0.0), ALIGNED))
        buffer.add(stamped, static=False)
    assert buffer.look_up('odom', 'base', now + 3).translation == close(3.0, 0.0, 0.0)


@pytest.mark.parametrize('sign', [1, -1])
def test_the_shorter_way_round_whatever_the_quaternions_sign(buffer: Any, sign: int) -> None:
    put(buffer, 'odom', 'base', 1.0, (0.0, 0.0, 0.0), about_z(170))
    x, y, z, w = (sign * part for part in about_z(-170))
    put(buffer, 'odom', 'base', 2.0, (0.0, 0.0, 0.0), (x, y, z, w))
    assert point(buffer, 'odom', 'base', 1.5, (1.0, 0.0, 0.0)) == close(-1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ('stamp', 'late', 'words'), [(102.5, True, 'older|future'), (99.5, False, 'newer|past')]
)
def test_nothing_is_extrapolated(robot: Any, stamp: float, late: bool, words: str) -> None:
    for target, source in (('map', CAMERA), (CAMERA, 'map')):
        with pytest.raises(NoTransform, match=words) as raised:
            robot.look_up(target, source, round(stamp * S))
        assert raised.value.late is late
    # Between frames without moving parts it is known all the same.
    assert point(robot, 'base_link', CAMERA, stamp, SEEN) == close(2.3, -0.1, 1.0)


def test_a_single_transform_holds_at_its_own_time_only(buffer: Any) -> None:
    put(buffer, 'odom', 'base', 5.0, (1.0, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 5.0, (0.0, 0.0, 0.0)) == close(1.0, 0.0, 0.0)
    for stamp in (4.9, 5.1):
        with pytest.raises(NoTransform):
            buffer.look_up('odom', 'base', round(stamp * S))


def test_time_zero_is_the_newest_that_all_reach(buffer: Any) -> None:
    for stamp in (1.0, 2.0, 3.0):
        put(buffer, 'odom', 'base', stamp, (stamp, 0.0, 0.0))
    for stamp in (1.5, 2.5):
        put(buffer, 'base', 'arm', stamp, (0.0, stamp, 0.0))
    put(buffer, 'arm', 'tool', None, (0.0, 0.0, 1.0))
    assert buffer.look_up('odom', 'tool', 0).translation == close(2.5, 2.5, 1.0)
    assert buffer.look_up('odom', 'base', 0).translation == close(3.0, 0.0, 0.0)
    assert buffer.look_up('arm', 'tool', 0).translation == close(0.0, 0.0, 1.0)
    assert buffer.look_up('tool', 'base', 0).translation == close(0.0, -2.5, -1.0)


def test_frames_that_are_unknown_or_not_connected(robot: Any) -> None:
    put(robot, 'world', 'table', None, (0.0, 0.0, 0.7))
    for target, source in (('table', CAMERA), (CAMERA, 'world')):
        with pytest.raises(NoTransform, match='connect') as raised:
            robot.look_up(target, source, 101 * S)
        assert not raised.value.late
    for target, source in (('base_footprint', CAMERA), ('map', 'base_footprint')):
        with pytest.raises(NoTransform, match='base_footprint'):
            robot.look_up(target, source, 101 * S)


def test_transforms_may_come_in_any_order(buffer: Any) -> None:
    for stamp in (3.0, 1.0, 2.0, 1.5):
        put(buffer, 'odom', 'base', stamp, (stamp * stamp, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 1.75, (0.0, 0.0, 0.0)) == close(3.125, 0.0, 0.0)


def test_a_frame_that_gets_another_parent(buffer: Any) -> None:
    """A tool that is taken off the rack: before it belongs to the rack, then to the gripper."""
    put(buffer, 'base', 'rack', None, (0.0, 1.0, 0.0))
    put(buffer, 'base', 'gripper', None, (1.0, 0.0, 0.0))
    put(buffer, 'rack', 'tool', 1.0, (0.0, 0.0, 0.1))
    put(buffer, 'rack', 'tool', 2.0, (0.0, 0.0, 0.2))
    put(buffer, 'gripper', 'tool', 3.0, (0.0, 0.0, 0.5))
    put(buffer, 'gripper', 'tool', 4.0, (0.0, 0.0, 0.7))
    origin = (0.0, 0.0, 0.0)
    assert point(buffer, 'base', 'tool', 1.5, origin) == close(0.0, 1.0, 0.15)
    # Nothing between the two parents: the older one holds.
    assert point(buffer, 'base', 'tool', 2.5, origin) == close(0.0, 1.0, 0.2)
    assert point(buffer, 'base', 'tool', 3.5, origin) == close(1.0, 0.0, 0.6)


def test_the_last_of_two_static_transforms_holds(buffer: Any) -> None:
    put(buffer, 'base', 'camera', None, (0.0, 0.0, 1.0))
    put(buffer, 'base', 'camera', None, (0.0, 0.0, 2.0))
    assert point(buffer, 'base', 'camera', 5.0, (0.0, 0.0, 0.0)) == close(0.0, 0.0, 2.0)


def test_ten_seconds_are_kept(buffer: Any) -> None:
    for step in range(301):
        put(buffer, 'odom', 'base', 100 + step / 10, (step / 10, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 120.05, (0.0, 0.0, 0.0)) == close(20.05, 0.0, 0.0)
    with pytest.raises(NoTransform) as raised:
        buffer.look_up('odom', 'base', round(118.9 * S))
    assert not raised.value.late


def test_after_a_jump_back_only_static_transforms_are_left(robot: Any) -> None:
    robot.clear()
    assert point(robot, 'base_link', CAMERA, 1, SEEN) == close(2.3, -0.1, 1.0)
    with pytest.raises(NoTransform):
        robot.look_up('map', CAMERA, 101 * S)
    put(robot, 'odom', 'base_link', 1.0, (0.0, 0.0, 5.0))
    assert point(robot, 'odom', CAMERA, 1, SEEN) == close(2.3, -0.1, 6.0)


@pytest.mark.parametrize(
    ('parent', 'child', 'translation', 'rotation'),
    [
        ('odom', 'odom', (1.0, 0.0, 0.0), ALIGNED),
        ('', 'base', (1.0, 0.0, 0.0), ALIGNED),
        ('odom', '', (1.0, 0.0, 0.0), ALIGNED),
        ('odom', 'base', (math.nan, 0.0, 0.0), ALIGNED),
        ('odom', 'base', (1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
        ('odom', 'base', (1.0, 0.0, 0.0), (0.0, 0.0, math.nan, 1.0)),
    ],
)
def test_a_transform_that_is_none_is_left_out(
    buffer: Any, parent: str, child: str, translation: Any, rotation: Any
) -> None:
    put(buffer, 'odom', 'base', 5.0, (3.0, 0.0, 0.0))
    put(buffer, parent, child, 5.0, translation, rotation)
    assert point(buffer, 'odom', 'base', 5.0, (0.0, 0.0, 0.0)) == close(3.0, 0.0, 0.0)


def test_a_loop_is_no_way_and_ends() -> None:
    buffer = TransformBuffer()
    put(buffer, 'a', 'b', None, (1.0, 0.0, 0.0))
    put(buffer, 'b', 'c', None, (1.0, 0.0, 0.0))
    put(buffer, 'c', 'a', None, (1.0, 0.0, 0.0))
    put(buffer, 'x', 'y', None, (1.0, 0.0, 0.0))
    assert point(buffer, 'a', 'c', 1.0, (0.0, 0.0, 0.0)) == close(2.0, 0.0, 0.0)
    for stamp in (0, S):
        with pytest.raises(NoTransform, match='connect'):
            buffer.look_up('y', 'c', stamp)


def test_a_recording_that_starts_again_is_taken_up() -> None:
    """Without a clock that jumps: its stamps begin again, as when a bag is played in a loop."""
    buffer = TransformBuffer()
    for _ in range(2):
        for step in range(200):
            put(buffer, 'odom', 'base', 50 + step / 10, (step / 10, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 69.85, (0.0, 0.0, 0.0)) == close(19.85, 0.0, 0.0)
    put(buffer, 'odom', 'base', 50.0, (7.0, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 50.0, (0.0, 0.0, 0.0)) == close(7.0, 0.0, 0.0)
    # Nothing is left of what is now the future.
    with pytest.raises(NoTransform) as raised:
        buffer.look_up('odom', 'base', 60 * S)
    assert raised.value.late


def test_one_that_is_of_the_same_time_replaces_the_other(buffer: Any) -> None:
    for x in (1.0, 2.0):
        for stamp in (1.0, 2.0, 3.0):
            put(buffer, 'odom', 'base', stamp, (x, 0.0, 0.0))
    assert point(buffer, 'odom', 'base', 2.0, (0.0, 0.0, 0.0)) == close(2.0, 0.0, 0.0)
