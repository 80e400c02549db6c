"""Tasks and candidates go in by topic, action and services, and come back in every message."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import RegionOfInterest

from segzero_ros.action import Segment
from segzero_ros.msg import Query, ReasoningDelta
from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.srv import Ask, SegmentOnce


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node()


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.typed = client.node.create_publisher(Query, 'typed_query', 10)
    client.deltas = client.listen(ReasoningDelta, 'reasoning_stream', 1000)
    client.until(
        lambda: (
            client.typed.get_subscription_count()
            and client.node.count_publishers('reasoning_stream')
        )
    )
    client.picture = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)
    return client


@pytest.fixture(autouse=True)
def fresh(client):
    client.results.forget()
    client.deltas.forget()


def typed(client: Any, **fields: Any) -> Any:
    client.typed.publish(Query(**fields))
    return client.results.wait_for(lambda result: result.query_id == fields['id'])


def by_topic(client, text, task):
    return typed(client, id=f'{task} {text}', text=text, task=task)


def by_service(client, text, task):
    request = SegmentOnce.Request(query=text, task=task)
    return client.call(SegmentOnce, 'segment_once', request).result


def by_action(client, text, task):
    goal = Segment.Goal(query=text, task=task)
    return client.outcome(client.wait(client.action.send_goal_async(goal)))[1]


WAYS = pytest.mark.parametrize('ask', [by_topic, by_service, by_action])


@WAYS
def test_an_answer_in_words(client, ask):
    result = ask(client, 'what colour is it', 'answer')
    assert (result.status, result.task) == (Result.OK, Result.ANSWER)
    assert (result.answer, list(result.objects), result.count) == ('It is red.', [], -1)


@WAYS
def test_a_count_that_is_not_that_of_the_objects(client, ask):
    result = ask(client, 'seven', 'count')
    assert (result.status, result.task, result.count) == (Result.OK, Result.COUNT, 7)
    assert 'wrote the number 7, but gave 2 objects' in result.message
    assert [list(found.mask.data) for found in result.objects] == [[], []]
    assert [found.bbox.width for found in result.objects] == [8, 8]


@WAYS
def test_a_point_has_no_box(client, ask):
    result = ask(client, 'here', 'point')
    (found,) = result.objects
    assert result.task == Result.POINT
    assert found.bbox_from_mask
    assert found.bbox.width == found.mask_roi.width == 0
    assert [(point.x, point.y) for point in found.points] == [(160.0, 120.0)]


@WAYS
def test_boxes_without_masks(client, ask):
    result = ask(client, 'things', 'detect')
    assert (result.task, len(result.objects[0].mask.data)) == (Result.DETECT, 0)
    assert result.objects[0].bbox.width == 160
    assert not result.objects[0].bbox_from_mask


@WAYS
def test_no_task_is_segment_and_auto_is_the_routers(client, ask):
    result = ask(client, 'a thing', '')
    assert (result.task, len(result.objects[0].mask.data)) == (Result.SEGMENT, 160 * 120)
    assert ask(client, 'is it red?', 'auto').answer == 'It is red.'
    assert ask(client, 'how many things are there', 'auto').count == 1


@WAYS
def test_an_unknown_task_is_rejected_with_all_names(client, ask):
    result = ask(client, 'a thing', 'dance')
    assert result.status == Result.REJECTED
    assert "no task 'dance'; there are segment, detect, count, answer, point, auto" in (
        result.message
    )


def test_candidates_are_chosen_among(client):
    boxes = [RegionOfInterest(x_offset=x, y_offset=50, width=150, height=130) for x in (0, 85)]
    request = SegmentOnce.Request(query='a thing', candidates=boxes)
    result = client.call(SegmentOnce, 'segment_once', request).result
    assert [found.bbox for found in result.objects] == [boxes[1]]
    goal = Segment.Goal(query='a thing', candidates=boxes[:1])
    result = client.outcome(client.wait(client.action.send_goal_async(goal)))[1]
    assert (result.status, list(result.objects)) == (Result.NOT_FOUND, [])


def test_the_stream_carries_the_querys_id_and_ends(client):
    typed(client, id='first', text='count to 3')
    typed(client, id='second', text='what', task='answer')
    client.deltas.wait_for(lambda delta: delta.query_id == 'second' and delta.final)
    first, second = (
        [delta for delta in client.deltas if delta.query_id == name]
        for name in ('first', 'second')
    )
    assert [delta.text for delta in first] == ['0 ', '1 ', '2 ', '']
    assert [delta.final for delta in first] == [False, False, False, True]
    assert [delta.text for delta in second] == ['It is red.', '']


def test_a_query_about_a_stamp_gets_that_image_or_the_reason(client):
    newest = client.once('the newest').header.stamp
    result = typed(client, id='stamped', text='a thing', stamp=newest)
    # The buffer may have dropped it by now, on a busy machine; the reason says so.
    if result.status == Result.OK:
        assert result.header.stamp == newest
    else:
        assert result.status == Result.NO_IMAGE
    newest.sec -= 100
    result = typed(client, id='long ago', text='a thing', stamp=newest)
    assert result.status == Result.NO_IMAGE
    assert 'images are kept for about half a second' in result.message


def test_an_id_that_is_too_long_is_rejected(client):
    client.typed.publish(Query(id='x' * 1000, text='a thing'))
    result = client.results.wait_for(lambda result: result.query_id == 'x' * 200)
    assert result.status == Result.REJECTED
    assert 'The id has 1000 characters' in result.message


class TestAsk:
    def ask(self, client, query, **fields):
        return client.call(Ask, 'ask', Ask.Request(query=query, **fields))

    def test_the_compact_answer_has_no_masks(self, client):
        response = self.ask(client, 'a thing')
        assert (response.status, response.message) == (Result.OK, '')
        assert (response.answer, list(response.labels)) == ('a thing', ['a thing'])
        assert list(response.scores) == [1.0]
        (box,) = response.boxes
        assert (box.x_offset, box.y_offset, box.width, box.height) == (80, 60, 160, 120)
        assert [pose.header.frame_id for pose in response.poses] == ['']
        assert response.reasoning == 'done'
        assert not len(response.overlay.data)

    def test_words_and_numbers_are_the_answer(self, client):
        assert self.ask(client, 'what', task='answer').answer == 'It is red.'
        assert self.ask(client, 'seven', task='count').answer == '7'
        failed = self.ask(client, 'explode')
        assert (failed.status, failed.answer) == (Result.ERROR, '')
        assert 'exploded as told' in failed.message

    def test_the_overlay_is_a_picture_of_the_answer(self, client):
        response = self.ask(client, 'a thing', with_overlay=True)
        drawn = cv2.imdecode(np.frombuffer(response.overlay.data, np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape[1] >= 320
        assert response.overlay.header.frame_id == 'camera_optical_frame'
