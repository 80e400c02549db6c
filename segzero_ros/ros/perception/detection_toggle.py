"""Detection on demand: one service starts it and, called again, stops it.

Nav2's docking server calls such a service, a std_srvs/Trigger, before it looks for a dock, and
again when it is done. In between the standing query is asked until it finds something, which is
then tracked, so that `target_pose` follows it.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import uuid

from lifecycle_msgs.msg import Transition
from rclpy.callback_groups import ReentrantCallbackGroup
from std_srvs.srv import Trigger

from segzero_ros.ros.lifecycle import AsyncLifecycleNode
from segzero_ros.ros.perception.query_queue import PendingQuery
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.types import Answer, S_TO_NS

# Seconds from one query to the next while nothing is found.
RETRY_DELAY = 1.0
_logger = logging.getLogger(__name__)


class DetectionToggle:
    """Serves `toggle_detection`.

    While detection is on, `target_pose` and tracking are about what it found, and no pose is from
    before the start. A node that is inactive is activated meanwhile.

    Attributes:
        on: whether detection is on.
        query: what to detect; empty: nothing.

    Args:
        node: the node, whose `track` applies while detection is off.
        query_server: answers the queries.
        publishers: publish the poses.
        inactive_reason: returns why the node answers no queries.
    """

    def __init__(
        self,
        node: AsyncLifecycleNode,
        query_server: QueryServer,
        publishers: ResultPublishers,
        inactive_reason: Callable[[], str],
    ) -> None:
        self.on = False
        self.query = ''
        self._node = node
        self._query_server = query_server
        self._publishers = publishers
        self._inactive_reason = inactive_reason
        self._started_ns = 0
        self._switching = False
        self._activated_node = False
        self._had_subscribers = False
        self._asked = ''
        self._submitted_ns: int | None = None
        self._pending: PendingQuery | None = None
        # Of the queries of this detection, or the last one. The worker's thread reads it.
        self._ids: tuple[str, ...] = ()
        publishers.admit_target = self._admits_pose
        query_server.tracking.accepts = self._admits
        node.create_service(
            Trigger, 'toggle_detection', self._serve, callback_group=ReentrantCallbackGroup()
        )

    def update(self) -> bool:
        """Submit the query if it is due; return whether detection is on."""
        if not self.on:
            return False
        tracking = self._query_server.tracking
        if self.query != self._asked:
            tracking.end()
            self._submitted_ns = None
        if self.query and self._query_server.idle and not tracking.active and self._is_due():
            self._submit()
        return True

    def check_subscribers(self) -> None:
        """Switch detection off if all subscribers to `target_pose` have gone.

        The one who switched it on has ended without switching it off.
        """
        if not self.on or self._switching:
            return
        if self._publishers.target_subscribers:
            self._had_subscribers = True
        elif self._had_subscribers:
            _logger.warning('Nobody subscribes to target_pose any more')
            self._node.executor.create_task(self._stop())

    def reset(self) -> None:
        """Start anew after the clock has jumped."""
        self._started_ns = self._now_ns()
        self._submitted_ns = None

    async def _serve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._switching:
            response.message = 'Detection is being switched; call again.'
        elif self.on:
            await self._stop()
            response.success, response.message = True, 'Detection is off.'
        else:
            response.message = await self._start()
            response.success = not response.message
            response.message = response.message or f'Detection is on: {self.query}'
        return response

    async def _start(self) -> str:
        """Switch detection on; return why that is not possible, or nothing."""
        if not self.query:
            return (
                'There is nothing to detect: set standing_query.text, for instance to '
                '"the charging dock".'
            )
        self._switching = True
        try:
            self._activated_node = False
            if self._node.state == 'inactive':
                self._activated_node = await self._node.change_state(
                    Transition.TRANSITION_ACTIVATE
                )
            if self._node.state != 'active':
                return self._inactive_reason()
        finally:
            self._switching = False
        tracking = self._query_server.tracking
        with self._publishers.target_lock:
            self._ids = ()
            self.on = True
            self.reset()
        self._asked, self._had_subscribers = self.query, False
        # What is tracked has been found before.
        tracking.end()
        tracking.enabled = True
        _logger.info('Detection is on: %s', self.query)
        return ''

    async def _stop(self) -> None:
        # With the lock, no pose is published any more when the service answers.
        with self._publishers.target_lock:
            self.on = False
        tracking = self._query_server.tracking
        tracking.end()
        tracking.enabled = self._node.get_parameter('track').value
        pending, self._pending = self._pending, None
        if pending is not None:
            self._query_server.queue.cancel(pending, 'Detection was switched off.')
        _logger.info('Detection is off')
        if self._activated_node and self._node.state == 'active':
            self._switching = True
            try:
                await self._node.change_state(Transition.TRANSITION_DEACTIVATE)
            finally:
                self._switching = False

    def _is_due(self) -> bool:
        if self._submitted_ns is None:
            return True
        since = (self._now_ns() - self._submitted_ns) / S_TO_NS
        return not 0 <= since < RETRY_DELAY

    def _submit(self) -> None:
        query_id = uuid.uuid4().hex
        # Tracked objects have the id of the last query, and an older one may still be answered.
        self._ids = (*self._ids[-1:], query_id)
        self._asked, self._submitted_ns = self.query, self._now_ns()
        self._pending = self._query_server.submit(self.query, query_id=query_id, low_priority=True)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _admits(self, answer: Answer) -> bool:
        """Return whether an answer is this detection's, or nobody detects and it is not."""
        return (answer.query.id in self._ids) == self.on

    def _admits_pose(self, answer: Answer) -> bool:
        if not self._admits(answer):
            return False
        stamp_ns = 0 if answer.frame is None else answer.frame.stamp_ns
        return not self.on or stamp_ns >= self._started_ns
