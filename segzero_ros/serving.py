"""Run a local model server for the duration of a command.

    python3 -m segzero_ros.serving llama_cpp --model vr-7b-q4_k_m.gguf --port 8000 -- COMMAND …

starts the server on 127.0.0.1, waits until it is ready, runs the command and stops the server
afterwards. If the server exits, the command is stopped. The launch file uses it as the node's
prefix (`serve:=…`).
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Sequence
import ctypes
import http.client
import os
from pathlib import Path
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from segzero_ros.types import SegZeroError

HOST = '127.0.0.1'
# Context length in tokens, for an image, a query and an answer (docs/serving.md).
CONTEXT = 4096
# Loading 16 GB from a slow disk and compiling takes minutes. Seconds.
READY_TIMEOUT = 900.0
# Interval of health checks while the server loads, in seconds.
POLL = 0.2
# Signals to stop the command, and the server, each with a timeout in seconds.
_COMMAND_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
_SERVER_SIGNALS = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
_FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Number of the server's output lines that are kept, and characters of the last one to quote.
_KEPT_LINES = 20
_MAX_QUOTE_LENGTH = 300
_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ServingError(SegZeroError):
    """A server cannot be started, or has exited; the text gives the reason and a hint."""


def llama_cpp(model: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """Return the command of llama.cpp's server.

    Args:
        model: a GGUF file with its vision projector (`*mmproj*.gguf`) beside it, or a folder with
            one such pair; also the served model's name.
        port: to listen on.
        extra: further arguments of llama-server, which override the ones set here.

    Raises:
        ServingError: there is no such pair.
    """
    weights, projector = _gguf_pair(Path(model).expanduser(), '--mmproj' not in extra)
    command = ['llama-server', '-m', str(weights)]
    command += ['--mmproj', str(projector)] if projector else []
    command += ['--alias', model, '--host', HOST, '--port', str(port)]
    # One slot, because several would share the context length.
    return [*command, '-np', '1', '-c', str(CONTEXT), '-ngl', '99', *extra]


def vllm(model: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """Return the command of vLLM's server; the arguments are as in `llama_cpp`.

    `model` is a hub name or a checkpoint's folder.
    """
    command = ['vllm', 'serve', str(Path(model).expanduser()), '--served-model-name', model]
    command += ['--host', HOST, '--port', str(port), '--max-model-len', str(CONTEXT)]
    return [*command, '--limit-mm-per-prompt', '{"image": 1, "video": 0}', *extra]


COMMANDS: dict[str, Callable[[str, int, Sequence[str]], list[str]]] = {
    'llama_cpp': llama_cpp,
    'vllm': vllm,
}
_PACKAGES = {'llama-server': 'llama.cpp', 'vllm': 'vLLM'}


def free_port() -> int:
    """Return an unused TCP port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def base_url(port: int) -> str:
    """Return the server's base URL for the node."""
    return f'http://{HOST}:{port}/v1'


def prefix(kind: str, model: str, port: int, extra: str = '') -> str:
    """Return the prefix for a command that runs it with a server.

    Args:
        kind: a name in `COMMANDS`.
        model: its checkpoint.
        port: to listen on.
        extra: further arguments for the server, in shell syntax.

    Raises:
        ServingError: the model is missing, or the arguments are not valid shell syntax.
    """
    if not model:
        raise ServingError(
            f'serve:={kind} needs the checkpoint to serve: add reasoner_model:=… (docs/serving.md)'
        )
    try:
        shlex.split(extra)
    except ValueError as error:
        raise ServingError(f'serve_args cannot be parsed: {error}') from error
    command = [sys.executable, '-m', 'segzero_ros.serving', kind, '--model', model]
    return shlex.join([*command, '--port', str(port), f'--server-args={extra}', '--'])


def _gguf_pair(model: Path, with_projector: bool) -> tuple[Path, Path | None]:
    """Return the files of the weights and the vision projector for a path."""
    if not model.exists():
        raise ServingError(
            f'There is no file or folder {model}; llama.cpp serves GGUF files, which '
            'convert_hf_to_gguf.py converts from a checkpoint (docs/serving.md).'
        )
    folder = model if model.is_dir() else model.parent
    found = sorted(folder.glob('*.gguf'))
    projectors = [path for path in found if 'mmproj' in path.name]
    # For weights in several files, llama-server needs the first one.
    parts = [path for path in found if '-of-' in path.stem and '-00001-of-' not in path.stem]
    weights = [path for path in found if path not in projectors and path not in parts]
    weights = weights if model.is_dir() else [model]
    if len(weights) != 1:
        names = ', '.join(path.name for path in weights) or 'none'
        raise ServingError(
            f'{folder} must contain one model as a GGUF file, but contains {names}: name the '
            'file, or create one with convert_hf_to_gguf.py (docs/serving.md).'
        )
    if not with_projector:
        return weights[0], None
    if len(projectors) != 1:
        names = ', '.join(path.name for path in projectors) or 'none'
        raise ServingError(
            f'{weights[0].name} needs one vision projector (*mmproj*.gguf) next to it in '
            f'{folder}, but there is {names}: create it with convert_hf_to_gguf.py --mmproj, or '
            'name it with the server argument --mmproj (docs/serving.md).'
        )
    return weights[0], projectors[0]


class _Events(queue.SimpleQueue[tuple[str, int]]):
    """Events in order, such as ('signal', number) or ('server', exit code)."""

    def watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Put (name, exit code) when a process exits."""
        threading.Thread(
            target=lambda: self.put((name, process.wait())), name=f'wait_{name}', daemon=True
        ).start()


class _Server:
    """A server process whose output is forwarded to stderr."""

    def __init__(self, command: Sequence[str], port: int, events: _Events) -> None:
        program = command[0]
        path = shutil.which(program)
        if path is None:
            raise ServingError(
                f'The program {program} is not on the PATH: install {_PACKAGES[program]}, or '
                'start a server yourself and give its base_url (docs/serving.md).'
            )
        self.program = program
        self._port = port
        self._events = events
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._done = threading.Event()
        self._process = _start([path, *command[1:]], subprocess.PIPE)
        self._reader = threading.Thread(
            target=self._forward_output, name='server_output', daemon=True
        )
        self._reader.start()
        events.watch('server', self._process)
        threading.Thread(target=self._wait_for_health, name='server_health', daemon=True).start()

    def end_report(self, code: int, answered: bool) -> str:
        """Return the message about its exit.

        Args:
            code: its exit code.
            answered: whether it was ready before.
        """
        # The last lines may still be in the pipe.
        self._reader.join(1.0)
        how = f'by signal {-code}' if code < 0 else f'with exit code {code}'
        when = 'while it was in use' if answered else 'before it was ready'
        last = f': {self._last[-1][:_MAX_QUOTE_LENGTH]}' if self._last else ''
        return f'{self.program} ended {how} {when}{last}'

    def stop(self) -> None:
        """Stop it and its child processes."""
        self._done.set()
        _stop(self._process, _SERVER_SIGNALS)

    def _forward_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors='replace').rstrip()
            if text:
                self._last.append(text)
                print(f'[{self.program}] {text}', file=sys.stderr, flush=True)  # noqa: T201

    def _wait_for_health(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._done.wait(POLL):
            if self._is_healthy():
                self._events.put(('ready', 0))
                return
            if time.monotonic() > deadline:
                self._events.put(('timeout', 0))
                return

    def _is_healthy(self) -> bool:
        # Connect directly, even if the environment sets a proxy.
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5.0)
        try:
            connection.request('GET', '/health')
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _start(command: Sequence[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a new process group; the kernel terminates it if this one is killed."""
    environment = dict(os.environ)
    # The node must not use a proxy for the server.
    known = environment.get('NO_PROXY', environment.get('no_proxy', ''))
    environment['NO_PROXY'] = environment['no_proxy'] = ','.join(filter(None, [known, HOST]))
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if stdout is None else subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=_terminate_with_parent,
    )


def _terminate_with_parent() -> None:
    _LIBC.prctl(_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Stop a process with a sequence of signals and timeouts, then kill its process group."""
    for number, timeout in steps:
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            continue
    try:
        # Workers that outlive their leader.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run(server_command: Sequence[str], port: int, command: Sequence[str]) -> int:
    """Run a command with a server; return the command's exit code.

    Args:
        server_command: from `COMMANDS`.
        port: that the server listens on.
        command: to run when the server is ready. SIGINT, SIGTERM and SIGHUP are forwarded to it.

    Raises:
        ServingError: the server cannot be started, was not ready in time, or exited; the command
            has been stopped.
    """
    events = _Events()
    before = {
        number: signal.signal(number, lambda number, _: events.put(('signal', number)))
        for number in _FORWARDED_SIGNALS
    }
    server = _Server(server_command, port, events)
    running: subprocess.Popen[bytes] | None = None
    try:
        while True:
            event, value = events.get()
            if event == 'ready':
                running = _start(command)
                events.watch('command', running)
            elif event == 'command':
                return value if value >= 0 else 128 - value
            elif event == 'signal' and running is not None:
                running.send_signal(value)
            elif event == 'signal':
                return 0
            elif event == 'server':
                raise ServingError(server.end_report(value, running is not None))
            elif event == 'timeout':
                raise ServingError(
                    f'{server.program} was not ready within {READY_TIMEOUT:g} s; see its output.'
                )
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        if running is not None:
            _stop(running, _COMMAND_SIGNALS)
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command with a server; return its exit code, or 1 after an error message."""
    parser = argparse.ArgumentParser(
        prog='python3 -m segzero_ros.serving',
        description='Run a model server for as long as a command runs.',
    )
    parser.add_argument('kind', choices=COMMANDS, help='which server')
    parser.add_argument('--model', required=True, help='its checkpoint')
    parser.add_argument('--port', type=int, default=0, help='to listen at; 0: a free one')
    parser.add_argument('--server-args', default='', help='more arguments for the server')
    parser.add_argument('command', nargs='+', help='what to run beside it, after --')
    given = parser.parse_args(argv)
    port = given.port or free_port()
    try:
        extra = shlex.split(given.server_args)
        return run(COMMANDS[given.kind](given.model, port, extra), port, given.command)
    except (ServingError, ValueError) as error:
        print(f'[segzero_ros] {error}', file=sys.stderr)  # noqa: T201
        return 1


if __name__ == '__main__':
    raise SystemExit(main())
