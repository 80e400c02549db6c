"""A node of your own: cut each object of an answer out of the camera's image with OpenCV.

    python3 examples/crop_objects.py crops --ros-args -r __ns:=/segzero -r image:=/camera/color/image_raw

An answer carries the header of the image that it is about, so the two are joined by their stamp.
"""  # noqa: E501

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
import signal
import sys

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.message_factory import segments_from, to_ns
from segzero_ros.ros.opencv_images import from_message

# Images that an answer may still be about: more than the models take at the camera's rate.
KEPT = 100


class CropObjects(Node):
    """Writes `<query id>_<object>.png` for each object of each answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__('crop_objects')
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.images: OrderedDict[int, Image] = OrderedDict()
        self.create_subscription(Image, 'image', self.keep, qos_profile_sensor_data)
        self.create_subscription(SegmentationResult, 'result', self.crop, 10)

    def keep(self, image: Image) -> None:
        """Keep an image until an answer about it may come."""
        self.images[to_ns(image.header.stamp)] = image
        while len(self.images) > KEPT:
            self.images.popitem(last=False)

    def crop(self, result: SegmentationResult) -> None:
        """Write what an answer found."""
        image = self.images.get(to_ns(result.header.stamp))
        if image is None:
            return
        # Through cv_bridge where that is installed.
        pixels = from_message(image, 'bgr8')
        for number, segment in enumerate(segments_from(result), 1):
            mask = segment.full_mask(*pixels.shape[:2])
            rows, columns = np.nonzero(mask)
            if not rows.size:
                continue
            alone = np.where(mask[..., None], pixels, 255)
            cut = alone[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            path = self.folder / f'{result.query_id}_{number}.png'
            cv2.imwrite(str(path), cut)
            self.get_logger().info(f'{result.query}: {path}')


def main() -> None:
    """Run the node until Ctrl-C."""
    # rclpy ends its spinning on Ctrl-C by itself. Python's KeyboardInterrupt may come while a
    # message is taken, and would end as an error of its conversion.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init()
    folder = rclpy.utilities.remove_ros_args(sys.argv)[1]
    try:
        rclpy.spin(CropObjects(Path(folder)))
    except ExternalShutdownException:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
