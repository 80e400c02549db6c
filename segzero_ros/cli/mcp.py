"""`segzero mcp`: a server of the Model Context Protocol for a running node."""

from __future__ import annotations

import argparse
from contextlib import closing

_HOST = '127.0.0.1'

EPILOG = """\
examples:
  segzero mcp                    an agent starts this and talks to its standard input and output
  segzero mcp --http 8765        agents on this machine connect to http://127.0.0.1:8765/mcp
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        '--namespace', default='segzero', help='namespace of the node (default: %(default)s)'
    )
    parser.add_argument(
        '--http',
        type=int,
        metavar='PORT',
        help='serve HTTP on this port of this machine alone, instead of standard input and output',
    )
    parser.add_argument(
        '--timeout',
        type=float,
        default=120.0,
        help='seconds that an answer may take (default: %(default)g)',
    )


def run(options: argparse.Namespace) -> int:
    """Serve until the agent leaves, or until Ctrl-C."""
    from segzero_ros.cli.main import version
    from segzero_ros.ros.client.agent_client import AgentClient
    from segzero_ros.ros.mcp_server import make_server

    with closing(AgentClient(options.namespace, options.timeout)) as client:
        if options.http is None:
            make_server(client, version(), 'WARNING').run('stdio')
        else:
            server = make_server(client, version(), 'INFO')
            server.run('streamable-http', host=_HOST, port=options.http)
    return 0
