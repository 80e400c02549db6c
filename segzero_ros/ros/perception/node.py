"""The node `perception`: a camera image and a sentence go in, what they mean comes out.

Puts the parts of this room together, carries out lifecycle transitions and parameter changes, and
reports its health. Start it with `ros2 run segzero_ros perception_node`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
import gc
import logging
import math
import sys
import threading
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from segzero_ros import hub
from segzero_ros.config import ParameterError
from segzero_ros.gpus import gpu_memory
from segzero_ros.loading import (
    load_pipeline,
    load_tracker,
    ReasonerOptions,
    SegmenterOptions,
)
from segzero_ros.pipeline import describe_error, Pipeline
from segzero_ros.rgbd.message_buffer import JUMP_NS
from segzero_ros.ros import log_bridge
from segzero_ros.ros.camera.qos_matching import LOOK_PERIOD
from segzero_ros.ros.camera.rgbd_subscriber import RgbdSubscriber
from segzero_ros.ros.health.diagnostics import Health, HealthReporter, ModelState, TrackingHealth
from segzero_ros.ros.health.process_memory import (
    freeze_long_lived_objects,
    map_large_blocks,
    process_memory,
    trim_memory,
)
from segzero_ros.ros.health.rates import percentile, UsualRate
from segzero_ros.ros.health.server_monitor import ServerMonitor
from segzero_ros.ros.health.watchdog import overdue
from segzero_ros.ros.lifecycle import AsyncLifecycleNode
from segzero_ros.ros.parameters import (
    as_declared,
    declare,
    fixed,
    reasoner_options,
    refusal,
    segmenter_options,
)
from segzero_ros.ros.perception.query_interfaces import (
    PendingReplies,
    QuerySubscription,
    SegmentActionServer,
    SegmentOnceService,
)
from segzero_ros.ros.perception.query_queue import QueryPolicy, QueryQueue
from segzero_ros.ros.perception.query_server import QueryServer, SUCCESSES
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.ros.perception.standing_query import PERIOD, StandingQuery
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.ros.process import leave, spin, spin_while, StopSignals
from segzero_ros.ros.voice.parameters import NAMES as VOICE_PARAMETERS
from segzero_ros.types import ReasonerUnavailable, SegmenterUnavailable, SegZeroError, Status

Load = Callable[[ReasonerOptions, SegmenterOptions], Pipeline]

# How long the process waits, once told to end: for the models to notice, then for replies to leave
# and memory to be freed. Together well below the two seconds after which users lose patience.
GRACE = 0.8
LAST_REPLIES = 0.3
LAST_WORDS = 0.1
# Seconds between times at which freed memory goes back to the system.
TIDY_PERIOD = 30.0
LOADING, FREEING = 'loading the models', 'freeing the models'
RELOADING = (
    'The models came to no end and are being loaded anew; ask again when the node is active.'
)
REMOTE = 'the profile `remote` (a reasoning model behind an OpenAI-compatible server) and '
OFFLINE = (
    'the profile `offline` (no weights, no GPU): profile:=offline with ros2 launch, or '
    '--params-file <share of segzero_ros>/config/offline.yaml.'
)
_logger = logging.getLogger(__name__)


class NotConfigured(SegZeroError):
    """There are no models; the text says what is missing and what to do."""


def less_demanding(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> str:
    """Name the profiles that need less than these models; empty when none does."""
    if reasoner.backend == 'attributes' and segmenter.backend == 'grabcut':
        return ''
    return f'What needs less: {REMOTE if reasoner.backend == "transformers" else ""}{OFFLINE}'


class PerceptionNode(AsyncLifecycleNode):
    """Answers queries about the newest camera frame.

    Args:
        load: makes the pipeline when the node is configured.
        arguments: the process's, to warn of params files that are about other nodes.
        options: as rclpy's Node takes them.

    Raises:
        ParameterError: a parameter was given a value that it cannot have.
    """

    def __init__(
        self, load: Load = load_pipeline, *, arguments: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__('perception', **options)
        self._log = log_bridge.connect(self.get_logger())
        for warning in declare(self, arguments=arguments, others=VOICE_PARAMETERS):
            _logger.warning(warning)
        self._load = load
        self._last_error = ''
        self._worker = Worker()
        self._queue = QueryQueue(closed=self._refusal())
        self._query_server = QueryServer(
            self._queue, self._worker, ResultPublishers(self), self.get_clock()
        )
        self._server_watch = ServerMonitor()
        self._usual_rate = UsualRate()
        self._standing_query = StandingQuery(self._query_server, self._worker, self.get_clock())
        self._apply([])
        self._replies = PendingReplies(self)
        QuerySubscription(self, self._query_server)
        SegmentOnceService(self, self._query_server, self._replies)
        self._action = SegmentActionServer(self, self._query_server, self._replies)
        self.add_pre_set_parameters_callback(as_declared)
        self.add_on_set_parameters_callback(self._check)
        self.add_post_set_parameters_callback(self._apply)
        # Wall time: a paused simulator must not keep the node from finding its camera.
        self._look = self.create_timer(
            LOOK_PERIOD, self._look_around, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._tidy = self.create_timer(
            TIDY_PERIOD, trim_memory, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._repeat = self.create_timer(
            PERIOD, self._standing_query.look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._health_reporter = HealthReporter(self, self._health)
        # A /clock that jitters, as several publishers make it do, is none that starts again.
        self._jump = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-JUMP_NS), on_clock_change=True
            ),
            post_callback=self._clock_jumped,
        )

    def start(self) -> None:
        """Configure and activate if the parameter `autostart` says so; the executor does it."""
        if self._value('autostart'):
            self.executor.create_task(self._autostart())

    def finish(self, executor: SingleThreadedExecutor) -> None:
        """Answer what is open, free the models and leave the graph, in bounded time.

        A model that does not stop in time is left behind in its thread.
        """
        reason = 'The node was shut down.'
        self._query_server.tracking.enabled = False
        self._queue.close(reason)
        spin_while(executor, lambda: bool(self._query_server.open), GRACE)
        for pending in self._query_server.open:
            pending.refuse(Status.CANCELED, reason)
        spin_while(executor, lambda: bool(self._replies.awaited), LAST_REPLIES)
        # rclpy sends a goal's result in one more callback, which nothing tells us about.
        spin_while(executor, lambda: True, LAST_WORDS)
        self._worker.do(self._free, FREEING)
        self._worker.stop()
        if not self._worker.join(LAST_REPLIES):
            doing, where = self._worker.doing, self._worker.where()
            _logger.warning('The process ends in the middle of %s, at\n%s', doing, where)
        self._action.close()
        log_bridge.disconnect(self._log)
        self.destroy_node()

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, as rclpy's; what is fixed at the start is refused with what to do."""
        reason = fixed(parameter_list)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        return super().set_parameters_atomically(parameter_list)

    # Transitions

    async def configure(self) -> None:
        """Load the models, in the worker's thread."""
        self._queue.close('The models are being loaded; ask again when the node is active.')
        reasoner, segmenter = reasoner_options(self), segmenter_options(self)
        _logger.info('Loading %s and %s', reasoner.backend, segmenter.backend)
        try:
            pipeline = await self._in_worker(lambda: self._loaded(reasoner, segmenter), LOADING)
        except (ReasonerUnavailable, SegmenterUnavailable) as error:
            self._fail(f'{error} {less_demanding(reasoner, segmenter)}'.rstrip())
            raise NotConfigured(self._last_error) from error
        except Exception as error:
            self._fail(f'{type(error).__name__}: {error}')
            raise
        self._last_error = ''
        self._query_server.pipeline = pipeline
        self._query_server.tracking.make_tracker = lambda: load_tracker(
            segmenter, pipeline.segmenter
        )
        self._server_watch.watch(reasoner.base_url if reasoner.backend == 'openai' else '')
        self._queue.close(self._refusal('inactive'))

    async def activate(self) -> None:
        """Listen to the camera and take in queries."""
        pipeline = self._query_server.pipeline
        if pipeline is None:
            # Between leaving models behind and loading others.
            raise NotConfigured(RELOADING)
        self._query_server.camera = camera = RgbdSubscriber(
            self, self._value('camera.max_depth_offset'), self._value('camera.max_pixels')
        )
        self._queue.open()
        _logger.info(
            'Active: %s and %s answer queries about %s',
            pipeline.reasoner.name,
            pipeline.segmenter.name,
            camera.topic,
        )

    async def deactivate(self) -> None:
        """Stop the models, answer what is under way, and listen no more."""
        self._queue.close(self._refusal('inactive'), 'The node was deactivated.')
        camera, self._query_server.camera = self._query_server.camera, None
        if camera is not None:
            camera.close()
        self._usual_rate.forget()
        # Done when the worker has come to the end of what it was doing.
        await self._in_worker(lambda: None, 'coming to rest')

    async def cleanup(self) -> None:
        """Free the models."""
        self._queue.close(self._refusal('unconfigured'))
        self._server_watch.watch('')
        await self._in_worker(self._free, FREEING)

    async def shutdown(self) -> None:
        """Stop and free everything."""
        await self.deactivate()
        await self.cleanup()
        self._queue.close('The node was shut down; start it anew.')

    async def recover(self) -> None:
        """Stop and free everything, after a failure to do so."""
        await self.shutdown()
        self._queue.close(self._refusal('unconfigured'))

    async def _autostart(self) -> None:
        if await self.change_state(Transition.TRANSITION_CONFIGURE):
            await self.change_state(Transition.TRANSITION_ACTIVATE)

    def _loaded(self, reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Pipeline:
        """Load both models; in the worker's thread."""
        pipeline = self._load(reasoner, segmenter)
        freeze_long_lived_objects()
        return pipeline

    def _free(self) -> None:
        """Close the pipeline; in the worker's thread."""
        # A closed model's cycles are freed, too.
        gc.unfreeze()
        # Taken first: should this be left behind, it has no business with what comes after.
        tracking = self._query_server.tracking
        pipeline, self._query_server.pipeline = self._query_server.pipeline, None
        tracking.end()
        if pipeline is not None:
            pipeline.close()

    def _in_worker(self, job: Callable[[], Any], what: str) -> Future:
        """Do a job in the worker's thread; return the future of what it returns or raises.

        Of a job that is left behind it is None.
        """
        future = Future()
        # A job may end at the moment in which it is left behind: the first of the two counts.
        open_end = threading.Lock()

        def settle(end: Callable[[], None]) -> None:
            if open_end.acquire(blocking=False):
                end()

        def run() -> None:
            try:
                end = partial(future.set_result, job())
            except Exception as error:
                end = partial(future.set_exception, error)
            except BaseException as error:
                # A library that calls sys.exit() must not end the executor that awaits this.
                end = partial(future.set_exception, RuntimeError(describe_error(error)))
            settle(end)
            if self.executor is not None:
                self.executor.wake()

        self._worker.do(run, what, lambda: settle(partial(future.set_result, None)))
        return future

    def _fail(self, error: str) -> None:
        self._last_error = error
        self._queue.close(self._refusal())

    def _refusal(self, state: str = 'unconfigured') -> str:
        """Say why a node in this state answers nothing, and what to do."""
        steps = ['configure', 'activate'] if state == 'unconfigured' else ['activate']
        name = self.get_fully_qualified_name()
        commands = '; '.join(f'ros2 lifecycle set {name} {step}' for step in steps)
        cause = f' {self._last_error}' if self._last_error else ''
        return f'The node is {state}, so nothing is answered.{cause} To change that: {commands}'

    # Parameters, clock and graph

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = refusal(parameters, self.state)
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply(self, _: list[Parameter]) -> None:
        """Hand the parameters that take effect at once to those whom they concern."""
        self._queue.policy = QueryPolicy(self._value('query.policy'))
        self._queue.queue_size = self._value('query.queue_size')
        self._query_server.max_image_age = self._value('camera.max_image_age')
        self._query_server.max_pixels = self._value('camera.max_pixels')
        self._query_server.tracking.enabled = self._value('track')
        self._standing_query.set(
            self._value('standing_query.text'),
            self._value('standing_query.period'),
            self._value('standing_query.on_change'),
            reask_when_lost=self._value('tracking.reask_when_lost'),
        )
        if self._query_server.camera is not None:
            self._query_server.camera.max_pixels = self._value('camera.max_pixels')
            self._query_server.camera.set_max_offset(self._value('camera.max_depth_offset'))

    def _look_around(self) -> None:
        download = hub.progress()
        if download is not None and self.state == 'configuring':
            self._queue.close(f'{download}. Ask again when the node is active.')
        if self._query_server.camera is not None:
            self._query_server.camera.look()
        self._watch_models()

    def _watch_models(self) -> None:
        """Leave models behind that do not come to an end, and have others loaded."""
        pending = self._queue.current
        limits = self._value('limits.answer_time'), self._value('limits.watchdog_timeout')
        found = overdue(pending, time.monotonic(), *limits)
        if pending is not None and found is not None:
            words = '%s They are left behind, and others are loaded. They are at\n%s'
            _logger.error(words, found.message, self._worker.where())
            self._queue.close(RELOADING, RELOADING)
            self._query_server.abandon(pending, *found)
        elif pending is None:
            self._watch_worker(self._value('limits.watchdog_timeout'))
        forsaken = self.state in ('active', 'inactive') and self._query_server.pipeline is None
        if forsaken and not self.changing:
            self.executor.create_task(self._load_anew())

    def _watch_worker(self, patience: float) -> None:
        """Leave behind what the worker does beside queries, once it is silent for too long.

        Loading may take its time.
        """
        silence = self._worker.silence()
        if not patience or silence <= patience or self._worker.doing == LOADING:
            return
        words = (
            'No sign of life from %s for %.0f s. It is left behind with the models. It is at\n%s'
        )
        _logger.error(words, self._worker.doing, silence, self._worker.where())
        if self._worker.doing != FREEING:
            self._queue.close(RELOADING, RELOADING)
        self._query_server.go_on_without_models()

    async def _load_anew(self) -> None:
        steps = [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
        if self.state == 'active':
            steps = [Transition.TRANSITION_DEACTIVATE, *steps, Transition.TRANSITION_ACTIVATE]
        for step in steps:
            if not await self.change_state(step):
                return

    def _health(self) -> Health:
        """Say how the node is, for /diagnostics."""
        query_server, camera = self._query_server, self._query_server.camera
        pipeline, tracking = query_server.pipeline, query_server.tracking
        rate = camera.store.rate() if camera else 0.0
        queues = self._queue.policy is QueryPolicy.QUEUE
        answered = sum(query_server.counts[status] for status in SUCCESSES)
        return Health(
            active=camera is not None,
            model_state=self._model_state(),
            reasoner=pipeline.reasoner.name if pipeline else self._value('reasoner.backend'),
            segmenter=pipeline.segmenter.name if pipeline else self._value('segmenter.backend'),
            model_error=self._last_error,
            download=str(hub.progress() or ''),
            server_error=self._server_watch.error,
            memory=process_memory(),
            gpu=gpu_memory(),
            topic=self.resolve_topic_name('image'),
            encoding=camera.encoding if camera else '',
            image_size=camera.size if camera else (0, 0),
            qos=camera.qos if camera else '',
            frame_age_s=camera.age() if camera else math.nan,
            depth_age_s=camera.depth_age() if camera else math.nan,
            age_reason=camera.absence(query_server.max_image_age) if camera else '',
            frame_rate_hz=rate,
            usual_rate_hz=self._usual_rate.note(rate),
            camera_error=camera.error or camera.absence(0.0) if camera else '',
            camera_warning=camera.warning() if camera else '',
            queue_length=self._queue.waiting,
            queue_size=self._queue.queue_size if queues else 0,
            answered=answered,
            failed=query_server.counts.total() - answered,
            timing=query_server.last_timing,
            p95_s=percentile(list(query_server.recent), 0.95),
            last_error=query_server.last_error,
            last_error_age_s=time.monotonic() - query_server.failed_at,
            standing_query=self._standing_query.query,
            asked_by_itself=self._standing_query.asked,
            tracking=TrackingHealth(tracking.tracked, tracking.pace.rate(), tracking.lag),
            stale_after_s=query_server.max_image_age,
            slow_after_s=self._value('limits.latency_warning'),
        )

    def _model_state(self) -> ModelState:
        if self.state == 'configuring':
            return ModelState.LOADING
        if self._query_server.pipeline is not None:
            return ModelState.READY
        return ModelState.FAILED if self._last_error else ModelState.UNLOADED

    def _clock_jumped(self, jump: TimeJump) -> None:
        _logger.info('The clock jumped by %.3f s: forgetting images', jump.delta.nanoseconds / 1e9)
        self._standing_query.forget()
        if self._query_server.camera is not None:
            self._query_server.camera.store.restart()


def main(args: list[str] | None = None, load: Load = load_pipeline) -> int:
    """Run the node until SIGINT or SIGTERM; return the process's exit code."""
    map_large_blocks()
    signals = StopSignals()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = PerceptionNode(load, arguments=sys.argv if args is None else args)
    except (ParameterError, InvalidParameterTypeException, RuntimeError) as error:
        sys.stderr.write(f'perception_node: {error}\n')
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    signals.wake = executor.wake
    node.start()
    spin(executor, lambda: signals.received or not rclpy.ok())
    signals.close()
    node.finish(executor)
    rclpy.try_shutdown()
    # All is answered and freed; unloading model libraries would only make the user wait.
    leave(0)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
