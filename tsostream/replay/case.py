"""Regression cases: a folder with a recipe, baseline rows, and how far rows may be from them.

A recipe ``case.yaml``::

    about: what this exposure is, in one line
    input:                       # simulated, or archived files
      simulate: {exp_type: NRS_BRIGHTOBJ, ints: 12, groups: 5, segments: 2, seed: 3, nx: 96, ny: 16}
      # files: [archive/*_uncal.fits]      relative to the folder
      # refs: references
    runs:                        # name -> options of `tsostream.process`
      uncal: {products: [rateints]}
      uncal_parity: {parity: jwst}
      rateints: {from: uncal}    # of the slopes another run has written
    tolerances:                  # column -> part of the median of the baseline, or {absolute: …}
      x: {absolute: 1.0e-4}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tsostream.errors import ConfigError, Problem

__all__ = ["RECIPE", "Case", "Tolerance", "find_cases", "load_case"]

RECIPE: Final = "case.yaml"
_KEYS: Final = frozenset({"about", "input", "runs", "tolerances"})
_INPUT: Final = frozenset({"simulate", "files", "refs"})
#: part of the median of a column that a value may be off, where the recipe does not say
_RELATIVE: Final = 1e-6


@dataclass(frozen=True)
class Tolerance:
    """How far a value may be from the baseline's on another type of processor.

    Parameters
    ----------
    relative
        Part of the median of the absolute baseline values of the column.
    absolute
        In the unit of the column.
    """

    relative: float = 0.0
    absolute: float = 0.0


#: of positions and widths, whose fits amplify rounding
_DEFAULT: Final[dict[str, Tolerance]] = {
    **{name: Tolerance(absolute=1e-4) for name in ("x", "y", "x_err", "y_err")},
    **{name: Tolerance(relative=1e-3) for name in ("width_x", "width_y", "psf_flux")},
}


@dataclass(frozen=True)
class Case:
    """A recipe that was read.

    Parameters
    ----------
    folder
        Where it stands; its name is the case's.
    about
        One line.
    simulate
        Arguments of `tsostream.simulate.simulate`; empty for archived files.
    files
        Patterns of archived files, relative to the folder.
    refs
        Directory of their references; None for none.
    runs
        Name -> options.
    """

    folder: Path
    about: str
    simulate: Mapping[str, Any]
    files: tuple[str, ...]
    refs: Path | None
    runs: Mapping[str, Mapping[str, Any]]
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.folder.name

    def tolerance(self, column: str) -> Tolerance:
        """How far a column may be off."""
        return self.tolerances.get(column) or _DEFAULT.get(column) or Tolerance(relative=_RELATIVE)

    def baseline(self, run: str) -> Path:
        """Baseline light curve of a run."""
        return self.folder / f"{run}.arrow"


def find_cases(given: list[Path]) -> list[Case]:
    """Find the cases in folders: a folder with a recipe, or one that holds such folders.

    Raises
    ------
    ConfigError
        A folder holds none, or a recipe makes no sense; all problems at once.
    """
    problems: list[Problem] = []
    cases: list[Case] = []
    for path in given:
        folders = (
            [path] if (path / RECIPE).exists() else sorted(one.parent for one in path.glob(f"*/{RECIPE}"))
        )
        if not folders:
            todo = f"give a folder with a {RECIPE}, or --into DIR to feed segments"
            problems.append(Problem("there is no case here", str(path), todo, "no_case"))
        for folder in folders:
            try:
                cases.append(load_case(folder))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return cases


def load_case(folder: Path) -> Case:
    """Read a recipe.

    Raises
    ------
    ConfigError
        It cannot be read, or makes no sense.
    """
    path = folder / RECIPE
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            Problem(f"cannot be read: {' '.join(str(error).split())}", str(path), code="recipe")
        ) from None
    problems = []

    def need(ok: bool, what: str) -> None:
        if not ok:
            problems.append(Problem(what, str(path), "see replay/README.md", "recipe"))

    tree = tree if isinstance(tree, dict) else {}
    need(not tree.keys() - _KEYS, f"unknown keys {sorted(tree.keys() - _KEYS)}")
    source: dict[str, Any] = tree["input"] if isinstance(tree.get("input"), dict) else {}
    need(
        bool(source.get("simulate")) != bool(source.get("files")),
        "input needs simulate or files, one of them",
    )
    need(not source.keys() - _INPUT, f"unknown keys of input {sorted(source.keys() - _INPUT)}")
    given: dict[str, Any] = tree["runs"] if isinstance(tree.get("runs"), dict) else {}
    need(bool(given), "there are no runs")
    runs = {str(name): dict(options or {}) for name, options in given.items()}
    seen: set[str] = set()
    for name, options in runs.items():
        need(
            options.get("from") in (None, *seen),
            f"run {name} is from {options.get('from')}, which is not before it",
        )
        seen.add(name)
    tolerances = {}
    for name, value in (tree.get("tolerances") or {}).items():
        try:
            tolerances[name] = (
                Tolerance(**value) if isinstance(value, dict) else Tolerance(relative=float(value))
            )
        except (TypeError, ValueError):
            need(False, f"the tolerance of {name} is {value!r}")
    if problems:
        raise ConfigError(problems)
    refs = source.get("refs")
    return Case(
        folder=folder,
        about=str(tree.get("about", "")),
        simulate=source.get("simulate") or {},
        files=tuple(source.get("files") or ()),
        refs=None if refs is None else folder / refs,
        runs=runs,
        tolerances=tolerances,
    )
