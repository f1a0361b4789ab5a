"""INT_TIMES: read by row range, audited row by row, repaired from the header where a row cannot be trusted.

The table is selected by integration number, never by position alone: it may hold the rows of the whole
exposure or more, its numbers may be 16-bit and rolled over, it may be empty, or a copy of another segment's.
What a row went through stands in ``time_flag`` (`TIME_FLAGS`); 0 means straight from the table.

Where the table says nothing usable, MJD comes from the header and BJD is NaN::

    start(i) = EXPSTART + (i - 1) * cadence          i: integration number in the exposure, from 1
    end(i)   = start(i) + tint
    tint     = ((NGROUPS - 1) * (NFRAMES + GROUPGAP) + NFRAMES) * TFRAME
    cadence  = tint + NRESETS * TFRAME

so start is the end of the reset and EXPSTART the start of the first integration, as in the archive's tables.
The header's own barycentric keywords (BSTRTIME, BENDTIME, BARTDELT) are never used; `header_disagreement`
says by how much they are off.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import ReadError
from tsostream.files.segment import TIME_TABLE_COLUMNS, SegmentFile, TimeTable
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Times

__all__ = [
    "TIME_FLAGS",
    "SegmentTimes",
    "cadence",
    "header_disagreement",
    "header_times",
    "integration_duration",
]

Array = npt.NDArray

#: MJD computed from EXPSTART and the header's timing, not from INT_TIMES
HEADER_TIMES: Final = 1 << 0
#: no trustworthy BJD: the three BMJD columns are NaN
NO_BJD: Final = 1 << 1
#: INT_TIMES has no row for this integration (or there is no table, or no file)
ABSENT: Final = 1 << 2
#: the row is not finite, zero, out of range, or start <= mid <= end does not hold
BAD_ROW: Final = 1 << 3
#: the row does not fit its neighbours: same time twice, backwards, or more than half a cadence off
NOT_MONOTONIC: Final = 1 << 4
#: the integration number had to be repaired (16-bit rollover, or counted from the start of the segment)
NUMBER_REPAIRED: Final = 1 << 5
#: several rows carry this integration number; the first was used
DUPLICATE: Final = 1 << 6
#: the table belongs to another segment and was not used
FOREIGN: Final = 1 << 7

#: name -> bit of ``time_flag``
TIME_FLAGS: Final[dict[str, int]] = {
    "HEADER_TIMES": HEADER_TIMES,
    "NO_BJD": NO_BJD,
    "ABSENT": ABSENT,
    "BAD_ROW": BAD_ROW,
    "NOT_MONOTONIC": NOT_MONOTONIC,
    "NUMBER_REPAIRED": NUMBER_REPAIRED,
    "DUPLICATE": DUPLICATE,
    "FOREIGN": FOREIGN,
}

DAY: Final = 86400.0
#: rows read at once while the numbers are scanned
_CHUNK_ROWS: Final = 1 << 16
#: a table whose numbers break off more often than this is noise
_MAX_RUNS: Final = 4096
#: MJD of 1968 and of 2132
_MJD_RANGE: Final = (40000.0, 100000.0)
#: BMJD(TDB) - MJD(UTC): light travel time up to 510 s plus TDB - UTC of 69 s, and some reserve [d]
_MAX_BJD_SHIFT: Final = 0.01
#: rows on either side whose median a row is compared with
_WINDOW: Final = 2
#: rows on either side that decide about a row: those of its direct neighbours' windows
_MARGIN: Final = _WINDOW + 1


def integration_duration(info: ExposureInfo) -> float:
    """First reset to last read of one integration [s]."""
    groups = (info.ngroups - 1) * (info.nframes + info.groupgap) + info.nframes
    return groups * info.frame_time


def cadence(info: ExposureInfo) -> float:
    """Start to start of consecutive integrations [s], by the header."""
    return integration_duration(info) + info.resets_between * info.frame_time


def header_times(info: ExposureInfo, numbers: Array, flag: int = ABSENT) -> Times:
    """Compute times from EXPSTART and the header's timing.

    Parameters
    ----------
    info
        The exposure.
    numbers : int [integration]
        Integration numbers in the exposure, from 1.
    flag
        Set besides ``HEADER_TIMES | NO_BJD``.

    Returns
    -------
    Times
        MJD from the header (NaN without EXPSTART), BJD NaN.
    """
    values = np.full((len(numbers), 6), np.nan)
    values[:, 0] = _exposure_start(info) + (np.asarray(numbers, dtype=np.float64) - 1.0) * (
        cadence(info) / DAY
    )
    values[:, 2] = values[:, 0] + integration_duration(info) / DAY
    values[:, 1] = 0.5 * (values[:, 0] + values[:, 2])
    return Times(values, np.full(len(numbers), HEADER_TIMES | NO_BJD | flag, dtype=np.uint32))


def _exposure_start(info: ExposureInfo) -> float:
    start = info.header.get("EXPSTART")
    if isinstance(start, bool) or not isinstance(start, int | float):
        return math.nan
    return float(start) if _MJD_RANGE[0] < start < _MJD_RANGE[1] else math.nan


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows ``row .. row + count - 1`` carry the integrations ``number ..``."""

    number: int
    row: int
    count: int
    repaired: bool


class SegmentTimes:
    """The times of one segment's integrations.

    Reads the integration numbers once, in chunks; keeps only where runs of consecutive numbers begin. Rows
    are read when asked for, by position. Holds no file descriptor.

    Parameters
    ----------
    segment
        The segment; its ``times_trusted`` is honoured.

    Raises
    ------
    ReadError
        When the table cannot be read.
    """

    def __init__(self, segment: SegmentFile):
        self.segment = segment
        self.notes: list[str] = []
        self._missing_flag = ABSENT
        self._runs: list[_Run] = []
        self._cadence = cadence(segment.info) / DAY
        table = segment.time_table
        if table is not None and not segment.times_trusted:
            self._missing_flag = ABSENT | FOREIGN
        elif table is not None:
            self._table = table
            self._dtype = _row_dtype(table)
            self._runs = self._scan(table)
            self._cadence = self._measured_cadence(table)
            self._align()
            self._note_extra(table)

    def rows(self, first: int, count: int) -> Times:
        """Get the times of the integrations ``first .. first + count - 1`` (numbers in the exposure)."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        result = header_times(self.segment.info, numbers, self._missing_flag)
        if not self._runs:
            return result
        values, flags = self._read(first - _MARGIN, count + 2 * _MARGIN)
        have = flags & np.uint32(ABSENT) == 0
        sound = have & _sound(values[:, :3])
        fits = self._fits_neighbours(values[:, 1], sound)
        flags[have & ~sound] |= np.uint32(BAD_ROW)
        flags[sound & ~fits] |= np.uint32(NOT_MONOTONIC)
        shift = np.abs(np.where(sound, values[:, 4] - values[:, 1], np.nan))
        bjd_good = _sound(values[:, 3:]) & (shift < _MAX_BJD_SHIFT)
        core = slice(_MARGIN, _MARGIN + count)
        use, values, flags, bjd_good = (sound & fits)[core], values[core], flags[core], bjd_good[core]
        result.values[use, :3] = values[use, :3]
        result.values[use & bjd_good, 3:] = values[use & bjd_good, 3:]
        computed = np.uint32(HEADER_TIMES | NO_BJD)
        result.flag[:] = flags
        result.flag[~use] |= computed
        result.flag[use & ~bjd_good] |= np.uint32(NO_BJD)
        return result

    def first_start(self) -> float:
        """Start of the segment's first integration by its table [MJD]; NaN when the table does not know."""
        times = self.rows(self.segment.first, 1)
        return math.nan if times.flag[0] & HEADER_TIMES else float(times.values[0, 0])

    def last_start(self) -> float:
        """Start of the segment's last integration by its table [MJD]; NaN when the table does not know."""
        times = self.rows(self.segment.last, 1)
        return math.nan if times.flag[0] & HEADER_TIMES else float(times.values[0, 0])

    def _pread(self, row: int, count: int) -> Array:
        """Rows of the table as a structured array."""
        size = count * self._table.row_bytes
        try:
            descriptor = os.open(self.segment.path, os.O_RDONLY)
            try:
                raw = os.pread(descriptor, size, self._table.offset + row * self._table.row_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ReadError(
                f"{self.segment.source_path}, INT_TIMES: row {row + 1} cannot be read "
                f"({error.strerror or error}); check the disk and go on with --resume"
            ) from error
        if len(raw) != size:
            raise ReadError(
                f"{self.segment.source_path}, INT_TIMES: row {row + 1 + len(raw) // self._table.row_bytes} "
                "is not there any more: the file became shorter; restore it and go on with --resume"
            )
        return np.frombuffer(raw, dtype=self._dtype)

    def _numbers(self, row: int, count: int) -> Array:
        column = self._table.columns["integration_number"]
        raw = self._pread(row, count)["integration_number"]
        with np.errstate(invalid="ignore"):
            return (raw * column.scale + column.zero).astype(np.int64)

    def _scan(self, table: TimeTable) -> list[_Run]:
        """Find the runs of consecutive numbers, undoing 16-bit rollovers on the way."""
        runs: list[_Run] = []
        last_raw: int | None = None
        offset = 0
        for row in range(0, table.rows, _CHUNK_ROWS):
            raw = self._numbers(row, min(_CHUNK_ROWS, table.rows - row))
            before = np.concatenate(([raw[0] - 1 if last_raw is None else last_raw], raw[:-1]))
            wrapped = np.where(_rolled_over(before, raw), before + 1 - raw, 0)
            offsets = offset + np.cumsum(wrapped)
            numbers = raw + offsets
            # what the number would be had it gone on by one, in the same unwrapped count
            expected = before + 1 + offsets - wrapped
            broken = (numbers != expected) | (wrapped != 0)
            broken[0] |= not runs
            breaks = np.flatnonzero(broken)
            if runs and (not len(breaks) or breaks[0] != 0):
                upto = int(breaks[0]) if len(breaks) else len(raw)
                runs[-1] = _Run(runs[-1].number, runs[-1].row, runs[-1].count + upto, runs[-1].repaired)
            ends = np.append(breaks, len(raw))[1:]
            if len(runs) + len(breaks) > _MAX_RUNS:
                self.notes.append(
                    "the numbers in INT_TIMES make no sense: times come from the header, without BJD"
                )
                return []
            runs += [
                _Run(int(numbers[a]), row + int(a), int(b - a), bool(offsets[a] != 0))
                for a, b in zip(breaks, ends, strict=True)
            ]
            last_raw, offset = int(raw[-1]), int(offsets[-1])
        return runs

    def _measured_cadence(self, table: TimeTable) -> float:
        """Median step of the first rows [d], if it is anywhere near the header's cadence."""
        mid = self._pread(0, min(table.rows, 4096))["int_mid_mjd_utc"].astype(np.float64)
        step = np.diff(mid)
        step = step[np.isfinite(step) & (step > 0)]
        measured = float(np.median(step)) if len(step) else 0.0
        return measured if 0.3 < measured / self._cadence < 3.0 else self._cadence

    def _covered(self, offset: int) -> int:
        """How many integrations of the segment the table names when ``offset`` is added to its numbers."""
        covered, done = 0, self.segment.first - offset - 1
        last = self.segment.last - offset
        for run in sorted(self._runs, key=lambda run: run.number):
            end = min(last, run.number + run.count - 1)
            covered += max(0, end - max(done, run.number - 1))
            done = max(done, end)
        return covered

    def _align(self) -> None:
        """Add to all numbers what they lack when they rolled over before the table began, or count from 1."""
        segment, count = self.segment, self.segment.count
        if not self._runs or self._covered(0) >= count:
            return
        start = self._runs[0].number
        lacking = segment.first - start
        steps = {k * step for step in (65536, 65535, 32768, 32767) for k in range(1, lacking // step + 2)}
        small = all(abs(run.number) <= 65536 for run in self._runs)
        offsets = [step for step in steps if small and segment.last > 32767 and self._covered(step) >= count]
        if len(self._runs) == 1 and self._runs[0].count == count:
            offsets.append(lacking)
        begin = float(self._pread(0, 1)["int_start_mjd_utc"][0])
        best, smallest = 0, self._surprise(begin, start)
        for offset in sorted(offsets):
            surprise = self._surprise(begin, start + offset)
            if surprise < smallest:
                best, smallest = offset, surprise
        if best:
            self._runs = [_Run(run.number + best, run.row, run.count, True) for run in self._runs]
            self.notes.append(f"the numbers in INT_TIMES begin at {start}; {best} was added to them")
        elif not self._covered(0):
            end = max(run.number + run.count - 1 for run in self._runs)
            self.notes.append(
                f"INT_TIMES holds integrations {start}-{end}, none of {segment.first}-{segment.last}: "
                "times come from the header, without BJD"
            )

    def _surprise(self, begin: float, number: int) -> float:
        """Days between a start time and what the header expects for that integration."""
        expected = _exposure_start(self.segment.info) + (number - 1) * self._cadence
        difference = abs(begin - expected)
        return difference if math.isfinite(difference) else math.inf

    def _note_extra(self, table: TimeTable) -> None:
        extra = table.rows - self._covered(0)
        if extra > 0 and self._covered(0):
            self.notes.append(f"INT_TIMES holds {extra} rows of other integrations or repeated ones")

    def _read(self, first: int, count: int) -> tuple[Array, Array]:
        """Read values float64 [integration, 6] and flags (ABSENT, DUPLICATE, NUMBER_REPAIRED)."""
        values = np.full((count, 6), np.nan)
        flags = np.full(count, ABSENT, dtype=np.uint32)
        for run in self._runs:
            low, high = max(first, run.number), min(first + count, run.number + run.count)
            if low >= high:
                continue
            rows = self._pread(run.row + low - run.number, high - low)
            into = slice(low - first, high - first)
            new = flags[into] & np.uint32(ABSENT) != 0
            for position, name in enumerate(TIME_TABLE_COLUMNS):
                if name in self._table.columns:
                    column = self._table.columns[name]
                    with np.errstate(all="ignore"):
                        read = rows[name].astype(np.float64) * column.scale + column.zero
                    values[into, position] = np.where(new, read, values[into, position])
            flags[into] = np.where(
                new, np.uint32(NUMBER_REPAIRED if run.repaired else 0), flags[into] | np.uint32(DUPLICATE)
            )
        return values, flags

    def _fits_neighbours(self, mid: Array, sound: Array) -> Array:
        """Whether a row agrees with the sound rows around it.

        A row is off when its mid time, less its number times the cadence, differs from the median over
        itself and two rows on either side by more than half a cadence, or when it does not come after the
        row before or before the row behind. Only this window counts, so the verdict does not depend on which
        rows are asked for.
        """
        count = len(mid)
        residual = np.where(sound, mid - np.arange(count) * self._cadence, np.nan)
        edge = np.full(_WINDOW, np.nan)
        padded = np.concatenate((edge, residual, edge))
        window = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * _WINDOW + 1), axis=1)
        valid = np.isfinite(window).sum(axis=1)
        each = np.arange(count)
        middle = 0.5 * (
            window[each, np.maximum(valid - 1, 0) // 2] + window[each, np.minimum(valid // 2, 2 * _WINDOW)]
        )
        near = sound & ((valid < 3) | (np.abs(residual - middle) <= 0.5 * self._cadence))
        later = np.where(near, mid, np.nan)
        stuck = np.zeros(count, dtype=bool)
        not_after = later[1:] <= later[:-1]
        stuck[1:] |= not_after
        stuck[:-1] |= not_after
        return near & ~stuck


def _sound(values: Array) -> Array:
    """Finite, in range, and start <= mid <= end; values [integration, 3]."""
    low, high = _MJD_RANGE
    inside = np.all(np.isfinite(values) & (values > low) & (values < high), axis=1)
    return inside & (values[:, 0] <= values[:, 1]) & (values[:, 1] <= values[:, 2])


def _rolled_over(before: Array, after: Array) -> Array:
    """Whether a number went over the end of a 16-bit integer: on to the negative end, or back to 0 or 1."""
    negative = (before == 32767) & (after == -32768)
    restarted = ((before == 32767) | (before == 65535)) & ((after == 0) | (after == 1))
    return negative | restarted


def _row_dtype(table: TimeTable) -> np.dtype:
    names = ["integration_number", *(name for name in TIME_TABLE_COLUMNS if name in table.columns)]
    return np.dtype(
        {
            "names": names,
            "formats": [table.columns[name].dtype for name in names],
            "offsets": [table.columns[name].offset for name in names],
            "itemsize": table.row_bytes,
        }
    )


def header_disagreement(segment: SegmentFile) -> dict[str, float]:
    """By how many seconds the header's times differ from INT_TIMES (header minus table).

    Returns
    -------
    dict
        Keyword -> seconds, for those of EXPSTART, EXPEND, BSTRTIME, BENDTIME and BARTDELT that both the
        header and the table know; empty when the table cannot be trusted. None of the barycentric ones is
        ever used. Times of the exposure's first and last integration are extrapolated from the segment by
        the header's cadence.
    """
    info = segment.info
    times = SegmentTimes(segment)
    first, last = times.rows(segment.first, 1), times.rows(segment.last, 1)
    step = cadence(info) / DAY
    before, behind = (segment.first - 1) * step, max(info.nints - segment.last, 0) * step
    table = {
        "EXPSTART": first.values[0, 0] - before,
        "EXPEND": last.values[0, 2] + behind,
        "BSTRTIME": first.values[0, 3] - before,
        "BENDTIME": last.values[0, 5] + behind,
    }
    if (first.flag[0] | last.flag[0]) & HEADER_TIMES:
        return {}
    result: dict[str, float] = {}
    for key, value in table.items():
        stated = info.header.get(key)
        if isinstance(stated, int | float) and not isinstance(stated, bool) and math.isfinite(value):
            result[key] = (float(stated) - float(value)) * DAY
    delay = info.header.get("BARTDELT")
    shift = float(first.values[0, 4] - first.values[0, 1]) * DAY
    if isinstance(delay, int | float) and not isinstance(delay, bool) and math.isfinite(shift):
        result["BARTDELT"] = float(delay) - shift
    return result
