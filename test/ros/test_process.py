"""A node's process goes on when a callback fails, and says so."""

import logging
import os
import subprocess
import sys

import pytest

rclpy = pytest.importorskip('rclpy')

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from segzero_ros.ros.process import spin, spin_while


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('failing', context=context)
    node.calls = 0
    node.executor_of_test = SingleThreadedExecutor(context=context)
    node.executor_of_test.add_node(node)
    yield node
    node.executor_of_test.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def fail_at_every_call(node):
    def fail():
        node.calls += 1
        raise ValueError(f'call {node.calls} went wrong')

    return node.create_timer(0.001, fail)


def test_spinning_survives_a_callback_that_fails_and_logs_its_traceback_once_a_second(
    node, caplog
):
    fail_at_every_call(node)
    with caplog.at_level(logging.ERROR, 'segzero_ros'):
        spin(node.executor_of_test, lambda: node.calls >= 50)
    assert node.calls == 50
    assert 1 <= len(caplog.records) < 10
    assert 'ValueError: call 1 went wrong' in caplog.text
    assert 'Traceback' in caplog.text


def test_spinning_for_a_while_ends_with_the_condition_or_the_time(node, caplog):
    timer = node.create_timer(0.001, lambda: None)
    assert spin_while(node.executor_of_test, lambda: timer.time_until_next_call() is None, 5.0)
    fail_at_every_call(node)
    assert spin_while(node.executor_of_test, lambda: node.calls < 5, 20.0)
    assert not spin_while(node.executor_of_test, lambda: True, 0.05)
    assert 'went wrong' in caplog.text


SIGNALS = """
import signal, sys, threading
from segzero_ros.ros.process import StopSignals

heard = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: heard.set())
stop, woken = StopSignals(), threading.Event()
stop.wake = woken.set
signal.raise_signal(signal.SIGUSR1)
assert heard.wait(20)
# What the wake-up socket was told of the first signal is read before this one's.
signal.raise_signal(signal.SIGUSR1)
assert not woken.wait(0.2) and not stop.received
signal.raise_signal(signal.{ending})
assert woken.wait(20) and stop.received
stop.close()
"""


@pytest.mark.parametrize('ending', ['SIGINT', 'SIGTERM'])
def test_only_the_two_ending_signals_end_the_process(ending):
    """Other code of the process may handle other signals in Python."""
    program = SIGNALS.format(ending=ending)
    subprocess.run([sys.executable, '-c', program], check=True, timeout=60, env=os.environ)
