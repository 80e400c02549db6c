"""Time, CPU time and peak memory of a replay, for bags of two lengths.

Run `python -m benchmarks.replay --frames 200 1000`, or, for the ratio to an earlier build,
`python -m benchmarks.replay --frames 1000 --against CHECKOUT --rounds 3`, where CHECKOUT is a
clone of this repository at an earlier commit: both builds replay the same bag alternately, and
their outputs are compared byte by byte (except report, timings and manifest), the overlays pixel
by pixel.

Each bag has generated table-tops of 640x480 with depth and intrinsics, raw, at 30 Hz. Each frame
is queried once with the profile `offline`, and all outputs are written (bag with the originals,
overlays, video, report), each replay in its own process. Memory is the largest resident set of a
process, and the proportional set size of all processes of a replay. Use an idle machine; only the
CPU time is reliable on a busy one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from segzero_ros.replay.bag import BagWriter, Definitions
from segzero_ros.simulation import make_scene
from segzero_ros.types import Frame

QUERY = 'the largest object'
# Number of different images, which are repeated.
SCENES = 8
SAMPLED_EVERY = 0.25
START, STEP = 1_700_000_000_000_000_000, 33_333_333
COMMAND = 'import sys; from segzero_ros.cli.main import main; sys.exit(main())'


def write_bag(path: Path, count: int) -> None:
    """Record a bag of generated table-tops with depth."""
    frames = [make_scene(seed, sentences=False).frame for seed in range(SCENES)]
    with BagWriter(path) as bag:
        for topic, kind in (('color', 'Image'), ('depth', 'Image'), ('camera_info', 'CameraInfo')):
            bag.add_topic(f'/camera/{topic}', f'sensor_msgs/msg/{kind}')
        for number in range(count):
            stamp_ns = START + number * STEP
            for topic, data in messages(frames[number % SCENES], stamp_ns):
                bag.write(f'/camera/{topic}', data, stamp_ns)


def messages(frame: Frame, stamp_ns: int) -> list[tuple[str, bytes]]:
    """Return a frame as serialized messages."""
    store = Definitions().typestore
    types = store.types
    assert frame.depth is not None
    assert frame.intrinsics is not None
    stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    header = types['std_msgs/msg/Header'](stamp, 'camera')
    height, width, k = frame.height, frame.width, frame.intrinsics
    millimetres = np.nan_to_num(frame.depth * 1000).astype(np.uint16)
    image = types['sensor_msgs/msg/Image']
    matrix = np.array([k.fx, 0, k.cx, 0, k.fy, k.cy, 0, 0, 1.0])
    info = types['sensor_msgs/msg/CameraInfo'](
        header, height, width, 'plumb_bob', np.zeros(5), matrix, np.eye(3).reshape(-1),
        np.insert(matrix.reshape(3, 3), 3, 0, axis=1).reshape(-1), 0, 0,
        types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
    )  # fmt: skip
    made = {
        'color': image(header, height, width, 'rgb8', 0, 3 * width, frame.image.reshape(-1)),
        'depth': image(
            header, height, width, '16UC1', 0, 2 * width, millimetres.reshape(-1).view(np.uint8)
        ),
        'camera_info': info,
    }
    return [(topic, bytes(store.serialize_cdr(m, m.__msgtype__))) for topic, m in made.items()]


class Cost(NamedTuple):
    """Seconds, CPU seconds, and peak memory in MB: of the largest process, and of all."""

    seconds: float
    cpu: float
    largest: float
    together: float


def measure(bag: Path, output: Path, build: Path) -> Cost:
    """Replay in a new process with the modules of a checkout."""
    shutil.rmtree(output, ignore_errors=True)
    arguments = ['replay', str(bag), '-o', str(output), '--query', QUERY, '--profile', 'offline']
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, '-c', COMMAND, *arguments, '--quiet'],
        env={
            **os.environ,
            'PYTHONPATH': f'{build}:{os.environ.get("PYTHONPATH", "")}',
            # Each build finds the messages of its own checkout.
            'AMENT_PREFIX_PATH': '',
        },
        cwd=output.parent,
    )
    ended, together = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(SAMPLED_EVERY):
            together[0] = max(together[0], memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    if status:
        raise RuntimeError(f'the replay exited with status {status}')
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, usage.ru_maxrss / 1024, together[0])


def memory_of(pid: int) -> float:
    """Return the proportional set size of a process and its descendants, MB."""
    process = Path('/proc', str(pid))
    try:
        fields = (process / 'smaps_rollup').read_text().split('Pss:')[1].split()
        tasks = list((process / 'task').iterdir())
        children = [int(child) for t in tasks for child in (t / 'children').read_text().split()]
    except (OSError, IndexError):
        return 0.0
    return int(fields[0]) / 1024 + sum(map(memory_of, children))


def differing(one: Path, other: Path) -> list[str]:
    """Return the files of two replays that differ."""
    found = {
        path.relative_to(folder)
        for folder in (one, other)
        for path in folder.rglob('*')
        if path.is_file() and path.name not in ('replay.json', 'report.html', 'timings.jsonl')
    }
    return sorted(
        str(name)
        for name in found
        if not all((folder / name).exists() for folder in (one, other))
        or not same(one / name, other / name)
    )


def same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes, two PNG files the same pixels."""
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix != '.png':
        return False
    return np.array_equal(*(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (one, other)))


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, nargs='+', default=[200, 1000])
    parser.add_argument('--against', type=Path, help='checkout of an earlier build')
    parser.add_argument('--rounds', type=int, default=1)
    options = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    builds = {'this': here} | ({'earlier': options.against.resolve()} if options.against else {})
    table = Table(
        'frames', 'build', 'seconds', 'frames/s', 'CPU ms/frame', 'largest MB', 'together MB'
    )
    for count in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            bag = Path(folder, 'bag')
            write_bag(bag, count)
            costs: dict[str, list[Cost]] = {name: [] for name in builds}
            for _ in range(options.rounds):
                for name, build in builds.items():
                    costs[name].append(measure(bag, Path(folder, name), build))
            for name, rounds in costs.items():
                seconds, cpu, *memory = map(statistics.median, zip(*rounds, strict=True))
                figures = (seconds, count / seconds, cpu / count * 1000, *memory)
                table.add_row(str(count), name, *(f'{figure:.1f}' for figure in figures))
            if options.against:
                compare(count, costs['earlier'], costs['this'])
                others = differing(Path(folder, 'this'), Path(folder, 'earlier'))
                print(f'{count} frames: {len(others)} files differ {others[:5]}')
    Console().print(table)
    print(f'load average: {os.getloadavg()[0]:.1f}')


def compare(count: int, before: list[Cost], now: list[Cost]) -> None:
    """Print the ratios to the earlier build."""
    pairs = list(zip(before, now, strict=True))
    faster = [earlier.seconds / this.seconds for earlier, this in pairs]
    memory = [this.largest / earlier.largest for earlier, this in pairs]
    together = [this.together / earlier.together for earlier, this in pairs]
    print(
        f'{count} frames: {statistics.median(faster):.2f} times as fast '
        f'({min(faster):.2f} to {max(faster):.2f}); memory of the largest process '
        f'{statistics.median(memory):.2f}, of all together {statistics.median(together):.2f} times'
    )


if __name__ == '__main__':
    main()
