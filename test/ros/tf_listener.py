"""Print each transform that comes on /tf_static: parent, child, then x y z w of the rotation."""

from __future__ import annotations

import sys

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage


def show(message: TFMessage) -> None:
    for each in message.transforms:
        turn, shift = each.transform.rotation, each.transform.translation
        assert (shift.x, shift.y, shift.z) == (0.0, 0.0, 0.0)
        numbers = f'{turn.x} {turn.y} {turn.z} {turn.w}'
        sys.stdout.write(f'{each.header.frame_id} {each.child_frame_id} {numbers}\n')
    sys.stdout.flush()


rclpy.init()
node = rclpy.create_node('tf_listener')
latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(TFMessage, '/tf_static', show, latched)
rclpy.spin(node)
