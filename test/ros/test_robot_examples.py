"""The examples for cameras, Nav2 and behaviour trees name what the node and the drivers have."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

from geometry_msgs.msg import PoseStamped
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
import yaml

from segzero_ros.action import Segment
from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.msg import SegmentedObject

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / 'examples'
# The parameters of Nav2 1.4's following server, by their type.
FOLLOWING = {
    'controller_frequency': float,
    'detection_timeout': float,
    'rotate_to_object_timeout': float,
    'static_object_timeout': float,
    'linear_tolerance': float,
    'angular_tolerance': float,
    'max_retries': int,
    'base_frame': str,
    'fixed_frame': str,
    'desired_distance': float,
    'skip_orientation': bool,
    'search_by_rotating': bool,
    'search_angle': float,
    'transform_tolerance': float,
    'odom_topic': str,
    'odom_duration': float,
    'filter_coef': float,
}
TYPES = {
    'string': 'std::string',
    'uint8': 'unsigned char',
    'sequence<segzero_ros/SegmentedObject>': ('std::vector<segzero_ros::msg::SegmentedObject>'),
}


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node({'track': True}, arguments=['-r', '__ns:=/segzero'])


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client('segzero')
    client.wait_for_server()
    client.wait_for_state('active')
    client.picture = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)
    return client


def test_nav2_follows_a_topic_that_the_node_has(client) -> None:
    path = EXAMPLES / 'nav2' / 'follow_object.yaml'
    text = path.read_text()
    parameters = yaml.safe_load(text)['following_server']['ros__parameters']
    assert {name: type(value) for name, value in parameters.items()} == {
        name: FOLLOWING[name] for name in parameters
    }
    (topic,) = re.findall(r'pose_topic: (\S+?)\.? ', text)
    types = dict(client.node.get_topic_names_and_types())[topic]
    assert types == ['geometry_msgs/msg/PoseStamped']
    # Nav2 reads it with a volatile, reliable subscription.
    (offered,) = client.node.get_publishers_info_by_topic(topic)
    assert offered.qos_profile.reliability.name == 'RELIABLE'
    assert PoseStamped.__name__ in types[0]


def test_the_tree_for_behaviortree_cpp_has_the_ports_of_the_action(client) -> None:
    tree = ElementTree.parse(EXAMPLES / 'behavior_trees' / 'find_and_follow.xml').getroot()
    assert tree.get('BTCPP_format') == '4'
    models = {model.get('ID'): model for model in tree.find('TreeNodesModel')}
    for name, model in models.items():
        ports = {port.get('name') for port in model}
        for used in tree.find('BehaviorTree').iter(name):
            assert set(used.attrib) <= ports
    fields = Result.get_fields_and_field_types() | Segment.Goal.get_fields_and_field_types()
    ports = {port.get('name'): port for port in models['FindObject']}
    action = ports.pop('action_name').get('default')
    assert action == '/segzero/segment'
    assert client.action.server_is_ready()
    for name, port in ports.items():
        assert port.get('type') == TYPES[fields[name]]
    assert SegmentedObject.__name__ in ports['objects'].get('type')


@pytest.fixture(scope='module')
def find_object():
    pytest.importorskip('py_trees')
    path = EXAMPLES / 'behavior_trees' / 'find_object.py'
    spec = importlib.util.spec_from_file_location('find_object', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ('query', 'code', 'said'), [('a thing', 0, 'found 1'), ('explode', 1, 'exploded as told')]
)
@pytest.mark.usefixtures('client', 'find_object')
def test_the_tree_of_py_trees_runs(query: str, code: int, said: str) -> None:
    path = EXAMPLES / 'behavior_trees' / 'find_object.py'
    done = subprocess.run(
        [sys.executable, str(path), query, '--ros-args', '-r', '__ns:=/segzero'],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr


def test_a_tree_that_goes_elsewhere_stops_the_models(client, find_object) -> None:
    import py_trees

    executor = SingleThreadedExecutor(context=client.node.context)
    node = rclpy.create_node('tree', namespace='segzero', context=client.node.context)
    executor.add_node(node)
    find = find_object.FindObject('find', node, 'count for ever')
    client.reasoning.forget()
    client.results.forget()

    def asked() -> bool:
        find.tick_once()
        executor.spin_once(0.1)
        assert find.status is py_trees.common.Status.RUNNING
        return len(client.reasoning) > 0

    client.until(asked)
    find.stop(py_trees.common.Status.INVALID)
    client.until(lambda: executor.spin_once(0.1) or client.results)
    assert client.results[0].status == Result.CANCELED
    executor.shutdown()
    node.destroy_node()
