"""Any sentence and any camera: one result with a status for each query, and no harm done."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header
from strange_cameras import depth_images, GOOD_K, infos, SCENE

from segzero_ros.conversions.text import clean_text, read_query
from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.msg import SegmentedObject
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    depth_message,
    image_message,
)

FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None)
DEPTH = SCENE.frame.depth
# As in config/offline.yaml.
LONGEST = 2000
GOOD = 'show me the nearest yellow object'

# What a ROS string cannot carry is left out: a zero ends it, and half of a character is no text.
ANY = st.characters(exclude_categories=('Cs',), exclude_characters='\0')
ACTIVE = st.characters(categories=('Cc', 'Cf', 'Zl', 'Zp', 'Co', 'Mn'), exclude_characters='\0')
WORDS = st.sampled_from(
    ('the', 'red', 'biggest', 'things', 'left of', '3', 'no', '?', '(', '红色')
)
TEXTS = (
    st.text(ANY, max_size=60)
    | st.text(ACTIVE, max_size=60)
    | st.lists(WORDS | st.text(ACTIVE, max_size=2), max_size=12).map(' '.join)
    | st.builds(lambda text, times: text * times, st.text(ANY), st.integers(1, 10_000))
)


class Stage:
    """Shows one scene, with whatever depth and intrinsics it is given."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._publishers = [
            client.node.create_publisher(kind, topic, QoSProfile(depth=1))
            for kind, topic in ((CameraInfo, 'camera_info'), (Image, 'depth'), (Image, 'image'))
        ]

    def show(self, depth: Any = None, info: Any = None) -> Any:
        """Publish these, the scene's own by default, and return an answer about that picture."""
        stamps: list[Any] = []

        def answer() -> Any:
            header = Header(frame_id='optical', stamp=self._client.node.get_clock().now().to_msg())
            stamps.append(header.stamp)
            messages = (
                info_of(info) if info else camera_info_message(GOOD_K, header),
                Image(**vars(depth)) if depth else depth_message(DEPTH, '32FC1', header),
                image_message(SCENE.frame.image, 'rgb8', header),
            )
            for publisher, message in zip(self._publishers, messages, strict=True):
                message.header = header
                publisher.publish(message)
            result = self._client.once(GOOD)
            return result if result.header.stamp in stamps else None

        return self._client.until(answer, 'an answer about this picture')


def info_of(fields: Any) -> CameraInfo:
    """Return the message with these fields."""
    return CameraInfo(**{**vars(fields), 'roi': RegionOfInterest(**vars(fields.roi))})


@pytest.fixture(scope='module')
def node(node_process: Callable[..., Any]) -> Any:
    return node_process(
        {'camera.max_image_age': 0.0}, profile='offline', arguments=['-r', '__ns:=/fuzzed']
    )


@pytest.fixture(scope='module')
def client(node: Any, new_client: Callable[..., Any]) -> Any:
    client = new_client('fuzzed')
    client.wait_for_server()
    client.wait_for_state('active')
    client.stage = Stage(client)
    assert client.stage.show().status == Result.OK
    return client


@FEW
@given(depth=depth_images(), info=infos())
def test_whatever_comes_with_a_picture_it_is_answered(client: Any, depth: Any, info: Any) -> None:
    result = client.stage.show(depth, info)
    # Depth that lies may hide things from the reasoner, which looks at it.
    assert result.status in (Result.OK, Result.NOT_FOUND), result.message
    for found in result.objects:
        sizes, place = found.size, found.pose.position
        assert all(map(math.isfinite, (sizes.x, sizes.y, sizes.z, place.x, place.y, place.z)))


def test_good_depth_gives_a_pose_after_all_this(client: Any) -> None:
    (found,) = client.stage.show().objects
    assert found.pose_status == SegmentedObject.POSE_OK


@FEW
@given(text=TEXTS)
def test_every_sentence_has_exactly_one_result_whichever_way_it_comes(
    client: Any, text: str
) -> None:
    client.results.forget()
    handle = client.send_goal(text)
    client.say(text)
    mine = [client.once(text), client.outcome(handle)[1]]
    # The order is kept on the way: whatever else there is came before this one.
    last = client.once(GOOD)
    assert last.status == Result.OK, last.message
    client.results.wait_for_count(4)
    client.results.wait_for(lambda result: result.query_id == last.query_id)
    *results, newest = client.results
    assert newest.query_id == last.query_id
    assert len({result.query_id for result in results}) == len(results) == 3
    assert {result.query_id for result in mine} < {result.query_id for result in results}
    read, complaint = read_query(text, LONGEST)
    expected = {Result.REJECTED} if complaint else {Result.OK, Result.NOT_FOUND}
    for result in (*mine, *results):
        assert result.query == clean_text(read)
        assert result.status in expected, result.message
        assert result.message or result.objects


def test_nothing_was_raised_by_all_this(node: Any) -> None:
    assert node.running
    assert 'Traceback' not in node.output
