"""Servers that speak the OpenAI protocol: one that does what a test says, and a real one."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import threading
import time
from typing import Any
import urllib.request

MODEL = 'VisionReasoner-7B'
THINKING = '<think>The mug is the only vessel here.</think>'
OBJECTS = '[{"bbox_2d": [84,84,420,420], "point_2d": [252,252]}, '
OBJECTS += '{"bbox_2d": [0,0,840,840], "point_2d": [1,2]}]'
ANSWER = f'{THINKING}<answer>{OBJECTS}</answer>'


def piece(text: str = '', finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat completion."""
    choice = {'index': 0, 'delta': {'content': text}, 'finish_reason': finish}
    body = {'id': 'c', 'object': 'chat.completion.chunk', 'created': 0, 'model': MODEL}
    return f'data: {json.dumps({**body, "choices": [choice], **more})}\n\n'.encode()


def pieces_of(text: str, size: int = 7) -> list[bytes]:
    return [piece(text[start : start + size]) for start in range(0, len(text), size)]


# What the published prompt costs beside its image, with the tokens of Qwen's template.
TEXT_TOKENS = 189


def usage(prompt: int, completion: int = 41) -> dict[str, int]:
    counted = {'prompt_tokens': prompt, 'completion_tokens': completion}
    return {**counted, 'total_tokens': prompt + completion}


USAGE = piece(choices=[], usage=usage(TEXT_TOKENS + 900))
DONE = b'data: [DONE]\n\n'
WELL = [*pieces_of(ANSWER), piece(finish='stop'), USAGE, DONE]
HALF = pieces_of(ANSWER)[:6]


def area_tokens(size: tuple[int, int]) -> int:
    """How many tokens Qwen's vision towers make of an image that nobody resizes."""
    return (size[0] // 28) * (size[1] // 28)


class Request(BaseHTTPRequestHandler):
    """One request to the server under the test's control."""

    server: 'Server'

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers, None))
        self.server.listing(self)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if self.body['max_tokens'] == 1:
            self.server.counted.append(self.body)
            self.server.count(self)
            return
        self.server.seen.append((self.path, self.headers, self.body))
        self.server.answer(self)

    def image_size(self) -> tuple[int, int]:
        """Width and height of the image that was sent."""
        (part,) = (part for part in self.body['messages'][-1]['content'] if 'image_url' in part)
        data = base64.b64decode(part['image_url']['url'].partition(',')[2])
        # The rehearsal of an installation runs without it.
        from PIL import Image

        return Image.open(io.BytesIO(data)).size

    def charge(self, tokens: int) -> None:
        """Answer with one token, and say what the prompt cost."""
        if self.body.get('stream'):
            events = [piece('.', 'length'), piece(choices=[], usage=usage(tokens, 1)), DONE]
            self.reply(200, b''.join(events), 'text/event-stream')
            return
        self.whole('.', 'length', usage=usage(tokens, 1))

    def whole(self, text: str, finish: str = 'stop', **more: Any) -> None:
        """Answer with a completion that is not streamed."""
        choice = {'index': 0, 'message': {'role': 'assistant', 'content': text}}
        body = {'id': 'c', 'object': 'chat.completion', 'created': 0, 'model': MODEL}
        self.reply(200, {**body, 'choices': [{**choice, 'finish_reason': finish}], **more})

    def reply(
        self,
        status: int,
        body: bytes | dict,
        kind: str = 'application/json',
        headers: dict[str, str] | None = None,
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def stream(self, events: list[bytes]) -> None:
        """Send events and end the connection, as a server does that closes after the answer."""
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.end_headers()
        for event in events:
            self.wfile.write(event)

    def hung_up(self) -> bool:
        """Wait until the client closes the connection; whether it did."""
        self.connection.settimeout(20)
        return self.connection.recv(1) == b''

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Speaks HTTP on a free port; tests say what it answers."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(('127.0.0.1', port), Request)
        self.url = f'http://127.0.0.1:{self.server_port}/v1'
        self.seen: list[tuple[str, Any, Any]] = []
        # Requests that only ask what an image costs.
        self.counted: list[Any] = []
        self.count: Callable[[Request], None] = lambda request: request.charge(
            TEXT_TOKENS + area_tokens(request.image_size())
        )
        self.owner = 'vllm'
        self.listing: Callable[[Request], None] = self.list_the_model
        self.answer: Callable[[Request], None] = lambda request: request.stream(WELL)
        self.done = threading.Event()

    def list_the_model(self, request: Request) -> None:
        entry = {'id': MODEL, 'object': 'model', 'created': 0, 'owned_by': self.owner}
        request.reply(200, {'object': 'list', 'data': [entry]})

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are what is tested here."""


@contextmanager
def running(port: int = 0) -> Iterator[Server]:
    """Run a scripted server on a port, a free one by default."""
    with Server(port) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,)).start()
        try:
            yield made
        finally:
            made.shutdown()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        return taken.getsockname()[1]


# Seconds; transformers alone takes a minute to import on a busy machine.
_START_TIMEOUT = 600.0


def _wait_for_server(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers; fail with its output if it ends."""
    deadline = time.monotonic() + _START_TIMEOUT
    pause = threading.Event()
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            pause.wait(0.2)
    raise AssertionError(f'no server at {url}: {log.read_text()}')


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[str]:
    """Run `transformers serve` with a model in a process of its own; give its address.

    Args:
        model: folder of the checkpoint, and the name that it is served by.
        folder: an empty one, for its cache and its log.
    """
    (folder / 'hub').mkdir()
    port = free_port()
    command = [Path(sys.executable).with_name('transformers'), 'serve', model]
    command += ['--host', '127.0.0.1', '--port', port, '--device', 'cpu']
    environment = {**os.environ, 'HF_HOME': str(folder), 'HF_HUB_OFFLINE': '1'}
    log = folder / 'log'
    with log.open('w') as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=output, env=environment
        )
    try:
        _wait_for_server(f'http://127.0.0.1:{port}/health', process, log)
        yield f'http://127.0.0.1:{port}/v1'
    finally:
        process.terminate()
        process.wait(20)
