"""The tests of the executor with a real Ray cluster of two nodes, in a network of its own."""

from __future__ import annotations

from pathlib import Path

from own_network import INSIDE, run_pytest, why_not
import pytest

TEST = Path(__file__).resolve().parent.parent
FILES = (
    'sharding/test_executor.py',
    'sharding/test_ray_tasks.py',
    'evaluation/test_evaluate_in_workers.py',
    'replay/test_replay_many.py',
)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(INSIDE, reason='is what runs this')
def test_shards_on_a_cluster() -> None:
    if reason := why_not():
        pytest.skip(f'needs a network namespace to keep Ray on the loopback: {reason}')
    done = run_pytest('-k', 'ray', *(str(TEST / name) for name in FILES))
    assert done.returncode == 0, done.stdout
    assert ' passed' in done.stdout and ' skipped' not in done.stdout, done.stdout
