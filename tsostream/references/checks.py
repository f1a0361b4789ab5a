"""Whether the keywords of a reference fit the exposure: what is refused, and what is only worth a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsostream.errors import Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references.catalog import ReferenceType, canonical_name
from tsostream.references.headers import disagreement

__all__ = ["check_keywords", "check_units"]

_FRAME_TIME_TOLERANCE = 1e-3
"""Relative; keywords are rounded to 1e-4 or so, another readout or subarray differs by per cents."""

_ORIENTATION = ("FASTAXIS", "SLOWAXIS")


def check_keywords(
    keywords: Mapping[str, Any], kind: ReferenceType, info: ExposureInfo, where: str, notes: list[Problem]
) -> list[Problem]:
    """Compare a reference's keywords with the exposure.

    Another type, instrument or detector is refused, and another readout where the type depends on it. A
    SUBARRAY name, an optical element, an exposure type or a frame time that disagrees is a note: the geometry
    decides about the cut, and who names a file by hand may mean it.

    Returns
    -------
    list of Problem
        The reasons to refuse; notes go to `notes`.
    """
    problems: list[Problem] = []
    reftype = keywords.get("REFTYPE")
    if reftype is None or not str(reftype).strip():
        notes.append(
            Problem(f"no REFTYPE; taken as a {kind.name} reference as asked", where, "", "no_reftype")
        )
    elif canonical_name(reftype) != kind.name:
        what = f"REFTYPE is {str(reftype).strip()!r}, expected {kind.name.upper()!r}"
        problems.append(Problem(what, where, f"give a {kind.name} reference", "reftype"))
    refused = {"INSTRUME", "DETECTOR"} | ({"READPATT"} if kind.readpatt_must_match else set())
    for keyword in ("INSTRUME", "DETECTOR", "READPATT", "SUBARRAY", "EXP_TYPE", "FILTER", "PUPIL", "GRATING"):
        if keyword == "DETECTOR" and info.instrument.upper() in kind.any_detector:
            continue
        differs = disagreement(keyword, keywords, info)
        if differs is None:
            continue
        if keyword in refused:
            what = f"{keyword} is {differs[0]!r}, the exposure's is {differs[1]!r}"
            todo = (
                f"give a {kind.name} reference for {info.instrument} {info.detector} {info.readpatt}".rstrip()
            )
            problems.append(Problem(what, where, todo, keyword.lower()))
        elif not (keyword == "SUBARRAY" and differs[0].upper() == "FULL"):
            what = f"{keyword} is {differs[0]!r}, the exposure's is {differs[1]!r}; used all the same"
            notes.append(Problem(what, where, "", keyword.lower()))
    if kind.layout == "image":
        notes += _timing_notes(keywords, info, where)
    return problems


def _timing_notes(keywords: Mapping[str, Any], info: ExposureInfo, where: str) -> list[Problem]:
    """Note a frame time or a read direction that disagrees."""
    notes = []
    tframe: Any = keywords.get("TFRAME")
    known = isinstance(tframe, int | float) and tframe > 0 and info.frame_time > 0
    if known and abs(tframe - info.frame_time) > _FRAME_TIME_TOLERANCE * info.frame_time:
        what = f"TFRAME is {tframe} s, the exposure's is {info.frame_time} s; used all the same"
        notes.append(Problem(what, where, "", "tframe"))
    for keyword, expected in zip(_ORIENTATION, (info.fastaxis, info.slowaxis), strict=True):
        found = keywords.get(keyword)
        if found is not None and found != expected:
            what = f"{keyword} is {found}, the exposure's is {expected}; taken as it is (DMS orientation)"
            notes.append(Problem(what, where, "", keyword.lower()))
    return notes


def check_units(
    header: Mapping[str, Any], kind: ReferenceType, where: str, notes: list[Problem]
) -> list[Problem]:
    """Refuse a signal in electrons or per second where counts are expected; note a unit we do not know.

    Parameters
    ----------
    header
        Header of the array; without BUNIT nothing is checked.
    """
    unit = str(header.get("BUNIT", "")).strip()
    if kind.signal != "DN" or not unit:
        return []
    plain = unit.upper().replace(" ", "")
    if plain in {"DN", "ADU", "COUNTS", "COUNT", "CTS"}:
        return []
    if plain.startswith(("E", "JY", "MJY")) or plain.endswith(("/S", "/SEC", "S-1", "S^-1")):
        what = f"BUNIT is {unit!r}, a {kind.name} reference is in 'DN'"
        return [Problem(what, where, "give a reference in the detector's own counts", "units")]
    notes.append(Problem(f"BUNIT {unit!r} is not known; taken as DN", where, "", "units"))
    return []
