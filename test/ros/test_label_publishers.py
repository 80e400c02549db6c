"""Label images are made while somebody subscribes, and their values are named before."""

from __future__ import annotations

from dataclasses import replace
import importlib.util
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='the publishers need ROS 2')

from segzero_ros.ros import message_factory
from segzero_ros.ros.perception.label_publishers import LabelPublishers
from segzero_ros.types import Answer, Frame, Query, Roi, Segment, Status, Task

IMAGES = ('label_image', 'class_image', 'confidence')


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give vision_msgs: the installed one, or classes that take the fields of LabelInfo."""
    if importlib.util.find_spec('vision_msgs'):
        return
    module = ModuleType('vision_msgs.msg')
    module.LabelInfo = module.VisionClass = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'vision_msgs', ModuleType('vision_msgs'))
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg', module)


class Topics:
    """Stands in for rclpy's publishers; keeps the order in which they publish."""

    def __init__(self) -> None:
        self.subscribed: set[str] = set()
        self.sent: list[tuple[str, Any]] = []
        self.latched: set[str] = set()
        self.publishers = LabelPublishers(self._create)

    def _create(self, _: Any, topic: str, depth: int, *, latched: bool = False) -> Any:
        if latched:
            self.latched.add(topic)
        return SimpleNamespace(
            get_subscription_count=lambda: int(topic in self.subscribed),
            publish=lambda message: self.sent.append((topic, message)),
        )

    def labels(self) -> dict[int, str]:
        info = [message for topic, message in self.sent if topic == 'label_info'][-1]
        return {each.class_id: each.class_name for each in info.class_map}

    def taken(self) -> list[str]:
        sent, self.sent = self.sent, []
        return [topic for topic, _ in sent]


@pytest.fixture
def topics(vision_msgs: None) -> Topics:
    return Topics()


def answer(task: Task = Task.SEGMENT, **labels: int) -> Answer:
    """Return an answer with these ids by their labels."""
    roi = Roi(0, 0, 2, 2)
    mask = np.ones((2, 2), np.bool_)
    segments = tuple(
        Segment(number, label, 0.5, roi, (), roi, mask) for label, number in labels.items()
    )
    frame = Frame(np.zeros((4, 4, 3), np.uint8), 1, 'optical')
    return Answer(Query('things'), Status.OK, task=task, frame=frame, segments=segments)


def test_labels_are_latched_and_come_before_the_images(topics: Topics) -> None:
    topics.subscribed = set(IMAGES)
    topics.publishers.publish(answer(cup=1))
    assert topics.latched == {'label_info'}
    assert topics.labels() == {0: 'background', 1: 'cup'}
    assert topics.taken() == ['label_info', *IMAGES]


def test_labels_come_again_only_if_there_are_others(topics: Topics) -> None:
    topics.publishers.publish(answer(cup=1))
    topics.publishers.publish(answer(cup=1))
    topics.publishers.publish(answer())
    assert topics.taken() == ['label_info']
    topics.publishers.publish(answer(plate=2))
    assert topics.labels() == {0: 'background', 1: 'cup', 2: 'plate'}
    topics.publishers.publish(answer(plate=1))
    assert topics.labels() == {0: 'background', 1: 'plate'}


def test_an_image_without_objects_is_all_background(topics: Topics) -> None:
    topics.publishers.publish(answer())
    assert topics.labels() == {0: 'background'}


@pytest.mark.parametrize('task', [Task.DETECT, Task.COUNT, Task.ANSWER, Task.POINT])
def test_an_answer_without_masks_says_nothing_about_where_objects_are(
    topics: Topics, task: Task
) -> None:
    topics.subscribed = set(IMAGES)
    topics.publishers.publish(answer(cup=1))
    topics.taken()
    nothing = np.zeros((0, 0), np.bool_)
    found = answer(task, plate=1)
    boxes = tuple(replace(each, mask=nothing, mask_roi=Roi(0, 0, 0, 0)) for each in found.segments)
    topics.publishers.publish(replace(found, segments=boxes))
    topics.publishers.publish(answer(task))
    assert topics.taken() == []
    # Points may have masks of what they are on.
    topics.publishers.publish(found)
    assert topics.taken() == ['label_info', *IMAGES]
    topics.publishers.publish(answer())
    assert topics.taken() == [*IMAGES], 'NOT_FOUND clears'


@pytest.mark.parametrize('topic', IMAGES)
def test_only_what_is_subscribed_is_made(
    topics: Topics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name in ('label_image', 'class_image', 'confidence_image'):
        monkeypatch.setattr(message_factory, name, lambda *_, name=name: made.append(name))
    topics.publishers.publish(answer(cup=1))
    assert made == []
    topics.subscribed = {topic}
    topics.publishers.publish(answer(cup=1))
    assert [name.removesuffix('_image') for name in made] == [topic.removesuffix('_image')]


def test_an_id_that_does_not_fit_is_warned_of(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    topics.publishers.encoding = 'mono8'
    topics.subscribed = {'label_image'}
    with caplog.at_level(logging.WARNING):
        topics.publishers.publish(answer(cup=254))
        assert not caplog.text
        topics.publishers.publish(answer(cup=255, plate=300))
    assert '2 objects are left out' in caplog.text
    assert 'mono16' in caplog.text


def test_without_vision_msgs_there_are_images_and_no_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'vision_msgs', None)
    topics = Topics()
    topics.subscribed = set(IMAGES)
    topics.publishers.publish(answer(cup=1))
    assert topics.taken() == list(IMAGES)
