"""How much faster several workers are, for evaluations and replays of many bags.

Run `python -m benchmarks.scale` on an idle machine with two processors or more. It records bags of
generated table-tops (640x480, depth, intrinsics), accepts the answers of the profile `offline` as
truth, and runs `segzero evaluate` over all of them and `segzero replay` of all of them with one
worker and with several, alternately, each in a new process. The results are compared: the lines
and figures of the evaluations, and each file of the replays, must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import processor
from benchmarks.replay import COMMAND, QUERY, write_bag

QUERIES = (QUERY, 'the smallest object', 'something red')
# Files of a replay with what the machine took.
TIMED = ('timings.jsonl', 'report.html')


def segzero(*words: object) -> float:
    """Run a command with the profile `offline`; return its seconds."""
    started = time.perf_counter()
    options = ('--profile', 'offline', '-q')
    command = [sys.executable, '-c', COMMAND, *map(str, words), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def evaluated(folder: Path) -> object:
    """Return lines and figures of an evaluation, without times."""
    summary = json.loads((folder / 'summary.json').read_text())
    del summary['timing']
    rows = {}
    for path in folder.glob('items*.jsonl'):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if 'index' in row:
                rows[row['index']] = {**row, 'seconds': None}
    return summary, rows


def replayed(folder: Path) -> object:
    """Return a digest of each file of the replays but those with times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file() and path.name not in TIMED
    }


def main() -> int:
    """Measure; return 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--bags', type=int, default=8)
    parser.add_argument('--frames', type=int, default=40, help='of each bag')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', choices=('evaluate', 'replay'), help='default: both')
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f'{processor()}, {cores} cores, Python {sys.version.split()[0]}', flush=True)
    print(f'{options.bags} bags of {options.frames} frames, {len(QUERIES)} queries each')
    asked = [word for text in QUERIES for word in ('--query', text)]
    same = True
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for number in range(options.bags):
            write_bag(work / 'bags' / f'{number:02d}', options.frames)
        bare = [word for one in ('bag', 'video', 'report') for word in ('--without', one)]
        accept = ('--accept', work / 'truth', '-o', work / 'first')
        segzero('replay', work / 'bags', *asked, *bare, *accept)
        commands = {
            'evaluate': ('evaluate', work / 'bags', '--truth', work / 'truth'),
            'replay': ('replay', work / 'bags', *asked),
        }
        for what, words in commands.items():
            if options.only not in (None, what):
                continue
            seconds: dict[int, list[float]] = {1: [], options.workers: []}
            results = {}
            for _ in range(options.rounds):
                for workers, measured in seconds.items():
                    output = work / f'{what}-{workers}'
                    shutil.rmtree(output, ignore_errors=True)
                    measured.append(segzero(*words, '-o', output, '--workers', workers))
                    print(f'{what}, {workers} workers: {measured[-1]:.1f} s', flush=True)
                    results[workers] = {'evaluate': evaluated, 'replay': replayed}[what](output)
            equal = results[1] == results[options.workers]
            same &= equal
            ratios = [one / more for one, more in zip(*seconds.values(), strict=True)]
            times = ', '.join(
                f'{workers} workers {statistics.median(measured):.1f} s'
                for workers, measured in seconds.items()
            )
            print(
                f'{what}: {times}; {statistics.median(ratios):.2f} times as fast '
                f'({min(ratios):.2f} to {max(ratios):.2f}); '
                f'results {"equal" if equal else "DIFFER"}',
                flush=True,
            )
    print(f'load average: {os.getloadavg()[0]:.1f}')
    return 0 if same else 1


if __name__ == '__main__':
    raise SystemExit(main())
