"""The perception node's parameters: one table for node, CLI and replay.

`config` reads profiles and parameter files with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
import difflib
from enum import Enum
import math

from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.loading import (
    ReasonerOptions,
    REASONERS,
    RUNTIMES,
    SegmenterOptions,
    SEGMENTERS,
)
from segzero_ros.types import SegZeroError

Value = bool | int | float | str

QUERY_POLICIES = ('preempt', 'queue', 'reject')


class ProfileError(SegZeroError):
    """A profile or a parameter file cannot be used; the message names the reason and the fix."""


class ParameterError(ProfileError):
    """A parameter does not exist or cannot have a value; the message names it and the fix."""


class Takes(Enum):
    """When a new value of a parameter takes effect."""

    AT_ONCE = 'Takes effect at once.'
    AT_CONFIGURATION = (
        'Takes effect when the node is configured; cannot be set while it is active.'
    )
    AT_START = 'Cannot be changed after the start.'


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        name: as in a parameter file, with dots between groups.
        default: its value unless another is given; its type is the parameter's type.
        description: one sentence, with the unit.
        takes: when a new value takes effect.
        choices: the allowed strings; empty: any.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        accepts_integer: whether a string parameter takes an integer for its digits.
    """

    name: str
    default: Value
    description: str
    takes: Takes = Takes.AT_CONFIGURATION
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    accepts_integer: bool = False

    def read(self, value: object) -> Value:
        """Return the value in the parameter's own type, or raise ParameterError."""
        expected = type(self.default)
        if expected is float and type(value) is int:
            value = float(value)
        if self.accepts_integer and type(value) is int:
            value = str(value)
        if type(value) is not expected:
            raise ParameterError(
                f'{self.name} must be {_TYPE_NAMES[expected]}, not {value!r}{self.allowed}'
            )
        assert isinstance(value, (bool, int, float, str))
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), self.choices, 1)
            hint = f' (did you mean {near[0]!r}?)' if near else ''
            raise ParameterError(f'{self.name} cannot be {value!r}{hint}{self.allowed}')
        if isinstance(value, (int, float)) and not self.minimum <= value <= self.maximum:
            raise ParameterError(f'{self.name} cannot be {value!r}{self.allowed}')
        return value

    @property
    def allowed(self) -> str:
        """The allowed values, as the end of an error's sentence."""
        if self.choices:
            return f'; it is one of {", ".join(choice or "(empty)" for choice in self.choices)}.'
        if isinstance(self.default, bool) or not isinstance(self.default, (int, float)):
            return f'; for instance {_as_yaml(self.default)}.'
        return f'; give {self._range}, for instance {_as_yaml(self.default)}.'

    @property
    def _range(self) -> str:
        if self.maximum == math.inf:
            return 'any number' if self.minimum == -math.inf else f'at least {self.minimum:g}'
        return f'{self.minimum:g} to {self.maximum:g}'


_TYPE_NAMES = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string'}
_REASONER = ReasonerOptions()
_SEGMENTER = SegmenterOptions()

# The node's own default is the published combination, as in config/robot.yaml: VisionReasoner-7B
# with SAM 2.
SPECS = (
    Spec('autostart', True, 'Configure and activate at the start.', Takes.AT_START),
    Spec('device', _REASONER.device, 'Where the models run, such as auto, cpu, cuda or cuda:1.'),
    Spec('offline', _REASONER.offline, 'Never access the hub; use the files on this machine.'),
    Spec('reasoner.backend', 'transformers', 'What runs the reasoner.', choices=REASONERS),
    Spec(
        'reasoner.model',
        _REASONER.model,
        "The reasoning model: hub name, local folder, or the server's name for it.",
    ),
    Spec(
        'reasoner.dialect',
        _REASONER.dialect,
        "The checkpoint's prompt, image size and answer format.",
    ),
    Spec('reasoner.device', '', 'The device of the reasoner alone; empty: `device`.'),
    Spec(
        'reasoner.dtype',
        _REASONER.dtype,
        'Number format of the reasoning model.',
        choices=('auto', 'bfloat16', 'float16', 'float32'),
    ),
    Spec(
        'reasoner.quantization',
        _REASONER.quantization,
        'Quantise the weights while loading; empty: no.',
        choices=('', 'bnb4', 'bnb8', 'int8', 'fp8'),
    ),
    Spec(
        'reasoner.max_new_tokens',
        _REASONER.max_new_tokens,
        'Most tokens of an answer.',
        minimum=1,
        maximum=32768,
    ),
    Spec(
        'reasoner.router',
        _REASONER.router,
        'A text model that chooses the task of queries with `task: auto`; with the backend '
        '`openai` one on the same server; empty: rules.',
    ),
    # Whoever could change these two could have any environment variable sent anywhere.
    Spec(
        'server.base_url',
        _REASONER.base_url,
        'Address of an OpenAI-compatible server.',
        Takes.AT_START,
    ),
    Spec(
        'server.api_key_env',
        _REASONER.api_key_env,
        "Environment variable that holds the server's key.",
        Takes.AT_START,
    ),
    Spec(
        'server.constrain_answer',
        _REASONER.constrain_answer,
        'Have the server constrain the answer to its JSON schema (vLLM, SGLang).',
    ),
    Spec('segmenter.backend', 'sam2', 'What makes the masks.', choices=SEGMENTERS),
    Spec('segmenter.model', _SEGMENTER.model, 'Hub name or local checkpoint of the segmenter.'),
    Spec('segmenter.device', '', 'The device of the segmenter alone; empty: `device`.'),
    Spec(
        'track',
        False,
        'Track the objects of each answer through the images after it, on `tracked`.',
        Takes.AT_ONCE,
    ),
    Spec(
        'target_frame',
        '',
        'The frame of all poses and clouds, such as base_link, by the transforms on /tf; empty: '
        "the camera's optical frame.",
        Takes.AT_ONCE,
    ),
    Spec(
        'broadcast_tf',
        False,
        'Publish the objects as frames on /tf, as children of the optical frame.',
        Takes.AT_ONCE,
    ),
    Spec(
        'tracking.reask_when_lost',
        False,
        'Repeat the query of tracked objects once all of them have been lost for a while.',
        Takes.AT_ONCE,
    ),
    Spec(
        'standing_query.text',
        '',
        'A query that the node repeats by itself; empty: none.',
        Takes.AT_ONCE,
    ),
    Spec(
        'standing_query.period',
        0.0,
        'Seconds after which the standing query is repeated; 0: not by time.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=86400,
    ),
    Spec(
        'standing_query.on_change',
        0.0,
        'Share of the image that has to change for the standing query to be repeated; 0: not by '
        'changes.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=1,
    ),
    Spec(
        'label_encoding',
        'mono16',
        'Encoding of `label_image` and `class_image`; costmap layers take mono8.',
        Takes.AT_ONCE,
        choices=('mono16', 'mono8'),
    ),
    Spec(
        'camera.max_depth_offset',
        0.05,
        "Most seconds between an image's stamp and its depth's stamp.",
        Takes.AT_ONCE,
        minimum=0,
        maximum=60,
    ),
    Spec(
        'camera.max_image_age',
        5.0,
        'Most seconds between the newest image and a query; 0: no limit.',
        Takes.AT_ONCE,
        minimum=0,
    ),
    Spec(
        'query.policy',
        'queue',
        'What happens to a query that arrives while another one is being answered.',
        Takes.AT_ONCE,
        choices=QUERY_POLICIES,
    ),
    Spec(
        'query.queue_size',
        10,
        'Most waiting queries with the policy `queue`.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=10000,
    ),
    Spec(
        'limits.answer_time',
        _REASONER.time_limit,
        'Most seconds of an answer; 0: no limit.',
        minimum=0,
    ),
    Spec(
        'advanced.fast_decoding',
        _REASONER.fast_decoding,
        'Use the fast decoding path; the tokens are the same either way.',
    ),
    Spec(
        'advanced.segmenter.runtime',
        _SEGMENTER.runtime,
        'What runs SAM 2 on a CPU; auto: OpenVINO where it is installed, else torch.',
        choices=RUNTIMES,
    ),
    Spec(
        'advanced.leave_out_target',
        False,
        'Leave the first object of an answer, the one to be grasped, out of `collision_objects`.',
        Takes.AT_ONCE,
    ),
    Spec(
        'advanced.max_pixels',
        MAX_PIXELS,
        'Most pixels of an image or depth image; larger ones are refused undecoded.',
        Takes.AT_ONCE,
        minimum=1,
        maximum=1000000000,
    ),
    Spec(
        'advanced.watchdog_timeout',
        60.0,
        'Seconds that the models have to stop after a cancel or limits.answer_time, and that a '
        'tracker or a transition may hang, before they are abandoned and reloaded; 0: no limit.',
        Takes.AT_ONCE,
        minimum=0,
    ),
    Spec(
        'advanced.latency_warning',
        30.0,
        'Diagnostics warn when 1 in 20 answers takes more seconds than this; 0: never.',
        Takes.AT_ONCE,
        minimum=0,
    ),
)
BY_NAME = {spec.name: spec for spec in SPECS}

# Names of earlier releases, with the present name, or with what replaced the parameter.
RENAMED = {
    'reasoner': 'reasoner.backend',
    'reasoner_model': 'reasoner.model',
    'dialect': 'reasoner.dialect',
    'reasoner_device': 'reasoner.device',
    'reasoner_dtype': 'reasoner.dtype',
    'quantization': 'reasoner.quantization',
    'max_new_tokens': 'reasoner.max_new_tokens',
    'fast': 'advanced.fast_decoding',
    'reasoner.fast_decoding': 'advanced.fast_decoding',
    'base_url': 'server.base_url',
    'api_key_env': 'server.api_key_env',
    'constrain_answer': 'server.constrain_answer',
    'segmenter': 'segmenter.backend',
    'segmenter_model': 'segmenter.model',
    'segmenter_device': 'segmenter.device',
    'reask_when_lost': 'tracking.reask_when_lost',
    'standing_query': 'standing_query.text',
    'repeat_every': 'standing_query.period',
    'repeat_on_change': 'standing_query.on_change',
    'depth_max_offset': 'camera.max_depth_offset',
    'image_max_age': 'camera.max_image_age',
    'max_image_pixels': 'advanced.max_pixels',
    'query_policy': 'query.policy',
    'queue_size': 'query.queue_size',
    'time_limit': 'limits.answer_time',
    'stuck_after': 'advanced.watchdog_timeout',
    'slow_answer': 'advanced.latency_warning',
    'camera.max_pixels': 'advanced.max_pixels',
    'limits.watchdog_timeout': 'advanced.watchdog_timeout',
    'limits.latency_warning': 'advanced.latency_warning',
}
REMOVED = {
    'answer_parser': 'small flaws are repaired, except with `segzero evaluate --strict`',
    'seed': 'answers are decoded greedily',
    'segmenter_config': 'put the configuration beside the checkpoint, named as it is, with .yaml',
    'segmenter_dtype': 'the number format follows the device',
    'image_transport': "the subscription follows the topic's type",
    'depth_transport': "the subscription follows the topic's type",
    'image_reliability': 'the subscription follows its publishers',
    'max_query_length': 'a query has at most 2000 characters',
}


def unknown_parameter(name: str, known: Collection[str] = BY_NAME) -> str:
    """Return the sentence about a parameter that is not among the known names."""
    if name in RENAMED:
        return f'{name} is called {RENAMED[name]} now: rename it.'
    if name in REMOVED:
        return f'There is no parameter {name} any more, for {REMOVED[name]}: leave it out.'
    near = difflib.get_close_matches(name, known, 1, cutoff=0.0)
    return f'There is no parameter {name!r}; the nearest is {near[0]!r}.'


def _as_yaml(value: Value) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower()
