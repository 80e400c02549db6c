"""What every test of the ROS room uses: a domain of its own, real nodes and a real client.

The domain is chosen when this file is imported, before anything talks to ROS, so that tests of two
checkouts on one machine do not hear each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
import gc
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any
import uuid

import numpy as np
import pytest
from ros_domain import free_domain
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
NODE = ROOT / 'scripts' / 'perception_node'
SCRIPTED_NODE = Path(__file__).resolve().parent / 'scripted_node.py'
# Generous: the machine may be busy with everything else.
DEADLINE = 40.0


DOMAIN, DOMAIN_LOCK = free_domain()
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segzero_ros.action import Segment
from segzero_ros.doctor.shared_memory import abandoned
from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.background_node import BackgroundNode, ThreadSafeActionClient
from segzero_ros.srv import SegmentOnce


class NodeProcess:
    """A ROS node in a process of its own, with everything it prints."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        variables = {**os.environ, 'RCUTILS_COLORIZED_OUTPUT': '0', **(environment or {})}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={
                **variables,
                # The checkout first: modules that are newer than the last build are found too.
                'PYTHONPATH': f'{ROOT}:{variables.get("PYTHONPATH", "")}',
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip('\n'))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything printed so far."""
        with self._news:
            return '\n'.join(self.lines)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def wait_for_output(self, pattern: str, deadline: float = DEADLINE) -> str:
        """Wait until a line matches the regular expression and return the line."""

        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), deadline)
            line = found()
        assert line is not None, f'never printed {pattern!r}, but:\n{self.output}'
        return line

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for the process to end by itself and return its exit code."""
        code = self.process.wait(deadline)
        self._reader.join(deadline)
        return code

    def stop(self, number: int = signal.SIGINT, deadline: float = DEADLINE) -> tuple[int, float]:
        """End the process by a signal; return its exit code and the seconds that it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        return self.wait(deadline), time.monotonic() - started

    def kill(self) -> None:
        """End the process whatever it does."""
        if self.running:
            self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)


class Inbox(list[Any]):
    """The messages that came on one topic, in order, and a way to wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()

    def put(self, message: Any) -> None:
        """Add a message; called by the subscription."""
        with self._news:
            self.append(message)
            self._news.notify_all()

    def wait_for(
        self, wanted: Callable[[Any], bool] = lambda _: True, deadline: float = DEADLINE
    ) -> Any:
        """Return the first message that is wanted, waiting for it if it has not come yet."""
        return self.wait_for_count(1, wanted, deadline)[0]

    def wait_for_count(
        self,
        count: int,
        wanted: Callable[[Any], bool] = lambda _: True,
        deadline: float = DEADLINE,
    ) -> list[Any]:
        """Return all wanted messages as soon as there are `count` of them."""
        with self._news:
            self._news.wait_for(lambda: len([m for m in self if wanted(m)]) >= count, deadline)
            found = [message for message in self if wanted(message)]
        assert len(found) >= count, f'{len(found)} of {count} came in {deadline} s; all: {self!r}'
        return found

    def forget(self) -> None:
        """Drop what came so far."""
        with self._news:
            self.clear()


class Client:
    """Another program on the graph: it publishes images, asks, and collects what comes back.

    It spins in a thread of its own; every method may be called from the test's thread.
    """

    def __init__(self, namespace: str = '', node: str = 'perception') -> None:
        self._background = BackgroundNode(f'client_{uuid.uuid4().hex[:8]}', namespace)
        self.node = self._background.node
        self.server = node
        self._clients: dict[tuple[Any, str], Any] = {}
        reliable = QoSProfile(depth=1000)
        self.results = self.listen(SegmentationResult, 'result', reliable)
        self.reasoning = self.listen(String, 'reasoning', reliable)
        self.queries = self.node.create_publisher(String, 'query', reliable)
        self.action = ThreadSafeActionClient(
            self.node, Segment, 'segment', feedback_sub_qos_profile=reliable
        )

    def close(self) -> None:
        """Leave the graph; once is enough."""
        self._background.close()

    def new_inbox(self) -> Inbox:
        """Return an inbox that the caller fills, such as with feedback."""
        return Inbox()

    def picture_of(self, width: int, height: int) -> Any:
        """Return a picture of a red disc and a blue square of any size, (H, W, 3) uint8 RGB."""
        return scene(width, height)

    def listen(self, message_type: Any, topic: str, qos: QoSProfile | int = 10) -> Inbox:
        """Subscribe; return the inbox that fills."""
        inbox = Inbox()
        self.node.create_subscription(message_type, topic, inbox.put, qos)
        return inbox

    def until(
        self, condition: Callable[[], Any], what: str = '', deadline: float = DEADLINE
    ) -> Any:
        """Wait until a condition about the graph holds and return what it returned.

        For what no message announces; for messages, wait on the Inbox.
        """
        patience = threading.Event()
        end = time.monotonic() + deadline
        while not (value := condition()):
            assert time.monotonic() < end, f'not in {deadline} s: {what or condition}'
            patience.wait(0.02)
        return value

    def wait_for_server(self) -> None:
        """Wait until the node hears this client's queries and this client hears its results."""
        self.until(
            lambda: (
                self.queries.get_subscription_count() > 0
                and self.node.count_publishers('result') > 0
                and self.node.count_publishers('reasoning') > 0
                and self.action.server_is_ready()
            ),
            'the node is on the graph',
        )

    def call(self, service_type: Any, name: str, request: Any, deadline: float = DEADLINE) -> Any:
        """Call a service and return its response."""
        return self.wait(self.call_async(service_type, name, request), deadline)

    def call_async(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service and return the future of its response."""
        key = (service_type, name)
        if key not in self._clients:
            self._clients[key] = self.node.create_client(
                service_type, name, qos_profile=QoSProfile(depth=1000)
            )
        client = self._clients[key]
        assert client.wait_for_service(DEADLINE), f'there is no service {name}'
        return client.call_async(request)

    def wait(self, future: Any, deadline: float = DEADLINE) -> Any:
        """Wait for a future and return its result."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(deadline), f'no answer in {deadline} s'
        return future.result()

    def say(self, text: str) -> None:
        """Publish a query."""
        self.queries.publish(String(data=text))

    def ask(self, text: str, deadline: float = DEADLINE) -> Any:
        """Publish a query that was not asked before and return its result."""
        self.say(text)
        return self.results.wait_for(lambda result: result.query == text, deadline)

    def once(self, text: str, image: Image | None = None, deadline: float = DEADLINE) -> Any:
        """Ask by the service and return the result."""
        request = SegmentOnce.Request(query=text, image=image or Image())
        return self.call(SegmentOnce, 'segment_once', request, deadline).result

    def send_goal(
        self, text: str, image: Image | None = None, feedback: Inbox | None = None
    ) -> Any:
        """Ask by the action and return the accepted goal's handle."""
        assert self.action.wait_for_server(DEADLINE), 'there is no action server'
        goal = Segment.Goal(query=text, image=image or Image())
        on_feedback = None if feedback is None else lambda message: feedback.put(message.feedback)
        handle = self.wait(self.action.send_goal_async(goal, feedback_callback=on_feedback))
        assert handle.accepted
        return handle

    def outcome(self, handle: Any, deadline: float = DEADLINE) -> tuple[int, Any]:
        """Wait for a goal to end; return its GoalStatus and its SegmentationResult."""
        response = self.wait(handle.get_result_async(), deadline)
        return response.status, response.result.result

    def state(self) -> str:
        """Return the label of the node's lifecycle state."""
        response = self.look_up(GetState, f'{self.server}/get_state', GetState.Request())
        return response.current_state.label

    def look_up(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service that changes nothing and return its response.

        A node that has not yet found this client's reader when it answers drops its first reply,
        so it is asked again.
        """
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            future = self.call_async(service_type, name, request)
            done = threading.Event()
            future.add_done_callback(lambda _, done=done: done.set())
            if done.wait(5.0):
                return future.result()
        raise AssertionError(f'no answer in {DEADLINE} s')

    def wait_for_state(self, label: str, deadline: float = DEADLINE) -> None:
        """Wait until the node is in a lifecycle state."""
        self.until(lambda: self.state() == label, f'the node is {label}', deadline)

    def transition(self, name: str, deadline: float = DEADLINE) -> bool:
        """Request a transition by its name, such as `configure`; return whether it succeeded."""
        number = getattr(Transition, f'TRANSITION_{name.upper()}')
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, f'{self.server}/change_state', request, deadline).success

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Set one of the node's parameters; return whether it was taken, and why not."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        response = self.call(SetParameters, f'{self.server}/set_parameters', request)
        return response.results[0].successful, response.results[0].reason

    def get_parameter(self, name: str) -> Any:
        """Return the value of one of the node's parameters."""
        request = GetParameters.Request(names=[name])
        response = self.look_up(GetParameters, f'{self.server}/get_parameters', request)
        return rclpy.parameter.parameter_value_to_python(response.values[0])

    def camera(
        self,
        picture: Any,
        topic: str = 'image',
        *,
        rate: float = 10.0,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    ) -> Camera:
        """Publish a picture again and again, stamped anew each time, until `stop()`."""
        return Camera(self, picture, topic, rate, reliability)


class Camera:
    """A camera that sees the same picture all the time.

    Args:
        picture: (H, W, 3) uint8 RGB, or a message with a header.
    """

    def __init__(
        self,
        client: Client,
        picture: Any,
        topic: str,
        rate: float,
        reliability: ReliabilityPolicy,
    ) -> None:
        self.message = image_message(picture) if isinstance(picture, np.ndarray) else picture
        self.stamps: list[tuple[int, int]] = []
        self._node = client.node
        qos = QoSProfile(depth=1, reliability=reliability)
        self.publisher = self._node.create_publisher(type(self.message), topic, qos)
        self._timer = self._node.create_timer(1.0 / rate, self.publish)

    def publish(self) -> None:
        """Publish the picture once, with the current time."""
        self.message.header.stamp = self._node.get_clock().now().to_msg()
        self.stamps.append((self.message.header.stamp.sec, self.message.header.stamp.nanosec))
        self.publisher.publish(self.message)

    def stop(self) -> None:
        """Take the camera off the graph."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self.publisher)


def image_message(pixels: Any, frame_id: str = 'camera_optical_frame') -> Image:
    """Return an rgb8 message of an (H, W, 3) uint8 array."""
    message = Image(
        height=pixels.shape[0], width=pixels.shape[1], encoding='rgb8', step=pixels.shape[1] * 3
    )
    message.header.frame_id = frame_id
    message.data = pixels.tobytes()
    return message


def scene(width: int = 320, height: int = 240) -> Any:
    """Return a picture of a red disc on the left and a blue square on the right, on grey."""
    picture = np.full((height, width, 3), 150, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    radius = min(height, width) // 6
    disc = (rows - height // 2) ** 2 + (columns - width // 4) ** 2 <= radius**2
    picture[disc] = (210, 30, 30)
    middle = 3 * width // 4
    picture[height // 2 - radius : height // 2 + radius, middle - radius : middle + radius] = (
        30,
        60,
        200,
    )
    return picture


@pytest.fixture
def empty_domain() -> Iterator[int]:
    """Give a ROS domain without nodes."""
    domain, lock = free_domain()
    yield domain
    lock.close()


@pytest.fixture(scope='session')
def red_and_blue() -> Any:
    """Give a picture of a red disc on the left and a blue square on the right."""
    return scene()


@pytest.fixture(scope='session')
def as_image_message() -> Callable[..., Image]:
    """Give the function that makes an rgb8 message of an array."""
    return image_message


def sweep_shared_memory() -> None:
    """Remove what processes left of Fast DDS' shared memory; tests kill nodes on purpose."""
    for path in abandoned():
        path.unlink(missing_ok=True)


@pytest.fixture(scope='module')
def node_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NodeProcess]]:
    """Give a function that starts a node; all are ended when the module is through.

    `node_process(parameters={'query.queue_size': 3}, profile='offline', script=…, arguments=[…])`:
    the parameters come after the profile; `script` is another executable than the perception node.
    """
    sweep_shared_memory()
    with ExitStack() as stack:

        def start(
            parameters: dict[str, Any] | None = None,
            *,
            profile: str | None = None,
            script: Path = NODE,
            arguments: list[str] | None = None,
            environment: dict[str, str] | None = None,
        ) -> NodeProcess:
            command = [sys.executable, str(script), '--ros-args', *(arguments or [])]
            if profile:
                command += ['--params-file', str(ROOT / 'config' / f'{profile}.yaml')]
            if parameters:
                path = tmp_path_factory.mktemp('parameters') / 'parameters.yaml'
                path.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
                command += ['--params-file', str(path)]
            node = NodeProcess(command, environment)
            stack.callback(node.kill)
            return node

        yield start


@pytest.fixture(scope='module')
def scripted_node(node_process: Callable[..., NodeProcess]) -> Callable[..., NodeProcess]:
    """Give a function that starts the node of scripted_node.py, as `node_process` does."""

    def start(parameters: dict[str, Any] | None = None, **options: Any) -> NodeProcess:
        return node_process(parameters, script=SCRIPTED_NODE, **options)

    return start


@pytest.fixture(scope='module')
def new_client() -> Iterator[Callable[..., Client]]:
    """Give a function that makes a client; all leave the graph when the module is through."""
    with ExitStack() as stack:

        def make(namespace: str = '', node: str = 'perception') -> Client:
            client = Client(namespace, node)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(scope='module', autouse=True)
def freed_participants() -> Iterator[None]:
    """Have nodes that are garbage leave the graph: only 32 on a machine find each other."""
    yield
    gc.collect()
