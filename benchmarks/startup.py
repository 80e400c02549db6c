"""Seconds and memory from the start of the node's process to `active` and to the first answer.

Run `python -m benchmarks.startup [PROFILE ...] [--against CHECKOUT]`.

The node is started with a profile and asked as soon as it is active. It is measured with warm
bytecode (compiled by an earlier start) and with cold (nothing compiled, nothing kept). With
`--against`, the nodes of this checkout and of another one start alternately, with the same Python
and libraries. Seconds are medians of the rounds with their spread; memory is the PSS after the
first answer, MB (1e6 bytes). `remote` asks a server on this machine that answers at once, and
`robot` has tiny random checkpoints: their times are those of imports, loading and the first query.

`--spent` prints instead what the time to `active` is spent on: the slowest imports, by top-level
package, as `python -X importtime` measures them (which slows them by about a third).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
import os
from pathlib import Path
import random
import re
from statistics import median
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple
import uuid

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from scripts.make_tiny_sam2 import STEM
from segzero_ros.msg import Query, SegmentationResult

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ('offline', 'mini', 'remote', 'robot')
BYTECODE = ('warm', 'cold')
DEADLINE = 180.0
_IMPORT = re.compile(r'import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)')


class Start(NamedTuple):
    """One start of a node.

    Attributes:
        active_s: seconds from the process's start until it logs that it is active.
        answer_s: seconds until its first result.
        memory_mb: PSS after that, MB.
        status: of the result.
    """

    active_s: float
    answer_s: float
    memory_mb: float
    status: int


def pss_mb(pid: int) -> float:
    """Return the proportional set size of a process, MB."""
    text = Path(f'/proc/{pid}/smaps_rollup').read_text()
    found = re.search(r'^Pss:\s+(\d+) kB', text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / 1e6


class Camera:
    """Publishes a scene, asks about it and waits for the result."""

    def __init__(self) -> None:
        rclpy.init()
        self._node = rclpy.create_node('startup_benchmark')
        self._images = self._node.create_publisher(Image, 'image', QoSProfile(depth=1))
        self._queries = self._node.create_publisher(Query, 'typed_query', 10)
        self._node.create_subscription(SegmentationResult, 'result', self._on_result, 10)
        self._node.create_timer(0.05, self._publish)
        self._pixels = scene()
        self._asked: set[str] = set()
        self._results: list[SegmentationResult] = []
        self._answered = threading.Event()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        threading.Thread(target=self._executor.spin, daemon=True).start()

    def ask(self, text: str, end: float) -> int:
        """Ask until a result is not NO_IMAGE; return its status."""
        self._asked.clear()
        while time.monotonic() < end:
            self._answered.clear()
            query_id = uuid.uuid4().hex
            self._asked.add(query_id)
            self._queries.publish(Query(id=query_id, text=text, task='segment'))
            # A query that comes before the node is discovered is lost, and so is an answer before
            # the node has discovered this reader.
            limit = 5.0 if self._queries.get_subscription_count() else 0.2
            if not self._answered.wait(min(limit, end - time.monotonic())):
                continue
            status = int(self._results[-1].status)
            if status != SegmentationResult.NO_IMAGE:
                return status
        raise TimeoutError(f'no answer in {DEADLINE:g} s')

    def _on_result(self, result: SegmentationResult) -> None:
        if result.query_id in self._asked:
            self._results.append(result)
            self._answered.set()

    def _publish(self) -> None:
        height, width = self._pixels.shape[:2]
        message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = 'camera'
        message.data = self._pixels.tobytes()
        self._images.publish(message)


def scene() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return a generated table-top, (240, 320, 3) uint8."""
    from segzero_ros.simulation.scenes import make_scene

    return np.asarray(make_scene(310_000).frame.image, np.uint8)  # type: ignore[return-value]


def arguments_of(profile: str, checkout: Path, folder: Path, base_url: str) -> list[str]:
    """Return the node's command line after `--ros-args`."""
    words = ['--params-file', str(checkout / 'config' / f'{profile}.yaml')]
    values: dict[str, object] = {'query.policy': 'queue'}
    if profile == 'remote':
        values |= {
            'server.base_url': base_url,
            'reasoner.model': 'VisionReasoner-7B',
            'segmenter.backend': 'grabcut',
        }
    if profile == 'robot':
        values |= {
            'device': 'cpu',
            'offline': True,
            'reasoner.model': str(folder / 'reasoner'),
            'reasoner.max_new_tokens': 16,
            'segmenter.model': str(folder / 'sam2' / f'{STEM}.pt'),
        }
    for name, value in values.items():
        words += ['-p', f'{name}:={str(value).lower() if value is True else value}']
    return words


def environment_of(checkout: Path, bytecode: str, cache: Path) -> dict[str, str]:
    """Return the environment of a node of a checkout."""
    paths = f'{checkout}:{os.environ.get("PYTHONPATH", "")}'
    environment = {**os.environ, 'PYTHONPATH': paths, 'PYTHONPYCACHEPREFIX': str(cache)}
    environment.pop('PYTHONDONTWRITEBYTECODE', None)
    if bytecode == 'cold':
        environment['PYTHONDONTWRITEBYTECODE'] = '1'
        environment['PYTHONPYCACHEPREFIX'] = str(cache / 'nothing')
    return environment


@contextmanager
def node(
    checkout: Path, words: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node; its output goes to a file."""
    script = str(checkout / 'scripts' / 'perception_node')
    command = [sys.executable, script, '--ros-args', *words]
    with log.open('wb') as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(
    camera: Camera, checkout: Path, words: list[str], environment: dict[str, str], log: Path
) -> Start:
    """Start a node and ask it."""
    started = time.monotonic()
    with node(checkout, words, environment, log) as process:
        while b'Active: ' not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > started + DEADLINE:
                raise RuntimeError(f'not active:\n{log.read_text()[-2000:]}')
            time.sleep(0.005)
        active = time.monotonic() - started
        status = camera.ask('the red thing', started + DEADLINE)
        answered = time.monotonic() - started
        return Start(active, answered, pss_mb(process.pid), status)


def spread(values: list[float], form: str) -> str:
    """Return median and spread of values."""
    low, high = min(values), max(values)
    return f'{median(values):{form}} ({low:{form}} to {high:{form}})'


def report(name: str, starts: list[Start]) -> None:
    """Print the medians of some starts."""
    print(
        f'{name}: active {spread([each.active_s for each in starts], ".2f")} s, first answer '
        f'{spread([each.answer_s for each in starts], ".2f")} s, '
        f'{spread([each.memory_mb for each in starts], ".0f")} MB, '
        f'status {sorted({each.status for each in starts})}',
        flush=True,
    )


def print_spent(checkout: Path, words: list[str], environment: dict[str, str], log: Path) -> None:
    """Print what the imports of a start cost."""
    spent: dict[str, float] = defaultdict(float)
    with node(checkout, words, {**environment, 'PYTHONPROFILEIMPORTTIME': '1'}, log):
        end = time.monotonic() + DEADLINE
        while b'Active: ' not in log.read_bytes() and time.monotonic() < end:
            time.sleep(0.05)
    for line in log.read_text(errors='replace').splitlines():
        if found := _IMPORT.match(line):
            spent[found[2].partition('.')[0]] += int(found[1]) / 1e3
    largest = sorted(spent.items(), key=lambda each: -each[1])[:12]
    print(f'  imports {sum(spent.values()) / 1e3:.2f} s:', end=' ')
    print(', '.join(f'{name} {cost:.0f} ms' for name, cost in largest), flush=True)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('profiles', nargs='*', metavar='PROFILE', help=', '.join(PROFILES))
    parser.add_argument('--against', type=Path, help='another checkout')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--bytecode', choices=BYTECODE, help='default: both')
    parser.add_argument('--spent', action='store_true', help='print what imports cost')
    options = parser.parse_args()
    if unknown := set(options.profiles) - set(PROFILES):
        parser.error(f'there is no profile {", ".join(sorted(unknown))}')
    # Its own domain, so that no other node answers.
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    checkouts = {'here': ROOT} | (
        {'against': options.against.resolve()} if options.against else {}
    )
    camera = Camera()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profiles = options.profiles or list(PROFILES)
        base_url = ''
        if 'robot' in profiles:
            make_checkpoints(folder)
        if 'remote' in profiles:
            base_url = stack.enter_context(scripted_server())
        for profile in profiles:
            for bytecode in [options.bytecode] if options.bytecode else BYTECODE:
                starts: dict[str, list[Start]] = {name: [] for name in checkouts}
                for number in range(options.rounds + (bytecode == 'warm')):
                    for name, checkout in checkouts.items():
                        words = arguments_of(profile, checkout, folder, base_url)
                        environment = environment_of(checkout, bytecode, folder / name)
                        start = measure(camera, checkout, words, environment, folder / 'log')
                        # The first one compiles.
                        if number or bytecode == 'cold':
                            starts[name].append(start)
                        if options.spent and number == options.rounds - 1:
                            print_spent(checkout, words, environment, folder / 'log')
                for name in checkouts:
                    report(f'{profile}, {bytecode}, {name}', starts[name])
                if options.against:
                    print_ratios(starts['here'], starts['against'])
    # The executor's thread still spins.
    sys.stdout.flush()
    os._exit(0)


def print_ratios(here: list[Start], against: list[Start]) -> None:
    """Print this checkout's medians as shares of the other's."""
    shares = [
        median(each[column] for each in here) / median(each[column] for each in against)
        for column in range(3)
    ]
    print(
        f'  ratio: active {shares[0]:.2f}, first answer {shares[1]:.2f}, memory {shares[2]:.2f}',
        flush=True,
    )


def make_checkpoints(folder: Path) -> None:
    """Write the tiny checkpoints of the profile `robot`."""
    from benchmarks.random_checkpoints import make_random
    from scripts.make_tiny_sam2 import make_tiny_sam2

    make_random(folder / 'reasoner', 'small')
    make_tiny_sam2(folder / 'sam2')


@contextmanager
def scripted_server() -> Iterator[str]:
    """Serve an OpenAI-compatible model that answers at once; yield its address."""
    sys.path.insert(0, str(ROOT / 'test'))
    from scripted_server import running

    with running() as server:
        yield server.url


if __name__ == '__main__':
    main()
