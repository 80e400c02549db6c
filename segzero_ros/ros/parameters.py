"""Parameters of a ROS node from a `parameter_table`: declared, described and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import math
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from segzero_ros import config
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.parameter_table import (
    BY_NAME,
    ParameterError,
    REMOVED,
    RENAMED,
    Spec,
    SPECS,
    Takes,
    unknown_parameter,
)
from segzero_ros.ros.rclpy_internals import private

_MAX_FLOAT = 1.7e308
_MAX_INT = 2**31 - 1


def descriptor(spec: Spec) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows."""
    shown = ParameterDescriptor(
        description=f'{spec.description} {spec.takes.value}',
        read_only=spec.takes is Takes.AT_START,
    )
    if spec.choices:
        shown.additional_constraints = spec.allowed.removeprefix('; it is ')
    if isinstance(spec.default, float) and math.isfinite(spec.minimum):
        shown.floating_point_range = [
            FloatingPointRange(
                from_value=float(spec.minimum), to_value=min(spec.maximum, _MAX_FLOAT)
            )
        ]
    elif type(spec.default) is int and math.isfinite(spec.minimum):
        maximum = int(min(spec.maximum, _MAX_INT))
        shown.integer_range = [
            IntegerRange(from_value=int(spec.minimum), to_value=maximum, step=1)
        ]
    return shown


def declare(
    node: Node,
    specs: Sequence[Spec] = SPECS,
    arguments: Sequence[str] = (),
    *,
    others: Collection[str] = (),
    rename: Callable[[dict[str, Any]], list[str]] = lambda _: [],
) -> list[str]:
    """Declare every parameter on the node with the value that it was started with.

    Args:
        node: the node.
        specs: its parameters.
        arguments: of the process, to see whether parameter files were given.
        others: names of parameters of this package's other nodes, which a parameter file under
            `/**` gives to this one too.
        rename: moves values that are given under a former name to the present one, and returns a
            warning for each.

    Returns:
        A warning for each value of a parameter that no node has, or one for parameter files that
        are about other nodes only.

    Raises:
        ParameterError: a given value cannot be used, or is for a parameter of a former name.
        UnsupportedRclpy: this rclpy does not show what was given.
    """
    # The values of parameter files and `-p`; rclpy has no public access to them before declaring.
    overrides: Mapping[str, Parameter] = private(node, '_parameter_overrides')
    given = {name: parameter.value for name, parameter in overrides.items()}
    warnings = rename(given)
    known = [*(spec.name for spec in specs), *others]
    if specs is SPECS:
        for name in given:
            if name not in known and name in {**RENAMED, **REMOVED}:
                raise ParameterError(unknown_parameter(name))
    for spec in specs:
        value = spec.read(given[spec.name]) if spec.name in given else spec.default
        node.declare_parameter(spec.name, value, descriptor(spec), ignore_override=True)
    if '--params-file' in arguments and not given:
        return [
            'No parameter file has parameters for '
            f'{node.get_fully_qualified_name()}: begin it with /**: and below that '
            'ros__parameters:, or with the full name of the node.'
        ]
    return warnings + [
        f'{unknown_parameter(name, known)} It is ignored.'
        for name in given
        if not (node.has_parameter(name) or name in known or name.startswith('qos_overrides.'))
    ]


def fixed(parameters: Iterable[Parameter]) -> str:
    """Return the reason why a parameter cannot be changed after the start; empty when all can.

    rclpy refuses read-only ones too, but does not say how to change them.
    """
    for parameter in parameters:
        spec = BY_NAME.get(parameter.name)
        if spec is not None and spec.takes is Takes.AT_START:
            return (
                f'{spec.name} is read-only, for it is fixed at the start: end the node and start '
                f'it with the new value, in a parameter file or by -p {spec.name}:=….'
            )
    return ''


def refusal(parameters: Iterable[Parameter], state: str) -> str:
    """Return the reason why parameters cannot be set in a lifecycle state; empty when they can."""
    for parameter in parameters:
        spec = BY_NAME.get(parameter.name)
        if spec is None:
            continue
        try:
            spec.read(parameter.value)
        except ParameterError as error:
            return str(error)
        if spec.takes is Takes.AT_CONFIGURATION and state not in ('unconfigured', 'inactive'):
            return (
                f'{spec.name} cannot be set while the node is {state}: deactivate it and clean '
                'up, set it, then configure and activate again.'
            )
    return ''


def as_declared(parameters: list[Parameter]) -> list[Parameter]:
    """Return the parameters with integers as floats where the parameter is a float."""
    return [
        Parameter(parameter.name, value=float(parameter.value))
        if type(parameter.value) is int
        and parameter.name in BY_NAME
        and isinstance(BY_NAME[parameter.name].default, float)
        else parameter
        for parameter in parameters
    ]


def reasoner_options(node: Node) -> ReasonerOptions:
    """Return the options of the reasoner."""
    return config.reasoner_options(_reader(node))


def segmenter_options(node: Node) -> SegmenterOptions:
    """Return the options of the segmenter."""
    return config.segmenter_options(_reader(node))


def _reader(node: Node) -> Callable[[str], Any]:
    return lambda name: node.get_parameter(name).value
