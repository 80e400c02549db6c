"""The reports on /diagnostics say what is wrong, at the level that it deserves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
import math
from typing import Any

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.task import Future

from segzero_ros.ros.diagnostics import Health, HealthReporter, ModelState, statuses
from segzero_ros.types import Timing

WELL = Health(
    active=True,
    model_state=ModelState.READY,
    reasoner='VisionReasoner-7B',
    segmenter='sam2-hiera-large',
    topic='/camera/image_raw',
    encoding='bgr8',
    image_size=(640, 480),
    qos='reliable',
    frame_age_s=0.034,
    frame_rate_hz=29.97,
    queue_length=2,
    answered=14,
    failed=1,
    timing=Timing(0.5, 1.25, 0.25, 0.125, 2.0, 0.05, 117),
)
UNBORN = Health(reasoner='transformers', segmenter='sam2')
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

CASES = {
    'all is well': (
        WELL,
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'not configured': (
        UNBORN,
        (OK, 'No models are loaded: the node is not configured.'),
        (OK, 'Not listening: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'loading': (
        replace(UNBORN, model_state=ModelState.LOADING),
        (OK, 'Loading transformers and sam2.'),
        (OK, 'Not listening: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'the models failed': (
        replace(UNBORN, model_state=ModelState.FAILED, model_error='There is no GPU.'),
        (ERROR, 'There is no GPU.'),
        (OK, 'Not listening: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'active without a camera': (
        replace(WELL, frame_age_s=math.nan, camera_error='Nobody publishes /camera/image_raw.'),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, 'Nobody publishes /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'active and no image yet': (
        replace(WELL, frame_age_s=math.nan),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, 'No image has come on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the image cannot be used': (
        replace(WELL, camera_error="The encoding 'rgb9' is not known."),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, "The encoding 'rgb9' is not known."),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the camera stopped': (
        replace(WELL, frame_age_s=7.0, stale_after_s=5.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (WARN, 'The newest image on /camera/image_raw is 7.0 s old.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'any age is fine': (
        replace(WELL, frame_age_s=7.0, stale_after_s=0.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'slow': (
        replace(WELL, slow_after_s=1.5),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (
            WARN,
            'Slow: 14 answered, 1 failed, 2 waiting; the last took 2.00 s, more than 1.5 s.',
        ),
    ),
    'any time is fine': (
        replace(WELL, slow_after_s=0.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the last query failed': (
        replace(WELL, last_error='The server\0is gone.'),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (WARN, 'The last query failed: The server\ufffdis gone.'),
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_each_report_has_the_level_and_the_words_it_deserves(name: str) -> None:
    health, *expected = CASES[name]
    reports = statuses(health, '/segzero/perception')
    assert [(report.level, report.message) for report in reports] == expected
    assert [report.name for report in reports] == [
        '/segzero/perception: models',
        '/segzero/perception: camera',
        '/segzero/perception: queries',
    ]


def test_the_values_tell_the_figures() -> None:
    models, camera, queries = (
        {value.key: value.value for value in report.values} for report in statuses(WELL, '/n')
    )
    assert models == {
        'state': 'ready',
        'reasoner': 'VisionReasoner-7B',
        'segmenter': 'sam2-hiera-large',
    }
    assert camera == {
        'topic': '/camera/image_raw',
        'rate': '30.0 Hz',
        'age': '0.03 s',
        'image': 'bgr8 640x480',
        'qos': 'reliable',
    }
    assert queries == {
        'waiting': '2',
        'answered': '14',
        'failed': '1',
        'last error': 'none',
        'last total': '2.00 s',
        'last queued': '0.50 s',
        'last reasoning': '1.25 s',
        'last encoding (beside it)': '0.25 s',
        'last segmenting': '0.12 s',
        'last tokens': '117',
    }


def test_what_is_not_known_is_said_to_be() -> None:
    _, camera, queries = statuses(UNBORN, '/n')
    values = {value.key: value.value for value in camera.values}
    assert (values['age'], values['image']) == ('no image', 'none decoded yet')
    assert not [value for value in queries.values if value.key.startswith('last ')][1:]


@pytest.fixture
def graph() -> Iterator[Any]:
    """Give a context with a node whose clock stands still, as of a paused simulator."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(
        'perception',
        namespace='segzero',
        context=context,
        parameter_overrides=[Parameter('use_sim_time', value=True)],
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node, executor
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_health_is_published_every_second_while_the_clock_stands_still(graph: Any) -> None:
    node, executor = graph
    answered = iter(range(100))
    received: list[DiagnosticArray] = []
    enough = Future(executor=executor)

    def receive(message: DiagnosticArray) -> None:
        received.append(message)
        if len(received) == 2:
            enough.set_result(None)

    reporter = HealthReporter(node, lambda: replace(WELL, answered=next(answered)))
    node.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)
    executor.spin_until_future_complete(enough, timeout_sec=20)
    assert [message.status[0].name for message in received] == ['/segzero/perception: models'] * 2
    first, second = (int(message.status[2].values[1].value) for message in received)
    assert second == first + 1, 'each report is a new look'
    reporter.close()
    assert node.count_publishers('/diagnostics') == 0
