"""Exposures: segments put in order and audited.

`find_exposures` takes what a user gives (files, directories, associations), opens every segment, sorts them
into exposures by their keywords, and collects every finding about every file into one `InputError`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

from tsostream.errors import InputError, Problem, ReadError
from tsostream.files.association import load_association
from tsostream.files.inputs import Candidate, gather
from tsostream.files.segment import SegmentFile, open_segment
from tsostream.files.times import DAY, SegmentTimes, cadence
from tsostream.integration.exposure_info import ExposureInfo, Level

__all__ = ["Exposure", "find_exposures", "load_association"]

#: facts that must be the same in all segments of an exposure, as the user knows them
_COMMON: Final = {
    "SUBARRAY": "subarray",
    "SUBSTRT1": "xstart",
    "SUBSTRT2": "ystart",
    "columns": "nx",
    "rows": "ny",
    "READPATT": "readpatt",
    "NGROUPS": "ngroups",
    "NFRAMES": "nframes",
    "GROUPGAP": "groupgap",
    "TFRAME": "frame_time",
    "EXP_TYPE": "exp_type",
    "FILTER": "filter",
    "PUPIL": "pupil",
    "GRATING": "grating",
    "FASTAXIS": "fastaxis",
    "SLOWAXIS": "slowaxis",
    "BUNIT": "bunit",
    "level": "level",
}


@dataclass(frozen=True)
class Exposure:
    """One exposure on one detector: its segments in order.

    Parameters
    ----------
    info
        Facts of the exposure, from its first segment.
    segments
        In the order of their integrations.
    first, last
        First and last integration at hand (numbers in the exposure, 1-based, inclusive).
    gaps
        Runs of integrations inside [first, last] that no file holds, ``(first, last)`` each; only with
        ``allow_gaps``.
    notes
        Oddities worth a line each, of the exposure and its files.
    product, asn_id
        From the association, if there was one that names a single product; else empty.
    growing
        True while segments still arrive: ``segments`` are those that were there at some moment, with or without
        holes, and ``last`` is what NINTS promises.
    """

    info: ExposureInfo
    segments: tuple[SegmentFile, ...]
    first: int
    last: int
    gaps: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    product: str = ""
    asn_id: str = ""
    growing: bool = False

    @property
    def count(self) -> int:
        """Integrations that the files hold; of a growing exposure, will hold."""
        if self.growing:
            return self.last - self.first + 1
        return sum(segment.count for segment in self.segments)

    @property
    def exposure_id(self) -> str:
        """``jw<VISIT_ID>_<VISITGRP><SEQ_ID><ACT_ID>_<EXPOSURE>``."""
        return self.info.exposure_id

    @property
    def label(self) -> str:
        """Exposure and detector, as file names have them."""
        return f"{self.info.exposure_id}_{self.info.detector.lower()}"


def find_exposures(
    inputs: Sequence[str | Path],
    *,
    level: Level | None = None,
    allow_gaps: bool = False,
    scratch: Path | None = None,
) -> list[Exposure]:
    """Open, sort and audit the segments among the inputs.

    Parameters
    ----------
    inputs
        Segment files, directories (not searched deeper) and association files, in any order.
    level
        Use only files of this product level; needed where the inputs hold several.
    allow_gaps
        Accept missing integrations between segments; they are listed in `Exposure.gaps`.
    scratch
        Where ``.fits.gz`` is unpacked; default a temporary directory removed at exit.

    Returns
    -------
    list of Exposure
        One per exposure and detector, sorted by exposure_id and detector.

    Raises
    ------
    InputError
        With every problem of every file: those of `open_segment` and `load_association`, and ``no_input,
        bad_level, no_segments, several_levels, level, duplicate, overlap, gap, mixed``.
    """
    problems: list[Problem] = []
    if level is not None and level not in get_args(Level):
        raise InputError(
            Problem(
                f"there is no level {level!r}", "", f"choose one of {', '.join(get_args(Level))}", "bad_level"
            )
        )
    gathered = gather(inputs, level)
    problems += gathered.problems
    segments: list[tuple[SegmentFile, Candidate]] = []
    for candidate in gathered.candidates:
        try:
            segments.append((open_segment(candidate.path, scratch=scratch), candidate))
        except InputError as error:
            problems += error.problems
    segments, notes = _choose_level(segments, level, problems)
    groups: dict[tuple[str, str], list[tuple[SegmentFile, Candidate]]] = {}
    for segment, candidate in segments:
        groups.setdefault((segment.info.exposure_id, segment.info.detector), []).append((segment, candidate))
    exposures = []
    for _, members in sorted(groups.items()):
        members.sort(key=lambda member: (member[0].first, member[0].last, str(member[0].source_path)))
        gaps = _audit([segment for segment, _ in members], allow_gaps, problems)
        exposures.append((members, gaps))
    if not exposures and not problems:
        problems.append(
            Problem(
                "no segment files were found", ", ".join(map(str, inputs)), "check the paths", "no_segments"
            )
        )
    if problems:
        raise InputError(problems)
    return [_exposure(members, gaps, [*gathered.notes, *notes]) for members, gaps in exposures]


def _choose_level(
    segments: list[tuple[SegmentFile, Candidate]], level: Level | None, problems: list[Problem]
) -> tuple[list[tuple[SegmentFile, Candidate]], list[str]]:
    """Keep one product level; report when that is not clear."""
    found = Counter(segment.info.level for segment, _ in segments)
    listing = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    if level is None:
        if len(found) > 1:
            what = f"the inputs hold files of several product levels: {listing}"
            problems.append(Problem(what, "", "choose one with --level", "several_levels"))
            # one audit per level would repeat every finding; the levels have to be sorted out first
            return [], []
        return segments, []
    kept = [member for member in segments if member[0].info.level == level]
    if segments and not kept:
        what = f"no input is of the level {level}; there are {listing}"
        problems.append(Problem(what, "", "choose another --level", "level"))
    left = len(segments) - len(kept)
    return kept, [f"{left} files of other levels than {level} were left out"] if left else []


def _audit(
    segments: list[SegmentFile], allow_gaps: bool, problems: list[Problem]
) -> tuple[tuple[int, int], ...]:
    """Compare the segments of one exposure, sorted by their first integration; return the gaps."""
    gaps: list[tuple[int, int]] = []
    audit_common(segments, problems)
    furthest = segments[0]
    for segment in segments[1:]:
        here, there = f"integrations {segment.first}-{segment.last}", furthest.source_path
        if (segment.first, segment.last) == (furthest.first, furthest.last):
            what = f"holds {here} of {segment.info.exposure_id}, which {there} holds, too"
            problems.append(Problem(what, str(segment.source_path), "leave one of the two out", "duplicate"))
        elif segment.first <= furthest.last:
            shared = f"{segment.first}-{min(segment.last, furthest.last)}"
            what = (
                f"holds {here}; {there} holds {furthest.first}-{furthest.last}, so {shared} are there twice"
            )
            problems.append(Problem(what, str(segment.source_path), "leave one of the two out", "overlap"))
        elif segment.first > furthest.last + 1:
            gap = (furthest.last + 1, segment.first - 1)
            gaps.append(gap)
            if not allow_gaps:
                missing = (
                    f"integration {gap[0]} is" if gap[0] == gap[1] else f"integrations {gap[0]}-{gap[1]} are"
                )
                what = f"{missing} missing between {there.name} and {segment.source_path.name}"
                todo = "add the missing segment, or go on without it with --allow-gaps"
                problems.append(Problem(what, segment.info.exposure_id, todo, "gap"))
        if segment.last > furthest.last:
            furthest = segment
    return tuple(gaps)


def audit_common(segments: list[SegmentFile], problems: list[Problem]) -> None:
    """Segments of one exposure must agree in everything but their integrations."""
    for label, field in _COMMON.items():
        values = Counter(getattr(segment.info, field) for segment in segments)
        if len(values) == 1:
            continue
        # the odd ones out are measured against what most segments say (ties: the first one)
        usual = max(values, key=lambda value: values[value])
        for segment in segments:
            value = getattr(segment.info, field)
            if value != usual:
                others = f"{values[usual]} other segments of {segment.info.exposure_id} say {usual!r}"
                what = f"{label} is {value!r}, but {others}"
                problems.append(
                    Problem(what, str(segment.source_path), "leave the foreign file out", "mixed")
                )
    planes = Counter(segment.planes for segment in segments)
    usual_planes = max(planes, key=lambda value: planes[value])
    for segment in segments:
        if segment.planes != usual_planes and segment.info.level == segments[0].info.level:
            what = f"it has {', '.join(segment.planes)}, but other segments have {', '.join(usual_planes)}"
            todo = "make all segments with the same pipeline settings"
            problems.append(Problem(what, str(segment.source_path), todo, "mixed"))


def _exposure(
    members: list[tuple[SegmentFile, Candidate]], gaps: tuple[tuple[int, int], ...], notes: list[str]
) -> Exposure:
    """Build the exposure and say what is odd about it."""
    segments, time_notes = audit_times([segment for segment, _ in members])
    info = segments[0].info
    first, last = segments[0].first, segments[-1].last
    notes = [*notes, *time_notes]
    for segment in segments:
        notes += [f"{segment.source_path.name}: {note}" for note in segment.notes]
    if first > 1:
        notes.append(f"the files begin with integration {first}; 1-{first - 1} are not there")
    stated = sorted({segment.info.nints for segment in segments})
    if len(stated) > 1:
        notes.append(f"NINTS differs between the segments: {', '.join(map(str, stated))}")
    if info.nints < last:
        notes.append(f"NINTS says {info.nints} integrations, but the files go on to {last}")
    elif info.nints > last:
        notes.append(f"the files end with integration {last} of {info.nints} (NINTS)")
    totals = sorted({segment.segment_total for segment in segments if segment.segment_total})
    if len(totals) > 1:
        notes.append(f"EXSEGTOT differs between the segments: {', '.join(map(str, totals))}")
    elif totals and first == 1 and info.nints == last and not gaps and totals[0] != len(segments):
        notes.append(f"EXSEGTOT says {totals[0]} segments, but {len(segments)} files hold the whole exposure")
    numbers = [segment.segment_number for segment in segments]
    if numbers != sorted(set(numbers)):
        notes.append(
            f"EXSEGNUM does not count up with INTSTART ({', '.join(map(str, numbers))}); INTSTART decided"
        )
    notes += [f"integrations {a}-{b} are missing (gap)" for a, b in gaps]
    origins = {(candidate.product, candidate.asn_id) for _, candidate in members}
    product, asn_id = origins.pop() if len(origins) == 1 else ("", "")
    return Exposure(info, tuple(segments), first, last, gaps, tuple(notes), product, asn_id)


def audit_times(segments: list[SegmentFile]) -> tuple[list[SegmentFile], list[str]]:
    """Distrust an INT_TIMES that carries another segment's times.

    Start times must rise from segment to segment. Where they do not, the table further away from what the
    header expects for its integrations is the wrong one.
    """
    checked: list[SegmentFile] = []
    notes: list[str] = []
    previous: tuple[int, float, float] | None = (
        None  # index in checked, start of its first and last integration
    )
    for segment in segments:
        try:
            times = SegmentTimes(segment)
            begin, end = times.first_start(), times.last_start()
        except ReadError as error:
            raise InputError(
                Problem("INT_TIMES cannot be read", str(segment.source_path), "check the disk", "unreadable")
            ) from error
        notes += [f"{segment.source_path.name}: {note}" for note in times.notes]
        checked.append(segment)
        if not math.isfinite(begin):
            continue
        here = len(checked) - 1
        if previous is not None and begin <= previous[2]:
            wrong, right = here, previous[0]
            if _surprise(checked[right], previous[1]) > _surprise(segment, begin):
                wrong, right = right, here
            notes.append(
                f"{checked[wrong].source_path.name}: its INT_TIMES overlaps the times of "
                f"{checked[right].source_path.name} and was not used"
            )
            checked[wrong] = replace(checked[wrong], times_trusted=False)
            if wrong == here:
                continue
        previous = (here, begin, end if math.isfinite(end) else begin)
    return checked, notes


def _surprise(segment: SegmentFile, begin: float) -> float:
    """Days between the first start time and the header's expectation; 0 when the header expects nothing."""
    start = segment.info.header.get("EXPSTART")
    if isinstance(start, bool) or not isinstance(start, int | float):
        return 0.0
    return abs(begin - start - (segment.first - 1) * cadence(segment.info) / DAY)
