"""Two nodes, each with a camera of its own, share one model server."""

import base64
from contextlib import ExitStack
import io
import json
import threading

import numpy as np
from PIL import Image as Picture
import pytest
from scripted_server import DONE, free_port, HALF, MODEL, piece, pieces_of, running

from segzero_ros.conversions.result import answer_from
from segzero_ros.msg import SegmentationResult as Result

# How long a request may wait for the other node's, seconds.
TOGETHER = 30
ROUNDS = 3
# What each camera sees: its picture's width and height, and a red rectangle's x1, y1, x2, y2.
VIEWS = {
    'front': ((320, 240), (40, 60, 120, 180)),
    'rear': ((400, 200), (240, 40, 360, 120)),
}


def picture_of(size, box):
    """Return a red rectangle on grey, (H, W, 3) uint8."""
    x1, y1, x2, y2 = box
    picture = np.full((size[1], size[0], 3), 150, np.uint8)
    picture[y1:y2, x1:x2] = (200, 30, 30)
    return picture


def stream_answer(request):
    """Answer as a good model does: with the box of what is red in the picture that was sent."""
    data = request.body['messages'][0]['content'][0]['image_url']['url'].partition(',')[2]
    seen = np.asarray(Picture.open(io.BytesIO(base64.b64decode(data))).convert('RGB')).astype(int)
    rows, columns = np.nonzero(seen[..., 0] - seen[..., 1] > 80)
    x1, y1, x2, y2 = (int(edge) for edge in (columns.min(), rows.min(), columns.max(), rows.max()))
    item = {'bbox_2d': [x1, y1, x2, y2], 'point_2d': [(x1 + x2) // 2, (y1 + y2) // 2]}
    answer = f'<think>Something is red.</think><answer>{json.dumps([item])}</answer>'
    request.stream([*pieces_of(answer), piece(finish='stop'), DONE])


class SharedServer:
    """The one server of both nodes; it may go and come back under the same address."""

    def __init__(self):
        self._port = free_port()
        self._running = ExitStack()
        self.url = f'http://127.0.0.1:{self._port}/v1'
        self.start()

    def start(self):
        """Answer each request."""
        self._made = self._running.enter_context(running(self._port))
        self._made.answer = stream_answer

    def answer_both_or_neither(self):
        """Answer a request only once the other node's is there as well."""
        both = threading.Barrier(2, timeout=TOGETHER)

        def answer(request):
            both.wait()
            stream_answer(request)

        self._made.answer = answer

    def vanish_within_answers(self, ask):
        """Be gone as soon as both nodes, that `ask` is to ask, have got half an answer."""
        both = threading.Barrier(3, timeout=TOGETHER)
        gone = threading.Event()

        def answer(request):
            request.stream(HALF)
            both.wait()
            gone.wait(TOGETHER)

        self._made.answer = answer
        ask()
        both.wait()
        self.stop()
        gone.set()

    def stop(self):
        """Be gone."""
        self._running.close()


@pytest.fixture(scope='module')
def server():
    shared = SharedServer()
    yield shared
    shared.stop()


@pytest.fixture(scope='module')
def clients(node_process, new_client, server, as_image_message):
    """A client of each node, with the node's camera."""
    clients = {}
    for name, (size, box) in VIEWS.items():
        # Of the two segmenters the one that starts at once.
        parameters = {
            'server.base_url': server.url,
            'reasoner.model': MODEL,
            'segmenter.backend': 'grabcut',
        }
        node_process(parameters, profile='remote', arguments=['-r', f'__ns:=/{name}'])
        client = clients[name] = new_client(f'/{name}')
        client.seen = client.camera(as_image_message(picture_of(size, box), f'{name}_camera'))
    for client in clients.values():
        client.wait_for_server()
        client.wait_for_state('active')
        client.until(
            lambda client=client: client.once('is there a picture?').status == Result.OK, 'a frame'
        )
        client.results.forget()
    return clients


def ask_both(clients, text):
    """Ask both nodes at the same time."""
    for name, client in clients.items():
        client.say(f'{text} {name}')


def results_of_both(clients, text):
    """Return the result of each node, by its name."""
    return {
        name: client.results.wait_for(lambda result, name=name: result.query == f'{text} {name}')
        for name, client in clients.items()
    }


def check_own(clients, results):
    """See that each result is about the picture of the node's own camera."""
    for name, result in results.items():
        assert result.status == Result.OK, result.message
        size, box = VIEWS[name]
        assert (result.image_width, result.image_height) == size
        stamp = result.header.stamp
        assert (stamp.sec, stamp.nanosec) in clients[name].seen.stamps
        assert result.header.frame_id == f'{name}_camera'
        (segment,) = answer_from(result).segments
        found, truth = np.zeros((2, size[1], size[0]), np.bool_)
        roi = segment.mask_roi
        found[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width] = segment.mask
        truth[box[1] : box[3], box[0] : box[2]] = True
        assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_each_answer_is_about_its_own_camera_though_both_ask_at_once(clients, server):
    server.answer_both_or_neither()
    for number in range(ROUNDS):
        ask_both(clients, f'{number}. what is red?')
    for number in range(ROUNDS):
        check_own(clients, results_of_both(clients, f'{number}. what is red?'))
    for name, client in clients.items():
        assert len(client.results) == ROUNDS
        assert all(result.query.endswith(name) for result in client.results)


def test_a_server_that_vanishes_leaves_both_with_a_clear_status_and_both_recover(clients, server):
    server.vanish_within_answers(lambda: ask_both(clients, 'half an answer?'))
    for result in results_of_both(clients, 'half an answer?').values():
        assert result.status == Result.MALFORMED_ANSWER
        assert 'broke off' in result.message
        assert not result.objects
    ask_both(clients, 'anybody there?')
    for result in results_of_both(clients, 'anybody there?').values():
        assert result.status == Result.ERROR
        assert f'No server answers at {server.url}' in result.message
        assert not result.objects
    server.start()
    ask_both(clients, 'and now?')
    check_own(clients, results_of_both(clients, 'and now?'))
