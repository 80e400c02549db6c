"""Rates of the camera and of tracking, and percentiles of latencies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
import math
import statistics
import time

# Number of samples the median is taken over, and how many it needs.
MEDIAN_WINDOW = 60
MIN_SAMPLES = 10
# Below this share of the median, a rate has dropped.
DROPPED_SHARE = 0.5
# Number of events a rate is averaged over, and seconds without any after which it is 0.
EVENT_WINDOW = 30
TIMEOUT = 2.0


class MedianRate:
    """Median of a rate over the last minute, if it is updated once a second."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=MEDIAN_WINDOW)

    def update(self, rate_hz: float) -> float:
        """Add the present rate; return the median, 0.0 while there are too few samples."""
        if rate_hz > 0:
            self._rates.append(rate_hz)
        return statistics.median(self._rates) if len(self._rates) >= MIN_SAMPLES else 0.0

    def reset(self) -> None:
        """Drop all samples, as for another camera."""
        self._rates.clear()


class Rate:
    """Rate of an event; `tick` is called in one thread, `per_second` in any."""

    def __init__(self) -> None:
        self._ticks: deque[float] = deque(maxlen=EVENT_WINDOW)

    def tick(self) -> None:
        """Count one event, now."""
        self._ticks.append(time.monotonic())

    def per_second(self) -> float:
        """Return the rate in Hz; 0.0 if there was no event lately."""
        ticks = list(self._ticks)
        if len(ticks) < 2 or time.monotonic() - ticks[-1] > TIMEOUT:
            return 0.0
        return (len(ticks) - 1) / max(ticks[-1] - ticks[0], 1e-9)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share does not exceed; NaN for no values.

    Args:
        values: in any order.
        share: 0 to 1, such as 0.95.
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan
