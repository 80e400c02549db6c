"""Tasks and candidates in the pipeline: what each returns, with scripted reasoners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from segzero_ros import candidates
from segzero_ros.pipeline import Pipeline
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.types import (
    Answer,
    Box,
    Frame,
    GroundedObject,
    Grounding,
    Intrinsics,
    PoseStatus,
    Query,
    Roi,
    Stage,
    Status,
    Task,
    task_named,
    UnsupportedTask,
)

# A red square of 30 pixels on grey, at a depth of half a metre before a wall at two metres.
SQUARE = (20.0, 10.0, 50.0, 40.0)
IMAGE = np.full((60, 80, 3), 120, np.uint8)
IMAGE[10:40, 20:50] = (200, 30, 30)
DEPTH = np.full((60, 80), 2.0, np.float32)
DEPTH[10:40, 20:50] = 0.5
FRAME = Frame(IMAGE, 7, 'camera', DEPTH, Intrinsics(100.0, 100.0, 39.5, 29.5, 80, 60))


class Scripted:
    """Returns a grounding, and remembers what it was asked."""

    name = 'scripted'
    leaves_processors_free = False

    def __init__(self, outcome: Grounding, *, reads_marks: bool = False) -> None:
        self.outcome = outcome
        self.reads_marks = reads_marks
        self.asked: list[tuple[Frame, Query]] = []

    def reason(self, frame: Frame, query: Query, *_: Any) -> Grounding:
        self.asked.append((frame, query))
        return self.outcome

    def close(self) -> None:
        """Nothing to free."""


class CountingSegmenter(GrabCutSegmenter):
    """Counts how often it is used."""

    def __init__(self) -> None:
        self.used = 0

    def encode(self, *arguments: Any) -> Any:
        self.used += 1
        return super().encode(*arguments)


def ask(
    outcome: Grounding, query: Query, frame: Frame = FRAME, **options: Any
) -> tuple[Answer, Scripted, int]:
    reasoner, segmenter = Scripted(outcome, **options), CountingSegmenter()
    pipeline = Pipeline(reasoner, segmenter)
    answer = pipeline.answer(frame, query)
    pipeline.close()
    return answer, reasoner, segmenter.used


def said(*objects: GroundedObject, **words: Any) -> Grounding:
    return Grounding('I look.', objects, 'raw', **words)


BOTH = GroundedObject(SQUARE, ((35.0, 25.0),), 'tin')
BOX = GroundedObject(SQUARE, (), 'tin')
POINT = GroundedObject(None, ((35.0, 25.0),), 'tin')


@pytest.mark.parametrize('task', [Task.DETECT, Task.COUNT, Task.POINT])
@pytest.mark.parametrize('found', [BOTH, BOX, POINT])
def test_tasks_without_masks_give_boxes_points_and_the_place_on_the_surface(
    task: Task, found: GroundedObject
) -> None:
    answer, _, used = ask(said(found), Query('tin', '1', task))
    assert (answer.status, answer.task, used) == (Status.OK, task, 0)
    assert answer.count == (1 if task is Task.COUNT else None)
    (segment,) = answer.segments
    assert segment.points == found.points
    assert segment.box == (Roi(0, 0, 0, 0) if found.box is None else Roi(20, 10, 30, 30))
    assert segment.box_from_mask == (found.box is None)
    assert not segment.mask.size
    assert math.isnan(segment.score)
    assert segment.pose is not None
    x, y = found.points[0] if found.points else (34.5, 24.5)
    expected = ((x - 39.5) / 100 * 0.5, (y - 29.5) / 100 * 0.5, 0.5)
    assert segment.pose.position == pytest.approx(expected)
    assert segment.pose.size == (0.0, 0.0, 0.0)
    assert segment.pose.orientation == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ('frame', 'status'),
    [
        (replace(FRAME, depth=None), PoseStatus.NO_DEPTH),
        (replace(FRAME, intrinsics=None), PoseStatus.NO_INTRINSICS),
        (replace(FRAME, depth=np.full((60, 80), np.nan, np.float32)), PoseStatus.DEPTH_TOO_SPARSE),
    ],
)
def test_a_point_without_a_place_has_the_reason(frame: Frame, status: PoseStatus) -> None:
    answer, *_ = ask(said(POINT), Query('tin', '1', Task.POINT), frame)
    assert answer.status is Status.OK
    assert (answer.segments[0].pose, answer.segments[0].pose_status) == (None, status)


def test_the_place_bridges_a_hole_in_the_depth() -> None:
    depth = DEPTH.copy()
    depth[25, 35] = np.nan
    answer, *_ = ask(said(POINT), Query('tin', '', Task.POINT), replace(FRAME, depth=depth))
    assert answer.segments[0].pose.position[2] == pytest.approx(0.5)


def test_points_alone_are_segmented_and_the_box_is_the_masks() -> None:
    answer, _, used = ask(said(POINT), Query('tin'))
    (segment,) = answer.segments
    assert used == 1
    assert segment.box_from_mask
    assert segment.box == segment.mask_roi
    wanted = np.zeros((60, 80), bool)
    wanted[10:40, 20:50] = True
    mask = segment.full_mask(60, 80)
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9
    assert segment.pose_status is PoseStatus.POSE_OK


@pytest.mark.parametrize('points', [((90.0, 5.0),), ((float('nan'), 5.0),), ()])
def test_an_object_with_neither_box_nor_point_is_dropped_and_counted(points: Any) -> None:
    lost = GroundedObject(None, points)
    answer, *_ = ask(said(lost, BOTH), Query('tin'))
    assert (answer.status, len(answer.segments)) == (Status.OK, 1)
    assert '1 objects dropped: they have neither a box nor a point.' in answer.message
    answer, *_ = ask(said(lost), Query('tin'))
    assert answer.status is Status.MALFORMED_ANSWER


def test_an_answer_in_words_has_no_objects_and_needs_no_segmenter() -> None:
    answer, reasoner, used = ask(said(answer='It is red.'), Query('what', '1', Task.ANSWER))
    assert (answer.status, answer.task, answer.answer) == (Status.OK, Task.ANSWER, 'It is red.')
    assert (answer.segments, answer.count, answer.message, used) == ((), None, '', 0)
    assert reasoner.asked[0][1].task is Task.ANSWER


def test_no_words_are_a_malformed_answer() -> None:
    answer, *_ = ask(said(BOTH), Query('what', '1', Task.ANSWER))
    assert (answer.status, answer.failed_in) == (Status.MALFORMED_ANSWER, Stage.REASONING)


@pytest.mark.parametrize(
    ('outcome', 'count', 'status', 'message'),
    [
        (said(BOTH, BOTH), 2, Status.OK, ''),
        (said(BOTH, BOTH, count=2), 2, Status.OK, ''),
        (said(BOTH, count=3), 3, Status.OK, 'wrote the number 3, but gave 1 objects'),
        (said(count=3), 3, Status.OK, 'wrote the number 3, but gave 0 objects'),
        (said(), 0, Status.NOT_FOUND, 'Nothing in the image'),
        (said(count=0), 0, Status.NOT_FOUND, 'Nothing in the image'),
    ],
)
def test_counting_reports_the_number_and_says_when_it_is_not_that_of_the_objects(
    outcome: Grounding, count: int, status: Status, message: str
) -> None:
    answer, *_ = ask(outcome, Query('tins', '1', Task.COUNT))
    assert (answer.count, answer.status) == (count, status)
    assert message in answer.message
    assert bool(message) == bool(answer.message)


def test_the_router_chooses_a_task_that_is_left_open() -> None:
    answer, reasoner, _ = ask(said(BOTH), Query('how many tins are there?', '1', None))
    assert (answer.task, answer.count) == (Task.COUNT, 1)
    assert reasoner.asked[0][1].task is Task.COUNT


def test_a_task_that_the_reasoner_cannot_do_is_rejected() -> None:
    class Narrow(Scripted):
        def reason(self, *_: Any) -> Grounding:
            raise UnsupportedTask('It can only segment.')

    pipeline = Pipeline(Narrow(said()), GrabCutSegmenter())
    answer = pipeline.answer(FRAME, Query('x', '1', Task.POINT))
    pipeline.close()
    assert (answer.status, answer.message) == (Status.REJECTED, 'It can only segment.')
    assert answer.task is Task.POINT


@pytest.mark.parametrize(
    ('name', 'task'),
    [('', Task.SEGMENT), ('segment', Task.SEGMENT), (' Count ', Task.COUNT), ('auto', None)],
)
def test_tasks_have_names(name: str, task: Task | None) -> None:
    assert task_named(name) is task


def test_an_unknown_task_is_refused_with_all_names() -> None:
    with pytest.raises(UnsupportedTask, match=r"no task 'dance'.*segment, detect, count, answer"):
        task_named('dance')


class TestCandidates:
    BOXES: tuple[Box, ...] = (
        (0.0, 0.0, 15.0, 15.0),
        (18.0, 9.0, 51.0, 41.0),
        (55.0, 40.0, 90.0, 70.0),
    )

    def choose(self, words: str, **options: Any) -> tuple[Answer, Scripted]:
        query = Query('the tin', '1', candidates=self.BOXES)
        outcome = Grounding('', (), words, answer=words)
        answer, reasoner, _ = ask(outcome, query, reads_marks=True, **options)
        return answer, reasoner

    def test_the_model_sees_numbered_marks_and_its_numbers_are_the_choice(self) -> None:
        answer, reasoner = self.choose('2')
        assert answer.status is Status.OK
        (segment,) = answer.segments
        assert segment.box == Roi(18, 9, 33, 32)
        assert segment.label == 'the tin'
        assert segment.mask.any()
        frame, query = reasoner.asked[0]
        assert query.task is Task.ANSWER
        assert '"the tin"' in query.text
        assert '1 to 3' in query.text
        assert (frame.image != IMAGE).any()
        assert frame.stamp_ns == FRAME.stamp_ns
        assert answer.frame is FRAME

    def test_several_keep_the_models_order_and_boxes_are_clipped(self) -> None:
        answer, _ = self.choose('3 and 2, also 3')
        assert [segment.box for segment in answer.segments] == [
            Roi(55, 40, 25, 20),
            Roi(18, 9, 33, 32),
        ]

    @pytest.mark.parametrize('words', ['none', 'None of them.', '0'])
    def test_none_is_not_found(self, words: str) -> None:
        assert self.choose(words)[0].status is Status.NOT_FOUND

    @pytest.mark.parametrize('words', ['4', '2 or 17', 'the red one', '-'])
    def test_what_is_no_mark_is_malformed(self, words: str) -> None:
        assert self.choose(words)[0].status is Status.MALFORMED_ANSWER

    @pytest.mark.parametrize(
        ('boxes', 'reason'),
        [
            ([(0.0, 0.0, 5.0, 5.0), (90.0, 5.0, 95.0, 9.0)], 'Candidate 2 is empty or outside'),
            ([(0.0, 0.0, 5.0, 5.0), (3.0, 3.0, 3.0, 9.0)], 'Candidate 2 is empty or outside'),
            ([(0.0, 0.0, 5.0, 5.0)] * 100, 'at most 99'),
        ],
    )
    def test_useless_candidates_are_rejected(self, boxes: list[Box], reason: str) -> None:
        answer, *_ = ask(said(BOTH), Query('x', '1', candidates=tuple(boxes)))
        assert answer.status is Status.REJECTED
        assert reason in answer.message

    @pytest.mark.parametrize('found', [BOTH, POINT])
    def test_other_reasoners_are_asked_as_usual_and_matched(self, found: GroundedObject) -> None:
        answer, reasoner, _ = ask(said(found, found), Query('tin', '1', candidates=self.BOXES))
        assert reasoner.asked[0][0] is FRAME
        (segment,) = answer.segments
        assert segment.box == Roi(18, 9, 33, 32)

    def test_the_number_that_is_counted_is_that_of_the_candidates(self) -> None:
        query = Query('tins', '1', Task.COUNT, self.BOXES)
        answer, *_ = ask(said(BOTH, GroundedObject((0.0, 30.0, 9.0, 59.0)), count=2), query)
        assert (answer.count, answer.message, len(answer.segments)) == (1, '', 1)

    def test_an_object_that_is_none_of_them_is_not_found(self) -> None:
        query = Query('tin', '1', candidates=self.BOXES[:1])
        answer, *_ = ask(said(BOTH), query)
        assert answer.status is Status.NOT_FOUND
        assert 'none of the candidates' in answer.message

    def test_marks_of_small_and_large_images_stay_inside(self) -> None:
        for scale in (1, 4, 20):
            image = np.zeros((60 * scale, 80 * scale, 3), np.uint8)
            boxes = [tuple(value * scale for value in box) for box in self.BOXES]
            frame = Frame(image)
            drawn: Callable[..., Frame] = candidates.marked
            assert drawn(frame, candidates.clipped(boxes, frame)).image.any()
            assert not image.any()
