"""Several processes answer a bag's queries: the outcome is that of one, however it ends."""

from __future__ import annotations

from concurrent.futures import wait
import os
from pathlib import Path
import select
import signal
import subprocess
import sys

import pytest
from recordings import Recording, scene_frame
from test_replay import contents

from segzero_ros.config import read_profile
from segzero_ros.replay import replay as replaying
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.replay.query_file import QueryPlan
from segzero_ros.replay.replay import replay, ReplayListener, ReplayOptions
from segzero_ros.replay.workers import count_workers, Task, WorkerError, WorkerPool
from segzero_ros.types import Query

PLAN = QueryPlan(texts=('the largest object', 'something that is not there'))
LIMIT = 60.0


@pytest.fixture(scope='module')
def parameters() -> dict[str, object]:
    return read_profile('offline')


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    """Twelve frames with depth and intrinsics."""
    frames = [scene_frame(seed) for seed in (3, 4, 5)] * 4
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bags') / 'table')


@pytest.fixture(scope='module')
def alone(bag, parameters, tmp_path_factory) -> ReplayOutput:
    """The bag's replay by one process."""
    return replay(bag, tmp_path_factory.mktemp('alone') / 'out', parameters, ReplayOptions(PLAN))


@pytest.fixture
def started(monkeypatch) -> list[WorkerPool]:
    """Have a replay wait for its workers, so that they take part; collect the pools."""
    pools = []

    def make(*arguments, **options):
        pools.append(WorkerPool(*arguments, **options))
        wait(pools[-1].started, LIMIT)
        return pools[-1]

    monkeypatch.setattr(replaying, 'WorkerPool', make)
    return pools


def task(number: int = 0) -> Task:
    return Task(number, 17, Query('the largest object', 'x'), scene_frame(3), 0.5, '')


def overlays_folder(path: Path) -> ReplayOutput:
    folder = ReplayOutput(path)
    folder.overlays.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_workers_give_the_bytes_of_one_process_in_the_order_of_the_queries(
    bag, alone, parameters, started, tmp_path
):
    asked: list[int] = []
    listener = ReplayListener(on_answer=lambda number, _: asked.append(number))
    folder = replay(bag, tmp_path / 'out', parameters, ReplayOptions(PLAN, workers=3), listener)
    assert asked == list(range(24))
    assert contents(folder) == contents(alone)
    assert [pool.start_error for pool in started] == ['']


@pytest.mark.slow
def test_an_interrupted_replay_with_workers_goes_on_and_ends_with_the_same_bytes(
    bag, alone, parameters, started, tmp_path
):
    def interrupt(number, answer):
        if number == 7:
            raise KeyboardInterrupt

    replay_options = ReplayOptions(PLAN, workers=2)
    with pytest.raises(KeyboardInterrupt):
        replay(
            bag, tmp_path / 'out', parameters, replay_options, ReplayListener(on_answer=interrupt)
        )
    kept = len(list(ReplayOutput(tmp_path / 'out').records()))
    assert 8 <= kept < 24
    assert not ReplayOutput(tmp_path / 'out').bag.exists()
    begun: list[tuple[int, int]] = []
    listener = ReplayListener(on_begin=lambda *counts: begun.append(counts))
    folder = replay(bag, tmp_path / 'out', parameters, replay_options, listener)
    assert begun == [(kept, 24)]
    assert contents(folder) == contents(alone)


@pytest.mark.slow
def test_a_worker_has_one_task_to_do_and_one_that_waits(parameters, tmp_path):
    pool = WorkerPool(1, parameters, overlays_folder(tmp_path))
    wait(pool.started, LIMIT)
    try:
        kept: list[int] = []
        offers = [pool.offer(task(n), lambda number, *_: kept.append(number)) for n in range(3)]
        assert [offer is None for offer in offers] == [False, False, True]
        records = [offer.result(LIMIT) for offer in offers[:2]]
        assert kept == [0, 1]
        assert records[0].answer.segments[0].mask.any()
        assert (tmp_path / 'overlays/000002.png').stat().st_size > 10_000
    finally:
        pool.close()


@pytest.mark.slow
def test_a_worker_that_cannot_write_says_so(parameters, tmp_path):
    pool = WorkerPool(1, parameters, ReplayOutput(tmp_path / 'missing'))
    wait(pool.started, LIMIT)
    try:
        with pytest.raises(OutputError, match='cannot be written'):
            pool.offer(task(), lambda *_: None).result(LIMIT)
    finally:
        pool.close()


@pytest.mark.slow
def test_a_worker_that_was_killed_is_one_sentence(parameters, tmp_path):
    pool = WorkerPool(1, parameters, overlays_folder(tmp_path))
    wait(pool.started, LIMIT)
    try:
        os.kill(pool.process_ids[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match=r'code -9.*--workers 1'):
            pool.offer(task(), lambda *_: None).result(LIMIT)
    finally:
        pool.close()


@pytest.mark.slow
def test_models_that_cannot_be_loaded_in_a_worker_are_reported(parameters, tmp_path):
    pool = WorkerPool(
        1, {**parameters, 'segmenter.backend': 'scissors'}, overlays_folder(tmp_path)
    )
    wait(pool.started, LIMIT)
    assert 'scissors' in pool.start_error
    assert pool.offer(task(), lambda *_: None) is None
    pool.close()


@pytest.mark.slow
def test_workers_end_when_their_replay_is_killed(tmp_path):
    program = """
import sys, time
from concurrent.futures import wait
from pathlib import Path
import select
from segzero_ros.config import read_profile
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.workers import WorkerPool

if __name__ == '__main__':
    pool = WorkerPool(1, read_profile('offline'), ReplayOutput(Path(sys.argv[1])))
    wait(pool.started)
    print(pool.process_ids[0], flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, '-c', program, str(tmp_path)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    descriptor = os.pidfd_open(worker)
    parent.kill()
    parent.wait()
    # A pidfd is readable when its process has ended.
    ended, _, _ = select.select([descriptor], [], [], LIMIT)
    os.close(descriptor)
    parent.stdin.close()
    parent.stdout.close()
    assert ended


@pytest.mark.parametrize(
    ('changed', 'wanted', 'expected', 'processors', 'count'),
    [
        ({}, 3, 1, 2, 3),
        ({}, 1, 1000, 16, 1),
        ({}, 0, 39, 16, 1),
        ({}, 0, 80, 16, 3),
        ({}, 0, 10_000, 1, 1),
        ({}, 0, 10_000, 2, 1),
        ({}, 0, 10_000, 4, 3),
        ({}, 0, 10_000, 64, 8),
        ({'reasoner.backend': 'transformers'}, 0, 10_000, 16, 1),
        ({'segmenter.backend': 'sam2'}, 1, 10_000, 16, 1),
    ],
)
def test_as_many_processes_answer_as_pay(
    parameters, changed, wanted, expected, processors, count, monkeypatch
):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(processors)))
    assert count_workers({**parameters, **changed}, wanted, expected) == count


def test_models_that_fit_once_are_not_loaded_several_times(parameters):
    with pytest.raises(WorkerError, match=r"reasoner 'openai'.*do not use --workers"):
        count_workers({**parameters, 'reasoner.backend': 'openai'}, 2, 1000)
