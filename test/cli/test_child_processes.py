"""The demo's child processes end with it, and its ROS world is its own."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import pytest

from segzero_ros.cli import child_processes as module
from segzero_ros.cli.child_processes import (
    ChildProcesses,
    choose_domain,
    executable,
    installed,
    NotInstalled,
)

DEADLINE = 30.0
READY = "print('ready', flush=True); time.sleep(100)"
SLEEPER = [sys.executable, '-c', f'import time; {READY}']
STUBBORN = [
    sys.executable,
    '-c',
    'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); '
    f'signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}',
]


def wait_until(condition: object) -> None:
    end, pause = time.monotonic() + DEADLINE, threading.Event()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        pause.wait(0.02)


def processes(children: ChildProcesses, folder: Path) -> list[int]:
    """Return the children's process ids once all said that they are ready."""
    started = children._children
    wait_until(lambda: all('ready' in (folder / f'{n}.log').read_text() for n in started))
    return [process.pid for process in started.values()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_children_are_ended_when_the_block_is_left(tmp_path: Path) -> None:
    with ChildProcesses(tmp_path) as children:
        children.start('one', SLEEPER, os.environ)
        children.start('two', SLEEPER, os.environ)
        pids = processes(children, tmp_path)
        assert children.exit_report() == ''
        # Ctrl-C reaches the parent alone, which ends them in order.
        assert os.getpgid(0) not in map(os.getpgid, pids)
    assert not any(map(alive, pids))


def test_children_are_ended_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ChildProcesses(tmp_path) as children:
        children.start('one', SLEEPER, os.environ)
        pids = processes(children, tmp_path)
        raise ZeroDivisionError
    assert not any(map(alive, pids))


def test_a_child_that_will_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tuple((number, min(patience, 0.3)) for number, patience in module._SIGNALS[:2])
    monkeypatch.setattr(module, '_SIGNALS', (*short, module._SIGNALS[2]))
    with ChildProcesses(tmp_path) as children:
        children.start('stubborn', STUBBORN, os.environ)
        pids = processes(children, tmp_path)
    assert not any(map(alive, pids))


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_children_are_ended_by_a_signal_to_their_parent(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = (
        'import os, sys, time; from pathlib import Path;'
        'from segzero_ros.cli.child_processes import ChildProcesses;'
        f'children = ChildProcesses(Path({str(tmp_path)!r})); children.__enter__()\n'
        'try:\n'
        f'    children.start("one", {SLEEPER!r}, os.environ)\n'
        '    print(next(iter(children._children.values())).pid, flush=True); time.sleep(100)\n'
        'except KeyboardInterrupt:\n'
        '    children.__exit__(None, None, None); print("ended in order")\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=DEADLINE)
    assert 'ended in order' in output
    assert not alive(child)


def test_handlers_of_signals_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    with ChildProcesses(tmp_path):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


def test_the_exit_report_has_the_code_and_the_last_lines(tmp_path: Path) -> None:
    with ChildProcesses(tmp_path) as children:
        last = 'import sys; print("no camera at all"); sys.exit(3)'
        children.start('camera', [sys.executable, '-c', last], os.environ)
        wait_until(children.exit_report)
        text = children.exit_report()
    assert 'camera exited with code 3' in text
    assert 'no camera at all' in text


def test_the_installed_executable_goes_before_the_checkout_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'lib' / 'segzero_ros' / 'camera_sim'
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path}')
    assert executable('camera_sim') == [sys.executable, str(path)]
    checkout = Path(module.__file__).resolve().parents[2]
    assert Path(executable('perception_node')[1]).resolve() == checkout / 'scripts/perception_node'


def test_what_is_not_installed_is_named_with_the_cure() -> None:
    with pytest.raises(NotInstalled, match=r'lib/segzero_ros/coffee.*make build'):
        installed('lib/segzero_ros/coffee', 'scripts/coffee')


def test_a_domain_is_chosen_and_discovery_is_kept_on_this_machine() -> None:
    environment: dict[str, str] = {}
    domain = choose_domain(environment)
    assert 1 <= domain <= 101
    assert environment['ROS_DOMAIN_ID'] == str(domain)
    assert environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        assert Path(environment[variable]).is_file()


def test_what_the_user_chose_is_kept() -> None:
    chosen = {
        'ROS_DOMAIN_ID': '7',
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
        'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4',
    }
    environment = dict(chosen)
    assert choose_domain(environment) == 7
    assert environment == chosen
