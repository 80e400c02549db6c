"""What a replay costs: time, CPU time and peak memory, for bags of two lengths.

Run `python -m benchmarks.replay --frames 200 1000`.

Each bag holds generated table-tops of 640x480 with depth and intrinsics, 30 a second, raw. Every
frame is asked one query with the profile `offline`, and all outputs are written (bag with the
originals, pictures, video, report), each in a process of its own. Memory is the process's largest
resident set. Give it an idle machine; the CPU time holds on a busy one too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from segzero_ros.replay.bag import BagWriter, Definitions
from segzero_ros.simulation import make_scene
from segzero_ros.types import Frame

QUERY = 'the largest object'
# Different pictures, which take turns.
SCENES = 8
START, STEP = 1_700_000_000_000_000_000, 33_333_333
COMMAND = 'import sys; from segzero_ros.cli.main import main; sys.exit(main())'


def write_bag(path: Path, count: int) -> None:
    """Record generated table-tops as a camera with depth would."""
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


def measure(bag: Path, output: Path) -> tuple[float, float, float]:
    """Replay in a process of its own; return seconds, CPU seconds and peak memory in MB."""
    arguments = ['replay', str(bag), '-o', str(output), '--query', QUERY, '--profile', 'offline']
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, '-c', COMMAND, *arguments, '--quiet'])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise RuntimeError(f'the replay ended with status {status}')
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, nargs='+', default=[200, 1000])
    options = parser.parse_args()
    table = Table('frames', 'seconds', 'frames/s', 'CPU ms/frame', 'peak MB')
    for count in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            bag = Path(folder, 'bag')
            write_bag(bag, count)
            seconds, cpu, memory = measure(bag, Path(folder, 'out'))
        figures = (seconds, count / seconds, cpu / count * 1000, memory)
        table.add_row(str(count), *(f'{figure:.1f}' for figure in figures))
    Console().print(table)
    print(f'load average: {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
