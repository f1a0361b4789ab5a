"""When which byte of which segment arrives, with everything that can go wrong on the way.

A schedule is made before the first byte moves, from the times of the integrations and a seed: the same seed gives the
same arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem
from tsostream.files import Exposure, SegmentFile, SegmentTimes
from tsostream.files.times import DAY, cadence, integration_duration

__all__ = ["FAULTS", "Arrival", "Transfer", "make_schedule", "parse_faults", "total_seconds"]

Arrival = Literal["grow", "whole"]
Floats = npt.NDArray[np.float64]

#: points of the curve by which a file grows, at most
_KNOTS: Final = 4096

#: what can go wrong -> what happens
FAULTS: Final[dict[str, str]] = {
    "late": "a segment comes one to three segment lengths later than it should",
    "out-of-order": "the segments come in a random order",
    "duplicate": "a segment comes once more, under another name",
    "truncate": "a transfer breaks off, and begins again from the start a while later",
    "stall": "a transfer stands still in the middle for a segment length",
    "replace": "a finished segment is replaced by a newer version of itself",
    "missing": "a segment never comes",
}


@dataclass(frozen=True)
class Transfer:
    """One file on its way.

    Parameters
    ----------
    source
        Where the bytes come from.
    name
        Of the file that is written.
    times, sizes
        How it grows: seconds since the beginning of the exposure, and bytes there by then; both rise.
    whole
        Written as ``<name>.part`` and renamed when complete.
    newer
        Its header says a later DATE than the source's.
    fault
        What happens to it, with commas between several; empty for nothing.
    """

    source: Path
    name: str
    times: Floats
    sizes: Floats
    whole: bool = False
    newer: bool = False
    fault: str = ""

    @property
    def begin(self) -> float:
        """When it begins [s]."""
        return float(self.times[0])

    @property
    def end(self) -> float:
        """When its last byte is there [s]."""
        return float(self.times[-1])

    @property
    def size(self) -> int:
        """Bytes that arrive."""
        return int(self.sizes[-1])

    @property
    def whole_file(self) -> bool:
        """Whether all bytes of the source arrive."""
        return self.size == self.source.stat().st_size

    def there(self, time: float) -> int:
        """Bytes that are there at a time."""
        return int(np.interp(time, self.times, self.sizes)) if time >= self.begin else 0

    def shifted(self, seconds: float, fault: str) -> Transfer:
        """Return the same transfer, later."""
        return replace(self, times=self.times + seconds, fault=self.and_fault(fault))

    def and_fault(self, fault: str) -> str:
        """Name a further fault after those that have happened."""
        return ", ".join(dict.fromkeys(filter(None, [*self.fault.split(", "), fault])))


def parse_faults(text: str) -> tuple[str, ...]:
    """``late,truncate`` -> names; ``all`` for every fault but ``missing``.

    Raises
    ------
    InputError
        There is no such fault.
    """
    if text == "all":
        return tuple(name for name in FAULTS if name != "missing")
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        what = f"there is no fault {', '.join(map(repr, unknown))}"
        raise InputError(Problem(what, todo=f"choose from {', '.join(FAULTS)}", code="fault"))
    return names


def make_schedule(
    exposures: Iterable[Exposure], *, faults: Sequence[str] = (), seed: int = 0, arrival: Arrival = "grow"
) -> list[Transfer]:
    """Lay down how the segments arrive.

    Parameters
    ----------
    exposures
        What is fed; the earliest integration begins at 0.
    faults
        Names of `FAULTS`; each happens to one segment, chosen by the seed (``out-of-order`` to all).
    seed
        Of everything random.
    arrival
        ``grow``: a file grows with its integrations, as a downlink would; ``whole``: it is written as ``.part`` after
        its last integration and then renamed, as a download from an archive.

    Returns
    -------
    list of Transfer
        By their beginning.
    """
    segments = [segment for exposure in exposures for segment in exposure.segments]
    curves = [_absolute(segment) for segment in segments]
    origin = min((times[0] for times, _ in curves), default=0.0)
    transfers = [
        Transfer(segment.source_path, segment.source_path.name, times - origin, sizes)
        for segment, (times, sizes) in zip(segments, curves, strict=True)
    ]
    if arrival == "whole":
        transfers = [_downloaded(one) for one in transfers]
    rng = np.random.default_rng(seed)
    for (
        name
    ) in FAULTS:  # in the order of the table, so that the order in which they are named does not matter
        if name in faults and transfers:
            transfers = _HAPPEN[name](transfers, rng)
    return sorted(transfers, key=lambda one: one.begin)


def _absolute(segment: SegmentFile) -> tuple[Floats, Floats]:
    """How a segment grows while it is observed: seconds (MJD times 86400), and bytes."""
    info = segment.info
    numbers = np.unique(np.linspace(segment.first, segment.last, min(segment.count, _KNOTS)).astype(np.int64))
    table = SegmentTimes(segment)
    rows = np.concatenate([table.rows(int(number), 1).values for number in numbers])
    start, end = DAY * rows[:, 0], DAY * rows[:, 2]
    if not (np.isfinite(start).all() and np.isfinite(end).all() and (np.diff(end) > 0).all()):
        start = np.asarray((numbers - 1) * cadence(info), dtype=np.float64)
        end = start + integration_duration(info)
    size = segment.source_path.stat().st_size
    science = segment.extensions["SCI"]
    done: Floats = (numbers - segment.first + 1).astype(np.float64)
    if segment.source_path == segment.path:
        head = float(science.offset)
        sizes: Floats = head + done * science.bytes_per_integration
    else:  # packed: nobody can say where an integration ends
        head = 0.0
        sizes = size * done / segment.count
    # what stands behind the pixels (times, other planes) comes with the last integration
    sizes[-1] = size
    return np.concatenate(([start[0]], end)), np.concatenate(([head], sizes))


def _length(transfers: Sequence[Transfer]) -> float:
    """Typical time from one segment to the next [s]."""
    return max(1e-3, float(np.median([one.end - one.begin for one in transfers])))


def _downloaded(one: Transfer) -> Transfer:
    # a link ten times as fast as the observation
    times = np.array([one.end, one.end + 0.1 * max(1e-3, one.end - one.begin)])
    return replace(one, times=times, sizes=np.array([0.0, one.size]), whole=True)


def _pick(transfers: Sequence[Transfer], rng: np.random.Generator, *, originals: bool = False) -> int:
    """Choose a transfer that does not break off; one to which nothing has happened yet, if there is one.

    ``originals`` leaves out segments that come once more under another name.
    """
    whole = [
        number
        for number, one in enumerate(transfers)
        if one.whole_file and not (originals and one.name != one.source.name)
    ]
    sound = [number for number in whole if not transfers[number].fault]
    return int(rng.choice(sound or whole))


def _late(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    number = _pick(transfers, rng)
    transfers[number] = transfers[number].shifted(_length(transfers) * rng.uniform(1.0, 3.0), "late")
    return transfers


def _shuffled(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    begins = [one.begin for one in transfers]
    shuffled = sorted(begins)
    while shuffled == sorted(begins) and len({*begins}) > 1:  # as they stand in the list is in order
        shuffled = [begins[place] for place in rng.permutation(len(transfers))]
    return [
        one.shifted(begin - one.begin, "" if begin == one.begin else "out-of-order")
        for one, begin in zip(transfers, shuffled, strict=True)
    ]


def _duplicate(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    one = transfers[_pick(transfers, rng)]
    later = one.shifted(_length(transfers) * rng.uniform(0.2, 2.0), "duplicate")
    return [*transfers, replace(later, name=f"again_{one.name}")]


def _truncate(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    number = _pick(transfers, rng)
    one = transfers[number]
    stop = one.begin + (one.end - one.begin) * rng.uniform(0.1, 0.9)
    inside = one.times < stop
    times, sizes = np.append(one.times[inside], stop), np.append(one.sizes[inside], one.there(stop))
    transfers[number] = replace(one, times=times, sizes=sizes, fault=one.and_fault("truncate"))
    return [
        *transfers,
        one.shifted(stop - one.begin + _length(transfers) * rng.uniform(0.5, 1.5), "truncate"),
    ]


def _stall(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    number = _pick(transfers, rng)
    one = transfers[number]
    stop = one.begin + (one.end - one.begin) * rng.uniform(0.1, 0.9)
    before, pause = one.times < stop, _length(transfers)
    there = float(one.there(stop))
    times = np.concatenate((one.times[before], [stop, stop + pause], one.times[~before] + pause))
    sizes = np.concatenate((one.sizes[before], [there, there], one.sizes[~before]))
    transfers[number] = replace(one, times=times, sizes=sizes, fault=one.and_fault("stall"))
    return transfers


def _replace(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    one = transfers[_pick(transfers, rng, originals=True)]
    last = max(each.end for each in transfers if each.name == one.name)
    begin = last + _length(transfers) * rng.uniform(0.2, 1.0)
    newer = replace(_downloaded(one), fault="")
    return [*transfers, replace(newer.shifted(begin - newer.begin, "replace"), newer=True)]


def _missing(transfers: list[Transfer], rng: np.random.Generator) -> list[Transfer]:
    name = transfers[_pick(transfers, rng)].name
    return [one for one in transfers if one.name != name]


_HAPPEN: Final[dict[str, Callable[[list[Transfer], np.random.Generator], list[Transfer]]]] = {
    "late": _late,
    "out-of-order": _shuffled,
    "duplicate": _duplicate,
    "truncate": _truncate,
    "stall": _stall,
    "replace": _replace,
    "missing": _missing,
}


def total_seconds(transfers: Sequence[Transfer]) -> float:
    """Seconds of the observation until everything is there."""
    return max((one.end for one in transfers), default=math.nan)
