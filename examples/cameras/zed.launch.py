"""The perception node with a ZED.

    ros2 launch segzero_ros zed.launch.py camera_model:=zed2i profile:=offline

Starts the camera's driver too; `driver:=false` if it runs already. All arguments of
perception.launch.py can be given as well, and those of the driver that have other names. Topics as
of zed_wrapper 5.1 and newer.
"""

from __future__ import annotations

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
            DeclareLaunchArgument('camera_model', default_value='zed2i'),
            DeclareLaunchArgument('camera_name', default_value='zed'),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[GroupAction | IncludeLaunchDescription]:
    """Return the node, and the camera's driver unless it runs already."""
    name = LaunchConfiguration('camera_name').perform(context)
    # Depth is in metres, registered to the rectified colour image of the left camera.
    topics = {
        'image': f'/{name}/zed_node/rgb/color/rect/image',
        'depth': f'/{name}/zed_node/depth/depth_registered',
        'camera_info': f'/{name}/zed_node/rgb/color/rect/camera_info',
        'fixed_frame': f'{name}_camera_link',
    }
    node = included('segzero_ros', 'perception.launch.py', topics)
    if LaunchConfiguration('driver').perform(context) == 'false':
        return [node]
    driver = included('zed_wrapper', 'zed_camera.launch.py', {'camera_name': name})
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
        raise RuntimeError(
            f'{package} is not installed (see github.com/stereolabs/zed-ros2-wrapper): '
            'install it, or start the camera yourself and give driver:=false'
        ) from error
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / 'launch' / file)),
        launch_arguments=arguments.items(),
    )
