"""The perception node with an OAK-D.

    ros2 launch segzero_ros oak_d.launch.py profile:=offline

Starts the camera's driver too; `driver:=false` if it runs already. All arguments of
perception.launch.py can be given as well, and those of the driver that have other names. Topics as
of depthai_ros_driver 2.9 and newer.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
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


def start(context: LaunchContext) -> list[GroupAction | IncludeLaunchDescription]:
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
    driver = included('depthai_ros_driver', 'camera.launch.py', {'name': name})
    return [apart(context, driver, node), node]


def apart(
    context: LaunchContext, driver: IncludeLaunchDescription, node: IncludeLaunchDescription
) -> GroupAction:
    """Return the driver with all arguments but the node's.

    Drivers have a `namespace` or a `params_file`, too: its own defaults must not become the
    node's, and what is given for the node is not meant for the driver.
    """
    source = node.launch_description_source
    declared = source.try_get_launch_description_without_context().get_launch_arguments()
    own = {argument.name for argument in declared}
    given = context.launch_configurations.items()
    others = {name: value for name, value in given if name not in own}
    return GroupAction([driver], forwarding=False, launch_configurations=others)


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
