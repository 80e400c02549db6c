"""Environments that hold what one extra of this package brings, and nothing else.

Each is a real one, whose packages are links to those of the environment that runs the tests: which
ones an extra brings is read from their own metadata, as an installer would.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from importlib import metadata
import os
from pathlib import Path
import subprocess
import sys
import sysconfig

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'segzero_ros'
SITE = Path(sysconfig.get_path('purelib'))
# The extra with the ROS wheels, which needs more than their modules.
ROS = 'ros'


class NotHere(Exception):
    """A distribution that the extra needs is not in this environment."""


@cache
def installed() -> dict[str, metadata.Distribution]:
    """Return what is installed here, by its canonical name."""
    found = metadata.distributions(path=[str(SITE)])
    return {canonicalize_name(each.name): each for each in found}


def extras() -> list[str]:
    """Return the names of all extras of this package."""
    return itself().metadata.get_all('Provides-Extra') or []


def itself() -> metadata.Distribution:
    """Return what is known of this package."""
    return installed()[canonicalize_name(PACKAGE)]


def files(distribution: metadata.Distribution) -> list[str]:
    """Return a distribution's files, as paths from where it is installed."""
    record = distribution.read_text('RECORD') or ''
    return [line.rsplit(',', 2)[0].strip('"') for line in record.splitlines()]


@cache
def shared_folders() -> set[str]:
    """Return the folders and files that several distributions have a part in."""
    owners = defaultdict(set)
    for name, distribution in installed().items():
        for file in files(distribution):
            owners[file.partition('/')[0]].add(name)
    return {top for top, names in owners.items() if len(names) > 1}


def requirements(extra: str = '') -> set[str]:
    """Return which distributions this package itself asks for; with an extra, for that alone."""
    found = set()
    for line in itself().requires or []:
        required = Requirement(line)
        if required.marker is None:
            wanted = not extra
        else:
            wanted = required.marker.evaluate({'extra': extra}) and bool(extra)
        if wanted:
            found.add(canonicalize_name(required.name))
    return found


def closure(*chosen: str) -> list[metadata.Distribution]:
    """Return the distributions that an installer brings for this package with some extras.

    Raises:
        NotHere: one of them is not installed.
    """
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(PACKAGE), extra) for extra in ('', *chosen)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name not in installed():
            raise NotHere(name)
        distribution = found[name] = installed()[name]
        for line in distribution.requires or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({'extra': extra}):
                name_of_it = canonicalize_name(required.name)
                waiting += [(name_of_it, more) for more in ('', *required.extras)]
    return list(found.values())


class Tier:
    """An environment with some extras.

    Args:
        folder: an empty one.
        chosen: the extras.
    """

    def __init__(self, folder: Path, *chosen: str) -> None:
        self._chosen = chosen
        self._prefix = folder / 'env'
        distributions = closure(*chosen)
        command = [sys.executable, '-m', 'venv', '--without-pip', str(self._prefix)]
        subprocess.run(command, check=True)
        self.python = self._prefix / 'bin' / 'python'
        version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
        self._site = self._prefix / 'lib' / version / 'site-packages'
        self._link(distributions)
        places = [str(ROOT)]
        if ROS in chosen:
            places += [path for path in sys.path if path.startswith(f'{ROOT}/install')]
        (self._site / 'segzero_ros_checkout.pth').write_text('\n'.join([*places, '']))

    def run(self, *words: str, seconds: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the environment."""
        return subprocess.run(
            [str(self.python), *words],
            env=self.environment(),
            cwd=self._prefix,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def environment(self) -> dict[str, str]:
        """Return the variables to run its programs with: a shell that has nothing else sourced."""
        # Bytecode lies beside the linked modules, where all these environments find it.
        hidden = {'PYTHONPATH', 'VIRTUAL_ENV', 'PYTHONHOME', 'PYTHONPYCACHEPREFIX'}
        if ROS not in self._chosen:
            hidden |= {'AMENT_PREFIX_PATH', 'ROS_DISTRO', 'LD_LIBRARY_PATH'}
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return kept | {'HF_HUB_OFFLINE': '1', 'PATH': f'{self.python.parent}:{os.environ["PATH"]}'}

    def _link(self, distributions: list[metadata.Distribution]) -> None:
        """Link folders that are one distribution's as a whole, and what several share by files."""
        for distribution in distributions:
            if distribution is itself():
                self._link_path(next(SITE.glob(f'{PACKAGE}-*.dist-info')), self._site)
                continue
            tops = set()
            for file in files(distribution):
                top = file.partition('/')[0]
                if top == '..':
                    self._link_outside(file)
                elif top in shared_folders():
                    self._link_path(SITE / file, (self._site / file).parent)
                else:
                    tops.add(top)
            for top in tops - {'__pycache__'}:
                self._link_path(SITE / top, self._site)

    def _link_outside(self, file: str) -> None:
        """Link what lies in the prefix, such as `share/`, but for the programs."""
        place = Path(os.path.normpath(SITE / file))
        inside = place.relative_to(sys.prefix)
        if inside.parts[0] != 'bin':
            self._link_path(place, (self._prefix / inside).parent)

    @staticmethod
    def _link_path(path: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / path.name
        if path.exists() and not link.exists():
            link.symlink_to(path)
