"""Remote control of a running camera_sim: select an image and wait until it is published."""

from __future__ import annotations

from collections import OrderedDict
import threading
from types import TracebackType

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from segzero_ros.conversions.image import decode_image
from segzero_ros.ros.background_node import BackgroundNode, wait_for_future
from segzero_ros.ros.camera_sim.sources import CameraError
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.types import RgbImage

# Number of images kept, so that the image of an answer is still there when the answer arrives.
_MAX_IMAGES = 30


class CameraControl:
    """Controls the camera in a namespace.

    Args:
        namespace: the camera's, such as `camera`.
    """

    def __init__(self, namespace: str = 'camera') -> None:
        self._background = BackgroundNode('segzero_camera_control', namespace)
        node = self._background.node
        self._clock = node.get_clock()
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._received = threading.Condition()
        self._service = node.create_client(
            SetParametersAtomically, 'camera_sim/set_parameters_atomically'
        )
        node.create_subscription(Image, 'image', self._on_image, QoSProfile(depth=5))

    def __enter__(self) -> CameraControl:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._background.close()

    def select(self, source: str, item: str, timeout: float = 20.0) -> int:
        """Select an item and wait for two images of it.

        Args:
            source: parameter `source`.
            item: parameter `item`.
            timeout: seconds for each step.

        Returns:
            The stamp (ns) from which on the images show the item.

        Raises:
            CameraError: there is no camera, no such item, or no image was received in time.
        """
        if not self._service.wait_for_service(timeout):
            raise CameraError(f'The camera does not offer {self._service.srv_name}.')
        changes = [Parameter('source', value=source), Parameter('item', value=item)]
        request = SetParametersAtomically.Request(
            parameters=[parameter.to_parameter_msg() for parameter in changes]
        )
        future = self._service.call_async(request)
        if not wait_for_future(future, timeout, self._background):
            raise CameraError(f'The camera did not answer within {timeout:g} s.')
        result = future.result().result
        if not result.successful:
            raise CameraError(result.reason)
        since: int = self._clock.now().nanoseconds
        self._wait_for_images(since, 2, timeout)
        return since

    def image(self, stamp_ns: int) -> RgbImage:
        """Return the image with this stamp; raise CameraError if it is not kept any more."""
        with self._received:
            message = self._images.get(stamp_ns)
        if message is None:
            raise CameraError(f'No image with the stamp {stamp_ns} was received.')
        return decode_image(message)

    def wait_for_next_image(self, timeout: float = 20.0) -> None:
        """Wait for one more image."""
        self._wait_for_images(self._clock.now().nanoseconds, 1, timeout)

    def _wait_for_images(self, since: int, count: int, timeout: float) -> None:
        with self._received:
            enough = self._received.wait_for(
                lambda: sum(stamp >= since for stamp in self._images) >= count, timeout
            )
        if not enough:
            raise CameraError(f'The camera did not publish {count} images within {timeout:g} s.')

    def _on_image(self, message: Image) -> None:
        with self._received:
            self._images[to_ns(message.header.stamp)] = message
            while len(self._images) > _MAX_IMAGES:
                self._images.popitem(last=False)
            self._received.notify_all()
