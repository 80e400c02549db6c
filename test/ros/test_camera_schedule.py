"""The simulated camera keeps its rate, however long publishing takes. No wall time is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rclpy.time import Time
from std_msgs.msg import Header

from segzero_ros.replay.bag import BagWriter
from segzero_ros.ros.camera_sim.messages import image_message
from segzero_ros.ros.camera_sim.node import CameraSim
from segzero_ros.ros.camera_sim.schedule import Schedule

MS = 1_000_000
START = 1_000_000 * MS
PERIOD = 33 * MS


@pytest.mark.parametrize('work', [0, 5 * MS, 32 * MS])
def test_the_rate_is_kept_whatever_publishing_takes(work: int) -> None:
    schedule, now = Schedule(PERIOD), START
    for _ in range(300):
        schedule.start(now)
        now += work
        now += schedule.delay(now, PERIOD)
    assert now - START == 300 * PERIOD


def test_what_publishes_slower_than_the_rate_goes_on_without_a_pause_and_owes_nothing() -> None:
    schedule, now = Schedule(PERIOD), START
    for _ in range(20):
        schedule.start(now)
        now += 50 * MS
        assert schedule.delay(now, PERIOD) == 0
    # From now on it is fast: one that was missed is made up for at most.
    waits = []
    for _ in range(4):
        waits.append(schedule.delay(now, PERIOD))
        now += waits[-1]
    assert waits.count(0) <= 1
    assert waits[-1] == PERIOD


@pytest.mark.parametrize('jump', [3600_000 * MS, -3600_000 * MS, -1])
def test_a_clock_that_jumps_neither_stops_the_camera_nor_makes_it_rush(jump: int) -> None:
    schedule = Schedule(1000 * MS)
    schedule.start(START)
    assert schedule.delay(START + MS, PERIOD) == PERIOD - MS
    now = START + PERIOD + jump
    waits = []
    for _ in range(3):
        waits.append(schedule.delay(now, PERIOD))
        now += waits[-1]
    assert max(waits) <= PERIOD
    assert waits[1:] == [PERIOD, PERIOD]


def test_what_was_recorded_together_does_not_push_the_rest_back() -> None:
    schedule, now = Schedule(1000 * MS), START
    due = START
    for period in [MS, 0, 0, 97 * MS] * 20:
        schedule.start(now)
        assert now >= due, 'nothing comes early'
        now += 15 * MS
        now += schedule.delay(now, period)
        due += period
    assert now == START + 20 * 98 * MS


class SlowCamera:
    """A real camera node on a simulated clock; publishing a message takes so many ms of it."""

    def __init__(self, context: Context, work_ms: int, arguments: list[str]) -> None:
        arguments = ['--ros-args', '-p', 'use_sim_time:=true', *arguments]
        rclpy.init(args=arguments, context=context)
        self._node = CameraSim(context=context)
        self._clock = self._node.get_clock()
        self._clock.set_ros_time_override(Time(nanoseconds=START))
        # The other one publishes /clock.
        self._timer = next(t for t in self._node.timers if t.callback.__name__ == '_tick')
        self._work_ms = work_ms
        self.published: list[int] = []
        for publisher in self._node.publishers:
            if publisher.topic_name == '/image':
                publisher.publish = self._publish

    @property
    def now(self) -> int:
        return int(self._clock.now().nanoseconds)

    def _advance(self, by: int) -> None:
        self._clock.set_ros_time_override(Time(nanoseconds=self.now + by))

    def _publish(self, message: object) -> None:
        self.published.append(self.now)
        self._advance(self._work_ms * MS)

    def run(self, ticks: int) -> None:
        """Let the timer call back so often, each time at the very moment that it is due."""
        for _ in range(ticks):
            self._advance(max(0, self._timer.time_until_next_call()))
            self._timer.callback()

    def set(self, **values: object) -> None:
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        assert all(each.successful for each in self._node.set_parameters(parameters))

    def close(self) -> None:
        self._node.finish()


@pytest.fixture
def slow_camera() -> Iterator[Callable[..., SlowCamera]]:
    cameras: list[SlowCamera] = []
    context = Context()

    def start(work_ms: int, *arguments: str) -> SlowCamera:
        cameras.append(SlowCamera(context, work_ms, list(arguments)))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.close()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize('motion', ['0.0', '0.5'])
def test_thirty_hertz_are_thirty_where_each_picture_takes_five_ms(
    slow_camera: Callable[..., SlowCamera], motion: str
) -> None:
    options = ['source:=scene', 'item:=scene_3', 'rate:=30.0', f'motion:={motion}']
    camera = slow_camera(5, *(word for option in options for word in ('-p', option)))
    camera.run(31)
    seconds = (camera.published[30] - camera.published[0]) / 1e9
    assert seconds == pytest.approx(1.0, abs=1e-6)
    camera.set(rate=10.0)
    camera.run(11)
    seconds = (camera.published[-1] - camera.published[-11]) / 1e9
    assert seconds == pytest.approx(1.0, abs=1e-6)


def test_a_bag_ends_when_it_ended_however_long_publishing_takes(
    slow_camera: Callable[..., SlowCamera], tmp_path: Path
) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        for index in range(50):
            stamp = 1_000_000_000 + index * 20 * MS
            header = Header(stamp=Time(nanoseconds=stamp).to_msg(), frame_id='camera')
            message = image_message(np.zeros((4, 4, 3), np.uint8), 'rgb8', header)
            writer.write('/image', serialize_message(message), stamp)
    options = ['source:=bag', f'path:={tmp_path / "bag"}', 'loop:=false']
    camera = slow_camera(7, *(word for option in options for word in ('-p', option)))
    camera.run(51)
    distances = {later - earlier for earlier, later in pairwise(camera.published)}
    assert len(camera.published) == 50
    assert distances == {20 * MS}
