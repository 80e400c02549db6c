"""The reports on /diagnostics say what is wrong, at the level that it deserves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
import math
import threading
import time
from typing import Any

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.task import Future
from scripted_server import free_port, running

from segzero_ros.gpus import GpuMemory
from segzero_ros.reasoning.server_address import NO_KEY
from segzero_ros.ros.health.diagnostics import HealthReporter, statuses
from segzero_ros.ros.health.rates import MedianRate, percentile, Rate
from segzero_ros.ros.health.server_monitor import ServerMonitor
from segzero_ros.ros.health.snapshot import (
    CameraHealth,
    Health,
    ModelHealth,
    ModelState,
    QueryHealth,
    TrackingHealth,
)
from segzero_ros.ros.health.status_publisher import one_line
from segzero_ros.types import Timing

WELL = Health(
    ModelHealth(
        ModelState.READY, 'VisionReasoner-7B', 'sam2-hiera-large', process_memory=3 * 2**30
    ),
    CameraHealth(
        '/camera/image_raw',
        active=True,
        encoding='bgr8',
        image_size=(640, 480),
        qos='reliable',
        age_s=0.034,
        rate_hz=29.97,
    ),
    QueryHealth(
        waiting=2,
        answered=14,
        failed=1,
        timing=Timing(0.5, 1.25, 0.25, 0.125, 2.0, 0.05, 117),
        p95_s=1.5,
    ),
)
UNBORN = Health(ModelHealth(reasoner='transformers', segmenter='sam2'))


def with_part(health: Health, part: str, **changes: Any) -> Health:
    """Return the health with some fields of a part changed."""
    return replace(health, **{part: replace(getattr(health, part), **changes)})


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
        (OK, 'Not subscribed: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'loading': (
        with_part(UNBORN, 'models', state=ModelState.LOADING),
        (OK, 'Loading transformers and sam2.'),
        (OK, 'Not subscribed: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'the models failed': (
        with_part(UNBORN, 'models', state=ModelState.FAILED, error='There is no GPU.'),
        (ERROR, 'There is no GPU.'),
        (OK, 'Not subscribed: the node is not active.'),
        (OK, '0 answered, 0 failed, 0 waiting.'),
    ),
    'active without a camera': (
        with_part(WELL, 'camera', age_s=math.nan, error='Nobody publishes /camera/image_raw.'),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, 'Nobody publishes /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'active and no image yet': (
        with_part(WELL, 'camera', age_s=math.nan),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, 'No image received on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the image cannot be used': (
        with_part(WELL, 'camera', error="The encoding 'rgb9' is not known."),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (ERROR, "The encoding 'rgb9' is not known."),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the camera stopped': (
        with_part(WELL, 'camera', age_s=7.0, stale_after_s=5.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (WARN, 'The newest image on /camera/image_raw is 7.0 s old: is the camera running?'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the stamps are of another clock': (
        with_part(WELL, 'camera', age_s=9.0, stale_after_s=5.0, stale_reason='Two clocks differ.'),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (WARN, 'Two clocks differ.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'depth has stopped': (
        with_part(WELL, 'camera', warning='There are no poses: depth has stopped.'),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (WARN, 'There are no poses: depth has stopped.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'any age is fine': (
        with_part(WELL, 'camera', age_s=7.0, stale_after_s=0.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'slow': (
        with_part(WELL, 'queries', slow_after_s=1.2),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (
            WARN,
            'Slow: 95 % of the last answers took up to 1.50 s; advanced.latency_warning is 1.2 s. '
            'Is the GPU or the server shared?',
        ),
    ),
    'any time is fine': (
        with_part(WELL, 'queries', slow_after_s=0.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the last query failed': (
        with_part(WELL, 'queries', last_error='The server\0is gone.', last_error_age_s=12.3),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (WARN, 'The last query failed 12 s ago: The server\ufffdis gone.'),
    ),
    'a query failed long ago': (
        with_part(WELL, 'queries', last_error='The server is gone.', last_error_age_s=301.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the queue is full': (
        with_part(WELL, 'queries', queue_size=2),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (
            WARN,
            'The queue is full: 2 queries are waiting, which is query.queue_size. Send fewer '
            'queries, or set query.policy to `preempt`.',
        ),
    ),
    'far fewer images than usual': (
        with_part(WELL, 'camera', rate_hz=9.0, usual_rate_hz=30.0),
        (OK, 'VisionReasoner-7B and sam2-hiera-large are ready.'),
        (
            WARN,
            'The rate on /camera/image_raw dropped from 30.0 Hz to 9.0 Hz: is the camera running? '
            'Is the network or this machine overloaded?',
        ),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'the server is gone': (
        with_part(WELL, 'models', server_error='No server answers.'),
        (ERROR, 'No server answers.'),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
    'little memory': (
        with_part(WELL, 'models', gpu=GpuMemory(2**29, 24 * 2**30)),
        (
            WARN,
            "Only 512 MiB of the GPU's memory is free: stop other programs on it, or use a "
            'smaller model or `quantization`.',
        ),
        (OK, '30.0 Hz on /camera/image_raw.'),
        (OK, '14 answered, 1 failed, 2 waiting; the last took 2.00 s.'),
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_level_and_message_of_each_report(name: str) -> None:
    health, *expected = CASES[name]
    *reports, tracking = statuses(health, '/segzero/perception')
    assert (tracking.name, tracking.level) == ('/segzero/perception: tracking', OK)
    assert [(report.level, report.message) for report in reports] == expected
    assert [report.name for report in reports] == [
        '/segzero/perception: models',
        '/segzero/perception: camera',
        '/segzero/perception: queries',
    ]


def test_values_of_each_report() -> None:
    models, camera, queries, _ = (
        {value.key: value.value for value in report.values} for report in statuses(WELL, '/n')
    )
    assert models == {
        'state': 'ready',
        'reasoner': 'VisionReasoner-7B',
        'segmenter': 'sam2-hiera-large',
        'process memory': '3.0 GiB',
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
        'standing query': 'none',
        'own queries': '0',
        '95th percentile': '1.50 s',
        'last total': '2.00 s',
        'last queued': '0.50 s',
        'last reasoning': '1.25 s',
        'last encoding': '0.25 s',
        'last segmenting': '0.12 s',
        'last tokens': '117',
    }


def test_what_is_not_known_is_said_to_be() -> None:
    _, camera, queries, _ = statuses(UNBORN, '/n')
    values = {value.key: value.value for value in camera.values}
    assert (values['age'], values['image']) == ('no image', 'none decoded yet')
    assert not [value for value in queries.values if value.key.startswith('last ')][1:]


@pytest.mark.parametrize(
    ('tracking', 'level', 'message'),
    [
        (TrackingHealth(), OK, 'No objects are tracked.'),
        (TrackingHealth(2, 15.2, 0.1), OK, '2 tracked at 15.2 Hz.'),
        (
            TrackingHealth(2, 1.0, 3.5),
            WARN,
            '2 tracked at 1.0 Hz, 3.5 s behind the camera: the tracker is too slow.',
        ),
    ],
)
def test_tracking_reports_its_rate_and_warns_of_lag(tracking, level, message) -> None:
    report = statuses(replace(WELL, tracking=tracking), '/n')[3]
    assert (report.level, report.message) == (level, message)


def test_one_line_says_all_is_well_within_what_echo_shows() -> None:
    line = one_line(statuses(WELL, '/segzero/perception'))
    assert line == (
        'OK | 30.0 Hz on /camera/image_raw. | '
        '14 answered, 1 failed, 2 waiting; the last took 2.00 s. | No objects are tracked. | '
        'VisionReasoner-7B and sam2-hiera-large are ready.'
    )
    assert line.index('VisionReasoner') < 128


@pytest.mark.parametrize(
    'line',
    [
        'Downloading Ricky06662/VisionReasoner-7B: 34% of 16.6 GB, 12 min left',
        'Loading the models: reading the weights of Ricky06662/VisionReasoner-7B (16.6 GB), '
        'for 83 s',
    ],
)
def test_one_line_begins_with_a_download_or_a_step_of_loading_that_goes_on(line: str) -> None:
    fetching = with_part(UNBORN, 'models', state=ModelState.LOADING, progress=line)
    reports = statuses(fetching, '/segzero/perception')
    assert (reports[0].level, reports[0].message) == (OK, f'{line}.')
    assert {each.key: each.value for each in reports[0].values}['progress'] == line
    assert one_line(reports).startswith(f'OK | {line}. | Not subscribed')
    assert len(f'OK | {line}') < 128


def test_memory_is_that_of_the_gpu_in_use() -> None:
    health = with_part(WELL, 'models', gpu=GpuMemory(2**33, 24 * 2**30, 'cuda:1'))
    values = {each.key: each.value for each in statuses(health, '/segzero/perception')[0].values}
    assert values['GPU memory'] == '8.0 GiB of 24.0 GiB free on cuda:1'


def test_one_line_says_only_what_is_wrong_the_worst_first() -> None:
    failed = with_part(WELL, 'queries', last_error='No.', last_error_age_s=3.0)
    ill = with_part(failed, 'camera', age_s=math.nan)
    assert one_line(statuses(ill, '/segzero/perception')) == (
        'ERROR | camera: No image received on /camera/image_raw. | '
        'queries: The last query failed 3 s ago: No.'
    )


def test_a_usual_rate_is_what_was_seen_most_and_takes_its_time() -> None:
    usual = MedianRate()
    assert [usual.update(30.0) for _ in range(9)] == [0.0] * 9
    assert usual.update(30.0) == 30.0
    assert usual.update(10.0) == 30.0
    # A camera that stands still is never usual.
    assert {usual.update(0.0) for _ in range(100)} == {30.0}
    assert [usual.update(10.0) for _ in range(60)][-1] == 10.0
    usual.reset()
    assert usual.update(10.0) == 0.0


def test_percentile_and_rate() -> None:
    assert percentile([*range(1, 21)], 0.95) == 19
    assert percentile([3.0], 0.95) == 3.0
    assert math.isnan(percentile([], 0.95))
    rate = Rate()
    assert rate.per_second() == 0.0
    rate.tick()
    rate.tick()
    assert rate.per_second() > 0


def test_a_server_that_goes_and_comes_back_is_noticed() -> None:
    port = free_port()
    watch = ServerMonitor(period=0.02)
    wait = threading.Event().wait

    def until(there: bool) -> None:
        end = time.monotonic() + 20
        while bool(watch.error) is there:
            assert time.monotonic() < end, watch.error
            wait(0.01)

    watch.watch(f'http://somebody:secret@127.0.0.1:{port}/v1')
    until(there=False)
    assert f'No server answers at http://127.0.0.1:{port}/v1 (' in watch.error
    assert 'secret' not in watch.error
    with running(port) as server:
        until(there=True)
        _, headers, _ = server.seen[-1]
        # Neither the address's password nor a key: what the client says without one.
        assert headers['Authorization'] == f'Bearer {NO_KEY}'
        # A server that wants a key is there; a proxy without a server behind it is not.
        server.listing = lambda request: request.reply(503, {})
        until(there=False)
        assert 'status 503' in watch.error
        server.listing = lambda request: request.reply(401, {})
        until(there=True)
    until(there=False)
    watch.watch('')
    assert watch.error == ''


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

    reporter = HealthReporter(node, lambda: with_part(WELL, 'queries', answered=next(answered)))
    node.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)
    executor.spin_until_future_complete(enough, timeout_sec=20)
    assert [message.status[0].name for message in received] == ['/segzero/perception: models'] * 2
    first, second = (int(message.status[2].values[1].value) for message in received)
    assert second == first + 1, 'each report is a new look'
    reporter.close()
    assert node.count_publishers('/diagnostics') == 0
