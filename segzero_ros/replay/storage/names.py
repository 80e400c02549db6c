"""Type names, as written by different recorders."""

from __future__ import annotations

import re

_WORD = r'[A-Za-z][A-Za-z0-9_]*'
_TWO_PARTS = re.compile(f'({_WORD})/({_WORD})')
_OF_ROS = re.compile(f'{_WORD}/(msg|srv|action)/{_WORD}')


def message_type(name: str) -> str:
    """Return a type name in the form of ROS 2.

    ROS 1 and its converters omit `msg`; IDL has `::` between the parts.
    """
    name = name.replace('::', '/')
    two = _TWO_PARTS.fullmatch(name)
    return f'{two[1]}/msg/{two[2]}' if two else name


def is_ros_type(name: str) -> bool:
    """Return whether a name has the three parts of a ROS 2 type."""
    return _OF_ROS.fullmatch(name) is not None
