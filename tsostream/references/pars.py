"""Step parameter files of the official pipeline, ``pars-*.asdf``, from CRDS or ``Step.export_config``.

Two layouts are in use. The current one says ``class``, ``name``, ``parameters`` and, for a pipeline, a list
``steps`` of the same; in the legacy one everything stands below ``parameters``, the steps as a mapping. In
both, ``meta`` holds what CRDS selects by.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsostream.errors import ConfigError, Problem
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.references.headers import SELECTORS, disagreement, is_wild, meta_keywords, read_asdf_tree
from tsostream.references.official import NEVER, PIPELINES, by_class

__all__ = ["ParsFile", "StepPars", "choose_pars", "pars_reftypes", "read_pars"]

_PLACEHOLDER = "<SPECIFY>"


@dataclass(frozen=True)
class StepPars:
    """Parameters of one step, or of a pipeline and its steps.

    Parameters
    ----------
    cls
        Class without its module (``JumpStep``); empty where a legacy file leaves it to the name.
    name
        Name in the pipeline.
    parameters
        Name -> value.
    steps
        For a pipeline, its steps.
    """

    cls: str
    name: str
    parameters: Mapping[str, Any]
    steps: tuple[StepPars, ...] = ()

    @property
    def is_pipeline(self) -> bool:
        """Whether it holds steps rather than being one."""
        return self.cls in PIPELINES or bool(self.steps)

    def by_step(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Give (name of the step, parameters) of all steps it speaks about; a pipeline's own are left out."""
        if not self.is_pipeline:
            official = by_class().get(self.cls)
            return [(official.alias if official else self.name, self.parameters)]
        return [(step.name, step.parameters) for step in self.steps]


@dataclass(frozen=True)
class ParsFile:
    """One parameter file.

    Parameters
    ----------
    path
        Where it is.
    root
        What it says.
    keywords
        The selectors, as FITS keywords; USEAFTER among them.
    """

    path: Path
    root: StepPars
    keywords: Mapping[str, Any]

    def disagreements(self, info: ExposureInfo) -> list[str]:
        """Say which selectors are not those of the exposure."""
        found = []
        for keyword in SELECTORS:
            differs = disagreement(keyword, self.keywords, info)
            if differs is not None:
                found.append(f"{keyword} {differs[0]!r} instead of {differs[1]!r}")
        tso = self.keywords.get("TSOVISIT")
        if tso is not None and not is_wild(tso) and _truth(tso) != info.tsovisit:
            found.append(f"TSOVISIT {tso!r} instead of {info.tsovisit!r}")
        date = str(info.header.get("DATE-OBS", ""))
        useafter = str(self.keywords.get("USEAFTER", ""))
        if date and useafter and useafter[:10] > date:
            found.append(f"USEAFTER {useafter}, which is after {date}")
        return found

    @property
    def specificity(self) -> int:
        """How many selectors it names."""
        return sum(not is_wild(self.keywords.get(keyword)) for keyword in (*SELECTORS, "TSOVISIT"))


def _truth(value: Any) -> bool:
    return str(value).strip().upper() in ("T", "TRUE", "1")


def pars_reftypes() -> tuple[str, ...]:
    """Give the CRDS types of all parameter files that can concern a time series: steps, then pipelines."""
    return (*(step.reftype for step in by_class().values()), *(f"pars-{name.lower()}" for name in PIPELINES))


def read_pars(path: Path | str) -> ParsFile:
    """Read a parameter file.

    Raises
    ------
    ConfigError
        When it cannot be read, holds no step parameters, or a class that the official pipeline does not have.
    """
    path = Path(path)
    todo = "give a parameter file as CRDS or Step.export_config writes it"
    try:
        tree = read_asdf_tree(path)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ConfigError(Problem(f"cannot be read as ASDF ({text})", str(path), todo, "pars")) from None
    try:
        root = _step(tree) if "class" in tree else _legacy(tree)
    except (KeyError, TypeError, AttributeError):
        what = "holds no step parameters: expected class, name and parameters"
        raise ConfigError(Problem(what, str(path), todo, "pars")) from None
    if root.cls not in by_class() and root.cls not in PIPELINES and root.cls not in NEVER:
        near = difflib.get_close_matches(root.cls, [*by_class(), *PIPELINES], n=1)
        hint = f"did you mean {near[0]}?" if near else todo
        what = f"the class {root.cls!r} is no step of the official pipeline that a time series goes through"
        raise ConfigError(Problem(what, str(path), hint, "pars"))
    return ParsFile(path, root, _selectors(tree))


def _step(tree: Mapping[str, Any]) -> StepPars:
    cls = str(tree["class"]).rpartition(".")[2]
    parameters = dict(tree["parameters"])
    return StepPars(
        cls, str(tree["name"]), parameters, tuple(_step(step) for step in tree.get("steps") or ())
    )


def _legacy(tree: Mapping[str, Any]) -> StepPars:
    parameters = dict(tree["parameters"])
    name = str(parameters.pop("name"))

    def inner(name: str, parameters: dict[str, Any]) -> StepPars:
        cls = str(parameters.pop("class", "") or "").rpartition(".")[2]
        below = parameters.pop("steps", None) or {}
        steps = tuple(inner(str(alias), dict(values or {})) for alias, values in below.items())
        return StepPars(cls, name, parameters, steps)

    return inner(name, parameters)


def _selectors(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Take the selectors out of ``meta``; the placeholders of a file nobody filled in say nothing."""
    keywords = meta_keywords(tree)
    meta = tree.get("meta")
    if isinstance(meta, Mapping):
        visit = meta.get("visit")
        if isinstance(visit, Mapping) and "tsovisit" in visit:
            keywords["TSOVISIT"] = visit["tsovisit"]
        if meta.get("useafter") is not None:
            keywords["USEAFTER"] = str(meta["useafter"])
    return {key: value for key, value in keywords.items() if _PLACEHOLDER not in str(value)}


def choose_pars(place: Path, info: ExposureInfo, notes: list[Problem]) -> list[ParsFile]:
    """Take a parameter file, or out of a folder those that suit the exposure, one per class.

    Parameters
    ----------
    place
        File or folder. A file that was named is taken even where its selectors disagree, with a note.
    info
        The exposure.
    notes
        Receives what is worth telling.

    Returns
    -------
    list of ParsFile
        In the order they are applied: steps, then pipelines (later ones win).

    Raises
    ------
    ConfigError
        The place does not exist, a file cannot be read, or two files suit equally well.
    """
    if place.is_file():
        chosen = read_pars(place)
        differs = chosen.disagreements(info)
        if differs:
            what = f"is not made for this exposure ({', '.join(differs)}); used all the same"
            notes.append(Problem(what, str(place), "", "pars_selectors"))
        return [chosen]
    if not place.is_dir():
        raise ConfigError(
            Problem("does not exist", f"--pars {place}", "give a file, a folder, crds or none", "pars")
        )
    by_cls: dict[str, list[ParsFile]] = {}
    for path in sorted(place.glob("*.asdf")):
        if not path.name.startswith(".") and _is_pars(path):
            candidate = read_pars(path)
            if not candidate.disagreements(info):
                by_cls.setdefault(candidate.root.cls, []).append(candidate)
    if not by_cls:
        notes.append(Problem("holds no parameter file for this exposure", f"--pars {place}", "", "pars"))
    return in_order([_most_specific(candidates) for candidates in by_cls.values()])


def in_order(files: Sequence[ParsFile]) -> list[ParsFile]:
    """Sort as the official pipeline applies them: steps first, then the pipelines over them."""
    order = list(PIPELINES)
    return sorted(files, key=lambda one: order.index(one.root.cls) if one.root.cls in order else -1)


def _is_pars(path: Path) -> bool:
    """Whether an ASDF file holds step parameters rather than another kind of reference."""
    try:
        tree = read_asdf_tree(path)
    except (OSError, ValueError):
        return False
    parameters = tree.get("parameters")
    return isinstance(parameters, Mapping) and ("class" in tree or "class" in parameters)


def _most_specific(candidates: Sequence[ParsFile]) -> ParsFile:
    """Prefer the file that names more selectors, then the later USEAFTER, as the rules of CRDS do."""

    def rank(one: ParsFile) -> tuple[int, str]:
        return one.specificity, str(one.keywords.get("USEAFTER", ""))

    best = max(map(rank, candidates))
    first = [one for one in candidates if rank(one) == best]
    if len(first) > 1:
        names = ", ".join(str(one.path) for one in first)
        what = f"{len(first)} parameter files for {first[0].root.cls} fit equally well: {names}"
        raise ConfigError(Problem(what, "", "keep one of them, or name it with --pars FILE", "pars"))
    return first[0]
