"""Real time: when the next tick is due, and how late ticks have been."""

from __future__ import annotations

import time

import numpy as np

_REMEMBERED = 5000  # ticks
_LARGEST_LAG = 0.1  # s of lateness that is caught up; what exceeds it is dropped


class Pacer:
    """Deadlines `period` apart on the clock time.monotonic.

    A late tick is followed by the next ones at once until the clock is caught up. After a lag of
    more than 0.1 s the schedule starts anew instead, and the controller's time falls behind.

    Attributes:
        slowdown: seconds of real time for each second of the controller's.
        dropped: s that the controller's time has fallen behind.
    """

    def __init__(self, period: float):
        self.period, self.slowdown = period, 1.0
        self.dropped = 0.0
        self.deadline = time.monotonic() + period
        self._late = np.zeros(_REMEMBERED)
        self._count = 0

    def tick(self) -> None:
        """Notes the tick that begins now, and sets the next deadline."""
        now = time.monotonic()
        late = now - self.deadline
        self._late[self._count % _REMEMBERED] = late
        self._count += 1
        if late > _LARGEST_LAG:
            self.dropped += late
            self.deadline = now
        self.deadline += self.period * self.slowdown

    def report(self) -> dict[str, float]:
        """Returns lateness (ms) over the last 5000 ticks, ticks so far, time dropped (s)."""
        late = self._late[: min(self._count, _REMEMBERED)] * 1e3
        if not late.size:
            return {"ticks": 0}
        median, p99 = np.percentile(late, (50, 99))
        return {
            "ticks": self._count,
            "p50_ms": float(median),
            "p99_ms": float(p99),
            "max_ms": float(late.max()),
            "dropped_s": self.dropped,
        }
