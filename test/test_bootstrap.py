"""The set-up says in one line what is missing, before it changes anything."""

from pathlib import Path
import shutil
import subprocess
import sys

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / 'scripts' / 'bootstrap.py'


@pytest.fixture
def bootstrap(tmp_path):
    """Run a copy of the set-up, so that the environment it would make is another one."""
    (tmp_path / 'scripts').mkdir()
    (tmp_path / 'bin').mkdir()
    script = shutil.copy(SCRIPT, tmp_path / 'scripts')

    def run(*tools, **environment):
        for tool in tools:
            (tmp_path / 'bin' / tool).symlink_to('/bin/true')
        # The Python behind the environment: without its packages, so without rclpy.
        return subprocess.run(
            [sys._base_executable, '-I', script],
            env={'PATH': str(tmp_path / 'bin'), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    assert not (tmp_path / '.venv' / 'bin').exists()


def test_missing_tools_are_named_with_their_packages(bootstrap):
    done = bootstrap()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for package in ('g++', 'cmake', 'make'):
        assert f'apt-get install {package}' in line


def test_one_missing_tool_is_named_alone(bootstrap):
    done = bootstrap('c++', 'cmake')
    assert done.returncode == 1
    assert done.stderr.strip() == '[setup] Missing: make (apt-get install make).'


def test_a_sourced_ros_that_this_python_cannot_use_is_explained(bootstrap):
    done = bootstrap('c++', 'cmake', 'make', ROS_DISTRO='jazzy')
    assert done.returncode == 1
    assert 'ROS 2 jazzy is sourced' in done.stderr
    assert 'PYTHON=/usr/bin/python3' in done.stderr


@pytest.mark.parametrize('there', [True, False])
def test_an_environment_that_is_a_link_is_left_alone_and_explained(bootstrap, tmp_path, there):
    other = tmp_path / 'other'
    if there:
        other.mkdir()
        (other / 'precious').touch()
    (tmp_path / '.venv').symlink_to(other)
    done = bootstrap('c++', 'cmake', 'make')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f'.venv is a link to {other}' in line
    assert f'rm {tmp_path / ".venv"}' in line
    assert (tmp_path / '.venv').is_symlink()
    assert (other / 'precious').exists() == there
