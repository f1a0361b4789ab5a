"""Figures of a running reduction: speed, time left, memory, and how good the light curve looks."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from tsostream.live.figures import COUNTS, LOOK_BACK, duration, noise
from tsostream.records import RowPair, column_values

__all__ = ["Meter", "peak_bytes"]

#: seconds over which the speed is measured
_WINDOW: Final = 10.0


def peak_bytes() -> int:
    """Largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Meter:
    """Counts what a run has done; constant memory.

    Parameters
    ----------
    bytes_per_integration
        Of the input files.
    clock
        Seconds, for tests.
    """

    def __init__(self, bytes_per_integration: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self.bytes_per_integration = bytes_per_integration
        self.stage = ""
        self.total = 0
        self.done = 0
        self.rows = 0
        self.counts = dict.fromkeys(COUNTS, 0)
        self._clock = clock
        self._began, self._base = clock(), 0
        self._marks: deque[tuple[float, int]] = deque()
        self._recent: deque[tuple[float, float]] = deque(maxlen=LOOK_BACK)
        self._steps: list[np.ndarray] = []

    def begin(self, stage: str, total: int) -> None:
        """Begin a stage."""
        self.stage, self.total, self.done = stage, total, 0
        self._began, self._base = self._clock(), 0
        self._marks.clear()

    def advance(self, done: int, pair: RowPair | None) -> None:
        """Take note of progress, and of the rows that were written."""
        self.done = done
        if pair is None and self.stage == "stream":
            # done by an earlier session
            self._base = self.rows = done
        now = self._clock()
        self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[0][0] < now - _WINDOW:
            self._marks.popleft()
        if pair is not None:
            self._look(pair)

    def _look(self, pair: RowPair) -> None:
        batch = pair.main
        self.rows += batch.num_rows
        for name in COUNTS:
            self.counts[name] += int(column_values(batch, name).sum())
        flux, error = column_values(batch, "flux"), column_values(batch, "flux_err")
        self._recent.extend(zip(flux.tolist(), error.tolist(), strict=True))

    @property
    def resumed(self) -> int:
        """Integrations that an earlier session had written."""
        return self._base

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """Integrations per second lately; NaN before it is known.

        What passes before a stage shows anything (kernels are compiled) says nothing about how long the rest takes.
        """
        if not self._marks or self.done == self._base:
            return math.nan
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        if self.done >= self.total:
            then, before, now, done = self._began, self._base, now, self.done
        elif (silent := self._clock()) - now > _WINDOW:
            now = silent
        return (done - before) / (now - then) if now > then else math.nan

    @property
    def left(self) -> float:
        """Seconds the stage will still take, by the rate; NaN when not known."""
        rate = self.rate
        return (self.total - self.done) / rate if rate > 0 else math.nan

    @property
    def scatter(self) -> tuple[float, float]:
        """Point-to-point scatter of the latest rows, and their own median error [ppm]."""
        rows = np.array(self._recent).reshape(-1, 2)
        return noise(rows[:, 0], rows[:, 1])

    def speed(self) -> str:
        """Integrations and megabytes per second, time left."""
        if not math.isfinite(self.rate):
            return "starting"
        parts = [f"{self.rate:.0f} integrations/s" if self.rate >= 10 else f"{self.rate:.1f} integrations/s"]
        if self.bytes_per_integration:
            parts.append(f"{self.rate * self.bytes_per_integration / 1e6:.0f} MB/s")
        parts.append(f"{duration(self.left)} left" if self.done < self.total else f"{duration(self.elapsed)}")
        return ", ".join(parts)

    def quality(self) -> str:
        """Scatter next to what the errors expect; empty before there are enough rows."""
        found, expected = self.scatter
        if not math.isfinite(found):
            return ""
        return f"scatter {found:.0f} ppm (own errors {expected:.0f})"
