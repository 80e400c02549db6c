"""Names of types, as recorders of several systems write them."""

from __future__ import annotations

import re

_WORD = r'[A-Za-z][A-Za-z0-9_]*'
_TWO_PARTS = re.compile(f'({_WORD})/({_WORD})')
_OF_ROS = re.compile(f'{_WORD}/(msg|srv|action)/{_WORD}')


def message_type(name: str) -> str:
    """Return a type's name as ROS 2 writes it.

    ROS 1 and its converters leave out `msg`; IDL has `::` between the parts.
    """
    name = name.replace('::', '/')
    two = _TWO_PARTS.fullmatch(name)
    return f'{two[1]}/msg/{two[2]}' if two else name


def is_ros_type(name: str) -> bool:
    """Return whether a name has the three parts of a type of ROS 2."""
    return _OF_ROS.fullmatch(name) is not None
