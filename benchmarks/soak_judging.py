"""Criteria of the soak test: lost queries, growth, latency, recovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
import math

import numpy as np

from benchmarks.query_client import Asked
from benchmarks.watched import Sample

# The first part of a run, in which caches fill, is not judged: so much of it, and no more seconds.
WARM_UP_SHARE = 0.2
WARM_UP_MOST = 900.0
# In half an hour slopes of a level node differ by some 3 MB an hour; less cannot be told.
MAX_GROWTH_MB_PER_HOUR = 5.0
MOST_GROWTH = 1.03
MOST_DRIFT = 1.3
# For so many seconds histories and pools still fill (docs/measurements/endurance.md shows the
# curve); a slope is that of what follows, and is told from noise only over so many seconds more.
FILLED_AFTER = 1800.0
SLOPE_NEEDS = 900.0
# Within so many seconds a node that just started still takes more.
SHORT_RUN = 600.0
MOST_GROWTH_OF_SHORT_RUNS = 1.15
# Within so few, pools and the middleware's queues meet images of each size for the first time: the
# same build grew by 11 to 27 % there. A node that keeps its frames takes three times as much.
FIRST_MINUTES = 120.0
MOST_GROWTH_OF_FIRST_MINUTES = 1.6
RECOVERY_LIMIT = 5.0


@dataclass
class Fault:
    """One fault and the recovery.

    Attributes:
        name: of the fault.
        at: seconds since the start.
        lasted: duration of the fault, seconds.
        recovery: seconds from its end to the next good answer; infinity without any.
    """

    name: str
    at: float
    lasted: float
    recovery: float


@dataclass
class Moment:
    """A sample of the node with its circumstances.

    Attributes:
        sample: resources of the node.
        tracking: whether tracking was on.
        control: seconds of a fixed computation at that time.
    """

    sample: Sample
    tracking: bool
    control: float


@dataclass
class Verdict:
    """One criterion: the measured and the allowed value, and whether it holds."""

    name: str
    measured: str
    allowed: str
    holds: bool


def judge(
    asked: Sequence[Asked], moments: Sequence[Moment], faults: Sequence[Fault], exit_code: int
) -> list[Verdict]:
    """Return the verdicts of all criteria."""
    begin = moments[0].sample.at
    seconds = moments[-1].sample.at - begin
    warm = begin + min(WARM_UP_SHARE * seconds, WARM_UP_MOST)
    later = [moment for moment in moments if moment.sample.at >= warm]
    verdicts = [_results(asked)]
    for tracking in (False, True):
        phase = [moment for moment in later if moment.tracking == tracking]
        if len(phase) >= 8:
            name = 'tracking' if tracking else 'not tracking'
            verdicts += _memory(phase, name, begin, seconds)
    verdicts += _resources(later)
    verdicts += _latency([a for a in asked if a.sent >= warm and a.good], moments)
    slowest = max((fault.recovery for fault in faults), default=0.0)
    verdicts.append(
        Verdict(
            f'recovery from {len(faults)} faults',
            f'{slowest:.2f} s at most',
            f'{RECOVERY_LIMIT:g} s',
            slowest <= RECOVERY_LIMIT,
        )
    )
    verdicts.append(Verdict('exit code', str(exit_code), '0', exit_code == 0))
    return verdicts


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and the last quarter."""
    size = max(1, len(values) // 4)
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Return the median slope between all pairs of points (Theil-Sen), per unit of `at`."""
    step = max(1, len(at) // 400)
    x, y = np.asarray(at[::step]), np.asarray(values[::step])
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


def _results(asked: Sequence[Asked]) -> Verdict:
    wrong = [one for one in asked if not one.complete]
    counts = Counter('none' if one.status is None else one.status.name for one in asked)
    told = ', '.join(f'{count} {name}' for name, count in counts.most_common())
    return Verdict(
        'queries without exactly one result',
        f'{len(wrong)} of {len(asked)} ({told})',
        '0',
        not wrong,
    )


def _memory(phase: Sequence[Moment], name: str, begin: float, seconds: float) -> list[Verdict]:
    values = [moment.sample.rss_mb for moment in phase]
    first, last = quarters(values)
    most = MOST_GROWTH if seconds >= SHORT_RUN else MOST_GROWTH_OF_SHORT_RUNS
    if seconds < FIRST_MINUTES:
        most = MOST_GROWTH_OF_FIRST_MINUTES
    verdicts = [
        Verdict(
            f'memory, {name}',
            f'{first:.1f} to {last:.1f} MB ({(last / first - 1):+.1%})',
            f'{most - 1:+.0%}',
            last <= first * most,
        )
    ]
    full = [moment.sample for moment in phase if moment.sample.at >= begin + FILLED_AFTER]
    if len(full) >= 8 and begin + seconds - full[0].at >= SLOPE_NEEDS:
        growth = 3600 * slope([sample.at for sample in full], [sample.rss_mb for sample in full])
        verdicts.append(
            Verdict(
                f'growth after half an hour, {name}',
                f'{growth:+.2f} MB an hour',
                f'{MAX_GROWTH_MB_PER_HOUR:+g} MB an hour',
                growth <= MAX_GROWTH_MB_PER_HOUR,
            )
        )
    return verdicts


def _resources(later: Sequence[Moment]) -> list[Verdict]:
    verdicts = []
    for name in ('threads', 'files'):
        first, last = quarters([getattr(moment.sample, name) for moment in later])
        verdicts.append(Verdict(name, f'{first:g} to {last:g}', 'no more', last <= first + 2))
    return verdicts


def _latency(asked: Sequence[Asked], moments: Sequence[Moment]) -> list[Verdict]:
    """Return the verdict on latency, relative to the control computation."""
    calm = [one for one in asked if not one.disturbed and math.isfinite(one.latency)]
    if len(calm) < 8:
        return []
    at = [moment.sample.at for moment in moments]
    control = [moment.control for moment in moments]
    controls = np.interp([one.sent for one in calm], at, control)
    first, last = quarters([one.latency for one in calm])
    relative = [one.latency / unit for one, unit in zip(calm, controls, strict=True)]
    relative_first, relative_last = quarters(relative)
    drift = relative_last / relative_first
    return [
        Verdict(
            'latency, median',
            f'{1000 * first:.0f} to {1000 * last:.0f} ms ({drift:.2f} times, against a control)',
            f'{MOST_DRIFT:g} times',
            drift <= MOST_DRIFT,
        )
    ]


def busy(moments: Sequence[Moment]) -> float:
    """Return the node's CPU time per second, without gaps in sampling."""
    pairs = [(a.sample, b.sample) for a, b in pairwise(moments)]
    return sum(b.cpu_s - a.cpu_s for a, b in pairs) / max(1e-9, sum(b.at - a.at for a, b in pairs))
