"""The node's health on `/diagnostics`, once a second."""

from __future__ import annotations

from collections.abc import Callable
import math

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

from segzero_ros.ros.health.rates import DROPPED_SHARE
from segzero_ros.ros.health.snapshot import (
    CameraHealth,
    Health,
    ModelHealth,
    ModelState,
    QueryHealth,
    TrackingHealth,
)
from segzero_ros.ros.health.status_publisher import StatusPublisher
from segzero_ros.ros.message_factory import clean_text
from segzero_ros.types import Timing

PERIOD = 1.0
# Read by clients: name of the report on the camera, and its `age` while there is no image.
CAMERA = 'camera'
NO_IMAGE = 'no image'
# How long a failed query causes a warning, seconds.
ERROR_EXPIRES = 300.0
# There is a warning for a smaller share of free GPU memory, and for a larger lag of tracking, s.
MIN_FREE_GPU_MEMORY = 0.05
MAX_LAG = 3.0


class HealthReporter:
    """Publishes the node's health once a second of real time, whatever the node's clock does.

    Args:
        node: owner of the publisher; stamps are of its clock.
        snapshot: returns the present health; called in the executor's thread, so must not block.
    """

    def __init__(self, node: Node, snapshot: Callable[[], Health]) -> None:
        self._node = node
        self._snapshot = snapshot
        self._publisher = node.create_publisher(
            DiagnosticArray,
            '/diagnostics',
            10,
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )
        self._status = StatusPublisher(node)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD, self.report, clock=clock)

    def report(self) -> None:
        """Publish the health now."""
        name = self._node.get_fully_qualified_name()
        message = DiagnosticArray(status=statuses(self._snapshot(), name))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._status.publish(message.status)

    def close(self) -> None:
        """Destroy timer and publishers."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
        self._status.close()


def statuses(health: Health, name: str) -> list[DiagnosticStatus]:
    """Return four reports: models, camera, queries and tracking.

    ERROR: the models or their server are not available; the node is active but has no image, or
        one that it cannot use.
    WARN: the newest image is old or the rate has dropped; depth has stopped or does not match the
        images, or stamps are of another clock; answers are slow, the last query failed recently,
        or the queue is full; tracking lags; the GPU is nearly out of memory.
    OK: everything else, including a node that is not active.

    Args:
        health: what to report.
        name: the node's fully qualified name.
    """
    return [
        make_status(f'{name}: models', *_models(health.models)),
        make_status(f'{name}: {CAMERA}', *_camera(health.camera)),
        make_status(f'{name}: queries', *_queries(health.queries)),
        make_status(f'{name}: tracking', *_tracking(health.tracking)),
    ]


_Report = tuple[bytes, str, dict[str, str]]


def make_status(name: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
    """Return a report about one part.

    Args:
        name: of the node and the part, such as `/segzero/perception: camera`.
        level: of DiagnosticStatus.
        message: one or two sentences.
        values: keys and values.
    """
    return DiagnosticStatus(
        name=name,
        level=level,
        message=clean_text(message),
        hardware_id='segzero_ros',
        values=[KeyValue(key=key, value=clean_text(value)) for key, value in values.items()],
    )


def _models(models: ModelHealth) -> _Report:
    values = {
        'state': models.state.value,
        'reasoner': models.reasoner,
        'segmenter': models.segmenter,
    }
    if models.process_memory:
        values['process memory'] = _size(models.process_memory)
    if models.gpu is not None:
        free = f'{_size(models.gpu.free)} of {_size(models.gpu.total)} free'
        values['GPU memory'] = f'{free} on {models.gpu.device}' if models.gpu.device else free
    if models.state is ModelState.FAILED:
        error = models.error or 'The models could not be loaded.'
        return DiagnosticStatus.ERROR, error, values
    if models.state is ModelState.READY and models.server_error:
        return DiagnosticStatus.ERROR, models.server_error, values
    if models.gpu is not None and models.gpu.free < MIN_FREE_GPU_MEMORY * models.gpu.total:
        low = f"Only {_size(models.gpu.free)} of the GPU's memory is free: "
        low += 'stop other programs on it, or use a smaller model or `quantization`.'
        return DiagnosticStatus.WARN, low, values
    if models.state is ModelState.LOADING and models.progress:
        values['progress'] = models.progress
        return DiagnosticStatus.OK, f'{models.progress}.', values
    messages = {
        ModelState.READY: f'{models.reasoner} and {models.segmenter} are ready.',
        ModelState.LOADING: f'Loading {models.reasoner} and {models.segmenter}.',
        ModelState.UNLOADED: 'No models are loaded: the node is not configured.',
    }
    return DiagnosticStatus.OK, messages[models.state], values


def _camera(camera: CameraHealth) -> _Report:
    age = camera.age_s
    values = {
        'topic': camera.topic,
        'rate': f'{camera.rate_hz:.1f} Hz',
        'age': NO_IMAGE if math.isnan(age) else f'{age:.2f} s',
        'image': f'{camera.encoding} {camera.image_size[0]}x{camera.image_size[1]}'.strip(),
        'qos': camera.qos,
    }
    if not math.isnan(camera.depth_age_s):
        values['depth age'] = f'{camera.depth_age_s:.2f} s'
    if not any(camera.image_size):
        values['image'] = 'none decoded yet'
    if not camera.active:
        return DiagnosticStatus.OK, 'Not subscribed: the node is not active.', values
    if math.isnan(age):
        missing = camera.error or f'No image received on {camera.topic}.'
        return DiagnosticStatus.ERROR, missing, values
    if camera.error:
        return DiagnosticStatus.ERROR, camera.error, values
    if camera.stale_after_s and age > camera.stale_after_s:
        old = f'The newest image on {camera.topic} is {age:.1f} s old: is the camera running?'
        return DiagnosticStatus.WARN, camera.stale_reason or old, values
    if camera.rate_hz < DROPPED_SHARE * camera.usual_rate_hz:
        dropped = (
            f'The rate on {camera.topic} dropped from {camera.usual_rate_hz:.1f} Hz to '
            f'{camera.rate_hz:.1f} Hz: is the camera running? Is the network or this '
            'machine overloaded?'
        )
        return DiagnosticStatus.WARN, dropped, values
    if camera.warning:
        return DiagnosticStatus.WARN, camera.warning, values
    return DiagnosticStatus.OK, f'{camera.rate_hz:.1f} Hz on {camera.topic}.', values


def _queries(queries: QueryHealth) -> _Report:
    values = {
        'waiting': str(queries.waiting),
        'answered': str(queries.answered),
        'failed': str(queries.failed),
        'last error': 'none',
        'standing query': queries.standing_query or 'none',
        'own queries': str(queries.own_queries),
    }
    ago = f'{queries.last_error_age_s:.0f} s ago'
    if queries.last_error:
        values['last error'] = f'{ago}: {queries.last_error}'
    summary = f'{queries.answered} answered, {queries.failed} failed, {queries.waiting} waiting'
    if queries.timing is not None:
        values |= _parts(queries.timing)
        values['95th percentile'] = f'{queries.p95_s:.2f} s'
        summary += f'; the last took {queries.timing.total:.2f} s'
    if queries.last_error and queries.last_error_age_s < ERROR_EXPIRES:
        failed = f'The last query failed {ago}: {queries.last_error}'
        return DiagnosticStatus.WARN, failed, values
    if 0 < queries.queue_size <= queries.waiting:
        full = f'The queue is full: {queries.waiting} queries are waiting, which is '
        full += 'query.queue_size. Send fewer queries, or set query.policy to `preempt`.'
        return DiagnosticStatus.WARN, full, values
    if 0 < queries.slow_after_s < queries.p95_s:
        slow = f'Slow: 95 % of the last answers took up to {queries.p95_s:.2f} s; '
        slow += (
            f'advanced.latency_warning is {queries.slow_after_s:g} s. Is the GPU or the server '
        )
        slow += 'shared?'
        return DiagnosticStatus.WARN, slow, values
    return DiagnosticStatus.OK, f'{summary}.', values


def _tracking(tracking: TrackingHealth) -> _Report:
    values = {
        'objects': str(tracking.objects),
        'rate': f'{tracking.rate_hz:.1f} Hz',
        'lag': f'{tracking.lag_s:.2f} s',
    }
    if not tracking.objects:
        return DiagnosticStatus.OK, 'No objects are tracked.', {'objects': '0'}
    summary = f'{tracking.objects} tracked at {tracking.rate_hz:.1f} Hz'
    if tracking.lag_s > MAX_LAG:
        late = f'{summary}, {tracking.lag_s:.1f} s behind the camera: the tracker is too slow.'
        return DiagnosticStatus.WARN, late, values
    return DiagnosticStatus.OK, f'{summary}.', values


def _size(memory: int) -> str:
    return f'{memory / 2**30:.1f} GiB' if memory >= 2**30 else f'{memory / 2**20:.0f} MiB'


def _parts(timing: Timing) -> dict[str, str]:
    """Return the durations of the last answer's stages."""
    parts = {
        'total': timing.total,
        'queued': timing.queued,
        'reasoning': timing.reasoning,
        'encoding': timing.encoding,
        'segmenting': timing.segmenting,
    }
    texts = {f'last {part}': f'{seconds:.2f} s' for part, seconds in parts.items()}
    return texts | {'last tokens': str(timing.generated_tokens)}
