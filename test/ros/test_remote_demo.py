"""The demo's questions, asked of a node of the remote profile.

Its server knows the demo's pictures and what is meant in them, as a good model would. It answers
only what was asked with the published prompt about the very pixels that the checkpoints were
trained to see; so the pictures, sentences and boxes that go over both networks are all held here.
"""

import base64
from functools import cache
import io
import json

import numpy as np
from PIL import Image
import pytest
from scripted_server import DONE, MODEL, piece, pieces_of, running

from segzero_ros.cli.demo_questions import iou, QUESTIONS, true_mask
from segzero_ros.cli.demo_report import FLOORS
from segzero_ros.conversions.result import answer_from
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.ros.camera_sim.sources import open_source
from segzero_ros.simulation import make_scene

pytest.importorskip('skimage', reason='the photographs come with scikit-image')
DIALECT = dialect_named('vision_reasoner')


@cache
def picture_of(source, item):
    """Return what the demo's camera sees, (H, W, 3) uint8."""
    return open_source(source, '').frame(item).image


def seen(question):
    """Return the picture of a question as the checkpoints see it."""
    picture = Image.fromarray(picture_of(question.source, question.item))
    return np.asarray(picture.resize((840, 840), Image.Resampling.BILINEAR))


@cache
def meant(question):
    """Return (box, point) of each thing that is meant, in pixels of the source."""
    if question.source == 'photograph':
        return [(box, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)) for box in question.boxes]
    found = []
    made = make_scene(int(question.item.removeprefix('scene_')))
    for index in next(s.targets for s in made.sentences if s.text == question.text):
        rows, columns = np.nonzero(made.mask(index))
        middle = len(rows) // 2
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        found.append((box, (columns[middle], rows[middle])))
    return found


def written(question):
    """Return the answer that a good model writes."""
    height, width = picture_of(question.source, question.item).shape[:2]
    scale = np.array([840 / width, 840 / height] * 2)
    items = [
        {
            'bbox_2d': np.rint(np.array(box) * scale).astype(int).tolist(),
            'point_2d': np.rint(np.array(point) * scale[:2]).astype(int).tolist(),
        }
        for box, point in meant(question)
    ]
    return f'<think>I look for {question.text}.</think><answer>{json.dumps(items)}</answer>'


@pytest.fixture(scope='module')
def server():
    """A server that knows the demo's pictures, and refuses all others."""
    with running() as made:

        def answer(request):
            picture, text = made.seen[-1][2]['messages'][0]['content']
            data = base64.b64decode(picture['image_url']['url'].partition(',')[2])
            pixels = np.asarray(Image.open(io.BytesIO(data)))
            for question in QUESTIONS:
                if text['text'] == DIALECT.prompt(question.text) and np.array_equal(
                    pixels, seen(question)
                ):
                    events = [*pieces_of(written(question)), piece(finish='stop'), DONE]
                    return request.stream(events)
            return request.reply(400, {'message': f'never seen this, or not so: {text["text"]}'})

        made.answer = answer
        yield made


@pytest.fixture(scope='module')
def client(node_process, new_client, server):
    # No SAM 2 has been trained here; the masks of the other segmenter can be judged.
    parameters = {
        'server.base_url': server.url,
        'reasoner.model': MODEL,
        'segmenter.backend': 'grabcut',
    }
    node_process(parameters, profile='remote', arguments=['-r', '__ns:=/demo'])
    client = new_client('/demo')
    client.wait_for_server()
    client.wait_for_state('active')
    return client


def ask(client, question, image):
    if question.way == 'service':
        return client.once(question.text, image)
    if question.way == 'action':
        return client.outcome(client.send_goal(question.text, image))[1]
    camera = client.camera(image)
    try:
        stamps = camera.stamps
        client.until(
            lambda: (
                (stamp := client.once('anything new?').header.stamp)
                and (stamp.sec, stamp.nanosec) in stamps
            ),
            'the node sees this camera',
        )
        client.results.forget()
        return client.ask(question.text)
    finally:
        camera.stop()


def test_the_demos_questions_are_answered_through_a_server_as_well_as_the_demo_asks(
    client, as_image_message
):
    covered = {'scene': [], 'photograph': []}
    for question in QUESTIONS:
        picture = picture_of(question.source, question.item)
        result = ask(client, question, as_image_message(picture))
        assert result.status == question.status, f'{question.text}: {result.message}'
        answer = answer_from(result)
        assert answer.reasoner.startswith(f'{MODEL} at ')
        assert answer.reasoning == f'I look for {question.text}.'
        for segment, (box, _) in zip(answer.segments, meant(question), strict=True):
            x1, y1 = segment.box.x, segment.box.y
            mine = (x1, y1, x1 + segment.box.width, y1 + segment.box.height)
            np.testing.assert_allclose(mine, box, atol=1)
        if question.has_truth:
            size = picture.shape[:2]
            covered[question.source].append(iou(question, answer.segments, size))
        elif question.source == 'scene':
            assert not true_mask(question).any()
    for source, shares in covered.items():
        assert FLOORS[source] <= np.mean(shares) <= 1, covered
