"""What a request means for one exposure: steps with parameters, and a file for every reference they want.

`prepare` and `inspect` both ask here, so what is shown is what is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsostream.errors import Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references import (
    CrdsWish,
    MissingReferences,
    Selection,
    find_references,
    judge_missing,
    parse_overrides,
)
from tsostream.references.catalog import reference_type
from tsostream.references.crds_client import Progress
from tsostream.run.config import Config, load_config
from tsostream.run.lock import LockEntry, locate
from tsostream.run.lock_file import read_lock
from tsostream.run.problems import Problems
from tsostream.run.request import Request
from tsostream.run.versions import package_versions

__all__ = ["Choices", "choose"]


@dataclass(frozen=True)
class Choices:
    """The steps of a run and their references, before anything is loaded.

    Parameters
    ----------
    request
        The request, with what a lock says about scout and wavelengths filled in.
    config
        Steps and parameters; steps without a reference are still among them.
    selection
        Files.
    missing
        What the references that were not found mean.
    notes
        What is worth telling.
    context
        Rules of CRDS that chose references, now or when the lock was made; empty when none did.
    """

    request: Request
    config: Config
    selection: Selection
    missing: MissingReferences
    notes: tuple[Problem, ...] = ()
    context: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """Reference type -> where the file came from, for people and metadata."""
        return {name: self.selection.label(name) for name in self.selection.source}


def choose(
    request: Request,
    info: ExposureInfo,
    problems: Problems,
    *,
    fetch: bool = True,
    progress: Progress | None = None,
) -> Choices | None:
    """Settle steps, parameters and reference files.

    Parameters
    ----------
    request
        What the user asked for.
    info
        The exposure.
    problems
        Receives what stands against a run, but for missing references.
    fetch, progress
        Whether files that CRDS's cache does not hold are downloaded, now; told how they get on.

    Returns
    -------
    Choices or None
        None when there is no telling which steps run, or with which files.
    """
    notes: list[Problem] = []

    collect = problems.collect
    wish = CrdsWish(request.crds_context, fetch, progress)
    overrides: Mapping[str, Path] | None = collect(lambda: parse_overrides(request.overrides))
    entry: LockEntry | None = None
    locked: dict[str, Path] | None = None
    if request.lock is not None:
        entry = collect(lambda: _entry(Path(request.lock or "").expanduser(), info, notes))
        if entry is None:
            return None
        if entry.parity == "jwst" and request.parity is None:
            request = replace(request, parity="jwst")
        own = [*(overrides or {}), *(["wavelengths"] if request.wavelengths else [])]
        own += ["scout"] if request.scout != "auto" else []
        locked = collect(lambda: locate(entry, refs_dir=request.refs_dir, skip=own))
    config = collect(lambda: _load_config(request, info, entry, wish))
    if config is None or overrides is None or (entry is not None and locked is None):
        return None
    waves = getattr(config.operator("emicorr"), "user_supplied_reffile", None)
    if waves and "emicorr" not in overrides:
        overrides = {**overrides, "emicorr": Path(waves).expanduser()}
    wanted = {one.name: one.wants(info)[0] for one in config.operators}
    selection: Selection | None = collect(
        lambda: find_references(
            info,
            wanted=_wanted_types(config, info),
            refs_dir=request.refs_dir,
            overrides=overrides,
            lock=None
            if locked is None or entry is None
            else {name: path for name, path in locked.items() if name in entry.references},
            config=config.references,
            crds=wish,
        )
    )
    if selection is None:
        return None
    if entry and locked is not None:
        request = _as_locked(request, entry, locked)
    missing = judge_missing(selection, wanted, info.instrument)
    told = tuple(dict.fromkeys((*notes, *config.notes, *selection.notes)))
    return Choices(
        request, config, selection, missing, told, selection.context or (entry.context if entry else "")
    )


def _load_config(request: Request, info: ExposureInfo, lock: LockEntry | None, wish: CrdsWish) -> Config:
    """Settle the steps and their parameters."""
    bins = [] if request.bins is None else [f"bin_spectra.bins='{request.bins}'"]
    return load_config(
        info,
        config=request.config,
        settings=(*request.settings, *bins),
        skip_steps=request.skip_steps,
        pars=request.pars,
        lock=lock,
        crds=wish,
        parity=request.parity is not None,
        calibrated=request.calibrated,
    )


def _wanted_types(config: Config, info: ExposureInfo) -> list[str]:
    """List the reference types that the steps need, and then those they can do without."""
    needs = [name for one in config.operators for name in one.wants(info)[0]]
    optional = sorted({name for one in config.operators for name in one.wants(info)[1]})
    return [
        name
        for name in dict.fromkeys([*needs, *optional])
        if info.exp_type in (reference_type(name).exp_types or (info.exp_type,))
    ]


def _entry(path: Path, info: ExposureInfo, notes: list[Problem]) -> LockEntry:
    """Read what a lock says about the exposure."""
    lock = read_lock(path)
    notes += lock.version_notes(package_versions())
    return lock.entry_for(info)


def _as_locked(request: Request, entry: LockEntry, locked: Mapping[str, Path]) -> Request:
    """Take scout and wavelengths from the lock, where the command line does not say otherwise."""
    changes: dict[str, Any] = {}
    if request.scout == "auto":
        changes["scout"] = str(locked["scout"]) if "scout" in locked else entry.scout
    if request.wavelengths is None and "wavelengths" in locked:
        changes["wavelengths"] = locked["wavelengths"]
    return replace(request, **changes)
