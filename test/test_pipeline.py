"""The pipeline, with small reasoners and segmenters that keep the protocols' promises."""

import threading
import time
import weakref

import numpy as np
import pytest

from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.segments import clean, clip_box, MAX_LABEL_LENGTH, MAX_OBJECTS, MAX_POINTS
from segzero_ros.types import (
    Cancelled,
    Frame,
    GroundedObject,
    Grounding,
    Intrinsics,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
    Roi,
    Stage,
    Status,
)

DEADLINE = 20.0
FRAME = Frame(np.zeros((40, 60, 3), np.uint8), stamp_ns=7, frame_id='camera')
QUERY = Query('the cup', 'q1')
CUP = GroundedObject((10.0, 5.0, 30.0, 25.0), ((15.0, 10.0),), 'cup')


class ScriptedReasoner:
    """Says what it is told to, or raises it."""

    name = 'scripted'
    leaves_processors_free = False
    reads_marks = False

    def __init__(self, outcome, before=lambda cancelled: None):
        self.outcome = outcome
        self.before = before
        self.closed = False

    def reason(self, frame, query, on_text, cancelled, on_object):
        on_text('I look. ')
        self.before(cancelled)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        for found in self.outcome.objects:
            on_object(found)
        return self.outcome

    def close(self):
        self.closed = True


class BoxSegmenter:
    """Makes every box its own mask and counts how often it encodes."""

    name = 'boxes'

    def __init__(self, takes_all_processors=False):
        self.takes_all_processors = takes_all_processors
        self.encoded = 0
        self.encoder_started = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.closed = False

    def encode(self, frame, check=None):
        self.encoded += 1
        self.encoder_started.set()
        while not self.release.wait(0.01 if check else DEADLINE):
            assert check
            check()
        return frame

    def segment(self, encoding, grounding, check=None):
        masks = []
        for found in grounding.objects:
            x1, y1, x2, y2 = map(int, found.box)
            mask = np.zeros(encoding.image.shape[:2], bool)
            mask[y1:y2, x1:x2] = True
            masks.append(SegmentedMask(mask, 0.5))
        return masks

    def close(self):
        self.closed = True


def grounding(*objects, **words):
    return Grounding('I look. ', tuple(objects), 'raw', **words)


@pytest.fixture
def ask():
    pipelines = []

    def run(outcome, before=lambda cancelled: None, segmenter=None, **kwargs):
        pipeline = Pipeline(ScriptedReasoner(outcome, before), segmenter or BoxSegmenter())
        pipelines.append(pipeline)
        return pipeline.answer(FRAME, QUERY, **kwargs)

    yield run
    for pipeline in pipelines:
        pipeline.close()


def test_an_answer_carries_frame_reasoning_and_mask(ask):
    answer = ask(grounding(CUP, generated_tokens=12))
    assert (answer.status, answer.message) == (Status.OK, '')
    assert answer.frame is FRAME
    assert (answer.reasoning, answer.raw_answer) == ('I look. ', 'raw')
    assert (answer.reasoner, answer.segmenter) == ('scripted', 'boxes')
    (segment,) = answer.segments
    assert (segment.id, segment.label, segment.score) == (1, 'cup', 0.5)
    assert segment.box == segment.mask_roi == Roi(10, 5, 20, 20)
    assert segment.mask.shape == (20, 20)
    assert segment.mask.all()
    assert segment.full_mask(40, 60).sum() == 400
    assert answer.timing.generated_tokens == 12
    assert answer.timing.total >= answer.timing.reasoning + answer.timing.segmenting


@pytest.mark.parametrize(
    ('depth', 'distortion', 'remarked'),
    [(0.8, (-0.3, 0.1), True), (0.8, (0.0, 0.0), False), (np.nan, (-0.3, 0.1), False)],
)
def test_poses_in_a_picture_that_is_not_rectified_are_remarked_on(depth, distortion, remarked):
    frame = Frame(
        FRAME.image,
        depth=np.full((40, 60), depth, np.float32),
        intrinsics=Intrinsics(50.0, 50.0, 29.5, 19.5, 60, 40, distortion),
    )
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), BoxSegmenter())
    answer = pipeline.answer(frame, QUERY)
    pipeline.close()
    assert (answer.segments[0].pose is not None) == np.isfinite(depth)
    assert ('not rectified' in answer.message) == remarked


def with_depth(depth, intrinsics, *objects):
    """Return the answer about some objects in a frame with depth."""
    frame = Frame(FRAME.image, depth=depth, intrinsics=intrinsics)
    pipeline = Pipeline(ScriptedReasoner(grounding(*objects)), BoxSegmenter())
    answer = pipeline.answer(frame, QUERY)
    pipeline.close()
    return answer


def test_an_object_without_a_pose_is_named_with_the_reason():
    """Of two objects one has no depth inside its mask; of one alone, it is `any object`."""
    lens = Intrinsics(50.0, 50.0, 29.5, 19.5, 60, 40)
    depth = np.full((40, 60), 0.8, np.float32)
    depth[:, 35:] = np.nan
    far = GroundedObject((40, 5, 55, 25), label='glass')
    answer = with_depth(depth, lens, CUP, far)
    assert [found.pose is None for found in answer.segments] == [False, True]
    assert 'There is no pose of object 2: too little depth' in answer.message
    assert 'no pose of any object: too little' in with_depth(depth, lens, far).message
    assert with_depth(depth, lens, CUP).message == ''


def test_intrinsics_of_no_lens_are_named():
    depth = np.full((40, 60), 0.8, np.float32)
    answer = with_depth(depth, Intrinsics(1e-9, 50.0, 29.5, 19.5, 60, 40), CUP)
    assert answer.segments[0].pose is None
    assert 'implausible intrinsics: focal lengths 1e-09 and 50' in answer.message


def test_stages_text_and_objects_are_heard_in_order(ask):
    heard = []
    ask(grounding(CUP), listeners=Listeners(heard.append, heard.append, heard.append))
    assert heard == [Stage.REASONING, 'I look. ', CUP, Stage.SEGMENTING]


def test_encoding_runs_beside_the_reasoner(ask):
    segmenter = BoxSegmenter()

    def wait_for_encoder(cancelled):
        assert segmenter.encoder_started.wait(DEADLINE)

    assert ask(grounding(CUP), wait_for_encoder, segmenter).status == Status.OK


def test_a_second_question_about_the_frame_uses_its_encoding():
    segmenter = BoxSegmenter()
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), segmenter)
    for _ in range(3):
        assert pipeline.answer(FRAME, QUERY).status == Status.OK
    assert segmenter.encoded == 1
    other = Frame(FRAME.image.copy())
    pipeline.answer(other, QUERY)
    assert segmenter.encoded == 2
    pipeline.close()
    assert pipeline.reasoner.closed
    assert segmenter.closed


def test_all_frames_are_encoded_in_one_thread_which_ends_with_the_pipeline():
    # What OpenCV keeps for a thread is not freed with it.
    segmenter = BoxSegmenter()
    working = segmenter.encode
    threads = []

    def encode(frame, check):
        threads.append(threading.current_thread())
        return working(frame, check)

    segmenter.encode = encode
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), segmenter)
    for _ in range(3):
        assert pipeline.answer(Frame(FRAME.image.copy()), QUERY).status == Status.OK
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0].is_alive()
    pipeline.close()
    assert not threads[0].is_alive()
    late = pipeline.answer(Frame(FRAME.image.copy()), QUERY)
    assert (late.status, late.message) == (
        Status.ERROR,
        'RuntimeError: The thread encoder was closed.',
    )


def test_where_both_want_all_processors_the_frame_is_encoded_afterwards_in_the_same_thread():
    reasoned = []
    segmenter = BoxSegmenter(takes_all_processors=True)
    reasoner = ScriptedReasoner(grounding(), lambda _: reasoned.append(segmenter.encoded))
    pipeline = Pipeline(reasoner, segmenter)
    threads = []
    working = segmenter.encode

    def encode(frame, check):
        threads.append(threading.current_thread())
        return working(frame, check)

    segmenter.encode = encode
    assert pipeline.answer(FRAME, QUERY).status == Status.NOT_FOUND
    assert segmenter.encoded == 0
    reasoner.outcome = grounding(CUP)
    answer = pipeline.answer(FRAME, QUERY)
    assert answer.status == Status.OK
    assert 0 < answer.timing.encoding <= answer.timing.segmenting
    assert pipeline.answer(FRAME, QUERY).status == Status.OK
    assert reasoned == [0, 0, 1]
    assert threads == [threading.current_thread()]
    pipeline.close()


def test_a_reasoner_that_leaves_the_processors_free_has_any_segmenter_beside_it():
    segmenter = BoxSegmenter(takes_all_processors=True)

    def wait_for_encoder(cancelled):
        assert segmenter.encoder_started.wait(DEADLINE)

    reasoner = ScriptedReasoner(grounding(CUP), wait_for_encoder)
    reasoner.leaves_processors_free = True
    pipeline = Pipeline(reasoner, segmenter)
    assert pipeline.answer(FRAME, QUERY).status == Status.OK
    pipeline.close()


def test_where_the_frame_is_encoded_afterwards_the_last_one_is_freed_before():
    reasoner = ScriptedReasoner(grounding(CUP))
    pipeline = Pipeline(reasoner, BoxSegmenter(takes_all_processors=True))
    frame = Frame(FRAME.image.copy())
    gone = threading.Event()
    weakref.finalize(frame, gone.set)
    assert pipeline.answer(frame, QUERY).status == Status.OK
    del frame
    found = []
    reasoner.before = lambda _: found.append(gone.is_set())
    pipeline.answer(FRAME, QUERY)
    assert found == [True]
    pipeline.close()


def test_a_frame_is_freed_when_it_is_forgotten_though_its_encoder_waits_for_the_next():
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), BoxSegmenter())
    frame = Frame(FRAME.image.copy())
    gone = threading.Event()
    weakref.finalize(frame, gone.set)
    pipeline.answer(frame, QUERY)
    pipeline.forget_frame()
    del frame
    # The answer is there a moment before the encoder's thread has let go.
    assert gone.wait(DEADLINE)
    pipeline.close()


def test_a_pipeline_that_nobody_closed_takes_its_thread_along():
    segmenter = BoxSegmenter()
    threads = []
    segmenter.encode = lambda frame, check: threads.append(threading.current_thread())
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), segmenter)
    pipeline.begin_encoding(FRAME).result(DEADLINE)
    del pipeline
    threads[0].join(DEADLINE)
    assert not threads[0].is_alive()


def test_nothing_found_is_said_with_the_reasoners_note(ask):
    answer = ask(grounding(note='I do not know the word "astronaut".'))
    assert answer.status == Status.NOT_FOUND
    assert answer.message == 'I do not know the word "astronaut".'
    assert answer.segments == ()


@pytest.mark.parametrize(
    ('error', 'status', 'raw'),
    [
        (Cancelled('half'), Status.CANCELED, 'half'),
        (ReasonerTimeout('60 s were not enough', 'half'), Status.TIMEOUT, 'half'),
        (MalformedAnswer('no JSON', 'blah'), Status.MALFORMED_ANSWER, 'blah'),
        (ReasonerUnavailable('the server is gone'), Status.ERROR, ''),
        (ZeroDivisionError('a bug'), Status.ERROR, ''),
    ],
)
def test_each_failure_has_its_status_and_keeps_what_was_said(ask, error, status, raw):
    answer = ask(error)
    assert answer.status == status
    assert answer.message
    assert answer.raw_answer == raw
    assert answer.reasoning == 'I look. '
    assert answer.frame is FRAME
    assert answer.failed_in is Stage.REASONING


def test_an_answer_says_which_model_failed(ask):
    class NoMasks(BoxSegmenter):
        def segment(self, encoding, grounding, check=None):
            raise MemoryError

    def no_encoding(frame, check=None):
        raise OSError

    assert ask(grounding(CUP)).failed_in is None
    assert ask(grounding()).failed_in is None
    assert ask(grounding(CUP), cancelled=lambda: True).failed_in is Stage.QUEUED
    assert ask(grounding(CUP), segmenter=NoMasks()).failed_in is Stage.SEGMENTING
    unusable = GroundedObject((30.0, 5.0, 10.0, 25.0))
    assert ask(grounding(unusable)).failed_in is Stage.SEGMENTING
    for takes_all_processors in (False, True):
        segmenter = BoxSegmenter(takes_all_processors)
        segmenter.encode = no_encoding
        answer = ask(grounding(CUP), segmenter=segmenter)
        assert (answer.status, answer.failed_in) == (Status.ERROR, Stage.SEGMENTING)


def test_a_model_that_would_end_the_program_fails_its_own_query(ask):
    class Quitter(BoxSegmenter):
        def segment(self, encoding, grounding, check=None):
            raise SystemExit(1)

    def quit_encoding(frame, check=None):
        raise SystemExit(2)

    for takes_all_processors in (False, True):
        encoder = BoxSegmenter(takes_all_processors)
        encoder.encode = quit_encoding
        for answer in (
            ask(SystemExit(3)),
            ask(grounding(CUP), segmenter=Quitter(takes_all_processors)),
            ask(grounding(CUP), segmenter=encoder),
        ):
            assert answer.status is Status.ERROR
            assert 'tried to end the program (SystemExit' in answer.message
    # Ctrl-C on a command line is no model's doing.
    with pytest.raises(KeyboardInterrupt):
        ask(KeyboardInterrupt())


class Counting(BoxSegmenter):
    """Checks before each object, as promised, and counts them."""

    def __init__(self, before_object):
        super().__init__()
        self.before_object = before_object
        self.made = 0

    def segment(self, encoding, grounding, check=None):
        masks = []
        for found in grounding.objects:
            self.before_object()
            check()
            self.made += 1
            masks += super().segment(encoding, Grounding('', (found,)))
        return masks


def test_a_cancel_among_the_masks_of_many_objects_is_answered_at_the_next(ask):
    cancel = threading.Event()
    segmenter = Counting(lambda: segmenter.made == 3 and cancel.set())
    answer = ask(grounding(*[CUP] * 100), segmenter=segmenter, cancelled=cancel.is_set)
    assert (answer.status, answer.raw_answer) == (Status.CANCELED, 'raw')
    assert segmenter.made == 3


def test_a_time_limit_holds_for_the_masks_too():
    pause = threading.Event()
    segmenter = Counting(lambda: pause.wait(0.05))
    limited = Pipeline(ScriptedReasoner(grounding(*[CUP] * 100)), segmenter, time_limit=0.2)
    answer = limited.answer(FRAME, QUERY)
    assert (answer.status, answer.failed_in) == (Status.TIMEOUT, Stage.SEGMENTING)
    assert (answer.raw_answer, answer.segments) == ('raw', ())
    assert '0.2 s' in answer.message and 'limits.answer_time' in answer.message
    assert segmenter.made < 10
    limited.close()


def test_masks_that_would_be_too_large_together_are_left_out_and_named(ask, monkeypatch):
    monkeypatch.setattr('segzero_ros.segments.MAX_MASK_PIXELS', 1000)
    monkeypatch.setattr('segzero_ros.segments.MAX_MASK_IMAGES', 0)
    small = GroundedObject((0.0, 0.0, 10.0, 10.0), label='spoon')
    answer = ask(grounding(CUP, CUP, CUP, small))
    assert answer.status is Status.OK
    assert [segment.mask.size for segment in answer.segments] == [400, 400, 0, 100]
    assert answer.message.startswith('The masks of objects 3 were dropped')
    left_out = answer.segments[2]
    assert left_out.mask_roi == Roi(0, 0, 0, 0)
    assert (left_out.label, left_out.box, left_out.score) == ('cup', Roi(10, 5, 20, 20), 0.5)
    # A large image has room for a few masks of its own size.
    monkeypatch.setattr('segzero_ros.segments.MAX_MASK_IMAGES', 4)
    assert ask(grounding(CUP, CUP, CUP, small)).message == ''


def test_an_unexpected_error_is_logged_with_its_traceback(ask, caplog):
    answer = ask(ZeroDivisionError('a bug'))
    assert answer.message == 'ZeroDivisionError: a bug'
    assert 'Traceback' in caplog.text


@pytest.mark.parametrize('takes_all_processors', [False, True])
def test_the_pipeline_answers_again_after_an_encoder_failure(takes_all_processors):
    segmenter = BoxSegmenter(takes_all_processors)
    working = segmenter.encode

    def fail(frame, check):
        raise OSError('no memory')

    segmenter.encode = fail
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), segmenter)
    assert pipeline.answer(FRAME, QUERY).status == Status.ERROR
    segmenter.encode = working
    assert pipeline.answer(FRAME, QUERY).status == Status.OK
    pipeline.close()


def test_a_cancel_is_answered_without_waiting_for_the_encoder(ask):
    segmenter = BoxSegmenter()
    segmenter.release.clear()
    cancel = threading.Event()
    started = time.monotonic()
    answer = ask(Cancelled(), lambda cancelled: cancel.set(), segmenter, cancelled=cancel.is_set)
    assert answer.status == Status.CANCELED
    assert time.monotonic() - started < DEADLINE / 2
    segmenter.release.set()


def test_a_cancel_while_the_encoder_works_does_not_wait_for_it(ask):
    segmenter = BoxSegmenter()
    segmenter.release.clear()
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    answer = ask(grounding(CUP), segmenter=segmenter, cancelled=cancel.is_set)
    assert answer.status == Status.CANCELED
    segmenter.release.set()


def test_a_cancel_ends_an_encoder_in_the_same_thread_and_the_next_question_starts_it_anew():
    segmenter = BoxSegmenter(takes_all_processors=True)
    segmenter.release.clear()
    pipeline = Pipeline(ScriptedReasoner(grounding(CUP)), segmenter)
    answer = pipeline.answer(FRAME, QUERY, cancelled=segmenter.encoder_started.is_set)
    assert (answer.status, answer.raw_answer) == (Status.CANCELED, 'raw')
    segmenter.release.set()
    assert pipeline.answer(FRAME, QUERY).status == Status.OK
    assert segmenter.encoded == 2
    pipeline.close()


def test_a_query_cancelled_before_its_turn_reaches_no_model(ask):
    answer = ask(ZeroDivisionError('was called'), cancelled=lambda: True)
    assert answer.status == Status.CANCELED


NAN = float('nan')


@pytest.mark.parametrize(
    ('box', 'clipped'),
    [
        ((1.0, 2.0, 10.0, 20.0), (1.0, 2.0, 10.0, 20.0)),
        ((-5.0, -5.0, 100.0, 100.0), (0.0, 0.0, 60.0, 40.0)),
        ((1.2, 2.7, 10.4, 20.5), (1.0, 3.0, 10.0, 20.0)),
        ((0.0, 0.0, 60.0, 40.0), (0.0, 0.0, 60.0, 40.0)),
        ((10.0, 2.0, 1.0, 20.0), None),
        ((1.0, 20.0, 10.0, 2.0), None),
        ((5.0, 5.0, 5.0, 9.0), None),
        ((61.0, 5.0, 70.0, 9.0), None),
        ((-9.0, 5.0, -1.0, 9.0), None),
        ((NAN, 5.0, 7.0, 9.0), None),
        ((1.0, 5.0, float('inf'), 9.0), None),
    ],
)
def test_boxes_are_clipped_or_refused(box, clipped):
    assert clip_box(box, 60, 40) == clipped


def test_dropped_boxes_and_points_are_counted(ask):
    bad = GroundedObject((NAN, 0.0, 1.0, 1.0))
    far = GroundedObject((1.0, 1.0, 9.0, 9.0), ((500.0, 2.0), (NAN, 1.0), (3.0, 3.0)))
    usable, remarks = clean(grounding(bad, far, CUP), 60, 40)
    assert [found.points for found in usable.objects] == [((3.0, 3.0),), CUP.points]
    assert '1 of 3 boxes' in remarks
    assert '2 points' in remarks
    answer = ask(grounding(bad, far, CUP))
    assert answer.status == Status.OK
    assert [segment.id for segment in answer.segments] == [1, 2]
    assert '1 of 3 boxes' in answer.message


def test_of_an_endless_answer_a_bounded_part_is_kept(ask):
    many = (GroundedObject((1.0, 1.0, 9.0, 9.0), ((3.0, 3.0),) * 5000, 'x' * 100_000),) * 3000
    usable, remarks = clean(grounding(*many), 60, 40)
    assert len(usable.objects) == MAX_OBJECTS
    assert {len(found.points) for found in usable.objects} == {MAX_POINTS}
    assert {len(found.label) for found in usable.objects} == {MAX_LABEL_LENGTH}
    assert remarks == '2800 objects dropped: at most 200 are segmented.'
    answer = ask(grounding(*many))
    assert answer.status == Status.OK
    assert len(answer.segments) == MAX_OBJECTS
    assert '2800 objects' in answer.message


def test_an_answer_of_which_no_box_is_left_is_malformed(ask):
    answer = ask(grounding(GroundedObject((9.0, 9.0, 1.0, 1.0))))
    assert answer.status == Status.MALFORMED_ANSWER
    assert '1 of 1 boxes' in answer.message
    assert answer.raw_answer == 'raw'


def test_the_tight_roi_of_a_mask():
    mask = np.zeros((10, 20), bool)
    assert Roi.around(mask) == Roi(0, 0, 0, 0)
    mask[3, 4] = mask[7, 18] = True
    assert Roi.around(mask) == Roi(4, 3, 15, 5)
