"""The search agent: a scripted server proposes and judges, a small SAM 3 marks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
import json
from pathlib import Path
import threading

import cv2
import numpy as np
import pytest
from scripted_server import DONE, MODEL, piece, pieces_of, Request, running, Server

from segzero_ros.cli.main import main
from segzero_ros.evaluation.agent import (
    AgentError,
    check_models,
    MAX_ROUNDS,
    read_proposal,
    read_verdict,
    UnreadableReply,
)
from segzero_ros.evaluation.concurrency import load_pipelines
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.overlay import draw_numbered_masks
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.segmentation.sam3_segmenter import Sam3Segmenter
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.types import Answer, Frame, Mask, Query, Stage, Status, Task

FRAME = make_scene(701, width=320, height=240).frame
QUERY = 'what holds the toys'
# What the small SAM 3 finds in the frame, by its random weights: eight, one, and none.
MANY, ONE, NOTHING = 'blue box', 'plate', 'red mug'
Reply = str | Callable[[Request], None]


def say(request: Request, text: str) -> None:
    request.stream([*pieces_of(text), piece(finish='stop'), DONE])


class Script:
    """Replies in turn, to a server's questions; each is a text or what to do instead."""

    def __init__(self, server: Server, *replies: Reply) -> None:
        self.replies = list(replies)
        self.questions: list[str] = []
        # Of the images, as they were sent.
        self.urls: list[str] = []
        server.answer = self.answer

    def answer(self, request: Request) -> None:
        picture, text = request.body['messages'][-1]['content']
        self.questions.append(text['text'])
        self.urls.append(picture['image_url']['url'])
        reply = self.replies.pop(0)
        if callable(reply):
            reply(request)
        else:
            say(request, reply)


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    with running() as made:
        # What an image costs is another test's matter.
        made.count = lambda request: request.reply(404, {})
        yield made


def options(server: Server, sam3: Path, limit: float = 60.0) -> tuple:
    reasoner = ReasonerOptions(
        'openai', MODEL, 'qwen3_vl', base_url=server.url, time_limit=limit, offline=True
    )
    return reasoner, SegmenterOptions('sam3', str(sam3), device='cpu', offline=True)


@pytest.fixture(scope='module')
def pipeline(server: Server, tiny_sam3: Path) -> Iterator[Pipeline]:
    with load_pipelines(*options(server, tiny_sam3), 1, agent=True) as (made,):
        yield made


@pytest.fixture(scope='module')
def sam3(tiny_sam3: Path) -> Iterator[Sam3Segmenter]:
    made = Sam3Segmenter(str(tiny_sam3), device='cpu', phrases=True)
    encoding = made.encode(FRAME)
    found = {phrase: made.find(encoding, phrase) for phrase in (MANY, ONE, NOTHING)}
    assert [len(found[phrase] or ()) for phrase in (MANY, ONE, NOTHING)] == [8, 1, 0]
    yield made
    made.close()


def ask(pipeline: Pipeline, text: str = QUERY, task: Task = Task.SEGMENT, **more) -> Answer:
    pipeline.forget_frame()
    return pipeline.answer(FRAME, Query(text, '1', task), **more)


def test_what_the_first_phrase_finds_is_accepted_by_number(server, pipeline, sam3):
    script = Script(
        server, f'<think>A box.</think>phrase: {MANY}', '<think>2 is it.</think>accept: 2, 5'
    )
    objects = []
    answer = ask(pipeline, listeners=Listeners(on_object=objects.append))
    assert (answer.status, answer.message, answer.task) == (Status.OK, '', Task.SEGMENT)
    found = sam3.find(sam3.encode(FRAME), MANY)
    assert [each.label for each in objects] == [MANY, MANY]
    for each, number in zip(objects, (1, 4), strict=True):
        np.testing.assert_allclose(each.box, found[number].box, atol=1e-3)
    assert len(answer.segments) == 2 and all(each.mask.any() for each in answer.segments)
    # The reasoner has seen the bare image, then one with marks, and was told how many there are.
    assert script.urls[0] != script.urls[1]
    assert QUERY in script.questions[0] and 'phrases were tried' not in script.questions[0]
    assert f'"{MANY}"' in script.questions[1] and 'from 1 to 8' in script.questions[1]
    # The raw answer holds all questions and replies; the reasoning what a person wants to read.
    for text in (*script.questions, f'phrase: {MANY}', 'accept: 2, 5', '<think>A box.'):
        assert text in answer.raw_answer
    assert 'A box.' in answer.reasoning and 'SAM 3 marks 8' in answer.reasoning
    assert answer.reasoner.startswith(MODEL) and 'SAM 3' in answer.reasoner


def test_the_image_is_encoded_once_wherever_that_happens(server, pipeline, monkeypatch):
    encoded = []
    plainly = pipeline.segmenter.encode

    def counted(frame, check=None):
        encoded.append(threading.current_thread().name)
        return plainly(frame, check)

    monkeypatch.setattr(pipeline.segmenter, 'encode', counted)
    for in_parallel, task in ((True, Task.SEGMENT), (False, Task.SEGMENT), (True, Task.DETECT)):
        monkeypatch.setattr(pipeline, '_in_parallel', in_parallel)
        Script(server, f'phrase: {NOTHING}', f'phrase: {ONE}', 'accept: 1')
        assert ask(pipeline, task=task).status is Status.OK
    assert len(encoded) == 3


def test_the_segmenter_is_given_boxes_inside_the_image(server, pipeline, monkeypatch):
    boxes = []
    segment = pipeline.segmenter.segment

    def noted(encoding, grounding, check=None):
        boxes.extend(found.box for found in grounding.objects)
        return segment(encoding, grounding, check)

    monkeypatch.setattr(pipeline.segmenter, 'segment', noted)
    Script(server, f'phrase: {MANY}', 'accept: 8')
    answer = ask(pipeline)
    assert len(boxes) == 9 and boxes[7] == boxes[8]
    assert all(value == round(value) for box in boxes for value in box)
    assert all(0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240 for x1, y1, x2, y2 in boxes)
    assert answer.status is Status.OK


def test_another_phrase_is_proposed_after_nothing_and_after_a_rejection(server, pipeline):
    tried = (f'phrase: {NOTHING}', f'phrase: {MANY}', 'reject')
    script = Script(server, *tried, f'Phrase: "The {ONE}".', 'accept: 1')
    answer = ask(pipeline)
    assert answer.status is Status.OK and len(answer.segments) == 1
    assert answer.segments[0].label == ONE
    assert f'"{NOTHING}": the tool found nothing.' in script.questions[1]
    assert f'"{MANY}": the tool marked 8, and none of them is meant.' in script.questions[3]
    assert f'"{NOTHING}"' in script.questions[3]


def test_none_is_not_found(server, pipeline):
    Script(server, f'phrase: {NOTHING}', 'Report none.')
    answer = ask(pipeline)
    assert (answer.status, answer.segments) == (Status.NOT_FOUND, ())
    assert 'reports that nothing matches' in answer.message


def test_there_are_at_most_four_rounds(server, pipeline):
    assert MAX_ROUNDS == 4
    phrases = [f'phrase: {NOTHING}', f'phrase: {ONE}', 'reject', f'phrase: {MANY}', 'reject']
    script = Script(server, *phrases, f'phrase: {"x" * 40}', 'never asked for')
    answer = ask(pipeline)
    assert (answer.status, script.replies) == (Status.NOT_FOUND, ['never asked for'])
    assert 'accepted no mask in 4 rounds' in answer.message
    assert 'too long' in answer.reasoning


def test_a_phrase_is_not_tried_twice(server, pipeline, monkeypatch):
    phrases = []
    finder = pipeline.reasoner.finder
    plainly = finder.find
    monkeypatch.setattr(finder, 'find', lambda *given: phrases.append(given[1]) or plainly(*given))
    again = (f'phrase: {ONE}', 'reject', f'phrase: a {ONE.upper()}')
    script = Script(server, *again, f'phrase: {MANY}', 'accept: 8')
    answer = ask(pipeline)
    assert answer.status is Status.OK and answer.segments[0].label == MANY
    assert phrases == [ONE, MANY]
    assert 'again: it was tried before' in script.questions[3]


@pytest.mark.parametrize(
    ('replies', 'status', 'asked'),
    [
        (['the plate, I think', f'phrase: {ONE}', 'accept: 1'], Status.OK, 3),
        ([f'phrase: {ONE}', 'accept: 2', 'accept: 1'], Status.OK, 3),
        (['<think>So many', f'phrase: {ONE}', 'accept: 1'], Status.OK, 3),
        (['the plate, I think', f'{ONE}'], Status.MALFORMED_ANSWER, 2),
        ([f'phrase: {ONE}', '1', 'yes'], Status.MALFORMED_ANSWER, 3),
        # Three rounds are used up, and the fourth has no further one to ask again in.
        (
            [f'phrase: {NOTHING}', f'phrase: {NOTHING}', f'phrase: {NOTHING}', 'well'],
            Status.MALFORMED_ANSWER,
            4,
        ),
    ],
)
def test_an_unreadable_reply_is_asked_for_once_more(server, pipeline, replies, status, asked):
    script = Script(server, *replies)
    answer = ask(pipeline)
    assert (answer.status, len(script.questions), script.replies) == (status, asked, []), (
        answer.message
    )
    if status is Status.MALFORMED_ANSWER:
        assert answer.failed_in is Stage.REASONING and not answer.segments
        assert all(reply in answer.raw_answer for reply in replies)
    if status is Status.OK:
        again = [text for text in script.questions if 'could not be read' in text]
        assert len(again) == 1 and QUERY in again[0]


def test_a_cancel_stops_the_search_and_keeps_the_exchange(server, pipeline):
    cancel = threading.Event()
    ended = []

    def hang(request: Request) -> None:
        cancel.set()
        ended.append(request.hung_up())

    Script(server, f'phrase: {ONE}', hang)
    answer = ask(pipeline, cancelled=cancel.is_set)
    assert answer.status is Status.CANCELED
    assert f'phrase: {ONE}' in answer.raw_answer and 'from 1 to 1' in answer.raw_answer
    # Nothing is left behind for the next query.
    Script(server, 'report none')
    assert ask(pipeline).status is Status.NOT_FOUND


def test_the_time_limit_is_that_of_the_whole_search(server, pipeline, monkeypatch):
    # The reasoner's own limit, for one reply, is longer.
    monkeypatch.setattr(pipeline, 'time_limit', 3.0)
    Script(server, f'phrase: {NOTHING}', lambda request: request.hung_up())
    answer = ask(pipeline)
    assert answer.status is Status.TIMEOUT and answer.failed_in is Stage.REASONING
    assert 'within 3 s; it was in round 2' in answer.message
    assert f'phrase: {NOTHING}' in answer.raw_answer


def test_counting_counts_what_is_accepted_and_other_tasks_are_refused(server, pipeline):
    Script(server, f'phrase: {MANY}', 'accept: 1, 2, 3')
    answer = ask(pipeline, task=Task.COUNT)
    assert (answer.status, answer.count) == (Status.OK, 3)
    for task in (Task.ANSWER, Task.POINT):
        answer = ask(pipeline, task=task)
        assert answer.status is Status.REJECTED and 'segment, detect, count' in answer.message


def test_a_plain_noun_phrase_is_searched_for_too(server, pipeline):
    script = Script(server, f'phrase: {ONE}', 'accept: 1')
    answer = ask(pipeline, MANY)
    assert answer.segments[0].label == ONE and len(script.questions) == 2


@pytest.mark.parametrize(
    ('reply', 'phrase'),
    [
        ('phrase: red mug', 'red mug'),
        (' Phrase:  "the red  mug". ', 'red mug'),
        ('PHRASE: theatre ticket', 'theatre ticket'),
        ('phrase: an', 'an'),
        ('report none', ''),
    ],
)
def test_proposals_that_are_read(reply, phrase):
    assert read_proposal(reply) == phrase


@pytest.mark.parametrize(
    'reply',
    ['', 'red mug', 'none', 'phrase:', 'phrase: "."', 'phrase: a\nphrase: b', 'I say phrase: mug'],
)
def test_proposals_that_cannot_be_read(reply):
    with pytest.raises(UnreadableReply):
        read_proposal(reply)


def test_verdicts():
    assert read_verdict('accept: 3,1 , 3.', 3) == [3, 1]
    assert read_verdict(' Reject. ', 3) == []
    for reply in ('', '1', 'accept', 'accept: all', 'accept: 0', 'accept: 4', 'accept: 1 2', 'no'):
        with pytest.raises(UnreadableReply):
            read_verdict(reply, 3)


def test_masks_are_outlined_and_numbered_and_nothing_else_is_painted():
    image = np.full((240, 320, 3), 120, np.uint8)
    disc = cv2.circle(np.zeros((240, 320), np.uint8), (200, 150), 50, 1, -1).astype(bool)
    small: Mask = np.zeros((240, 320), bool)
    small[20:60, 30:80] = True
    drawn = draw_numbered_masks(image, [SegmentedMask(disc, 0.9), SegmentedMask(small, 0.5)])
    assert (image == 120).all()
    changed = (drawn != image).any(axis=2)
    # On the edge of the disc, not at a corner of its box or in its middle.
    assert changed[150, 249] and changed[199:202, 200].any() and changed[40, 30]
    assert not changed[196, 246] and not changed[150, 200] and not changed[230, 10]
    one = draw_numbered_masks(image, [SegmentedMask(small, 0.5)])
    assert (one != drawn)[15:65, 25:95].any()


def test_models_that_cannot_search_are_refused_before_they_are_loaded():
    served = ReasonerOptions('openai', dialect='qwen3_vl', base_url='http://127.0.0.1:1/v1')
    sam3 = SegmenterOptions('sam3')
    for fitting in (sam3, SegmenterOptions('sam3_fast_lane')):
        check_models(served, fitting)
    check_models(ReasonerOptions('transformers'), sam3, 'detect')
    with pytest.raises(AgentError, match=r'needs the segmenter sam3.*not sam2: add -p'):
        check_models(served, SegmenterOptions('sam2'))
    with pytest.raises(AgentError, match=r'the dialect seg_zero does not.*qwen3_vl'):
        check_models(replace(served, dialect='seg_zero'), sam3)
    with pytest.raises(AgentError, match='the reasoner attributes does not'):
        check_models(ReasonerOptions('attributes'), sam3)
    for task in ('point', 'answer', 'auto'):
        with pytest.raises(AgentError, match=f'--task {task}; it can do segment'):
            check_models(served, sam3, task)


def test_the_command_says_in_one_sentence_what_is_missing(tmp_path, capsys):
    words = [
        'evaluate',
        'tabletop',
        '--agent',
        '--profile',
        'offline',
        '-o',
        str(tmp_path / 'run'),
    ]
    assert main(words) == 2
    assert 'needs the segmenter sam3' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def judge(request: Request) -> None:
    """Propose a phrase for each image in turn, and accept the first mask."""
    question = request.body['messages'][-1]['content'][1]['text']
    if 'outlined' in question:
        say(request, 'accept: 1')
    else:
        say(request, 'report none' if 'were tried' in question else f'phrase: {MANY}')


def answers_of(folder: Path) -> list[dict]:
    lines = (folder / 'items.jsonl').read_text().splitlines()
    return [{**json.loads(line), 'seconds': None} for line in lines]


def test_an_evaluation_is_measured_and_resumed(server, tiny_sam3, parquet_file, tmp_path, capsys):
    server.answer = judge
    models = ['--profile', 'remote', f'-pserver.base_url:={server.url}', '-pdevice:=cpu']
    models += ['-preasoner.dialect:=qwen3_vl', f'-preasoner.model:={MODEL}']
    models += ['-psegmenter.backend:=sam3']
    models += [f'-psegmenter.model:={tiny_sam3}']
    words = ['evaluate', str(parquet_file), '-q', *models, '-o', str(tmp_path)]
    assert main([*words, '--agent']) == 0
    whole = answers_of(tmp_path)
    # One of the images has a box by the small model's lights, the other has none.
    assert {line.get('status') for line in whole[:-1]} == {'OK', 'NOT_FOUND'}
    assert all('[asked]' in line['raw_answer'] for line in whole[:-1])
    assert all(line['mask'] is not None and line['tokens'] for line in whole[:-1])
    assert 'searching' in (tmp_path / 'report.md').read_text().partition('\n')[0]
    lines = (tmp_path / 'items.jsonl').read_text().splitlines(keepends=True)
    (tmp_path / 'items.jsonl').write_text(''.join(lines[:3]))
    assert main([*words, '--agent', '--concurrency', '2']) == 0
    assert answers_of(tmp_path) == whole
    # Without the agent it would be another run.
    assert main(words) == 2
    assert 'other models' in capsys.readouterr().err


def test_a_reasoner_in_the_process_is_asked_in_words(tiny_qwen3_vl, tiny_sam3):
    reasoner = ReasonerOptions(
        'transformers', str(tiny_qwen3_vl), 'qwen3_vl', device='cpu', max_new_tokens=8
    )
    segmenter = SegmenterOptions('sam3', str(tiny_sam3), device='cpu', offline=True)
    with load_pipelines(reasoner, segmenter, 1, agent=True) as (pipeline,):
        answer = pipeline.answer(Frame(FRAME.image), Query(QUERY, '1'))
    # Random weights write no phrase; they were asked twice.
    assert answer.status is Status.MALFORMED_ANSWER
    assert answer.raw_answer.count('[asked]') == 2 and 'could not be read' in answer.raw_answer
