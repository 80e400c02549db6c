"""CPU time of the idle node, compared with a plain rclpy subscriber.

Run `python -m benchmarks.idle_cost --size 1920x1080 --rate 30 --seconds 10`.

A camera process publishes raw images, reliable, depth 1. A process with only
`create_subscription(Image, ...)` and the node (profile `offline`, active) subscribe alternately,
so that the machine's load affects both. Measured are their CPU time, user and system, from
/proc/<pid>/stat, and their received image rate: the subscriber counts, the node reports it on
/diagnostics. The ratio is of CPU time per received image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import random
import subprocess
import sys
import time
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from rich.console import Console
from sensor_msgs.msg import Image

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf('SC_CLK_TCK')
SETTLE = 3.0


def publish(size: str, rate: float) -> None:
    """Publish the same image until the process ends."""
    width, height = (int(side) for side in size.split('x'))
    rclpy.init()
    node = rclpy.create_node('benchmark_camera')
    publisher = node.create_publisher(Image, 'image', QoSProfile(depth=1))
    message = Image(height=height, width=width, encoding='rgb8', step=width * 3)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    message.data = noise.tobytes()

    def tick() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    node.create_timer(1.0 / rate, tick)
    rclpy.spin(node)


def subscribe() -> None:
    """Subscribe to images, and report their rate on /diagnostics like the node."""
    rclpy.init()
    node = rclpy.create_node('benchmark_subscriber')
    heard = 0

    def count(_: Image) -> None:
        nonlocal heard
        heard += 1

    def report() -> None:
        nonlocal heard
        rate = KeyValue(key='rate', value=f'{heard} Hz')
        publisher.publish(DiagnosticArray(status=[DiagnosticStatus(values=[rate])]))
        heard = 0

    node.create_subscription(Image, 'image', count, QoSProfile(depth=1))
    publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
    node.create_timer(1.0, report)
    rclpy.spin(node)


@contextmanager
def process(arguments: list[str]) -> Iterator[int]:
    """Run a Python process; yield its process ID."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, of all its threads."""
    # The name, in parentheses, may contain spaces; utime and stime are fields 14 and 15.
    after_name = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS


class Ear:
    """Receives the image rate of the measured process from /diagnostics."""

    def __init__(self) -> None:
        rclpy.init()
        self._node = rclpy.create_node('benchmark_ear')
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._hear, 10)
        self.rates: list[float] = []

    def listen(self, seconds: float) -> None:
        """Collect the rates for some seconds."""
        self.rates.clear()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self._node, timeout_sec=left)

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for value in status.values:
                if value.key == 'rate':
                    self.rates.append(float(value.value.removesuffix(' Hz')))


class Cost(NamedTuple):
    """CPU seconds per second of a process, and the rate of its received images."""

    share: float
    rate: float


def cost(ear: Ear, arguments: list[str], seconds: float) -> Cost:
    """Run a process, wait until it is stable, and measure it."""
    with process(arguments) as pid:
        ear.listen(SETTLE)
        before, started = cpu_seconds(pid), time.monotonic()
        ear.listen(seconds)
        share = (cpu_seconds(pid) - before) / (time.monotonic() - started)
        return Cost(share, float(np.mean(ear.rates)))


def measure(options: argparse.Namespace) -> None:
    """Print the costs of both, and the ratio per image."""
    camera = ['-m', 'benchmarks.idle_cost', '--as', 'camera']
    camera += ['--size', options.size, '--rate', str(options.rate)]
    bare = ['-m', 'benchmarks.idle_cost', '--as', 'subscriber']
    profile = str(ROOT / 'config' / 'offline.yaml')
    node = [options.node, '--ros-args', '--params-file', profile]
    costs: dict[str, list[Cost]] = {'bare subscriber': [], 'idle node': []}
    ear = Ear()
    with process(camera):
        for _ in range(options.rounds):
            for name, arguments in zip(costs, (bare, node), strict=True):
                costs[name].append(cost(ear, arguments, options.seconds))
    console = Console()
    console.print(f'{options.size} at {options.rate:g} Hz, {options.rounds} x {options.seconds} s')
    per_image = {}
    for name, values in costs.items():
        shares = ', '.join(f'{100 * value.share:.1f}' for value in values)
        rate = np.mean([value.rate for value in values])
        per_image[name] = float(np.median([value.share / value.rate for value in values]))
        console.print(
            f'{name}: {shares} % of a core, receives {rate:.1f} Hz, '
            f'{1000 * per_image[name]:.2f} ms per image'
        )
    console.print(f'ratio: {per_image["idle node"] / per_image["bare subscriber"]:.2f}')


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', default='1920x1080')
    parser.add_argument('--rate', type=float, default=30.0)
    parser.add_argument('--seconds', type=float, default=10.0)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--node', default=str(ROOT / 'scripts' / 'perception_node'))
    parser.add_argument('--as', dest='role', choices=['measure', 'camera', 'subscriber'])
    options = parser.parse_args()
    if options.role == 'camera':
        publish(options.size, options.rate)
    elif options.role == 'subscriber':
        subscribe()
    else:
        # Its own domain, so that no other process subscribes to the camera.
        os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        measure(options)


if __name__ == '__main__':
    main()
