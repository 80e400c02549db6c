"""Tools of the Model Context Protocol, with which an agent uses a running perception node.

Answers are compact JSON without masks, which would fill a language model's context.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
import functools
import json
import math
from typing import Any, Literal, ParamSpec, TypeVar

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from segzero_ros.ros.client.agent_client import AgentClient
from segzero_ros.srv import Ask
from segzero_ros.types import SegZeroError, Status

INSTRUCTIONS = """\
Tools for a robot's camera. Ask in plain language about what it sees; look at its picture when you
need to know what there is. Boxes are [x1, y1, x2, y2] in pixels of the camera's image; positions
and sizes are metres in the frame that is named beside them, orientations are quaternions
[x, y, z, w]. NOT_FOUND is an answer: there is no such thing in view."""
LogLevel = Literal['INFO', 'WARNING']
Task = Literal['auto', 'segment', 'detect', 'count', 'answer', 'point']

_Arguments = ParamSpec('_Arguments')
_Result = TypeVar('_Result')


def make_server(client: AgentClient, version: str, log_level: LogLevel) -> MCPServer:
    """Return a server with the tools `ask`, `look`, `track` and `stop`.

    Args:
        client: of the node.
        version: this package's.
        log_level: of what the library writes to standard error.
    """
    server: MCPServer = MCPServer(
        'segzero', instructions=INSTRUCTIONS, version=version, log_level=log_level
    )
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    acts = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)

    @server.tool(annotations=reads, structured_output=False)
    @_told
    def ask(query: str, task: Task = 'auto', with_image: bool = False) -> list[Any]:
        """Ask about what the camera sees now.

        Args:
            query: in plain language, such as "something to drink from".
            task: auto chooses by the sentence; segment and detect find objects, count counts them,
                answer tells in words, point gives places.
            with_image: also return the picture with what was found drawn into it.
        """
        response = client.ask(query, task, with_overlay=with_image)
        parts: list[Any] = [_as_json(response)]
        if response.overlay.data:
            parts.append(Image(data=bytes(response.overlay.data), format='jpeg'))
        return parts

    @server.tool(annotations=reads, structured_output=False)
    @_told
    def look() -> list[Any]:
        """Return the newest picture of the camera."""
        view = client.look()
        width, height = view.size
        facts = {'width': width, 'height': height, 'frame': view.frame_id}
        return [_compact(facts), Image(data=view.jpeg, format='jpeg')]

    @server.tool(annotations=acts, structured_output=False)
    @_told
    def track(query: str) -> str:
        """Find objects and follow them from now on, for the robot's other programs; stop ends it.

        Objects that are found later, by ask too, are followed in their place.

        Args:
            query: in plain language, such as "the person in the red jacket".
        """
        return _as_json(client.track(query))

    @server.tool(annotations=acts, structured_output=False)
    @_told
    def stop() -> str:
        """Stop the query that is being answered, drop the waiting ones, and end tracking."""
        return _compact({'status': 'OK', 'message': client.stop()})

    return server


def _told(tool: Callable[_Arguments, _Result]) -> Callable[_Arguments, Awaitable[_Result]]:
    """Run a tool in a thread, and have its errors reach the agent with their text.

    The thread of a call that is cancelled is left behind: otherwise the server would stay until
    the answer is there after its agent has gone.
    """

    @functools.wraps(tool)
    async def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        call = functools.partial(tool, *args, **kwargs)
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        except SegZeroError as error:
            raise ToolError(str(error)) from error

    return run


def _as_json(response: Ask.Response) -> str:
    fields: dict[str, Any] = {'status': Status(response.status).name, 'answer': response.answer}
    if response.message:
        fields['message'] = response.message
    if response.reasoning:
        fields['reasoning'] = response.reasoning
    fields['objects'] = [_object(response, index) for index in range(len(response.boxes))]
    return _compact(fields)


def _object(response: Ask.Response, index: int) -> dict[str, Any]:
    box, pose, size = response.boxes[index], response.poses[index], response.sizes[index]
    right, bottom = box.x_offset + box.width, box.y_offset + box.height
    found: dict[str, Any] = {'label': response.labels[index]}
    if not math.isnan(response.scores[index]):
        found['score'] = round(float(response.scores[index]), 3)
    found['box'] = [box.x_offset, box.y_offset, right, bottom]
    if pose.header.frame_id:
        at, turned = pose.pose.position, pose.pose.orientation
        found['frame'] = pose.header.frame_id
        found['position'] = _rounded(at.x, at.y, at.z)
        found['orientation'] = _rounded(turned.x, turned.y, turned.z, turned.w)
        found['size'] = _rounded(size.x, size.y, size.z)
    return found


def _rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]


def _compact(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(',', ':'))
