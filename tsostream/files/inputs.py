"""What the user gave -> candidate files: explicit files, directories, associations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tsostream.errors import InputError, Problem
from tsostream.files.association import load_association
from tsostream.files.segment import os_problem
from tsostream.integration.exposure_info import Level

__all__ = ["Candidate", "Gathered", "gather", "segment_name"]

#: product suffix of a file name; only a directory is sorted by names, the level itself comes from the content
_SEGMENT_NAME: Final = re.compile(r"_(uncal|rateints|calints|crfints)\.fits(\.gz)?$", re.IGNORECASE)
_ASSOCIATION_SUFFIXES: Final = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Candidate:
    """A file to open, and the association that named it (product and id empty without one)."""

    path: Path
    product: str = ""
    asn_id: str = ""


@dataclass
class Gathered:
    """All candidates, and what was found on the way."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(inputs: Sequence[str | Path], level: Level | None) -> Gathered:
    """Expand directories and associations; find files that were given twice, also through links.

    Parameters
    ----------
    inputs
        Files, directories, associations.
    level
        In a directory only files whose names say this level are looked at.
    """
    result = Gathered()
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    if not inputs:
        result.problems.append(
            Problem(
                "there is nothing to read",
                "",
                "name segment files, a directory or an association",
                "no_input",
            )
        )
    seen: dict[tuple[int, int], Path] = {}
    for given in inputs:
        path = Path(given)
        try:
            if path.is_dir():
                members = _from_directory(path, level, result)
            elif path.suffix.lower() in _ASSOCIATION_SUFFIXES:
                association = load_association(path)
                result.notes += association.notes
                members = [
                    Candidate(each, association.product, association.asn_id) for each in association.members
                ]
            else:
                members = [Candidate(path)]
        except InputError as error:
            result.problems += error.problems
            continue
        for candidate in members:
            key = _file_key(candidate.path)
            if key is not None and key in seen:
                what = f"this is the same file as {seen[key]}"
                result.problems.append(Problem(what, str(candidate.path), "name it once", "duplicate"))
                continue
            if key is not None:
                seen[key] = candidate.path
            result.candidates.append(candidate)
    return result


def segment_name(path: Path) -> str | None:
    """Tell the product level a file name says; None where it is no segment's name."""
    match = _SEGMENT_NAME.search(path.name)
    return match[1].lower() if match else None


def _file_key(path: Path) -> tuple[int, int] | None:
    """Device and inode: equal for links to the same file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _from_directory(folder: Path, level: Level | None, result: Gathered) -> list[Candidate]:
    """Segment files directly in a folder; everything else is left alone, with a note."""
    try:
        names = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        result.problems.append(os_problem(error, str(folder)))
        return []
    fits = [path for path in names if path.name.lower().endswith((".fits", ".fits.gz"))]
    levels = {path: match[1].lower() for path in fits if (match := _SEGMENT_NAME.search(path.name))}
    others = len(fits) - len(levels)
    if others:
        result.notes.append(
            f"{folder}: {others} other FITS files (references, other products) were left alone"
        )
    found = Counter(levels.values())
    listing = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    if not levels:
        what = f"no uncal, rateints, calints or crfints files ({others} other FITS files)"
        result.problems.append(
            Problem(what, str(folder), "name the files, or another directory", "no_segments")
        )
        return []
    if level is None and len(found) > 1:
        what = f"the directory holds several product levels: {listing}"
        result.problems.append(Problem(what, str(folder), "choose one with --level", "several_levels"))
        return []
    chosen = [path for path, name in levels.items() if level is None or name == level]
    if not chosen:
        what = f"the directory holds no {level} files; there are {listing}"
        result.problems.append(Problem(what, str(folder), "choose another --level", "level"))
    return [Candidate(path) for path in chosen]
