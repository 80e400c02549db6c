"""Following an answer: catching up with the camera, dropping rather than lagging, giving way."""

from dataclasses import replace
import itertools
import threading

import numpy as np
import pytest

from segzero_ros import spatial
from segzero_ros.tracking import base
from segzero_ros.tracking.catch_up import CatchUp, TrackedFrame, TrackingEnd
from segzero_ros.tracking.classical_tracker import ClassicalTracker
from segzero_ros.tracking.frame_buffer import FrameBuffer
from segzero_ros.types import Answer, Frame, Intrinsics, Query, Roi, Segment, Status

RATE = 30
SECOND = 1_000_000_000


def frame_at(time_ns):
    return Frame(np.zeros((8, 8, 3), np.uint8), stamp_ns=time_ns)


def a_segment(number=1, label='mug'):
    roi = Roi(2, 2, 3, 3)
    return Segment(number, label, 0.9, roi, ((3.0, 3.0),), roi, np.ones((3, 3), np.bool_))


def an_answer(*segments, frame=None):
    return Answer(Query('it'), Status.OK, frame=frame or frame_at(0), segments=segments)


class World:
    """A camera and a clock: time goes on only while somebody works, and frames come meanwhile."""

    def __init__(self, backlog):
        self.now = 0.0
        self.backlog = backlog
        self._taken = itertools.count(1)
        self._next = next(self._taken)

    def clock(self):
        return self.now

    def work(self, seconds):
        self.now += seconds
        while self._next / RATE <= self.now:
            time_ns = self._next * SECOND // RATE
            self.backlog.put(time_ns, time_ns)
            self._next = next(self._taken)


class TimedTracker:
    """Follows nothing real, but takes its time for it; loses everything when told to."""

    name = 'timed'

    def __init__(self, world, seconds):
        self.world = world
        self.seconds = seconds
        self.segments = ()
        self.age = 0
        self.blind = False

    def start(self, frame, segments):
        self.segments = segments

    def add(self, frame, segments):
        self.segments = (*self.segments, *segments)

    def step(self, frame):
        self.world.work(self.seconds)
        self.age = self.age + 1 if self.blind else 0
        if self.blind:
            return [base.lost(segment, self.age) for segment in self.segments]
        mask = np.eye(8, dtype=np.bool_)
        return [base.found(segment, mask, 0.8) for segment in self.segments]

    def close(self):
        self.segments = ()


def follow(seconds, answered_after, stop_at, **options):
    """Follow with steps that take so long; return what was followed with the clock's time."""
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()
    tracker = TimedTracker(world, seconds)
    follower = CatchUp(tracker, backlog, frame_at, clock=world.clock, **options)
    world.work(answered_after)
    assert follower.start(an_answer(a_segment()))
    heard = []
    end = follower.run(
        lambda followed: heard.append((world.now, followed)), lambda: world.now >= stop_at
    )
    assert end is TrackingEnd.CANCELLED
    return heard


def test_it_catches_up_in_the_time_it_has_and_stays_with_the_camera():
    heard = follow(seconds=0.04, answered_after=4.0, stop_at=10.0, catch_up=2.0)
    stamps = [followed.frame.stamp_ns / SECOND for _, followed in heard]
    assert stamps == sorted(set(stamps)), 'it goes back in time'
    assert stamps[0] < 0.1, 'it begins right after the answered frame'
    assert max(np.diff(stamps)) < 0.25, 'it jumps'
    late = [now for now, followed in heard if followed.lag > 0.1]
    assert 5.5 < max(late) < 6.5
    # From then on it takes the newest frame: at most a step and a frame behind.
    assert max(f.lag for now, f in heard if now > 6.6) <= 0.04 + 1 / RATE


def test_a_slow_tracker_drops_frames_rather_than_lag():
    heard = follow(seconds=0.5, answered_after=3.0, stop_at=12.0)
    late = [followed.lag for now, followed in heard if now > 6.5]
    assert len(late) > 5
    assert max(late) <= 0.5 + 1 / RATE


def test_a_slow_listener_does_not_make_it_lag():
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()
    follower = CatchUp(TimedTracker(world, 0.04), backlog, frame_at, clock=world.clock)
    follower.start(an_answer(a_segment()))
    world.work(1 / RATE)
    heard = []

    def publish(followed):
        heard.append(followed)
        world.work(0.06)

    follower.run(publish, lambda: world.now > 10)
    assert max(followed.lag for followed in heard) <= 0.04 + 1 / RATE


def test_a_tracker_far_slower_than_the_answer_takes_the_newest_frame_at_once():
    heard = follow(seconds=6.0, answered_after=3.0, stop_at=30.0)
    gaps = np.diff([followed.frame.stamp_ns / SECOND for _, followed in heard])
    assert max(gaps[1:]) <= 6.0 + 2 / RATE


def test_it_gives_way_to_a_query_and_goes_on_where_it_was():
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()
    follower = CatchUp(TimedTracker(world, 0.04), backlog, frame_at, clock=world.clock)
    follower.start(an_answer(a_segment()))
    world.work(0.1)
    heard = []
    assert follower.run(heard.append, lambda: len(heard) == 5) is TrackingEnd.CANCELLED
    assert len(heard) == 5
    world.work(3.0)  # a query that found nothing
    assert follower.run(heard.append, lambda: len(heard) == 6) is TrackingEnd.CANCELLED
    gap = heard[5].frame.stamp_ns - heard[4].frame.stamp_ns
    assert gap <= 0.25 * SECOND, 'what was kept meanwhile is played, not skipped'


def test_it_ends_when_everything_has_been_lost_for_long():
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()
    tracker = TimedTracker(world, 0.04)
    follower = CatchUp(tracker, backlog, frame_at, clock=world.clock, patience=2.0)
    follower.start(an_answer(a_segment(1), a_segment(2, '')))
    world.work(0.1)
    heard = []

    def hear(followed):
        heard.append(followed)
        # Lost for a second, seen once, then lost for good.
        tracker.blind = followed.frame.stamp_ns > SECOND and len(heard) != 50

    assert follower.run(hear, lambda: world.now > 20) is TrackingEnd.ALL_LOST
    seen = max(f.frame.stamp_ns for f in heard if not all(track.lost for track in f.tracks))
    assert seen > 1.5 * SECOND
    assert 2.0 < (heard[-1].frame.stamp_ns - seen) / SECOND < 2.2
    assert heard[-1].message == 'Lost: 1 (mug), 2.'
    assert heard[0].message == ''


def test_frames_that_cannot_be_used_are_left_out():
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()
    follower = CatchUp(
        TimedTracker(world, 0.04),
        backlog,
        lambda time_ns: frame_at(time_ns) if time_ns > SECOND else None,
        clock=world.clock,
    )
    follower.start(an_answer(a_segment()))
    world.work(2.0)
    heard = []
    follower.run(heard.append, lambda: len(heard) == 3)
    assert heard[0].frame.stamp_ns > SECOND


def test_an_answer_without_masks_has_nothing_to_follow():
    backlog = FrameBuffer()
    world = World(backlog)
    follower = CatchUp(TimedTracker(world, 0.1), backlog, frame_at)
    nothing = replace(a_segment(), mask=np.zeros((3, 3), np.bool_))
    assert not follower.start(an_answer(nothing))
    assert not follower.start(an_answer())
    assert not follower.start(Answer(Query('it'), Status.NO_IMAGE, 'No image yet.'))


def test_followed_objects_have_the_pose_that_the_frames_depth_gives():
    backlog = FrameBuffer()
    world = World(backlog)
    backlog.open()

    def with_depth(time_ns):
        depth = np.full((8, 8), 1.5, np.float32)
        return replace(
            frame_at(time_ns), depth=depth, intrinsics=Intrinsics(10, 10, 3.5, 3.5, 8, 8)
        )

    follower = CatchUp(TimedTracker(world, 0.04), backlog, with_depth, clock=world.clock)
    follower.start(an_answer(a_segment()))
    world.work(0.1)
    heard: list[TrackedFrame] = []
    follower.run(heard.append, lambda: len(heard) == 1)
    segment = heard[0].tracks[0].segment
    expected = spatial.lift(segment.full_mask(8, 8), heard[0].frame)
    assert (segment.pose, segment.pose_status) == expected


def test_the_backlog_is_bounded_and_spread_over_the_whole_time():
    backlog = FrameBuffer(capacity=16)
    backlog.put(1, 'before anybody asked')
    backlog.open()
    for number in range(1000):
        backlog.put(number, number)
    kept = []
    while (taken := backlog.take(-1, 0)) is not None:
        kept.append(taken[1])
    assert 8 <= len(kept) <= 16
    assert (kept[0], kept[-1]) == (0, 999)
    assert max(np.diff(kept)) <= 128


def test_the_backlog_gives_the_first_frame_at_a_time_or_else_the_newest():
    backlog = FrameBuffer()
    backlog.open()
    for number in (10, 20, 30, 40):
        backlog.put(number, str(number))
    assert backlog.take(15, 0) == (20, '20')
    assert backlog.take(15, 0) == (30, '30'), 'what came before is forgotten'
    assert backlog.lag(30) == 1e-8
    assert backlog.take(99, 0) == (40, '40')
    assert backlog.take(0, 0) is None
    backlog.put(50, '50')
    backlog.close()
    backlog.put(60, '60')
    assert backlog.take(0, 0) is None
    with pytest.raises(ValueError, match='capacity'):
        FrameBuffer(1)


def test_whoever_waits_for_a_frame_gets_it_when_it_comes():
    backlog = FrameBuffer()
    backlog.open()
    got = []
    waiting = threading.Thread(target=lambda: got.append(backlog.take(0, timeout=60)))
    waiting.start()
    backlog.put(5, 'frame')
    waiting.join(60)
    assert got == [(5, 'frame')]


def test_a_real_tracker_follows_a_moving_card_from_an_old_answer_to_the_newest_frame():
    random = np.random.default_rng(1)
    ground = random.integers(90, 130, (120, 160, 3)).astype(np.uint8)

    def picture(number):
        image = ground.copy()
        image[40:70, 10 + 2 * number : 45 + 2 * number] = (200, 40, 30)
        return Frame(image, stamp_ns=number * SECOND // RATE)

    mask = np.zeros((120, 160), np.bool_)
    mask[40:70, 10:45] = True
    roi = Roi.around(mask)
    card = Segment(3, 'card', 1.0, roi, (), roi, mask[roi.slices])
    backlog = FrameBuffer()
    backlog.open()
    for number in range(1, 40):
        backlog.put(number * SECOND // RATE, number)
    follower = CatchUp(ClassicalTracker(), backlog, picture)
    assert follower.start(an_answer(card, frame=picture(0)))
    heard = []
    newest = 39 * SECOND // RATE
    follower.run(heard.append, lambda: bool(heard) and heard[-1].frame.stamp_ns == newest)
    track = heard[-1].tracks[0]
    assert (track.segment.id, track.segment.label, track.lost) == (3, 'card', False)
    x, y, width, height = track.segment.mask_roi
    assert abs(x - 88) <= 2 and abs(y - 40) <= 2 and abs(width - 35) <= 4 and abs(height - 30) <= 4
