"""A model server beside a command: real processes, with a stand-in for the server's program.

The real llama-server runs in `test/servers`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import select
import shlex
import signal
import subprocess
import sys

import pytest

from segzero_ros import serving
from segzero_ros.serving import COMMANDS, prefix, ServingError

# What the stand-in does when it is started; it writes its arguments and its process id first.
BEGIN = f"""#!{sys.executable}
import http.server, json, os, signal, sys, time
from pathlib import Path
FOLDER = Path(__file__).parent
(FOLDER / 'arguments').write_text(json.dumps(sys.argv[1:]))
(FOLDER / 'pid').write_text(str(os.getpid()))
port = int(sys.argv[sys.argv.index('--port') + 1])

class Request(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Request.asked += 1
        self.send_response(503 if Request.asked < 3 else 200)
        self.end_headers()
        self.wfile.write(b'{{}}')
    def log_message(self, *_):
        pass

def serve():
    print('loading the model', flush=True)
    http.server.HTTPServer(('127.0.0.1', port), Request).serve_forever()
"""
SERVES = 'serve()'
DIES_AT_ONCE = "sys.exit('error: unknown architecture')"
DIES_WHEN_TOLD = (
    "signal.signal(signal.SIGUSR1, lambda *_: (print('out of memory', flush=True), os._exit(3)))\n"
    'serve()'
)
HAS_A_DEAF_WORKER = (
    'worker = os.fork()\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'if worker:\n'
    "    (FOLDER / 'worker').write_text(str(worker))\n"
    '    serve()\n'
    'signal.pause()'
)
NEVER_READY = 'signal.pause()'


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file that stands for a model, with one for its projector beside it."""
    folder = tmp_path / 'a model'
    folder.mkdir()
    for name in ('tiny.gguf', 'mmproj-tiny.gguf'):
        (folder / name).touch()
    return folder / 'tiny.gguf'


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Give a function that puts a stand-in for llama-server on the PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))

    def make(what: str) -> Path:
        file = folder / 'llama-server'
        file.write_text(BEGIN + what)
        file.chmod(0o755)
        return folder

    return make


def wanted(gguf: Path, code: str, *, extra: str = '') -> list[str]:
    """The command that runs Python code beside a server."""
    words = shlex.split(prefix('llama_cpp', str(gguf), serving.free_port(), extra))
    return [*words, sys.executable, '-c', code]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def finished(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def ends(pid: int) -> bool:
    """Wait until a process has ended; whether it did."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 60)[0])
    finally:
        os.close(process)


def pid_in(file: Path) -> int:
    return int(file.read_text())


@pytest.mark.slow
def test_the_command_runs_once_the_server_answers_and_the_server_ends_with_it(gguf, program):
    folder = program(SERVES)
    code = (
        'import os, sys, urllib.request\n'
        f'arguments = __import__("json").load(open({str(folder / "arguments")!r}))\n'
        'port = arguments[arguments.index("--port") + 1]\n'
        'opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n'
        'print(opener.open(f"http://127.0.0.1:{port}/health").status)\n'
        'print(os.environ["NO_PROXY"])\n'
        'sys.exit(7)'
    )
    done = finished(wanted(gguf, code, extra="--device none --chat-template 'two words'"))
    assert done.returncode == 7, done.stderr
    status, no_proxy = done.stdout.split()
    assert status == '200' and '127.0.0.1' in no_proxy.split(',')
    assert '[llama-server] loading the model' in done.stderr
    assert ends(pid_in(folder / 'pid'))


def test_the_server_is_on_this_machine_alone_with_one_slot_and_the_users_arguments_last(
    gguf, tmp_path
):
    command = COMMANDS['llama_cpp'](str(gguf), 1234, ['--device', 'none'])
    assert command[0] == 'llama-server' and command[-2:] == ['--device', 'none']
    pairs = dict(zip(command[1:-2:2], command[2:-2:2], strict=True))
    assert pairs == {
        '-m': str(gguf),
        '--mmproj': str(gguf.with_name('mmproj-tiny.gguf')),
        '--alias': str(gguf),
        '--host': '127.0.0.1',
        '--port': '1234',
        '-np': '1',
        '-c': '4096',
        '-ngl': '99',
    }
    assert COMMANDS['llama_cpp'](str(gguf.parent), 1, [])[1:4:2] == ['-m', '--mmproj']
    command = COMMANDS['vllm']('Ricky06662/VisionReasoner-7B', 1234, ['--seed', '1'])
    assert command[:3] == ['vllm', 'serve', 'Ricky06662/VisionReasoner-7B']
    assert command[command.index('--host') + 1] == '127.0.0.1' and command[-2:] == ['--seed', '1']


def test_of_weights_in_several_files_the_first_is_taken(gguf):
    gguf.rename(gguf.with_name('big-00001-of-00002.gguf'))
    gguf.with_name('big-00002-of-00002.gguf').touch()
    command = COMMANDS['llama_cpp'](str(gguf.parent), 1, [])
    assert command[2].endswith('big-00001-of-00002.gguf')


def remove_projector(file: Path) -> Path:
    file.with_name('mmproj-tiny.gguf').unlink()
    return file


def add_model(file: Path) -> Path:
    file.with_name('other.gguf').touch()
    return file.parent


def make_checkpoint(file: Path) -> Path:
    for one in file.parent.iterdir():
        one.unlink()
    (file.parent / 'model.safetensors').touch()
    return file.parent


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda file: file.with_name('none.gguf'), 'There is no file or folder'),
        (remove_projector, 'convert_hf_to_gguf.py --mmproj'),
        (add_model, 'other.gguf, tiny.gguf'),
        (make_checkpoint, 'contains none'),
    ],
    ids=['no file', 'no projector', 'two models', 'not converted'],
)
def test_a_model_that_cannot_be_served_is_one_sentence(gguf, program, change, said):
    program(SERVES)
    done = finished(wanted(change(gguf), 'print("ran")'))
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('[segzero_ros] ') and said in done.stderr
    assert done.stderr.count('\n') == 1


def test_a_projector_that_is_named_is_not_looked_for(gguf):
    command = COMMANDS['llama_cpp'](str(remove_projector(gguf)), 1, ['--mmproj', 'other.gguf'])
    assert command.count('--mmproj') == 1


def test_a_program_that_is_not_installed_is_one_sentence(gguf, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    done = finished(wanted(gguf, 'print("ran")'))
    assert (done.returncode, done.stdout) == (1, '')
    assert 'llama-server is not on the PATH: install llama.cpp' in done.stderr
    assert done.stderr.count('\n') == 1


def test_a_server_that_dies_before_it_answers_is_quoted_in_one_sentence(gguf, program):
    program(DIES_AT_ONCE)
    done = finished(wanted(gguf, 'print("ran")'))
    assert (done.returncode, done.stdout) == (1, '')
    said = done.stderr.splitlines()[-1]
    assert said == (
        '[segzero_ros] llama-server ended with exit code 1 before it was ready: '
        'error: unknown architecture'
    )


@pytest.mark.slow
def test_a_server_that_dies_later_ends_the_command_with_ctrl_c(gguf, program):
    folder = program(DIES_WHEN_TOLD)
    code = (
        'import os, signal\n'
        'try:\n'
        f'    os.kill(int(open({str(folder / "pid")!r}).read()), signal.SIGUSR1)\n'
        '    signal.pause()\n'
        'except KeyboardInterrupt:\n'
        '    print("ended in order")\n'
    )
    done = finished(wanted(gguf, code))
    assert (done.returncode, done.stdout) == (1, 'ended in order\n')
    said = done.stderr.splitlines()[-1]
    assert said.endswith('ended with exit code 3 while it was in use: out of memory')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_in_its_own_way_and_then_the_server(gguf, program, number):
    folder = program(SERVES)
    code = (
        'import signal, sys\n'
        f'signal.signal({number.value}, lambda *_: (print("ended in order"), sys.exit(0)))\n'
        'print("ready", flush=True)\n'
        'while True: signal.pause()'
    )
    with started(wanted(gguf, code)) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(number)
        assert process.stdout.readline() == 'ended in order\n'
        assert process.wait(60) == 0
    assert ends(pid_in(folder / 'pid'))


@pytest.mark.slow
def test_ctrl_c_while_the_server_loads_ends_it(gguf, program):
    folder = program("print('loading', file=sys.stderr, flush=True)\n" + NEVER_READY)
    with started(wanted(gguf, 'print("ran")')) as process:
        assert process.stderr.readline() == '[llama-server] loading\n'
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout.read() == ''
    assert ends(pid_in(folder / 'pid'))


def test_workers_of_the_server_that_hear_nothing_end_too(gguf, program, monkeypatch):
    monkeypatch.setattr(
        serving, '_SERVER_SIGNALS', ((signal.SIGTERM, 0.3), (signal.SIGKILL, 30.0))
    )
    folder = program(HAS_A_DEAF_WORKER)
    port = serving.free_port()
    command = COMMANDS['llama_cpp'](str(gguf), port, [])
    assert serving.run(command, port, [sys.executable, '-c', '']) == 0
    assert ends(pid_in(folder / 'pid'))
    assert ends(pid_in(folder / 'worker'))


@pytest.mark.slow
def test_nothing_is_left_of_a_launch_that_is_killed(gguf, program):
    folder = program(SERVES)
    code = 'import os, signal; print(os.getpid(), flush=True); signal.pause()'
    with started(wanted(gguf, code)) as process:
        command = int(process.stdout.readline())
        process.kill()
        # Both ends of the pipe are closed once the children have ended.
        assert process.stdout.read() == ''
        process.stderr.read()
    assert ends(pid_in(folder / 'pid')) and ends(command)


def test_a_server_that_never_answers_is_given_up(gguf, program, monkeypatch):
    monkeypatch.setattr(serving, 'READY_TIMEOUT', 0.5)
    program(NEVER_READY)
    port = serving.free_port()
    with pytest.raises(ServingError, match=r'was not ready within 0\.5 s'):
        serving.run(COMMANDS['llama_cpp'](str(gguf), port, []), port, ['true'])


def test_the_prefix_needs_a_model_and_words_of_a_shell():
    with pytest.raises(ServingError, match='reasoner_model'):
        prefix('vllm', '', 1)
    with pytest.raises(ServingError, match='serve_args'):
        prefix('vllm', 'm', 1, "--seed '1")


def test_signals_mean_after_it_what_they_meant_before(gguf, program):
    program(SERVES)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    port = serving.free_port()
    command = COMMANDS['llama_cpp'](str(gguf), port, [])
    assert serving.run(command, port, [sys.executable, '-c', 'raise SystemExit(5)']) == 5
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
