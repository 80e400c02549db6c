"""RViz's displays and Foxglove's layout show topics that the node has, of their types."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import re
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RVIZ = ROOT / 'rviz' / 'perception.rviz'
FOXGLOVE = ROOT / 'config' / 'foxglove_layout.json'
# What each display and panel can show; None: anything.
DISPLAYS = {
    'MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'Image': 'sensor_msgs/msg/Image',
    'PointCloud2': 'sensor_msgs/msg/PointCloud2',
    'Pose': 'geometry_msgs/msg/PoseStamped',
}
PANELS = {
    '3D': {
        'visualization_msgs/msg/MarkerArray',
        'sensor_msgs/msg/PointCloud2',
        'geometry_msgs/msg/PoseStamped',
    },
    'Image': {'sensor_msgs/msg/Image'},
    'RawMessages': None,
    'DiagnosticSummary': {'diagnostic_msgs/msg/DiagnosticArray'},
    'RosOut': {'rcl_interfaces/msg/Log'},
}


@pytest.fixture(scope='module')
def published(node_process: Any, new_client: Any) -> dict[str, str]:
    """Return the topics of a node in the launch file's namespace, with their types."""
    node_process(profile='offline', arguments=['-r', '__ns:=/segzero'])
    client = new_client('/segzero')
    client.wait_for_server()
    client.wait_for_state('active', 120)
    # A node's name comes apart from its topics.
    known = client.node.get_node_names_and_namespaces
    client.until(lambda: ('perception', '/segzero') in known(), 'the node is known by its name')
    names = client.node.get_publisher_names_and_types_by_node('perception', '/segzero')
    return {topic: types[0] for topic, types in names}


def displays() -> dict[str, dict[str, Any]]:
    """Return RViz's displays that have a topic, by the topic."""
    config = yaml.safe_load(RVIZ.read_text())['Visualization Manager']['Displays']
    return {one['Topic']['Value']: one for one in config if 'Topic' in one}


def panels() -> Iterator[tuple[str, str]]:
    """Yield each panel's kind and topics."""
    for name, config in json.loads(FOXGLOVE.read_text())['configById'].items():
        kind = name.partition('!')[0]
        topics = [*config.get('topics', {}), config.get('imageMode', {}).get('imageTopic')]
        topics += [config.get('topicPath'), config.get('topicToRender')]
        for topic in filter(None, topics):
            yield kind, topic.partition('.')[0]


def test_rviz_shows_what_the_node_publishes(published: dict[str, str]) -> None:
    assert len(displays()) == 6
    for topic, display in displays().items():
        kind = display['Class'].partition('/')[2]
        assert published.get(topic) == DISPLAYS[kind], topic


def test_rviz_shows_clouds_in_colour_and_the_large_one_only_when_switched_on() -> None:
    clouds = {name: displays()[f'/segzero/{name}'] for name in ('points', 'object_points')}
    assert {cloud['Color Transformer'] for cloud in clouds.values()} == {'RGB8'}
    assert [clouds[name]['Enabled'] for name in ('points', 'object_points')] == [False, True]
    config = yaml.safe_load(RVIZ.read_text())['Visualization Manager']['Displays']
    (frames,) = (one for one in config if one['Class'].endswith('/TF'))
    assert frames['Enabled']


def test_foxglove_shows_what_the_node_publishes(published: dict[str, str]) -> None:
    shown = list(panels())
    assert {kind for kind, _ in shown} == set(PANELS)
    for kind, topic in shown:
        assert topic in published, topic
        assert PANELS[kind] is None or published[topic] in PANELS[kind], topic
    topics = {topic for _, topic in shown}
    assert {f'/segzero/{name}' for name in ('overlay', 'points', 'status', 'result')} < topics


def test_every_panel_of_foxglove_has_one_place() -> None:
    layout = json.loads(FOXGLOVE.read_text())
    placed = re.findall(r'"(?:first|second)": "([^"]+)"', json.dumps(layout['layout']))
    assert sorted(placed) == sorted(layout['configById'])
    clouds = layout['configById']['3D!segzero']['topics']
    assert not clouds['/segzero/points']['visible']
    assert clouds['/segzero/object_points']['visible']
