"""A node that spins in the background leaves without a word."""

from __future__ import annotations

import threading

import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from segzero_ros.ros.background_node import (
    BackgroundError,
    BackgroundNode,
    wait_for_future,
    wait_for_graph,
)
from segzero_ros.types import BadImage

DEADLINE = 40.0


def test_the_executor_is_shut_down_only_when_nobody_spins_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spinning: list[bool] = []
    shut_down = SingleThreadedExecutor.shutdown

    def shutdown(executor: SingleThreadedExecutor, timeout_sec: float | None = None) -> bool:
        spinning.append(background._thread.is_alive())
        return shut_down(executor, timeout_sec)

    monkeypatch.setattr(SingleThreadedExecutor, 'shutdown', shutdown)
    calls: list[None] = []
    for _ in range(5):
        background = BackgroundNode('short_lived')
        background.node.create_timer(0.001, lambda: calls.append(None))
        background.close()
        background.close()
    assert spinning == [False] * 5


def test_a_node_without_anything_to_do_can_be_closed() -> None:
    with BackgroundNode('idle') as background:
        assert background.context.ok()
    assert not background.context.ok()
    assert not background._thread.is_alive()


@pytest.mark.parametrize(
    'raised', [ValueError('a stage of 7'), SystemExit(3), BadImage('too dark')]
)
def test_who_waits_for_a_callback_that_fails_is_told_at_once(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()

    def fail() -> None:
        called.set()
        background.node.destroy_timer(timer)
        raise raised

    with BackgroundNode('failing') as background:
        timer = background.node.create_timer(0.01, fail)
        expected = BadImage if isinstance(raised, BadImage) else BackgroundError
        with pytest.raises(expected, match=r'a stage of 7|SystemExit: 3|too dark'):
            wait_for_future(Future(), DEADLINE, background)
        with pytest.raises(expected):
            wait_for_graph(lambda: False, DEADLINE, background)
        assert 'A callback failed' in caplog.text
        # The node goes on, and what is waited for from now on may succeed.
        background.clear_failure()
        again = threading.Event()
        background.node.create_timer(0.01, again.set)
        assert again.wait(DEADLINE)
        assert not wait_for_graph(lambda: False, 0.05, background)
