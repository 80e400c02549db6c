"""The node `perception`: subscribes to a camera and answers queries about its frames.

Connects the parts of this package, and implements lifecycle transitions and parameter changes.
Start it with `ros2 run segzero_ros perception_node`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
import sys
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

from segzero_ros import hub
from segzero_ros.loading import load_pipeline
from segzero_ros.loading_steps import current_step
from segzero_ros.parameter_table import ParameterError
from segzero_ros.rgbd.message_buffer import JUMP_NS
from segzero_ros.ros import log_bridge
from segzero_ros.ros.camera.qos_matching import QOS_CHECK_PERIOD
from segzero_ros.ros.camera.rgbd_subscriber import RgbdSubscriber
from segzero_ros.ros.health.collector import HealthCollector
from segzero_ros.ros.health.diagnostics import HealthReporter
from segzero_ros.ros.health.process_memory import map_large_blocks, trim_memory
from segzero_ros.ros.health.watchdog import Watchdog
from segzero_ros.ros.lifecycle import AsyncLifecycleNode
from segzero_ros.ros.parameters import (
    as_declared,
    declare,
    fixed,
    reasoner_options,
    refusal,
    segmenter_options,
)
from segzero_ros.ros.perception.detection_toggle import DetectionToggle
from segzero_ros.ros.perception.model_loader import Load, ModelLoader, NotConfigured, RELOADING
from segzero_ros.ros.perception.query_interfaces import (
    AskService,
    CancelService,
    PendingReplies,
    QuerySubscription,
    SegmentActionServer,
    SegmentOnceService,
)
from segzero_ros.ros.perception.query_queue import QueryPolicy, QueryQueue
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.ros.perception.standing_query import StandingQuery, UPDATE_PERIOD
from segzero_ros.ros.perception.target_frame import TargetFrame
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.ros.perception.worker_future import run_in_worker
from segzero_ros.ros.process import exit_now, spin, spin_while, StopSignals
from segzero_ros.ros.voice.parameters import NAMES as VOICE_PARAMETERS
from segzero_ros.types import Status

# Seconds that the node waits at shutdown: for the models to stop, for replies to be sent, and for
# a goal's result. Together well below the 2 s after which a user would press Ctrl-C again.
STOP_TIMEOUT = 0.8
REPLY_TIMEOUT = 0.3
GOAL_RESULT_TIME = 0.1
# Seconds between two calls of `trim_memory`.
TRIM_PERIOD = 30.0
_logger = logging.getLogger(__name__)


class PerceptionNode(AsyncLifecycleNode):
    """Answers queries about the newest camera frame.

    Args:
        load: makes the pipeline when the node is configured.
        arguments: of the process, to warn of params files for other nodes.
        options: of rclpy's Node.

    Raises:
        ParameterError: a parameter has an invalid value.
    """

    def __init__(
        self, load: Load = load_pipeline, *, arguments: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__('perception', **options)
        self._log_handler = log_bridge.connect(self.get_logger())
        for warning in declare(self, arguments=arguments, others=VOICE_PARAMETERS):
            _logger.warning(warning)
        clock = self.get_clock()
        self._worker = Worker()
        self._queue = QueryQueue()
        self._target_frame = TargetFrame(self)
        self._result_publishers = ResultPublishers(self)
        self._query_server = QueryServer(
            self._queue, self._worker, self._result_publishers, clock, self._target_frame
        )
        self._model_loader = ModelLoader(self, load, self._query_server, self._worker)
        self._standing_query = StandingQuery(self._query_server, self._worker, clock)
        self._detection = DetectionToggle(
            self,
            self._query_server,
            self._result_publishers,
            lambda: self._inactive_reason(self.state),
        )
        self._watchdog = Watchdog(self._query_server, self._worker)
        self._queue.close(self._inactive_reason('unconfigured'))
        self._apply_parameters([])
        self._replies = PendingReplies(self)
        QuerySubscription(self, self._query_server)
        SegmentOnceService(self, self._query_server, self._replies)
        AskService(self, self._query_server, self._replies)
        CancelService(self, self._query_server)
        self._action = SegmentActionServer(self, self._query_server, self._replies)
        self.add_pre_set_parameters_callback(as_declared)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        self._start_timer(QOS_CHECK_PERIOD, self._check_graph_and_models)
        self._start_timer(TRIM_PERIOD, trim_memory)
        self._start_timer(UPDATE_PERIOD, self._submit_own_queries)
        self._health = HealthCollector(
            self, self._query_server, self._model_loader, self._standing_query
        )
        self._health_reporter = HealthReporter(self, self._health.collect)
        # A jump back by less is the jitter of several publishers of /clock, not a restart.
        self._jump_callback = clock.create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-JUMP_NS), on_clock_change=True
            ),
            post_callback=self._on_clock_jump,
        )

    def start(self) -> None:
        """Have the executor configure and activate the node if `autostart` is set."""
        if self._value('autostart'):
            self.executor.create_task(self._autostart())

    def finish(self, executor: SingleThreadedExecutor) -> None:
        """Answer the pending queries, free the models and leave the graph, in bounded time.

        Models that do not stop in time are abandoned in their thread.
        """
        reason = 'The node was shut down.'
        self._query_server.tracking.enabled = False
        self._queue.close(reason)
        spin_while(executor, lambda: bool(self._query_server.unanswered), STOP_TIMEOUT)
        for pending in self._query_server.unanswered:
            pending.refuse(Status.CANCELED, reason)
        spin_while(executor, lambda: bool(self._replies.count), REPLY_TIMEOUT)
        # rclpy sends a goal's result in one more callback, which cannot be awaited.
        spin_while(executor, lambda: True, GOAL_RESULT_TIME)
        self._model_loader.free_later()
        self._worker.stop()
        if not self._worker.join(REPLY_TIMEOUT):
            job, trace = self._worker.current_job, self._worker.stack_trace()
            _logger.warning('The process exits while still %s, at\n%s', job, trace)
        self._action.close()
        log_bridge.disconnect(self._log_handler)
        self.destroy_node()

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters as rclpy does; refuse those fixed at start-up, with a hint."""
        reason = fixed(parameter_list)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        return super().set_parameters_atomically(parameter_list)

    # Transitions

    async def configure(self) -> None:
        """Load the models."""
        self._queue.close(
            'The models are being loaded; send the query again when the node is active.'
        )
        try:
            await self._model_loader.load(reasoner_options(self), segmenter_options(self))
        except Exception:
            self._queue.close(self._inactive_reason('unconfigured'))
            raise
        self._queue.close(self._inactive_reason('inactive'))

    async def activate(self) -> None:
        """Subscribe to the camera and accept queries."""
        pipeline = self._query_server.pipeline
        if pipeline is None:
            # The models were abandoned and are not reloaded yet.
            raise NotConfigured(RELOADING)
        self._query_server.object_ids.reset()
        self._query_server.camera = camera = RgbdSubscriber(
            self, self._value('camera.max_depth_offset'), self._value('advanced.max_pixels')
        )
        self._queue.open()
        _logger.info(
            'Active: %s and %s answer queries about %s',
            pipeline.reasoner.name,
            pipeline.segmenter.name,
            camera.topic,
        )

    async def deactivate(self) -> None:
        """Cancel all queries, unsubscribe from the camera and wait for the models to stop."""
        self._queue.close(self._inactive_reason('inactive'), 'The node was deactivated.')
        camera, self._query_server.camera = self._query_server.camera, None
        if camera is not None:
            camera.close()
        self._health.usual_rate.reset()
        # Returns when the worker has finished its present job.
        await run_in_worker(self, self._worker, lambda: None, 'waiting for the worker')

    async def cleanup(self) -> None:
        """Free the models."""
        self._queue.close(self._inactive_reason('unconfigured'))
        await self._model_loader.free()

    async def shutdown(self) -> None:
        """Stop and free everything."""
        await self.deactivate()
        await self.cleanup()
        self._queue.close('The node was shut down; restart it.')

    async def recover(self) -> None:
        """Stop and free everything, after a failure to do so."""
        await self.shutdown()
        self._queue.close(self._inactive_reason('unconfigured'))

    async def _autostart(self) -> None:
        if await self.change_state(Transition.TRANSITION_CONFIGURE):
            await self.change_state(Transition.TRANSITION_ACTIVATE)

    async def _reload(self) -> None:
        """Replace abandoned models; return to the present state."""
        steps = [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
        if self.state == 'active':
            steps = [Transition.TRANSITION_DEACTIVATE, *steps, Transition.TRANSITION_ACTIVATE]
        for step in steps:
            if not await self.change_state(step):
                return

    def _inactive_reason(self, state: str) -> str:
        """Return why a node in this state rejects queries, and how to activate it."""
        steps = ['configure', 'activate'] if state == 'unconfigured' else ['activate']
        name = self.get_fully_qualified_name()
        commands = '; '.join(f'ros2 lifecycle set {name} {step}' for step in steps)
        cause = f' {self._model_loader.error}' if self._model_loader.error else ''
        return f'The node is {state} and answers no queries.{cause} To activate it: {commands}'

    # Parameters, timers and clock

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = refusal(parameters, self.state)
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply_parameters(self, _: list[Parameter]) -> None:
        """Apply the parameters that take effect at once."""
        self._queue.policy = QueryPolicy(self._value('query.policy'))
        self._queue.queue_size = self._value('query.queue_size')
        self._query_server.max_image_age = self._value('camera.max_image_age')
        self._query_server.max_pixels = self._value('advanced.max_pixels')
        self._query_server.tracking.enabled = self._value('track') or self._detection.on
        self._target_frame.set(self._value('target_frame'))
        self._result_publishers.object_frames.set(self._value('broadcast_tf'))
        scene = self._result_publishers.collision_objects
        scene.leave_out_target = self._value('advanced.leave_out_target')
        ids, text = self._query_server.object_ids, self._value('standing_query.text')
        ids.enabled = bool(text)
        ids.encoding = self._result_publishers.labels.encoding = self._value('label_encoding')
        self._detection.query = text
        self._standing_query.configure(
            text,
            self._value('standing_query.period'),
            self._value('standing_query.on_change'),
            reask_when_lost=self._value('tracking.reask_when_lost'),
        )
        if self._query_server.camera is not None:
            self._query_server.camera.max_pixels = self._value('advanced.max_pixels')
            self._query_server.camera.set_max_offset(self._value('camera.max_depth_offset'))

    def _start_timer(self, period: float, callback: Callable[[], Any]) -> None:
        # Steady time: a paused simulation must not stop the node from finding its camera.
        self.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _submit_own_queries(self) -> None:
        if not self._detection.update():
            self._standing_query.update()

    def _check_graph_and_models(self) -> None:
        self._detection.check_subscribers()
        progress = hub.progress() or current_step()
        if progress is not None and self.state == 'configuring':
            self._queue.close(f'{progress}. Send the query again when the node is active.')
        if self._query_server.camera is not None:
            self._query_server.camera.match_publishers()
        self._target_frame.match_publishers()
        self._watchdog.check(
            self._value('limits.answer_time'), self._value('advanced.watchdog_timeout')
        )
        abandoned = self.state in ('active', 'inactive') and self._query_server.pipeline is None
        if abandoned and not self.changing:
            self.executor.create_task(self._reload())

    def _on_clock_jump(self, jump: TimeJump) -> None:
        _logger.info(
            'The clock jumped by %.3f s: dropping buffered images and transforms',
            jump.delta.nanoseconds / 1e9,
        )
        self._standing_query.reset()
        self._target_frame.clear()
        self._detection.reset()
        if self._query_server.camera is not None:
            self._query_server.camera.buffer.restart()


def main(args: list[str] | None = None, load: Load = load_pipeline) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code.

    Args:
        args: command line; None for that of the process.
        load: makes the pipeline.
    """
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
    # Everything is answered and freed; unloading the libraries would only delay the exit.
    exit_now(0)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
