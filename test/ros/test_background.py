"""A node that spins in the background leaves without a word."""

from __future__ import annotations

import pytest
from rclpy.executors import SingleThreadedExecutor

from segzero_ros.ros.background import BackgroundNode


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
