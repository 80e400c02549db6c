"""What an agent does with a running perception node: ask, look, track and stop."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, NamedTuple

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from segzero_ros.conversions.image import decode_image
from segzero_ros.ros.background_node import BackgroundNode, wait_for_future, wait_for_graph
from segzero_ros.ros.client.graph import describe_graph, node_identities
from segzero_ros.ros.client.types import ClientError, NoAnswer, NoNode
from segzero_ros.ros.health.diagnostics import CAMERA
from segzero_ros.srv import Ask
from segzero_ros.types import Status

# Seconds that the node has to be found, to say which camera it has, and to send an image.
_DISCOVERY, _IMAGE = 5.0, 5.0
# Seconds between two looks whether the node that was asked is still there.
_CHECK_PERIOD = 0.5
_JPEG_QUALITY = 85
# Language models see no more of a picture than this, pixels.
_MAX_SIDE = 1280
_IMAGE_TYPES = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CompressedImage': CompressedImage}


class View(NamedTuple):
    """A camera's image.

    Attributes:
        jpeg: the image, at most 1280 pixels wide and high.
        size: (width, height) of the camera's image in pixels, to which boxes refer.
        stamp_ns: of the image.
        frame_id: its optical frame.
    """

    jpeg: bytes
    size: tuple[int, int]
    stamp_ns: int
    frame_id: str


class AgentClient:
    """A client of one perception node, on the graph until `close()`. Thread-safe.

    The node may come and go; each method waits for it.

    Args:
        namespace: the node's, such as `segzero`.
        timeout: seconds that an answer may take.
    """

    def __init__(self, namespace: str = 'segzero', timeout: float = 120.0) -> None:
        self.namespace = '/' + namespace.strip('/')
        self._name = f'{self.namespace.rstrip("/")}/perception'
        self._timeout = timeout
        self._closed = threading.Event()
        self._background = BackgroundNode(f'segzero_agent_{os.getpid()}', self.namespace)
        node = self._background.node
        self._ask = node.create_client(Ask, 'ask')
        self._cancel = node.create_client(Trigger, 'cancel')
        self._parameters = node.create_client(SetParameters, 'perception/set_parameters')
        self._values = node.create_client(GetParameters, 'perception/get_parameters')
        self._camera: tuple[str, str] | None = None
        self._camera_known = threading.Event()
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def close(self) -> None:
        """Leave the graph; calls in other threads end soon."""
        self._closed.set()
        self._background.close()

    def ask(self, query: str, task: str = 'auto', *, with_overlay: bool = False) -> Ask.Response:
        """Return the compact answer about the newest camera image.

        Args:
            query: what to look for, count, point at or tell.
            task: one of types.TASK_NAMES.
            with_overlay: whether the answer has the annotated image.

        Raises:
            NoNode: there is no node.
            NoAnswer: the time is up.
            ClientError: the node could not answer; the text has the status and the reason.
        """
        request = Ask.Request(query=query, task=task, with_overlay=with_overlay)
        response = self._call(self._ask, request, self._timeout)
        status = Status(response.status)
        if status not in (Status.OK, Status.NOT_FOUND):
            raise ClientError(f'{status.name}: {response.message}')
        return response

    def track(self, query: str) -> Ask.Response:
        """Find objects and have the node track them from now on; errors as for `ask`.

        Unless something is found, the node goes on as before: another agent may track.
        """
        request = GetParameters.Request(names=['track'])
        before = self._call(self._values, request, _DISCOVERY).values[0].bool_value
        self._set_tracking(True)
        found = False
        try:
            response = self.ask(query, 'segment')
            found = response.status == Status.OK
        finally:
            if not found:
                self._set_tracking(before)
        return response

    def stop(self) -> str:
        """Stop the query that is being answered, drop the waiting ones, and end tracking.

        Returns:
            What was stopped, in a sentence of the node.

        Raises:
            NoNode: there is no node.
            NoAnswer: it does not respond.
        """
        response = self._call(self._cancel, Trigger.Request(), _DISCOVERY)
        self._set_tracking(False)
        return f'{response.message} Nothing is tracked any more.'

    def look(self) -> View:
        """Return the newest image of the node's camera.

        Raises:
            NoNode: there is no node.
            NoAnswer: the camera sends no image.
            BadImage: the image cannot be decoded.
        """
        topic = self._camera_topic()
        node = self._background.node
        kinds = dict(node.get_topic_names_and_types()).get(topic, [])
        kind = next((_IMAGE_TYPES[name] for name in kinds if name in _IMAGE_TYPES), None)
        if kind is None:
            raise NoAnswer(f'Nobody publishes {topic}: is the camera running?')
        received: list[Any] = []
        arrived = threading.Event()

        def on_image(message: Any) -> None:
            if not received:
                received.append(message)
                arrived.set()

        # Best effort and volatile: what every publisher offers.
        profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = node.create_subscription(kind, topic, on_image, profile)
        try:
            if not arrived.wait(_IMAGE):
                raise NoAnswer(f'No image on {topic} within {_IMAGE:g} s: is the camera running?')
        finally:
            node.destroy_subscription(subscription)
        header = received[0].header
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
        rgb = decode_image(received[0])
        height, width = rgb.shape[:2]
        return View(as_jpeg(rgb), (width, height), stamp_ns, str(header.frame_id))

    def _camera_topic(self) -> str:
        """Return the topic from which the node takes its images."""
        self._require_node(self._ask)
        # Once a second; a node that has been replaced may have another one.
        if not self._camera_known.wait(_DISCOVERY) or self._camera is None:
            raise NoAnswer(f'{self._name} publishes no /diagnostics: is it still starting?')
        topic, trouble = self._camera
        node = self._background.node
        if not wait_for_graph(lambda: node.count_publishers(topic) > 0, _DISCOVERY):
            raise NoAnswer(trouble or f'Nobody publishes {topic}: is the camera running?')
        return topic

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for report in message.status:
            if report.name == f'{self._name}: {CAMERA}':
                topics = [pair.value for pair in report.values if pair.key == 'topic']
                if topics and topics[0]:
                    level = report.level if isinstance(report.level, int) else report.level[0]
                    self._camera = topics[0], str(report.message) if level else ''
                    self._camera_known.set()

    def _set_tracking(self, on: bool) -> None:
        request = SetParameters.Request(
            parameters=[Parameter('track', Parameter.Type.BOOL, on).to_parameter_msg()]
        )
        (result,) = self._call(self._parameters, request, _DISCOVERY).results
        if not result.successful:
            raise ClientError(f'The node does not switch tracking: {result.reason}')

    def _require_node(self, client: Client) -> None:
        if not wait_for_graph(client.service_is_ready, _DISCOVERY):
            raise NoNode(
                f'There is no perception node in the namespace {self.namespace}. '
                + describe_graph(self._background.node, self.namespace)
            )

    def _call(self, client: Client, request: Any, timeout: float) -> Any:
        self._require_node(client)
        node = self._background.node
        # Grows: a node is discovered one endpoint after the other.
        asked: set[bytes] = set()
        future = client.call_async(request)
        deadline = time.monotonic() + timeout
        while not wait_for_future(future, min(_CHECK_PERIOD, deadline - time.monotonic())):
            if self._closed.is_set():
                raise NoAnswer('The client was closed.')
            present = node_identities(node, self.namespace)
            gone = not (asked <= present and client.service_is_ready())
            asked |= present
            if not gone and time.monotonic() < deadline:
                continue
            client.remove_pending_request(future)
            if not gone:
                raise NoAnswer(
                    f'{self._name} did not answer within {timeout:g} s; '
                    'stop ends what it is doing.'
                )
            restarted = client.service_is_ready()
            now = 'It is back: ask again.' if restarted else describe_graph(node, self.namespace)
            raise NoNode(f'{self._name} has died, and the answer with it. {now}')
        return future.result()


def as_jpeg(rgb: np.ndarray[Any, Any]) -> bytes:
    """Return an image as JPEG, smaller if it is larger than 1280 pixels.

    Args:
        rgb: (H, W, 3) uint8.
    """
    scale = _MAX_SIDE / max(rgb.shape[:2])
    if scale < 1:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)
