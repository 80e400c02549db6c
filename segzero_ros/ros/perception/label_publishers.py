"""Publishers of label images for costmaps, and of what their values mean.

`label_info` is published before the first image, and again before one with a new value. It is
latched, so that a costmap that starts later has it, too.
"""

from __future__ import annotations

import logging

from rclpy.publisher import Publisher
from sensor_msgs.msg import Image

from segzero_ros.conversions.label_images import BACKGROUND, class_ids, too_large
from segzero_ros.ros import message_factory
from segzero_ros.ros.perception import display_messages
from segzero_ros.ros.perception.make_publisher import MakePublisher
from segzero_ros.types import Answer, Task

# Queue depth of images, as in sensor_data.
IMAGE_DEPTH = 5
_logger = logging.getLogger(__name__)


class LabelPublishers:
    """Publishes `label_image`, `class_image`, `confidence` and `label_info`.

    Attributes:
        encoding: of both label images; may be changed from any thread.

    Args:
        publisher: creates the publishers.
    """

    def __init__(self, publisher: MakePublisher) -> None:
        self.encoding = 'mono16'
        self._label_image = publisher(Image, 'label_image', IMAGE_DEPTH)
        self._class_image = publisher(Image, 'class_image', IMAGE_DEPTH)
        self._confidence = publisher(Image, 'confidence', IMAGE_DEPTH)
        self._label_info: Publisher | None = None
        self._labels: dict[int, str] = {}
        try:
            from vision_msgs.msg import LabelInfo
        except ImportError:
            return
        self._label_info = publisher(LabelInfo, 'label_info', 1, latched=True)

    def publish(self, answer: Answer) -> None:
        """Publish the images that have subscribers, for an answer with a frame.

        An answer of a task without masks says nothing about where objects are: images without any
        would clear a costmap.
        """
        if answer.task is not Task.SEGMENT and not any(s.mask.size for s in answer.segments):
            return
        encoding = self.encoding
        self._publish_info(answer)
        by_id, by_class, confidence = (
            publisher.get_subscription_count()
            for publisher in (self._label_image, self._class_image, self._confidence)
        )
        if by_id or by_class:
            self._warn_of_large_ids(answer, encoding)
        if by_id:
            self._label_image.publish(message_factory.label_image(answer, encoding))
        if by_class:
            classes = class_ids(self._labels)
            self._class_image.publish(message_factory.class_image(answer, classes, encoding))
        if confidence:
            self._confidence.publish(message_factory.confidence_image(answer))

    def _publish_info(self, answer: Answer) -> None:
        """Publish the labels if the answer adds any, or gives an id another one."""
        added = {segment.id: segment.label for segment in answer.segments}
        known = self._labels or {0: BACKGROUND}
        if any(known.get(number, label) != label for number, label in added.items()):
            # Ids count anew in every answer, unless there is a standing query.
            known = {0: BACKGROUND}
        labels = {**known, **added}
        if labels == self._labels:
            return
        self._labels = labels
        if self._label_info is not None:
            header = message_factory.header_of(answer)
            self._label_info.publish(display_messages.label_info(header, labels))

    def _warn_of_large_ids(self, answer: Answer, encoding: str) -> None:
        ids = too_large(answer, encoding)
        if ids:
            _logger.warning(
                '%d objects are left out of the label images, because their ids (up to %d) do '
                'not fit into %s; set label_encoding to `mono16`.',
                len(ids),
                max(ids),
                encoding,
            )
