"""A server on 127.0.0.1 that speaks the Hugging Face hub's API, and breaks off when told to."""

from collections.abc import Iterator
from contextlib import contextmanager
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import re
import threading
from urllib.parse import urlsplit

REVISION = 'a' * 40


class _Request(BaseHTTPRequestHandler):
    server: 'HubServer'

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = urlsplit(self.path).path
        found = re.fullmatch(r'/(?:datasets/)?(\w+/[\w.-]+)/resolve/(\w+)/(.+)', path)
        listed = re.fullmatch(
            r'/api/(models|datasets)/(\w+/[\w.-]+)(/tree/.*|/revision/.*)?', path
        )
        if found and self.server.gated:
            self.send_response(403)
            self.send_header('X-Error-Code', 'GatedRepo')
            self.send_header('Content-Length', '0')
            self.end_headers()
        elif found and found[1] == self.server.repository and found[3] in self.server.files:
            self._send_file(found[3], with_body=with_body)
        elif listed and listed[2] == self.server.repository:
            self._send_json(self.server.tree() if 'tree' in (listed[3] or '') else self._info())
        else:
            self.send_response(404)
            if not found:
                self.send_header('X-Error-Code', 'RepoNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()

    def _info(self) -> object:
        return {'id': self.server.repository, 'sha': REVISION, 'siblings': []}

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str, *, with_body: bool) -> None:
        content = self.server.files[name]
        begins = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(begins[1]) if begins else 0
        self.send_response(206 if begins else 200)
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', REVISION)
        self.send_header('Content-Length', str(len(content) - start))
        if begins:
            last = len(content) - 1
            self.send_header('Content-Range', f'bytes {start}-{last}/{len(content)}')
        self.end_headers()
        if not with_body:
            return
        self.server.sent.append((name, start))
        end = min(len(content), self.server.cut.get(name, len(content)))
        self.wfile.write(content[start:end])
        if name in self.server.hold:
            self.wfile.flush()
            self.server.release.wait(300)
        if end < len(content):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class HubServer(ThreadingHTTPServer):
    """Serves one repository.

    Attributes:
        repository: its name.
        files: its files' contents.
        cut: how many bytes of a file are sent before the connection is closed.
        hold: files whose connection is kept open, after what was sent of them, until `release`.
        gated: whether its files are refused until access was granted.
        sent: which files were asked for, and from which byte on.
    """

    daemon_threads = True

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        super().__init__(('127.0.0.1', 0), _Request)
        self.repository = repository
        self.files = files
        self.cut: dict[str, int] = {}
        self.hold: set[str] = set()
        self.gated = False
        self.release = threading.Event()
        self.sent: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        """Where it listens, for HF_ENDPOINT."""
        return f'http://127.0.0.1:{self.server_port}'

    def tree(self) -> list[dict[str, object]]:
        """The list of files, as the hub gives it."""
        return [
            {'type': 'file', 'path': name, 'size': len(content), 'oid': f'{number:040x}'}
            for number, (name, content) in enumerate(self.files.items(), 1)
        ]


@contextmanager
def hub_server(repository: str, files: dict[str, bytes]) -> Iterator[HubServer]:
    """Serve one repository until the end of the block."""
    with HubServer(repository, files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
        thread.join()
