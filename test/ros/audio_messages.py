"""The packages named audio_common_msgs, built here: no registry has them as wheels.

Their messages are those of the two projects, field for field, less the headers, which nobody reads
here and which would double the time.
"""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

ROS_DRIVERS = {
    'AudioData': 'uint8[] data',
    'AudioInfo': """
        uint8 channels
        uint32 sample_rate
        string sample_format
        uint32 bitrate
        string coding_format""",
}
MGONZS13 = {
    'AudioData': """
        float32[] float32_data
        int32[] int32_data
        int16[] int16_data
        int8[] int8_data
        uint8[] uint8_data""",
    'AudioInfo': """
        int32 format
        int32 channels
        int32 rate
        int32 chunk""",
    'Audio': """
        audio_common_msgs/AudioData audio_data
        audio_common_msgs/AudioInfo info""",
    'AudioStamped': 'audio_common_msgs/Audio audio',
}
_PACKAGE = """<package format="3">
  <name>audio_common_msgs</name>
  <version>0.0.0</version>
  <description>Messages for tests</description>
  <maintainer email="nobody@example.org">nobody</maintainer>
  <license>BSD</license>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""
# What Python needs, and nothing else: rosidl_default_generators would take twice as long.
_BUILD = """cmake_minimum_required(VERSION 3.16)
project(audio_common_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
rosidl_generate_interfaces(audio_common_msgs {files})
ament_package()
"""


def build(messages: dict[str, str], folder: Path) -> dict[str, str]:
    """Build and install a package with these messages; return the environment that has it."""
    source, installed = folder / 'source', folder / 'installed'
    (source / 'msg').mkdir(parents=True)
    for name, fields in messages.items():
        lines = [line.strip() for line in fields.strip().splitlines()]
        (source / 'msg' / f'{name}.msg').write_text('\n'.join(lines) + '\n')
    (source / 'package.xml').write_text(_PACKAGE)
    files = ' '.join(f'msg/{name}.msg' for name in messages)
    (source / 'CMakeLists.txt').write_text(_BUILD.format(files=files))
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
    (package,) = installed.glob('**/audio_common_msgs/msg/__init__.py')
    return {
        name: f'{place}:{os.environ.get(name, "")}'
        for name, place in (
            ('PYTHONPATH', package.parent.parent.parent),
            ('LD_LIBRARY_PATH', installed / 'lib'),
            ('AMENT_PREFIX_PATH', installed),
        )
    }
