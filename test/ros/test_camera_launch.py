"""`ros2 launch segzero_ros realsense.launch.py` and the others listen to their camera's topics.

Needs the real launch packages and the `ros2` command of a ROS 2 installation; skipped without.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
from typing import Any

import pytest

# Not `launch` itself: the repository's folder of that name would do.
pytest.importorskip('launch.actions', reason='needs the packages launch and launch_ros')
pytest.importorskip('launch_ros.actions', reason='needs the packages launch and launch_ros')
ROS2 = shutil.which('ros2')
if ROS2 is None:
    pytest.skip('needs the command ros2', allow_module_level=True)

from sensor_msgs.msg import Image

# By launch file: arguments, what the driver publishes, and the driver's package.
CAMERAS = {
    'realsense': (
        ['camera_namespace:=head', 'camera_name:=d435'],
        {
            'image': '/head/d435/color/image_raw',
            'depth': '/head/d435/aligned_depth_to_color/image_raw',
            'camera_info': '/head/d435/color/camera_info',
        },
        'realsense2_camera',
    ),
    'zed': (
        [],
        {
            'image': '/zed/zed_node/rgb/color/rect/image',
            'depth': '/zed/zed_node/depth/depth_registered',
            'camera_info': '/zed/zed_node/rgb/color/rect/camera_info',
        },
        'zed_wrapper',
    ),
    'oak_d': (
        ['name:=front'],
        {
            'image': '/front/rgb/image_rect',
            'depth': '/front/stereo/image_raw',
            'camera_info': '/front/rgb/camera_info',
        },
        'depthai_ros_driver',
    ),
}

# What the drivers' own launch files declare under names that perception.launch.py has, too.
# By package: the file, and the defaults.
DRIVERS = {
    'realsense2_camera': ('rs_launch.py', {'log_level': 'info', 'camera_name': 'camera'}),
    'zed_wrapper': (
        'zed_camera.launch.py',
        {'namespace': '', 'use_sim_time': 'false', 'camera_name': 'zed', 'camera_model': ''},
    ),
    'depthai_ros_driver': (
        'camera.launch.py',
        {'namespace': '', 'params_file': '/no/such/camera.yaml', 'name': 'oak'},
    ),
}
# A driver that starts nothing and prints what it was given.
DRIVER = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

DECLARED = {declared!r}


def start(context):
    given = {{name: LaunchConfiguration(name).perform(context) for name in DECLARED}}
    print('driver:', sorted(given.items()), flush=True)


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=DECLARED[name]) for name in DECLARED]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
"""


@pytest.fixture
def drivers(tmp_path: Path) -> dict[str, str]:
    """Install stand-ins of the drivers' packages; return the environment that has them."""
    prefix = tmp_path / 'drivers'
    index = prefix / 'share/ament_index/resource_index/packages'
    index.mkdir(parents=True)
    for package, (file, declared) in DRIVERS.items():
        (index / package).touch()
        launch = prefix / 'share' / package / 'launch'
        launch.mkdir(parents=True)
        (launch / file).write_text(DRIVER.format(declared=declared))
    return {**os.environ, 'AMENT_PREFIX_PATH': f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}'}


@pytest.mark.parametrize(
    ('name', 'given', 'namespace', 'driver'),
    [
        ('realsense', [], 'segzero', {'camera_name': 'camera'}),
        ('zed', [], 'segzero', {'namespace': '', 'camera_model': 'zed2i'}),
        ('oak_d', [], 'segzero', {'namespace': '', 'params_file': '/no/such/camera.yaml'}),
        ('zed', ['namespace:=eyes', 'camera_model:=zedx'], 'eyes', {'camera_model': 'zedx'}),
        ('zed', ['namespace:=eyes'], 'eyes', {'namespace': ''}),
        ('oak_d', ['namespace:=eyes', 'name:=front'], 'eyes', {'namespace': '', 'name': 'front'}),
        ('realsense', ['log_level:=warn'], 'segzero', {'log_level': 'info'}),
    ],
)
def test_the_driver_and_the_node_keep_to_their_own_arguments(
    name: str,
    given: list[str],
    namespace: str,
    driver: dict[str, str],
    new_client: Any,
    drivers: dict[str, str],
    tmp_path: Path,
) -> None:
    client = new_client(namespace)
    with (tmp_path / 'log').open('w') as log:
        running = subprocess.Popen(
            [str(ROS2), 'launch', 'segzero_ros', f'{name}.launch.py', 'profile:=offline', *given],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=drivers,
        )
    try:
        client.wait_for_server()
        client.wait_for_state('active')
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)
    output = (tmp_path / 'log').read_text()
    (line,) = [line for line in output.splitlines() if 'driver:' in line]
    for argument in driver.items():
        assert str(argument) in line


@pytest.mark.parametrize('name', CAMERAS)
def test_the_node_listens_to_the_cameras_topics(
    name: str, new_client: Any, tmp_path: Path
) -> None:
    arguments, topics, _ = CAMERAS[name]
    command = [ROS2, 'launch', 'segzero_ros', f'{name}.launch.py', 'driver:=false']
    client = new_client(f'cell_{name}')
    client.node.create_publisher(Image, topics['image'], 10)
    client.node.create_publisher(Image, topics['depth'], 10)
    with (tmp_path / 'log').open('w') as log:
        running = subprocess.Popen(
            [*command, 'profile:=offline', f'namespace:=cell_{name}', 'track:=true', *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        client.wait_for_server()
        client.wait_for_state('active')
        for topic in topics.values():
            client.until(lambda topic=topic: client.node.count_subscribers(topic), topic)
        # What perception.launch.py takes is handed on.
        assert client.get_parameter('track') is True
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)
    assert 'Traceback' not in (tmp_path / 'log').read_text()


@pytest.mark.parametrize('name', CAMERAS)
def test_a_driver_that_is_not_installed_is_named(name: str) -> None:
    done = subprocess.run(
        [str(ROS2), 'launch', 'segzero_ros', f'{name}.launch.py', 'profile:=offline'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, 'ROS_DISTRO': 'jazzy'},
    )
    package = CAMERAS[name][2]
    assert done.returncode == 1
    assert f'{package} is not installed' in done.stdout
    assert 'driver:=false' in done.stdout
