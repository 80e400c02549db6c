"""What this package takes from rclpy's inside, where rclpy offers no public way.

Each such name is asked for here when a node or client is made. A release of rclpy without it then
ends the program with a sentence that names it, and not a query in a traceback.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
import os
from typing import Any

from segzero_ros.types import SegZeroError


class UnsupportedRclpy(SegZeroError, RuntimeError):
    """This release of rclpy lacks a private name that is needed; the text says which."""


def private(owner: Any, name: str) -> Any:
    """Return a private attribute of a class or an object of rclpy's.

    Args:
        owner: the class, or the object.
        name: of the attribute, mangled where Python mangles it.

    Raises:
        UnsupportedRclpy: it is not there.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = owner if isinstance(owner, type) else type(owner)
        raise UnsupportedRclpy(
            f'{_release()} has no {kind.__name__}.{name}, which segzero_ros uses: run it with a '
            'release of rclpy that has it (7.1 of Jazzy and 9.1 of Kilted do), or take a newer '
            'segzero_ros.'
        ) from None


def _release() -> str:
    """Return which rclpy this is, such as `rclpy 7.1.6 (jazzy)`."""
    distro = os.environ.get('ROS_DISTRO', '')
    try:
        release = f'rclpy {version("rclpy")}'
    except PackageNotFoundError:
        release = 'This rclpy'
    return f'{release} ({distro})' if distro else release
