"""The topic, the service and the action that accept queries.

All call `QueryServer.submit`. The service and the action await an rclpy future that is set by the
thread that answers, so the executor's thread never blocks.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import time
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from segzero_ros.action import Segment
from segzero_ros.msg import Query, SegmentationResult
from segzero_ros.pipeline import Listeners
from segzero_ros.ros.message_factory import clean_text, to_ns
from segzero_ros.ros.perception.compact_answer import compact
from segzero_ros.ros.perception.query_queue import PendingQuery
from segzero_ros.ros.perception.query_server import Deliver, QueryServer
from segzero_ros.ros.perception.result_publishers import BURST_DEPTH, RESULT_DEPTH
from segzero_ros.spatial.placement import Placed
from segzero_ros.srv import Ask, SegmentOnce
from segzero_ros.types import Stage, Status

# ROS's default depth of 10 loses requests in a burst.
REQUEST_QOS = QoSProfile(depth=BURST_DEPTH)
RESULT_QOS = QoSProfile(depth=RESULT_DEPTH)
# How long a goal's result is kept for its client, seconds; short, because it holds masks.
RESULT_TIMEOUT = 10

# Makes a reply of a result and the answer it was made from.
Convert = Callable[[SegmentationResult, Placed], Any]

_logger = logging.getLogger(__name__)


class PendingReplies:
    """Futures of the replies that clients wait for; setting one wakes the executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._awaited: set[Future] = set()

    @property
    def count(self) -> int:
        """Number of replies that are not sent yet."""
        return len(self._awaited)

    def begin(self, convert: Convert = lambda result, _: result) -> tuple[Future, Deliver]:
        """Return a future to await, and a function that sets its result from any thread.

        Args:
            convert: makes the reply; called in the thread that answers.
        """
        future = Future()
        self._awaited.add(future)

        def resolve(message: SegmentationResult, placed: Placed) -> None:
            future.set_result(convert(message, placed))
            # rclpy checks an awaited future only when something wakes its executor.
            executor = self._node.executor
            if executor is not None:
                executor.wake()

        return future, resolve

    def end(self, future: Future) -> None:
        """Remove a future whose reply is being sent."""
        self._awaited.discard(future)


class QuerySubscription:
    """Subscribes to `query` and `typed_query`; the results are published on `result` only."""

    def __init__(self, node: Node, query_server: QueryServer) -> None:
        self._query_server = query_server
        node.create_subscription(String, 'query', self._on_query, REQUEST_QOS)
        node.create_subscription(Query, 'typed_query', self._on_typed_query, REQUEST_QOS)

    def _on_query(self, message: String) -> None:
        self._query_server.submit(message.data)

    def _on_typed_query(self, message: Query) -> None:
        self._query_server.submit(
            message.text,
            query_id=message.id,
            task=message.task,
            stamp_ns=to_ns(message.stamp),
        )


class SegmentOnceService:
    """Serves `segment_once`."""

    def __init__(self, node: Node, query_server: QueryServer, replies: PendingReplies) -> None:
        self._query_server = query_server
        self._replies = replies
        # Reentrant: other clients are served while one waits.
        node.create_service(
            SegmentOnce,
            'segment_once',
            self._serve,
            qos_profile=RESULT_QOS,
            callback_group=ReentrantCallbackGroup(),
        )

    async def _serve(
        self, request: SegmentOnce.Request, response: SegmentOnce.Response
    ) -> SegmentOnce.Response:
        future, resolve = self._replies.begin()
        try:
            self._query_server.submit(
                request.query,
                resolve,
                task=request.task,
                candidates=request.candidates,
                image=request.image,
            )
            response.result = await future
        finally:
            self._replies.end(future)
        return response


class AskService:
    """Serves `ask`: compact answers without masks."""

    def __init__(self, node: Node, query_server: QueryServer, replies: PendingReplies) -> None:
        self._query_server = query_server
        self._replies = replies
        node.create_service(
            Ask,
            'ask',
            self._serve,
            qos_profile=REQUEST_QOS,
            callback_group=ReentrantCallbackGroup(),
        )

    async def _serve(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        def convert(result: SegmentationResult, placed: Placed) -> Ask.Response:
            return compact(result, placed, with_overlay=request.with_overlay)

        future, resolve = self._replies.begin(convert)
        try:
            self._query_server.submit(request.query, resolve, task=request.task)
            reply: Ask.Response = await future
        finally:
            self._replies.end(future)
        return reply


class CancelService:
    """Serves `cancel`: stops what is being answered, and empties the queue."""

    def __init__(self, node: Node, query_server: QueryServer) -> None:
        self._query_server = query_server
        node.create_service(Trigger, 'cancel', self._serve)

    def _serve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        count = self._query_server.queue.cancel_all('Cancelled by the service cancel.')
        response.success = True
        response.message = f'{count} queries cancelled.' if count else 'There was no query.'
        return response


class SegmentActionServer:
    """Serves `segment`.

    Every goal is accepted, and ends with its result filled in: SUCCEEDED for OK and NOT_FOUND,
    CANCELED if a client cancelled it, else ABORTED. ABORTED includes goals sent while the node is
    not active and goals that the node cancelled itself, whose result has the status CANCELED.
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
            goal_service_qos_profile=REQUEST_QOS,
            result_service_qos_profile=RESULT_QOS,
            cancel_service_qos_profile=REQUEST_QOS,
            feedback_pub_qos_profile=REQUEST_QOS,
            result_timeout=RESULT_TIMEOUT,
        )

    def close(self) -> None:
        """Remove the action from the graph."""
        self._server.destroy()

    def _accepted(self, goal: ServerGoalHandle) -> None:
        future, resolve = self._replies.begin()
        # Before any feedback: from Lyrical on, rclpy drops it if the goal is not executing.
        goal.execute()
        feedback = FeedbackWriter(goal)
        feedback.stage(Stage.QUEUED)
        pending = self._query_server.submit(
            goal.request.query,
            resolve,
            query_id=bytes(goal.goal_id.uuid).hex(),
            task=goal.request.task,
            candidates=goal.request.candidates,
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
                # rclpy then aborts the goal; the client gets the result nevertheless.
                _logger.exception('Goal %s cannot be finished', result.query_id)
        finally:
            del self._pending[key]
            self._replies.end(future)
        return Segment.Result(result=result)


class FeedbackWriter:
    """Publishes a goal's feedback while the goal is executing.

    Errors are ignored: a client that has gone must not stop the query.
    """

    def __init__(self, goal: ServerGoalHandle) -> None:
        self._goal = goal
        self._stage = Stage.QUEUED
        self._started = time.perf_counter()

    def stage(self, stage: Stage) -> None:
        """Publish the stage of the query."""
        self._stage = stage
        self._publish('')

    def text(self, piece: str) -> None:
        """Publish a piece of the reasoning."""
        self._publish(piece)

    def _publish(self, piece: str) -> None:
        if self._goal.status != GoalStatus.STATUS_EXECUTING:
            # From Lyrical on, rclpy drops it with a warning.
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
    """Put a goal into the terminal state for the status of its result.

    As action_msgs/GoalStatus defines, a goal ends CANCELED only if a client requested it; one that
    the node cancelled itself (replaced, deactivated, shut down) is ABORTED.

    Args:
        goal: the goal.
        status: of its result.
    """
    if status in (Status.OK, Status.NOT_FOUND):
        goal.succeed()
    elif status is Status.CANCELED and goal.is_cancel_requested:
        goal.canceled()
    else:
        goal.abort()
