"""Costmaps and planning scenes take what the running node publishes, as a foreign program does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from scene_messages import build
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from transform_messages import Robot, stamped, tf2_msgs_environment

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    depth_message,
    image_message,
)
from segzero_ros.ros.message_factory import to_ns
from segzero_ros.rotations import matrix_from_quaternion
from segzero_ros.simulation import make_scene
from segzero_ros.srv import SegmentOnce
from segzero_ros.types import Frame, Intrinsics

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = Path(__file__).resolve().parent / 'foreign_scene_client.py'
WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope='module')
def environment() -> dict[str, str]:
    """Give the environment in which vision_msgs, moveit_msgs and tf2_msgs are installed."""
    with mock.patch.dict(os.environ, tf2_msgs_environment()):
        installed = build()
    # The checkout first, as for every node.
    return {**installed, 'PYTHONPATH': f'{ROOT}:{installed["PYTHONPATH"]}'}


class DepthCamera:
    """Shows one frame again and again, with the present time."""

    def __init__(self, client: Any, frame: Frame) -> None:
        self.frame = frame
        self._node = client.node
        self._image = client.node.create_publisher(Image, 'image', 5)
        self._depth = client.node.create_publisher(Image, 'depth', 5)
        self._info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
        client.node.create_timer(0.1, self._show)

    def _show(self) -> None:
        header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id='optical')
        frame = self.frame
        self._info.publish(camera_info_message(frame.intrinsics, header))
        self._image.publish(image_message(frame.image, 'rgb8', header))
        self._depth.publish(depth_message(frame.depth, '16UC1', header))


class Foreign:
    """The foreign program's process, and what it printed."""

    def __init__(self, process: Any, topics: tuple[str, ...], client: Any) -> None:
        self.process = process
        client.until(
            lambda: all(client.node.count_subscribers(topic) for topic in topics), 'it subscribes'
        )

    def lines(self, topic: str) -> list[dict[str, Any]]:
        found = (json.loads(line) for line in self.process.output.splitlines() if line[:1] == '{')
        return [line for line in found if line['topic'] == topic]

    def scene(self) -> dict[str, dict[str, Any]]:
        """Return what a planning scene has, by the objects' names."""
        scene: dict[str, dict[str, Any]] = {}
        for line in self.lines('collision_objects'):
            name = line['id']
            if line['operation'] == 'ADD':
                scene[name] = line
            elif line['operation'] == 'REMOVE':
                scene.pop(name, None)
            elif name in scene:
                assert line['operation'] == 'MOVE'
                changed = {key: line[key] for key in ('stamp', 'position', 'orientation')}
                scene[name] = {**scene[name], **changed}
        return scene

    def wait_for(self, topic: str, stamp: int, **fields: Any) -> dict[str, Any]:
        """Return the line about a topic with this stamp and these fields."""
        wanted = {'topic': topic, 'stamp': stamp, **fields}
        parts = [json.dumps({name: value})[1:-1] for name, value in wanted.items()]
        pattern = ''.join(f'(?=.*{part})' for part in map(escape, parts))
        return json.loads(self.process.wait_for_output(pattern))


def escape(text: str) -> str:
    return ''.join(f'\\{each}' if each in '[](){}.*+?^$|' else each for each in text)


def stamp_of(result: Result) -> int:
    return to_ns(result.header.stamp)


# Masks for costmaps

MASKS = ('label_info', 'label_image', 'class_image', 'confidence', 'points')


@pytest.fixture(scope='module')
def masks(scripted_node, node_process, new_client, environment, red_and_blue):
    scripted_node({}, arguments=['-r', '__ns:=/masks'], environment=environment)
    client = new_client('masks')
    client.wait_for_server()
    client.wait_for_state('active')
    depth = np.full((HEIGHT, WIDTH), 0.8, np.float32)
    intrinsics = Intrinsics(300.0, 300.0, 159.5, 119.5, WIDTH, HEIGHT)
    client.eye = DepthCamera(client, Frame(red_and_blue, 1, 'optical', depth, intrinsics))
    client.until(lambda: client.once('name ready').status == Result.OK, 'a frame')
    process = node_process(
        script=FOREIGN, arguments=['-r', '__ns:=/masks'], environment=environment
    )
    client.foreign = foreign = Foreign(process, MASKS, client)
    client.until(
        lambda: client.once('name ready') and all(map(foreign.lines, MASKS)), 'all topics arrive'
    )
    return client


@pytest.fixture
def standing(masks):
    """Give what sets the standing query; nothing stands before and after."""

    def stand(text: str) -> None:
        taken, reason = masks.set_parameter('standing_query.text', text)
        assert taken, reason

    yield stand
    stand('')
    assert masks.set_parameter('label_encoding', 'mono16')[0]


def expected(result: Result) -> dict[str, int]:
    """Return the number of pixels of each id, as the foreign program counts them."""
    counts = {str(found.id): int(np.count_nonzero(found.mask.data)) for found in result.objects}
    return in_order({'0': WIDTH * HEIGHT - sum(counts.values()), **counts})


def in_order(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


@pytest.mark.parametrize('encoding', ['mono16', 'mono8'])
def test_every_value_of_a_label_image_was_named_before_it_came(masks, standing, encoding) -> None:
    assert masks.set_parameter('label_encoding', encoding)[0]
    for names in ('cup, plate', 'plate, cup', 'fork', f'knife, {encoding}, cup'):
        result = masks.once(f'name {names}')
        image = masks.foreign.wait_for('label_image', stamp_of(result), values=expected(result))
        assert image['encoding'] == encoding
        assert image['named']
        assert image['frame'] == 'optical'
        labels = masks.foreign.lines('label_info')[-1]['labels']
        assert labels['0'] == 'background'
        for found in result.objects:
            assert labels[str(found.id)] == found.label


def test_the_cloud_has_the_objects_where_the_label_image_has_them(masks, standing) -> None:
    standing('name cup')
    masks.once('name fork, cup')
    result = masks.once('name cup, plate')
    cloud = masks.foreign.wait_for('points', stamp_of(result), values=expected(result), same=True)
    assert cloud['measured'] == WIDTH * HEIGHT


def test_a_label_keeps_its_id_while_there_is_a_standing_query(masks, standing) -> None:
    standing('name cup')
    ids: dict[str, int] = {}
    for names in ('cup, plate', 'plate, spoon, cup', 'spoon', 'cup, glass, plate'):
        result = masks.once(f'name {names}')
        assert [found.label for found in result.objects] == names.split(', ')
        for found in result.objects:
            assert ids.setdefault(found.label, found.id) == found.id
        assert len({found.id for found in result.objects}) == len(result.objects)
        image = masks.foreign.wait_for('label_image', stamp_of(result), values=expected(result))
        assert image['named']
    infos = masks.foreign.lines('label_info')
    assert all(infos[-1]['classes'][label] == number for label, number in ids.items())


def test_all_objects_of_a_label_are_one_class_in_the_class_image(masks, standing) -> None:
    assert masks.set_parameter('label_encoding', 'mono8')[0]
    standing('name cup')
    masks.once('name cup')
    result = masks.once('name dish, cup, dish, dish')
    counts = expected(result)
    masks.foreign.wait_for('label_image', stamp_of(result), values=counts)
    classes = masks.foreign.lines('label_info')[-1]['classes']
    cup, *dishes = (counts[str(result.objects[index].id)] for index in (1, 0, 2, 3))
    values = {'0': counts['0'], str(classes['cup']): cup, str(classes['dish']): sum(dishes)}
    image = masks.foreign.wait_for('class_image', stamp_of(result), values=in_order(values))
    assert image['encoding'] == 'mono8'
    assert image['named']


def test_confidence_is_the_score_of_the_object_at_each_pixel(masks, standing) -> None:
    result = masks.once('name cup, plate')
    counts = expected(result)
    values = {'0': counts['0'], '255': counts['1'] + counts['2']}
    image = masks.foreign.wait_for('confidence', stamp_of(result), values=values)
    assert image['encoding'] == 'mono8'


def test_an_answer_without_masks_clears_no_costmap(masks) -> None:
    masks.foreign.wait_for('class_image', stamp_of(masks.once('name cup, plate')))
    before = {topic: len(masks.foreign.lines(topic)) for topic in MASKS}
    for task in ('detect', 'count', 'answer', 'point'):
        request = SegmentOnce.Request(query='name bowl, fork', task=task)
        result = masks.call(SegmentOnce, 'segment_once', request).result
        assert result.status == Result.OK
        # The frame's points come all the same.
        masks.foreign.wait_for('points', stamp_of(result))
    result = masks.once('name cup, plate')
    masks.foreign.wait_for('confidence', stamp_of(result))
    for topic in MASKS[:4]:
        for line in masks.foreign.lines(topic)[before[topic] :]:
            assert line.get('values') != {'0': WIDTH * HEIGHT}, 'it says that nothing is there'
            assert topic != 'label_info', 'there are other labels'


def test_ids_count_up_again_without_a_standing_query(masks, standing) -> None:
    standing('name cup')
    masks.once('name cup, plate, tray')
    standing('')
    result = masks.once('name tray, cup')
    assert [found.id for found in result.objects] == [1, 2]
    image = masks.foreign.wait_for('label_image', stamp_of(result), values=expected(result))
    assert image['named']


def test_a_costmap_that_starts_later_has_the_labels(
    masks, standing, node_process, environment
) -> None:
    result = masks.once('name cup, plate')
    masks.foreign.wait_for('label_image', stamp_of(result), values=expected(result))
    process = node_process(
        script=FOREIGN, arguments=['-r', '__ns:=/masks'], environment=environment
    )
    line = json.loads(process.wait_for_output('"topic": "label_info"'))
    assert (line['labels']['1'], line['labels']['2']) == ('cup', 'plate')
    process.kill()


# The planning scene

ALL, PLATES, NOTHING = 'all objects', 'find all the plates', 'the orange cup'
ONE = 'where is the brown object?'


@pytest.fixture(scope='module')
def planning(node_process, new_client, environment):
    node = node_process(
        {'track': False},
        profile='offline',
        arguments=['-r', '__ns:=/planning'],
        environment=environment,
    )
    client = new_client('planning')
    client.wait_for_server()
    client.wait_for_state('active')
    client.process = node
    client.scene = make_scene(7, width=WIDTH, height=HEIGHT, sentences=False)
    client.eye = DepthCamera(client, client.scene.frame)
    client.until(lambda: client.once(NOTHING).status == Result.NOT_FOUND, 'a frame')
    process = node_process(
        script=FOREIGN, arguments=['-r', '__ns:=/planning'], environment=environment
    )
    client.foreign = foreign = Foreign(process, ('collision_objects',), client)
    client.until(lambda: client.once(ALL) and foreign.scene(), 'objects arrive')
    return client


@pytest.fixture(autouse=True)
def as_before(request):
    """Leave an empty scene and the parameters of the start."""
    yield
    if 'planning' in request.fixturenames:
        client = request.getfixturevalue('planning')
        assert client.set_parameter('track', False)[0]
        assert client.set_parameter('target_frame', '')[0]
        assert client.set_parameter('advanced.leave_out_target', False)[0]
        assert client.once(NOTHING).status == Result.NOT_FOUND
        wait_for_scene(client, set())


def wait_for_scene(client: Any, names: set[str]) -> dict[str, Any]:
    """Return the planning scene as soon as these objects are in it and no others."""
    return client.until(
        lambda: (scene := client.foreign.scene()).keys() == names and (scene or True),
        f'the scene has {names}',
    )


def names_of(result: Result) -> set[str]:
    return {f'object_{found.id}' for found in result.objects}


def as_list(vector: Any) -> list[float]:
    return [getattr(vector, name) for name in 'xyzw' if hasattr(vector, name)]


def test_each_object_is_a_box_where_it_is_and_the_table_is_the_support(planning) -> None:
    result = planning.once(ALL)
    assert len(result.objects) > 3
    scene = wait_for_scene(planning, {*names_of(result), 'support'})
    for found in result.objects:
        box = scene[f'object_{found.id}']
        assert (box['frame'], box['label']) == ('optical', found.label)
        assert box['position'] == as_list(found.pose.position)
        assert box['orientation'] == as_list(found.pose.orientation)
        assert (box['boxes'], box['shapes']) == ([as_list(found.size)], 1)
        assert box['offsets'] == [[0, 0, 0, 1]]
    support = scene['support']
    axes = matrix_from_quaternion(tuple(support['orientation']))
    ((length, width, height),) = support['boxes']
    for item in planning.scene.objects:
        rotation = matrix_from_quaternion(item.pose.orientation)
        bottom = np.array(item.pose.position) - rotation[:, 2] * item.pose.size[2] / 2
        across, along, above = (bottom - support['position']) @ axes
        assert above == pytest.approx(height / 2, abs=0.006)
        assert abs(across) < length / 2
        assert abs(along) < width / 2


def test_what_the_next_answer_has_not_is_removed(planning) -> None:
    many = planning.once(ALL)
    wait_for_scene(planning, {*names_of(many), 'support'})
    two = planning.once(PLATES)
    assert 0 < len(two.objects) < len(many.objects)
    scene = wait_for_scene(planning, {*names_of(two), 'support'})
    first = scene['object_1']
    assert first['position'] == as_list(two.objects[0].pose.position)
    assert planning.once(NOTHING).status == Result.NOT_FOUND
    wait_for_scene(planning, set())


def test_an_answer_without_masks_leaves_the_scene_as_it_is(planning) -> None:
    assert planning.once(NOTHING).status == Result.NOT_FOUND
    wait_for_scene(planning, set())
    result = planning.once(PLATES)
    before = wait_for_scene(planning, {*names_of(result), 'support'})
    request = SegmentOnce.Request(query='the brown object', task='detect')
    detected = planning.call(SegmentOnce, 'segment_once', request).result
    assert (detected.status, detected.task) == (Result.OK, Result.DETECT)
    # What is published for a query comes before the next result.
    again = planning.once(PLATES)
    added = f'"stamp": {stamp_of(again)}.*"id": "object_2", "operation": "ADD"'
    planning.foreign.process.wait_for_output(added)
    assert planning.foreign.scene().keys() == before.keys()
    lines = planning.foreign.lines('collision_objects')
    (first, *_), last = (
        [number for number, line in enumerate(lines) if line['stamp'] == stamp_of(each)]
        for each in (result, again)
    )
    assert not [line for line in lines[first : last[-1]] if line['operation'] == 'REMOVE']


def test_tracked_objects_move_and_stay_the_same(planning) -> None:
    assert planning.set_parameter('track', True)[0]
    result = planning.once(PLATES)
    later = stamp_of(result) + 300_000_000

    def moved() -> list[dict[str, Any]]:
        lines = planning.foreign.lines('collision_objects')
        return [line for line in lines if line['id'] == 'object_1' and line['stamp'] > later]

    planning.until(moved, 'tracked frames arrive')
    line = moved()[0]
    assert (line['operation'], line['shapes'], line['offsets']) == ('MOVE', 0, [])
    assert line['position'] == pytest.approx(as_list(result.objects[0].pose.position), abs=0.01)
    scene = wait_for_scene(planning, {*names_of(result), 'support'})
    assert scene['object_1']['boxes'] == [as_list(result.objects[0].size)]


def test_the_target_can_be_left_out(planning) -> None:
    result = planning.once(PLATES)
    wait_for_scene(planning, {'object_1', 'object_2', 'support'})
    assert planning.set_parameter('advanced.leave_out_target', True)[0]
    assert names_of(planning.once(PLATES)) == names_of(result)
    wait_for_scene(planning, {'object_2', 'support'})
    one = planning.once(ONE)
    assert len(one.objects) == 1
    wait_for_scene(planning, {'support'})


@pytest.mark.parametrize('arguments', [[], ['volatile']], ids=['latched', 'as MoveIt'])
def test_a_planner_that_starts_later_gets_the_whole_scene(
    planning, node_process, environment, arguments
) -> None:
    result = planning.once(PLATES)
    scene = wait_for_scene(planning, {*names_of(result), 'support'})
    process = node_process(
        script=FOREIGN,
        arguments=['-r', '__ns:=/planning', '--', *arguments],
        environment=environment,
    )
    other = Foreign(process, (), planning)
    planning.until(lambda: other.scene() == scene, 'the scene arrives')
    process.kill()


def test_the_scene_is_in_the_target_frame(planning) -> None:
    robot = Robot(planning.node)
    # The camera is 0.3 m before and 1.2 m above the base's origin and looks ahead, REP 103.
    robot.fix(stamped('base_link', 'optical', 0, (0.3, 0.0, 1.2), (-0.5, 0.5, -0.5, 0.5)))
    assert planning.set_parameter('target_frame', 'base_link')[0]
    planning.until(robot.heard, 'the node subscribes to transforms')
    planning.until(
        lambda: planning.once(PLATES) and planning.foreign.scene(), 'there is a transform'
    )
    result = planning.once(PLATES)
    planning.foreign.wait_for('collision_objects', stamp_of(result), id='support')
    scene = wait_for_scene(planning, {*names_of(result), 'support'})
    assert {box['frame'] for box in scene.values()} == {'base_link'}
    for found in result.objects:
        x, y, z = as_list(found.pose.position)
        expected_place = pytest.approx([z + 0.3, -x, 1.2 - y], abs=1e-6)
        assert scene[f'object_{found.id}']['position'] == expected_place
    support = scene['support']
    up = matrix_from_quaternion(tuple(support['orientation']))[:, 2]
    ((_, _, height),) = support['boxes']
    for item in planning.scene.objects:
        rotation = matrix_from_quaternion(item.pose.orientation)
        x, y, z = np.array(item.pose.position) - rotation[:, 2] * item.pose.size[2] / 2
        above = (np.array([z + 0.3, -x, 1.2 - y]) - support['position']) @ up
        assert above == pytest.approx(height / 2, abs=0.006)
    robot.leave()
