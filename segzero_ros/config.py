"""The perception node's parameters: one table and one validator for node, CLI and replay.

A profile is a parameter file of the package, `config/<profile>.yaml`. It holds only what differs
from the defaults of the table. A user's own file and single values override it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
import difflib
from enum import Enum
import math
import os
from pathlib import Path
from typing import Any

import yaml

from segzero_ros import loading
from segzero_ros.conversions.raw_image import MAX_PIXELS
from segzero_ros.loading import ReasonerOptions, REASONERS, SegmenterOptions, SEGMENTERS
from segzero_ros.pipeline import Pipeline
from segzero_ros.types import SegZeroError

Value = bool | int | float | str

PROFILES = ('robot', 'remote', 'offline', 'mini')
QUERY_POLICIES = ('preempt', 'queue', 'reject')
# The names under which a parameter file addresses the node.
_NODE_NAMES = ('/**', 'perception', '/perception', '/segzero/perception')


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
        'A text model that chooses the task of queries with `task: auto`; empty: rules.',
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
        'camera.max_pixels',
        MAX_PIXELS,
        'Most pixels of an image or depth image; larger ones are refused undecoded.',
        Takes.AT_ONCE,
        minimum=1,
        maximum=1000000000,
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
        'limits.watchdog_timeout',
        60.0,
        'Seconds that the models have to stop after a cancel or limits.answer_time, and that a '
        'tracker or a transition may hang, before they are abandoned and reloaded; 0: no limit.',
        Takes.AT_ONCE,
        minimum=0,
    ),
    Spec(
        'limits.latency_warning',
        30.0,
        'Diagnostics warn when 1 in 20 answers takes more seconds than this; 0: never.',
        Takes.AT_ONCE,
        minimum=0,
    ),
    Spec(
        'advanced.fast_decoding',
        _REASONER.fast_decoding,
        'Use the fast decoding path; the tokens are the same either way.',
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
    'max_image_pixels': 'camera.max_pixels',
    'query_policy': 'query.policy',
    'queue_size': 'query.queue_size',
    'time_limit': 'limits.answer_time',
    'stuck_after': 'limits.watchdog_timeout',
    'slow_answer': 'limits.latency_warning',
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


def read_profile(
    profile: str, params_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return all parameters of a node with this profile, by name.

    Args:
        profile: one of PROFILES.
        params_file: overrides the profile, as the launch file's `params_file`.
        overrides: override both, by name.

    Raises:
        ProfileError: a file cannot be read, or a parameter does not exist or has another type.
    """
    values: dict[str, Any] = {spec.name: spec.default for spec in SPECS}
    values |= _read_file(_find(profile))
    if params_file:
        values |= _read_file(params_file)
    return values | _validated(dict(overrides or {}), 'the command line')


def reasoner_options(value: Callable[[str], Any]) -> ReasonerOptions:
    """Return the reasoner's options; `value` gives a parameter's value by name."""
    return ReasonerOptions(
        backend=value('reasoner.backend'),
        model=value('reasoner.model'),
        dialect=value('reasoner.dialect'),
        device=value('reasoner.device') or value('device'),
        dtype=value('reasoner.dtype'),
        quantization=value('reasoner.quantization'),
        max_new_tokens=value('reasoner.max_new_tokens'),
        time_limit=value('limits.answer_time'),
        offline=value('offline'),
        fast_decoding=value('advanced.fast_decoding'),
        router=value('reasoner.router'),
        base_url=value('server.base_url'),
        api_key_env=value('server.api_key_env'),
        constrain_answer=value('server.constrain_answer'),
    )


def segmenter_options(value: Callable[[str], Any]) -> SegmenterOptions:
    """Return the segmenter's options; `value` gives a parameter's value by name."""
    return SegmenterOptions(
        backend=value('segmenter.backend'),
        model=value('segmenter.model'),
        device=value('segmenter.device') or value('device'),
        offline=value('offline'),
    )


def load_pipeline(parameters: Mapping[str, Any]) -> Pipeline:
    """Load the models that parameters name, as `loading.load_pipeline` does."""
    value = parameters.__getitem__
    return loading.load_pipeline(reasoner_options(value), segmenter_options(value))


def find_config(name: str) -> Path:
    """Return the path of a file of `config/`; raise ProfileError when it is not installed."""
    # Beside this package's modules in a checkout, in the share of an installation.
    here = Path(__file__).parent.parent
    sourced = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    prefixes = [*(Path(prefix) for prefix in sourced if prefix), *here.parents]
    folders = [here, *(prefix / 'share' / 'segzero_ros' for prefix in prefixes)]
    for folder in folders:
        path = folder / 'config' / name
        if path.is_file():
            return path
    raise ProfileError(f'config/{name} is not found: source the installation of segzero_ros.')


def _find(profile: str) -> Path:
    if profile not in PROFILES:
        raise ProfileError(f'There is no profile {profile!r}; there are {", ".join(PROFILES)}.')
    return find_config(f'{profile}.yaml')


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f'{path} cannot be read: {error}') from error
    values: dict[str, Any] = {}
    for name, node in content.items() if isinstance(content, dict) else ():
        if name in _NODE_NAMES and isinstance(node, dict):
            values.update(_flattened(node.get('ros__parameters') or {}))
    if not values:
        raise ProfileError(
            f'{path} has no parameters for the node: begin it with /**: and below that '
            'ros__parameters:.'
        )
    return _validated(values, str(path))


def _flattened(group: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values, as rcl reads nested maps of a parameter file."""
    for name, value in group.items():
        if isinstance(value, dict):
            yield from _flattened(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _validated(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    validated = {}
    for name, value in values.items():
        if name not in BY_NAME:
            raise ParameterError(f'{source}: {unknown_parameter(name)}')
        try:
            validated[name] = BY_NAME[name].read(value)
        except ParameterError as error:
            raise ParameterError(f'{source}: {error}') from error
    return validated


def _as_yaml(value: Value) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower()
