"""What `bootstrap.py` and `install_models` share: an environment, and packages that fit into it.

Where a ROS 2 installation is sourced, the environment sees the system's packages, and what ROS was
compiled against decides: its NumPy, and the OpenCV and torch that are there already. Imports the
standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import hashlib
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

ROOT = Path(__file__).resolve().parent.parent
UV = 'uv==0.13.8'
SUPPORTED = ((3, 10), (3, 14))
# What the registry's packages take on the disk, in GB, with room to unpack them.
LARGE = {'models': 9.0, 'quantization': 1.0, 'training': 1.0, 'whisper': 0.6}
SMALL = 0.6
# Packages of the system that are used as they are where they are new enough: by the name that is
# imported, what pyproject.toml calls them.
SYSTEM_PACKAGES = {
    'cv2': 'opencv-python-headless',
    'torch': 'torch',
    'torchvision': 'torchvision',
}
# Prints what the Python that ROS runs with can import, without importing what is slow to import.
_PROBE = """
import importlib.metadata, importlib.util, json
found = {}
for name in ('numpy', 'cv2', 'rclpy'):
    try:
        found[name] = getattr(__import__(name), '__version__', 'unknown')
    except Exception as error:
        found[name + ' error'] = f'{type(error).__name__}: {error}'
for name in ('torch', 'torchvision'):
    try:
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name)
    except (ImportError, ValueError):
        pass
print(json.dumps(found))
"""
# Words of pip and uv when the index cannot be reached, and of everybody when the disk is full.
_NO_NETWORK = re.compile(
    r'dns error|failed to lookup|name resolution|name or service not known|connection refused|'
    r'network is unreachable|timed out|failed to fetch|error sending request|'
    r'failed to establish a new connection|could not connect',
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r'no space left on device|disk quota exceeded', re.IGNORECASE)


class SetupError(Exception):
    """Something the user has to put right; the text says what and how."""


class StepFailed(SetupError):
    """A step failed.

    Attributes:
        output: all that it wrote.
    """

    def __init__(self, text: str, output: str) -> None:
        super().__init__(text)
        self.output = output


@dataclass(frozen=True)
class System:
    """The Python that an environment is made from.

    Attributes:
        python: its path.
        distro: the sourced ROS 2 distribution; empty for none.
        versions: of the packages of `SYSTEM_PACKAGES`, and of NumPy, that it brings with ROS.
    """

    python: str
    distro: str
    versions: dict[str, str]


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'[setup] {text}', flush=True)


def look_at_system() -> System:
    """Return what the environment is to be made from.

    Raises:
        SetupError: a ROS 2 distribution is sourced that this Python cannot import.
    """
    # From inside an environment, the Python behind it.
    python = getattr(sys, '_base_executable', sys.executable)
    distro = os.environ.get('ROS_DISTRO', '')
    if not distro:
        return System(python, '', {})
    done = subprocess.run([python, '-c', _PROBE], capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if 'rclpy' not in found:
        reason = found.get('rclpy error') or done.stderr.strip().splitlines()[-1]
        raise SetupError(
            f'ROS 2 {distro} is sourced, but {python} cannot import its rclpy ({reason}). '
            'Run this with the Python of that distribution (/usr/bin/python3; for make '
            'PYTHON=/usr/bin/python3), or in a shell that does not source it.'
        )
    names = ('numpy', *SYSTEM_PACKAGES)
    return System(python, distro, {name: found[name] for name in names if name in found})


def check_python(most: tuple[int, int] = SUPPORTED[1]) -> None:
    """Raise SetupError where this Python is too old or too new, or cannot make environments."""
    version, least = sys.version_info[:2], SUPPORTED[0]
    if not least <= version <= most:
        raise SetupError(
            f'Python {version[0]}.{version[1]} is not supported: run this with another '
            f'({least[0]}.{least[1]} to {most[0]}.{most[1]} work; for make PYTHON=python3.11).'
        )
    if importlib.util.find_spec('ensurepip') is None:
        raise SetupError('Missing: venv (apt-get install python3-venv).')


def digest(paths: Iterable[Path], *words: str) -> str:
    """Hash the contents of files and some words."""
    state = hashlib.sha256('\0'.join(words).encode())
    for path in paths:
        state.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes())
    return state.hexdigest()


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run a step in the checkout; raise SetupError with the end of its output if it fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise SetupError(f'{what} failed: {error}.') from error
    if not done.returncode:
        return
    output = done.stdout.decode(errors='replace')
    if _NO_SPACE.search(output):
        raise SetupError(
            f'{what} failed: the disk is full. Make room, name an environment on a larger disk '
            '(--venv), or move the cache there (UV_CACHE_DIR).'
        )
    tail = '\n'.join(output.splitlines()[-40:])
    raise StepFailed(f'{what} failed ({" ".join(command[:4])} …):\n{tail}', output)


def fetch(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run a step that asks the package index; raise SetupError in one sentence without one."""
    try:
        run(command, what, env)
    except StepFailed as error:
        reasons = [line for line in error.output.splitlines() if _NO_NETWORK.search(line)]
        if not reasons:
            raise
        raise SetupError(
            f'{what} failed: the package index cannot be reached ({reasons[-1].strip()[:200]}). '
            'Connect this machine, or name a mirror (UV_DEFAULT_INDEX and PIP_INDEX_URL), and run '
            'this again.'
        ) from error


class Environment:
    """A virtual environment and what is installed into it.

    Args:
        path: its folder.
        system: what it is made from.
        group: the dependency group of pyproject.toml with the wheels of ROS that are taken where
            none is sourced, `ros-kilted` for instance; empty for those of the extra `ros`.
    """

    def __init__(self, path: Path, system: System, group: str = '') -> None:
        self.path = path
        self.python = path / 'bin' / 'python'
        self._system = system
        self._group = '' if system.distro else group
        self.made = path / '.segzero-venv'
        self.installed = path / '.segzero-installed'

    def make(self, *, own: bool) -> None:
        """Create it, seeing the system's packages where ROS is sourced; keep one that fits.

        Args:
            own: whether one that does not fit may be replaced; that of a user may not.

        Raises:
            SetupError: it cannot be made, or what is there does not fit and is not ours.
        """
        words = f'{ROOT} {sys.version_info[:2]} {self._system.distro or None}'
        if self.made.exists() and self.python.exists() and self.made.read_text() == words:
            return
        if self.path.exists() and not own:
            self._check_that_it_fits()
            return
        say(f'making {self.path} with Python {sys.version.split()[0]}')
        self._remove()
        options = ['--system-site-packages'] if self._system.distro else []
        command = [self._system.python, '-m', 'venv', *options, str(self.path)]
        run(command, 'making the environment')
        # colcon looks for packages below the folder where it is started.
        (self.path / 'COLCON_IGNORE').touch()
        self.made.write_text(words)

    def install(self, extras: Iterable[str]) -> list[str]:
        """Install the core and the named extras as pinned, beside those installed before.

        Returns:
            All extras that are there now.

        Raises:
            SetupError: one cannot be had.
        """
        pins = self.pins()
        state = digest([ROOT / 'pyproject.toml', *pins], *self.overrides())
        known, *before = self.installed.read_text().split() if self.installed.exists() else ['']
        wanted = sorted({*extras, *before})
        if known == state and wanted == before and self._numpy_fits():
            return wanted
        self._check_room(set(wanted) - set(before))
        say(f'installing {", ".join(wanted) or "the core"} as pinned in {pins[0].name}')
        if not self._has('uv'):
            pip = [str(self.python), '-m', 'pip', 'install', '-q', '--retries', '1', UV]
            fetch(pip, 'installing uv')
        command = [str(self.python), '-m', 'uv', 'pip', 'install', '--python', str(self.python)]
        command += ['-c', str(self.constraints())]
        if self.overrides():
            overrides = self.path / '.segzero-overrides.txt'
            overrides.write_text('\n'.join([*self.overrides(), '']))
            command += ['--override', str(overrides)]
        env = {**os.environ, 'SAM2_BUILD_CUDA': '0'}
        if 'models' in wanted:
            # sam2 has no wheel and is built against the torch that is there, so torch comes first.
            first = [name for name in ('torch', 'torchvision') if name not in self._of_system()]
            if first and 'models' not in before:
                say('torch and what belongs to it are about 6 GB')
            fetch([*command, *first, 'setuptools', 'wheel'], 'installing torch', env)
        project = f'.[{",".join(wanted)}]' if wanted else '.'
        groups = ['--group', self._group] if self._group else []
        fetch([*command, '-e', project, *groups], 'installing packages', env)
        self.installed.write_text(' '.join([state, *wanted]))
        return wanted

    def pins(self) -> list[Path]:
        """Return the files of pins: that for NumPy 1 where the sourced ROS was compiled for it.

        Behind it, where a group's wheels are taken, the one of theirs.
        """
        old = self._system.versions.get('numpy', '').startswith('1.')
        general = ROOT / ('requirements-numpy1.lock' if old else 'requirements.lock')
        if not self._group:
            return [general]
        return [general, ROOT / f'requirements{self._group.removeprefix("ros")}.lock']

    def constraints(self) -> Path:
        """Return one file that pins everything, with one distribution's wheels of ROS."""
        general, *special = self.pins()
        if not special:
            return general
        lines = [line for line in general.read_text().splitlines() if not line.startswith('ros-')]
        made = self.path / '.segzero-constraints.txt'
        made.write_text('\n'.join([*lines, *(path.read_text() for path in special)]))
        return made

    def overrides(self) -> list[str]:
        """Return what keeps the registry's packages away where the system's are used."""
        return [f'{SYSTEM_PACKAGES[name]} ; python_version < "3"' for name in self._of_system()]

    def _of_system(self) -> list[str]:
        """Return which packages of the system are new enough, by their import names."""
        versions = self._system.versions
        return [
            name
            for name, package in SYSTEM_PACKAGES.items()
            if name in versions and _numbers(versions[name]) >= _numbers(least_version(package))
        ]

    def _check_that_it_fits(self) -> None:
        if not self.python.exists():
            raise SetupError(
                f'{self.path} is there, but is no Python environment: remove it, or name another '
                'with --venv.'
            )
        settings = (self.path / 'pyvenv.cfg').read_text() if self._is_venv() else ''
        sees_system = re.search(r'include-system-site-packages\s*=\s*true', settings)
        if self._system.distro and not sees_system:
            raise SetupError(
                f'{self.path} does not see the packages of ROS 2 {self._system.distro}: make it '
                'with --system-site-packages, or name a folder that is not there yet with --venv.'
            )
        command = [str(self.python), '-c', 'import sys; print(*sys.version_info[:2], end="")']
        found = subprocess.run(command, capture_output=True, text=True).stdout
        if found != ' '.join(map(str, sys.version_info[:2])):
            raise SetupError(
                f'{self.path} was made with Python {found.replace(" ", ".")}, but this is '
                f'{sys.version.split()[0]}: remove it, or name another with --venv.'
            )

    def _is_venv(self) -> bool:
        return (self.path / 'pyvenv.cfg').exists()

    def _remove(self) -> None:
        """Remove an environment that is of no use; raise SetupError for a link: it is not ours."""
        if self.path.is_symlink():
            raise SetupError(
                f'{self.path} is a link to {self.path.readlink()}, which was not made for this '
                f'folder; remove the link (rm {self.path}) and run this again.'
            )
        if self.path.exists():
            shutil.rmtree(self.path)

    def _numpy_fits(self) -> bool:
        """Return whether the environment's NumPy is of the system's generation."""
        code = 'import numpy; print(numpy.__version__)'
        done = subprocess.run([str(self.python), '-c', code], capture_output=True, text=True)
        wanted = self._system.versions.get('numpy', done.stdout)
        return done.returncode == 0 and _numbers(done.stdout)[0] == _numbers(wanted)[0]

    def _has(self, module: str) -> bool:
        command = [str(self.python), '-c', f'import {module}']
        return subprocess.run(command, capture_output=True).returncode == 0

    def _check_room(self, extras: Iterable[str]) -> None:
        needed = SMALL + sum(LARGE.get(extra, 0.0) for extra in extras)
        free = shutil.disk_usage(self.path).free / 1e9
        if free < needed:
            raise SetupError(
                f'{free:.1f} GB are free in {self.path.parent}, and '
                f'{", ".join(sorted(extras)) or "the core"} may take {needed:.1f}: make room, or '
                'name an environment on a larger disk with --venv.'
            )


def least_version(package: str) -> str:
    """Return the oldest version of a package that pyproject.toml allows; '0' for any."""
    text = (ROOT / 'pyproject.toml').read_text()
    found = re.search(rf'"{re.escape(package)}>=([0-9.]+)', text)
    return found[1] if found else '0'


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers: (4, 6, 0) of `4.6.0+dfsg`."""
    found = re.match(r'[0-9]+(?:\.[0-9]+)*', version)
    return tuple(map(int, found[0].split('.'))) if found else ()
