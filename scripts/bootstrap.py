#!/usr/bin/env python3
"""Make `.venv/`, `build/` and `install/` from nothing but Python, a C++ compiler, CMake and make.

    python3 scripts/bootstrap.py [GROUP ...]

installs the named extras of pyproject.toml (pinned by requirements.lock) beside the core, then
builds the ROS package. With a ROS 2 installation sourced (`ROS_DISTRO` set and rclpy importable)
that one is used; without, ROS 2 Jazzy comes as wheels from the package registry. What is already
there is re-used: a second run takes a second. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
UV = 'uv==0.13.8'
SUPPORTED = ((3, 10), (3, 13))
TOOLS = (
    (('c++', 'g++', 'clang++'), 'a C++ compiler', 'g++'),
    (('cmake',), 'CMake', 'cmake'),
    (('make',), 'make', 'make'),
)
ACTIVATE_HOOK = (
    '\n# Added by scripts/bootstrap.py: ROS finds the packages that came as wheels here.\n'
)


class SetupError(Exception):
    """Something the user has to put right; the text says what and how."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'[setup] {text}', flush=True)


def sourced_ros() -> str | None:
    """Return the sourced ROS distribution's name, or None when there is none to use."""
    distro = os.environ.get('ROS_DISTRO')
    if not distro or os.environ.get('VIRTUAL_ENV') == str(VENV):
        return None
    probe = subprocess.run([sys.executable, '-c', 'import rclpy'], capture_output=True, text=True)
    if probe.returncode:
        raise SetupError(
            f'ROS 2 {distro} is sourced, but {sys.executable} cannot import its rclpy '
            f'({probe.stderr.strip().splitlines()[-1]}). Run make with the Python of that distribution '
            '(PYTHON=/usr/bin/python3), or in a shell that does not source it.'
        )
    return distro


def check_tools() -> None:
    """Raise SetupError naming the package to install for each tool that is missing."""
    version = sys.version_info[:2]
    if not SUPPORTED[0] <= version <= SUPPORTED[1]:
        raise SetupError(
            f'Python {version[0]}.{version[1]} is not supported: run make with PYTHON=python3.11 '
            '(3.10 to 3.13 work).'
        )
    missing = [
        f'{what} (apt-get install {package})'
        for names, what, package in TOOLS
        if not any(shutil.which(name) for name in names)
    ]
    if missing:
        raise SetupError(f'Missing: {"; ".join(missing)}.')


def digest(paths: list[Path], *words: str) -> str:
    """Hash the contents of files and some words."""
    state = hashlib.sha256('\0'.join(words).encode())
    for path in paths:
        state.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes())
    return state.hexdigest()


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run a step; its output is shown only when it fails."""
    log = ROOT / 'build' / 'setup.log'
    log.parent.mkdir(exist_ok=True)
    with log.open('w') as stream:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = '\n'.join(log.read_text(errors='replace').splitlines()[-40:])
        raise SetupError(f'{what} failed ({" ".join(command[:4])} …):\n{tail}')


def make_venv(distro: str | None) -> Path:
    """Create `.venv` (seeing the system's packages where ROS is sourced) and return its Python."""
    python = VENV / 'bin' / 'python'
    stamp = VENV / '.segzero-venv'
    words = f'{sys.version_info[:2]} {distro}'
    if not (python.exists() and stamp.exists() and stamp.read_text() == words):
        say(f'making {VENV.name} with Python {sys.version.split()[0]}')
        if VENV.exists():
            shutil.rmtree(VENV)
        options = ['--system-site-packages'] if distro else []
        try:
            run([sys.executable, '-m', 'venv', *options, str(VENV)], 'making the environment')
        except SetupError as error:
            if 'ensurepip' in str(error):
                raise SetupError('Missing: venv (apt-get install python3-venv).') from None
            raise
        stamp.write_text(words)
    return python


def install(python: Path, groups: list[str], distro: str | None) -> None:
    """Install the core and the named extras, as pinned; CUDA-less machines take the same wheels."""
    if distro is None:
        groups = ['ros', *groups]
    groups = sorted({'bags', 'build', *groups})
    inputs = [ROOT / 'pyproject.toml', ROOT / 'requirements.lock', Path(__file__)]
    wanted = digest(inputs, *groups)
    stamp = VENV / '.segzero-installed'
    have = (
        dict(line.split(' ', 1) for line in stamp.read_text().splitlines())
        if stamp.exists()
        else {}
    )
    if have.get('inputs') == digest(inputs) and set(groups) <= set(have.get('groups', '').split()):
        return
    if have.get('inputs') == digest(inputs):
        groups = sorted({*groups, *have['groups'].split()})
    say(f'installing {", ".join(groups)} (pinned in requirements.lock)')
    if not (VENV / 'bin' / 'uv').exists():
        run([str(python), '-m', 'pip', 'install', '-q', UV], 'installing uv')
    uv = [
        str(VENV / 'bin' / 'uv'),
        'pip',
        'install',
        '--python',
        str(python),
        '-c',
        'requirements.lock',
    ]
    env = {
        **os.environ,
        'SAM2_BUILD_CUDA': '0',
        'UV_LINK_MODE': os.environ.get('UV_LINK_MODE', 'hardlink'),
    }
    first = [group for group in groups if group != 'models']
    run([*uv, '-e', f'.[{",".join(first)}]'], 'installing packages', env)
    if 'models' in groups:
        # sam2 is built against the torch that is installed, so torch comes first.
        say('installing torch, transformers and sam2 (about 6 GB)')
        run([*uv, 'torch', 'torchvision', 'setuptools', 'wheel'], 'installing torch', env)
        run([*uv, '-e', f'.[{",".join(groups)}]'], 'installing the models', env)
    stamp.write_text(f'inputs {digest(inputs)}\ngroups {" ".join(groups)}\nwanted {wanted}\n')


def repair_ros_wheels(python: Path) -> None:
    """Point the wheels' CMake exports, which carry their builder's paths, at this environment."""
    stamp = VENV / '.segzero-repaired'
    installed = VENV / '.segzero-installed'
    if stamp.exists() and stamp.read_text() == installed.read_text():
        return
    say('repairing the CMake exports of the ROS wheels')
    numpy_include = subprocess.run(
        [str(python), '-c', 'import numpy; print(numpy.get_include())'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    tag = f'{sys.version_info[0]}{sys.version_info[1]}'
    dotted = f'{sys.version_info[0]}.{sys.version_info[1]}'
    builder = f'/opt/python/cp{tag}-cp{tag}'
    replacements = {
        f'{builder}/include/python{dotted}': sysconfig.get_path('include'),
        f'{builder}/lib/python{dotted}/site-packages/numpy/_core/include': numpy_include,
        f'{builder}/lib/python{dotted}/site-packages/numpy/core/include': numpy_include,
    }
    for path in (VENV / 'share').glob('*/cmake/*.cmake'):
        text = path.read_text()
        if builder not in text:
            continue
        for old, new in replacements.items():
            text = text.replace(old, new)
        # uv may have hard-linked the file to its cache: write a new one instead of into the cache.
        path.unlink()
        path.write_text(text)
    for name, line in (
        (
            'activate',
            'export AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"\n',
        ),
        ('activate.fish', 'set -gx AMENT_PREFIX_PATH "$VIRTUAL_ENV"\n'),
    ):
        script = VENV / 'bin' / name
        if script.exists() and ACTIVATE_HOOK not in script.read_text():
            script.write_text(script.read_text() + ACTIVATE_HOOK + line)
    stamp.write_text(installed.read_text())


def colcon_build(distro: str | None) -> None:
    """Build the package with colcon when an interface, or the list of its files, has changed."""
    contents = [ROOT / 'CMakeLists.txt', ROOT / 'package.xml']
    for folder in ('msg', 'srv', 'action'):
        contents += sorted((ROOT / folder).iterdir())
    names = []
    for folder in ('segzero_ros', 'launch', 'config', 'rviz', 'scripts'):
        names += sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        )
    wanted = digest(contents, *names, str(distro), str(ROOT), (VENV / '.segzero-venv').read_text())
    stamp = ROOT / 'install' / '.segzero-built'
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say('building the ROS package with colcon')
    env = {**os.environ, 'PATH': f'{VENV / "bin"}:{os.environ["PATH"]}', 'VIRTUAL_ENV': str(VENV)}
    if distro is None:
        for variable in ('AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH'):
            env[variable] = str(VENV) if variable != 'COLCON_PREFIX_PATH' else ''
    # CMake refuses to export include folders (numpy's, in .venv) that lie inside the source folder,
    # so it is shown the sources by another path.
    source = ROOT / 'build' / 'source'
    if not source.is_symlink():
        source.symlink_to('..')
    for folder in (ROOT / 'install', ROOT / 'build' / 'segzero_ros'):
        shutil.rmtree(folder, ignore_errors=True)
    run(
        [
            str(VENV / 'bin' / 'python'),
            '-m',
            'colcon',
            'build',
            '--symlink-install',
            '--paths',
            'build/source',
            '--cmake-args',
            '-DBUILD_TESTING=OFF',
            f'-DPython3_EXECUTABLE={VENV / "bin" / "python"}',
        ],
        'colcon build',
        env,
    )
    stamp.write_text(wanted)


def main(groups: list[str]) -> int:
    """Set everything up; return 0, or 1 after saying in one line what is missing."""
    try:
        check_tools()
        distro = sourced_ros()
        python = make_venv(distro)
        install(python, groups, distro)
        if distro is None:
            repair_ros_wheels(python)
        colcon_build(distro)
    except SetupError as error:
        print(f'[setup] {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
