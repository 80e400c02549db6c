#!/usr/bin/env python3
"""Create `.venv/`, `build/` and `install/` with Python, a C++ compiler, CMake and make.

    python3 scripts/bootstrap.py [GROUP ...]

installs the core and the given extras of pyproject.toml (pinned by requirements.lock), then builds
the ROS package. It uses a sourced ROS 2 installation (`ROS_DISTRO` set and rclpy importable), else
wheels of ROS 2 Jazzy from the package registry. With ROS_WHEELS=kilted it uses wheels of Kilted,
in `.venv-kilted/`, `build-kilted/` and `install-kilted/`. Existing installations are reused: a
second run takes a second. Imports the standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig

from environment import (
    check_python,
    digest,
    Environment,
    look_at_system,
    ROOT,
    run,
    say,
    SetupError,
)

DISTROS = ('jazzy', 'kilted')
# The distribution of the wheels, if no ROS is sourced.
WHEELS = os.environ.get('ROS_WHEELS') or DISTROS[0]
# Jazzy's wheels are the extra `ros` in pyproject.toml, others a dependency group, because one lock
# file cannot have two versions of a package.
GROUP = '' if DISTROS[0] == WHEELS else f'ros-{WHEELS}'
SUFFIX = GROUP.removeprefix('ros')
VENV = ROOT / f'.venv{SUFFIX}'
BUILD = ROOT / f'build{SUFFIX}'
INSTALL = ROOT / f'install{SUFFIX}'
# The latest Python version with wheels of ROS.
WHEELS_UP_TO = (3, 13)
TOOLS = (
    (('c++', 'g++', 'clang++'), 'a C++ compiler', 'g++'),
    (('cmake',), 'CMake', 'cmake'),
    (('make',), 'make', 'make'),
)


def check_wheels() -> None:
    """Raise SetupError if ROS_WHEELS is unknown or would be ignored."""
    distro = os.environ.get('ROS_DISTRO')
    if not distro and WHEELS not in DISTROS:
        known = ' or '.join(DISTROS)
        raise SetupError(f'There are no wheels of ROS 2 {WHEELS!r}: set ROS_WHEELS to {known}.')
    if distro and os.environ.get('ROS_WHEELS'):
        raise SetupError(
            f'ROS 2 {distro} is sourced, so wheels are not used: unset ROS_WHEELS, or use a shell '
            'that does not source it.'
        )


def check_tools() -> None:
    """Raise SetupError with the packages to install for missing tools."""
    missing = [
        f'{what} (apt-get install {package})'
        for names, what, package in TOOLS
        if not any(shutil.which(name) for name in names)
    ]
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        missing.append("Python's headers (apt-get install python3-dev)")
    if missing:
        raise SetupError(f'Missing: {"; ".join(missing)}.')


def repair_ros_wheels(prefix: Path, python: Path, state: str) -> None:
    """Replace the build machine's paths in the wheels' CMake exports.

    Args:
        prefix: where the wheels were installed.
        python: the Python that runs them.
        state: of the installation; nothing is done if it was repaired before.
    """
    stamp = prefix / '.segzero-repaired'
    if stamp.exists() and stamp.read_text() == state:
        return
    say('repairing the CMake exports of the ROS wheels')
    code = (
        'import numpy, sys, sysconfig\n'
        'print(*sys.version_info[:2], sysconfig.get_path("include"), numpy.get_include(),\n'
        '      sep="\\n")'
    )
    found = subprocess.check_output([str(python), '-c', code], text=True)
    major, minor, python_include, numpy_include = found.splitlines()
    builder = f'/opt/python/cp{major}{minor}-cp{major}{minor}'
    packages = f'{builder}/lib/python{major}.{minor}/site-packages'
    replacements = {
        f'{builder}/include/python{major}.{minor}': python_include,
        f'{packages}/numpy/_core/include': numpy_include,
        f'{packages}/numpy/core/include': numpy_include,
    }
    for path in (prefix / 'share').glob('*/cmake/*.cmake'):
        text = path.read_text()
        if builder not in text:
            continue
        for old, new in replacements.items():
            text = text.replace(old, new)
        # uv may have hard-linked the file to its cache: write a new one instead of into the cache.
        path.unlink()
        path.write_text(text)
    stamp.write_text(state)


def build_inputs() -> str:
    """Hash the content of the interfaces and the names of all installed files."""
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
    return digest(contents, *names)


def colcon_build(distro: str) -> None:
    """Build the package with colcon if an interface or the list of files has changed."""
    place = (VENV / '.segzero-venv').read_text()
    wanted = f'{place} {build_inputs()}'
    stamp = INSTALL / '.segzero-built'
    built = stamp.read_text() if stamp.exists() else ''
    if built == wanted:
        return
    say('building the ROS package with colcon')
    if not built.startswith(place):
        # A build for another Python or another path cannot be reused.
        for folder in (INSTALL, BUILD / 'segzero_ros'):
            shutil.rmtree(folder, ignore_errors=True)
    env = {**os.environ, 'PATH': f'{VENV / "bin"}:{os.environ["PATH"]}', 'VIRTUAL_ENV': str(VENV)}
    if not distro:
        env |= {'AMENT_PREFIX_PATH': str(VENV), 'CMAKE_PREFIX_PATH': str(VENV)}
        env.pop('COLCON_PREFIX_PATH', None)
    # CMake cannot export include folders inside the source folder (numpy's, in .venv), so it
    # gets another path to the sources.
    source = ROOT / 'build' / 'source'
    source.parent.mkdir(exist_ok=True)
    if not source.is_symlink():
        source.symlink_to('..')
    python = str(VENV / 'bin' / 'python')
    command = [python, '-m', 'colcon', 'build', '--symlink-install', '--paths']
    # Relative, so that the path of the sources goes through the link.
    command += [str(source.relative_to(ROOT)), '--build-base', BUILD.name]
    command += ['--install-base', INSTALL.name]
    options = ['--cmake-args', '-DBUILD_TESTING=OFF', f'-DPython3_EXECUTABLE={python}']
    run([*command, *options], 'colcon build', env)
    stamp.write_text(wanted)


def main(groups: list[str]) -> int:
    """Set everything up; return 0, or 1 after printing what is missing."""
    try:
        check_wheels()
        system = look_at_system()
        check_python() if system.distro else check_python(WHEELS_UP_TO)
        check_tools()
        environment = Environment(VENV, system, GROUP)
        environment.make(own=True)
        wheels = [] if system.distro or GROUP else ['ros']
        environment.install(['bags', 'build', *wheels, *groups])
        if not system.distro:
            repair_ros_wheels(VENV, environment.python, environment.installed.read_text())
        colcon_build(system.distro)
    except SetupError as error:
        print(f'[setup] {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
