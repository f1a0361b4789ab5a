"""Figures that tell how a run goes: scatter, rate, time left."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.records import column_values

__all__ = ["COUNTS", "LOOK_BACK", "Figures", "duration", "main_rows", "noise", "p2p_ppm"]

#: columns whose sums are reported
COUNTS: Final = ("n_jump", "n_saturated", "n_outlier", "n_bad")
#: rows the running scatter looks back on
LOOK_BACK: Final = 101
#: seconds over which the speed is measured
_WINDOW: Final = 20.0

Floats = npt.NDArray[np.float64]


def p2p_ppm(flux: np.ndarray) -> float:
    """Point-to-point scatter of a light curve relative to its median [ppm], NaN with fewer than five points.

    The median of the absolute differences of neighbours, scaled to a standard deviation, so that neither a
    transit nor a cosmic ray counts.
    """
    flux = flux[np.isfinite(flux)]
    if len(flux) < 5:
        return math.nan
    step = np.diff(flux)
    spread = 1.4826 * np.median(np.abs(step - np.median(step))) / math.sqrt(2)
    middle = float(np.median(flux))
    return float(1e6 * spread / middle) if middle > 0 else math.nan


def noise(flux: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Point-to-point scatter of a light curve, and what its own errors (photon and read noise) expect [ppm].

    Parameters
    ----------
    flux, error
        In the same unit [row]; NaN where nothing is known.
    """
    known = flux[np.isfinite(flux)]
    if not len(known):
        return math.nan, math.nan
    middle, errors = float(np.median(known)), error[np.isfinite(error)]
    own = float(np.median(errors)) if len(errors) else math.nan
    return p2p_ppm(flux), 1e6 * own / middle if middle > 0 else math.nan


def duration(seconds: float) -> str:
    """Write a time span as people do: 0.4 s, 24 s, 2:05, 1:02:05."""
    if not math.isfinite(seconds):
        return "?"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def main_rows(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Which rows of a batch belong to the first (order, aperture): one per integration."""
    order, aperture = column_values(batch, "order"), column_values(batch, "aperture")
    if not len(order):
        return np.zeros(0, dtype=bool)
    return (order == order[0]) & (aperture == aperture[0])


class Figures:
    """What can be said about a light curve from its rows, as they come; constant memory.

    Parameters
    ----------
    clock
        Seconds, for tests.

    Attributes
    ----------
    rows
        Integrations seen.
    last
        Number of the last one; 0 before the first.
    counts
        Column -> sum over all rows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Begin again, for another run."""
        self.rows = self.last = 0
        self.counts = dict.fromkeys(COUNTS, 0)
        self._marks: deque[tuple[float, int]] = deque()
        self._flux: deque[float] = deque(maxlen=LOOK_BACK)
        self._error: deque[float] = deque(maxlen=LOOK_BACK)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take note of rows."""
        if not batch.num_rows:
            return
        for name in COUNTS:
            self.counts[name] += int(column_values(batch, name).sum())
        main = main_rows(batch)
        self.rows += int(np.count_nonzero(main))
        self.last = int(batch.column("integration")[-1].as_py())
        self._flux.extend(column_values(batch, "flux")[main][-LOOK_BACK:].tolist())
        self._error.extend(column_values(batch, "flux_err")[main][-LOOK_BACK:].tolist())

    def mark(self) -> None:
        """Note what time it is; called once all rows that were there have been added."""
        now = self._clock()
        self._marks.append((now, self.rows))
        while len(self._marks) > 2 and self._marks[1][0] < now - _WINDOW:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Integrations per second lately; NaN before two marks are half a second apart."""
        if len(self._marks) < 2:
            return math.nan
        (then, before), (now, rows) = self._marks[0], self._marks[-1]
        return (rows - before) / (now - then) if now - then >= 0.5 else math.nan

    def left(self, last: int) -> float:
        """Seconds until integration ``last`` is there, by the rate; NaN when not known."""
        rate = self.rate
        return (last - self.last) / rate if rate > 0 else math.nan

    @property
    def scatter(self) -> tuple[float, float]:
        """Point-to-point scatter of the latest rows, and what their own errors (photon and read noise) expect [ppm]."""
        return noise(np.array(self._flux), np.array(self._error))
