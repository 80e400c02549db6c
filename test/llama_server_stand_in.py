"""Plays llama-server: `serves` lists the model that it was started with, `dies` fails at once."""

from http.server import BaseHTTPRequestHandler, HTTPServer
import json
import os
import sys


class Request(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = [{'id': value('--alias'), 'object': 'model', 'owned_by': 'llamacpp'}]
        content = json.dumps({'object': 'list', 'data': models, 'status': 'ok'}).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def value(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]


if sys.argv[1] == 'dies':
    sys.exit('no such architecture')
extra = ' '.join(sys.argv[-2:])
url = f'http://127.0.0.1:{value("--port")}/v1'
print(f'process {os.getpid()}: serving {value("--alias")} at {url}, asked for {extra}', flush=True)  # noqa: T201
HTTPServer((value('--host'), int(value('--port'))), Request).serve_forever()
