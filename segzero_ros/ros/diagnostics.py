"""The node's health on /diagnostics, once a second, readable at one glance.

Imports rclpy, diagnostic_msgs and `types`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
import math

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

from segzero_ros.ros.messages import clean_text
from segzero_ros.types import Timing

PERIOD = 1.0
# An image or an answer that takes longer than this is slow, in seconds, unless Health says else.
STALE_AFTER = 1.0
SLOW_AFTER = 30.0


class ModelState(str, Enum):
    """Where the models are."""

    UNLOADED = 'unloaded'
    LOADING = 'loading'
    READY = 'ready'
    FAILED = 'failed'


@dataclass(frozen=True)
class Health:
    """How the node is at one moment.

    Attributes:
        active: whether it listens and answers.
        model_state: where the models are.
        reasoner: which reasoning model is loaded or wanted.
        segmenter: which segmenter is loaded or wanted.
        model_error: why the models cannot be had.
        topic: the image's topic.
        encoding: of the newest image that was decoded; empty before.
        image_size: width and height of that image.
        qos: how the topic is subscribed to, such as `reliable`.
        frame_age_s: seconds since the newest image was taken; NaN while there is none.
        frame_rate_hz: how many images come per second.
        camera_error: why there is no image, or why the last one could not be used.
        queue_length: how many queries wait.
        answered: how many were answered OK or NOT_FOUND.
        failed: how many ended in another way.
        timing: of the last query that the models answered; None before the first.
        last_error: the last query's message if it failed; empty when it did not.
        stale_after_s: how old an image may be without a warning; 0 for any age.
        slow_after_s: how long an answer may take without a warning; 0 for any time.
    """

    active: bool = False
    model_state: ModelState = ModelState.UNLOADED
    reasoner: str = ''
    segmenter: str = ''
    model_error: str = ''
    topic: str = ''
    encoding: str = ''
    image_size: tuple[int, int] = (0, 0)
    qos: str = ''
    frame_age_s: float = math.nan
    frame_rate_hz: float = 0.0
    camera_error: str = ''
    queue_length: int = 0
    answered: int = 0
    failed: int = 0
    timing: Timing | None = None
    last_error: str = ''
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
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD, self.report, clock=clock)

    def report(self) -> None:
        """Publish the health now."""
        name = self._node.get_fully_qualified_name()
        message = DiagnosticArray(status=statuses(self._snapshot(), name))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def close(self) -> None:
        """Report no more."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)


def statuses(health: Health, name: str) -> list[DiagnosticStatus]:
    """Return three reports: of the models, the camera and the queries.

    ERROR: the models cannot be had; active, and no image comes or it cannot be used.
    WARN: the newest image is old; the last answer was slow, or an error.
    OK: everything else, also a node that is not active because nobody asked it to be.
    """
    return [
        make_status(f'{name}: models', *_models(health)),
        make_status(f'{name}: camera', *_camera(health)),
        make_status(f'{name}: queries', *_queries(health)),
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
    if health.model_state is ModelState.FAILED:
        error = health.model_error or 'The models could not be loaded.'
        return DiagnosticStatus.ERROR, error, values
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
        'age': 'no image' if math.isnan(age) else f'{age:.2f} s',
        'image': f'{health.encoding} {health.image_size[0]}x{health.image_size[1]}'.strip(),
        'qos': health.qos,
    }
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
        old = f'The newest image on {health.topic} is {age:.1f} s old.'
        return DiagnosticStatus.WARN, old, values
    return DiagnosticStatus.OK, f'{health.frame_rate_hz:.1f} Hz on {health.topic}.', values


def _queries(health: Health) -> _Report:
    values = {
        'waiting': str(health.queue_length),
        'answered': str(health.answered),
        'failed': str(health.failed),
        'last error': health.last_error or 'none',
    }
    summary = f'{health.answered} answered, {health.failed} failed, {health.queue_length} waiting'
    if health.timing is None:
        slow = False
    else:
        values |= _parts(health.timing)
        slow = 0 < health.slow_after_s < health.timing.total
        summary += f'; the last took {health.timing.total:.2f} s'
    if health.last_error:
        return DiagnosticStatus.WARN, f'The last query failed: {health.last_error}', values
    if slow:
        summary = f'Slow: {summary}, more than {health.slow_after_s:g} s'
    return DiagnosticStatus.WARN if slow else DiagnosticStatus.OK, f'{summary}.', values


def _parts(timing: Timing) -> dict[str, str]:
    """Return where the last answer's time went."""
    parts = {
        'total': timing.total,
        'queued': timing.queued,
        'reasoning': timing.reasoning,
        'encoding (beside it)': timing.encoding,
        'segmenting': timing.segmenting,
    }
    said = {f'last {part}': f'{seconds:.2f} s' for part, seconds in parts.items()}
    return said | {'last tokens': str(timing.generated_tokens)}
