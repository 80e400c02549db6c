"""Which models a subcommand loads: a profile, and what overrules it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segzero_ros.profiles import PROFILES, read_profile
from segzero_ros.types import SegZeroError


class BadArgument(SegZeroError):
    """An argument cannot be used; the text says what would do."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name the models."""
    models = parser.add_argument_group('the models')
    models.add_argument(
        '--profile', choices=PROFILES, default='robot', help='default: %(default)s'
    )
    models.add_argument('--params-file', type=Path, help='overrules the profile')
    models.add_argument(
        '-p',
        '--param',
        action='append',
        default=[],
        metavar='NAME:=VALUE',
        help='overrules both; repeatable',
    )


def read_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that the arguments name."""
    return read_profile(options.profile, options.params_file, read_overrides(options.param))


def read_overrides(given: list[str]) -> dict[str, Any]:
    """Return values by name of NAME:=VALUE texts; raise BadArgument where one is none."""
    import yaml

    overrides = {}
    for text in given:
        name, separator, value = text.partition(':=')
        if not separator:
            raise BadArgument(f'{text!r} is no NAME:=VALUE, such as reasoner:=attributes.')
        try:
            overrides[name] = yaml.safe_load(value) if value else ''
        except yaml.YAMLError as error:
            raise BadArgument(f'{text!r}: the value cannot be read: {error}') from error
    return overrides
