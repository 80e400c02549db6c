#!/usr/bin/env python3
"""Make `.venv/`, `build/` and `install/` from nothing but Python, a C++ compiler, CMake and make.

    python3 scripts/bootstrap.py [GROUP ...]

installs the named extras of pyproject.toml (pinned by requirements.lock) beside the core, then
builds the ROS package. With a ROS 2 installation sourced (`ROS_DISTRO` set and rclpy importable)
that one is used; without, ROS 2 Jazzy comes as wheels from the package registry. With
ROS_WHEELS=kilted the wheels are Kilted's, in `.venv-kilted/`, `build-kilted/` and
`install-kilted/`. What is already there is re-used: a second run takes a second. Imports the
standard library only.
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
DISTROS = ('jazzy', 'kilted')
# Whose wheels are taken where no ROS is sourced.
WHEELS = os.environ.get('ROS_WHEELS') or DISTROS[0]
# Jazzy's stand in pyproject.toml as the extra `ros`, others as a dependency group: one lock file
# cannot hold two versions of a package.
GROUP = '' if DISTROS[0] == WHEELS else f'ros-{WHEELS}'
SUFFIX = GROUP.removeprefix('ros')
VENV = ROOT / f'.venv{SUFFIX}'
BUILD = ROOT / f'build{SUFFIX}'
INSTALL = ROOT / f'install{SUFFIX}'
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
    if not distro:
        if WHEELS not in DISTROS:
            known = ' or '.join(DISTROS)
            raise SetupError(f'There are no wheels of ROS 2 {WHEELS!r}: ROS_WHEELS is {known}.')
        return None
    if os.environ.get('ROS_WHEELS'):
        raise SetupError(
            f'ROS 2 {distro} is sourced, so no wheels are taken: unset ROS_WHEELS, or use a shell '
            'that does not source it.'
        )
    probe = subprocess.run([sys.executable, '-c', 'import rclpy'], capture_output=True, text=True)
    if probe.returncode:
        reason = probe.stderr.strip().splitlines()[-1]
        raise SetupError(
            f'ROS 2 {distro} is sourced, but {sys.executable} cannot import its rclpy ({reason}). '
            'Name the Python of that distribution (make PYTHON=/usr/bin/python3), or use a shell '
            'that does not source it.'
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
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        missing.append("Python's headers (apt-get install python3-dev)")
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
    log = BUILD / 'setup.log'
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
    words = f'{ROOT} {sys.version_info[:2]} {distro}'
    if not (python.exists() and stamp.exists() and stamp.read_text() == words):
        say(f'making {VENV.name} with Python {sys.version.split()[0]}')
        remove_venv()
        options = ['--system-site-packages'] if distro else []
        try:
            # From inside the environment itself, the Python behind it.
            maker = getattr(sys, '_base_executable', sys.executable)
            run([maker, '-m', 'venv', *options, str(VENV)], 'making the environment')
        except SetupError as error:
            if 'ensurepip' in str(error):
                raise SetupError('Missing: venv (apt-get install python3-venv).') from None
            raise
        stamp.write_text(words)
    return python


def remove_venv() -> None:
    """Remove an environment that is of no use; raise SetupError where that is not ours to do."""
    if VENV.is_symlink():
        raise SetupError(
            f'{VENV} is a link to {VENV.readlink()}, which was not made for this folder; remove '
            f'the link (rm {VENV}) and run this again.'
        )
    if VENV.exists():
        shutil.rmtree(VENV)


def install(python: Path, groups: list[str], distro: str | None) -> None:
    """Install the core and the named extras as pinned, beside those installed before."""
    pins = pin_files()
    inputs = digest([ROOT / 'pyproject.toml', *pins])
    stamp = VENV / '.segzero-installed'
    known, *installed = stamp.read_text().split() if stamp.exists() else ['']
    always = ['bags', 'build'] if distro else ['bags', 'build', GROUP or 'ros']
    wanted = sorted({*always, *groups, *installed})
    if known == inputs and wanted == installed:
        return
    say(f'installing {", ".join(wanted)} as pinned in requirements.lock')
    if not installed:
        run([str(python), '-m', 'pip', 'install', '-q', UV], 'installing uv')
    command = [str(python), '-m', 'uv', 'pip', 'install', '--python', str(python)]
    command += ['-c', str(constraints(pins)), *keep_numpy_of(distro)]
    env = {**os.environ, 'SAM2_BUILD_CUDA': '0'}
    if 'models' in wanted:
        # sam2 has no wheel and is built against the torch that is installed, so torch comes first.
        say('torch and what belongs to it are about 6 GB')
        run([*command, 'torch', 'torchvision', 'setuptools', 'wheel'], 'installing torch', env)
    extras = ','.join(name for name in wanted if name != GROUP)
    groups = ['--group', GROUP] if GROUP else []
    run([*command, '-e', f'.[{extras}]', *groups], 'installing packages', env)
    stamp.write_text(' '.join([inputs, *wanted]))


def pin_files() -> list[Path]:
    """Return the lock file, and behind it the one of another distribution's wheels."""
    return [ROOT / f'requirements{suffix}.lock' for suffix in sorted({'', SUFFIX})]


def constraints(pins: list[Path]) -> Path:
    """Return the file that pins everything, with one distribution's wheels of ROS."""
    general, *special = pins
    if not special:
        return general
    lines = [line for line in general.read_text().splitlines() if not line.startswith('ros-')]
    made = BUILD / 'constraints.txt'
    made.write_text('\n'.join([*lines, *(path.read_text() for path in special)]))
    return made


def keep_numpy_of(distro: str | None) -> list[str]:
    """Keep NumPy 1 where the sourced ROS was compiled for it, as its message modules need."""
    if distro is None:
        return []
    version = subprocess.check_output(
        [sys.executable, '-c', 'import numpy; print(numpy.__version__, end="")'], text=True
    )
    if not version.startswith('1.'):
        return []
    overrides = BUILD / 'ros-overrides.txt'
    overrides.write_text(f'numpy=={version}\nopencv-python-headless==4.11.0.86\n')
    return ['--override', str(overrides)]


def repair_ros_wheels(python: Path) -> None:
    """Point the wheels' CMake exports, which carry their builder's paths, at this environment."""
    stamp = VENV / '.segzero-repaired'
    installed = VENV / '.segzero-installed'
    if stamp.exists() and stamp.read_text() == installed.read_text():
        return
    say('repairing the CMake exports of the ROS wheels')
    numpy_include = subprocess.check_output(
        [str(python), '-c', 'import numpy; print(numpy.get_include(), end="")'], text=True
    )
    major, minor = sys.version_info[:2]
    builder = f'/opt/python/cp{major}{minor}-cp{major}{minor}'
    packages = f'{builder}/lib/python{major}.{minor}/site-packages'
    replacements = {
        f'{builder}/include/python{major}.{minor}': sysconfig.get_path('include'),
        f'{packages}/numpy/_core/include': numpy_include,
        f'{packages}/numpy/core/include': numpy_include,
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
    activate = VENV / 'bin' / 'activate'
    if ACTIVATE_HOOK not in activate.read_text():
        activate.write_text(activate.read_text() + ACTIVATE_HOOK)
    stamp.write_text(installed.read_text())


def build_inputs() -> str:
    """Hash the interfaces' contents and the names of all that is installed (by symbolic link)."""
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


def colcon_build(distro: str | None) -> None:
    """Build the package with colcon when an interface, or the list of its files, has changed."""
    place = (VENV / '.segzero-venv').read_text()
    wanted = f'{place} {build_inputs()}'
    stamp = INSTALL / '.segzero-built'
    built = stamp.read_text() if stamp.exists() else ''
    if built == wanted:
        return
    say('building the ROS package with colcon')
    if not built.startswith(place):
        # What was configured for another Python or another place is of no use.
        for folder in (INSTALL, BUILD / 'segzero_ros'):
            shutil.rmtree(folder, ignore_errors=True)
    env = {**os.environ, 'PATH': f'{VENV / "bin"}:{os.environ["PATH"]}', 'VIRTUAL_ENV': str(VENV)}
    if distro is None:
        env |= {'AMENT_PREFIX_PATH': str(VENV), 'CMAKE_PREFIX_PATH': str(VENV)}
        env.pop('COLCON_PREFIX_PATH', None)
    # CMake refuses to export include folders that lie inside the source folder (numpy's, in
    # .venv), so it is shown the sources by another path.
    source = ROOT / 'build' / 'source'
    source.parent.mkdir(exist_ok=True)
    if not source.is_symlink():
        source.symlink_to('..')
    python = str(VENV / 'bin' / 'python')
    command = [python, '-m', 'colcon', 'build', '--symlink-install', '--paths']
    # Relative: the sources' path has to go through the link.
    command += [str(source.relative_to(ROOT)), '--build-base', BUILD.name]
    command += ['--install-base', INSTALL.name]
    options = ['--cmake-args', '-DBUILD_TESTING=OFF', f'-DPython3_EXECUTABLE={python}']
    run([*command, *options], 'colcon build', env)
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
