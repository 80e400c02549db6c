"""The set-up says in one line what is missing, before it changes anything."""

import importlib.util
from pathlib import Path
import re
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
    shutil.copy(SCRIPT.with_name('environment.py'), tmp_path / 'scripts')

    def run(*tools, **environment):
        for tool in tools:
            (tmp_path / 'bin' / tool).symlink_to('/bin/true')
        # The Python behind the environment: without its packages, so without rclpy.
        return subprocess.run(
            [sys._base_executable, '-E', '-s', script],
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


def test_wheels_that_do_not_exist_are_named(bootstrap):
    done = bootstrap('c++', 'cmake', 'make', ROS_WHEELS='lyrical')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert (
        line
        == "[setup] There are no wheels of ROS 2 'lyrical': set ROS_WHEELS to jazzy or kilted."
    )


def test_wheels_are_not_mixed_with_a_sourced_ros(bootstrap):
    done = bootstrap('c++', 'cmake', 'make', ROS_DISTRO='jazzy', ROS_WHEELS='kilted')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert 'ROS 2 jazzy is sourced' in line
    assert 'unset ROS_WHEELS' in line


def load(monkeypatch, wheels):
    monkeypatch.setenv('ROS_WHEELS', wheels)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location('bootstrap_of_wheels', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ('wheels', 'folders', 'rclpy'),
    [
        ('', ('.venv', 'build', 'install'), '7.1'),
        ('jazzy', ('.venv', 'build', 'install'), '7.1'),
        ('kilted', ('.venv-kilted', 'build-kilted', 'install-kilted'), '9.1'),
    ],
)
def test_each_distribution_has_folders_and_pins_of_its_own(
    monkeypatch, tmp_path, wheels, folders, rclpy
):
    module = load(monkeypatch, wheels)
    assert (module.VENV.name, module.BUILD.name, module.INSTALL.name) == folders
    system = sys.modules['environment'].System('python', '', {})
    environment = module.Environment(tmp_path, system, module.GROUP)
    pins = environment.constraints().read_text()
    (found,) = re.findall(r'^ros-rclpy==(\d+\.\d+)', pins, re.MULTILINE)
    assert found == rclpy
    other = {'7.1': 'kilted', '9.1': 'jazzy'}[rclpy]
    assert f'ros-{other}-' not in pins
    for package in ('numpy', 'rosbags', 'torch'):
        assert re.search(rf'^{package}==', pins, re.MULTILINE), 'the rest is the same'


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
