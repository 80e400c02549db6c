"""A robot to rehearse on: a system as Ubuntu's packages leave it, without touching this machine's.

A copy of a Python's prefix stands for the system's: externally managed (PEP 668), with the NumPy
and the OpenCV that apt brings, and with ROS 2 below `opt/ros` as its own packages, which a
`setup.bash` brings into a shell. What stands in for Ubuntu's own packages are wheels of the same
versions, ROS 2 Jazzy's too. No compiler is in the PATH, but for colcon.
"""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import re
import shutil
import subprocess

import bootstrap

CHECKOUT = Path(__file__).resolve().parents[2]
# What ROS 2's own packages are called on the registry.
_OF_ROS = re.compile(r'ros-')
_NOT_THERE = re.compile(
    r'(.*-)?(cc|c\+\+|gcc|g\+\+|cpp|clang|clang\+\+|ld|as|cmake|make|gmake|ninja|nvcc|python|pip|'
    r'pytest|uv|colcon)[0-9.-]*$'
)
_EXTERNALLY_MANAGED = """\
[externally-managed]
Error=To install Python packages system-wide, try apt install python3-xyz.
"""
_SETUP_BASH = """\
export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
export AMENT_PREFIX_PATH={prefix} CMAKE_PREFIX_PATH={prefix}
export LD_LIBRARY_PATH={libraries} PYTHONPATH={packages} PATH={prefix}/bin:$PATH
"""


@dataclass(frozen=True)
class Kind:
    """What a system brings.

    Attributes:
        name: of the Ubuntu that it stands for.
        python: the interpreter to copy.
        numpy: its version.
        opencv: the version of the wheel that stands for apt's OpenCV.
        apt: other packages that ROS 2 and this one depend on, with their versions.
    """

    name: str
    python: str
    numpy: str
    opencv: str
    apt: tuple[str, ...]


class Robot:
    """A system in a folder, and a user with a workspace on it.

    Args:
        folder: an empty one.
        kind: what it brings.
        uv: the installer, of this machine.
    """

    def __init__(self, folder: Path, kind: Kind, uv: str) -> None:
        self.kind = kind
        self.said = ''
        self._uv = uv
        self._usr = folder / 'usr'
        self._ros = folder / 'opt' / 'ros' / 'jazzy'
        self.home = folder / 'home'
        self.workspace = self.home / 'ws'
        (self.workspace / 'src').mkdir(parents=True)
        self._copy_python()
        self._install_apt_packages()
        self._install_ros()
        self._make_commands()

    @property
    def python(self) -> Path:
        """The system's Python."""
        return self._usr / 'bin' / 'python3'

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run lines in a new shell of the user, which has ROS sourced; stop at the first error."""
        lines = f'set -e; . {self._ros}/setup.bash; cd ~\n{script}'
        return subprocess.run(
            ['bash', '-c', lines],
            env=self._environment() | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def stand_in(self, name: str, script: str) -> None:
        """Put a program of that name into the PATH."""
        path = self._usr / 'local' / 'bin' / name
        path.write_text(script)
        path.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            # What a machine without direct access to a registry is told of one.
            if re.match(r'(UV|PIP|SSL|REQUESTS|CURL|HTTPS?|NO|ALL|OPENBLAS)_|\w+_proxy$|LANG', name)
        }
        path = ':'.join(str(self._usr / place) for place in ('local/bin', 'bin', 'share/bin'))
        kept['UV_CACHE_DIR'] = subprocess.check_output([self._uv, 'cache', 'dir'], text=True).strip()
        graph = {'ROS_DOMAIN_ID': '73', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        return kept | graph | {'HOME': str(self.home), 'PATH': path}

    def _copy_python(self) -> None:
        code = (
            'import sys, sysconfig; print(sys.base_prefix, "%d.%d" % sys.version_info[:2],'
            ' sysconfig.get_config_var("INSTSONAME") or "", sep="\\n")'
        )
        found = subprocess.check_output([self.kind.python, '-c', code], text=True)
        prefix, version, library = found.split('\n')[:3]
        name = f'python{version}'
        stdlib = self._usr / 'lib' / name
        self._packages = stdlib / 'site-packages'
        for place in (self._packages, self._usr / 'bin', self._usr / 'include'):
            place.mkdir(parents=True)
        for entry in (Path(prefix) / 'lib' / name).iterdir():
            if entry.name not in ('site-packages', 'EXTERNALLY-MANAGED', 'dist-packages'):
                (stdlib / entry.name).symlink_to(entry)
        (self._usr / 'include' / name).symlink_to(Path(prefix) / 'include' / name)
        if (Path(prefix) / 'lib' / library).is_file():
            (self._usr / 'lib' / library).symlink_to(Path(prefix) / 'lib' / library)
        shutil.copy(Path(prefix) / 'bin' / name, self._usr / 'bin' / name)
        self.python.symlink_to(name)
        (stdlib / 'EXTERNALLY-MANAGED').write_text(_EXTERNALLY_MANAGED)

    def _install_apt_packages(self) -> None:
        listed = self._uv_pip('compile', '--python', str(self.python), '--extra', 'ros',
                              '--no-header', '--no-annotate', '-q', 'pyproject.toml')  # fmt: skip
        names = [line.partition(' ')[0] for line in listed.splitlines()]
        self._wheels_of_ros = [name for name in names if _OF_ROS.match(name)]
        packages = [
            f'numpy=={self.kind.numpy}',
            f'opencv-python-headless=={self.kind.opencv}',
            'colcon-common-extensions',
            *self.kind.apt,
        ]
        known = {name.partition('==')[0] for name in packages}
        packages += [
            name for name in names
            if not _OF_ROS.match(name) and name.partition('==')[0] not in known
        ]  # fmt: skip
        self._uv_pip('install', '--python', str(self.python), '--break-system-packages', *packages)
        # Ubuntu's OpenCV is known to no Python installer.
        for metadata in self._packages.glob('opencv_python_headless-*.dist-info'):
            shutil.rmtree(metadata)

    def _install_ros(self) -> None:
        self._uv_pip('install', '--python', str(self.python), '--prefix', str(self._ros),
                     '--no-deps', *self._wheels_of_ros)  # fmt: skip
        bootstrap.repair_ros_wheels(self._ros, self.python, 'rehearsal')
        packages = next(self._ros.glob('lib/python3*/site-packages'))
        # The libraries that each wheel carries along; Ubuntu's packages depend on those of others.
        libraries = ':'.join(map(str, (self._ros / 'lib', *sorted(packages.glob('*.libs')))))
        text = _SETUP_BASH.format(prefix=self._ros, packages=packages, libraries=libraries)
        (self._ros / 'setup.bash').write_text(text)

    def _make_commands(self) -> None:
        """Link this machine's programs, without compilers and other Pythons."""
        shared = self._usr / 'share' / 'bin'
        shared.mkdir(parents=True)
        for program in Path('/usr/bin').iterdir():
            if not _NOT_THERE.match(program.name):
                (shared / program.name).symlink_to(program)
        (self._usr / 'local' / 'bin').mkdir(parents=True)
        self.stand_in('colcon', f'#!/bin/sh\nPATH="$PATH:/usr/bin" exec {self._usr}/bin/colcon "$@"\n')

    def _uv_pip(self, command: str, *words: str) -> str:
        return subprocess.run(
            [self._uv, 'pip', command, *words],
            cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
