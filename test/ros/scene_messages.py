"""Messages of Nav2's and MoveIt's worlds, built here: no registry has them as wheels.

Their fields are those of vision_msgs 4.1.1, moveit_msgs 2.6 and object_recognition_msgs 2.0.
"""

from __future__ import annotations

import os
import shutil
from unittest import mock

from message_package import build_messages
import pytest

VISION = {
    'VisionClass': """
        uint16 class_id
        string class_name""",
    'LabelInfo': """
        std_msgs/Header header
        vision_msgs/VisionClass[] class_map
        float32 threshold""",
}
RECOGNITION = {
    'ObjectType': """
        string key
        string db""",
}
MOVEIT = {
    'CollisionObject': """
        std_msgs/Header header
        geometry_msgs/Pose pose
        string id
        object_recognition_msgs/ObjectType type
        shape_msgs/SolidPrimitive[] primitives
        geometry_msgs/Pose[] primitive_poses
        shape_msgs/Mesh[] meshes
        geometry_msgs/Pose[] mesh_poses
        shape_msgs/Plane[] planes
        geometry_msgs/Pose[] plane_poses
        string[] subframe_names
        geometry_msgs/Pose[] subframe_poses
        byte ADD=0
        byte REMOVE=1
        byte APPEND=2
        byte MOVE=3
        byte operation""",
}
_PARTS = ('std_msgs', 'geometry_msgs', 'shape_msgs', 'object_recognition_msgs')


def build() -> dict[str, str]:
    """Build and install the packages; return the environment that has all of them.

    Skips the test where they cannot be built.
    """
    if shutil.which('cmake') is None:
        pytest.skip('needs cmake to build messages')
    environment = dict(os.environ)
    for name, messages, dependencies in (
        ('vision_msgs', VISION, _PARTS[:1]),
        # With std_msgs come the generators that the last one needs of it, too.
        ('object_recognition_msgs', RECOGNITION, _PARTS[:1]),
        ('moveit_msgs', MOVEIT, _PARTS),
    ):
        with mock.patch.dict(os.environ, environment):
            environment.update(build_messages(name, messages, dependencies))
    return {
        name: environment[name] for name in ('PYTHONPATH', 'LD_LIBRARY_PATH', 'AMENT_PREFIX_PATH')
    }
