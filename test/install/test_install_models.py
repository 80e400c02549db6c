"""`install_models` chooses what fits ROS 2, and says in one sentence what stands in the way."""

from __future__ import annotations

from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / 'scripts'
NOWHERE = 'http://127.0.0.1:9/simple'
# As Ubuntu 24.04 and 26.04 have them.
NOBLE = {'numpy': '1.26.4', 'cv2': '4.6.0'}
RESOLUTE = {'numpy': '2.3.4', 'cv2': '4.10.0'}


@pytest.fixture
def environment(monkeypatch):
    """The module that both scripts share."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import environment

    return environment


@pytest.fixture
def robots(environment, tmp_path):
    """Return what makes an environment, not yet made, on a system with these versions."""

    def make(**versions: str):
        system = environment.System(sys._base_executable, 'jazzy', versions)
        return environment.Environment(tmp_path / '.venv', system)

    return make


@pytest.fixture
def install(tmp_path):
    """Run a copy of the script in a workspace, with code before it."""
    checkout = tmp_path / 'ws' / 'src' / 'segzero_ros'
    (checkout / 'scripts').mkdir(parents=True)
    for name in ('environment.py', 'install_models'):
        shutil.copy(SCRIPTS / name, checkout / 'scripts')
    for name in ('pyproject.toml', 'requirements.lock', 'requirements-numpy1.lock'):
        shutil.copy(ROOT / name, checkout)

    def run(*words: str, before: str = '', **variables: str):
        script = checkout / 'scripts' / 'install_models'
        code = (
            f'import runpy, sys\nsys.path.insert(0, {str(script.parent)!r})\n{before}\n'
            f'sys.argv = {[str(script), *words]!r}\n'
            f'runpy.run_path({str(script)!r}, run_name="__main__")\n'
        )
        return subprocess.run(
            [sys._base_executable, '-s', '-c', code],
            env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path), **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


def refusal(done) -> str:
    """Return what a run that failed said: one line."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_numpy_1_of_the_system_chooses_the_pins_for_it(robots):
    assert robots(**NOBLE).pins()[0].name == 'requirements-numpy1.lock'
    assert robots(**RESOLUTE).pins()[0].name == 'requirements.lock'
    assert robots().pins()[0].name == 'requirements.lock'


@pytest.mark.parametrize(
    ('versions', 'kept_away'),
    [
        (NOBLE, ['opencv-python-headless']),
        (RESOLUTE, ['opencv-python-headless']),
        ({'numpy': '1.26.4', 'cv2': '4.5.4'}, []),
        ({'cv2': '4.6.0+dfsg-12'}, ['opencv-python-headless']),
        ({'torch': '2.9.0a0+nv25', 'torchvision': '0.24.0'}, ['torch', 'torchvision']),
        ({'torch': '2.3.1'}, []),
        ({}, []),
    ],
)
def test_what_the_system_has_and_is_new_enough_is_not_installed_again(
    robots, versions, kept_away
):
    overrides = robots(**versions).overrides()
    assert [each.partition(' ')[0] for each in overrides] == kept_away


def test_the_pins_for_numpy_1_differ_only_where_they_have_to():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return {line.partition('==')[0]: line for line in lines if '==' in line}

    new, old = pins('requirements.lock'), pins('requirements-numpy1.lock')
    assert new.keys() == old.keys()
    assert old['numpy'] == 'numpy==1.26.4'
    opencv = re.search(r'==(\d+)\.(\d+)', old['opencv-python-headless'])
    # From 4.12 on OpenCV's wheels want NumPy 2.
    assert tuple(map(int, opencv.groups())) < (4, 12)


def test_an_environment_that_does_not_see_ros_is_not_used(environment, robots):
    robot = robots(**NOBLE)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(robot.path)], check=True)
    with pytest.raises(environment.SetupError, match='--system-site-packages'):
        robot.make(own=False)
    (robot.path / 'pyvenv.cfg').write_text('include-system-site-packages = true\n')
    robot.make(own=False)


def test_a_folder_that_is_no_environment_is_left_alone(environment, robots):
    robot = robots(**NOBLE)
    robot.path.mkdir()
    (robot.path / 'precious').touch()
    with pytest.raises(environment.SetupError, match='no Python environment'):
        robot.make(own=False)
    assert (robot.path / 'precious').exists()


def test_too_little_room_is_said_before_anything_is_fetched(environment, robots, monkeypatch):
    robot = robots(**NOBLE)
    robot.path.mkdir()
    usage = shutil.disk_usage(robot.path)._replace(free=3 * 10**9)
    monkeypatch.setattr(environment.shutil, 'disk_usage', lambda _: usage)
    monkeypatch.setattr(environment, 'fetch', lambda *_: pytest.fail('it fetches'))
    with pytest.raises(environment.SetupError, match=r'3\.0 GB are free .* models may take 9\.'):
        robot.install(['models'])


@pytest.mark.parametrize(
    ('output', 'said'),
    [
        ('error: Failed to fetch: `https://…`\n  Caused by: dns error', 'cannot be reached'),
        ('WARNING: Failed to establish a new connection: [Errno 111]', 'cannot be reached'),
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('  × No solution found when resolving dependencies', 'No solution found'),
    ],
)
def test_what_installers_say_becomes_a_cause_and_a_cure(environment, output, said):
    command = [sys.executable, '-c', 'import sys; print(sys.argv[1]); sys.exit(2)', output]
    with pytest.raises(environment.SetupError, match=said):
        environment.fetch(command, 'installing packages')


def test_without_venv_the_package_is_named(install):
    said = refusal(install(before='sys.modules["ensurepip"] = None'))
    assert said == '[setup] Missing: venv (apt-get install python3-venv).'


def test_an_old_python_is_named(install):
    said = refusal(install(before='sys.version_info = (3, 9, 2, "final", 0)'))
    assert 'Python 3.9 is not supported' in said
    assert '3.10 to 3.14' in said


def test_a_ros_that_this_python_cannot_import_is_named(install):
    said = refusal(install(ROS_DISTRO='jazzy'))
    assert 'ROS 2 jazzy is sourced' in said
    assert '/usr/bin/python3' in said


def test_an_extra_that_is_none_is_named_with_those_there_are(install):
    done = install('modles')
    assert done.returncode == 2
    assert 'there is no extra modles; there are models, openai' in done.stderr


def test_without_a_network_one_sentence_says_so(install, tmp_path):
    done = install('bags', PIP_INDEX_URL=NOWHERE, UV_DEFAULT_INDEX=NOWHERE)
    said = refusal(done)
    assert 'the package index cannot be reached' in said
    assert 'PIP_INDEX_URL' in said
    # In the workspace, where colcon does not look for packages in it.
    assert (tmp_path / 'ws' / '.venv' / 'COLCON_IGNORE').exists()


def test_every_extra_for_users_can_be_installed_by_it():
    from segzero_ros.extras import EXTRAS

    source = (SCRIPTS / 'install_models').read_text()
    named = re.search(r'EXTRAS = \{\n(.*?)\n\}', source, re.DOTALL)[1]
    assert set(re.findall(r"^    '(\w+)':", named, re.MULTILINE)) == set(EXTRAS)
