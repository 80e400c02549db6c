"""Profiles and parameter files of the perception node, for node, CLI and replay.

A profile is a parameter file of the package, `config/<profile>.yaml`. It holds only what differs
from the defaults of the table. A user's own file and single values override it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import os
from pathlib import Path
from typing import Any

import yaml

from segzero_ros import loading
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.parameter_table import (
    BY_NAME,
    ParameterError,
    ProfileError,
    SPECS,
    unknown_parameter,
)
from segzero_ros.pipeline import Pipeline

PROFILES = ('robot', 'remote', 'offline', 'mini')
# The names under which a parameter file addresses the node.
_NODE_NAMES = ('/**', 'perception', '/perception', '/segzero/perception')


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
        runtime=value('advanced.segmenter.runtime'),
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
