"""moveit_msgs collision objects: boxes to add to a planning scene, to move in it or to remove.

MoveIt takes the shape's pose relative to the object's pose, and the object's relative to the
header's frame.
"""

from __future__ import annotations

from typing import Any

from segzero_ros.conversions.result import Make, NO_POSE, to_pose
from segzero_ros.conversions.text import clean_text
from segzero_ros.types import Pose3D

COLLISION_OBJECT = 'moveit_msgs/msg/CollisionObject'

# Constants of moveit_msgs/CollisionObject and shape_msgs/SolidPrimitive.
_ADD, _REMOVE, _MOVE = b'\0', b'\1', b'\3'
_BOX = 1
# A side of 0 m, of a surface that was seen from the front only, would be no box.
_MIN_SIDE = 0.001


def added(make: Make, header: Any, name: str, pose: Pose3D, label: str = '') -> Any:
    """Return a box to add, or to replace the object of this name with.

    Args:
        make: creates the messages.
        header: with the frame of the pose.
        name: of the object in the planning scene.
        pose: the box.
        label: what it is.
    """
    box = make(
        'shape_msgs/msg/SolidPrimitive',
        type=_BOX,
        dimensions=[float(max(side, _MIN_SIDE)) for side in pose.size],
        polygon=make('geometry_msgs/msg/Polygon', points=[]),
    )
    shapes = {'primitives': [box], 'primitive_poses': [to_pose(make, NO_POSE)]}
    return _message(make, header, name, _ADD, pose, label, **shapes)


def moved(make: Make, header: Any, name: str, pose: Pose3D) -> Any:
    """Return a new pose of an object; its shape stays. Arguments as for `added`."""
    return _message(make, header, name, _MOVE, pose)


def removed(make: Make, header: Any, name: str) -> Any:
    """Return the removal of an object. Arguments as for `added`."""
    return _message(make, header, name, _REMOVE, NO_POSE)


def _message(
    make: Make,
    header: Any,
    name: str,
    operation: bytes,
    pose: Pose3D,
    label: str = '',
    **shapes: list[Any],
) -> Any:
    empty: dict[str, list[Any]] = {
        'primitives': [],
        'primitive_poses': [],
        'meshes': [],
        'mesh_poses': [],
        'planes': [],
        'plane_poses': [],
        'subframe_names': [],
        'subframe_poses': [],
    }
    return make(
        COLLISION_OBJECT,
        header=header,
        id=name,
        pose=to_pose(make, pose),
        type=make('object_recognition_msgs/msg/ObjectType', key=clean_text(label), db=''),
        operation=operation,
        **{**empty, **shapes},
    )
