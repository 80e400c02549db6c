"""`segzero doctor`: check an installation, and report problems with their solutions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
import sys
from typing import TYPE_CHECKING

from segzero_ros.cli.model_arguments import add_model_arguments, read_parameters
from segzero_ros.config import reasoner_options, segmenter_options
from segzero_ros.conversions.text import printable

if TYPE_CHECKING:
    from segzero_ros.doctor.checks import Check

PROBLEMS_FOUND = 1
# Width of the table in a file or a pipe, in characters.
WIDTH = 110
_COLOURS = {'OK': 'green', 'WARN': 'yellow', 'FAIL': 'red'}
EPILOG = """\
examples:
  segzero doctor                                      # can the profile robot run here?
  segzero doctor --profile offline --image /camera/color/image_raw
  segzero doctor --profile remote -p server.base_url:=http://10.0.0.5:8000/v1 --no-ros

exit codes: 0 the node can answer queries, 1 a problem prevents it, 2 an invalid argument
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model_arguments(parser)
    graph = parser.add_argument_group('ROS graph')
    graph.add_argument(
        '--namespace', default='segzero', help='namespace of the node; default: %(default)s'
    )
    graph.add_argument('--image', default='', help="the camera's image topic")
    graph.add_argument('--depth', default='', help='its depth topic')
    graph.add_argument('--camera_info', default='', help='its camera_info topic')
    graph.add_argument('--no-ros', action='store_true', help='do not check the ROS graph')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')


def run(options: argparse.Namespace) -> int:
    """Run all checks; return 1 if a problem prevents the node from answering."""
    findings = list(_findings(options))
    if options.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=1))
    else:
        _show(findings)
    return PROBLEMS_FOUND if any(finding.level.value == 'FAIL' for finding in findings) else 0


def _findings(options: argparse.Namespace) -> Iterator[Check]:
    from segzero_ros.doctor.checks import fail
    from segzero_ros.doctor.models import check_models
    from segzero_ros.doctor.packages import check_packages
    from segzero_ros.doctor.shared_memory import check_shared_memory

    parameters = read_parameters(options)
    yield from check_packages()
    yield from check_models(
        reasoner_options(parameters.__getitem__), segmenter_options(parameters.__getitem__)
    )
    if options.no_ros:
        return
    try:
        from segzero_ros.ros.graph_doctor import check_graph
    except ImportError as error:
        hint = (
            'Source ROS 2 and the workspace (. install/setup.bash), or skip the graph with '
            '--no-ros.'
        )
        yield fail('ROS 2', f'cannot be imported: {error}', hint)
        return
    yield from check_shared_memory()
    yield from check_graph(options.namespace, options.image, options.depth, options.camera_info)


def _show(findings: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=False, pad_edge=False)
    for column in ('', 'check', 'finding and solution'):
        # A path that is longer than its column continues in the next line.
        table.add_column(column, overflow='fold')
    for finding in findings:
        level = finding.level.value
        text = Text(printable(finding.message))
        if finding.hint:
            text.append(f'\n→ {printable(finding.hint)}', style='bold')
        table.add_row(Text(level, style=_COLOURS[level]), finding.name, text)
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(table)
