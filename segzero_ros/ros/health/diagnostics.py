"""The node's health on /diagnostics, once a second, readable at one glance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
import math

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

from segzero_ros.gpus import GpuMemory
from segzero_ros.ros.health.rates import FELL_BELOW
from segzero_ros.ros.health.status_publisher import StatusPublisher
from segzero_ros.ros.message_factory import clean_text
from segzero_ros.types import Timing

PERIOD = 1.0
# What clients look for: the report on the camera, and its `age` while there is no image.
CAMERA = 'camera'
NO_IMAGE = 'no image'
# An image or an answer that takes longer than this is slow, in seconds, unless Health says else.
STALE_AFTER = 1.0
SLOW_AFTER = 30.0
# A failed query is warned about for so long, in seconds.
ERROR_EXPIRES = 300.0
# Warned about: a smaller share of free GPU memory, and following later than so many seconds.
LITTLE_MEMORY = 0.05
LATE = 3.0


class ModelState(str, Enum):
    """Where the models are."""

    UNLOADED = 'unloaded'
    LOADING = 'loading'
    READY = 'ready'
    FAILED = 'failed'


@dataclass(frozen=True)
class TrackingHealth:
    """How following is going.

    Attributes:
        objects: how many are followed.
        rate_hz: how many frames are followed per second.
        lag_s: seconds from the frame followed last to the camera's newest.
    """

    objects: int = 0
    rate_hz: float = 0.0
    lag_s: float = 0.0


@dataclass(frozen=True)
class Health:
    """How the node is at one moment.

    Attributes:
        active: whether it listens and answers.
        model_state: where the models are.
        reasoner: which reasoning model is loaded or wanted.
        segmenter: which segmenter is loaded or wanted.
        model_error: why the models cannot be had.
        download: how far their download is; empty while there is none.
        server_error: why the reasoning model's server cannot be reached, and the cure.
        memory: bytes that the process holds; 0 where that is not known.
        gpu: the memory of the GPU; None where none is used.
        topic: the image's topic.
        encoding: of the newest image that was decoded; empty before.
        image_size: width and height of that image.
        qos: how the topic is subscribed to, such as `reliable`.
        frame_age_s: seconds since the newest image was taken; NaN while there is none.
        depth_age_s: seconds since the newest depth image was taken; NaN while there is none.
        age_reason: why that is too old, where it is known.
        frame_rate_hz: how many images come per second.
        usual_rate_hz: how many came in the last minute, mostly; 0 where that is not known.
        camera_error: why there is no image, or why the last one could not be used.
        camera_warning: why depth gives no poses, why they may be wrong, or that stamps are.
        queue_length: how many queries wait.
        queue_size: how many may wait; 0 where none may, or all.
        answered: how many were answered OK or NOT_FOUND.
        failed: how many ended in another way.
        timing: of the last query that the models answered; None before the first.
        p95_s: the seconds that 19 of 20 of the last answers took at most, without waiting; NaN
            before the first.
        last_error: the last query's message if it failed; empty when it did not.
        last_error_age_s: how long ago that was.
        standing_query: what the node asks by itself; empty for nothing.
        asked_by_itself: how many queries the node has asked by itself.
        following: how following is going.
        stale_after_s: how old an image may be without a warning; 0 for any age.
        slow_after_s: how large `p95_s` may be without a warning; 0 for any time.
    """

    active: bool = False
    model_state: ModelState = ModelState.UNLOADED
    reasoner: str = ''
    segmenter: str = ''
    model_error: str = ''
    download: str = ''
    server_error: str = ''
    memory: int = 0
    gpu: GpuMemory | None = None
    topic: str = ''
    encoding: str = ''
    image_size: tuple[int, int] = (0, 0)
    qos: str = ''
    frame_age_s: float = math.nan
    depth_age_s: float = math.nan
    age_reason: str = ''
    frame_rate_hz: float = 0.0
    usual_rate_hz: float = 0.0
    camera_error: str = ''
    camera_warning: str = ''
    queue_length: int = 0
    queue_size: int = 0
    answered: int = 0
    failed: int = 0
    timing: Timing | None = None
    p95_s: float = math.nan
    last_error: str = ''
    last_error_age_s: float = 0.0
    standing_query: str = ''
    asked_by_itself: int = 0
    tracking: TrackingHealth = TrackingHealth()
    stale_after_s: float = STALE_AFTER
    slow_after_s: float = SLOW_AFTER


class HealthReporter:
    """Publishes the node's health once a second of real time, whatever the node's clock does.

    Args:
        node: whose health it is; stamps are of its clock.
        snapshot: returns the health now; called in the executor's thread, so it must not wait.
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
        self._status.show(message.status)

    def close(self) -> None:
        """Report no more."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
        self._status.close()


def statuses(health: Health, name: str) -> list[DiagnosticStatus]:
    """Return four reports: of the models, the camera, the queries and following.

    ERROR: the models or their server cannot be had; active, and no image comes or it cannot be
        used.
    WARN: the newest image is old, or far fewer come than usual; depth has stopped or does not fit
        the images, or stamps are of another clock; answers are slow, the last one was an error not
        long ago, or no further query may wait; following lags; the GPU's memory is nearly used up.
    OK: everything else, also a node that is not active because nobody asked it to be.
    """
    return [
        make_status(f'{name}: models', *_models(health)),
        make_status(f'{name}: {CAMERA}', *_camera(health)),
        make_status(f'{name}: queries', *_queries(health)),
        make_status(f'{name}: following', *_tracking(health.tracking)),
    ]


_Report = tuple[bytes, str, dict[str, str]]


def make_status(name: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
    """Return a report of one part."""
    return DiagnosticStatus(
        name=name,
        level=level,
        message=clean_text(message),
        hardware_id='segzero_ros',
        values=[KeyValue(key=key, value=clean_text(value)) for key, value in values.items()],
    )


def _models(health: Health) -> _Report:
    values = {
        'state': health.model_state.value,
        'reasoner': health.reasoner,
        'segmenter': health.segmenter,
    }
    if health.memory:
        values['process memory'] = _size(health.memory)
    if health.gpu is not None:
        free = f'{_size(health.gpu.free)} of {_size(health.gpu.total)} free'
        values['GPU memory'] = f'{free} on {health.gpu.device}' if health.gpu.device else free
    if health.model_state is ModelState.FAILED:
        error = health.model_error or 'The models could not be loaded.'
        return DiagnosticStatus.ERROR, error, values
    if health.model_state is ModelState.READY and health.server_error:
        return DiagnosticStatus.ERROR, health.server_error, values
    if health.gpu is not None and health.gpu.free < LITTLE_MEMORY * health.gpu.total:
        few = f"Only {_size(health.gpu.free)} of the GPU's memory are free: "
        few += 'end other programs on it, or take a smaller model or `quantization`.'
        return DiagnosticStatus.WARN, few, values
    if health.model_state is ModelState.LOADING and health.download:
        values['download'] = health.download
        return DiagnosticStatus.OK, f'{health.download}.', values
    said = {
        ModelState.READY: f'{health.reasoner} and {health.segmenter} are ready.',
        ModelState.LOADING: f'Loading {health.reasoner} and {health.segmenter}.',
        ModelState.UNLOADED: 'No models are loaded: the node is not configured.',
    }
    return DiagnosticStatus.OK, said[health.model_state], values


def _camera(health: Health) -> _Report:
    age = health.frame_age_s
    values = {
        'topic': health.topic,
        'rate': f'{health.frame_rate_hz:.1f} Hz',
        'age': NO_IMAGE if math.isnan(age) else f'{age:.2f} s',
        'image': f'{health.encoding} {health.image_size[0]}x{health.image_size[1]}'.strip(),
        'qos': health.qos,
    }
    if not math.isnan(health.depth_age_s):
        values['depth age'] = f'{health.depth_age_s:.2f} s'
    if not any(health.image_size):
        values['image'] = 'none decoded yet'
    if not health.active:
        return DiagnosticStatus.OK, 'Not listening: the node is not active.', values
    if math.isnan(age):
        missing = health.camera_error or f'No image has come on {health.topic}.'
        return DiagnosticStatus.ERROR, missing, values
    if health.camera_error:
        return DiagnosticStatus.ERROR, health.camera_error, values
    if health.stale_after_s and age > health.stale_after_s:
        old = f'The newest image on {health.topic} is {age:.1f} s old: is the camera running?'
        return DiagnosticStatus.WARN, health.age_reason or old, values
    if health.frame_rate_hz < FELL_BELOW * health.usual_rate_hz:
        fell = (
            f'{health.frame_rate_hz:.1f} Hz on {health.topic}, where {health.usual_rate_hz:.1f} '
            'Hz were usual: is the camera running? Is the network or this machine overloaded?'
        )
        return DiagnosticStatus.WARN, fell, values
    if health.camera_warning:
        return DiagnosticStatus.WARN, health.camera_warning, values
    return DiagnosticStatus.OK, f'{health.frame_rate_hz:.1f} Hz on {health.topic}.', values


def _queries(health: Health) -> _Report:
    values = {
        'waiting': str(health.queue_length),
        'answered': str(health.answered),
        'failed': str(health.failed),
        'last error': 'none',
        'standing query': health.standing_query or 'none',
        'asked by itself': str(health.asked_by_itself),
    }
    ago = f'{health.last_error_age_s:.0f} s ago'
    if health.last_error:
        values['last error'] = f'{ago}: {health.last_error}'
    summary = f'{health.answered} answered, {health.failed} failed, {health.queue_length} waiting'
    if health.timing is not None:
        values |= _parts(health.timing)
        values['19 of 20 within'] = f'{health.p95_s:.2f} s'
        summary += f'; the last took {health.timing.total:.2f} s'
    if health.last_error and health.last_error_age_s < ERROR_EXPIRES:
        failed = f'The last query failed {ago}: {health.last_error}'
        return DiagnosticStatus.WARN, failed, values
    if 0 < health.queue_size <= health.queue_length:
        full = (
            f'No further query may wait behind {health.queue_length}, query.queue_size: ask less '
        )
        full += 'often, or set query.policy to `preempt`.'
        return DiagnosticStatus.WARN, full, values
    if 0 < health.slow_after_s < health.p95_s:
        slow = f'Slow: the last answers took up to {health.p95_s:.2f} s, more than '
        slow += (
            f'limits.latency_warning, {health.slow_after_s:g} s: do others use its GPU or server?'
        )
        return DiagnosticStatus.WARN, slow, values
    return DiagnosticStatus.OK, f'{summary}.', values


def _tracking(tracking: TrackingHealth) -> _Report:
    values = {
        'objects': str(tracking.objects),
        'rate': f'{tracking.rate_hz:.1f} Hz',
        'lag': f'{tracking.lag_s:.2f} s',
    }
    if not tracking.objects:
        return DiagnosticStatus.OK, 'Nothing is followed.', {'objects': '0'}
    said = f'{tracking.objects} followed at {tracking.rate_hz:.1f} Hz'
    if tracking.lag_s > LATE:
        late = f'{said}, {tracking.lag_s:.1f} s behind the camera: the tracker is too slow.'
        return DiagnosticStatus.WARN, late, values
    return DiagnosticStatus.OK, f'{said}.', values


def _size(memory: int) -> str:
    return f'{memory / 2**30:.1f} GiB' if memory >= 2**30 else f'{memory / 2**20:.0f} MiB'


def _parts(timing: Timing) -> dict[str, str]:
    """Return where the last answer's time went."""
    parts = {
        'total': timing.total,
        'queued': timing.queued,
        'reasoning': timing.reasoning,
        'encoding': timing.encoding,
        'segmenting': timing.segmenting,
    }
    said = {f'last {part}': f'{seconds:.2f} s' for part, seconds in parts.items()}
    return said | {'last tokens': str(timing.generated_tokens)}
