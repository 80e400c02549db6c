"""Lifecycle node whose transitions are coroutines, so that long ones do not block the executor.

rclpy runs a transition inside the service's callback: while a model loads for a minute, no other
callback runs. It also hides a transition's exceptions, and raises on a transition that is not
possible in the present state. Here failures are logged with their traceback, and an impossible
request is answered `success: false`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
import logging

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Task

from segzero_ros.ros.rclpy_internals import private

_logger = logging.getLogger(__name__)

# Transitions that clients may request; the state machine has further internal ones.
_NAMES = {
    Transition.TRANSITION_CONFIGURE: 'configure',
    Transition.TRANSITION_CLEANUP: 'cleanup',
    Transition.TRANSITION_ACTIVATE: 'activate',
    Transition.TRANSITION_DEACTIVATE: 'deactivate',
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: 'shutdown',
    Transition.TRANSITION_INACTIVE_SHUTDOWN: 'shutdown',
    Transition.TRANSITION_ACTIVE_SHUTDOWN: 'shutdown',
}
# A failure of these returns to the state before; a failure of the others runs `recover` and leads
# to `unconfigured`.
_REVERTIBLE = ('configure', 'activate')
# Private methods of rclpy that are overridden here to replace its transitions.
OVERRIDDEN = ('_LifecycleNodeMixin__on_change_state', '_LifecycleNodeMixin__change_state')


class AsyncLifecycleNode(LifecycleNodeMixin, Node):
    """A lifecycle node with a coroutine for each transition.

    A subclass overrides `configure`, `activate`, `deactivate`, `cleanup`, `shutdown` and
    `recover`; each may await rclpy futures and raises on failure. All run in the executor's
    thread.

    Args:
        name: of the node.
        options: of rclpy's Node.

    Raises:
        UnsupportedRclpy: the transitions of this rclpy cannot be replaced.
    """

    def __init__(self, name: str, **options: object) -> None:
        for method in OVERRIDDEN:
            private(LifecycleNodeMixin, method)
        Node.__init__(self, name, **options)
        self._changing = False
        # Reentrant, so that `get_state` is answered while a transition is awaited.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        machine = private(self, '_state_machine')
        self._trigger_by_id = private(machine, 'trigger_transition_by_id')
        self._trigger_by_label = private(machine, 'trigger_transition_by_label')
        private(machine, 'current_state')
        self._machine = machine

    @property
    def state(self) -> str:
        """Label of the present state, such as `inactive` or `configuring`."""
        return str(self._machine.current_state[1])

    @property
    def changing(self) -> bool:
        """Whether a transition is in progress."""
        return self._changing

    async def configure(self) -> None:
        """Prepare for activation; on failure, undo what was done."""

    async def activate(self) -> None:
        """Start working; on failure, undo what was done."""

    async def deactivate(self) -> None:
        """Stop working."""

    async def cleanup(self) -> None:
        """Undo `configure`."""

    async def shutdown(self) -> None:
        """Stop working for good, from any state."""

    async def recover(self) -> None:
        """Undo everything after a failed `deactivate`, `cleanup` or `shutdown`."""

    async def change_state(self, transition: int) -> bool:
        """Carry out a transition of lifecycle_msgs/Transition; return whether it succeeded."""
        name = _NAMES.get(transition)
        if name is None or self._changing:
            _logger.warning('Cannot %s while the node is %s', name or transition, self.state)
            return False
        try:
            self._trigger_by_id(transition, True)
        except RuntimeError:
            _logger.warning('Cannot %s while the node is %s', name, self.state)
            return False
        self._changing = True
        try:
            return await self._carry_out(name)
        finally:
            self._changing = False

    async def _carry_out(self, name: str) -> bool:
        succeeded = await self._succeeds(name, getattr(self, name))
        if succeeded:
            outcome = TransitionCallbackReturn.SUCCESS
        elif name in _REVERTIBLE:
            outcome = TransitionCallbackReturn.FAILURE
        else:
            outcome = TransitionCallbackReturn.ERROR
        self._trigger_by_label(outcome.to_label(), True)
        if outcome is TransitionCallbackReturn.ERROR:
            await self._succeeds('recover', self.recover)
            self._trigger_by_label(TransitionCallbackReturn.SUCCESS.to_label(), True)
        return succeeded

    async def _succeeds(self, name: str, hook: Callable[[], Awaitable[None]]) -> bool:
        try:
            await hook()
        except Exception:
            _logger.exception('Transition %s failed', name)
            return False
        return True

    async def _LifecycleNodeMixin__on_change_state(  # noqa: N802
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Serve `~/change_state`, by label if given, else by id."""
        transition = request.transition.id
        if request.transition.label:
            transition = self._by_label(request.transition.label)
        response.success = await self.change_state(transition)
        return response

    def _LifecycleNodeMixin__change_state(self, transition: int) -> Task:  # noqa: N802
        """Serve rclpy's `trigger_…()` methods: return a task of the executor."""
        return self.executor.create_task(self.change_state(transition))

    def _by_label(self, label: str) -> int:
        if label == 'shutdown':
            by_state = {
                State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
                State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_INACTIVE_SHUTDOWN,
                State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_ACTIVE_SHUTDOWN,
            }
            return by_state.get(self._machine.current_state[0], -1)
        return next((number for number, name in _NAMES.items() if name == label), -1)
