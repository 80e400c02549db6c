"""The three ways a query comes in: the topic, the service and the action.

All lead to `QueryServer.ask`. The service and the action await an rclpy future that is resolved
where the answer is made, so the executor's thread never waits.
"""

from __future__ import annotations

import logging
import time

from action_msgs.msg import GoalStatus
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_msgs.msg import String

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult
from segzero_ros.pipeline import Listeners
from segzero_ros.ros.message_factory import clean_text
from segzero_ros.ros.perception.query_queue import PendingQuery
from segzero_ros.ros.perception.query_server import Deliver, QueryServer
from segzero_ros.ros.perception.result_publishers import BURST, RESULTS
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Stage, Status

# ROS's own default of 10 loses requests that come in a burst.
DEEP = QoSProfile(depth=BURST)
WITH_RESULTS = QoSProfile(depth=RESULTS)
# How long a goal's result is kept for its client, in seconds; it may hold images.
RESULT_TIMEOUT = 10

_logger = logging.getLogger(__name__)


class PendingReplies:
    """The replies that callers wait for, and the waking of the executor that sends them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._awaited: set[Future] = set()

    @property
    def awaited(self) -> int:
        """How many are not sent yet."""
        return len(self._awaited)

    def begin(self) -> tuple[Future, Deliver]:
        """Return a future to await, and what resolves it with a result from any thread."""
        future = Future()
        self._awaited.add(future)

        def resolve(message: SegmentationResult) -> None:
            future.set_result(message)
            # rclpy looks at an awaited future only when something wakes its executor.
            executor = self._node.executor
            if executor is not None:
                executor.wake()

        return future, resolve

    def end(self, future: Future) -> None:
        """Say that the reply is on its way."""
        self._awaited.discard(future)


class QuerySubscription:
    """Takes queries from `query`; their results are on `result` only."""

    def __init__(self, node: Node, query_server: QueryServer) -> None:
        self._query_server = query_server
        node.create_subscription(String, 'query', self._heard, DEEP)

    def _heard(self, message: String) -> None:
        self._query_server.ask(message.data)


class SegmentOnceService:
    """Serves `segment_once`."""

    def __init__(self, node: Node, query_server: QueryServer, replies: PendingReplies) -> None:
        self._query_server = query_server
        self._replies = replies
        # Reentrant: other callers are served while one waits.
        node.create_service(
            SegmentOnce,
            'segment_once',
            self._serve,
            qos_profile=WITH_RESULTS,
            callback_group=ReentrantCallbackGroup(),
        )

    async def _serve(
        self, request: SegmentOnce.Request, response: SegmentOnce.Response
    ) -> SegmentOnce.Response:
        future, resolve = self._replies.begin()
        try:
            self._query_server.ask(request.query, resolve, image=request.image)
            response.result = await future
        finally:
            self._replies.end(future)
        return response


class SegmentActionServer:
    """Serves `segment`.

    Every goal is accepted, and ends with its result filled in: SUCCEEDED for OK and NOT_FOUND,
    CANCELED where a client cancelled it, ABORTED for the rest, among them a node that is not
    active and goals that the node itself stopped, whose result says CANCELED.
    """

    def __init__(self, node: Node, query_server: QueryServer, replies: PendingReplies) -> None:
        self._query_server = query_server
        self._replies = replies
        self._pending: dict[bytes, tuple[PendingQuery, Future]] = {}
        self._server = ActionServer(
            node,
            Segment,
            'segment',
            self._execute,
            handle_accepted_callback=self._accepted,
            cancel_callback=self._cancel,
            goal_service_qos_profile=DEEP,
            result_service_qos_profile=WITH_RESULTS,
            cancel_service_qos_profile=DEEP,
            feedback_pub_qos_profile=DEEP,
            result_timeout=RESULT_TIMEOUT,
        )

    def close(self) -> None:
        """Take the action off the graph."""
        self._server.destroy()

    def _accepted(self, goal: ServerGoalHandle) -> None:
        future, resolve = self._replies.begin()
        # First: from Lyrical on, feedback of a goal that is not executing is dropped.
        goal.execute()
        feedback = FeedbackWriter(goal)
        feedback.stage(Stage.QUEUED)
        pending = self._query_server.ask(
            goal.request.query,
            resolve,
            query_id=bytes(goal.goal_id.uuid).hex(),
            image=goal.request.image,
            listeners=Listeners(on_stage=feedback.stage, on_text=feedback.text),
        )
        self._pending[bytes(goal.goal_id.uuid)] = pending, future

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        entry = self._pending.get(bytes(goal.goal_id.uuid))
        if entry is None:
            return CancelResponse.REJECT
        self._query_server.queue.cancel(entry[0], 'Cancelled by the client of the action.')
        return CancelResponse.ACCEPT

    async def _execute(self, goal: ServerGoalHandle) -> Segment.Result:
        key = bytes(goal.goal_id.uuid)
        future = self._pending[key][1]
        try:
            result = await future
            try:
                finish(goal, Status(result.status))
            except RuntimeError:
                # rclpy's; the result reaches its client all the same, as that of an aborted goal.
                _logger.exception('Goal %s cannot be finished', result.query_id)
        finally:
            del self._pending[key]
            self._replies.end(future)
        return Segment.Result(result=result)


class FeedbackWriter:
    """Publishes a goal's feedback while it is executing, and no more once it is cancelled.

    Its client may be gone, which is no reason to stop.
    """

    def __init__(self, goal: ServerGoalHandle) -> None:
        self._goal = goal
        self._stage = Stage.QUEUED
        self._started = time.perf_counter()

    def stage(self, stage: Stage) -> None:
        """Say where the query is."""
        self._stage = stage
        self._publish('')

    def text(self, piece: str) -> None:
        """Pass on what the model wrote."""
        self._publish(piece)

    def _publish(self, piece: str) -> None:
        if self._goal.status != GoalStatus.STATUS_EXECUTING:
            # From Lyrical on, rclpy warns of each and drops it.
            return
        elapsed = time.perf_counter() - self._started
        feedback = Segment.Feedback(
            stage=int(self._stage), reasoning_delta=clean_text(piece), elapsed=elapsed
        )
        try:
            self._goal.publish_feedback(feedback)
        except RuntimeError as error:
            _logger.debug('Feedback is not published: %s', error)


def finish(goal: ServerGoalHandle, status: Status) -> None:
    """Put a goal into the terminal state that belongs to its result's status.

    A goal ends CANCELED only if a client asked for that, as action_msgs/GoalStatus says; one that
    the node stopped by itself (replaced, deactivated, shut down) is ABORTED.
    """
    if status in (Status.OK, Status.NOT_FOUND):
        goal.succeed()
    elif status is Status.CANCELED and goal.is_cancel_requested:
        goal.canceled()
    else:
        goal.abort()
