"""Shards end the same on processes and on Ray: done, or with the reason.

With processes here; the same tests with a real cluster are run by test_own_network.py.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import select
import subprocess
import sys
from typing import Any

from own_network import INSIDE
import pytest

from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.sharding.base import Progress, ShardError, ShardTask
from segzero_ros.sharding.executor import MAX_ATTEMPTS, run_shards
from segzero_ros.sharding.local import LocalProcesses
from segzero_ros.sharding.needs import Needs, needs_of
from segzero_ros.sharding.ray_worker import code_digest, events

HERE = Path(__file__).resolve().parent
LIMIT = 60.0
pytestmark = pytest.mark.slow


def task(work: str, options: Any, *reads: Path) -> ShardTask:
    return ShardTask(f'{work} {options}', f'shard_works:{work}', options, reads)


@pytest.fixture(params=['processes', *(['ray'] if INSIDE else [])])
def backend(request, tmp_path) -> Callable[[], Any]:
    """What makes a backend for two shards at a time."""
    if request.param == 'processes':
        return lambda: LocalProcesses(2)
    from segzero_ros.sharding.ray_tasks import RayTasks

    address = request.getfixturevalue('cluster').address
    return lambda: RayTasks(address, Needs(), tmp_path)


def test_results_come_in_the_order_of_the_shards_and_progress_is_reported(backend):
    reported: list[tuple[int, Progress]] = []
    ended: list[int] = []
    outcomes = run_shards(
        [task('square', number) for number in range(5)],
        backend(),
        lambda number, now: reported.append((number, now)),
        lambda number, outcome: ended.append(number),
    )
    assert [outcome.result for outcome in outcomes] == [0, 1, 4, 9, 16]
    assert [now for number, now in reported if number == 3] == [
        Progress(1, 2, 'half of 3'),
        Progress(2, 2),
    ]
    assert sorted(ended) == list(range(5))


def test_a_shard_that_fails_has_its_sentence_and_the_others_their_results(backend, caplog):
    shards = [task('refuse', 7), task('square', 3), task('divide', 1), task('square', 4)]
    outcomes = run_shards(shards, backend())
    assert [outcome.result for outcome in outcomes] == [None, 9, None, 16]
    assert outcomes[0].error.startswith('7 is not wanted: use another.')
    assert outcomes[2].error.startswith('Unexpected ZeroDivisionError: division by zero')
    assert 'in divide' in caplog.text and 'in refuse' not in caplog.text


def test_a_killed_workers_shard_is_done_again_from_where_it_was(backend, tmp_path):
    notes: list[str] = []
    shards = [task('die', str(tmp_path)), task('square', 5)]
    outcomes = run_shards(shards, backend(), lambda _, now: notes.append(now.note))
    assert [outcome.error for outcome in outcomes] == ['', '']
    assert outcomes[0].result == '0\n1\n2\n' and outcomes[1].result == 25
    assert sum('killed' in note and 'done again' in note for note in notes) == 1


def test_a_shard_that_kills_its_workers_is_given_up_and_the_others_are_not(backend, tmp_path):
    shards = [task('always_die', str(tmp_path)), *(task('square', n) for n in (2, 3))]
    outcomes = run_shards(shards, backend())
    assert [outcome.result for outcome in outcomes] == [None, 4, 9]
    assert 'killed' in outcomes[0].error and 'run the same command again' in outcomes[0].error
    assert (tmp_path / 'deaths').read_text() == MAX_ATTEMPTS * 'x'


def test_two_shards_run_at_a_time_and_an_interruption_ends_both(backend, tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    begun: set[int] = set()

    def interrupt(number: int, now: Progress) -> None:
        begun.add(number)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_shards([task('wait_for', str(pipe)) for _ in range(2)], backend(), interrupt)
    assert begun == {0, 1}
    # Nobody waits at the pipe any more.
    with pytest.raises(OSError, match='No such device'):
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)


def test_processes_are_used_again_and_end_with_the_command(tmp_path):
    program = (
        'import sys\n'
        'from segzero_ros.sharding.base import ShardTask\n'
        'from segzero_ros.sharding.executor import run_shards\n'
        'from segzero_ros.sharding.local import LocalProcesses\n'
        'if __name__ == "__main__":\n'
        '    ids = [ShardTask("id", "shard_works:process_id", n) for n in range(3)]\n'
        '    last = ShardTask("wait", "shard_works:wait_for", sys.argv[1])\n'
        '    run_shards([*ids, last], LocalProcesses(1),\n'
        '               lambda number, now: print("waits", flush=True),\n'
        '               lambda number, outcome: print(outcome.result, flush=True))\n'
    )
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    parent = subprocess.Popen(
        [sys.executable, '-c', program, str(pipe)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE), *sys.path])},
    )
    assert parent.stdout is not None
    found = [parent.stdout.readline() for _ in range(4)]
    assert found[0] == found[1] == found[2] and found[3] == 'waits\n'
    descriptor = os.pidfd_open(int(found[0]))
    parent.terminate()
    parent.wait()
    # The worker notices at its next report, which it makes when the pipe is opened.
    os.close(os.open(pipe, os.O_WRONLY))
    ended, _, _ = select.select([descriptor], [], [], LIMIT)
    os.close(descriptor)
    parent.stdout.close()
    assert ended


def test_another_output_folder_of_the_same_path_is_noticed(tmp_path):
    seen = list(events('10.0.0.7', code_digest(), (), str(tmp_path / '.shared-1'), b''))
    assert len(seen) == 1
    assert f'10.0.0.7 does not see the output folder {tmp_path}' in str(seen[0])


def test_another_version_of_this_package_is_noticed(tmp_path):
    seen = list(events('10.0.0.7', 'other', (), str(tmp_path), b''))
    assert len(seen) == 1 and 'another version of segzero_ros' in str(seen[0])


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'nowhere:x', 'ray://127.0.0.1:10001'])
def test_a_cluster_that_is_not_there_is_one_sentence(address, tmp_path):
    ray_tasks = pytest.importorskip('segzero_ros.sharding.ray_tasks')
    with pytest.raises(ShardError) as error:
        ray_tasks.RayTasks(address, Needs(), tmp_path)
    assert address in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('reasoner', 'segmenter', 'needs'),
    [
        (ReasonerOptions(), SegmenterOptions(), Needs()),
        (ReasonerOptions('openai'), SegmenterOptions(), Needs()),
        (ReasonerOptions('openai'), SegmenterOptions('sam2'), Needs(gpu=True, alone=True)),
        (ReasonerOptions('transformers', device='cpu'), SegmenterOptions(), Needs(alone=True)),
        (
            ReasonerOptions('transformers', device='cuda'),
            SegmenterOptions('sam2', device='cpu'),
            Needs(gpu=True, alone=True, must_have_gpu=True),
        ),
    ],
)
def test_models_in_the_process_need_a_gpu_or_a_machine_of_their_own(reasoner, segmenter, needs):
    assert needs_of(reasoner, segmenter) == needs
