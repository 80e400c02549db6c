"""Without the extra for bags, all else works, and what needs it says so in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDDEN = 'import sys; sys.modules[{!r}] = None; '


@pytest.mark.slow
@pytest.mark.parametrize('library', ['mcap', 'rosbags', 'zstandard'])
@pytest.mark.parametrize(
    'command', [['replay', 'a.mcap', '--query', 'x'], ['evaluate', 'a.mcap', '--truth', 'b.jsonl']]
)
def test_a_command_says_what_to_install(library, command, tmp_path):
    code = f'from segzero_ros.cli.main import main; sys.exit(main({command!r}))'
    done = _run(library, code, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert f'Bags need {library}' in done.stderr
    assert 'scripts/install_models bags' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('module', ['segzero_ros.evaluation.datasets', 'segzero_ros.cli.replay'])
def test_what_needs_no_bag_is_imported_without(module, tmp_path):
    assert _run('rosbags', f'import {module}', tmp_path).returncode == 0


def _run(library: str, code: str, folder):
    return subprocess.run(
        [sys.executable, '-c', HIDDEN.format(library) + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
