"""Queries of the ROS graph for the client: image topics, and what is there instead of the node."""

from __future__ import annotations

import os

from rclpy.action import get_action_names_and_types
from rclpy.node import Node

_IMAGE_TYPES = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}
# Last part of the topics on which the perception node publishes images.
_RESULT_TOPICS = ('overlay', 'label_image', 'class_image', 'confidence')


def camera_topics(node: Node) -> list[str]:
    """Return published image topics, except those with results."""
    return [
        topic
        for topic, types in node.get_topic_names_and_types()
        if _IMAGE_TYPES & set(types)
        and node.count_publishers(topic)
        and topic.rpartition('/')[2] not in _RESULT_TOPICS
    ]


def is_subscribed(node: Node, topic: str, namespace: str) -> bool:
    """Return whether the perception node in a namespace subscribes to a topic.

    Args:
        node: on the same graph.
        topic: full name.
        namespace: of the perception node.
    """
    infos = node.get_subscriptions_info_by_topic(topic)
    return any(
        (each.node_namespace, each.node_name) == (namespace, 'perception') for each in infos
    )


def node_identities(node: Node, namespace: str) -> set[bytes]:
    """Return what identifies the perception nodes in a namespace: one that restarts has another.

    Args:
        node: on the same graph.
        namespace: of the perception node.
    """
    infos = node.get_publishers_info_by_topic(f'{namespace.rstrip("/")}/result')
    return {
        bytes(each.endpoint_gid)
        for each in infos
        if (each.node_namespace, each.node_name) == (namespace, 'perception')
    }


def describe_graph(node: Node, namespace: str) -> str:
    """Return a sentence with the perception nodes, or else all nodes, that are on the graph.

    Args:
        node: the client's, which is not listed.
        namespace: where no perception node was found.
    """
    others = sorted(
        name.removesuffix('/segment') or '/'
        for name, types in get_action_names_and_types(node)
        if 'segzero_ros/action/Segment' in types and not name.startswith(namespace + '/')
    )
    if others:
        return f'There are perception nodes in {", ".join(others)}.'
    own = node.get_fully_qualified_name()
    nodes = sorted(
        f'{space.rstrip("/")}/{name}' for name, space in node.get_node_names_and_namespaces()
    )
    nodes = [name for name in nodes if name != own]
    found = f'The graph contains {", ".join(nodes)}' if nodes else 'The graph is empty'
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    return (
        f'{found} (ROS_DOMAIN_ID {domain}). Start one with '
        '`ros2 launch segzero_ros perception.launch.py`.'
    )
