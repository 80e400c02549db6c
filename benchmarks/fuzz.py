"""Fuzz test: thousands of invalid messages to a real node, which must keep answering.

Run `python -m benchmarks.fuzz --messages 10000`.

The node (profile `offline`) receives bursts of seeded random messages: images, compressed images,
depth and intrinsics that are valid, damaged or inconsistent; queries, goals and requests with any
text, some with such an image; parameters of any type and value; transitions in any order; bytes
that are not a message. After each burst its parameters and state are restored, a valid camera
publishes, and the time to the next good answer is measured. Prints a table, and exits with 1 if
the node died, a client got no answer, memory grew, or a good answer took too long.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
import os
from pathlib import Path
import random
import signal
import sys
import threading
import time
from types import MappingProxyType
from typing import Any

import cv2
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from benchmarks.fuzz_messages import Messages
from benchmarks.query_client import DEEP, QueryClient
from benchmarks.soak_judging import quarters, Verdict
from benchmarks.watched import ROOT, Watched
from segzero_ros.action import Segment
from segzero_ros.config import read_profile
from segzero_ros.parameter_table import BY_NAME, Takes
from segzero_ros.ros.background_node import (
    BackgroundNode,
    ThreadSafeActionClient,
    wait_for_future,
)
from segzero_ros.srv import SegmentOnce

BURST = 100
MOST_SECONDS = 1.0
# Memory grows with the first thousands of messages, then stays constant
# (docs/measurements/endurance.md).
MAX_GROWTH = 1.25
# Seconds to wait for the last answers.
ANSWER_TIMEOUT = 30.0
CAMERA = QoSProfile(depth=1)


class Fuzz:
    """One run.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sent: Counter[str] = Counter()
        self.times: list[float] = []
        self.memory: list[float] = []
        self._messages = Messages(options.seed)
        self._open: list[tuple[str, Any]] = []

    def run(self) -> list[Verdict]:
        """Start the node, send all messages, stop the node; return the verdicts."""
        arguments = [str(ROOT / 'scripts' / 'perception_node'), '--ros-args', '--params-file']
        arguments.append(str(ROOT / 'config' / 'offline.yaml'))
        node = Watched(arguments, self.options.output / 'node.log')
        client = QueryClient()
        # One participant cannot use a topic with two types.
        self._second = BackgroundNode('second')
        try:
            self._connect(client)
            for transport in self._transports():
                if not node.running:
                    break
                self._publish_as(transport)
                # Accept images of any age: else few of the burst's images would be used.
                self._restore({'camera.max_image_age': 0.0})
                self._burst()
                self._restore()
                self.times.append(self._good_answer(client))
                self.memory.append(node.sample().rss_mb if node.running else 0.0)
            unanswered = self._unanswered()
            alive = node.running
            code, _ = node.stop()
            return self._judge(alive, code, unanswered)
        finally:
            node.stop(signal.SIGKILL)
            client.close()
            self._second.close()

    def _transports(self) -> list[str]:
        """Return the image transport of each burst."""
        count = -(-self.options.messages // BURST)
        return [way for way, _ in zip(cycle(('raw', 'compressed')), range(count), strict=False)]

    def _connect(self, client: QueryClient) -> None:
        """Create the publishers and clients for each kind of message."""
        node = self._node = client.node
        publish = node.create_publisher
        self._publishers = {
            'depth': publish(Image, 'depth', CAMERA),
            'info': publish(CameraInfo, 'camera_info', CAMERA),
            'query': publish(String, 'query', DEEP),
        }
        self._once = node.create_client(SegmentOnce, 'segment_once', qos_profile=DEEP)
        self._set = node.create_client(SetParameters, 'perception/set_parameters')
        self._change = node.create_client(ChangeState, 'perception/change_state')
        self._state = node.create_client(GetState, 'perception/get_state')
        self._action = ThreadSafeActionClient(
            node,
            Segment,
            'segment',
            goal_service_qos_profile=DEEP,
            result_service_qos_profile=DEEP,
            cancel_service_qos_profile=DEEP,
        )
        for client in (self._once, self._set, self._change, self._state):
            if not client.wait_for_service(60.0):
                raise SystemExit(f'The node did not start; see {self.options.output}')
        self._action.wait_for_server(60.0)

    def _burst(self) -> None:
        """Send a random mix of all kinds of messages."""
        for _ in range(BURST):
            if self.sent.total() >= self.options.messages:
                return
            (kind,) = self._messages.random.choices(list(_KINDS), list(_KINDS.values()))
            self.sent[kind.__name__.strip('_').replace('_', ' ')] += 1
            kind(self, self._messages)

    def _publish(self, name: str, message: Any) -> None:
        """Publish a message, or garbage with a probability of 1/4."""
        if self._messages.random.randrange(4) == 0:
            message = self._messages.garbage(message)
        self._publishers[name].publish(message)

    def _image(self, made: Messages) -> None:
        self._publish('image', made.compressed() if self._compressed else made.image())

    def _depth(self, made: Messages) -> None:
        self._publish('depth', made.image())

    def _intrinsics(self, made: Messages) -> None:
        self._publish('info', made.info())

    def _query(self, made: Messages) -> None:
        self._publish('query', String(data=made.text()))

    def _request(self, made: Messages) -> None:
        image = made.image() if made.random.random() < 0.5 else Image()
        request = SegmentOnce.Request(query=made.text(), image=image)
        self._open.append(('request', self._once.call_async(request)))

    def _goal(self, made: Messages) -> None:
        image = made.image() if made.random.random() < 0.5 else Image()
        goal = Segment.Goal(query=made.text(), image=image)
        cancel = made.random.random() < 0.3

        def accepted(future: Any) -> None:
            handle = future.result()
            self._open.append(('goal, its result', handle.get_result_async()))
            if cancel:
                handle.cancel_goal_async()

        future = self._action.send_goal_async(goal)
        future.add_done_callback(accepted)
        self._open.append(('goal', future))

    def _parameters(self, made: Messages) -> None:
        request = SetParameters.Request(parameters=[made.parameter()])
        self._open.append(('parameters', self._set.call_async(request)))

    def _transition(self, made: Messages) -> None:
        request = ChangeState.Request(transition=made.transition())
        self._open.append(('transition', self._change.call_async(request)))

    def _publish_as(self, transport: str) -> None:
        """Publish images as raw or compressed messages alone; the node follows the type."""
        if 'image' in self._publishers:
            owner = self._second.node if self._compressed else self._node
            owner.destroy_publisher(self._publishers['image'])
        self._compressed = transport == 'compressed'
        node, kind = (
            (self._second.node, CompressedImage) if self._compressed else (self._node, Image)
        )
        self._publishers['image'] = node.create_publisher(kind, 'image', CAMERA)

    def _restore(self, changes: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Restore the node's parameters, with changes, and activate it, whatever its state."""
        profile = {**read_profile('offline'), **changes}
        # While one of the burst's transitions goes on, the node refuses all others.
        for kind, future in list(self._open):
            if kind == 'transition':
                self._wait(future)
        for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            self._step(step)
        good = [
            Parameter(name, value=value).to_parameter_msg()
            for name, value in profile.items()
            if BY_NAME[name].takes is not Takes.AT_START
        ]
        self._wait(self._set.call_async(SetParameters.Request(parameters=good)))
        for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            self._step(step)

    def _step(self, step: int) -> None:
        request = ChangeState.Request(transition=Transition(id=step))
        self._wait(self._change.call_async(request))

    def _wait(self, future: Any) -> None:
        if not wait_for_future(future, ANSWER_TIMEOUT):
            raise SystemExit(f'The node does not answer any more; see {self.options.output}')

    def _good_answer(self, client: QueryClient) -> float:
        """Return the seconds from a valid camera's first image to a good answer."""
        over = threading.Event()
        started = time.monotonic()
        camera = threading.Thread(target=self._film, args=(over,), daemon=True)
        camera.start()
        seconds = client.good_answer(ANSWER_TIMEOUT)
        over.set()
        camera.join()
        return min(seconds, time.monotonic() - started) if seconds < ANSWER_TIMEOUT else seconds

    def _film(self, over: threading.Event) -> None:
        """Publish valid images of a disc, raw and compressed, until the event is set."""
        rows, columns = np.mgrid[:240, :320]
        picture = np.full((240, 320, 3), 150, np.uint8)
        picture[(rows - 120) ** 2 + (columns - 100) ** 2 < 1600] = (210, 30, 30)
        image = Image(height=240, width=320, encoding='rgb8', step=960, data=picture.tobytes())
        file = cv2.imencode('.png', picture[..., ::-1])[1].tobytes()
        compressed = CompressedImage(format='png', data=file)
        while not over.wait(0.033):
            now = self._node.get_clock().now().to_msg()
            message = compressed if self._compressed else image
            message.header.stamp = now
            self._publishers['image'].publish(message)

    def _unanswered(self) -> Counter[str]:
        """Wait for all answers; return the number of missing ones by kind."""
        end = time.monotonic() + ANSWER_TIMEOUT
        for _, future in list(self._open):
            wait_for_future(future, max(0.0, end - time.monotonic()))
        return Counter(kind for kind, future in self._open if not future.done())

    def _judge(self, alive: bool, code: int, unanswered: Counter[str]) -> list[Verdict]:
        """Return the verdicts."""
        first, last = quarters(self.memory)
        slowest, median = max(self.times), float(np.median(self.times))
        log = (self.options.output / 'node.log').read_text(errors='replace')
        failures = log.count('A callback failed') + log.count('A job of the worker failed')
        return [
            Verdict('alive, exit code', f'{alive}, {code}', 'True, 0', alive and not code),
            Verdict('requests without an answer', str(dict(unanswered) or 0), '0', not unanswered),
            Verdict(
                'time to the next good answer',
                f'{median:.2f} s, at most {slowest:.2f} s',
                f'{MOST_SECONDS:g} s',
                slowest <= MOST_SECONDS,
            ),
            Verdict(
                'memory',
                f'{first:.1f} to {last:.1f} MB ({last / first - 1:+.1%})',
                f'{MAX_GROWTH - 1:+.0%}',
                last <= first * MAX_GROWTH,
            ),
            Verdict('unexpected errors in the log', str(failures), 'any', True),
        ]


# Relative frequencies; a transition mostly deactivates the node.
_KINDS = {
    Fuzz._image: 8,
    Fuzz._depth: 3,
    Fuzz._intrinsics: 3,
    Fuzz._query: 6,
    Fuzz._request: 4,
    Fuzz._goal: 3,
    Fuzz._parameters: 2,
    Fuzz._transition: 1,
}


def main() -> int:
    """Run the fuzz test and print the results; return 1 unless all criteria hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--messages', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', type=Path, default=Path('out') / 'fuzz')
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / 'node.log').unlink(missing_ok=True)
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    fuzz = Fuzz(options)
    verdicts = fuzz.run()
    table = Table('criterion', 'measured', 'allowed', '')
    for verdict in verdicts:
        table.add_row(
            verdict.name, verdict.measured, verdict.allowed, 'holds' if verdict.holds else 'fails'
        )
    console = Console(width=110)
    console.print(table)
    counts = ', '.join(f'{count} {name}' for name, count in fuzz.sent.most_common())
    console.print(f'{fuzz.sent.total()} messages, seed {options.seed}: {counts}', markup=False)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == '__main__':
    sys.exit(main())
