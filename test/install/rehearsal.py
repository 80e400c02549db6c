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

# rosdep's keys that package.xml may name beside ROS packages, each with its Ubuntu package:
# rosdistro's rosdep/python.yaml and base.yaml, 2026-08.
ROSDEP = {
    'python3-numpy', 'python3-opencv', 'python3-pil', 'python3-pytest', 'python3-pytest-timeout', 'python3-rich',
    'python3-venv', 'python3-yaml',
}  # fmt: skip
ASK = """
cd ~/ws; . .venv/bin/activate; . install/setup.bash
bin=install/segzero_ros/lib/segzero_ros
$bin/camera_sim --ros-args -r __ns:=/segzero -p source:=scene -p item:=scene_3 & camera=$!
$bin/perception_node --ros-args -r __ns:=/segzero \\
    --params-file install/segzero_ros/share/segzero_ros/config/offline.yaml & node=$!
segzero ask "both mugs" --wait 120 --json; code=$?
kill -INT $camera $node; wait $camera $node
exit $code
"""
VERSIONS = """
cd ~/ws; . .venv/bin/activate; . install/setup.bash
python -c 'import cv2, numpy, rclpy, sam2, torch, torchvision, transformers
print(numpy.__version__, cv2.__version__, cv2.__file__, numpy.__file__)'
"""


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


# Python 3.14, as 26.04 has it, cannot be had as a package: the newest that ROS's wheels are for.
KINDS = {
    '24.04': Kind('24.04', python_of('3.12'), '1.26.4', '4.6.0.66'),
    '26.04': Kind('26.04', python_of('3.13'), '2.3.4', '4.10.0.84'),
}


@pytest.fixture(scope='module', params=KINDS)
def robot(request, tmp_path_factory):
    """A robot on which the README's commands have been run, and what they said."""
    if sys.version_info < (3, 11):
        pytest.skip('needs Python 3.11')
    uv = Path(sys.executable).parent / 'uv'
    assert uv.exists(), f'{UV} belongs to the environment'
    robot = Robot(tmp_path_factory.mktemp('robot'), KINDS[request.param], str(uv))
    # The keys are looked up in the test below; Ubuntu's packages are there already.
    robot.stand_in('rosdep', '#!/bin/sh\necho "All required rosdeps installed successfully"\n')
    done = robot.run(robots_commands())
    robot.said = done.stdout + done.stderr
    return robot


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


def test_the_node_answers(robot):
    done = robot.run(ASK)
    assert '"status": "OK"' in done.stdout, done.stdout + done.stderr


def test_running_it_again_changes_nothing(robot):
    done = robot.run('cd ~/ws; src/segzero_ros/scripts/install_models')
    assert done.returncode == 0, done.stderr
    assert 'installing' not in done.stdout


def test_colcon_test_runs_the_quick_tests(robot):
    ready = 'cd ~/ws; . .venv/bin/activate; . install/setup.bash'
    done = robot.run(f'{ready}; colcon test; colcon test-result --all --verbose')
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r'Summary: (\d+) tests?, 0 errors, 0 failures', done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 100


def test_another_numpy_is_found_and_put_right(robot):
    """Somebody installs what hides the system's NumPy: the doctor says it, with the cure."""
    other = '2.2.6' if robot.kind.numpy.startswith('1.') else None
    if other is None:
        pytest.skip('the system has NumPy 2 itself')
    ready = 'cd ~/ws; . .venv/bin/activate; . install/setup.bash'
    broken = robot.run(f'{ready}; uv pip install -q numpy=={other}; segzero doctor --no-ros')
    assert broken.returncode == 1
    assert re.search(r'FAIL.*NumPy', broken.stdout), broken.stdout
    assert 'install_models models' in broken.stdout.replace('\n', '')


def test_the_manifest_names_keys_that_rosdep_has():
    tree = ElementTree.parse(ROOT / 'package.xml')
    keys = {each.text for each in tree.iter() if each.tag.endswith('depend')}
    assert {key for key in keys if key.startswith('python3-')} <= ROSDEP
