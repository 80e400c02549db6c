"""The client asks the real node by all three ways, and says why when it gets no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.action import ActionServer
from rclpy.task import Future
from sensor_msgs.msg import Image

from segzero_ros.action import Segment as SegmentAction
from segzero_ros.ros.background_node import wait_for_graph
from segzero_ros.ros.client import ClientError, NoAnswer, NoNode, PerceptionClient, Progress
from segzero_ros.types import BadImage, Stage, Status

DEADLINE = 40.0
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
Start = Callable[..., Any]


@pytest.fixture(scope='module')
def node(scripted_node: Start) -> Any:
    return scripted_node(arguments=['-r', '__ns:=/asked'])


@pytest.fixture(scope='module')
def camera(node: Any, new_client: Start, red_and_blue: Any) -> Any:
    return new_client('asked').camera(red_and_blue, rate=10)


@pytest.fixture(scope='module')
def client(node: Any, camera: Any) -> Iterator[PerceptionClient]:
    with PerceptionClient('asked', overlays=True) as client:
        assert client.wait_for_node(DEADLINE) == 'active'
        node.wait_for_output('Active')
        while client.ask('something').answer.status is Status.NO_IMAGE:
            assert node.running
        yield client


@pytest.mark.parametrize('way', ['ask', 'ask_by_topic', 'ask_by_service'])
def test_each_way_gives_the_answer_about_the_newest_frame(
    client: PerceptionClient, camera: Any, way: str
) -> None:
    reply = getattr(client, way)(f'something {way}')
    (segment,) = reply.answer.segments
    assert reply.answer.status is Status.OK
    assert reply.answer.query.text == segment.label == f'something {way}'
    assert (reply.width, reply.height) == (320, 240)
    assert segment.mask.all()
    assert tuple(segment.mask_roi) == (80, 60, 160, 120)
    assert reply.frame_id == 'camera_optical_frame'
    assert divmod(reply.stamp_ns, 10**9) in camera.stamps


@pytest.mark.parametrize('way', ['ask', 'ask_by_topic'])
def test_the_reasoning_streams_while_the_node_works(client: PerceptionClient, way: str) -> None:
    heard: list[Progress] = []
    reply = getattr(client, way)('count to 30', on_progress=heard.append)
    assert reply.answer.status is Status.OK
    text = ''.join(progress.text for progress in heard)
    assert text.startswith('0 1 2 ')
    assert text.strip() in ' '.join(map(str, range(30)))
    assert len([progress for progress in heard if progress.text]) > 10
    assert heard[-1].stage in (Stage.REASONING, Stage.SEGMENTING)


@pytest.mark.parametrize('way', ['ask', 'ask_by_service'])
def test_a_picture_of_ones_own_is_asked_about(client: PerceptionClient, way: str) -> None:
    picture = np.full((50, 80, 3), (10, 20, 30), np.uint8)
    reply = getattr(client, way)('this', picture)
    assert (reply.width, reply.height) == (80, 50)
    assert reply.answer.frame is not None
    assert np.array_equal(reply.answer.frame.image, picture)
    assert tuple(reply.answer.segments[0].box) == (20, 12, 40, 26)


@pytest.mark.parametrize('way', ['ask', 'ask_by_service'])
def test_images_go_and_come_as_opencv_has_them(client: PerceptionClient, way: str) -> None:
    bgr = np.full((50, 80, 3), (10, 20, 230), np.uint8)
    reply = getattr(client, way)('this', bgr, order='bgr8')
    assert reply.answer.frame is not None
    assert np.array_equal(reply.answer.frame.image, bgr[..., ::-1])

    def is_red() -> bool:
        # Above the caption the picture shows what was sent, whatever is drawn upon it.
        above = client.overlay(reply, DEADLINE, 'bgr8')[:200]
        return bool((above[..., 2] > above[..., 0]).mean() > 0.9)

    # An earlier answer's picture may come later, and has the same stamp.
    assert wait_for_graph(is_red, DEADLINE)
    assert np.array_equal(client.overlay(reply), client.overlay(reply, order='bgr8')[..., ::-1])
    with pytest.raises(BadImage, match=r'must be \(H, W, 3\) uint8'):
        getattr(client, way)('this', bgr[..., 0])


def test_the_example_outlines_what_was_found(client: PerceptionClient, tmp_path: Path) -> None:
    grey = np.full((100, 160, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    done = run_example(
        'ask_with_opencv', str(tmp_path / 'grey.png'), 'this', str(tmp_path / 'out.png'), 'asked'
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('OK')
    seen = cv2.imread(str(tmp_path / 'out.png'))
    green = (seen == (0, 255, 0)).all(axis=2)
    # The object is the middle half of the picture.
    assert green[25:75, 40].all()
    assert green[25, 40:120].all()
    assert (seen[~green] == 128).all()


def test_the_example_crops_the_objects_of_each_answer(
    client: PerceptionClient, node_process: Start, red_and_blue: Any, tmp_path: Path
) -> None:
    crops = tmp_path / 'crops'
    example = node_process(
        script=EXAMPLES / 'crop_objects.py',
        arguments=['-r', '__ns:=/asked', '--', str(crops)],
    )
    assert client.wait_for_subscribers(1, DEADLINE)
    wait_for_graph(lambda: 'crop_objects' in client._node.get_node_names(), DEADLINE)
    # Its subscriptions may be discovered seconds after its name.
    end = time.monotonic() + DEADLINE
    while 'crop 1: ' not in example.output and time.monotonic() < end:
        assert client.ask_by_topic('crop 1').answer.status is Status.OK
    example.wait_for_output(r'crop \d+: ')
    path = next(crops.iterdir())
    assert np.array_equal(cv2.imread(str(path)), red_and_blue[60:180, 80:240, ::-1])
    code, output = example.stop()[0], example.output
    assert code == 0, output
    assert 'Traceback' not in example.output


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f'{name}.py'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_node_s_own_picture_of_the_answer_comes(client: PerceptionClient) -> None:
    overlay = client.overlay(client.ask('draw this'), DEADLINE)
    assert overlay.shape[1] == 640
    assert overlay.dtype == np.uint8
    assert overlay.shape[0] > 480


def test_two_answers_about_one_frame_have_their_own_pictures(client: PerceptionClient) -> None:
    for number in range(50):
        first = client.ask(f'first {number}')
        picture = client.overlay(first, DEADLINE)
        second = client.ask_by_topic(f'second {number}')
        if first.stamp_ns == second.stamp_ns:
            assert not np.array_equal(picture, client.overlay(second, DEADLINE))
            return
    pytest.fail('no two questions met one frame')


def test_a_result_for_somebody_else_is_not_taken_for_ones_own(client: PerceptionClient) -> None:
    with PerceptionClient('asked') as other:
        other.wait_for_node(DEADLINE)
        waiting = threading.Thread(target=other.ask, args=('count to 60',))
        waiting.start()
        reply = client.ask_by_topic('mine  \n alone')
        waiting.join(DEADLINE)
    assert reply.answer.query.text == 'mine alone'


def test_every_status_is_an_answer_with_its_message(client: PerceptionClient) -> None:
    for query, status in (
        ('babble', Status.MALFORMED_ANSWER),
        ('dawdle', Status.TIMEOUT),
        ('explode', Status.ERROR),
    ):
        answer = client.ask(query).answer
        assert (answer.status, bool(answer.message)) == (status, True)


def test_no_answer_in_time_is_an_error_and_stops_the_node(client: PerceptionClient) -> None:
    with pytest.raises(NoAnswer, match=r"/asked did not answer 'count for ever' within 0\.5 s"):
        client.ask('count for ever', timeout=0.5)
    # The one thread that owns the models is free again.
    assert client.ask('after that', timeout=DEADLINE).answer.status is Status.OK


def test_ctrl_c_cancels_the_goal(client: PerceptionClient) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.text:
            raise KeyboardInterrupt

    reply = client.ask('count for ever', on_progress=interrupt)
    assert reply.answer.status is Status.CANCELED


def test_feedback_that_is_not_understood_is_an_error_at_once_and_the_client_goes_on(
    client: PerceptionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NewerStage:
        """As if the node knew stages that this client does not."""

        REASONING = Stage.REASONING

        def __new__(cls, number: int) -> Any:
            return Stage(number + 40)

    with monkeypatch.context() as patched:
        patched.setattr('segzero_ros.ros.client.types.Stage', NewerStage)
        with pytest.raises(ClientError, match=r'stage [01], which this client does not know'):
            client.ask('count for ever')
    # The goal was cancelled: the one thread that owns the models is free again.
    assert client.ask('after that', timeout=DEADLINE).answer.status is Status.OK


def test_no_image_is_an_answer_that_says_so(scripted_node: Start, camera: Any) -> None:
    scripted_node(arguments=['-r', '__ns:=/blind'])
    with PerceptionClient('/blind/') as client:
        client.wait_for_node(DEADLINE)
        answer = client.ask('anything').answer
        assert answer.status is Status.NO_IMAGE
        assert '/blind/image' in answer.message
        assert wait_for_graph(lambda: '/asked/image' in client.image_topics(), DEADLINE)
        assert not {'/blind/overlay', '/blind/label_image'} & set(client.image_topics())


def test_a_camera_to_hear_instead_is_one_of_colour_that_the_node_does_not_hear(
    client: PerceptionClient, new_client: Start
) -> None:
    topics = ['/another/image', '/another/depth/image', '/nearby/depth']
    for topic in sorted(topics):
        new_client('another').node.create_publisher(Image, topic, 1)
    assert wait_for_graph(lambda: set(topics) <= set(client.image_topics()), DEADLINE)
    found = client.image_topics()
    assert [topic for topic in found if topic in topics] == topics
    # That is heard already, though no image may have come yet.
    assert '/asked/image' not in found


def test_without_a_node_the_error_names_where_there_is_one(client: PerceptionClient) -> None:
    assert client.namespace == '/asked'
    with PerceptionClient('nobody') as lost, pytest.raises(NoNode) as error:
        lost.wait_for_node(3.0)
    assert 'in the namespace /nobody' in str(error.value)
    assert '/asked' in str(error.value)


def test_a_node_that_is_not_active_says_so_itself(scripted_node: Start, new_client: Start) -> None:
    scripted_node({'autostart': False}, arguments=['-r', '__ns:=/asleep'])
    # It takes its time to start on a busy machine; what follows has to be quick.
    new_client('asleep').wait_for_state('unconfigured')
    with PerceptionClient('asleep') as client:
        assert client.wait_for_node(DEADLINE / 8) == 'unconfigured'
        answer = client.ask('anything').answer
    assert answer.status is Status.REJECTED
    assert 'unconfigured' in answer.message


def test_on_an_empty_graph_the_error_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, empty_domain: int
) -> None:
    monkeypatch.setenv('ROS_DOMAIN_ID', str(empty_domain))
    with PerceptionClient() as lost, pytest.raises(NoNode) as error:
        lost.wait_for_node(0.2)
    assert 'The graph is empty' in str(error.value)
    assert 'ros2 launch segzero_ros perception.launch.py' in str(error.value)


def test_a_node_that_leaves_while_it_is_asked_is_missed(new_client: Start) -> None:
    there = new_client('leaving')
    forever = Future()

    async def accept(goal: Any) -> SegmentAction.Result:
        goal.publish_feedback(SegmentAction.Feedback(stage=1, reasoning_delta='let me see'))
        await forever
        return SegmentAction.Result()

    server = ActionServer(there.node, SegmentAction, 'segment', accept)
    with PerceptionClient('leaving') as client:
        there.until(client._action.server_is_ready, 'the client sees the node')
        with pytest.raises(NoNode, match='/leaving has left the graph'):
            client.ask('anything', on_progress=lambda _: server.destroy(), timeout=DEADLINE)
