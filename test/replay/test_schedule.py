"""Every query gets the frame that was there when it was asked, with all that belongs to it."""

from __future__ import annotations

import struct

import pytest

from segzero_ros.replay.bag import BagMessage
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import Topics
from segzero_ros.rgbd.buffer import RgbdBuffer
from segzero_ros.types import S_TO_NS

MS = 1_000_000
FRAME = 33 * MS
CAMERA = Topics('/image', '/depth', '/info', '/query')
LIMITS = ScheduleLimits(50 * MS, 5 * S_TO_NS, 100)
START = 1000 * S_TO_NS


def stamped(topic: str, stamp_ns: int, late_ns: int = 0) -> BagMessage:
    """Return a message that begins with a header; what is behind it does not matter here."""
    stamp = START + stamp_ns
    data = b'\0\1\0\0' + struct.pack('<iI', *divmod(stamp, S_TO_NS)) + topic.encode()
    return BagMessage(topic, 'any', data, stamp + late_ns)


def said(text: str, at_ns: int) -> BagMessage:
    return BagMessage('/query', 'text', text.encode(), START + at_ns)


def film(count: int, *, depth_late=5 * MS, info_late=1 * MS) -> list[BagMessage]:
    messages = []
    for number in range(count):
        at = number * FRAME
        messages += [
            stamped('/image', at),
            stamped('/info', at, info_late),
            stamped('/depth', at, depth_late),
        ]
    return messages


def run(messages, plan, topics=CAMERA, limits=LIMITS):
    """Return (text, image, depth, info) of the jobs, stamps in milliseconds from the start."""
    jobs = QuerySchedule(
        topics, plan, limits, START, lambda message: TimedQuery(message.data.decode())
    )
    done = list(jobs.run(sorted(messages, key=lambda message: message.stamp_ns)))
    return [
        (job.query.text, *(milliseconds(part) for part in (job.rgbd or [None] * 3)[:3]))
        for job in done
    ]


def milliseconds(stored):
    return None if stored is None else (stored.stamp_ns - START) / MS


EACH = QueryPlan(texts=('cup',))


@pytest.mark.parametrize('depth_late', [-1 * MS, 5 * MS, 60 * MS, 300 * MS])
def test_each_image_gets_the_depth_of_its_stamp_however_late_it_came(depth_late):
    found = run(film(20, depth_late=depth_late, info_late=2 * MS), EACH)
    assert found == [('cup', n * 33.0, n * 33.0, n * 33.0) for n in range(20)]


def test_depth_too_far_from_the_image_is_none():
    messages = [stamped('/image', 0), stamped('/info', 0), stamped('/depth', 51 * MS)]
    assert run(messages, EACH) == [('cup', 0.0, None, 0.0)]
    assert run([*messages, stamped('/depth', -50 * MS)], EACH) == [('cup', 0.0, -50.0, 0.0)]


def test_intrinsics_that_were_sent_once_hold_for_all():
    messages = [entry for entry in film(30) if entry.topic != '/info']
    found = run([stamped('/info', -100 * MS), *messages], EACH)
    assert found == [('cup', n * 33.0, n * 33.0, -100.0) for n in range(30)]


def test_every_text_is_asked_about_every_frame_in_turn():
    found = run(film(2), QueryPlan(texts=('cup', 'bowl')))
    assert [(text, image) for text, image, *_ in found] == [
        ('cup', 0.0),
        ('bowl', 0.0),
        ('cup', 33.0),
        ('bowl', 33.0),
    ]


def test_frames_are_left_out_so_that_the_wanted_time_passes():
    found = run(film(31), QueryPlan(texts=('cup',), every_ns=500 * MS))
    assert [image for _, image, *_ in found] == [0.0, 528.0]


def test_a_query_at_a_time_is_about_the_newest_image_by_then():
    plan = QueryPlan(
        asks=(
            TimedQuery('b', at_ns=33 * MS),
            TimedQuery('a', at_ns=32 * MS),
            TimedQuery('c', at_ns=34 * MS),
        )
    )
    assert [job[:2] for job in run(film(3), plan)] == [('a', 0.0), ('b', 33.0), ('c', 33.0)]


def test_a_query_before_the_first_image_waits_for_it():
    messages = [message._replace(stamp_ns=message.stamp_ns + S_TO_NS) for message in film(2)]
    assert run(messages, QueryPlan(asks=(TimedQuery('a', at_ns=0),)))[0][1] == 0.0


def test_a_query_long_after_the_last_image_has_none():
    jobs = QuerySchedule(
        CAMERA, QueryPlan(asks=(TimedQuery('a', at_ns=20 * S_TO_NS),)), LIMITS, START, str
    )
    (job,) = jobs.run(film(2))
    assert job.rgbd is None
    assert 'camera.max_image_age, 5 s' in job.no_image


def test_a_query_about_a_stamp_is_about_that_image():
    plan = QueryPlan(asks=(TimedQuery('a', stamp_ns=START + 33 * MS), TimedQuery('b', stamp_ns=7)))
    jobs = QuerySchedule(CAMERA, plan, LIMITS, START, str)
    found, missing = jobs.run(film(3))
    assert milliseconds(found.rgbd.image) == 33.0
    assert missing.no_image == 'The bag has no image with the stamp 7 on /image.'


def test_recorded_queries_are_about_what_was_there():
    messages = [*film(3), said('first', 10 * MS), said('second', 40 * MS)]
    assert run(messages, QueryPlan(recorded=True)) == [
        ('first', 0.0, 0.0, 0.0),
        ('second', 33.0, 33.0, 33.0),
    ]


@pytest.mark.parametrize('depth_late', [5 * MS, 150 * MS, 400 * MS])
def test_a_recorded_query_gets_the_frame_that_the_node_took(depth_late):
    """The same messages in the same order through the node's store."""
    messages = [*film(60, depth_late=depth_late)]
    asked = [said(f'query {number}', number * 37 * MS + 1) for number in range(3, 50)]
    store, taken = RgbdBuffer(LIMITS.max_depth_offset_ns), []
    for message in sorted([*messages, *asked], key=lambda message: message.stamp_ns):
        if message.topic == '/query':
            rgbd = store.latest()
            taken.append((message.data.decode(), *map(milliseconds, rgbd[:3])))
        else:
            put = {'/image': store.put_image, '/depth': store.put_depth, '/info': store.put_info}
            put[message.topic](message.data, message.stamp_ns)
    found = run([*messages, *asked], QueryPlan(recorded=True))
    settled = (depth_late + 100 * MS) // (37 * MS)
    assert found[settled:] == taken[settled:]
    assert all(image == depth for _, image, depth, _ in found)


@pytest.mark.parametrize('period', [34 * MS, 66 * MS, 101 * MS])
def test_a_recorded_query_gets_the_frame_that_the_node_took_of_free_running_streams(period):
    """Depth whose period is no multiple of the image's, 90 ms late, over some beats."""
    messages = [message for message in film(300) if message.topic != '/depth']
    messages += [stamped('/depth', at, 90 * MS) for at in range(0, 300 * FRAME - 90 * MS, period)]
    asked = [said(f'query {number}', number * 37 * MS + 1) for number in range(20, 250)]
    store, taken = RgbdBuffer(LIMITS.max_depth_offset_ns), []
    for message in sorted([*messages, *asked], key=lambda message: message.stamp_ns):
        if message.topic == '/query':
            rgbd = store.latest()
            taken.append((message.data.decode(), *map(milliseconds, rgbd[:3])))
        else:
            put = {'/image': store.put_image, '/depth': store.put_depth, '/info': store.put_info}
            put[message.topic](message.data, message.stamp_ns)
    found = run([*messages, *asked], QueryPlan(recorded=True))
    assert found == taken
    assert all(abs(image - depth) <= 17 for _, image, depth, _ in found)


def test_a_recording_that_starts_anew_pairs_within_each_round():
    """As of a bag played in a loop while it was recorded: stamps repeat, the clock goes on."""
    messages = [
        message._replace(stamp_ns=message.stamp_ns + play * 4 * S_TO_NS)
        for play in range(3)
        for message in film(90)
    ]
    jobs = QuerySchedule(CAMERA, EACH, LIMITS, START, str)
    done = list(jobs.run(messages))
    assert len(done) == 270
    assert all(len({stored.stamp_ns for stored in job.rgbd[:3]}) == 1 for job in done)
    arrivals = [job.rgbd.depth.arrived_ns - job.rgbd.image.arrived_ns for job in done]
    assert set(arrivals) == {5 * MS}
    assert jobs.restarts == 2


def test_memory_is_bounded_however_long_the_bag_is():
    jobs = QuerySchedule(
        CAMERA, QueryPlan(asks=(TimedQuery('a', at_ns=60 * S_TO_NS),)), LIMITS, START, str
    )
    kept = []

    def watched():
        for message in film(2000):
            kept.append(len(jobs._depths) + len(jobs._infos) + len(jobs._waiting))
            yield message

    assert len(list(jobs.run(watched()))) == 1
    assert max(kept) < 40


def test_queries_are_numbered_and_tidied():
    jobs = QuerySchedule(CAMERA, QueryPlan(texts=(' the \n cup ', 'x' * 2001)), LIMITS, START, str)
    cup, long = jobs.run(film(1))
    assert (cup.query.id, cup.query.text) == ('000001', 'the cup')
    assert (long.query.id, long.rgbd) == ('000002', None)
    assert 'shorten it' in long.error
