"""An agent uses the running node by the Model Context Protocol, with the library's own client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from contextlib import suppress
import json
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
from typing import Any
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

pytest.importorskip('mcp')

from mcp import Client as McpClient
from mcp import StdioServerParameters
from std_srvs.srv import Trigger

from segzero_ros.msg import SegmentationResult as Result

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ['-c', 'from segzero_ros.cli.main import main; raise SystemExit(main())', 'mcp']


@pytest.fixture(scope='module')
def node(scripted_node):
    return scripted_node()


@pytest.fixture(scope='module')
def client(node, new_client, red_and_blue):
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.picture = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)
    client.tracked = client.listen(Result, 'tracked', 10)
    return client


def server(*arguments: str) -> StdioServerParameters:
    """Return how an agent starts `segzero mcp`."""
    return StdioServerParameters(
        command=sys.executable,
        args=[*COMMAND, *arguments],
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'},
    )


def with_agent(where: Any, work: Callable[[McpClient], Coroutine[Any, Any, None]]) -> None:
    """Run an agent's work with a client that is connected to a server."""

    async def run() -> None:
        async with McpClient(where) as agent:
            await work(agent)

    asyncio.run(run())


def text_of(result: Any) -> str:
    return str(next(part.text for part in result.content if part.type == 'text'))


def picture_of(result: Any) -> np.ndarray:
    (part,) = [part for part in result.content if part.type == 'image']
    assert part.mime_type == 'image/jpeg'
    data = np.frombuffer(base64.b64decode(part.data), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


@pytest.fixture(scope='module')
def served(node):
    """A server over HTTP, which ends by Ctrl-C: its process and its address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    process = type(node)([sys.executable, *COMMAND, '--namespace', '/', '--http', str(port)])
    try:
        process.wait_for_output('Uvicorn running')
        yield process, f'http://127.0.0.1:{port}/mcp'
        code, seconds = process.stop()
        assert code in (0, 130)
        assert seconds < 5
        assert 'Traceback' not in process.output
    finally:
        process.kill()


@pytest.mark.usefixtures('client')
def test_the_tools_say_what_they_do_and_take(served) -> None:
    async def work(agent: McpClient) -> None:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        assert set(tools) == {'ask', 'look', 'track', 'stop'}
        assert all(tool.description for tool in tools.values())
        asked = tools['ask'].input_schema
        assert asked['required'] == ['query']
        assert 'count' in asked['properties']['task']['enum']
        assert [name for name, tool in tools.items() if tool.annotations.read_only_hint] == [
            'ask',
            'look',
        ]

    with_agent(served[1], work)


@pytest.mark.usefixtures('client')
def test_an_answer_is_compact_json_without_masks() -> None:
    async def work(agent: McpClient) -> None:
        result = await agent.call_tool('ask', {'query': 'a thing', 'task': 'segment'})
        assert not result.is_error
        assert len(result.content) == 1
        assert json.loads(text_of(result)) == {
            'status': 'OK',
            'answer': 'a thing',
            'reasoning': 'done',
            'objects': [{'label': 'a thing', 'score': 1.0, 'box': [80, 60, 240, 180]}],
        }
        counted = await agent.call_tool('ask', {'query': 'seven', 'task': 'count'})
        assert json.loads(text_of(counted))['answer'] == '7'
        drawn = await agent.call_tool('ask', {'query': 'a thing', 'with_image': True})
        assert picture_of(drawn).shape[1] >= 320

    with_agent(server('--namespace', '/'), work)


@pytest.mark.usefixtures('client')
def test_it_looks_through_the_nodes_camera(served, red_and_blue) -> None:
    async def work(agent: McpClient) -> None:
        seen = await agent.call_tool('look', {})
        assert json.loads(text_of(seen)) == {
            'width': 320,
            'height': 240,
            'frame': 'camera_optical_frame',
        }
        difference = cv2.absdiff(picture_of(seen)[..., ::-1], red_and_blue)
        assert difference.mean() < 4

    with_agent(served[1], work)


@pytest.mark.usefixtures('client')
def test_errors_say_what_to_do(served) -> None:
    async def work(agent: McpClient) -> None:
        failed = await agent.call_tool('ask', {'query': 'explode'})
        assert failed.is_error
        assert re.search('ERROR: .*exploded as told', text_of(failed))
        empty = await agent.call_tool('ask', {'query': ' '})
        assert empty.is_error
        assert 'REJECTED: The query is empty' in text_of(empty)
        unknown = await agent.call_tool('ask', {'query': 'x', 'task': 'dance'})
        assert unknown.is_error
        assert 'segment' in text_of(unknown)
        # The session goes on.
        assert not (await agent.call_tool('ask', {'query': 'a thing'})).is_error

    with_agent(served[1], work)


def test_without_a_node_each_call_says_what_there_is_instead() -> None:
    async def work(agent: McpClient) -> None:
        for tool, arguments in (('ask', {'query': 'x'}), ('look', {}), ('stop', {})):
            result = await agent.call_tool(tool, arguments)
            assert result.is_error
            assert 'There is no perception node in the namespace /elsewhere.' in text_of(result)

    with_agent(server('--namespace', 'elsewhere'), work)


def test_objects_are_tracked_until_stop(served, client) -> None:
    async def work(agent: McpClient) -> None:
        client.tracked.forget()
        result = await agent.call_tool('track', {'query': 'a thing to follow'})
        assert json.loads(text_of(result))['status'] == 'OK'
        await asyncio.to_thread(client.tracked.wait_for)
        assert client.get_parameter('track') is True
        await agent.call_tool('stop', {})
        assert client.get_parameter('track') is False
        lost = await agent.call_tool('track', {'query': 'explode'})
        assert lost.is_error
        assert client.get_parameter('track') is False

    with_agent(served[1], work)


def test_an_agent_that_finds_nothing_does_not_end_what_another_tracks(served, client) -> None:
    async def work(agent: McpClient) -> None:
        async with McpClient(served[1]) as other:
            found = await agent.call_tool('track', {'query': 'a thing to keep'})
            assert not found.is_error
            assert (await other.call_tool('track', {'query': 'explode'})).is_error
            assert client.get_parameter('track') is True
            client.tracked.forget()
            again = await asyncio.to_thread(client.tracked.wait_for)
            assert again.query == 'a thing to keep'
            stopped = json.loads(text_of(await other.call_tool('stop', {})))
            assert stopped['message'] == 'There was no query. Nothing is tracked any more.'
            assert client.get_parameter('track') is False

    with_agent(served[1], work)


@pytest.mark.parametrize('end', ['the agent leaves', 'SIGINT'])
def test_the_server_ends_while_a_query_is_being_answered(client, end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, *COMMAND, '--namespace', '/', '--timeout', '600'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'},
    )
    about = {'protocolVersion': '2025-06-18', 'capabilities': {}}
    about['clientInfo'] = {'name': 'test', 'version': '1'}
    call = {'name': 'ask', 'arguments': {'query': 'count for ever'}}
    messages = [
        {'id': 1, 'method': 'initialize', 'params': about},
        {'method': 'notifications/initialized'},
        {'id': 2, 'method': 'tools/call', 'params': call},
    ]
    assert process.stdin is not None
    client.reasoning.forget()
    try:
        for message in messages:
            process.stdin.write(json.dumps({'jsonrpc': '2.0', **message}) + '\n')
            process.stdin.flush()
        client.reasoning.wait_for()
        if end == 'SIGINT':
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        client.call(Trigger, 'cancel', Trigger.Request())
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert 'Traceback' not in errors


def test_stop_ends_the_query_that_is_being_answered(served, client) -> None:
    async def work(agent: McpClient) -> None:
        client.reasoning.forget()
        asked = asyncio.create_task(agent.call_tool('ask', {'query': 'count for ever'}))
        await asyncio.to_thread(client.reasoning.wait_for)
        stopped = await agent.call_tool('stop', {})
        assert not stopped.is_error
        result = await asked
        assert result.is_error
        assert 'CANCELED: ' in text_of(result)

    with_agent(served[1], work)


@pytest.mark.usefixtures('client')
def test_agents_of_this_machine_connect_by_http_and_nobody_else(served) -> None:
    process, address = served

    async def work(agent: McpClient) -> None:
        result = await agent.call_tool('ask', {'query': 'a thing', 'task': 'segment'})
        assert json.loads(text_of(result))['status'] == 'OK'

    with_agent(address, work)
    assert listening(process.process.pid) == {'127.0.0.1'}
    # A web page that has its own name lead here is not served.
    headers = {'Host': 'example.com', 'Content-Type': 'application/json'}
    request = urllib.request.Request(address, b'{}', headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 421


@pytest.mark.usefixtures('client')
def test_fifty_calls_in_a_row_leave_nothing_behind(served) -> None:
    process, address = served

    async def work(agent: McpClient) -> None:
        async def calls(count: int) -> None:
            for _ in range(count):
                assert not (await agent.call_tool('look', {})).is_error
                arguments = {'query': 'a thing', 'with_image': True}
                assert not (await agent.call_tool('ask', arguments)).is_error

        # The first ones make what is kept: threads, buffers, the middleware's pools.
        await calls(10)
        before = used(process.process.pid)
        await calls(25)
        after = used(process.process.pid)
        assert after['files'] <= before['files']
        assert after['threads'] <= before['threads']
        assert after['memory_kb'] < before['memory_kb'] + 10_000

    with_agent(address, work)


def listening(process_id: int) -> set[str]:
    """Return the addresses at which a process listens for TCP."""
    sockets = set()
    for link in Path(f'/proc/{process_id}/fd').iterdir():
        with suppress(FileNotFoundError):
            sockets.add(link.readlink().name)
    addresses = set()
    for name in ('tcp', 'tcp6'):
        for line in Path(f'/proc/{process_id}/net/{name}').read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == '0A' and f'socket:[{fields[9]}]' in sockets:
                raw = bytes.fromhex(fields[1].partition(':')[0])
                addresses.add('.'.join(map(str, raw[::-1])) if len(raw) == 4 else raw.hex())
    return addresses


def used(process_id: int) -> dict[str, int]:
    """Return the open files, the threads and the memory of a process."""
    status = Path(f'/proc/{process_id}/status').read_text()
    numbers = dict(re.findall(r'(Threads|VmRSS):\s+(\d+)', status))
    return {
        'files': len(list(Path(f'/proc/{process_id}/fd').iterdir())),
        'threads': int(numbers['Threads']),
        'memory_kb': int(numbers['VmRSS']),
    }
