"""RViz finds where the simulated camera is: its optical frame, in its body's, on /tf_static."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from transform_messages import tf2_msgs_environment

from segzero_ros.replay.bag import BagWriter
from segzero_ros.ros.camera_sim.messages import image_message

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'camera_sim'
LISTENER = Path(__file__).resolve().parent / 'tf_listener.py'
SCENE = {'source': 'scene', 'item': 'scene_3'}
LINE = r'^{} {} (\S+) (\S+) (\S+) (\S+)$'

Start = Callable[..., Any]


@pytest.fixture(scope='module')
def tf2_msgs() -> dict[str, str]:
    """The environment with tf2_msgs."""
    return tf2_msgs_environment()


@pytest.fixture(scope='module')
def start(node_process: Start, tf2_msgs: dict[str, str]) -> Start:
    """Give a function that starts a camera, and one that listens in the same namespace."""

    def start(space: str, parameters: dict[str, Any]) -> tuple[Any, Any]:
        # A /tf_static of its own for each camera.
        space = ['-r', f'__ns:=/{space}', '-r', f'/tf_static:=/{space}/tf_static']
        options = {'arguments': space, 'environment': tf2_msgs}
        camera = node_process(parameters, script=SCRIPT, **options)
        return camera, node_process(script=LISTENER, **options)

    return start


def rotation(match: re.Match[str]) -> np.ndarray:
    x, y, z, w = map(float, match.groups())
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_the_optical_frame_looks_along_the_bodys_x_with_its_y_down(start: Start) -> None:
    _, listener = start('turned', SCENE)
    line = LINE.format('camera_link', 'camera_color_optical_frame')
    found = re.search(line, listener.wait_for_output(line), re.MULTILINE)
    assert found is not None
    right, down, ahead = rotation(found).T
    assert ahead.tolist() == [1, 0, 0]
    assert right.tolist() == [0, -1, 0]
    assert down.tolist() == [0, 0, -1]


def test_it_is_there_for_who_comes_late_and_follows_changed_names(
    start: Start, node_process: Start, new_client: Start, tf2_msgs: dict[str, str]
) -> None:
    _, listener = start('late', SCENE)
    listener.wait_for_output('camera_link camera_color_optical_frame')
    client = new_client('late', 'camera_sim')
    assert client.set_parameter('frame_id', 'left_eye') == (True, '')
    listener.wait_for_output('camera_link left_eye')
    assert client.set_parameter('parent_frame', 'head') == (True, '')
    listener.wait_for_output('head left_eye')
    newcomer = node_process(
        script=LISTENER, arguments=['-r', '/tf_static:=/late/tf_static'], environment=tf2_msgs
    )
    newcomer.wait_for_output('head left_eye')
    newcomer.wait_for_output('camera_link camera_color_optical_frame')


def test_a_bags_own_frame_is_placed_too(start: Start, tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        header = Header(frame_id='recorded_optical_frame')
        message = image_message(np.zeros((4, 4, 3), np.uint8), 'rgb8', header)
        writer.write('/image', serialize_message(message), 1_000_000_000)
    _, listener = start('played', {'source': 'bag', 'path': str(tmp_path / 'bag')})
    listener.wait_for_output('camera_link recorded_optical_frame')


@pytest.mark.parametrize(
    ('space', 'parameters'),
    [('none', {'parent_frame': ''}), ('same', {'frame_id': 'eye', 'parent_frame': 'eye'})],
)
def test_no_frame_is_placed_where_none_is_wanted_or_in_itself(
    node_process: Start,
    new_client: Start,
    tf2_msgs: dict[str, str],
    space: str,
    parameters: dict[str, str],
) -> None:
    arguments = ['-r', f'__ns:=/{space}', '-r', f'/tf_static:=/{space}/tf_static']
    camera = node_process(
        {**SCENE, **parameters}, script=SCRIPT, arguments=arguments, environment=tf2_msgs
    )
    client = new_client(space, 'camera_sim')
    client.listen(Image, 'image', 10).wait_for_count(3)
    assert client.node.count_publishers(f'/{space}/tf_static') == 0
    assert 'tf2_msgs' not in camera.output


@pytest.mark.skipif(find_spec('tf2_msgs') is not None, reason='tf2_msgs is installed')
def test_without_tf2_msgs_a_line_says_so_once_and_the_images_come(
    node_process: Start, new_client: Start
) -> None:
    camera = node_process(SCENE, script=SCRIPT, arguments=['-r', '__ns:=/bare'])
    new_client('bare', 'camera_sim').listen(Image, 'image', 10).wait_for_count(3)
    (line,) = [each for each in camera.output.splitlines() if 'tf2_msgs' in each]
    assert 'fixed_frame:=camera_color_optical_frame' in line
