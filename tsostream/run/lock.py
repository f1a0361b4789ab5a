"""Locks: exactly these reference files and parameters, this year and next.

A lock holds one entry per exposure and detector; another exposure of the same kind (instrument, detector,
mode, subarray, readout, optics) may be reduced with it, too. Reference files are known by their sha256; their
paths are only where they were last seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references.crds_client import cached_path, crds_is_configured

__all__ = [
    "FACTS",
    "Lock",
    "LockEntry",
    "LockedFile",
    "locate",
    "locked_file",
    "sha256_of",
]

#: facts an exposure must share with a lock's entry; with the first it is the very same exposure
_SAME: Final = (
    "instrument",
    "detector",
    "exp_type",
    "level",
    "subarray",
    "readpatt",
    "filter",
    "pupil",
    "grating",
)
#: files of a lock that are no references, and the options that name others
_OPTIONS: Final = ("wavelengths", "scout")
FACTS: Final = ("exposure_id", *_SAME, "nints", "ngroups")


@dataclass(frozen=True)
class LockedFile:
    """One file of a lock.

    Parameters
    ----------
    file
        Name.
    sha256
        Of the file as it lies on disk.
    path
        Where it was.
    source
        Where it came from: ``override``, ``refs``, ``config``, ``CRDS jwst_1364.pmap``.
    steps
        Who uses it.
    """

    file: str
    sha256: str
    path: str = ""
    source: str = ""
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class LockEntry:
    """What a lock says about one exposure.

    Parameters
    ----------
    exposure
        Facts by which it is found again.
    steps
        Step -> all of its parameters.
    skipped
        Steps that did not run.
    references
        Reference type -> file.
    wavelengths
        The file given with ``--wavelengths``.
    scout
        What ``--scout`` said.
    scout_file
        The stored scout, where ``--scout`` named one.
    parity
        What ``--parity`` said; None for a streaming run.
    context
        Rules of CRDS that were applied; empty when none were.
    where
        The lock's path, for messages.
    """

    exposure: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    skipped: tuple[str, ...] = ()
    references: Mapping[str, LockedFile] = field(default_factory=dict)
    wavelengths: LockedFile | None = None
    scout: str = "auto"
    scout_file: LockedFile | None = None
    parity: str | None = None
    context: str = ""
    where: Path = Path("lock")

    def files(self) -> dict[str, LockedFile]:
        """All files: reference type (or ``wavelengths``, ``scout``) -> file."""
        extra = {"wavelengths": self.wavelengths, "scout": self.scout_file}
        return {**self.references, **{name: one for name, one in extra.items() if one is not None}}


@dataclass(frozen=True)
class Lock:
    """A lock.

    Parameters
    ----------
    entries
        One per exposure and detector.
    versions
        Of everything that can change a number, when it was made.
    created
        Date, UTC.
    crds_version
        Of the CRDS client.
    """

    entries: tuple[LockEntry, ...]
    versions: Mapping[str, str]
    created: str = ""
    crds_version: str = ""

    def entry_for(self, info: ExposureInfo) -> LockEntry:
        """Find the entry for an exposure: its own, else that of an exposure of the same kind.

        Raises
        ------
        ConfigError
            There is none.
        """
        facts = {name: getattr(info, name) for name in FACTS}
        kin = [
            one for one in self.entries if all(str(one.exposure.get(k, "")) == str(facts[k]) for k in _SAME)
        ]
        own = [one for one in kin if one.exposure.get("exposure_id") == info.exposure_id]
        if own or kin:
            return (own or kin)[0]
        kinds = "; ".join(
            " ".join(str(one.exposure.get(k, "")) for k in _SAME).strip() for one in self.entries
        )
        what = f"holds nothing for {' '.join(str(facts[k]) for k in _SAME)}; it is for {kinds}"
        where = str(self.entries[0].where) if self.entries else "the lock"
        raise ConfigError(Problem(what, where, "lock this exposure with tsostream refs lock", "lock"))

    def version_notes(self, now: Mapping[str, str]) -> list[Problem]:
        """Say which packages are not those the lock was made with."""
        changed = [
            f"{name} {self.versions[name]} (here {now[name]})"
            for name in self.versions
            if name in now and now[name] != self.versions[name]
        ]
        if not changed or not self.entries:
            return []
        what = f"was made with {', '.join(changed)}: rows may differ in their last digits"
        return [Problem(what, str(self.entries[0].where), "", "versions")]


def locked_file(entry: Mapping[str, Any]) -> LockedFile:
    """Make a file's entry of what a lock or an output's metadata tell."""
    return LockedFile(
        str(entry["file"]),
        str(entry["sha256"]),
        str(entry.get("path") or ""),
        str(entry.get("source") or ""),
        tuple(entry.get("steps") or ()),
    )


def sha256_of(path: Path) -> str:
    """Hash a file as it lies on disk."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(entry: LockEntry, *, refs_dir: Path | None = None, skip: Sequence[str] = ()) -> dict[str, Path]:
    """Find the files of a lock by content, wherever they are now.

    Looked at in turn: a file of that name in `refs_dir`, the path the lock tells, any other file in
    `refs_dir`, the CRDS cache.

    Parameters
    ----------
    entry
        What is locked.
    refs_dir
        Where to look first.
    skip
        Reference types that are overridden, so their files need not be there.

    Returns
    -------
    dict
        Reference type (or ``wavelengths``, ``scout``) -> path of a file with the locked sha256.

    Raises
    ------
    ReferenceMismatchError
        With every file that has changed or is not to be found.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for name, locked in entry.files().items():
        if name in skip:
            continue
        path, changed = _find(locked, refs_dir)
        if path is not None:
            found[name] = path
        elif changed is not None:
            what = (
                f"the {name} file has changed since the lock {entry.where} was made: its sha256 is "
                f"{sha256_of(changed)[:12]}…, locked is {locked.sha256[:12]}…"
            )
            option = f"--{name} FILE" if name in _OPTIONS else f"--override {name}=FILE"
            todo = f"restore {locked.file}, depart from the lock with {option}, or lock again"
            problems.append(Problem(what, str(changed), todo, "lock_changed"))
        else:
            place = locked.path or "any place it knows"
            what = f"the {name} file {locked.file} of the lock {entry.where} is not at {place}"
            what += f", nor in {refs_dir}" if refs_dir is not None else ""
            todo = "give --refs DIR with the directory it is in now" if refs_dir is None else "put it there"
            problems.append(Problem(what, "", todo, "lock_missing"))
    if problems:
        raise ReferenceMismatchError(problems)
    return found


def _find(locked: LockedFile, refs_dir: Path | None) -> tuple[Path | None, Path | None]:
    """Give the file with the locked content, and, failing that, the one of that name that has another."""
    named = [refs_dir / locked.file] if refs_dir is not None else []
    named += [Path(locked.path)] if locked.path else []
    changed: Path | None = None
    for path in named:
        if path.is_file():
            if sha256_of(path) == locked.sha256:
                return path, None
            changed = changed or path
    if refs_dir is not None and refs_dir.is_dir():
        suffix = Path(locked.file).suffix.lower()
        for path in sorted(refs_dir.iterdir()):
            if path.name.lower().endswith(suffix) and path.is_file() and sha256_of(path) == locked.sha256:
                return path, None
    if changed is None and crds_is_configured():
        cached = cached_path(locked.file)
        if cached is not None:
            return (cached, None) if sha256_of(cached) == locked.sha256 else (None, cached)
    return None, changed
