"""The offline default answers truly, says how, stops when asked, and invents nothing."""

from dataclasses import replace
import json
import re
import threading

import numpy as np
import pytest

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.attributes.words import number_word
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.simulation import make_scene
from segzero_ros.types import Cancelled, Frame, Query, Status


@pytest.fixture(scope='module')
def scene():
    """A table-top whose objects the tests below speak of."""
    return make_scene(40_003)


@pytest.fixture
def reasoner():
    """A reasoner that has seen nothing yet."""
    return AttributeReasoner()


def owner(scene, point):
    """Return the object that a point lies on."""
    number = int(scene.labels[int(point[1]), int(point[0])])
    return scene.objects[number - 1] if number > 0 else None


def test_sentences_about_generated_scenes_find_what_they_mean(reasoner):
    asked = wrong = 0
    for seed in range(41_000, 41_008):
        scene = make_scene(seed)
        for sentence in scene.sentences:
            grounding = reasoner.reason(scene.frame, Query(sentence.text))
            found = {
                scene.labels[int(y), int(x)] - 1 for o in grounding.objects for x, y in o.points
            }
            asked += 1
            wrong += found != set(sentence.targets)
    assert asked > 120
    assert wrong <= 0.08 * asked


def test_what_is_not_there_is_not_found_and_the_note_says_what_was_looked_for(scene, reasoner):
    missing = [sentence for sentence in scene.sentences if sentence.kind == 'none']
    assert missing
    for sentence in missing:
        grounding = reasoner.reason(scene.frame, Query(sentence.text))
        assert grounding.objects == ()
        assert 'looked for' in grounding.note or 'do not know' in grounding.note


def test_unknown_words_are_named_and_no_box_is_given(scene, reasoner):
    grounding = reasoner.reason(scene.frame, Query('I am dizzy, bring me the aspirin'))
    assert grounding.objects == ()
    assert '"dizzy", "aspirin"' in grounding.note
    assert 'colours, shapes, sizes' in grounding.note


def test_objects_have_a_box_a_point_inside_them_and_a_label_in_the_querys_words(scene, reasoner):
    target = next(o for o in scene.objects if not o.clutter)
    colour = target.colour
    grounding = reasoner.reason(scene.frame, Query(f'all the {colour} things'))
    assert grounding.objects
    for found in grounding.objects:
        (point,) = found.points
        item = owner(scene, point)
        assert item is not None
        x1, y1, x2, y2 = found.box
        assert np.abs(np.subtract(found.box, item.box)).max() < 0.2 * max(x2 - x1, y2 - y1) + 8
        assert x1 <= point[0] < x2
        assert y1 <= point[1] < y2
        assert found.label == f'{colour} thing'


def test_the_reasoning_is_streamed_in_sentences_and_the_objects_as_they_are_found(scene, reasoner):
    pieces, objects = [], []
    grounding = reasoner.reason(
        scene.frame, Query('everything'), pieces.append, on_object=objects.append
    )
    assert len(pieces) > 2
    assert ''.join(pieces) == grounding.reasoning
    assert tuple(objects) == grounding.objects
    assert all(piece.rstrip().endswith('.') for piece in pieces)


def test_the_raw_answer_is_written_as_vision_reasoner_writes_it(scene, reasoner):
    grounding = reasoner.reason(scene.frame, Query('everything'))
    thinking, answer = re.fullmatch(
        r'<think>(.*)</think><answer>(.*)</answer>', grounding.raw_answer
    ).groups()
    assert thinking == grounding.reasoning
    boxes = [entry['bbox_2d'] for entry in json.loads(answer)]
    assert boxes == [[round(value) for value in found.box] for found in grounding.objects]
    assert all(len(entry['point_2d']) == 2 for entry in json.loads(answer))


def test_the_reasoning_counts_truly(scene, reasoner):
    view_count = len(reasoner.reason(scene.frame, Query('everything')).objects)
    grounding = reasoner.reason(scene.frame, Query('how many things are there?'))
    assert len(grounding.objects) == view_count
    assert f'I count {number_word(view_count)} thing' in grounding.note


def test_asking_for_more_than_there_are_is_said(scene, reasoner):
    grounding = reasoner.reason(scene.frame, Query('the twelve things'))
    assert 'You asked for twelve' in grounding.note
    assert 0 < len(grounding.objects) < 12


def test_nearest_without_depth_is_refused_not_guessed(scene, reasoner):
    frame = replace(scene.frame, depth=None)
    grounding = reasoner.reason(frame, Query('the nearest object'))
    assert grounding.objects == ()
    assert 'no depth' in grounding.note
    assert reasoner.reason(scene.frame, Query('the nearest object')).objects


def test_it_stops_as_soon_as_it_is_asked_to(scene, reasoner):
    asked = []

    def cancelled():
        asked.append(len(told))
        return len(told) >= 2

    told = []
    with pytest.raises(Cancelled) as stopped:
        reasoner.reason(scene.frame, Query('the red thing'), told.append, cancelled)
    assert len(told) == 2
    assert stopped.value.raw_answer == ''.join(told)
    assert len(asked) > 3


def test_cancelling_before_it_starts_does_no_work(scene, reasoner):
    told = []
    with pytest.raises(Cancelled):
        reasoner.reason(scene.frame, Query('the red thing'), told.append, lambda: True)
    assert told == []


def test_the_same_question_has_the_same_answer(scene):
    answers = [
        AttributeReasoner().reason(replace(scene.frame), Query('the largest thing'))
        for _ in range(2)
    ]
    assert answers[0] == answers[1]


def test_a_second_question_about_a_frame_looks_only_once(scene, reasoner):
    first = reasoner.reason(scene.frame, Query('everything'))
    stops = []
    again = reasoner.reason(
        scene.frame, Query('everything'), cancelled=lambda: stops.append(1) and False
    )
    assert again == first
    fresh = []
    AttributeReasoner().reason(
        replace(scene.frame), Query('everything'), cancelled=lambda: fresh.append(1) and False
    )
    # Looking asks between its steps whether to stop; remembering has none.
    assert len(stops) < len(fresh)


def test_a_new_frame_is_looked_at_anew(reasoner):
    empty = Frame(np.full((120, 160, 3), 128, np.uint8))
    red = np.full((120, 160, 3), 128, np.uint8)
    red[40:80, 60:100] = (200, 20, 20)
    assert reasoner.reason(empty, Query('the red thing')).objects == ()
    assert len(reasoner.reason(Frame(red), Query('the red thing')).objects) == 1
    assert reasoner.reason(empty, Query('the red thing')).objects == ()


def test_the_offline_default_answers_through_the_pipeline(scene):
    pipeline = Pipeline(load_reasoner(ReasonerOptions()), GrabCutSegmenter())
    target = max((o for o in scene.objects if not o.clutter), key=lambda o: o.area)
    answers, done = [], threading.Event()

    def ask():
        answers.append(
            pipeline.answer(scene.frame, Query(f'the largest {target.colour} thing'), Listeners())
        )
        done.set()

    threading.Thread(target=ask).start()
    assert done.wait(60)
    pipeline.close()
    (answer,) = answers
    assert answer.status == Status.OK
    assert answer.reasoner == 'attributes'
    mask = answer.segments[0].full_mask(*scene.labels.shape)
    truth = scene.labels == target.id
    assert (mask & truth).sum() / (mask | truth).sum() > 0.75
