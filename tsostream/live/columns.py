"""Rows of a run in memory, as columns that grow; what a page can ask about them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tsostream.live.figures import COUNTS

__all__ = ["Column", "Series", "allan_scatter", "bin_bounds"]

Floats = npt.NDArray[np.float64]

#: columns that are kept, beside the time
VALUES: Final = ("flux", "flux_err", "background", "x", "y", "width_x", "width_y")
#: bins of the binned line
BINNED: Final = 96
#: significant digits that are told
_DIGITS: Final = 9
#: bins that a point of the scatter plot needs at least
_BINS: Final = 8


class Column:
    """Numbers at whose end more are put."""

    def __init__(self) -> None:
        self._values = np.empty(1024)
        self._count = 0

    def extend(self, values: npt.NDArray[Any]) -> None:
        """Put values at the end."""
        stop = self._count + len(values)
        if stop > len(self._values):
            grown = np.empty(max(stop, 2 * len(self._values)))
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : stop] = values
        self._count = stop

    @property
    def values(self) -> Floats:
        """All of them, without a copy."""
        return self._values[: self._count]


class Series:
    """The rows of one order and aperture.

    Attributes
    ----------
    clock
        What ``x`` counts: ``BMJD (TDB)``, ``MJD (UTC)``, or ``integration`` where there are no times.
    origin
        Its value at ``x = 0`` [d].
    """

    def __init__(self) -> None:
        self.clock = ""
        self.origin = 0.0
        self._x = Column()
        self._columns = {name: Column() for name in (*VALUES, *COUNTS, "integration")}

    def __len__(self) -> int:
        return len(self._x.values)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of this order and aperture only."""
        for name, column in self._columns.items():
            column.extend(batch.column(name).to_numpy())
        self._x.extend(self._hours(batch))

    def _hours(self, batch: pa.RecordBatch) -> Floats:
        numbers = batch.column("integration").to_numpy().astype(np.float64)
        clocks = {"BMJD (TDB)": "time_bmjd_tdb_mid", "MJD (UTC)": "time_mjd_utc_mid"}
        if not self.clock:
            known = (name for name, column in clocks.items() if np.isfinite(batch.column(column)[0].as_py()))
            self.clock = next(known, "integration")
            self.origin = batch.column(clocks[self.clock])[0].as_py() if self.clock in clocks else 0.0
        if self.clock == "integration":
            return numbers
        hours = 24.0 * (batch.column(clocks[self.clock]).to_numpy() - self.origin)
        before = self._x.values
        step = float(np.median(np.diff(before))) if len(before) > 1 else 1e-6
        last = before[-1] if len(before) else -step
        for place in np.flatnonzero(
            ~np.isfinite(hours)
        ):  # a row whose time is not known stands behind the one before
            hours[place] = (hours[place - 1] if place else last) + step
        # what is drawn must go forward
        return np.maximum.accumulate(np.concatenate(([last], hours)))[1:]

    @property
    def x(self) -> Floats:
        """Hours since the first row, or integration numbers."""
        return self._x.values

    def column(self, name: str) -> Floats:
        """Values of a column."""
        return self._columns[name].values

    @property
    def level(self) -> float:
        """Median flux; 1 where there is none."""
        flux = self.column("flux")
        flux = flux[np.isfinite(flux)]
        middle = float(np.median(flux)) if len(flux) else 1.0
        return middle if middle > 0 else 1.0

    def rows(self, begin: float, end: float) -> tuple[int, int]:
        """First row at or after ``begin``, first one after ``end``."""
        first, last = np.searchsorted(self.x, (begin, end), side="left")
        return int(first), int(min(last + 1, len(self)))

    def decimated(self, begin: float, end: float, points: int) -> dict[str, Any]:
        """Gather what is drawn between two times.

        With at most ``points`` rows in sight each is a point; else consecutive rows are put together, and of the flux
        the smallest and the largest are told, too.

        Parameters
        ----------
        begin, end
            Hours, as in ``x``.
        points
            How many there is room for.

        Returns
        -------
        dict
            Lists of floats, NaN as None; flux relative to `level`.
        """
        first, last = self.rows(begin, end)
        bounds = bin_bounds(first, last, points)
        level = self.level
        flux, error = self.column("flux") / level, self.column("flux_err") / level
        raw = len(bounds) - 1 == last - first
        drawn: dict[str, Any] = {"raw": raw, "rows": last - first, "x": _mean(self.x, bounds)}
        drawn["flux"] = _mean(flux, bounds)
        drawn["err"] = _mean_error(error, bounds)
        if not raw:
            drawn["low"], drawn["high"] = _extremes(flux, bounds)
        wide = bin_bounds(first, last, BINNED)
        drawn["binned"] = {
            "x": _mean(self.x, wide),
            "flux": _mean(flux, wide),
            "err": _mean_error(error, wide),
        }
        for name in ("x", "y", "width_x", "width_y"):
            values = self.column(name)
            known = values[np.isfinite(values)]
            drawn[f"{name}_value"] = _mean(values - (float(np.median(known)) if len(known) else 0.0), bounds)
        drawn["background"] = _mean(self.column("background"), bounds)
        for name in COUNTS:
            drawn[name] = _mean(self.column(name), bounds)
        plain: dict[str, Any] = {name: _plain(value) for name, value in drawn.items()}
        plain["range"] = _fair_range(flux[first:last])
        plain["scatter"] = allan_scatter(flux[first:last], error[first:last])
        return plain


def bin_bounds(first: int, last: int, bins: int) -> npt.NDArray[np.intp]:
    """Bounds of at most so many bins of consecutive rows, none of them empty."""
    count = min(max(1, bins), last - first)
    return (
        np.linspace(first, last, count + 1).astype(np.intp) if count > 0 else np.array([first], dtype=np.intp)
    )


def allan_scatter(flux: Floats, error: Floats) -> dict[str, list[float | None]]:
    """Scatter of binned flux against the size of the bins, and what the errors expect of white noise.

    Half the mean square difference of neighbouring bins (Allan variance), with the median in place of the mean, so that
    neither a transit nor a cosmic ray counts.

    Parameters
    ----------
    flux, error
        Relative [row].

    Returns
    -------
    dict
        ``size`` [rows], ``measured`` and ``expected`` [ppm].
    """
    size, measured, expected = 1, [], []
    sizes = []
    known = error[np.isfinite(error)]
    own = math.sqrt(float(np.mean(known**2))) if len(known) else math.nan
    while len(flux) // size >= _BINS:
        count = len(flux) // size
        cut = flux[: count * size].reshape(count, size)
        good = np.isfinite(cut)
        number = good.sum(axis=1)
        means = np.where(good, cut, 0.0).sum(axis=1)[number > size // 2] / number[number > size // 2]
        steps = np.diff(means)
        if len(steps) < _BINS - 1:
            break
        spread = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
        sizes.append(float(size))
        measured.append(1e6 * spread)
        expected.append(1e6 * own / math.sqrt(size))
        size *= 2
    return {"size": _plain(sizes), "measured": _plain(measured), "expected": _plain(expected)}


def _sums(values: Floats, bounds: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sum and number of the finite values of each bin."""
    part = values[bounds[0] : bounds[-1]]
    if len(bounds) < 2 or not len(part):
        return np.empty(0), np.empty(0)
    good = np.isfinite(part)
    starts = bounds[:-1] - bounds[0]
    total = np.add.reduceat(np.where(good, part, 0.0), starts)
    return total, np.add.reduceat(good.astype(np.float64), starts)


def _mean(values: Floats, bounds: npt.NDArray[np.intp]) -> Floats:
    total, number = _sums(values, bounds)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / number


def _mean_error(error: Floats, bounds: npt.NDArray[np.intp]) -> Floats:
    """Error of the mean of each bin."""
    total, number = _sums(error * error, bounds)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(total) / number


def _extremes(values: Floats, bounds: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    part = values[bounds[0] : bounds[-1]]
    starts = bounds[:-1] - bounds[0]
    if not len(part):
        return np.empty(0), np.empty(0)
    return np.fmin.reduceat(part, starts), np.fmax.reduceat(part, starts)


def _fair_range(flux: Floats) -> list[float] | None:
    """Return limits that show the curve; a few points far off do not stretch them."""
    flux = flux[np.isfinite(flux)]
    if not len(flux):
        return None
    low, high = (float(one) for one in np.percentile(flux, (0.5, 99.5)))
    margin = 0.25 * (high - low) or 1e-4
    return [low - margin, high + margin]


def _plain(values: Any) -> Any:
    """Make lists of floats with as many digits as a picture needs; NaN is no JSON."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, bool | int):
        return values
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    size = np.abs(np.where(known & (given != 0.0), given, 1.0))
    scale = 10.0 ** np.clip(_DIGITS - 1 - np.floor(np.log10(size)), -300, 300)
    rounded = np.rint(np.where(known, given, 0.0) * scale) / scale
    if known.all():
        return rounded.tolist()
    mixed = rounded.astype(object)
    mixed[~known] = None
    return mixed.tolist()
