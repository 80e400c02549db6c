"""Overhead of ROS for an answer: the pipeline called directly, and through the node.

Run `python -m benchmarks.ros_overhead --rounds 40`.

The offline profile answers the same query about the same generated scene alternately with
`Pipeline.answer` in this process and with the node's action from a client. Each goal contains the
image, so both start with pixels and end with masks in this process.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import random
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.types import Frame, Query, Status

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3


def measure(rounds: int, seed: int) -> dict[str, list[float]]:
    """Return the seconds of each answer, directly and through the node, alternately."""
    from segzero_ros.ros.client import PerceptionClient

    scene = make_scene(seed)
    text = next(each.text for each in scene.sentences if each.kind == 'position')
    pipeline = Pipeline(load_reasoner(ReasonerOptions()), load_segmenter(SegmenterOptions()))
    seconds: dict[str, list[float]] = {'pipeline': [], 'through the node': []}
    with PerceptionClient() as client:
        client.wait_for_node(60.0)
        for number in range(WARM_UP + rounds):
            # A new frame each time: the node, too, sees a picture that it does not know.
            frame = Frame(np.roll(scene.frame.image, number, axis=1).copy())
            started = time.perf_counter()
            direct = pipeline.answer(frame, Query(text))
            between = time.perf_counter()
            reply = client.ask(text, frame.image)
            ended = time.perf_counter()
            if not direct.status == reply.answer.status == Status.OK:
                raise SystemExit(f'{text!r}: {direct.message} / {reply.answer.message}')
            if number >= WARM_UP:
                seconds['pipeline'].append(between - started)
                seconds['through the node'].append(ended - between)
    pipeline.close()
    return seconds


def main() -> None:
    """Start the node, run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--seed', type=int, default=100001)
    options = parser.parse_args()
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 101))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    command = [sys.executable, str(ROOT / 'scripts' / 'perception_node'), '--ros-args']
    command += ['-r', '__ns:=/segzero', '--params-file', str(ROOT / 'config' / 'offline.yaml')]
    node = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        seconds = measure(options.rounds, options.seed)
    finally:
        node.terminate()
        node.wait(10)
    table = Table('way', 'p50', 'p95')
    for name, values in seconds.items():
        table.add_row(name, *(f'{1000 * np.percentile(values, q):.1f} ms' for q in (50, 95)))
    Console().print(table)
    added = np.median(seconds['through the node']) - np.median(seconds['pipeline'])
    Console().print(f'ROS adds {1000 * added:.1f} ms to an answer about a 640x480 image')


if __name__ == '__main__':
    main()
