"""QoS profiles in bags. They are copied; an invalid one is not an error."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
import yaml

_FOREVER = QosTime(9223372036, 854775807)
_Kind = TypeVar('_Kind', bound=Enum)


def default_qos(*, reliable: bool, transient_local: bool = False) -> Qos:
    """Return a publisher's default profile, with a depth of 10."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if transient_local else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def latched(is_latched: bool) -> tuple[Qos, ...]:
    """Return the ROS 2 profile of a ROS 1 publisher."""
    return (default_qos(reliable=True, transient_local=is_latched),)


def read_qos(recorded: object) -> tuple[Qos, ...]:
    """Return recorded profiles; none if they are invalid.

    Args:
        recorded: a list of mappings with numbers or names, or its YAML text.
    """
    if isinstance(recorded, str):
        try:
            recorded = yaml.safe_load(recorded)
        except yaml.YAMLError:
            return ()
    profiles = recorded if isinstance(recorded, list) else []
    return tuple(_profile(profile) for profile in profiles if isinstance(profile, Mapping))


def _profile(values: Mapping[str, Any]) -> Qos:
    depth = values.get('depth')
    return Qos(
        history=_kind(QosHistory, values.get('history')),
        depth=depth if isinstance(depth, int) and depth >= 0 else 10,
        reliability=_kind(QosReliability, values.get('reliability')),
        durability=_kind(QosDurability, values.get('durability')),
        deadline=_time(values.get('deadline')),
        lifespan=_time(values.get('lifespan')),
        liveliness=_kind(QosLiveliness, values.get('liveliness')),
        liveliness_lease_duration=_time(values.get('liveliness_lease_duration')),
        avoid_ros_namespace_conventions=bool(values.get('avoid_ros_namespace_conventions')),
    )


def _kind(kinds: type[_Kind], value: object) -> _Kind:
    if isinstance(value, str) and value.upper() in kinds.__members__:
        return kinds[value.upper()]
    try:
        return kinds(value)
    except ValueError:
        return kinds['UNKNOWN']


def _time(value: object) -> QosTime:
    if isinstance(value, Mapping):
        seconds, nanoseconds = value.get('sec'), value.get('nsec')
        if isinstance(seconds, int) and isinstance(nanoseconds, int):
            return QosTime(seconds, nanoseconds)
    return _FOREVER
