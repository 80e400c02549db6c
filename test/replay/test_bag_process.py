"""The bag of a replay is the same from a process of its own, and what ends it is told."""

from __future__ import annotations

from collections.abc import Iterator
import multiprocessing
import os
from pathlib import Path
import signal

import pytest
from recordings import Recording, scene_frame

from segzero_ros.profiles import read_profile
from segzero_ros.replay import replay as replaying
from segzero_ros.replay.answer_log import LogAbandoned
from segzero_ros.replay.bag import BagError
from segzero_ros.replay.bag_process import BagJob, BagProcessError, write_apart, write_here
from segzero_ros.replay.folder import Folder
from segzero_ros.replay.queries import Plan
from segzero_ros.replay.replay import Listener, replay, Wishes


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    """Three frames with depth and intrinsics."""
    frames = [scene_frame(seed) for seed in (3, 4, 5)]
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bags') / 'table')


@pytest.fixture(scope='module')
def whole(bag, tmp_path_factory) -> Folder:
    """Its replay in one process."""
    wishes = Wishes(Plan(texts=('the largest object',)), overlay_topic=True)
    path = tmp_path_factory.mktemp('whole') / 'out'
    return replay(bag, path, read_profile('offline'), wishes)


def lines_of(folder: Folder) -> list[str]:
    return folder.results.read_text('ascii').splitlines()


def job_of(bag: Path, whole: Folder, output: Path) -> BagJob:
    """Return a job whose folder has the overlays of a whole replay."""
    folder = Folder(output)
    folder.work.mkdir(parents=True)
    folder.overlays.symlink_to(whole.overlays)
    return BagJob(bag, output, '/segzero', originals=True, overlays=True)


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize('write', [write_here, write_apart])
def test_the_bag_is_the_same_here_and_apart(bag, whole, tmp_path, write):
    job = job_of(bag, whole, tmp_path / 'out')
    assert write(job, lines_of(whole)) == []
    assert bytes_of(Folder(job.output).bag) == bytes_of(whole.bag)


def test_a_long_replay_writes_its_bag_apart(bag, whole, tmp_path, monkeypatch):
    processes = []

    def write(job, lines):
        processes.append(job)
        return write_apart(job, lines)

    monkeypatch.setattr(replaying, 'write_apart', write)
    monkeypatch.setattr(replaying, '_WORTH_A_PROCESS', 2)
    wishes = Wishes(Plan(texts=('the largest object',)), overlay_topic=True)
    made = replay(bag, tmp_path / 'out', read_profile('offline'), wishes)
    assert len(processes) == 1
    assert bytes_of(made.bag) == bytes_of(whole.bag)
    assert made.video.read_bytes() == whole.video.read_bytes()


def test_an_interrupted_replay_leaves_no_bag_and_no_process(bag, tmp_path, monkeypatch):
    def interrupt(number, answer):
        raise KeyboardInterrupt

    monkeypatch.setattr(replaying, '_WORTH_A_PROCESS', 2)
    wishes = Wishes(Plan(texts=('the largest object',)))
    listener = Listener(on_answer=interrupt)
    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'out', read_profile('offline'), wishes, listener)
    assert not Folder(tmp_path / 'out').bag.exists()
    assert not multiprocessing.active_children()


def test_lines_that_end_on_an_error_leave_no_bag(bag, whole, tmp_path):
    def lines() -> Iterator[str]:
        yield lines_of(whole)[0]
        raise LogAbandoned('The replay was interrupted.')

    job = job_of(bag, whole, tmp_path / 'out')
    with pytest.raises(LogAbandoned):
        write_apart(job, lines())
    assert not Folder(job.output).bag.exists()
    assert not multiprocessing.active_children()


def test_what_goes_wrong_apart_is_raised_here(whole, tmp_path):
    job = job_of(tmp_path / 'no bag', whole, tmp_path / 'out')
    with pytest.raises(BagError, match='no bag'):
        write_apart(job, lines_of(whole))


def test_a_process_that_was_killed_is_told_with_what_to_do(bag, whole, tmp_path):
    def lines() -> Iterator[str]:
        yield lines_of(whole)[0]
        (process,) = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        yield from lines_of(whole)[1:]

    job = job_of(bag, whole, tmp_path / 'out')
    with pytest.raises(BagProcessError, match=r'exit code -9.*run the same command again'):
        write_apart(job, lines())
    assert not Folder(job.output).bag.exists()
