"""The perception node with an OAK-D.

    ros2 launch segzero_ros oak_d.launch.py profile:=offline

Starts the camera's driver too; `driver:=false` if it runs already. All arguments of
perception.launch.py can be given as well. Topics as of depthai_ros_driver 2.9 and newer.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, and what they start."""
    return LaunchDescription(
        [
            DeclareLaunchArgument('driver', default_value='true', choices=['true', 'false']),
            DeclareLaunchArgument('name', default_value='oak'),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[IncludeLaunchDescription]:
    """Return the node, and the camera's driver unless it runs already."""
    name = LaunchConfiguration('name').perform(context)
    # The driver aligns depth with the colour camera, and rectifies the colour image.
    topics = {
        'image': f'/{name}/rgb/image_rect',
        'depth': f'/{name}/stereo/image_raw',
        'camera_info': f'/{name}/rgb/camera_info',
        'fixed_frame': 'oak-d-base-frame',
    }
    node = included('segzero_ros', 'perception.launch.py', topics)
    if LaunchConfiguration('driver').perform(context) == 'false':
        return [node]
    return [included('depthai_ros_driver', 'camera.launch.py', {'name': name}), node]


def included(package: str, file: str, arguments: dict[str, str]) -> IncludeLaunchDescription:
    """Return a package's launch file with arguments."""
    try:
        share = Path(get_package_share_directory(package))
    except PackageNotFoundError as error:
        name = f'ros-{os.environ.get("ROS_DISTRO", "$ROS_DISTRO")}-{package.replace("_", "-")}'
        raise RuntimeError(
            f'{package} is not installed (apt-get install {name}): '
            'install it, or start the camera yourself and give driver:=false'
        ) from error
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / file)),
        launch_arguments=arguments.items(),
    )
