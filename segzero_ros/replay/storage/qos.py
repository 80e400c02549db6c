"""Quality of service as bags hold it. It is copied, and never stops a reading."""

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


def usual_qos(*, reliable: bool, lasting: bool = False) -> Qos:
    """Return what a publisher offers that says nothing else: the last ten messages."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if lasting else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def latched(is_latched: bool) -> tuple[Qos, ...]:
    """Return what a publisher of ROS 1 is in ROS 2."""
    return (usual_qos(reliable=True, lasting=is_latched),)


def read_qos(recorded: object) -> tuple[Qos, ...]:
    """Return recorded profiles; of what cannot be understood, none.

    Args:
        recorded: a list of mappings with numbers or words, or YAML text of one.
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
