"""Soak test: camera at 30 Hz, one query per second, and periodic faults.

Run `python -m benchmarks.soak --minutes 30`.

The node and the simulated camera (colour, depth, intrinsics) run in separate processes. Queries
are sent by topic, service and action in turn. Tracking (`track`) is on half of the time. A fault
(`soak_faults`) is injected every FAULT_PERIOD seconds, and a good answer has to follow. The node's
memory, threads, file descriptors and CPU time are sampled once a second, and so is the duration of
a fixed computation, as a reference for latencies on a busy machine. Prints a table, writes
`soak.json` (and with matplotlib `soak.png`) to `out/soak/`, and exits with 1 unless all criteria
of `soak_judging` hold.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
import json
import os
from pathlib import Path
import random
import signal
import sys
import threading
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.query_client import QueryClient
from benchmarks.soak_faults import Bench, FAULTS
from benchmarks.soak_judging import busy, Fault, judge, Moment, Verdict
from benchmarks.watched import ROOT, Watched

# Seconds for the node to become active, and for the last results.
START_LIMIT = 60.0
LAST_RESULTS = 20.0
GOOD_LIMIT = 30.0
_CONTROL_SIZE = 300_000


def control() -> float:
    """Return the seconds of a fixed computation, the best of three."""
    best = float('inf')
    for _ in range(3):
        started = time.perf_counter()
        np.sort(np.random.default_rng(0).random(_CONTROL_SIZE))
        best = min(best, time.perf_counter() - started)
    return best


class Soak:
    """One run.

    Args:
        options: of the command line.
        folder: for logs and figures.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.moments: list[Moment] = []
        self.faults: list[Fault] = []
        self._over = threading.Event()
        self._disturbed = threading.Event()
        self._tracking = False
        self._began = time.monotonic()
        self._started: list[Watched] = []

    def run(self) -> list[Verdict]:
        """Start the processes, run the test, stop them; return the verdicts."""
        client = QueryClient()
        try:
            node = self._start_node()
            bench = Bench(client, self._start_camera(), self._start_camera)
            if (
                not client.wait_for_node(START_LIMIT)
                or client.good_answer(START_LIMIT) > START_LIMIT
            ):
                raise SystemExit(f'The node did not answer; see {node.log}')
            self._began = time.monotonic()
            breaking = threading.Thread(target=self._break, args=(bench,), daemon=True)
            if not self.options.no_faults:
                breaking.start()
            self._ask_and_sample(client, node)
            self._over.set()
            if breaking.is_alive():
                breaking.join(GOOD_LIMIT + 20)
            client.wait_for_all(LAST_RESULTS)
            code, _ = node.stop()
            return judge(client.account.asked, self.moments, self.faults, code)
        finally:
            self._over.set()
            for process in self._started:
                process.stop(signal.SIGKILL)
            self._asked = [
                {**asdict(one), 'sent': one.sent - self._began} for one in client.account.asked
            ]
            client.close()

    def figures(self, verdicts: list[Verdict]) -> dict[str, object]:
        """Return all measurements for the JSON file."""
        return {
            'options': vars(self.options),
            'verdicts': [asdict(verdict) for verdict in verdicts],
            'faults': [asdict(fault) for fault in self.faults],
            'moments': [
                {
                    **moment.sample._asdict(),
                    'at': moment.sample.at - self._began,
                    'tracking': moment.tracking,
                    'control': moment.control,
                }
                for moment in self.moments
            ],
            'asked': self._asked,
        }

    def _start_node(self) -> Watched:
        profile = ROOT / 'config' / f'{self.options.profile}.yaml'
        arguments = [str(ROOT / 'scripts' / 'perception_node'), '--ros-args']
        arguments += ['--params-file', str(profile)]
        for topic in ('image', 'depth', 'camera_info'):
            arguments += ['-r', f'{topic}:=/camera/{topic}']
        for given in self.options.parameter:
            arguments += ['-p', given]
        return self._start(arguments, 'node.log')

    def _start_camera(self) -> Watched:
        arguments = [str(ROOT / 'scripts' / 'camera_sim'), '--ros-args', '-r', '__ns:=/camera']
        arguments += ['-p', f'rate:={self.options.rate}', '-p', 'source:=scene']
        return self._start(arguments, 'camera.log')

    def _start(self, arguments: list[str], log: str) -> Watched:
        process = Watched(arguments, self.folder / log)
        self._started.append(process)
        return process

    def _ask_and_sample(self, client: QueryClient, node: Watched) -> None:
        """Send queries and take samples at a constant rate until the time is over."""
        period = 1.0 / self.options.queries
        end = self._began + 60 * self.options.minutes
        due = time.monotonic()
        while time.monotonic() < end:
            if not node.running:
                raise SystemExit(f'The node died; see {node.log}')
            self._follow_or_not(client)
            client.ask(disturbed=self._disturbed.is_set())
            self.moments.append(Moment(node.sample(), self._tracking, control()))
            due = max(due + period, time.monotonic() - 5 * period)
            threading.Event().wait(max(0.0, due - time.monotonic()))

    def _follow_or_not(self, client: QueryClient) -> None:
        """Toggle tracking."""
        span = min(60.0, 60 * self.options.minutes / 6)
        wanted = int((time.monotonic() - self._began) / span) % 2 == 1
        if wanted != self._tracking and client.set_parameters(track=wanted):
            self._tracking = wanted

    def _break(self, bench: Bench) -> None:
        """Inject one fault after the other, and wait for a good answer after each."""
        names = list(FAULTS)
        period = self.options.fault_period
        while not self._over.wait(period):
            name = names[len(self.faults) % len(names)]
            began = time.monotonic()
            self._disturbed.set()
            FAULTS[name](bench)
            ended = time.monotonic()
            recovery = bench.client.good_answer(GOOD_LIMIT)
            self.faults.append(Fault(name, began - self._began, ended - began, recovery))
            self._over.wait(1.0)
            self._disturbed.clear()


def show(console: Console, soak: Soak, verdicts: list[Verdict]) -> None:
    """Print the tables."""
    table = Table('criterion', 'measured', 'allowed', '')
    for verdict in verdicts:
        mark = 'holds' if verdict.holds else '[red]fails'
        table.add_row(verdict.name, verdict.measured, verdict.allowed, mark)
    console.print(table)
    if soak.faults:
        table = Table('fault', 'times', 'longest recovery')
        for name in dict.fromkeys(fault.name for fault in soak.faults):
            recoveries = [fault.recovery for fault in soak.faults if fault.name == name]
            table.add_row(name, str(len(recoveries)), f'{max(recoveries):.2f} s')
        console.print(table)
    loads = [moment.sample.load for moment in soak.moments]
    console.print(
        f'CPU of the node: {busy(soak.moments):.2f} cores; load of the machine: '
        f'{min(loads):.1f} to {max(loads):.1f}, median {np.median(loads):.1f}'
    )


def draw(soak: Soak, path: Path) -> None:
    """Plot memory and latency over time, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 6), layout='constrained')
    above, below = figure.subplots(2, sharex=True)
    minutes = [(moment.sample.at - soak._began) / 60 for moment in soak.moments]
    above.plot(minutes, [moment.sample.rss_mb for moment in soak.moments])
    above.set(ylabel='memory of the node, MB', ylim=(0, None))
    good = [one for one in soak._asked if one['latency'] == one['latency']]
    for disturbed in (False, True):
        some = [one for one in good if one['disturbed'] == disturbed]
        label = 'during faults' if disturbed else 'undisturbed'
        xs, ys = [one['sent'] / 60 for one in some], [1000 * one['latency'] for one in some]
        below.plot(xs, ys, '.', label=label)
    below.set(xlabel='minutes', ylabel='time to the result, ms', yscale='log')
    below.legend()
    figure.savefig(path)


def arguments() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--profile', default='offline', help='of config/')
    parser.add_argument('--parameter', action='append', default=[], metavar='NAME:=VALUE')
    parser.add_argument('--rate', type=float, default=30.0, help='images per second')
    parser.add_argument('--queries', type=float, default=1.0, help='queries per second')
    parser.add_argument('--fault-period', type=float, default=15.0, help='seconds of peace')
    parser.add_argument('--no-faults', action='store_true')
    parser.add_argument('--output', type=Path, default=Path('out') / 'soak')
    return parser


def main() -> int:
    """Run a soak test and print the results; return 1 unless all criteria hold."""
    options = arguments().parse_args()
    # Node and camera are ended by whatever ends the soak.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options.output.mkdir(parents=True, exist_ok=True)
    for log in options.output.glob('*.log'):
        log.unlink()
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    soak = Soak(options, options.output)
    verdicts = soak.run()
    figures = json.dumps(soak.figures(verdicts), default=str)
    (options.output / 'soak.json').write_text(figures)
    draw(soak, options.output / 'soak.png')
    show(Console(width=110), soak, verdicts)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == '__main__':
    sys.exit(main())
