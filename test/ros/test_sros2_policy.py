"""The SROS 2 policy allows what the running node does, and nothing else."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from rclpy.action import get_action_server_names_and_types_by_node

ROOT = Path(__file__).resolve().parent.parent.parent
# Published only where vision_msgs or moveit_msgs is installed, and heard only with use_sim_time;
# /tf is published with broadcast_tf, and heard with target_frame.
SOMETIMES = {'/segzero/detections', '/segzero/detections_3d', '/clock', '/parameter_events'}
SOMETIMES |= {'/segzero/label_info', '/segzero/collision_objects', '/tf', '/tf_static'}


@pytest.fixture(scope='module')
def client(node_process, new_client):
    node_process(profile='offline', arguments=['-r', '__ns:=/segzero'])
    client = new_client('segzero')
    client.wait_for_server()
    client.wait_for_state('active')
    return client


@pytest.fixture(scope='module')
def profile():
    root = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml').getroot()
    assert root.find('enclaves/enclave').get('path') == '/segzero/perception'
    found = root.find('enclaves/enclave/profiles/profile')
    assert (found.get('ns'), found.get('node')) == ('/segzero', 'perception')
    return found


def allowed(profile, kind, verb):
    """Return the full names of what may be done."""
    names = [
        each.text
        for group in profile.findall(f'{kind}s')
        if group.get(verb) == 'ALLOW'
        for each in group
    ]
    return {name if name.startswith('/') else f'/segzero/{name}' for name in names}


def done(find):
    """Return the names of what the node does, without what belongs to actions."""
    return {name for name, _ in find('perception', '/segzero') if '/_action/' not in name}


def test_it_may_publish_and_hear_what_it_does_and_no_more(client, profile):
    node = client.node
    published = done(node.get_publisher_names_and_types_by_node)
    heard = done(node.get_subscriber_names_and_types_by_node)
    may_publish = allowed(profile, 'topic', 'publish')
    may_hear = allowed(profile, 'topic', 'subscribe')
    assert published <= may_publish
    assert may_publish - published <= SOMETIMES
    assert heard <= may_hear
    assert may_hear - heard <= SOMETIMES


def test_it_may_serve_what_it_does_and_no_more(client, profile):
    served = done(client.node.get_service_names_and_types_by_node)
    assert served == allowed(profile, 'service', 'reply')
    assert not allowed(profile, 'service', 'request')
    actions = get_action_server_names_and_types_by_node(client.node, 'perception', '/segzero')
    assert {name for name, _ in actions} == allowed(profile, 'action', 'execute')
