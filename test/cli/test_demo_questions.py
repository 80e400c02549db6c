"""What the demo asks has a truth, and its figures say how near an answer comes to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segzero_ros.cli.demo_questions import iou, Question, QUESTIONS, true_mask
from segzero_ros.ros.camera_sim.sources import open_source
from segzero_ros.simulation import make_scene
from segzero_ros.types import Roi, Segment, Status

SCENES = [question for question in QUESTIONS if question.source == 'scene']


def segment(roi: Roi, mask: np.ndarray | None = None) -> Segment:
    mask = np.ones((roi.height, roi.width), np.bool_) if mask is None else mask
    return Segment(1, 'thing', 1.0, roi, (), roi, mask)


def test_the_questions_show_every_way_and_some_without_an_answer() -> None:
    assert {question.way for question in QUESTIONS} == {'action', 'topic', 'service'}
    assert {question.status for question in QUESTIONS} == {Status.OK, Status.NOT_FOUND}
    assert len(set(QUESTIONS)) == len(QUESTIONS)
    assert 4 <= sum(question.on_overview for question in QUESTIONS) <= 9


@pytest.mark.parametrize('question', SCENES, ids=lambda question: question.text)
def test_a_question_about_a_scene_is_the_generator_s_own(question: Question) -> None:
    scene = make_scene(int(question.item.removeprefix('scene_')))
    (sentence,) = [s for s in scene.sentences if s.text == question.text]
    assert bool(sentence.targets) == (question.status is Status.OK)


@pytest.mark.parametrize(
    'question',
    [question for question in QUESTIONS if question.boxes],
    ids=lambda question: question.text,
)
def test_a_box_drawn_by_hand_lies_in_its_photograph(question: Question) -> None:
    pytest.importorskip('skimage')
    frame = open_source(question.source, '').frame(question.item)
    for x1, y1, x2, y2 in question.boxes:
        assert 0 <= x1 < x2 <= frame.width
        assert 0 <= y1 < y2 <= frame.height


def test_the_truth_itself_has_an_iou_of_one_and_nothing_has_none() -> None:
    question = next(question for question in SCENES if question.status is Status.OK)
    truth = true_mask(question)
    size = truth.shape
    whole = segment(Roi(0, 0, size[1], size[0]), truth)
    assert iou(question, (whole,), size) == 1.0
    assert iou(question, (), size) == 0.0
    assert iou(question, (segment(Roi(0, 0, size[1], size[0]), ~truth),), size) == 0.0


def test_half_of_a_hand_drawn_box_has_an_iou_of_one_half() -> None:
    question = Question('photograph', 'coffee', 'x', boxes=((10, 10, 30, 20),))
    assert question.has_truth
    half = segment(Roi(10, 10, 10, 10))
    assert iou(question, (half,), (40, 40)) == 0.5
    assert iou(question, (half, segment(Roi(20, 10, 10, 10))), (40, 40)) == 1.0


def test_two_objects_in_one_mask_and_two_masks_are_the_same_answer() -> None:
    question = Question('photograph', 'x', 'x', boxes=((0, 0, 4, 4), (8, 0, 12, 4)))
    pair = (segment(Roi(0, 0, 4, 4)), segment(Roi(8, 0, 4, 4)))
    assert iou(question, pair, (4, 12)) == 1.0
    assert iou(question, pair[:1], (4, 12)) == 0.5


def test_a_question_without_an_answer_has_no_truth_to_compare_with() -> None:
    assert not replace(QUESTIONS[0], status=Status.NOT_FOUND).has_truth
