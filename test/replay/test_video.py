"""The video holds each overlay once, at the size of the largest, whenever that one comes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segzero_ros.replay import video
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.video import write_video
from segzero_ros.types import Answer, Frame, Query, Status


def answer_on(height: int, shade: int) -> Answer:
    image = np.full((height, 480, 3), (shade, 120, 200), np.uint8)
    return Answer(Query('the cup', 'q1'), Status.OK, frame=Frame(image, 0, 'camera'))


@pytest.fixture
def folder(tmp_path) -> ReplayOutput:
    made = ReplayOutput(tmp_path / 'out')
    made.work.mkdir(parents=True)
    made.overlays.mkdir()
    return made


def straightforward(folder: ReplayOutput, count: int, rate: float, path: Path) -> bytes:
    """Return a video that is written once all overlays are there."""
    pictures = [cv2.imread(str(folder.overlay(number))) for number in range(count)]
    width, height = (max(picture.shape[axis] for picture in pictures) for axis in (1, 0))
    size = width + width % 2, height + height % 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, size)
    for picture in pictures:
        rest = ((0, size[1] - picture.shape[0]), (0, size[0] - picture.shape[1]), (0, 0))
        writer.write(np.pad(picture, rest))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(
    ('heights', 'expected'),
    [
        ([200] * 6, 10.0),
        ([200, 260, 200, 300, 200, 200], 10.0),
        ([200, 200, 200, 200, 200, 301], 10.0),
        ([200] * 6, 20.0),
        ([200, 300, 200, 200, 200, 200], 20.0),
    ],
    ids=['one size', 'larger ones soon', 'a larger one late', 'fewer than expected', 'both'],
)
def test_the_video_is_that_of_all_overlays(folder, tmp_path, monkeypatch, heights, expected):
    monkeypatch.setattr(video, '_MAX_RESTART', 3)
    overlays = OverlayFiles(folder, 2)

    def answers():
        for number, height in enumerate(heights):
            overlays.write(number, answer_on(height, 40 * number))
            yield number

    write_video(folder, overlays, answers(), expected, lambda count: count * 10 / 6)
    assert folder.video.read_bytes() == straightforward(folder, 6, 10.0, tmp_path / 'v.mp4')


def test_without_answers_there_is_no_video(folder):
    write_video(folder, OverlayFiles(folder), [], 1.0, float)
    assert not folder.video.exists()


def test_a_video_that_is_stopped_is_not_there(folder):
    overlays = OverlayFiles(folder)
    overlays.write(0, answer_on(200, 0))
    write_video(folder, overlays, [0], 10.0, lambda _: 20.0, lambda: True)
    assert not folder.video.exists()


def test_overlays_in_memory_are_those_of_the_files_and_no_more_than_asked_for(folder):
    overlays, files = OverlayFiles(folder, 2), OverlayFiles(folder)
    for number in range(4):
        overlays.write(number, answer_on(200, 40 * number))
    for number in (0, 3):
        folder.overlay(number).rename(folder.work / f'{number}.png')
    # The newest is in memory, the oldest was no more.
    newest = overlays.read(3)
    with pytest.raises(OutputError, match=r'000001\.png'):
        overlays.read(0)
    (folder.work / '3.png').rename(folder.overlay(3))
    assert np.array_equal(newest, files.read(3))
    # It is given once: memory is not held for what was read.
    assert np.array_equal(newest, overlays.read(3))
    assert overlays.read(3) is not newest
