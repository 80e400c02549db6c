"""Rates that the node measures: of the camera, of tracking, and percentiles of answer times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
import math
import statistics
import time

# Rates that are remembered, how many make a usual one, and the share of it below which one fell.
REMEMBERED = 60
ENOUGH = 10
FELL_BELOW = 0.5
# Moments over which a rate is averaged, and the silence after which it is 0, in seconds.
MOMENTS = 30
SILENCE = 2.0


class UsualRate:
    """Knows a rate that has been usual for the last minute, when it is told it once a second."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, rate_hz: float) -> float:
        """Take in the rate now; return the usual one, 0.0 while that is not known."""
        if rate_hz > 0:
            self._rates.append(rate_hz)
        return statistics.median(self._rates) if len(self._rates) >= ENOUGH else 0.0

    def forget(self) -> None:
        """Begin anew, as with another camera."""
        self._rates.clear()


class Rate:
    """How often something happens; noted in one thread, read in any."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque(maxlen=MOMENTS)

    def note(self) -> None:
        """Say that it happened."""
        self._moments.append(time.monotonic())

    def rate(self) -> float:
        """Return how often it happens per second; 0.0 when it does not."""
        moments = list(self._moments)
        if len(moments) < 2 or time.monotonic() - moments[-1] > SILENCE:
            return 0.0
        return (len(moments) - 1) / max(moments[-1] - moments[0], 1e-9)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that such a share of them does not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan
