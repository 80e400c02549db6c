"""The grasp example: right on generated scenes, and with the real node and a simulated camera."""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
from pathlib import Path
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile

from segzero_ros.rotations import matrix_from_quaternion
from segzero_ros.simulation import make_scene
from segzero_ros.simulation.scenes import Scene, SceneObject
from segzero_ros.spatial import lift
from segzero_ros.spatial.clouds import cloud_of
from segzero_ros.types import Roi, Segment

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / 'examples' / 'grasp_client.py'
SEEDS = range(730000, 730040)
# What stands or lies on the table as a box or a cylinder.
SOLIDS = ('bottle', 'box', 'book', 'can')


@pytest.fixture(scope='module')
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location('grasp_client', EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules['grasp_client'] = module
    spec.loader.exec_module(module)
    return module


def graspable(scene: Scene, width: float) -> Iterator[tuple[int, SceneObject]]:
    for index, item in enumerate(scene.objects):
        seen = not item.clutter and item.visible >= 0.6 and item.area >= 300
        if seen and item.kind in SOLIDS and min(item.pose.size[:2]) < width:
            yield index, item


def off(grasp: Any, item: SceneObject) -> tuple[float, float]:
    """Return the metres to the object's centre, and the degrees to its long axis."""
    distance = float(np.linalg.norm(grasp.position - np.array(item.pose.position)))
    x, y = item.pose.size[:2]
    if item.round:
        return distance, 0.0
    axes = matrix_from_quaternion(item.pose.orientation)
    cosine = abs(grasp.axes[:, 0] @ axes[:, 0 if x > y else 1])
    angle = float(np.degrees(np.arccos(min(cosine, 1.0))))
    # A square has no long side.
    return distance, min(angle, 90 - angle) if max(x, y) < 1.15 * min(x, y) else angle


def test_grasps_are_at_the_centre_and_along_the_long_side(example: ModuleType) -> None:
    near, widths = [], []
    for seed in SEEDS:
        scene = make_scene(seed, sentences=False)
        for index, item in graspable(scene, example.MAX_WIDTH):
            mask = scene.mask(index)
            roi = Roi.around(mask)
            segment = Segment(1, '', 1.0, roi, (), roi, mask[roi.slices].copy())
            cloud, (pose, _) = cloud_of(scene.frame, (segment,)), lift(mask, scene.frame)
            assert cloud is not None
            assert pose is not None
            xyz = np.empty((3, *mask.shape), np.float32)
            cloud.write_rows(0, len(mask), xyz)
            own = xyz[:, cloud.object_ids == 1].T.astype(float)
            grasp = example.top_down_grasp(own, matrix_from_quaternion(pose.orientation)[:, 2])
            assert np.allclose(grasp.axes.T @ grasp.axes, np.eye(3))
            assert np.linalg.det(grasp.axes) == pytest.approx(1)
            distance, angle = off(grasp, item)
            near.append(distance <= 0.01 and angle <= 10)
            widths.append(grasp.width - min(item.pose.size[:2]))
    assert len(near) >= 40
    assert np.mean(near) >= 0.95
    assert np.median(np.abs(widths)) < 0.005


def test_too_few_points_are_no_shape(example: ModuleType) -> None:
    with pytest.raises(ValueError, match='5 points'):
        example.top_down_grasp(np.zeros((5, 3)), np.array([0.0, 0.0, 1.0]))


def scene_with_one_can() -> tuple[int, SceneObject]:
    """Return a scene's seed and its only can, which is well visible and narrow enough."""
    for seed in range(100):
        scene = make_scene(seed, sentences=False)
        cans = [item for item in scene.objects if item.kind == 'can']
        if len(cans) == 1 and [item for _, item in graspable(scene, 0.08)].count(cans[0]):
            return seed, cans[0]
    raise AssertionError


def test_a_user_goes_from_the_question_to_a_grasp(node_process: Any, new_client: Any) -> None:
    seed, can = scene_with_one_can()
    space = ['-r', '__ns:=/arm']
    node = node_process(profile='offline', arguments=space)
    node_process(
        {'source': 'scene', 'item': f'scene_{seed}', 'rate': 5},
        script=ROOT / 'scripts' / 'camera_sim',
        arguments=space,
    )
    client = new_client('arm')
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    grasps = client.listen(PoseStamped, 'grasp_pose', latched)
    client.wait_for_server()
    client.until(lambda: client.once('the can').objects, 'the camera and the node see a can')
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), 'the can', '--ros-args', *space],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r'grasp at \((.*)\), (.*) cm between the fingers\n', done.stdout)
    assert found
    assert float(found[2]) == pytest.approx(100 * min(can.pose.size[:2]), abs=0.6)
    position = np.array([float(value) for value in found[1].split(', ')])
    assert np.linalg.norm(position - can.pose.position) < 0.01
    at = grasps.wait_for().pose.position
    assert np.allclose((at.x, at.y, at.z), position, atol=0.001)
    assert node.running
    assert client.set_parameter('target_frame', 'nowhere') == (True, '')
    lost = subprocess.run(
        [sys.executable, str(EXAMPLE), 'the can', '--ros-args', *space],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert lost.returncode == 1
    assert 'nowhere' in lost.stdout
    missing = subprocess.run(
        [sys.executable, str(EXAMPLE), 'the blue elephant', '--ros-args', *space],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert missing.returncode == 1
    assert 'elephant' in missing.stdout
