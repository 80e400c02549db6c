"""Run all benchmarks: `make bench`, or `python -m benchmarks [NAME ...]`.

Each is a module that can be run alone with its own options (`python -m benchmarks.pose --help`);
most figures in docs/measurements are from these runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time

from benchmarks.machine import processor

# The benchmarks and their options.
RUNS: dict[str, tuple[str, ...]] = {
    'attributes': (),
    'questions': (),
    'pose': (),
    'tracking': (),
    'idle_cost': (),
    'ros_overhead': (),
    'startup': (),
    'replay': (),
    'reasoner': (),
    'segmenter': (),
    'voice': (),
}


def main() -> int:
    """Run the given benchmarks, by default all; return the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'of {", ".join(RUNS)}')
    names = parser.parse_args().names or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f'there is no benchmark {", ".join(sorted(unknown))}')
    cores = len(os.sched_getaffinity(0))
    print(f'{processor()}, {cores} cores, Python {platform.python_version()}', flush=True)
    failed = 0
    for name in names:
        print(f'\n== {name}', flush=True)
        started = time.monotonic()
        done = subprocess.run([sys.executable, '-m', f'benchmarks.{name}', *RUNS[name]])
        failed += done.returncode != 0
        print(f'({time.monotonic() - started:.0f} s, exit code {done.returncode})', flush=True)
    return failed


if __name__ == '__main__':
    raise SystemExit(main())
