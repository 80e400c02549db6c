"""Access to private names of rclpy, where it has no public way.

Each name is looked up when a node or client is created. With a release of rclpy that lacks it, the
program then stops with a clear message, instead of failing in the first query.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
import os
from typing import Any

from segzero_ros.types import SegZeroError


class UnsupportedRclpy(SegZeroError, RuntimeError):
    """This release of rclpy lacks a required private name; the text gives it."""


def private(owner: Any, name: str) -> Any:
    """Return a private attribute of an rclpy class or object.

    Args:
        owner: the class, or the object.
        name: of the attribute, mangled if Python mangles it.

    Raises:
        UnsupportedRclpy: there is no such attribute.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = owner if isinstance(owner, type) else type(owner)
        raise UnsupportedRclpy(
            f'{_release()} has no {kind.__name__}.{name}, which segzero_ros needs: use a '
            'release of rclpy that has it (7.1 of Jazzy and 9.1 of Kilted do), or a newer '
            'segzero_ros.'
        ) from None


def _release() -> str:
    """Return the release of rclpy, such as `rclpy 7.1.6 (jazzy)`."""
    distro = os.environ.get('ROS_DISTRO', '')
    try:
        release = f'rclpy {version("rclpy")}'
    except PackageNotFoundError:
        release = 'This rclpy'
    return f'{release} ({distro})' if distro else release
