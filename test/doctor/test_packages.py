"""What does not fit together is found before it spoils an answer, and the cure is a command."""

from __future__ import annotations

import json
import os
from pathlib import Path
import re
import subprocess
import sys

import numpy as np
import pytest

from segzero_ros import extras
from segzero_ros.cli.main import main
from segzero_ros.doctor import packages
from segzero_ros.doctor.checks import Level
from segzero_ros.extras import explain, EXTRAS, install_command

ROOT = Path(__file__).resolve().parents[2]
# How an OpenCV that was compiled for NumPy 1 fails beside NumPy 2.
ABI = 'raise ImportError("numpy.core.multiarray failed to import")\n'


def segzero(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run the command with a folder of modules before all others."""
    places = f'{path}:{ROOT}:{os.environ.get("PYTHONPATH", "")}'
    return subprocess.run(
        [sys.executable, str(ROOT / 'scripts' / 'segzero'), *words],
        env={**os.environ, 'PYTHONPATH': places},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_numpy_that_hides_the_systems_is_told(tmp_path, monkeypatch):
    other = '1.26.4' if np.__version__.startswith('2') else '2.3.4'
    info = tmp_path / f'numpy-{other}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: numpy\nVersion: {other}\n')
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path)])
    found = {each.name: each for each in packages.check_packages()}['NumPy']
    assert found.level is Level.FAIL
    assert np.__version__ in found.message
    assert other in found.message
    assert install_command('models') in found.hint


def test_an_opencv_for_another_numpy_is_told_by_the_doctor_and_by_programs(tmp_path):
    (tmp_path / 'cv2.py').write_text(ABI)
    done = segzero('doctor', '--no-ros', '--json', '--profile', 'offline', path=tmp_path)
    assert done.returncode == 1, done.stderr
    found = {each['what']: each for each in json.loads(done.stdout)}['OpenCV']
    assert found['level'] == 'FAIL'
    assert 'multiarray' in found['said']
    assert 'install_models models' in found['cure']
    done = segzero('evaluate', 'tabletop', '--profile', 'offline', path=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'compiled for another NumPy' in line
    assert 'segzero doctor' in line


def test_an_opencv_that_crashes_is_told(monkeypatch):
    monkeypatch.setattr(packages, '_OPENCV', 'import os, signal; os.kill(os.getpid(), 6)')
    found = {each.name: each for each in packages.check_packages()}['OpenCV']
    assert found.level is Level.FAIL
    assert '-6' in found.message


def test_messages_that_hold_other_numbers_are_told(monkeypatch, tmp_path):
    pytest.importorskip('rclpy', reason='needs ROS 2')
    assert {each.name: each for each in packages.check_packages()}[
        "ROS 2's messages"
    ].level is Level.OK
    spoilt = packages._MESSAGES.replace('back =', 'info.k[0] = 5.0\nback =').replace(
        'list(info.k)', '[0.0] * 9'
    )
    monkeypatch.setattr(packages, '_MESSAGES', spoilt)
    found = {each.name: each for each in packages.check_packages()}["ROS 2's messages"]
    assert found.level is Level.FAIL
    assert 'they corrupt numbers' in found.message


def test_an_environment_that_is_active_and_not_used_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv('VIRTUAL_ENV', str(tmp_path))
    found = next(iter(packages.check_packages()))
    assert (found.name, found.level) == ('Python', Level.WARN)
    assert f'{tmp_path}/bin/activate' in found.hint


def test_a_cure_with_a_long_path_is_shown_whole(tmp_path, monkeypatch, capsys):
    # The command of the cure is in a folder with a long name.
    checkout = tmp_path / ('workspace' * 12) / 'segzero_ros'
    monkeypatch.setattr(extras, '__file__', str(checkout / 'segzero_ros' / 'extras.py'))
    script = checkout / 'scripts' / 'install_models'
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(packages, '_OPENCV', 'raise ImportError("multiarray")')
    assert main(['doctor', '--no-ros', '--profile', 'offline']) == 1
    shown = re.sub(r'[│\s]', '', capsys.readouterr().out)
    assert f'→{script}modelscreatesanenvironment' in shown


@pytest.mark.parametrize('extra', EXTRAS)
def test_the_command_for_an_extra_is_there_to_be_run(extra):
    script, *words = install_command(extra).split(' ')
    assert os.access(script, os.X_OK)
    assert words == [extra]


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (ModuleNotFoundError('No module', name='rosbags.rosbag2'), 'install_models bags'),
        (ModuleNotFoundError('No module', name='rclpy'), 'ROS 2 is needed'),
        (ModuleNotFoundError('No module', name='segzero_ros.msg'), 'ROS 2 is needed'),
        (ModuleNotFoundError('No module', name='sensor_msgs.msg'), 'ROS 2 is needed'),
        (ImportError('libGL.so.1: cannot open', name='torchvision'), 'libGL.so.1'),
        (ImportError('numpy._core.multiarray failed to import'), 'compiled for another NumPy'),
        (ModuleNotFoundError('No module', name='nobody_knows'), ''),
        (ModuleNotFoundError('No module', name='segzero_ros.pipelin'), ''),
    ],
)
def test_an_import_that_fails_is_explained_where_something_is_known_of_it(error, said):
    assert said in explain(error)
    assert bool(said) == bool(explain(error))


def test_pocketsphinx_on_a_python_without_its_wheel_points_to_whisper(monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 14, 3))
    said = explain(ModuleNotFoundError('No module', name='pocketsphinx'))
    assert 'no wheel for Python 3.14' in said
    assert 'install_models whisper' in said
