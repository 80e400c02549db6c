"""Transforms are read in batches, and who waits for one is woken as soon as it comes."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import threading
import time
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from transform_messages import LATCHED, stamped, tf_message

from segzero_ros.ros.transform_listener import TransformListener
from segzero_ros.spatial.transform_buffer import NoTransform

NANO = 1_000_000_000
# Far longer than anything here takes.
PATIENCE = 40.0


class Listening:
    """A listener whose executor spins, and a node that publishes."""

    def __init__(self, context: Context) -> None:
        self.node = rclpy.create_node('listening', context=context)
        self.sender = rclpy.create_node('sending', context=context)
        self.listener = TransformListener(self.node)
        self.publisher = self.sender.create_publisher(tf_message(), '/tf', 2000)
        self.fixed = self.sender.create_publisher(tf_message(), '/tf_static', LATCHED)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self.executor.spin)
        self._thread.start()

    def send(self, *transforms: Any) -> None:
        self.publisher.publish(tf_message()(transforms=list(transforms)))

    def wait(self, target: str, source: str, stamp_ns: int = 0) -> Any:
        request = self.listener.request(target, source, stamp_ns)
        return self.listener.wait(request, PATIENCE)

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join(PATIENCE)
        self.listener.close()
        self.node.destroy_node()
        self.sender.destroy_node()


@pytest.fixture
def listening() -> Iterator[Listening]:
    tf_message()
    context = Context()
    rclpy.init(context=context)
    listening = Listening(context)
    # Matched, and so reliable from here on.
    listening.fixed.publish(tf_message()(transforms=[stamped('root', 'fixed', 0)]))
    listening.wait('root', 'fixed')
    while not listening.publisher.get_subscription_count():
        threading.Event().wait(0.01)
    yield listening
    listening.close()
    rclpy.shutdown(context=context)


def test_a_burst_is_read_whole_and_in_few_batches(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    store = TransformListener._store

    def counted(self: TransformListener, messages: Any, *, static: bool) -> None:
        kept = list(messages)
        batches.append(len(kept))
        store(self, kept, static=static)

    monkeypatch.setattr(TransformListener, '_store', counted)
    for number in range(600):
        listening.send(stamped('odom', 'base', NANO + number * 1000, (float(number), 0.0, 0.0)))
    found = listening.wait('odom', 'base', NANO + 599 * 1000)
    assert found.translation == (599.0, 0.0, 0.0)
    for number in (0, 1, 333, 598):
        found = listening.wait('odom', 'base', NANO + number * 1000)
        assert found.translation == (float(number), 0.0, 0.0)
    assert sum(batches) == 600
    assert max(batches) > 20, 'the queue is emptied at once'


def test_who_waits_is_woken_by_the_transform(listening: Listening) -> None:
    listening.send(stamped('odom', 'base', NANO))
    request = listening.listener.request('odom', 'base', 2 * NANO)
    found: list[Any] = []
    waiter = threading.Thread(
        target=lambda: found.append(listening.listener.wait(request, PATIENCE))
    )
    waiter.start()
    started = time.monotonic()
    listening.send(stamped('odom', 'base', 3 * NANO, (2.0, 0.0, 0.0)))
    waiter.join(PATIENCE)
    assert found[0].translation == (1.0, 0.0, 0.0)
    assert time.monotonic() - started < PATIENCE / 4, 'it does not wait for the whole time'


def test_the_wait_ends_without_a_transform(listening: Listening) -> None:
    listening.send(stamped('odom', 'base', NANO))
    listening.wait('odom', 'base', NANO)
    request = listening.listener.request('odom', 'base', 2 * NANO)
    started = time.monotonic()
    with pytest.raises(NoTransform, match=r'base is 1\.000 s older') as raised:
        listening.listener.wait(request, 0.15)
    assert raised.value.late
    assert 0.15 <= time.monotonic() - started < PATIENCE / 4


def test_a_request_is_answered_though_the_transform_is_soon_forgotten(
    listening: Listening,
) -> None:
    request = listening.listener.request('odom', 'base', NANO)
    listening.send(stamped('odom', 'base', NANO, (7.0, 0.0, 0.0)))
    listening.wait('odom', 'base', NANO)
    listening.send(stamped('odom', 'base', 60 * NANO))
    listening.wait('odom', 'base', 60 * NANO)
    assert listening.listener.wait(request, 0.0).translation == (7.0, 0.0, 0.0)
    with pytest.raises(NoTransform):
        listening.listener.wait(listening.listener.request('odom', 'base', NANO), 0.0)


def test_a_message_that_is_cut_off_is_left_out_and_reported_once(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    whole = serialize_message(tf_message()(transforms=[stamped('odom', 'base', NANO)]))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            listening.listener._on_static(whole[:40])
        listening.send(stamped('odom', 'base', NANO, (5.0, 0.0, 0.0)))
        assert listening.wait('odom', 'base', NANO).translation == (5.0, 0.0, 0.0)
    (warning,) = [each for each in caplog.messages if 'left out' in each]
    assert '40 bytes are no complete tf2_msgs/TFMessage' in warning
