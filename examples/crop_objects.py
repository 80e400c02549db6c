"""An example node that crops the objects of each answer from the camera image with OpenCV.

    python3 examples/crop_objects.py crops --ros-args -r __ns:=/segzero -r image:=/camera/color/image_raw

An answer has the header of its image, so the two are matched by their stamp.
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

# Buffered images: more than the camera publishes during an answer.
MAX_IMAGES = 100


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
        """Buffer an image for a later answer."""
        self.images[to_ns(image.header.stamp)] = image
        while len(self.images) > MAX_IMAGES:
            self.images.popitem(last=False)

    def crop(self, result: SegmentationResult) -> None:
        """Write the objects of an answer."""
        image = self.images.get(to_ns(result.header.stamp))
        if image is None:
            return
        # Uses cv_bridge if it is installed.
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
    # rclpy stops spinning on Ctrl-C itself. Python's KeyboardInterrupt could be raised during the
    # conversion of a message, as an error.
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
