"""The runs of a case are made, in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.replay.case import Case
from tsostream.run.api import process

__all__ = ["Prepared", "Simulate", "make_runs"]

#: arguments of a recipe, and the folder -> segments, references, wavelengths (None for images)
Simulate = Callable[[dict[str, Any], Path], "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """Inputs of a case.

    Parameters
    ----------
    segments
        Files to reduce.
    refs
        Directory of their references.
    wavelengths
        Table or image of wavelengths.
    """

    segments: tuple[Path, ...]
    refs: Path | None = None
    wavelengths: Path | None = None
    overrides: tuple[str, ...] = field(default=())


def make_runs(
    case: Case, folder: Path, simulate: Simulate, only: str | None = None
) -> Iterator[tuple[str, Path]]:
    """Make the runs of a case one after the other.

    Parameters
    ----------
    case
        The recipe.
    folder
        Where everything goes; made when absent.
    simulate
        Makes the input; handed in, because the simulator is nothing this package knows of.
    only
        Name of the one run that is wanted; those it needs are made, too.

    Yields
    ------
    name, path
        Of a run and its light curve.

    Raises
    ------
    TsoStreamError
        As `tsostream.process` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = simulate(dict(case.simulate), folder / "input") if case.simulate else _archived(case)
    needed = set(case.runs) if only is None else _needed(case, only)
    made: dict[str, Path] = {}
    for name, recipe in case.runs.items():
        if name not in needed:
            continue
        options = dict(recipe)
        source = options.pop("from", None)
        out = folder / name / "lc.arrow"
        out.parent.mkdir(exist_ok=True)
        inputs: list[Path] | tuple[Path, ...] = given.segments
        if source is not None:
            inputs = sorted(made[source].parent.glob("*_rateints.fits"))
            if not inputs:
                what = f"run {source} has made no rateints, from which {name} shall begin"
                raise InputError(Problem(what, str(case.folder), "add products: [rateints] to it", "recipe"))
        if given.refs is not None:  # also with a lock, whose files may have been elsewhere
            options.setdefault("refs_dir", given.refs)
        if "lock" in options:
            options["lock"] = case.folder / options["lock"]
        if given.wavelengths is not None:
            options.setdefault("wavelengths", given.wavelengths)
        if "config" in options and options["config"] != "none":
            options["config"] = case.folder / options["config"]
        (made[name],) = process(list(inputs), out, overwrite=True, pars=("none",), **options)
        if only in (None, name):
            yield name, made[name]


def _needed(case: Case, name: str) -> set[str]:
    if name not in case.runs:
        todo = f"choose from {', '.join(case.runs)}"
        raise InputError(Problem(f"there is no run {name!r}", str(case.folder), todo, "no_run"))
    needed = {name}
    while (source := case.runs[name].get("from")) is not None:
        needed.add(source)
        name = source
    return needed


def _archived(case: Case) -> Prepared:
    found = [path for pattern in case.files for path in sorted(case.folder.glob(pattern))]
    if not found:
        what = f"no file matches {', '.join(case.files)}"
        raise InputError(Problem(what, str(case.folder), "fetch them, or mend the recipe", "no_files"))
    return Prepared(tuple(found), case.refs)
