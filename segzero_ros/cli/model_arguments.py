"""Command-line arguments for the models: a profile and overrides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from segzero_ros.config import PROFILES, read_profile
from segzero_ros.types import SegZeroError


class BadArgument(SegZeroError):
    """An invalid argument; the message says what is valid."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose the models."""
    models = parser.add_argument_group('the models')
    models.add_argument(
        '--profile', choices=PROFILES, default='robot', help='default: %(default)s'
    )
    models.add_argument('--params-file', type=Path, help='parameter file; overrides the profile')
    models.add_argument(
        '-p',
        '--param',
        action='append',
        default=[],
        metavar='NAME:=VALUE',
        help='parameter; overrides both; repeatable',
    )


def read_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that result from the arguments."""
    return read_profile(options.profile, options.params_file, read_overrides(options.param))


def read_overrides(given: list[str]) -> dict[str, Any]:
    """Return the values of NAME:=VALUE texts by name; raise BadArgument for another text."""
    import yaml

    overrides = {}
    for text in given:
        name, separator, value = text.partition(':=')
        if not separator:
            raise BadArgument(f'{text!r} is not NAME:=VALUE, such as device:=cpu.')
        try:
            overrides[name] = yaml.safe_load(value) if value else ''
        except yaml.YAMLError as error:
            raise BadArgument(f'{text!r}: the value cannot be read: {error}') from error
    return overrides
