"""Times of an exposure, as ``inspect`` shows them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from tsostream.cli.report import emit, facts_table, heading
from tsostream.files import TIME_FLAGS, Exposure, SegmentTimes, header_disagreement
from tsostream.files.times import cadence

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_times"]

_CHUNK: Final = 8192
_MJD_ZERO: Final = datetime(1858, 11, 17, tzinfo=UTC)
#: seconds below which header and table say the same
_SAME: Final = 0.1


def print_times(console: Console, exposure: Exposure) -> None:
    """Print start and end, cadence, what the time flags say, and how far the header's values are off."""
    flags: dict[str, int] = dict.fromkeys(TIME_FLAGS, 0)
    start = end = bjd_start = bjd_end = math.nan
    shortest, longest, previous = math.inf, -math.inf, math.nan
    for segment in exposure.segments:
        table = SegmentTimes(segment)
        for first in range(segment.first, segment.last + 1, _CHUNK):
            times = table.rows(first, min(_CHUNK, segment.last + 1 - first))
            for name, bit in TIME_FLAGS.items():
                flags[name] += int(np.count_nonzero(times.flag & np.uint32(bit)))
            mid = times.values[:, 1]
            steps = (
                np.diff(mid, prepend=previous if segment.first - 1 not in _ends(exposure) else math.nan)
                * 86400
            )
            steps = steps[np.isfinite(steps)]
            if len(steps):
                shortest, longest = min(shortest, float(steps.min())), max(longest, float(steps.max()))
            previous = float(mid[-1])
            if math.isnan(start):
                start, bjd_start = float(times.values[0, 0]), float(times.values[0, 3])
            end, bjd_end = float(times.values[-1, 2]), float(times.values[-1, 5])
    seen = {name: count for name, count in flags.items() if count}
    console.print(heading("Times"))
    rows = [
        ("UTC", f"{_date(start)} to {_date(end)} (MJD {start:.6f} to {end:.6f})"),
        ("barycentric", _barycentric(bjd_start, bjd_end)),
        ("cadence", _cadence_text(shortest, longest, cadence(exposure.info))),
        (
            "flags",
            ", ".join(f"{name} {count}" for name, count in seen.items()) or "none: straight from INT_TIMES",
        ),
        ("header", _disagreement_text(exposure)),
    ]
    emit(console, facts_table(rows))


def _ends(exposure: Exposure) -> set[int]:
    """Integrations after which something is missing."""
    return {last for _, last in exposure.gaps}


def _date(mjd: float) -> str:
    if not math.isfinite(mjd):
        return "unknown"
    return (_MJD_ZERO + timedelta(days=mjd)).strftime("%Y-%m-%d %H:%M:%S")


def _barycentric(start: float, end: float) -> str:
    if not (math.isfinite(start) and math.isfinite(end)):
        return "not known: the BMJD columns will be NaN"
    return f"BMJD (TDB) {start:.6f} to {end:.6f}"


def _cadence_text(shortest: float, longest: float, expected: float) -> str:
    stated = f"the header says {expected:.4f} s"
    if not math.isfinite(shortest):
        return stated
    if longest - shortest < 2e-3:
        return f"{(shortest + longest) / 2:.4f} s; {stated}"
    return f"{shortest:.4f} to {longest:.4f} s; {stated}"


def _disagreement_text(exposure: Exposure) -> str:
    """By how many seconds the header differs, the largest of all segments per keyword."""
    worst: dict[str, float] = {}
    for segment in exposure.segments:
        for name, seconds in header_disagreement(segment).items():
            if abs(seconds) >= abs(worst.get(name, 0.0)):
                worst[name] = seconds
    if not worst:
        return "cannot be compared with INT_TIMES"
    off = {name: seconds for name, seconds in worst.items() if abs(seconds) >= _SAME}
    if not off:
        return f"agrees with INT_TIMES within {_SAME} s ({', '.join(worst)})"
    listed = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in off.items())
    return f"differs from INT_TIMES (header minus table; INT_TIMES is used): {listed}"
