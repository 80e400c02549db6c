"""Frames out of a bag say what keeps them from a pose, as the node's do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recordings import Recording, scene_frame

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.query_file import QueryPlan
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import find_topics, Topics

MS = 1_000_000
COLOUR, DEPTH, INFO = '/camera/image', '/camera/depth', '/camera/camera_info'


def warnings(path: Path, topics: Topics | None = None) -> list[str]:
    """Return what is said about each image of a bag."""
    limits = ScheduleLimits(50 * MS, 5000 * MS, 100)
    with BagReader(path) as bag:
        topics = topics or find_topics(bag)
        jobs = QuerySchedule(topics, QueryPlan(texts=('cup',)), limits, bag.span_ns[0], str)
        frames = BagFrames(bag, topics)
        return [frames.frame(job.rgbd)[1] for job in jobs.run(bag.messages(jobs.topics))]


def recorded(path: Path, depths: int, *, info: bool = True) -> Path:
    """Record ten images 100 ms apart, depth with the first of them."""
    recording = Recording()
    for number in range(10):
        frame = scene_frame(number % 2)
        if info:
            recording.info(INFO, frame, number * 100 * MS)
        recording.picture(COLOUR, frame, number * 100 * MS)
        if number < depths:
            recording.picture(DEPTH, frame, number * 100 * MS, encoding='16UC1', late_ns=5 * MS)
    return recording.write(path)


def test_a_bag_with_everything_is_not_warned_about(tmp_path: Path) -> None:
    assert warnings(recorded(tmp_path / 'bag', 10)) == [''] * 10


def test_depth_that_stops_in_a_bag_is_said(tmp_path: Path) -> None:
    found = warnings(recorded(tmp_path / 'bag', 4))
    assert found[:4] == [''] * 4
    assert 'the nearest depth image on /camera/depth is 0.100 s older' in found[4]
    assert all('There are no poses' in text for text in found[4:])


@pytest.mark.parametrize('topics', [None, Topics(COLOUR, DEPTH)])
def test_intrinsics_that_were_not_recorded_are_said(tmp_path: Path, topics) -> None:
    found = warnings(recorded(tmp_path / 'bag', 10, info=False), topics)
    assert set(found) == {'There are no poses: no camera_info was recorded for the camera.'}


def test_depth_of_another_size_that_was_left_out_is_said_in_each_answer(tmp_path: Path) -> None:
    recording = Recording()
    for number in range(3):
        frame, at = scene_frame(number % 2), number * 100 * MS
        assert frame.depth is not None
        small = replace(frame, image=frame.image[::2, ::2], depth=frame.depth[::2, ::2])
        recording.info(INFO, frame, at)
        recording.picture(COLOUR, frame, at)
        recording.picture(DEPTH, small, at, encoding='16UC1')
    assert warnings(recording.write(tmp_path / 'bag')) == 3 * [
        'There are no poses: /camera/depth is left out: its depth images have 160x120 pixels, '
        'those of /camera/image 320x240.'
    ]


@pytest.mark.parametrize(
    ('size', 'options', 'reason'),
    [
        (
            (400, 200),
            {},
            '/camera/camera_info is not used for /camera/image: it is for images of 400x200 '
            'pixels, and these have 320x240; --camera-info /camera/camera_info takes it all the '
            'same.',
        ),
        ((320, 240), {'camera_info': 'none'}, 'camera_info is left out by --camera-info none.'),
    ],
)
def test_intrinsics_that_were_left_out_are_said_in_each_answer(
    tmp_path: Path, size: tuple[int, int], options: dict[str, str], reason: str
) -> None:
    recording = Recording()
    for number in range(3):
        frame, at = scene_frame(number % 2), number * 100 * MS
        assert frame.intrinsics is not None
        width, height = size
        other = replace(frame.intrinsics, width=width, height=height)
        recording.info(INFO, replace(frame, intrinsics=other), at)
        recording.picture(COLOUR, frame, at)
        recording.picture(DEPTH, frame, at, encoding='16UC1')
    path = recording.write(tmp_path / 'bag')
    with BagReader(path) as bag:
        topics = find_topics(bag, **options)
    assert warnings(path, topics) == [f'There are no poses: {reason}'] * 3


def test_a_bag_without_depth_has_nothing_to_say(tmp_path: Path) -> None:
    assert warnings(recorded(tmp_path / 'bag', 0)) == [''] * 10
