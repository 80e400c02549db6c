"""The README's commands for a robot, word by word, on stand-ins for Ubuntu 24.04 and 26.04.

`make test-install` runs this; it is no part of `make test`, for it installs torch and builds the
package anew. What is rehearsed is the last commit.
"""

from __future__ import annotations

from pathlib import Path
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'scripts'), str(Path(__file__).parent)]

from environment import UV
from robot import CHECKOUT, Kind, Robot

# rosdep's keys that package.xml may name: rosdep 0.27.0 resolved each to a package for Jazzy and
# Kilted on Ubuntu 24.04 and for Lyrical on 26.04, with rosdistro of 2026-08-22 (8468e88).
ROSDEP = {
    'python3-numpy', 'python3-opencv', 'python3-pil', 'python3-pytest', 'python3-pytest-timeout',
    'python3-rich', 'python3-venv', 'python3-yaml',
    'action_msgs', 'ament_cmake', 'ament_cmake_pytest', 'ament_cmake_python', 'ament_index_python',
    'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs', 'geometry_msgs', 'launch', 'launch_ros',
    'lifecycle_msgs', 'rcl_interfaces', 'rclpy', 'rosgraph_msgs', 'rosidl_default_generators',
    'rosidl_default_runtime', 'rviz2', 'sensor_msgs', 'std_msgs', 'std_srvs', 'tf2_msgs',
    'tf2_py', 'vision_msgs', 'visualization_msgs',
}  # fmt: skip
READY = 'cd ~/ws; . .venv/bin/activate; . install/setup.bash'
ASK = f"""
{READY}
bin=install/segzero_ros/lib/segzero_ros
$bin/camera_sim --ros-args -r __ns:=/segzero -p source:=scene -p item:=scene_3 & camera=$!
$bin/perception_node --ros-args -r __ns:=/segzero \\
    --params-file install/segzero_ros/share/segzero_ros/config/offline.yaml & node=$!
trap 'kill $camera $node || true' EXIT
segzero ask "both mugs" --wait 120 --json
kill -INT $camera $node
wait $camera; wait $node
trap - EXIT
"""
VERSIONS = f"""
{READY}
python -c 'import cv2, numpy, rclpy, sam2, torch, torchvision, transformers
print(numpy.__version__, cv2.__version__, cv2.__file__, numpy.__file__)'
"""
INSTALLED = 'ls -l --full-time ~/ws/.venv ~/ws/.venv/bin ~/ws/.venv/lib/python3*/site-packages'


def robots_commands() -> str:
    """Return the first block of commands below `On a robot` in the README, as it stands there."""
    section = (ROOT / 'README.md').read_text().partition('## On a robot')[2]
    found = re.search(r'```bash\n(.*?)```', section, re.DOTALL)
    assert found, 'the README has no commands for a robot'
    return found[1].replace('<this repository>', str(CHECKOUT))


def python_of(version: str) -> str:
    """Return a Python of that version, else the one that runs this."""
    name = f'python{version}'
    pyenv = sorted(Path.home().glob(f'.pyenv/versions/{version}*/bin/{name}'))
    for candidate in (*pyenv, shutil.which(name)):
        # A shim is there for versions that cannot be started, too.
        if candidate and subprocess.run([candidate, '-c', ''], capture_output=True).returncode == 0:
            return str(candidate)
    return sys._base_executable


# Python 3.14, as 26.04 has it, has no wheels of ROS: the newest that there are some for.
KINDS = {
    '24.04': Kind('24.04', python_of('3.12'), '1.26.4', '4.6.0.66', (
        'empy==3.3.4', 'pillow==10.2.0', 'pip==24.0', 'pytest==7.4.4', 'pytest-timeout==2.2.0',
        'pyyaml==6.0.1', 'rich==13.7.1', 'setuptools==68.1.2',
    )),
    # The smaller packages as they were early in 2026.
    '26.04': Kind('26.04', python_of('3.13'), '2.3.4', '4.10.0.84', (
        'empy==4.2.1', 'pillow==12.1.0', 'pip==25.1.1', 'pytest==9.0.2', 'pytest-timeout==2.4.0',
        'pyyaml==6.0.3', 'rich==13.9.4', 'setuptools==78.1.1',
    )),
}  # fmt: skip


@pytest.fixture(scope='module', params=KINDS)
def robot(request, tmp_path_factory):
    """A robot on which the README's commands have been run, and what they said."""
    if sys.version_info < (3, 11):
        pytest.skip('needs Python 3.11')
    uv = Path(sys.executable).parent / 'uv'
    assert uv.exists(), f'{UV} belongs to the environment'
    folder = tmp_path_factory.mktemp('robot')
    robot = Robot(folder, KINDS[request.param], str(uv))
    # The keys are looked up in the test below; Ubuntu's packages are there already.
    robot.stand_in('rosdep', '#!/bin/sh\necho "All required rosdeps installed successfully"\n')
    done = robot.run(robots_commands())
    robot.said = done.stdout + done.stderr
    yield robot
    # Some 7 GB, where the installer could not link them from its cache.
    shutil.rmtree(folder)


def test_the_system_takes_no_packages_and_has_no_compiler(robot):
    refused = robot.run('python3 -m pip install six')
    assert 'externally-managed-environment' in refused.stderr
    for program in ('gcc', 'cc', 'c++', 'cmake', 'make', 'nvcc'):
        assert robot.run(f'command -v {program}').returncode


def test_the_commands_of_the_readme_run(robot):
    # The doctor ends them: weights and a GPU are missing here, packages are not.
    said = robot.said
    assert 'ready in' in said, said
    assert 'weights of the reasoner' in said, said
    assert 'not installed (torch' not in said
    for line in said.splitlines():
        assert not re.match(r'│FAIL │ (NumPy|OpenCV|ROS|packages)', line), said


def test_models_are_imported_beside_the_systems_numpy_and_opencv(robot):
    done = robot.run(VERSIONS)
    assert done.returncode == 0, done.stderr
    numpy, opencv, place, _ = done.stdout.split()
    assert numpy.partition('.')[0] == robot.kind.numpy.partition('.')[0]
    assert robot.kind.opencv.startswith(opencv)
    assert str(robot.python.parent.parent) in place


def test_the_node_answers_and_ends(robot):
    done = robot.run(ASK)
    assert '"status": "OK"' in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


def test_running_it_again_changes_nothing(robot):
    before = robot.run(INSTALLED)
    assert before.returncode == 0, before.stderr
    done = robot.run('cd ~/ws; src/segzero_ros/scripts/install_models')
    assert done.returncode == 0, done.stderr
    assert 'installing' not in done.stdout
    assert robot.run(INSTALLED).stdout == before.stdout


def test_colcon_test_runs_the_quick_tests(robot):
    done = robot.run(f'{READY}; colcon test; colcon test-result --all --verbose')
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r'Summary: (\d+) tests?, 0 errors, 0 failures', done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 100


def test_colcon_test_result_fails_where_a_test_does(robot):
    file = 'src/segzero_ros/test/test_spatial.py'
    added = f'echo "def test_that_fails(): assert False" >> {file}'
    tested = 'colcon test --ctest-args -R spatial; colcon test-result --all'
    done = robot.run(f'{READY}; {added}; {tested}')
    robot.run('cd ~/ws/src/segzero_ros; git checkout test')
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r'Summary: .* [1-9]\d* failures?', done.stdout), done.stdout


def test_another_numpy_is_found_and_put_right(robot):
    """Somebody installs what hides the system's NumPy: the doctor says it, with the cure."""
    if not robot.kind.numpy.startswith('1.'):
        pytest.skip('the system has NumPy 2 itself')
    doctor = f'{READY}; segzero doctor --no-ros'
    broken = robot.run(f'{READY}; uv pip install -q numpy==2.2.6; {doctor}')
    assert broken.returncode == 1
    assert re.search(r'FAIL.*NumPy', broken.stdout), broken.stdout
    said = re.search(r'→([^→]*)installsacompatibleone', re.sub(r'[│\s]', '', broken.stdout))
    cure = 'src/segzero_ros/scripts/install_models models'
    assert said and said[1] == str(robot.workspace / cure).replace(' ', ''), broken.stdout
    mended = robot.run(f'{READY}; {cure}')
    assert mended.returncode == 0, mended.stderr
    assert not re.search(r'FAIL.*(NumPy|OpenCV)', robot.run(doctor).stdout)
    assert robot.run(VERSIONS).stdout.startswith(robot.kind.numpy)


def test_the_manifest_names_keys_that_rosdep_has():
    tree = ElementTree.parse(ROOT / 'package.xml')
    keys = {each.text for each in tree.iter() if each.tag.endswith('depend')}
    assert keys <= ROSDEP
