"""A bag played to the launched node gives what `segzero replay` gives: one way to an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from recordings import Recording
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray
import yaml

from segzero_ros.cli.main import main
from segzero_ros.msg import SegmentationResult, SegmentedObject, Timing
from segzero_ros.replay.bag import BagMessage, BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import find_topics
from segzero_ros.ros.camera.rgbd_subscriber import RgbdSubscriber
from segzero_ros.simulation import make_scene

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'camera_sim'
SEEDS = (3, 4, 5, 7)
PERIOD = 1_500_000_000
OFFERED = 5_000_000
MS = 1_000_000


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


@pytest.fixture(scope='module')
def asked() -> list[str]:
    """What is asked about each frame: what is there, and once what is not."""
    texts = []
    for number, seed in enumerate(SEEDS):
        wanted = 'none' if number == 2 else 'colour'
        sentences = make_scene(seed, width=320, height=240).sentences
        texts.append(next(one.text for one in sentences if one.kind == wanted))
    assert len(set(texts)) == len(texts)
    return texts


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose images come after their depth and camera_info."""
    recording = Recording()
    for number, seed in enumerate(SEEDS):
        frame = make_scene(seed, width=320, height=240, sentences=False).frame
        at = number * PERIOD
        recording.info('/camera/camera_info', frame, at, late_ns=-2 * OFFERED)
        recording.picture('/camera/depth', frame, at, encoding='16UC1', late_ns=-OFFERED)
        recording.picture('/camera/image', frame, at)
    return recording.write(tmp_path_factory.mktemp('bags') / 'table')


@pytest.fixture(scope='module')
def live(
    node_process: Callable[..., Any],
    new_client: Callable[..., Any],
    bag: Path,
    asked: list[str],
) -> tuple[list[SegmentationResult], list[Clock], list[MarkerArray]]:
    """What the node answers and shows while the bag is played to it, and the clock meanwhile."""
    remap = ['-r', '__ns:=/live']
    node_process({'use_sim_time': True}, profile='offline', arguments=remap)
    client = new_client('live')
    camera = node_process({'item': 'coffee'}, script=SCRIPT, arguments=remap)
    client.wait_for_server()
    client.wait_for_state('active')
    images = client.listen(Image, 'image', 100)
    markers = client.listen(MarkerArray, 'markers', 100)
    clocks = client.listen(Clock, '/clock', 10_000)
    # The node hears the camera before the bag begins.
    client.until(lambda: client.once('anything').status != SegmentationResult.NO_IMAGE)
    # The node shows what somebody listens to.
    client.until(lambda: client.once('the red thing') and len(markers))
    player = new_client('live', 'camera_sim')
    for name, value in (
        ('path', str(bag)),
        ('loop', False),
        ('stamps', 'recorded'),
        ('source', 'bag'),
    ):
        assert player.set_parameter(name, value) == (True, '')
    markers.forget()
    results = []
    for number, text in enumerate(asked, start=1):
        images.wait_for_count(number, lambda image: image.width == 320)
        results.append(client.ask(text))
    camera.wait_for_output('The playback has ended')
    return results, list(clocks), markers.wait_for_count(len(asked))


@pytest.fixture(scope='module')
def replayed(
    live: tuple[list[SegmentationResult], list[Clock], list[MarkerArray]],
    bag: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The bag that `segzero replay` writes about the same images."""
    folder = tmp_path_factory.mktemp('replayed')
    queries = folder / 'queries.yaml'
    queries.write_text(
        yaml.safe_dump([{'stamp': stamp_ns(one), 'query': one.query} for one in live[0]])
    )
    words = ['replay', str(bag), '--queries', str(queries), '-o', str(folder / 'out'), '-q']
    assert main([*words, '--profile', 'offline', '--without', 'video']) == 0
    return folder / 'out' / 'bag'


def messages(bag: Path, topic: str, kind: Any) -> list[Any]:
    """Return a topic's messages as rclpy's."""
    with AnyReader([bag]) as reader:
        connections = [one for one in reader.connections if one.topic == topic]
        return [
            deserialize_message(bytes(data), kind) for _, _, data in reader.messages(connections)
        ]


def comparable(result: SegmentationResult) -> str:
    """Return all of a result but the name of the query and what the machine took.

    Every byte of every field; what the middleware leaves between fields is anything.
    """
    result.query_id, result.timing = '', Timing()
    return repr(result)


def test_the_node_answers_about_the_recorded_stamps(live, bag) -> None:
    results, *_ = live
    stamps = [stamp_ns(result) for result in results]
    assert [stamp - stamps[0] for stamp in stamps] == [n * PERIOD for n in range(len(SEEDS))]
    statuses = [result.status for result in results]
    ok, none = SegmentationResult.OK, SegmentationResult.NOT_FOUND
    assert statuses == [ok, ok, none, ok]
    objects = [found for result in results for found in result.objects]
    assert {found.pose_status for found in objects} == {SegmentedObject.POSE_OK}


def test_live_and_replayed_answers_are_the_same_bytes(live, replayed) -> None:
    results, *_ = live
    for one, other in zip(
        results, messages(replayed, '/segzero/result', SegmentationResult), strict=True
    ):
        assert comparable(one) == comparable(other)


def test_markers_are_the_same_bytes(live, replayed) -> None:
    shown = messages(replayed, '/segzero/markers', MarkerArray)
    assert list(map(repr, live[2])) == list(map(repr, shown))
    assert max(len(one.markers) for one in shown) > 1


def test_the_clock_is_the_recording(live) -> None:
    results, clocks, _ = live
    times = [one.clock.sec * 1_000_000_000 + one.clock.nanosec for one in clocks]
    assert times == sorted(times)
    assert times[-1] == stamp_ns(results[-1])
    # It runs between the messages, too.
    assert len(set(times)) > 10 * len(SEEDS)


# How late depth is, how often colour and depth come, and how far their stamps are apart.
PATTERNS = {
    'depth 5 ms late': (5 * MS, 33 * MS, 33 * MS, 0),
    'depth 200 ms late': (200 * MS, 33 * MS, 33 * MS, 0),
    'depth 300 ms late, stamps 3 ms apart': (300 * MS, 33 * MS, 33 * MS, 3 * MS),
    'colour four times as often': (130 * MS, 17 * MS, 68 * MS, 0),
    'colour 250 ms late': (-250 * MS, 33 * MS, 33 * MS, 0),
}


def recorded_with(pattern: str, path: Path) -> Path:
    """Record two seconds of a camera, and queries from the second on."""
    late, colour_period, depth_period, apart = PATTERNS[pattern]
    frames = [make_scene(seed, width=64, height=48, sentences=False).frame for seed in range(3)]
    recording = Recording()
    recording.info('/camera/camera_info', frames[0], 0, late_ns=-400 * MS)
    for number in range(2_000 * MS // colour_period):
        at = number * colour_period
        recording.picture('/camera/image', frames[number % 3], at, late_ns=max(0, -late))
    for number in range(2_000 * MS // depth_period):
        at = number * depth_period + apart
        frame = frames[number % 3]
        recording.picture('/camera/depth', frame, at, encoding='16UC1', late_ns=max(0, late))
    for number in range(25):
        recording.text('/segzero/query', f'query {number}', 1_000 * MS + number * 37 * MS + 11)
    return recording.write(path)


def play_to(camera: RgbdSubscriber, bag: BagReader, client: Any, topics: Any) -> list[Any]:
    """Publish a bag's messages in their order; return the frame that each query takes."""
    kinds = {topics.image: Image, topics.depth: Image, topics.camera_info: CameraInfo}
    names = {topics.image: 'image', topics.depth: 'depth', topics.camera_info: 'camera_info'}
    publishers = {
        topic: client.node.create_publisher(kind, names[topic], 5) for topic, kind in kinds.items()
    }
    client.until(
        lambda: all(one.get_subscription_count() for one in publishers.values()), 'it listens'
    )

    def has(message: BagMessage) -> bool:
        stored = {
            topics.image: camera.buffer.newest,
            topics.depth: camera.buffer.newest_depth,
        }.get(message.topic, lambda: camera.buffer._infos[-1] if camera.buffer._infos else None)()
        return stored is not None and stored.data == message.data

    taken = []
    for message in bag.messages({topics.queries, *kinds}):
        if message.topic == topics.queries:
            taken.append(camera.take().frame)
        else:
            publishers[message.topic].publish(bytes(message.data))
            client.until(lambda message=message: has(message), 'the node has it')
    for publisher in publishers.values():
        client.node.destroy_publisher(publisher)
    return taken


@pytest.mark.parametrize('pattern', PATTERNS)
def test_recorded_queries_take_the_node_s_frames_however_late_depth_is(
    pattern: str, tmp_path: Path, new_client: Callable[..., Any]
) -> None:
    client = new_client('paired')
    camera = RgbdSubscriber(client.node, 0.05)
    with BagReader(recorded_with(pattern, tmp_path / 'late')) as bag:
        topics = find_topics(bag)
        taken = play_to(camera, bag, client, topics)
        limits = ScheduleLimits(50 * MS, 5_000 * MS, 100)
        jobs = QuerySchedule(
            topics,
            QueryPlan(recorded=True),
            limits,
            bag.span_ns[0],
            lambda m: TimedQuery(bag.parse(m).data),
        )
        frames = BagFrames(bag, topics)
        messages = bag.messages(jobs.topics)
        replayed = [frames.frame(job.rgbd)[0] for job in jobs.run(messages) if job.rgbd]
    camera.close()
    assert len(taken) == len(replayed) == 25
    for one, other in zip(taken, replayed, strict=True):
        assert one.stamp_ns == other.stamp_ns
        assert np.array_equal(one.image, other.image)
        assert one.depth is not None
        assert np.array_equal(one.depth, other.depth, equal_nan=True)
        assert one.intrinsics == other.intrinsics
