"""The soak's verdict on memory tells a node that fills up and stays level from one that leaks."""

from __future__ import annotations

import math

import pytest

from benchmarks.soak_judging import judge, Moment, Verdict
from benchmarks.watched import Sample


def run(minutes: float, leak_mb_per_hour: float) -> dict[str, Verdict]:
    """Judge a node that fills up by 12 MB in the course of half an hour, and leaks beside."""
    moments = []
    for second in range(0, int(60 * minutes), 5):
        filled = 12 * (1 - math.exp(-second / 420))
        # What is held at the moment.
        noise = 2 * math.sin(second)
        rss_mb = 172 + filled + noise + leak_mb_per_hour * second / 3600
        sample = Sample(float(second), rss_mb, 18, 20, 0.4 * second, 1.0)
        moments.append(Moment(sample, bool(second // 60 % 2), 0.003))
    return {verdict.name: verdict for verdict in judge([], moments, [], 0)}


@pytest.mark.parametrize(('leak', 'holds'), [(0.0, True), (10.0, False)])
@pytest.mark.parametrize('phase', ['tracking', 'not tracking'])
def test_an_hour_tells_a_leak_from_filling_up(leak: float, holds: bool, phase: str) -> None:
    assert run(60, leak)[f'growth after half an hour, {phase}'].holds == holds


def test_half_an_hour_has_no_slope_and_a_limit_all_the_same() -> None:
    assert not any(name.startswith('growth') for name in run(30, 0.0))
    assert run(30, 0.0)['memory, tracking'].holds
    assert not run(30, 40.0)['memory, tracking'].holds
