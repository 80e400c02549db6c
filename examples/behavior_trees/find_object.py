"""A py_trees behaviour that asks the perception node, and a tree that uses it.

    pip install py_trees
    python3 examples/behavior_trees/find_object.py 'the red mug' --ros-args -r __ns:=/segzero

The tree tries three times and exits with 0 if the object was found, else with 1.
"""

from __future__ import annotations

import sys

import py_trees
from py_trees.common import Status
import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult

# Seconds between two ticks.
PERIOD = 0.1


class FindObject(py_trees.behaviour.Behaviour):
    """SUCCESS when the object is found: the answer is then on the blackboard as `answer`.

    RUNNING while the node is thinking; FAILURE when there is no such object, or no answer, with
    the reason as feedback message. A tree that interrupts the behaviour cancels the goal, which
    stops the models.

    Args:
        name: of the behaviour.
        node: spins while the tree ticks.
        query: in plain language.
        task: segment, detect, count, answer, point or auto.
    """

    def __init__(self, name: str, node: Node, query: str, task: str = 'segment') -> None:
        super().__init__(name)
        self._goal = Segment.Goal(query=query, task=task)
        self._client = ActionClient(node, Segment, 'segment')
        self._board = self.attach_blackboard_client(name)
        self._board.register_key('answer', py_trees.common.Access.WRITE)
        self._sent = self._result = self._handle = None

    def initialise(self) -> None:
        """Begin anew."""
        self._sent = self._result = self._handle = None

    def update(self) -> Status:
        """Send the goal, or look whether the answer is here."""
        if self._sent is None:
            if not self._client.server_is_ready():
                self.feedback_message = 'waiting for the perception node'
                return Status.RUNNING
            self._sent = self._client.send_goal_async(self._goal)
        if self._handle is None:
            if not self._sent.done():
                return Status.RUNNING
            self._handle = self._sent.result()
            if not self._handle.accepted:
                self.feedback_message = 'the perception node did not accept the goal'
                return Status.FAILURE
            self._result = self._handle.get_result_async()
        if not self._result.done():
            self.feedback_message = f'looking for {self._goal.query}'
            return Status.RUNNING
        answer = self._result.result().result.result
        if answer.status != SegmentationResult.OK:
            self.feedback_message = answer.message or 'there is no such object'
            return Status.FAILURE
        self._board.answer = answer
        self.feedback_message = f'found {len(answer.objects)}'
        return Status.SUCCESS

    def terminate(self, new_status: Status) -> None:
        """Cancel a goal that is still being answered when the tree goes elsewhere."""
        waiting = self._handle is not None and not self._result.done()
        if new_status is Status.INVALID and waiting:
            self._handle.cancel_goal_async()


def main() -> int:
    """Tick the tree until it is through; return the exit code."""
    rclpy.init()
    node = rclpy.create_node('find_object')
    find = FindObject('find', node, remove_ros_args(sys.argv)[1])
    tree = py_trees.trees.BehaviourTree(py_trees.decorators.Retry('three times', find, 3))
    try:
        while tree.root.status not in (Status.SUCCESS, Status.FAILURE):
            tree.tick()
            rclpy.spin_once(node, timeout_sec=PERIOD)
    finally:
        tree.interrupt()
        rclpy.try_shutdown()
    print(find.feedback_message)
    return 0 if tree.root.status is Status.SUCCESS else 1


if __name__ == '__main__':
    raise SystemExit(main())
