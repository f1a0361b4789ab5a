"""Decides which file is used for each reference type.

Two sources so far, the first one wins: files named one by one (``--override type=FILE``) and a directory of
references (``--refs DIR``). Each source fills ``Selection.paths`` for the types that are still open, so a
further one (a lock file, a configuration, CRDS) is one more function called after these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references.catalog import REFERENCE_TYPES, canonical_name, reference_type, unknown_type
from tsostream.references.geometry import Box, box_from_keywords, full_frame
from tsostream.references.headers import SELECTORS, disagreement, is_wild, read_keywords

__all__ = ["Selection", "Source", "find_references", "parse_overrides"]

Source = Literal["override", "refs"]

_SUFFIXES = (".fits", ".fits.gz", ".asdf", ".json")


@dataclass(frozen=True)
class Selection:
    """Which file is used for each reference type.

    Parameters
    ----------
    paths
        Reference type -> file, in the order they were asked for.
    source
        Reference type -> where the file came from.
    notes
        What is odd but no reason to stop.
    missing
        Reference types nothing was found for -> the files of that type that do not fit, and why.
    """

    paths: dict[str, Path]
    source: dict[str, Source]
    notes: tuple[Problem, ...] = ()
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file of the right type that suits the exposure."""

    path: Path
    exact: bool
    renamed: bool
    """Its geometry is the exposure's but its SUBARRAY has another name."""


def parse_overrides(texts: Iterable[str]) -> dict[str, Path]:
    """Read ``type=FILE`` strings.

    Returns
    -------
    dict
        Reference type -> file, ``~`` expanded.

    Raises
    ------
    ConfigError
        With every string that is no ``type=FILE``, names an unknown type, or a type twice.
    """
    overrides: dict[str, Path] = {}
    problems: list[Problem] = []
    for text in texts:
        name, equals, file = text.partition("=")
        where = f"--override {text}"
        reftype = canonical_name(name.strip().lower().removeprefix("override_"))
        if not equals or not name.strip() or not file.strip():
            todo = "write for example --override superbias=my_superbias.fits"
            problems.append(Problem("expected TYPE=FILE", where, todo, "override_syntax"))
        elif reftype is None:
            problems.append(unknown_type(name, where))
        elif reftype in overrides:
            what = f"{reftype} is overridden twice, already by {overrides[reftype]}"
            problems.append(Problem(what, where, "give it once", "override_twice"))
        else:
            overrides[reftype] = Path(file.strip()).expanduser()
    if problems:
        raise ConfigError(problems)
    return overrides


def find_references(
    info: ExposureInfo,
    *,
    refs_dir: Path | None = None,
    overrides: Mapping[str, Path] | None = None,
    wanted: Sequence[str],
) -> Selection:
    """Choose the file for each reference type that is wanted.

    Parameters
    ----------
    info
        The exposure.
    refs_dir
        Directory with references; its subdirectories are not looked at.
    overrides
        Reference type -> file; they win over everything.
    wanted
        Reference types, canonical names or aliases.

    Returns
    -------
    Selection
        What is not found stands in ``missing``; see `missing_problem` for what to say about it.

    Raises
    ------
    ReferenceMismatchError
        With every override that does not exist, a `refs_dir` that is no directory, every type that two files
        fit.
    """
    names = list(dict.fromkeys(reference_type(name).name for name in wanted))
    chosen: dict[str, Path] = {}
    source: dict[str, Source] = {}
    notes: list[Problem] = []
    problems: list[Problem] = []
    for name, path in (overrides or {}).items():
        reftype = reference_type(name).name
        if not Path(path).is_file():
            what = f"the {reftype} override {'is no file' if Path(path).exists() else 'does not exist'}"
            problems.append(Problem(what, str(path), "correct the path", "missing_file"))
        elif reftype not in names:
            what = f"the {reftype} override is not used: no step of this run wants it"
            notes.append(Problem(what, str(path), "", "unused_override"))
        else:
            chosen[reftype], source[reftype] = Path(path), "override"
    rejected: dict[str, list[str]] = {}
    still_open = [name for name in names if name not in chosen]
    if refs_dir is not None:
        refs_dir = Path(refs_dir)
        if not refs_dir.is_dir():
            what = "--refs is no directory" if refs_dir.exists() else "the --refs directory does not exist"
            problems.append(Problem(what, str(refs_dir), "give a directory of reference files", "refs_dir"))
        else:
            found, rejected = _scan(refs_dir, still_open, info, notes)
            for reftype, candidates in found.items():
                best = _best(reftype, candidates, info, problems)
                if best is not None:
                    chosen[reftype], source[reftype] = best, "refs"
    if problems:
        raise ReferenceMismatchError(problems)
    return Selection(
        paths={name: chosen[name] for name in names if name in chosen},
        source={name: source[name] for name in names if name in source},
        notes=tuple(notes),
        missing={name: tuple(rejected.get(name, ())) for name in names if name not in chosen},
    )


def _scan(
    refs_dir: Path, names: Sequence[str], info: ExposureInfo, notes: list[Problem]
) -> tuple[dict[str, list[_Candidate]], dict[str, list[str]]]:
    """Look at the keywords of every file in the directory.

    Returns
    -------
    found, rejected
        Per type: the files that suit, and those that do not with the reason.
    """
    found: dict[str, list[_Candidate]] = {}
    rejected: dict[str, list[str]] = {}
    for path in sorted(refs_dir.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
            continue
        try:
            keywords = read_keywords(path)
        except (OSError, ValueError, EOFError) as exc:
            what = f"ignored: it cannot be read ({exc})"
            notes.append(Problem(what, str(path), "remove it or download it again", "unreadable"))
            continue
        reftype = canonical_name(keywords.get("REFTYPE", ""))
        if reftype is None or reftype not in names:
            continue
        candidate = _judge(path, reftype, keywords, info)
        if isinstance(candidate, str):
            rejected.setdefault(reftype, []).append(candidate)
        else:
            found.setdefault(reftype, []).append(candidate)
    return found, rejected


def _judge(path: Path, reftype: str, keywords: Mapping[str, Any], info: ExposureInfo) -> _Candidate | str:
    """Say whether a file suits the exposure; otherwise why not."""
    pairs = {keyword: disagreement(keyword, keywords, info) for keyword in SELECTORS}
    differs = {keyword: pair for keyword, pair in pairs.items() if pair is not None}
    other_name = differs.pop("SUBARRAY", None)
    name = str(keywords.get("SUBARRAY", "")).strip().upper()
    wanted = Box.of_exposure(info)
    box = box_from_keywords(keywords, info) if REFERENCE_TYPES[reftype].layout == "image" else None
    if box is None:
        # nothing but the name to go by; the shape is checked when the file is loaded
        exact = other_name is None and not is_wild(name)
        if other_name is not None and name != "FULL":
            differs["SUBARRAY"] = other_name
    else:
        exact = box == wanted
        if not box.contains(wanted):
            differs["SUBARRAY"] = (f"{name} {box}".strip(), f"{info.subarray} {wanted}")
        elif other_name is not None and not exact and box != full_frame(info.instrument):
            differs["SUBARRAY"] = other_name
    if differs:
        reasons = ", ".join(f"{key} {found!r} instead of {want!r}" for key, (found, want) in differs.items())
        return f"{path.name} has {reasons}"
    return _Candidate(path, exact, exact and other_name is not None)


def _best(
    reftype: str, candidates: Sequence[_Candidate], info: ExposureInfo, problems: list[Problem]
) -> Path | None:
    """Choose among the files that suit: the geometry-exact one, of two such the one with the right name."""
    exact = [candidate for candidate in candidates if candidate.exact] or list(candidates)
    best = [candidate for candidate in exact if not candidate.renamed] or exact
    if len(best) == 1:
        return best[0].path
    files = ", ".join(str(candidate.path) for candidate in best)
    what = f"{len(best)} {reftype} references fit {info.instrument} {info.detector} {info.subarray}: {files}"
    todo = f"keep one of them, or choose with --override {reftype}=FILE"
    problems.append(Problem(what, "", todo, "ambiguous"))
    return None
