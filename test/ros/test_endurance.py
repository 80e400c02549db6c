"""The long runs in short: what `python -m benchmarks.fuzz` and `benchmarks.soak` do for longer."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

# They judge rates and delays, too.
pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[2]


def run(module: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}
    command = [sys.executable, '-m', f'benchmarks.{module}', '--output', str(folder), *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize('seed', ['0', '1'])
def test_a_thousand_fuzzed_messages_harm_nobody(tmp_path, seed):
    done = run('fuzz', tmp_path, '--messages', '1000', '--seed', seed)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / 'node.log').read_text(errors='replace')
    # Images were looked at, and what was wrong with them was told, not raised.
    assert log.count('ERROR') > 20
    assert 'Traceback' not in log


def test_a_short_soak_loses_nothing(tmp_path):
    done = run('soak', tmp_path, '--minutes', '0.4', '--fault-period', '1')
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'soak.json').stat().st_size > 1000
