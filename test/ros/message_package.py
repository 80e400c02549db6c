"""Packages of messages that tests need and no registry has as wheels, built by CMake."""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path
import subprocess
import sys

from made_once import made_once

_PACKAGE = """<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>Messages for tests</description>
  <maintainer email="nobody@example.org">nobody</maintainer>
  <license>BSD</license>
{depends}
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""
# What Python needs, and nothing else: rosidl_default_generators would take twice as long.
_BUILD = """cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
{find}
rosidl_generate_interfaces({name} {files} DEPENDENCIES {dependencies})
ament_package()
"""


def build_messages(
    name: str, messages: dict[str, str], dependencies: tuple[str, ...] = ()
) -> dict[str, str]:
    """Build and install a package of messages, unless that has been done before.

    Args:
        name: of the package.
        messages: the fields of each, by its name.
        dependencies: packages whose messages are among the fields.

    Returns:
        The environment that has it.
    """
    ros = (sys.prefix, os.environ.get('AMENT_PREFIX_PATH', ''), Path(__file__).read_text())
    state = hashlib.sha256(repr((ros, messages, dependencies)).encode()).hexdigest()[:16]
    folder = made_once(
        f'{name}_{state}', lambda folder: _build(name, messages, folder, dependencies)
    )
    installed = folder / 'installed'
    (package,) = installed.glob(f'**/{name}/msg/__init__.py')
    return {
        variable: f'{place}:{os.environ.get(variable, "")}'
        for variable, place in (
            ('PYTHONPATH', package.parent.parent.parent),
            ('LD_LIBRARY_PATH', installed / 'lib'),
            ('AMENT_PREFIX_PATH', installed),
        )
    }


def load_messages(environment: dict[str, str]) -> None:
    """Make built messages importable in this process too.

    Args:
        environment: what `build_messages` returned.
    """
    # rosidl looks there for what it loads; the loader itself read it at the start.
    os.environ['LD_LIBRARY_PATH'] = environment['LD_LIBRARY_PATH']
    sys.path.append(environment['PYTHONPATH'].split(':')[0])
    libraries = sorted(Path(environment['LD_LIBRARY_PATH'].split(':')[0]).glob('*.so'))
    # They need each other, so each is tried until all have been loaded.
    while libraries:
        waiting = [library for library in libraries if not _loads(library)]
        assert len(waiting) < len(libraries), f'cannot be loaded: {waiting}'
        libraries = waiting


def _loads(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _build(
    name: str, messages: dict[str, str], folder: Path, dependencies: tuple[str, ...]
) -> None:
    source, installed = folder / 'source', folder / 'installed'
    (source / 'msg').mkdir(parents=True)
    for message, fields in messages.items():
        lines = [line.strip() for line in fields.strip().splitlines()]
        (source / 'msg' / f'{message}.msg').write_text('\n'.join(lines) + '\n')
    depends = '\n'.join(f'  <depend>{each}</depend>' for each in dependencies)
    (source / 'package.xml').write_text(_PACKAGE.format(name=name, depends=depends))
    build = _BUILD.format(
        name=name,
        files=' '.join(f'msg/{message}.msg' for message in messages),
        find='\n'.join(f'find_package({each} REQUIRED)' for each in dependencies),
        dependencies=' '.join(dependencies),
    )
    (source / 'CMakeLists.txt').write_text(build)
    # The wheels of ROS lie in the environment's folder; an installed ROS says where it is.
    prefixes = f'{sys.prefix}:{os.environ.get("AMENT_PREFIX_PATH", "")}'
    environment = {**os.environ, 'AMENT_PREFIX_PATH': prefixes, 'CMAKE_PREFIX_PATH': prefixes}
    options = [f'-DCMAKE_INSTALL_PREFIX={installed}', f'-DPython3_EXECUTABLE={sys.executable}']
    options += ['-DBUILD_TESTING=OFF', '-DCMAKE_C_FLAGS=-O0', '-DCMAKE_CXX_FLAGS=-O0']
    work = str(folder / 'work')
    for command in (
        ['cmake', '-S', str(source), '-B', work, *options],
        ['cmake', '--build', work, '--parallel', '2', '--target', 'install'],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
