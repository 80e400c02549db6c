"""Places answers in the frame of the parameter `target_frame`, by the robot's transforms."""

from __future__ import annotations

import logging
import math
import os
import time

from rclpy.node import Node

from segzero_ros.ros.transform_listener import TransformListener, TransformRequest
from segzero_ros.spatial.placement import (
    has_geometry,
    in_camera_frame,
    in_frame,
    Placed,
    without_geometry,
)
from segzero_ros.spatial.transform_buffer import NoTransform
from segzero_ros.spatial.transforms import IDENTITY
from segzero_ros.types import Answer, Frame, Status

# How long the worker waits for a transform that arrives later than its image, seconds: for an
# answer, and for each tracked frame.
ANSWER_TIMEOUT = 0.2
TRACKED_TIMEOUT = 0.05
# Seconds between two warnings in the log.
_WARNING_PERIOD = 10.0
_logger = logging.getLogger(__name__)


class TargetFrame:
    """Subscribes to transforms while a target frame is set, and transforms answers into it.

    Args:
        node: owner of the subscriptions.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = ''
        self._listener: TransformListener | None = None
        self._not_installed = ''
        self._last_reason = ''
        self._warned_at = -math.inf

    def set(self, frame_id: str) -> None:
        """Publish in another frame from now on; in the executor's thread.

        Args:
            frame_id: its name; empty for the camera's optical frame.
        """
        name = frame_id.strip().lstrip('/')
        if name == self._name:
            return
        self._name, self._last_reason, self._not_installed = name, '', ''
        if not name:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()
        elif self._listener is None:
            try:
                self._listener = TransformListener(self._node)
            except ImportError:
                distro = os.environ.get('ROS_DISTRO', '<distribution>')
                self._not_installed = (
                    f'tf2_msgs is not installed (apt-get install ros-{distro}-tf2-msgs)'
                )
                self._warn(_sentence(name, self._not_installed))

    def match_publishers(self) -> None:
        """Adopt the QoS that the publishers of transforms offer now."""
        if self._listener is not None:
            self._listener.match_publishers()

    def clear(self) -> None:
        """Forget the transforms, because the time has jumped back."""
        if self._listener is not None:
            self._listener.clear()

    def warning(self, camera_frame: str) -> str:
        """Return why there is no transform; empty if there is one or none is needed.

        Args:
            camera_frame: of the newest image; empty without one.
        """
        name, listener = self._name, self._listener
        source = camera_frame.lstrip('/')
        if not name or not source or source == name:
            return ''
        if listener is None:
            return _sentence(name, self._not_installed)
        request = listener.request(name, source, 0)
        return _sentence(name, request.error) if request.transform is None else self._last_reason

    def request(self, frame: Frame) -> TransformRequest | None:
        """Begin to look up the transform at a frame's stamp, before the models run.

        Args:
            frame: to be answered about.

        Returns:
            What `place` takes; None if no transform is needed or can be had.
        """
        name, listener = self._name, self._listener
        source = frame.frame_id.lstrip('/')
        if listener is None or not source or source == name:
            return None
        return listener.request(name, source, frame.stamp_ns)

    def place(self, answer: Answer, request: TransformRequest | None = None) -> Placed:
        """Return an answer with its geometry in the target frame; in the worker's thread.

        Args:
            answer: the answer.
            request: what `request` returned about its frame; None for a tracked frame, which
                must not wait for long.

        Returns:
            The answer in the target frame at its frame's stamp; without geometry, and with the
            reason in its message, if there is no transform.
        """
        name = self._name if request is None else request.target
        frame = answer.frame
        if not name or frame is None or answer.status not in (Status.OK, Status.NOT_FOUND):
            return in_camera_frame(answer)
        if frame.frame_id == name:
            return in_camera_frame(answer)
        # The same frame may be named with ROS 1's leading slash, which tf2 refuses.
        if frame.frame_id.lstrip('/') == name or not has_geometry(answer):
            return in_frame(answer, name, IDENTITY)
        timeout = TRACKED_TIMEOUT if request is None else ANSWER_TIMEOUT
        request = request or self.request(frame)
        listener = self._listener
        if listener is None or request is None:
            missing = 'the image has no frame_id' if not frame.frame_id else self._not_installed
            return self._without(answer, _sentence(name, missing or 'target_frame was changed'))
        if timeout == TRACKED_TIMEOUT and not request.error.late:
            timeout = 0.0
        try:
            transform = listener.wait(request, timeout)
        except NoTransform as error:
            return self._without(answer, _sentence(name, error))
        self._last_reason = ''
        return in_frame(answer, name, transform)

    def _without(self, answer: Answer, reason: str) -> Placed:
        self._last_reason = reason
        self._warn(reason)
        return without_geometry(answer, reason)

    def _warn(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARNING_PERIOD:
            self._warned_at = now
            _logger.warning(reason)


def _sentence(name: str, reason: object) -> str:
    return f'Poses and clouds are not published in target_frame {name}: {reason}.'
