"""Rows of a run beside baseline rows: which columns moved, by how much, from which integration on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tsostream.replay.baseline import KEY, Rows
from tsostream.replay.case import Case, Tolerance

__all__ = ["Moved", "Outcome", "compare"]

Verdict = Literal["within tolerance", "moved", "gone", "new"]

#: column -> column of its error
_ERRORS: Final = {
    "flux": "flux_err",
    "background": "background_err",
    "x": "x_err",
    "y": "y_err",
    "spectra.flux": "spectra.flux_err",
}


@dataclass(frozen=True)
class Moved:
    """A column that is not as it was.

    Parameters
    ----------
    column
        Its name; ``rows`` where rows are missing or too many.
    verdict
        ``moved`` is a regression; ``within tolerance`` is not; ``gone`` and ``new`` are columns or rows.
    values
        How many values differ.
    largest
        Largest difference, new minus old, in the unit of the column; NaN where a number became NaN, or the other way.
    ppm
        The same in parts per million of the median of the baseline; NaN where that is 0.
    sigma
        The same in units of the value's own error; NaN where there is none.
    first
        Integration from which on values differ.
    """

    column: str
    verdict: Verdict
    values: int
    largest: float = float("nan")
    ppm: float = float("nan")
    sigma: float = float("nan")
    first: int = 0

    @property
    def failed(self) -> bool:
        """Whether this is a regression."""
        return self.verdict != "within tolerance"


@dataclass(frozen=True)
class Outcome:
    """What a comparison found.

    Parameters
    ----------
    moved
        Columns that differ, in the order of the table.
    exact
        Whether every bit had to be the same.
    """

    moved: tuple[Moved, ...]
    exact: bool

    @property
    def failed(self) -> bool:
        """Whether there is a regression."""
        return any(one.failed for one in self.moved)


def compare(case: Case, old: Rows, new: Rows, *, exact: bool) -> Outcome:
    """Compare rows.

    Parameters
    ----------
    case
        Knows the tolerances.
    old, new
        Baseline, and rows of this run.
    exact
        Every bit must be the same (same type of processor, same versions).
    """
    found: list[Moved] = []
    where_old, where_new = _aligned(old, new)
    lost, extra = len(old["integration"]) - len(where_old), len(new["integration"]) - len(where_new)
    if lost:
        found.append(Moved("rows", "gone", lost, first=_first_alone(old, new)))
    if extra:
        found.append(Moved("rows", "new", extra, first=_first_alone(new, old)))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new or name not in old or old[name].shape[1:] != new[name].shape[1:]:
            found.append(Moved(name, "gone" if name not in new else "new", len(where_old)))
            continue
        if name in KEY:
            continue
        one = _moved(name, old[name][where_old], new[name][where_new], old["integration"][where_old])
        if one is not None:
            error = old.get(_ERRORS.get(name, ""))
            tolerance = None if exact else case.tolerance(name.removeprefix("spectra."))
            found.append(one.judged(tolerance, None if error is None else error[where_old]))
    return Outcome(tuple(found), exact)


def _keys(rows: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    return list(zip(*(rows[name].tolist() for name in KEY), strict=True))


def _aligned(old: Rows, new: Rows) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the rows both have."""
    place = {key: number for number, key in enumerate(_keys(new))}
    pairs = [(number, place[key]) for number, key in enumerate(_keys(old)) if key in place]
    both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _first_alone(rows: Rows, other: Rows) -> int:
    known = set(_keys(other))
    return next((int(key[-1]) for key in _keys(rows) if key not in known), 0)


@dataclass(frozen=True)
class _Difference:
    """Values of a column that differ somewhere."""

    column: str
    old: np.ndarray
    new: np.ndarray
    differs: npt.NDArray[np.bool_]
    integration: np.ndarray

    def judged(self, tolerance: Tolerance | None, error: np.ndarray | None) -> Moved:
        """Say how much, and whether that is too much; no tolerance: any difference is."""
        rows = self.differs.reshape(len(self.differs), -1).any(axis=1)
        facts = {"values": int(np.count_nonzero(self.differs)), "first": int(self.integration[rows][0])}
        if self.old.dtype.kind not in "fiub" or self.new.dtype.kind not in "fiub":
            return Moved(self.column, "moved", **facts)
        was, now = self.old.astype(np.float64), self.new.astype(np.float64)
        step = np.where(self.differs, now - was, 0.0)
        appeared = np.isnan(was) != np.isnan(now)
        place = np.unravel_index(
            np.argmax(np.where(appeared, np.inf, np.abs(np.nan_to_num(step)))), step.shape
        )
        known = np.abs(was[np.isfinite(was)])
        scale = float(np.median(known)) if len(known) else 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            sigma = (
                float(np.nanmax(np.abs(step) / error))
                if error is not None and np.isfinite(step / error).any()
                else np.nan
            )
        largest = float(step[place])
        if tolerance is None:
            small = False
        elif self.old.dtype.kind == "f":
            allowed = tolerance.absolute + tolerance.relative * scale
            small = not appeared.any() and bool((np.abs(step[np.isfinite(step)]) <= allowed).all())
        else:
            small = bool(np.abs(step).max() <= tolerance.absolute)
        ppm = 1e6 * largest / scale if scale > 0 else float("nan")
        return Moved(
            self.column,
            "within tolerance" if small else "moved",
            largest=largest,
            ppm=ppm,
            sigma=sigma,
            **facts,
        )


def _moved(name: str, old: np.ndarray, new: np.ndarray, integration: np.ndarray) -> _Difference | None:
    """Find the values that are not the same, bit for bit; any NaN is as good as another."""
    if old.dtype.kind == "f" and new.dtype.kind == "f":
        differs = (old != new) & ~(np.isnan(old) & np.isnan(new))
    else:
        differs = np.asarray(old != new, dtype=bool)
    return _Difference(name, old, new, differs, integration) if differs.any() else None
