"""Real model servers, each in an environment of its own, asked as a client would ask them.

`SEGZERO_SERVERS` names the folder of the environments, else `out/servers`; one that is not there
is made (`test/servers/environments.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any
import urllib.error
import urllib.request

import cv2

from benchmarks.fitted_checkpoint import Fitted
from segzero_ros import serving

_TESTS = Path(__file__).resolve().parent.parent / 'test' / 'servers'
# Seconds: vLLM compiles.
_READY_TIMEOUT = 600.0


class Failed(Exception):
    """A way of answering is not there; the text is one sentence."""


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        first: seconds from the question to the first token.
        last: seconds to the last token.
        tokens: the tokens, the end token included; empty if only the text is known.
        text: the text, of a server.
        written: number of tokens of a text.
    """

    first: float
    last: float
    tokens: list[int] = field(default_factory=list)
    text: str = ''
    written: int = 0

    @property
    def count(self) -> int:
        """Number of tokens, the end token included."""
        return len(self.tokens) or self.written


def environment(name: str) -> Path:
    """Return the environment of a server, which is made if it is not there.

    Raises:
        Failed: it cannot be made.
    """
    root = Path(os.environ.get('SEGZERO_SERVERS', 'out/servers')).resolve()
    folder = root / name
    failed = folder.with_suffix('.failed')
    if not (folder / 'bin').is_dir() and not failed.exists():
        subprocess.run([sys.executable, str(_TESTS / 'environments.py'), str(root), name])
    if failed.exists():
        raise Failed(f'it cannot be installed here ({failed.read_text().strip()})')
    if not (folder / 'bin').is_dir():
        raise Failed(f'there is no environment {folder}')
    return folder


def tree_memory(pid: int) -> tuple[float, float]:
    """Return the memory of a process and those it started, MB: resident now, and at most."""
    parents = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
        except (OSError, ValueError):
            continue
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    totals = {'VmRSS': 0, 'VmHWM': 0}
    for each in tree:
        try:
            lines = Path(f'/proc/{each}/status').read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(':')
            if name in totals:
                totals[name] += int(value.split()[0])
    return totals['VmRSS'] / 1024, totals['VmHWM'] / 1024


class Server:
    """A server that answers OpenAI's chat completions."""

    def __init__(
        self,
        stack: ExitStack,
        fitted: Fitted,
        folder: Path,
        command: Sequence[str],
        port: int,
        *,
        precision: str,
        extra: dict[str, Any],
    ) -> None:
        log = folder / f'{Path(command[0]).name}_{port}.log'
        output = stack.enter_context(log.open('w'))
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, 'HF_HUB_OFFLINE': '1'},
        )
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        self.pid = process.pid
        self.precision = precision
        self._url = f'{serving.base_url(port)}/chat/completions'
        self._fitted = fitted
        self._body = json.dumps(self._question() | extra).encode()
        health = serving.base_url(port).replace('/v1', '/health')
        started = time.monotonic()
        while not _answers(health):
            if process.poll() is not None or time.monotonic() - started > _READY_TIMEOUT:
                lines = log.read_text(errors='replace').splitlines()
                errors = [line for line in lines if 'rror' in line] or lines or ['no word']
                raise Failed(f'the server does not start: {errors[-1].strip()[-200:]}')
            time.sleep(0.2)

    def _question(self) -> dict[str, Any]:
        bgr = cv2.cvtColor(self._fitted.image, cv2.COLOR_RGB2BGR)
        png = base64.b64encode(cv2.imencode('.png', bgr)[1].tobytes()).decode()
        content = [
            {'type': 'image_url', 'image_url': {'url': f'data:image/png;base64,{png}'}},
            {'type': 'text', 'text': self._fitted.prompt},
        ]
        return {
            'model': 'fitted',
            'messages': [{'role': 'user', 'content': content}],
            'max_tokens': len(self._fitted.answer),
            'temperature': 0,
            'stream': True,
            'stream_options': {'include_usage': True},
        }

    def ask(self) -> Reply:
        """Answer the question."""
        request = urllib.request.Request(
            self._url, self._body, {'Content-Type': 'application/json'}
        )
        started = time.perf_counter()
        first = last = 0.0
        text, written = '', 0
        try:
            with urllib.request.urlopen(request, timeout=_READY_TIMEOUT) as stream:
                for line in stream:
                    data = line.removeprefix(b'data: ').strip()
                    if not data.startswith(b'{'):
                        continue
                    chunk = json.loads(data)
                    written = (chunk.get('usage') or {}).get('completion_tokens', written)
                    for choice in chunk['choices']:
                        more = choice['delta'].get('content')
                        if more or choice['finish_reason']:
                            last = time.perf_counter() - started
                            first = first or last
                            text += more or ''
        except (OSError, KeyError) as error:
            raise Failed(f'the server does not answer: {error}') from error
        if written < 2:
            raise Failed('the server does not report the number of tokens')
        return Reply(first, last, text=text, written=written)


def _answers(health: str) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


class LlamaCpp(Server):
    """llama.cpp's server with a checkpoint that its own converter has converted."""

    def __init__(self, stack: ExitStack, fitted: Fitted, folder: Path, weights: str) -> None:
        """`weights` is the converter's `--outtype`; the vision tower is f32 or f16."""
        programs = environment('llama_cpp')
        models = folder / f'gguf_{weights}'
        models.mkdir()
        converter = [sys.executable, str(_TESTS / 'convert.py'), str(programs / 'converter')]
        needs = {**os.environ, 'PYTHONPATH': str(programs / 'converter-needs')}
        # The projector is not quantised.
        projector = 'f16' if weights == 'q8_0' else weights
        for name, options in (
            ('model.gguf', ['--outtype', weights]),
            ('mmproj.gguf', ['--mmproj', '--outtype', projector]),
        ):
            words = [str(fitted.folder), *options, '--outfile', str(models / name)]
            done = subprocess.run([*converter, *words], env=needs, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f'the converter fails: {done.stderr.strip().splitlines()[-1]}')
        port = serving.free_port()
        command = serving.llama_cpp(str(models / 'model.gguf'), port, ['--device', 'none'])
        command[0] = str(programs / 'bin' / command[0])
        # Otherwise it remembers the last prompt.
        extra = {'cache_prompt': False}
        super().__init__(stack, fitted, folder, command, port, precision=weights, extra=extra)


class Vllm(Server):
    """vLLM's server, without its memory of earlier prompts and images."""

    def __init__(
        self, stack: ExitStack, fitted: Fitted, folder: Path, extra: Sequence[str]
    ) -> None:
        programs = environment('vllm')
        port = serving.free_port()
        options = ['--no-enable-prefix-caching', '--mm-processor-cache-gb', '0']
        options += ['--gpu-memory-utilization', '0.2', '--dtype', 'bfloat16', *extra]
        command = serving.vllm(str(fitted.folder), port, options)
        command[0] = str(programs / 'bin' / command[0])
        command[command.index('--served-model-name') + 1] = 'fitted'
        super().__init__(stack, fitted, folder, command, port, precision='bfloat16', extra={})
