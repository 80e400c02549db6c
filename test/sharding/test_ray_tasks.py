"""What only a cluster of several machines has: nodes that lack something, GPUs, shared folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from segzero_ros.sharding.base import Outcome, ShardTask
from segzero_ros.sharding.executor import run_shards
from segzero_ros.sharding.needs import Needs
from segzero_ros.sharding.ray_tasks import RayTasks


def task(work: str, options: Any, *reads: Path) -> ShardTask:
    return ShardTask(f'{work} {options}', f'shard_works:{work}', options, reads)


def test_a_node_without_this_package_says_so(cluster, tmp_path, monkeypatch):
    bare = tmp_path / 'bare' / 'segzero_ros'
    bare.mkdir(parents=True)
    (bare / '__init__.py').write_text('raise ModuleNotFoundError("No module named segzero_ros")')
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    outcomes: list[Outcome] = []

    opened: list[int] = []

    def release(number: int, outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not opened:
            # The nodes that have the package wait until the one that lacks it has failed.
            opened.append(os.open(pipe, os.O_RDWR))

    # Ray has workers import from the command's working directory, too.
    monkeypatch.chdir(tmp_path)
    with cluster.another(PYTHONPATH=str(bare.parent)):
        shards = [task('wait_for', str(pipe)) for _ in range(3)]
        run_shards(shards, RayTasks(cluster.address, Needs(), tmp_path), on_outcome=release)
    os.close(*opened)
    assert 'lacks segzero_ros' in outcomes[0].error and 'install it there' in outcomes[0].error
    # A shard that was not yet placed by then may come to that node, too.
    others = [each for each in outcomes[1:] if 'lacks segzero_ros' not in each.error]
    assert others and all(each.result == 'opened' for each in others)


def test_a_node_that_cannot_see_what_it_needs_says_so(cluster, tmp_path):
    bag = tmp_path / 'bag'
    bag.touch()
    tasks = RayTasks(cluster.address, Needs(), tmp_path)
    bag.unlink()
    (outcome,) = run_shards([task('square', 2, bag)], tasks)
    assert f'does not see {bag}' in outcome.error and 'mount it' in outcome.error


@pytest.mark.parametrize(
    ('needs', 'places'),
    [
        (Needs(), 2),
        (Needs(alone=True), 2),
        (Needs(gpu=True, alone=True), 1),
        (Needs(gpu=True, alone=True, must_have_gpu=True), 1),
    ],
)
def test_models_that_fit_once_have_a_machine_or_a_gpu_each(cluster, needs, places, tmp_path):
    tasks = RayTasks(cluster.address, needs, tmp_path)
    assert tasks.places == places
    if needs.must_have_gpu:
        outcomes = run_shards([task('visible_gpus', n) for n in range(2)], tasks)
        assert [outcome.result for outcome in outcomes] == ['0', '0']
    else:
        tasks.close()
    assert not list(tmp_path.iterdir())
