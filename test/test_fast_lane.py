"""The fast lane: plain noun phrases past the reasoner, the rest and what is not found to it."""

import numpy as np
import pytest

from segzero_ros.doctor.models import check_models
from segzero_ros.evaluation.concurrency import SharedSegmenter
from segzero_ros.loading import load_pipeline, ReasonerOptions, SAM3, SegmenterOptions
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import (
    Frame,
    GroundedObject,
    Grounding,
    Query,
    Roi,
    SegmenterUnavailable,
    Status,
    Task,
)

FRAME = Frame(np.zeros((40, 60, 3), np.uint8), stamp_ns=7, frame_id='camera')
MUGS = (
    GroundedObject((-2.0, 5.0, 30.4, 25.0), (), 'mug'),
    GroundedObject((35.0, 5.0, 50.0, 30.0)),
)
OTHER = GroundedObject((0.0, 0.0, 10.0, 10.0), ((5.0, 5.0),), 'other')


class ScriptedReasoner:
    """Answers with one object, or in words, and counts how often it is asked."""

    name = 'scripted'
    leaves_processors_free = False
    reads_marks = False

    def __init__(self):
        self.asked = 0

    def reason(self, frame, query, on_text, cancelled, on_object=None):
        self.asked += 1
        if query.task is Task.ANSWER:
            return Grounding('I look. ', (), 'yes', answer='yes')
        return Grounding('I look. ', (OTHER,), 'raw', generated_tokens=3)

    def close(self):
        pass


class Finder:
    """A segmenter that makes every box its own mask and finds mugs."""

    name = 'boxes'

    def __init__(self, takes_all_processors=False, found=MUGS):
        self.takes_all_processors = takes_all_processors
        self.found = found
        self.encoded = 0
        self.phrases = []

    def encode(self, frame, check=None):
        self.encoded += 1
        return frame

    def find(self, encoding, phrase, check=None):
        assert encoding is FRAME
        if check is not None:
            check()
        self.phrases.append(phrase)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def segment(self, encoding, grounding, check=None):
        masks = []
        for found in grounding.objects:
            x1, y1, x2, y2 = map(int, found.box)
            mask = np.zeros(encoding.image.shape[:2], bool)
            mask[y1:y2, x1:x2] = True
            masks.append(SegmentedMask(mask, 0.5))
        return masks

    def close(self):
        pass


@pytest.fixture
def ask():
    pipelines = []

    def run(text, task=Task.SEGMENT, finder=None, *, lane=True, candidates=(), **kwargs):
        finder = finder or Finder()
        reasoner = ScriptedReasoner()
        pipeline = Pipeline(reasoner, finder, phrase_finder=finder if lane else None)
        pipelines.append(pipeline)
        query = Query(text, 'q1', task=task, candidates=candidates)
        return pipeline.answer(FRAME, query, **kwargs), reasoner.asked, finder

    yield run
    for pipeline in pipelines:
        pipeline.close()


@pytest.mark.parametrize('takes_all_processors', [False, True])
def test_a_plain_noun_phrase_is_answered_without_the_reasoner(ask, takes_all_processors):
    texts, objects = [], []
    answer, asked, finder = ask(
        'the red mug',
        finder=Finder(takes_all_processors),
        listeners=Listeners(on_text=texts.append, on_object=objects.append),
    )
    assert (answer.status, answer.message, answer.reasoner) == (Status.OK, '', 'sam3')
    assert (asked, finder.phrases, finder.encoded) == (0, ['red mug'], 1)
    assert [segment.mask_roi for segment in answer.segments] == [
        Roi(0, 5, 30, 20),
        Roi(35, 5, 15, 25),
    ]
    assert answer.segments[0].label == 'mug'
    assert answer.reasoning == ''.join(texts)
    assert 'SAM 3 finds 2 objects for "red mug"' in answer.reasoning
    assert tuple(objects) == MUGS


@pytest.mark.parametrize('task', [Task.DETECT, Task.COUNT])
def test_detect_and_count_take_the_fast_lane_too(ask, task):
    answer, asked, _ = ask('mugs', task)
    assert (answer.status, answer.reasoner, asked) == (Status.OK, 'sam3', 0)
    assert len(answer.segments) == 2 and not answer.segments[0].mask.any()
    assert answer.count == (2 if task is Task.COUNT else None)


def test_a_query_that_leaves_its_task_open_takes_it_when_it_is_a_phrase(ask):
    answer, asked, _ = ask('red mug', None)
    assert (answer.reasoner, answer.task, asked) == ('sam3', Task.SEGMENT, 0)
    answer, asked, finder = ask('how many mugs are there', None)
    assert (answer.reasoner, answer.task, asked) == ('scripted', Task.COUNT, 1)
    assert not finder.phrases


@pytest.mark.parametrize(
    ('text', 'task'),
    [
        ('the mug left of the plate', Task.SEGMENT),
        ('something to drink from', Task.SEGMENT),
        ('two mugs', Task.DETECT),
        ('red mug', Task.ANSWER),
        ('red mug', Task.POINT),
    ],
)
def test_what_is_more_than_a_phrase_goes_to_the_reasoner(ask, text, task):
    answer, asked, finder = ask(text, task)
    assert (answer.status, answer.reasoner, asked) == (Status.OK, 'scripted', 1)
    assert not finder.phrases


def test_candidates_are_the_reasoners(ask):
    answer, asked, finder = ask('red mug', candidates=((0.0, 0.0, 10.0, 10.0),))
    assert (answer.reasoner, asked, finder.phrases) == ('scripted', 1, [])


def test_without_the_fast_lane_the_reasoner_is_asked(ask):
    answer, asked, finder = ask('red mug', lane=False)
    assert (answer.reasoner, asked, finder.phrases) == ('scripted', 1, [])


@pytest.mark.parametrize('found', [(), None])
@pytest.mark.parametrize('takes_all_processors', [False, True])
def test_what_is_not_found_is_asked_of_the_reasoner(ask, found, takes_all_processors):
    answer, asked, finder = ask('red mug', finder=Finder(takes_all_processors, found))
    assert (answer.status, answer.reasoner, asked) == (Status.OK, 'scripted', 1)
    assert (answer.segments[0].label, answer.timing.generated_tokens) == ('other', 3)
    assert 'SAM 3' not in answer.reasoning
    assert finder.encoded == 1


def test_a_failure_and_a_cancel_are_told(ask):
    failing = Finder(found=SegmenterUnavailable('cuda:0 has too little free memory.'))
    answer, asked, _ = ask('red mug', finder=failing)
    assert (answer.status, answer.message) == (Status.ERROR, 'cuda:0 has too little free memory.')
    finder = Finder()
    answer, asked, _ = ask('red mug', finder=finder, cancelled=lambda: bool(finder.encoded))
    assert (answer.status, asked, finder.phrases) == (Status.CANCELED, 0, [])


@pytest.mark.parametrize('backend', ['sam3', 'sam3_fast_lane'])
def test_the_segmenter_decides_whether_there_is_a_fast_lane(tiny_sam3, backend):
    image = np.full((80, 96, 3), 200, np.uint8)
    image[20:60, 30:70] = (200, 30, 30)
    options = SegmenterOptions(backend, str(tiny_sam3), device='cpu', offline=True)
    pipeline = load_pipeline(ReasonerOptions('attributes'), options)
    with_lane = backend == 'sam3_fast_lane'
    assert (pipeline.phrase_finder is pipeline.segmenter) == with_lane
    names = set()
    for text in ('red block', 'cup', 'blue box', 'plate', 'green ball', 'tin', 'banana', 'fork'):
        answer = pipeline.answer(Frame(image), Query(text, 'q', task=Task.SEGMENT))
        assert answer.status in (Status.OK, Status.NOT_FOUND), answer.message
        names.add(answer.reasoner)
    assert names == ({'sam3', 'attributes'} if with_lane else {'attributes'})
    pipeline.close()


def test_pipelines_that_share_a_segmenter_share_its_fast_lane():
    finder = Finder()
    shared = SharedSegmenter(finder, finder)
    assert shared.find(FRAME, 'red mug') == MUGS
    assert finder.phrases == ['red mug']


@pytest.mark.parametrize('backend', SAM3)
def test_the_doctor_looks_for_the_weights_without_loading_them(tiny_sam3, tmp_path, backend):
    def checks(folder):
        options = SegmenterOptions(backend, str(folder), device='cpu', offline=True)
        found = list(check_models(ReasonerOptions('attributes'), options))
        assert found[1].name == f'packages of {backend}' and found[1].level.value == 'OK'
        return found[-1]

    here, not_here = checks(tiny_sam3), checks(tmp_path)
    assert (here.name, here.level.value) == ('weights of the segmenter', 'OK')
    assert not_here.level.value != 'OK' and 'config.json' in not_here.message
