"""A program of somebody else, written from the table of topics and the messages' definitions only.

It prints what it receives of masks and of the planning scene as lines of JSON: a label image with
the number of pixels of each value and whether `label_info` had named them all before; a cloud with
whether its objects lie where the label image has them. With the argument `volatile` it takes
collision objects with MoveIt's QoS, else transient local.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from moveit_msgs.msg import CollisionObject
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from sensor_msgs.msg import Image, PointCloud2
from vision_msgs.msg import LabelInfo

LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
NUMBERS = {'mono8': np.dtype('u1'), 'mono16': np.dtype('<u2')}


# A scene comes all at once; MoveIt's monitor keeps as many.
SCENE_DEPTH = 1024


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


def pixels_of(image: Image) -> Any:
    assert not image.is_bigendian
    kind = NUMBERS[image.encoding]
    rows = np.frombuffer(image.data, kind).reshape(image.height, image.step // kind.itemsize)
    return rows[:, : image.width]


def column_of(cloud: PointCloud2, name: str) -> Any:
    (field,) = [each for each in cloud.fields if each.name == name]
    kinds = {4: '<u2', 7: '<f4'}
    kind = np.dtype(
        {
            'names': [name],
            'formats': [kinds[field.datatype]],
            'offsets': [field.offset],
            'itemsize': cloud.point_step,
        }
    )
    return np.frombuffer(cloud.data, kind)[name].reshape(cloud.height, cloud.width)


def count(pixels: Any) -> dict[int, int]:
    values, numbers = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


class ForeignClient(Node):
    """Subscribes to what costmaps and planning scenes take."""

    def __init__(self, scene_qos: QoSProfile) -> None:
        super().__init__('foreign')
        self.labels: dict[int, str] = {}
        # The newest label image and the newest cloud, by their stamps: either may come first.
        self.images: dict[int, Any] = {}
        self.clouds: dict[int, PointCloud2] = {}
        self.create_subscription(LabelInfo, 'label_info', self.on_info, LATCHED)
        for topic in ('label_image', 'class_image', 'confidence'):
            self.create_subscription(
                Image,
                topic,
                lambda message, topic=topic: self.on_image(topic, message),
                # A costmap's best effort may lose one on a busy machine.
                10,
            )
        self.create_subscription(PointCloud2, 'points', self.on_cloud, 10)
        self.create_subscription(CollisionObject, 'collision_objects', self.on_object, scene_qos)

    def on_info(self, message: LabelInfo) -> None:
        self.labels = {each.class_id: each.class_name for each in message.class_map}
        by_name = {each.class_name: each.class_id for each in message.class_map}
        report('label_info', message, labels=self.labels, classes=by_name)

    def on_image(self, topic: str, message: Image) -> None:
        pixels = pixels_of(message)
        counts = count(pixels)
        named = set(counts) <= set(self.labels)
        if topic == 'label_image':
            self.images = {stamp_of(message): pixels}
        report(topic, message, encoding=message.encoding, values=counts, named=named)
        cloud = self.clouds.pop(stamp_of(message), None) if topic == 'label_image' else None
        if cloud is not None:
            self.report_cloud(cloud)

    def on_cloud(self, cloud: PointCloud2) -> None:
        if stamp_of(cloud) not in self.images:
            self.clouds = {stamp_of(cloud): cloud}
        self.report_cloud(cloud)

    def report_cloud(self, cloud: PointCloud2) -> None:
        objects = column_of(cloud, 'object')
        finite = np.isfinite(column_of(cloud, 'z'))
        labels = self.images.get(stamp_of(cloud))
        same = labels is not None and bool((objects == labels)[objects > 0].all())
        report('points', cloud, values=count(objects), same=same, measured=int(finite.sum()))

    def on_object(self, message: CollisionObject) -> None:
        operation = {b'\0': 'ADD', b'\1': 'REMOVE', b'\2': 'APPEND', b'\3': 'MOVE'}
        position, turn = message.pose.position, message.pose.orientation
        report(
            'collision_objects',
            message,
            id=message.id,
            operation=operation[message.operation],
            label=message.type.key,
            position=[position.x, position.y, position.z],
            orientation=[turn.x, turn.y, turn.z, turn.w],
            boxes=[list(each.dimensions) for each in message.primitives if each.type == 1],
            shapes=len(message.primitives) + len(message.meshes) + len(message.planes),
            offsets=[
                [each.position.x, each.position.y, each.position.z, each.orientation.w]
                for each in message.primitive_poses
            ],
        )


def report(topic: str, message: Any, **fields: Any) -> None:
    line = {
        'topic': topic,
        'stamp': stamp_of(message),
        'frame': message.header.frame_id,
        **fields,
    }
    sys.stdout.write(json.dumps(line) + '\n')
    sys.stdout.flush()


def main() -> None:
    volatile = 'volatile' in sys.argv
    rclpy.init()
    durability = DurabilityPolicy.VOLATILE if volatile else DurabilityPolicy.TRANSIENT_LOCAL
    node = ForeignClient(QoSProfile(depth=SCENE_DEPTH, durability=durability))
    with contextlib.suppress(KeyboardInterrupt):
        rclpy.spin(node)


if __name__ == '__main__':
    main()
