"""The node's parameters: one table of names, defaults, descriptions and limits.

Descriptors, start-up checks, live checks and the options of the models are all read from it. What
a model is made from has its default in `loading`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
import difflib
from enum import Enum
import math
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from segzero_ros import profiles
from segzero_ros.conversions.image import MAX_PIXELS
from segzero_ros.loading import (
    ReasonerOptions,
    REASONERS,
    SegmenterOptions,
    SEGMENTERS,
)
from segzero_ros.ros.perception.query_queue import QueryPolicy
from segzero_ros.ros.rclpy_internals import private
from segzero_ros.types import SegZeroError

Value = bool | int | float | str


class ParameterError(SegZeroError):
    """A parameter cannot be what it was given; one line that names it and the cure."""


class Takes(Enum):
    """When a new value of a parameter takes effect."""

    AT_ONCE = 'Takes effect at once.'
    AT_ACTIVATION = 'Takes effect when the node is activated; cannot be set while it is active.'
    AT_CONFIGURATION = (
        'Takes effect when the node is configured; cannot be set while it is active.'
    )
    AT_START = 'Cannot be changed after the start.'


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        name: as in the params file.
        default: its value where nothing else is said; its type is the parameter's type.
        description: one sentence, with the unit.
        takes: when a new value takes effect.
        choices: the values that a string may have; empty for any.
        least: smallest number that is allowed.
        most: largest number that is allowed.
        number_is_text: whether an integer is taken for a text of its digits.
    """

    name: str
    default: Value
    description: str
    takes: Takes = Takes.AT_CONFIGURATION
    choices: tuple[str, ...] = ()
    least: float = -math.inf
    most: float = math.inf
    number_is_text: bool = False

    def read(self, value: object) -> Value:
        """Return the value in the parameter's own type, or raise ParameterError."""
        wanted = type(self.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if self.number_is_text and type(value) is int:
            value = str(value)
        if type(value) is not wanted:
            raise ParameterError(f'{self.name} must be {_NOUN[wanted]}, not {value!r}{self.cure}')
        assert isinstance(value, (bool, int, float, str))
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), self.choices, 1)
            hint = f' (did you mean {near[0]!r}?)' if near else ''
            raise ParameterError(f'{self.name} cannot be {value!r}{hint}{self.cure}')
        if isinstance(value, (int, float)) and not self.least <= value <= self.most:
            raise ParameterError(f'{self.name} cannot be {value!r}{self.cure}')
        return value

    @property
    def cure(self) -> str:
        """What the parameter may be, as the end of a complaint's sentence."""
        if self.choices:
            return f'; it is one of {", ".join(choice or "(empty)" for choice in self.choices)}.'
        if isinstance(self.default, bool) or not isinstance(self.default, (int, float)):
            return f'; for instance {_as_yaml(self.default)}.'
        return f'; give {self.limits}, for instance {_as_yaml(self.default)}.'

    @property
    def limits(self) -> str:
        """The range of a number, in words."""
        if self.most == math.inf:
            return 'any number' if self.least == -math.inf else f'at least {self.least:g}'
        return f'{self.least:g} to {self.most:g}'

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(
            description=f'{self.description} {self.takes.value}',
            read_only=self.takes is Takes.AT_START,
        )
        if self.choices:
            descriptor.additional_constraints = self.cure.removeprefix('; it is ')
        if isinstance(self.default, float) and math.isfinite(self.least):
            most = min(self.most, _MOST_FLOAT)
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.least), to_value=most)
            ]
        elif type(self.default) is int and math.isfinite(self.least):
            integers = IntegerRange(
                from_value=int(self.least), to_value=int(min(self.most, _MOST_INT)), step=1
            )
            descriptor.integer_range = [integers]
        return descriptor


_NOUN = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}
_MOST_FLOAT = 1.7e308
_MOST_INT = 2**31 - 1
_REASONER = ReasonerOptions()
_SEGMENTER = SegmenterOptions()

# The node's own choice of models is the published one: VisionReasoner-7B with SAM 2, as in
# config/robot.yaml. What they are made from has the defaults of `loading`.
SPECS = (
    Spec('autostart', True, 'Configure and activate at the start.', Takes.AT_START),
    Spec('reasoner', 'transformers', 'What reads the query.', choices=REASONERS),
    Spec(
        'reasoner_model',
        _REASONER.model,
        'Hub name, local folder or served name of the reasoning model.',
    ),
    Spec('dialect', _REASONER.dialect, 'How the reasoning model is spoken to.'),
    Spec(
        'answer_parser',
        _REASONER.answer_parser,
        'Whether small flaws of an answer are repaired.',
        choices=('repair', 'strict'),
    ),
    Spec('reasoner_device', '', 'As `device`, for the reasoner alone; empty: as `device`.'),
    Spec(
        'reasoner_dtype',
        _REASONER.dtype,
        'Number format of the reasoning model.',
        choices=('auto', 'bfloat16', 'float16', 'float32'),
    ),
    Spec('quantization', _REASONER.quantization, 'Weights in few bits: bnb4, bnb8, int8 or fp8.'),
    Spec(
        'max_new_tokens',
        _REASONER.max_new_tokens,
        'Most tokens that an answer may have.',
        least=1,
        most=32768,
    ),
    Spec(
        'time_limit',
        _REASONER.time_limit,
        'Most seconds that an answer may take; 0 for no limit.',
        least=0,
    ),
    Spec(
        'stuck_after',
        60.0,
        'Seconds that models have to stop, once cancelled or past time_limit, and that a tracker '
        'or a transition may hang, before they are left behind and loaded anew; 0: for ever.',
        Takes.AT_ONCE,
        least=0,
    ),
    Spec('seed', _REASONER.seed, 'For checkpoints that sample.', least=0),
    Spec('fast', _REASONER.fast, 'The fast paths of the reasoning model; same tokens either way.'),
    # Whoever could change these two could have any variable of the environment sent anywhere.
    Spec(
        'base_url',
        _REASONER.base_url,
        'Where an OpenAI-compatible server listens.',
        Takes.AT_START,
    ),
    Spec(
        'api_key_env',
        _REASONER.api_key_env,
        "Environment variable with the server's key.",
        Takes.AT_START,
    ),
    Spec(
        'constrain_answer',
        _REASONER.constrain_answer,
        'Have the server hold the answer to its JSON schema; vLLM and SGLang.',
    ),
    Spec('segmenter', 'sam2', 'What makes the masks.', choices=SEGMENTERS),
    Spec('segmenter_model', _SEGMENTER.model, 'Hub name or local checkpoint of the segmenter.'),
    Spec(
        'segmenter_config',
        _SEGMENTER.config,
        "Configuration of a local checkpoint; empty: known from the model's name.",
    ),
    Spec('segmenter_device', '', 'As `device`, for the segmenter alone; empty: as `device`.'),
    Spec(
        'segmenter_dtype',
        _SEGMENTER.dtype,
        'Number format of the segmenter.',
        choices=('auto', 'bfloat16', 'float16', 'float32'),
    ),
    Spec('device', _REASONER.device, 'Where the models run, such as auto, cpu, cuda or cuda:1.'),
    Spec('offline', _REASONER.offline, 'Never ask the hub; use what is on this machine.'),
    Spec(
        'track',
        False,
        'Follow the objects of each answer through the images after it, on `tracked`.',
        Takes.AT_ONCE,
    ),
    Spec(
        'reask_when_lost',
        False,
        'Ask the query of followed objects again when all of them have been lost for long.',
        Takes.AT_ONCE,
    ),
    Spec(
        'standing_query',
        '',
        'What the node asks by itself, as `repeat_every` and `repeat_on_change` say; empty: none.',
        Takes.AT_ONCE,
    ),
    Spec(
        'repeat_every',
        0.0,
        'Seconds after which the standing query is asked again; 0: time does not matter.',
        Takes.AT_ONCE,
        least=0,
        most=86400,
    ),
    Spec(
        'repeat_on_change',
        0.0,
        'Share of the picture that has to change for the standing query to be asked again; '
        '0: changes do not matter.',
        Takes.AT_ONCE,
        least=0,
        most=1,
    ),
    Spec(
        'image_transport',
        'raw',
        'How `image` comes: sensor_msgs/Image or CompressedImage.',
        Takes.AT_ACTIVATION,
        choices=('raw', 'compressed'),
    ),
    Spec(
        'depth_transport',
        'raw',
        'How `depth` comes: sensor_msgs/Image or CompressedImage.',
        Takes.AT_ACTIVATION,
        choices=('raw', 'compressedDepth'),
    ),
    Spec(
        'image_reliability',
        'auto',
        'How images are subscribed to; auto: as their publishers offer them.',
        Takes.AT_ONCE,
        choices=('auto', 'reliable', 'best_effort'),
    ),
    Spec(
        'depth_max_offset',
        0.05,
        "Most seconds between an image's stamp and the stamp of its depth.",
        Takes.AT_ONCE,
        least=0,
        most=60,
    ),
    Spec(
        'image_max_age',
        5.0,
        "Most seconds between the newest image's stamp and a query; 0 for no limit.",
        Takes.AT_ONCE,
        least=0,
    ),
    Spec(
        'max_image_pixels',
        MAX_PIXELS,
        'Most pixels of an image or depth image; larger ones are refused before they are decoded.',
        Takes.AT_ONCE,
        least=1,
        most=1000000000,
    ),
    Spec(
        'slow_answer',
        30.0,
        'Seconds within which 19 of 20 answers should come; beyond, diagnostics warn; 0: never.',
        Takes.AT_ONCE,
        least=0,
    ),
    Spec(
        'query_policy',
        QueryPolicy.QUEUE.value,
        'What happens to a query that comes while another one is worked on.',
        Takes.AT_ONCE,
        choices=tuple(policy.value for policy in QueryPolicy),
    ),
    Spec(
        'queue_size',
        10,
        'How many queries may wait with query_policy `queue`.',
        Takes.AT_ONCE,
        least=0,
        most=10000,
    ),
    Spec(
        'max_query_length',
        2000,
        'Most characters of a query.',
        Takes.AT_ONCE,
        least=1,
        most=1000000,
    ),
)
BY_NAME = {spec.name: spec for spec in SPECS}


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
        arguments: the process's, to see whether params files were given.
        others: names of parameters of this package's other nodes, which a params file under `/**`
            gives to this one too.
        rename: puts values that are given under a name of before under the new one, and returns a
            warning for each.

    Returns:
        A warning for each value that was given for a parameter that no node has, or one for params
        files that are about other nodes only.

    Raises:
        ParameterError: a value that was given cannot be used.
        UnsupportedRclpy: this rclpy does not show what was given.
    """
    # The values of params files and `-p`; rclpy offers no public way to them before declaring.
    overrides: Mapping[str, Parameter] = private(node, '_parameter_overrides')
    given = {name: parameter.value for name, parameter in overrides.items()}
    warnings = rename(given)
    for spec in specs:
        value = spec.read(given[spec.name]) if spec.name in given else spec.default
        node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
    if '--params-file' in arguments and not given:
        return [
            f'No params file names parameters for {node.get_fully_qualified_name()}: begin it '
            'with /**: and below that ros__parameters:, or with the full name of the node.'
        ]
    known = [*(spec.name for spec in specs), *others]
    return warnings + [
        _unknown(name, known)
        for name in given
        if not (node.has_parameter(name) or name in known or name.startswith('qos_overrides.'))
    ]


def fixed(parameters: Iterable[Parameter]) -> str:
    """Say which of the parameters cannot be changed after the start; empty when all can.

    rclpy refuses them too, for their descriptors say read-only, but not how to change them.
    """
    for parameter in parameters:
        spec = BY_NAME.get(parameter.name)
        if spec is not None and spec.takes is Takes.AT_START:
            return (
                f'{spec.name} is read-only, for it is fixed at the start: end the node and start '
                f'it with the new value, in a params file or by -p {spec.name}:=….'
            )
    return ''


def refusal(parameters: Iterable[Parameter], state: str) -> str:
    """Say why parameters cannot be set in a lifecycle state; empty when they can."""
    for parameter in parameters:
        spec = BY_NAME.get(parameter.name)
        if spec is None:
            continue
        try:
            spec.read(parameter.value)
        except ParameterError as error:
            return str(error)
        if spec.takes is Takes.AT_ACTIVATION and state not in ('unconfigured', 'inactive'):
            return f'{spec.name} cannot be set while the node is {state}: deactivate it first.'
        if spec.takes is Takes.AT_CONFIGURATION and state not in ('unconfigured', 'inactive'):
            return (
                f'{spec.name} cannot be set while the node is {state}: deactivate it and clean '
                'up, set it, then configure and activate again.'
            )
    return ''


def as_declared(parameters: list[Parameter]) -> list[Parameter]:
    """Return the parameters with whole numbers as floats where the parameter is one."""
    return [
        Parameter(parameter.name, value=float(parameter.value))
        if type(parameter.value) is int
        and parameter.name in BY_NAME
        and isinstance(BY_NAME[parameter.name].default, float)
        else parameter
        for parameter in parameters
    ]


def reasoner_options(node: Node) -> ReasonerOptions:
    """Return what the reasoner is made from."""
    return profiles.reasoner_options(_reader(node))


def segmenter_options(node: Node) -> SegmenterOptions:
    """Return what the segmenter is made from."""
    return profiles.segmenter_options(_reader(node))


def _reader(node: Node) -> Callable[[str], Any]:
    return lambda name: node.get_parameter(name).value


def _unknown(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, cutoff=0.0)
    return f'There is no parameter {name!r}, so it is ignored; the nearest is {near[0]!r}.'


def _as_yaml(value: Value) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower()
