"""An example node that asks for an object and publishes a pose from which to grasp it from above.

    python3 examples/grasp_client.py 'the red box' --ros-args -r __ns:=/segzero

It takes the object's points from `object_points`, and the direction that is up from `target_pose`,
whose z axis is the normal of what the object stands on. It publishes `grasp_pose`
(geometry_msgs/PoseStamped, latched) with the header of the cloud: z points down, the way the
gripper approaches; the fingers close along y, across the object's narrow side; the position is the
middle of the object. Exits with 0 if there is a grasp, with 1 and the reason if not.
"""

from __future__ import annotations

from dataclasses import dataclass
import sys
import uuid

from geometry_msgs.msg import PoseStamped
import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import PointCloud2

from segzero_ros.msg import Query, SegmentationResult
from segzero_ros.rotations import matrix_from_quaternion, quaternion_from_matrix

TIMEOUT = Duration(seconds=120)
# How long to wait for an answer's cloud, and for somebody who takes the grasp.
DELIVERY = Duration(seconds=3)
# What a common parallel gripper opens, metres.
MAX_WIDTH = 0.085
# Fewer points do not show an object's shape.
MIN_POINTS = 60
# Points this far below the top belong to the top: a depth camera's noise.
TOP = 0.008
# Lower objects lie: all of their points are seen from above.
FLAT = 0.03
POINT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'rgb', 'object'],
        'formats': ['<f4', '<f4', '<f4', '<u4', '<u2'],
        'offsets': [0, 4, 8, 12, 16],
        'itemsize': 20,
    }
)


@dataclass(frozen=True)
class Grasp:
    """A grasp from above.

    Attributes:
        position: (3,) the middle of the object, metres.
        axes: (3, 3) unit vectors in columns: x along the object, y across, z down.
        width: of the object between the fingers, metres.
    """

    position: np.ndarray
    axes: np.ndarray
    width: float


def top_down_grasp(points: np.ndarray, up: np.ndarray) -> Grasp:
    """Return a grasp across the narrow side of an object.

    The outline is that of the top: a camera sees all of it, but a handle below is not grasped.

    Args:
        points: (N, 3) of the object, metres.
        up: (3,) unit vector.

    Raises:
        ValueError: there are too few points.
    """
    if len(points) < MIN_POINTS:
        raise ValueError(f'{len(points)} points do not show the shape of an object.')
    heights = points @ up
    low, high = np.quantile(heights, (0.01, 0.98))
    top = points
    if high - low > FLAT:
        top = points[heights > high - max(TOP, 0.15 * (high - low))]
    first = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    flat = top @ np.stack((first, np.cross(up, first)), 1)
    # The rectangle of the smallest area, without the outermost points.
    angles = np.radians(np.arange(0, 90, 1.0))
    turned = np.stack((np.cos(angles), np.sin(angles)))
    along, across = flat @ turned, flat @ np.stack((-turned[1], turned[0]))
    bounds = [np.quantile(each, (0.02, 0.98), axis=0) for each in (along, across)]
    sides = np.stack([each[1] - each[0] for each in bounds])
    best = int(sides.prod(0).argmin())
    centre = np.array([each[:, best].mean() for each in bounds])
    turn = np.array([[turned[0, best], -turned[1, best]], [turned[1, best], turned[0, best]]])
    directions = (np.stack((first, np.cross(up, first)), 1) @ turn).T
    position = directions.T @ centre + up * (low + high) / 2
    long = directions[int(sides[:, best].argmax())]
    down = -up
    axes = np.stack((long, np.cross(down, long), down), 1)
    # The fingers have to pass the outermost points, too.
    return Grasp(position, axes, float(np.ptp(points @ axes[:, 1])))


class GraspClient(Node):
    """Asks once, and waits for the answer, its cloud and its pose.

    Attributes:
        outcome: what came of it; None while waiting.
    """

    def __init__(self, query: str) -> None:
        super().__init__('grasp_client')
        self.outcome: Grasp | str | None = None
        self._query = Query(id=uuid.uuid4().hex, text=query)
        self._result: SegmentationResult | None = None
        self._received: dict[type, dict[tuple[int, int], PointCloud2 | PoseStamped]] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._grasps = self.create_publisher(PoseStamped, 'grasp_pose', latched)
        self._queries = self.create_publisher(Query, 'typed_query', 10)
        self.create_subscription(SegmentationResult, 'result', self._on_result, 10)
        self.create_subscription(PointCloud2, 'object_points', self._on_geometry, 10)
        self.create_subscription(PoseStamped, 'target_pose', self._on_geometry, 10)
        self._started = self.get_clock().now()
        self._asked = False
        self._answered: Time | None = None
        self.create_timer(0.1, self._wait)

    def _wait(self) -> None:
        """Ask once everything is connected: clouds are made while somebody subscribes."""
        topics = ('result', 'object_points', 'target_pose')
        heard = self._queries.get_subscription_count() > 0
        if heard and not self._asked and all(map(self.count_publishers, topics)):
            self._asked = True
            self._queries.publish(self._query)
        now = self.get_clock().now()
        if self._answered is not None and now - self._answered > DELIVERY:
            # Such as for a target_frame without a transform: the message says it.
            message = self._result.message if self._result is not None else ''
            self.outcome = message or 'The answer came without a cloud and a pose.'
        elif now - self._started > TIMEOUT:
            self.outcome = 'Nothing came: is the node running?'

    def _on_result(self, result: SegmentationResult) -> None:
        if result.query_id == self._query.id:
            self._result, self._answered = result, self.get_clock().now()
            if result.status != SegmentationResult.OK:
                self.outcome = result.message or 'There is no such object.'
            elif not result.objects:
                self.outcome = 'There is no object in the answer.'
            elif result.objects[0].pose_status != result.objects[0].POSE_OK:
                self.outcome = result.message
            self._match()

    def _on_geometry(self, message: PointCloud2 | PoseStamped) -> None:
        stamp = message.header.stamp.sec, message.header.stamp.nanosec
        self._received.setdefault(type(message), {})[stamp] = message
        self._match()

    def _match(self) -> None:
        """Make the grasp once the cloud and the pose of the answer's frame are there."""
        if self._result is None or self.outcome is not None:
            return
        stamp = self._result.header.stamp.sec, self._result.header.stamp.nanosec
        cloud = self._received.get(PointCloud2, {}).get(stamp)
        pose = self._received.get(PoseStamped, {}).get(stamp)
        if cloud is None or pose is None:
            return
        points = np.frombuffer(cloud.data, POINT)
        points = points[points['object'] == self._result.objects[0].id]
        xyz = np.stack([points[axis] for axis in 'xyz'], 1).astype(float)
        q = pose.pose.orientation
        up = matrix_from_quaternion((q.x, q.y, q.z, q.w))[:, 2]
        try:
            grasp = top_down_grasp(xyz, up)
        except ValueError as error:
            self.outcome = str(error)
            return
        if grasp.width > MAX_WIDTH:
            self.outcome = f'The object is {100 * grasp.width:.1f} cm wide: too much to grasp.'
            return
        found = PoseStamped(header=cloud.header)
        at, turned = found.pose.position, found.pose.orientation
        at.x, at.y, at.z = grasp.position.tolist()
        turned.x, turned.y, turned.z, turned.w = quaternion_from_matrix(grasp.axes)
        self._grasps.publish(found)
        self.outcome = grasp

    def deliver(self) -> None:
        """Wait until the grasp has arrived: it would be lost if the process ended before."""
        deadline = self.get_clock().now() + DELIVERY
        while not self._grasps.get_subscription_count() and self.get_clock().now() < deadline:
            rclpy.spin_once(self, timeout_sec=0.1)
        self._grasps.wait_for_all_acked(DELIVERY)


def main() -> int:
    """Ask, publish the grasp, and return the exit code."""
    rclpy.init()
    node = GraspClient(remove_ros_args(sys.argv)[1])
    try:
        while node.outcome is None:
            rclpy.spin_once(node)
        if isinstance(node.outcome, Grasp):
            node.deliver()
    finally:
        rclpy.try_shutdown()
    if isinstance(node.outcome, str):
        print(node.outcome)
        return 1
    at = ', '.join(f'{value:.3f}' for value in node.outcome.position)
    print(f'grasp at ({at}), {100 * node.outcome.width:.1f} cm between the fingers')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
