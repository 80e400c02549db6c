"""Tell a running camera_sim what to look at, and wait until it does."""

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

# Enough that the picture of an answer is still there when the answer comes.
_KEPT = 30


class CameraControl:
    """The camera in a namespace, from outside.

    Args:
        namespace: where the camera is, as `camera`.
    """

    def __init__(self, namespace: str = 'camera') -> None:
        self._background = BackgroundNode('segzero_camera_control', namespace)
        node = self._background.node
        self._clock = node.get_clock()
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._news = threading.Condition()
        self._service = node.create_client(
            SetParametersAtomically, 'camera_sim/set_parameters_atomically'
        )
        node.create_subscription(Image, 'image', self._keep, QoSProfile(depth=5))

    def __enter__(self) -> CameraControl:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._background.close()

    def look_at(self, source: str, item: str, timeout: float = 20.0) -> int:
        """Let the camera look at something, and wait until two pictures of it came.

        Returns:
            The stamp (ns) from which on its pictures are of it.

        Raises:
            CameraError: there is no camera, no such picture, or none came in time.
        """
        if not self._service.wait_for_service(timeout):
            raise CameraError(f'There is no camera behind {self._service.srv_name}.')
        wanted = [Parameter('source', value=source), Parameter('item', value=item)]
        request = SetParametersAtomically.Request(
            parameters=[parameter.to_parameter_msg() for parameter in wanted]
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
        """Return the picture with this stamp; raise CameraError if it is not kept any more."""
        with self._news:
            message = self._images.get(stamp_ns)
        if message is None:
            raise CameraError(f'The camera published no picture with the stamp {stamp_ns}.')
        return decode_image(message)

    def wait_for_next(self, timeout: float = 20.0) -> None:
        """Wait for one more picture."""
        self._wait_for_images(self._clock.now().nanoseconds, 1, timeout)

    def _wait_for_images(self, since: int, count: int, timeout: float) -> None:
        with self._news:
            came = self._news.wait_for(
                lambda: sum(stamp >= since for stamp in self._images) >= count, timeout
            )
        if not came:
            raise CameraError(f'The camera published no {count} pictures within {timeout:g} s.')

    def _keep(self, message: Image) -> None:
        with self._news:
            self._images[to_ns(message.header.stamp)] = message
            while len(self._images) > _KEPT:
                self._images.popitem(last=False)
            self._news.notify_all()
