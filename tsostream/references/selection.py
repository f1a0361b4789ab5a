"""Decides which file is used for each reference type.

Each source fills the types that the ones before it left open::

    --override type=FILE  >  --refs DIR  >  lock  >  references: of the configuration  >  CRDS

A lock names *all* references of a run: with one, nothing is chosen from a directory, a configuration or CRDS
(where ``--refs DIR`` then helps is in finding the locked files, see `tsostream.run.lock`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references.catalog import REFERENCE_TYPES, canonical_name, reference_type, unknown_type
from tsostream.references.crds_client import (
    Answer,
    Progress,
    Trouble,
    ask_crds,
    crds_is_configured,
)
from tsostream.references.crds_fetch import fetch_files
from tsostream.references.crds_parameters import crds_parameters
from tsostream.references.geometry import Box, box_from_keywords, full_frame
from tsostream.references.headers import SELECTORS, disagreement, is_wild, read_keywords

__all__ = ["CrdsWish", "Selection", "Source", "find_references", "parse_overrides"]

Source = Literal["override", "refs", "lock", "config", "crds"]

_SUFFIXES = (".fits", ".fits.gz", ".asdf", ".json")


@dataclass(frozen=True)
class CrdsWish:
    """How CRDS shall be asked for what no other source has.

    Parameters
    ----------
    context
        Rules to use; None for CRDS_CONTEXT or the latest.
    fetch
        Whether files that the cache does not hold are downloaded, now.
    progress
        Told how the downloads get on.
    """

    context: str | None = None
    fetch: bool = True
    progress: Progress | None = None


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
    context
        The rules of CRDS that were applied; empty when CRDS was not asked or could not answer.
    trouble
        Why CRDS could not be asked; empty when it was, or need not be.
    not_cached
        Reference type -> file that CRDS recommends and its cache does not hold (with ``fetch=False``).
    """

    paths: dict[str, Path]
    source: dict[str, Source]
    notes: tuple[Problem, ...] = ()
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    context: str = ""
    trouble: str = ""
    not_cached: dict[str, str] = field(default_factory=dict)

    def label(self, name: str) -> str:
        """Say where a file came from, for people: the source, and for CRDS the rules."""
        source = self.source[name]
        return f"CRDS {self.context}" if source == "crds" else source


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
    wanted: Sequence[str],
    refs_dir: Path | None = None,
    overrides: Mapping[str, Path] | None = None,
    lock: Mapping[str, Path] | None = None,
    config: Mapping[str, Path] | None = None,
    crds: CrdsWish | None = None,
) -> Selection:
    """Choose the file for each reference type that is wanted.

    Parameters
    ----------
    info
        The exposure.
    wanted
        Reference types, canonical names or aliases.
    refs_dir
        Directory with references; its subdirectories are not looked at.
    overrides
        Reference type -> file; they win over everything.
    lock
        Reference type -> file of a lock. When it is given, only overrides stand beside it.
    config
        Reference type -> file of the configuration's ``references:`` section.
    crds
        How to ask CRDS for the rest; None not to ask. Without a cache, server or context in the environment
        it is not asked either.

    Returns
    -------
    Selection
        What is not found stands in ``missing``; see `missing_problem` for what to say about it.

    Raises
    ------
    ReferenceMismatchError
        With every override that does not exist, a `refs_dir` that is no directory, every type that two files
        fit, and every file that cannot be downloaded.
    """
    names = list(dict.fromkeys(reference_type(name).name for name in wanted))
    chosen: dict[str, Path] = {}
    source: dict[str, Source] = {}
    notes: list[Problem] = []
    problems: list[Problem] = []
    rejected: dict[str, list[str]] = {}

    def still_open() -> list[str]:
        return [name for name in names if name not in chosen]

    _take_named(overrides or {}, "override", names, chosen, source, notes, problems)
    if lock is not None:
        _take_named(lock, "lock", names, chosen, source, notes, problems)
    else:
        if refs_dir is not None:
            _take_directory(Path(refs_dir), info, still_open(), chosen, source, rejected, notes, problems)
        _take_named(config or {}, "config", names, chosen, source, notes, problems)
    if problems:
        raise ReferenceMismatchError(problems)
    asked = crds if lock is None and still_open() else None
    answer = _take_crds(asked, info, still_open(), chosen, source, rejected, notes)
    return Selection(
        paths={name: chosen[name] for name in names if name in chosen},
        source={name: source[name] for name in names if name in source},
        notes=tuple(notes),
        missing={name: tuple(rejected.get(name, ())) for name in still_open()},
        context=answer.context if isinstance(answer, Answer) else "",
        trouble=answer.why if isinstance(answer, Trouble) else "",
        not_cached=answer.wanting if isinstance(answer, Answer) else {},
    )


def _take_crds(
    wish: CrdsWish | None,
    info: ExposureInfo,
    names: Sequence[str],
    chosen: dict[str, Path],
    source: dict[str, Source],
    rejected: dict[str, list[str]],
    notes: list[Problem],
) -> Answer | Trouble | None:
    """Take what CRDS has; None when it need not be asked."""
    if wish is None:
        return None
    answer = _ask_crds(wish, info, names)
    if isinstance(answer, Trouble):
        if crds_is_configured(wish.context):
            notes.append(Problem(f"CRDS could not be asked: {answer.why}", "", "", "crds"))
        return answer
    notes += answer.notes
    chosen |= answer.cached
    source |= dict.fromkeys(answer.cached, "crds")
    for name, reason in answer.absent.items():
        rejected.setdefault(name, []).append(reason)
    for name, file in answer.wanting.items():
        reason = (
            f"{answer.context} asks for {file}, which is not in the cache yet: process or refs fetch gets it"
        )
        rejected.setdefault(name, []).append(reason)
    return answer


def _take_named(
    files: Mapping[str, Path],
    what: Source,
    names: Sequence[str],
    chosen: dict[str, Path],
    source: dict[str, Source],
    notes: list[Problem],
    problems: list[Problem],
) -> None:
    """Take files that were named one by one; a file that was named must be there."""
    shown = {"override": "override", "config": "reference of the configuration", "lock": "locked reference"}[
        what
    ]
    for name, path in files.items():
        reftype = reference_type(name).name
        if not Path(path).is_file():
            lack = f"the {reftype} {shown} {'is no file' if Path(path).exists() else 'does not exist'}"
            problems.append(Problem(lack, str(path), "correct the path", "missing_file"))
        elif reftype in names and reftype not in chosen:
            chosen[reftype], source[reftype] = Path(path), what
        elif reftype not in names and what == "override":
            lack = f"the {reftype} override is not used: no step of this run wants it"
            notes.append(Problem(lack, str(path), "", "unused_override"))


def _take_directory(
    refs_dir: Path,
    info: ExposureInfo,
    names: Sequence[str],
    chosen: dict[str, Path],
    source: dict[str, Source],
    rejected: dict[str, list[str]],
    notes: list[Problem],
    problems: list[Problem],
) -> None:
    """Take the files of a directory that suit the exposure."""
    if not refs_dir.is_dir():
        what = "--refs is no directory" if refs_dir.exists() else "the --refs directory does not exist"
        problems.append(Problem(what, str(refs_dir), "give a directory of reference files", "refs_dir"))
        return
    found, unfit = _scan(refs_dir, names, info, notes)
    rejected.update(unfit)
    for reftype, candidates in found.items():
        best = _best(reftype, candidates, info, problems)
        if best is not None:
            chosen[reftype], source[reftype] = best, "refs"


def _ask_crds(wish: CrdsWish, info: ExposureInfo, names: Sequence[str]) -> Answer | Trouble:
    """Ask CRDS, and download what its cache does not hold."""
    if not crds_is_configured(wish.context):
        return Trouble(
            "CRDS was not asked: neither a cache (CRDS_PATH) nor a server (CRDS_SERVER_URL) is named"
        )
    parameters = crds_parameters(info)
    answer = ask_crds(parameters, names, context=wish.context)
    if isinstance(answer, Answer) and wish.fetch:
        return fetch_files(answer, parameters, progress=wish.progress)
    return answer


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
    if info.instrument.upper() in REFERENCE_TYPES[reftype].any_detector:
        differs.pop("DETECTOR", None)
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
