"""A profile's parameters without ROS: `config/<profile>.yaml` and what overrules it.

The node reads the same files through rclpy; what a model is made from is told in one place, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from segzero_ros import loading
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.types import SegZeroError

PROFILES = ('robot', 'remote', 'offline', 'mini')
# For other nodes these files say nothing.
_NAMES = ('/**', 'perception', '/perception', '/segzero/perception')


class ProfileError(SegZeroError):
    """A profile or a parameter cannot be used; the text names the cause and the cure."""


def read_profile(
    profile: str, params_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the parameters that a node of this profile has.

    Args:
        profile: one of PROFILES.
        params_file: overrules the profile, as the launch file's `params_file`.
        overrides: overrule both, by name.

    Raises:
        ProfileError: a file cannot be read, or a parameter does not exist or has another type.
    """
    values = _read_file(_find(profile))
    for source, given in (
        (str(params_file), _read_file(params_file) if params_file else {}),
        ('the command line', dict(overrides or {})),
    ):
        for name, value in given.items():
            values[name] = _checked(name, value, values, source)
    return values


def reasoner_options(value: Callable[[str], Any]) -> ReasonerOptions:
    """Return what the reasoner is made from; `value` gives a parameter's value by name."""
    return ReasonerOptions(
        backend=value('reasoner'),
        model=value('reasoner_model'),
        dialect=value('dialect'),
        answer_parser=value('answer_parser'),
        device=value('reasoner_device') or value('device'),
        dtype=value('reasoner_dtype'),
        quantization=value('quantization'),
        max_new_tokens=value('max_new_tokens'),
        time_limit=value('time_limit'),
        seed=value('seed'),
        offline=value('offline'),
        fast=value('fast'),
        base_url=value('base_url'),
        api_key_env=value('api_key_env'),
        constrain_answer=value('constrain_answer'),
    )


def segmenter_options(value: Callable[[str], Any]) -> SegmenterOptions:
    """Return what the segmenter is made from; `value` gives a parameter's value by name."""
    return SegmenterOptions(
        backend=value('segmenter'),
        model=value('segmenter_model'),
        config=value('segmenter_config'),
        device=value('segmenter_device') or value('device'),
        dtype=value('segmenter_dtype'),
        offline=value('offline'),
    )


def load_pipeline(parameters: Mapping[str, Any]) -> Pipeline:
    """Load the models that parameters name, as `loading.load_pipeline` does."""
    value = parameters.__getitem__
    return loading.load_pipeline(reasoner_options(value), segmenter_options(value))


def _find(profile: str) -> Path:
    if profile not in PROFILES:
        raise ProfileError(f'There is no profile {profile!r}; there are {", ".join(PROFILES)}.')
    return find_config(f'{profile}.yaml')


def find_config(name: str) -> Path:
    """Return where a file of `config/` is; raise ProfileError when it is not installed."""
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


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f'{path} cannot be read: {error}') from error
    values: dict[str, Any] = {}
    for name, node in content.items() if isinstance(content, dict) else ():
        if name in _NAMES and isinstance(node, dict):
            values.update(node.get('ros__parameters') or {})
    if not values:
        raise ProfileError(
            f'{path} names no parameters for the node: begin it with /**: and below that '
            'ros__parameters:.'
        )
    return values


def _checked(name: str, value: Any, values: Mapping[str, Any], source: str) -> Any:
    if name not in values:
        near = difflib.get_close_matches(name, values, 1, cutoff=0.0)
        raise ProfileError(
            f'{source}: there is no parameter {name!r}; the nearest is {near[0]!r}.'
        )
    wanted = type(values[name])
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ProfileError(f'{source}: {name} must be like {values[name]!r}, not {value!r}.')
    return value
