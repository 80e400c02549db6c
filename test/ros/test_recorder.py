"""What programs say to each other is in the bag, readable without this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import errno
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.action import ActionServer
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image
from std_msgs.msg import String
import yaml

from segzero_ros.action import Segment as SegmentAction
from segzero_ros.msg import SegmentationResult
from segzero_ros.replay.bag import BagWriter
from segzero_ros.ros.background_node import wait_for_graph
from segzero_ros.ros.client import NoNode, PerceptionClient
from segzero_ros.ros.message_factory import to_result
from segzero_ros.ros.recorder import Recorder, RecorderError
from segzero_ros.types import Answer, Frame, Query, Roi, Segment, Status

DEADLINE = 40.0


@pytest.fixture
def bag(tmp_path: Path) -> Iterator[BagWriter]:
    with BagWriter(tmp_path / 'bag') as writer:
        yield writer


@pytest.fixture(scope='module')
def talker(new_client: Callable[..., Any]) -> Any:
    return new_client('recorded')


def publish_until_recorded(talker: Any, bag: BagWriter, publisher: Any, message: Any) -> None:
    """Publish once the recorder listens, and wait until the message is written."""
    talker.until(lambda: publisher.get_subscription_count() > 0, 'somebody records')
    publisher.publish(message)
    topic = publisher.topic_name
    talker.until(lambda: bag.counts.get(topic, 0) > 0, f'{topic} is in the bag')


def an_answer() -> Answer:
    frame = Frame(np.zeros((20, 30, 3), np.uint8), 1_234_567_890, 'camera')
    mask = np.eye(4, dtype=np.bool_)
    segment = Segment(1, 'Tasse', 0.5, Roi(2, 3, 4, 4), ((4.0, 5.0),), Roi(2, 3, 4, 4), mask)
    return Answer(Query('die Tasse', 'q1'), Status.OK, '', frame, 'Größe', segments=(segment,))


def test_results_and_images_are_recorded_as_they_came(
    talker: Any, bag: BagWriter, tmp_path: Path
) -> None:
    result = to_result(an_answer())
    pixels = np.arange(24, dtype=np.uint8)
    image = Image(height=2, width=4, encoding='rgb8', step=12, data=pixels.tobytes())
    publishers = [
        talker.node.create_publisher(SegmentationResult, 'result', 10),
        talker.node.create_publisher(Image, 'image', 10),
    ]
    with Recorder(bag, ['/recorded']) as recorder:
        assert recorder.wait_for(['/recorded/result', '/recorded/image'], DEADLINE)
        for publisher, message in zip(publishers, (result, image), strict=True):
            publish_until_recorded(talker, bag, publisher, message)
    bag.close()
    with AnyReader([tmp_path / 'bag']) as reader:
        read = {
            connection.topic: reader.deserialize(raw, connection.msgtype)
            for connection, _, raw in reader.messages()
        }
        stamps = [stamp for _, stamp, _ in reader.messages()]
    (thing,) = read['/recorded/result'].objects
    assert read['/recorded/result'].reasoning == 'Größe'
    assert (thing.label, thing.points[0].x, thing.mask_roi.x_offset) == ('Tasse', 4.0, 2)
    assert np.array_equal(thing.mask.data.reshape(4, 4) > 0, np.eye(4))
    assert np.array_equal(read['/recorded/image'].data, pixels)
    assert stamps == sorted(stamps)
    now = talker.node.get_clock().now().nanoseconds
    assert 0 < now - stamps[-1] < 60e9


@pytest.mark.parametrize('reliability', ['RELIABLE', 'BEST_EFFORT'])
@pytest.mark.parametrize('durability', ['VOLATILE', 'TRANSIENT_LOCAL'])
def test_what_is_offered_is_what_is_subscribed_to_and_noted(
    talker: Any, bag: BagWriter, tmp_path: Path, reliability: str, durability: str
) -> None:
    qos = QoSProfile(
        depth=3,
        reliability=ReliabilityPolicy[reliability],
        durability=DurabilityPolicy[durability],
    )
    topic = f'/recorded/{reliability.lower()}_{durability.lower()}'
    publisher = talker.node.create_publisher(String, topic, qos)
    if durability == 'TRANSIENT_LOCAL' and reliability == 'RELIABLE':
        publisher.publish(String(data='said before anybody recorded'))
    with Recorder(bag, [], [topic]):
        publish_until_recorded(talker, bag, publisher, String(data='now'))
        expected = 2 if durability == 'TRANSIENT_LOCAL' and reliability == 'RELIABLE' else 1
        talker.until(lambda: bag.counts[topic] == expected, f'{expected} messages')
    bag.close()
    metadata = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())
    (entry,) = metadata['rosbag2_bagfile_information']['topics_with_message_count']
    noted = entry['topic_metadata']['offered_qos_profiles'][0]['reliability']
    assert noted == reliability.lower()


def test_a_query_is_in_the_bag_of_a_recorder_that_looks_late(
    bag: BagWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('segzero_ros.ros.recorder._DISCOVERY_PERIOD', 1.0)
    with Recorder(bag, ['/recorded']) as recorder, PerceptionClient('recorded') as client:
        assert recorder.wait_for(['/recorded/query'], DEADLINE)
        assert client.wait_for_subscribers(1, DEADLINE)
        with pytest.raises(NoNode):
            client.ask_by_topic('heard although nobody answers')
        assert wait_for_graph(lambda: bag.counts['/recorded/query'] == 1, DEADLINE)


def test_other_namespaces_and_hidden_topics_are_left_out(
    talker: Any, bag: BagWriter, caplog: pytest.LogCaptureFixture
) -> None:
    server = ActionServer(talker.node, SegmentAction, 'hidden', lambda goal: None)
    others = [
        talker.node.create_publisher(String, name, 10)
        for name in ('/recordedtoo/talk', '/elsewhere', '/recorded/talk')
    ]
    with caplog.at_level(logging.WARNING), Recorder(bag, ['/recorded/']) as recorder:
        assert recorder.wait_for(['/recorded/talk'], DEADLINE)
        publish_until_recorded(talker, bag, others[2], String(data='heard'))
    assert {'/recordedtoo/talk', '/elsewhere'}.isdisjoint(bag.counts)
    assert not [topic for topic in bag.counts if '_action' in topic]
    assert not caplog.records
    server.destroy()


def test_waiting_for_a_topic_that_nobody_publishes_ends(talker: Any, bag: BagWriter) -> None:
    with Recorder(bag, ['/recorded']) as recorder:
        assert not recorder.wait_for(['/recorded/nothing'], 0.3)


def test_a_recorder_that_cannot_write_any_more_says_so_to_all_who_wait(
    talker: Any, bag: BagWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    publisher = talker.node.create_publisher(String, 'too_much', 10)
    recorder = Recorder(bag, ['/recorded'])
    publish_until_recorded(talker, bag, publisher, String(data='this one has room'))
    monkeypatch.setattr(bag, 'write', no_room)
    publisher.publish(String(data='this one has none'))
    with pytest.raises(RecorderError, match=r'/recorded/too_much.*No space left on device'):
        recorder.wait_for(['/recorded/nothing'], DEADLINE)
    assert 'Recording stopped' in caplog.text
    # Nothing is written behind the gap, and whoever completes the bag learns of it.
    monkeypatch.undo()
    publisher.publish(String(data='this one would have'))
    with pytest.raises(RecorderError, match='Is the disk full'):
        recorder.close()
    assert bag.counts['/recorded/too_much'] == 1
