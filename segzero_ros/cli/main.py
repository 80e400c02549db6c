"""The command `segzero`, which runs a subcommand's module.

A subcommand is a module of this package with `add_arguments(parser)` and `run(options) -> int`. It
imports its dependencies inside `run`, so that `segzero --help` needs neither ROS nor a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module, metadata
import sys

from segzero_ros.cli.child_processes import installed
from segzero_ros.cli.download_progress import shown_on_terminal
from segzero_ros.conversions.text import printable
from segzero_ros.extras import explain
from segzero_ros.types import SegZeroError

# Each subcommand, which is also a module of this package, and its purpose.
COMMANDS = {
    'annotate': 'make training rows from accepted answers about a bag, or from a data set',
    'ask': 'query a running node about its camera, or about an image file',
    'demo': 'run the real node on real photographs and generated scenes',
    'doctor': 'check an installation, and report problems with their solutions',
    'evaluate': 'measure models on published data sets, on your own data or on generated scenes',
    'mcp': 'let agents use a running node, over the Model Context Protocol',
    'replay': 'run queries on a recorded bag, and write a bag and a report of the answers',
    'train': 'train a reasoning model with rewards (GRPO) or supervised (SFT)',
}
FAILED = 2
INTERRUPTED = 130


def version() -> str:
    """Return this package's version, as installed by pip or by colcon."""
    try:
        return metadata.version('segzero_ros')
    except metadata.PackageNotFoundError:
        manifest = installed('share/segzero_ros/package.xml', 'package.xml').read_text()
        return manifest.partition('<version>')[2].partition('</version>')[0]


def make_parser(commands: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the given subcommands only."""
    parser = argparse.ArgumentParser(
        prog='segzero', description="Ask a robot's camera in plain language."
    )
    parser.add_argument('--version', action='version', version=f'segzero {version()}')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, purpose in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=purpose,
            description=purpose[0].upper() + purpose[1:] + '.',
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in commands:
            import_module(f'segzero_ros.cli.{name}').add_arguments(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit code, 2 after an error, 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser([word for word in words if word in COMMANDS][:1]).parse_args(words)
    try:
        with shown_on_terminal():
            code: int = import_module(f'segzero_ros.cli.{options.command}').run(options)
    except SegZeroError as error:
        print(printable(f'segzero {options.command}: {error}'), file=sys.stderr)
        return FAILED
    except ImportError as error:
        reason = explain(error)
        if not reason:
            raise
        print(printable(f'segzero {options.command}: {reason}'), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f'segzero {options.command}: interrupted', file=sys.stderr)
        return INTERRUPTED
    return code
