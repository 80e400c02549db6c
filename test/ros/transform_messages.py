"""tf2_msgs for the tests' own process and for their nodes, and a robot that publishes it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
import shutil
from typing import Any

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from message_package import build_messages, load_messages
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile

from segzero_ros.ros.message_factory import to_time

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@cache
def tf2_msgs_environment() -> dict[str, str]:
    """Return the environment with tf2_msgs: as it is where that is installed, else with one built.

    Skips the test where it can be neither found nor built.
    """
    if find_spec('tf2_msgs') is not None:
        return {}
    if shutil.which('cmake') is None:
        pytest.skip('needs tf2_msgs, or cmake to build it')
    fields = {'TFMessage': 'geometry_msgs/TransformStamped[] transforms'}
    return build_messages('tf2_msgs', fields, ('geometry_msgs', 'std_msgs'))


@cache
def tf_message() -> Any:
    """Return tf2_msgs/TFMessage for this process."""
    environment = tf2_msgs_environment()
    if environment:
        load_messages(environment)
    from tf2_msgs.msg import TFMessage

    return TFMessage


def stamped(
    parent: str,
    child: str,
    stamp_ns: int,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turn: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> TransformStamped:
    """Return a transform of a child frame into its parent."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = to_time(stamp_ns)
    x, y, z = shift
    qx, qy, qz, qw = turn
    message.transform = Transform(
        translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
    )
    return message


class Robot:
    """Publishes transforms, static ones from as many publishers as it is told to."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._dynamic = node.create_publisher(tf_message(), '/tf', 1000)
        self._publishers = [self._dynamic]

    def fix(self, *transforms: TransformStamped) -> None:
        """Publish static transforms with a publisher of their own."""
        publisher = self._node.create_publisher(tf_message(), '/tf_static', LATCHED)
        publisher.publish(tf_message()(transforms=transforms))
        self._publishers.append(publisher)

    def move(self, *transforms: TransformStamped) -> None:
        """Publish transforms on /tf."""
        self._dynamic.publish(tf_message()(transforms=transforms))

    def heard(self) -> bool:
        """Whether somebody subscribes to /tf."""
        return self._dynamic.get_subscription_count() > 0

    def leave(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
