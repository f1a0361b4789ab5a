"""What it means when a reference is missing: an error that says how to go on, or a step that is SKIPPED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tsostream.errors import Problem
from tsostream.references.catalog import reference_type
from tsostream.references.crds_client import SERVER
from tsostream.references.selection import Selection

__all__ = ["MissingReferences", "is_required", "judge_missing", "missing_problem"]

_REQUIRED = frozenset({"mask", "saturation", "superbias", "linearity", "dark", "gain", "readnoise"})
_REQUIRED_NIR_ONLY = frozenset({"superbias"})

#: without these steps there are no slopes, so leaving them out is no way to go on
_INDISPENSABLE = frozenset({"ramp_fit"})


@dataclass(frozen=True)
class MissingReferences:
    """What the missing references of a run mean.

    Parameters
    ----------
    errors
        References a run cannot do without: one problem that names them all, or none.
    skipped
        Step -> the note that it is SKIPPED.
    """

    errors: tuple[Problem, ...]
    skipped: dict[str, Problem]


def is_required(reftype: str, instrument: str = "") -> bool:
    """Whether a step that lacks this reference is an error rather than SKIPPED.

    Parameters
    ----------
    reftype
        Name or alias.
    instrument
        INSTRUME; MIRI has no superbias.
    """
    name = reference_type(reftype).name
    if instrument.strip().upper() == "MIRI" and name in _REQUIRED_NIR_ONLY:
        return False
    return name in _REQUIRED


def missing_problem(
    reftype: str, step: str, *, instrument: str = "", rejected: Sequence[str] = ()
) -> Problem:
    """Say that a reference is missing and how to go on.

    Parameters
    ----------
    reftype
        Name or alias.
    step
        The step that wants it.
    instrument
        INSTRUME.
    rejected
        Files of that type that were seen but do not fit, each with its reason
        (``Selection.missing[reftype]``).

    Returns
    -------
    Problem
        With the code ``missing_reference`` (an error), or ``step_skipped`` (a note) when a run can do without
        it.
    """
    name = reference_type(reftype).name
    seen = f" ({'; '.join(rejected)})" if rejected else ""
    ways = (
        f"put a file with REFTYPE {name.upper()} into --refs DIR, give --override {name}=FILE, "
        "or let CRDS choose (set CRDS_PATH and CRDS_SERVER_URL)"
    )
    if not is_required(name, instrument):
        what = f"no {name} reference was found{seen}: the step {step} is SKIPPED"
        return Problem(what, "", f"to run it, {ways}", "step_skipped")
    if step not in _INDISPENSABLE:
        ways += f", or leave the step out with --skip-step {step}"
    return Problem(
        f"the step {step} needs a {name} reference and none was found{seen}", "", ways, "missing_reference"
    )


def judge_missing(
    selection: Selection, steps: Mapping[str, Sequence[str]], instrument: str
) -> MissingReferences:
    """Sort what is missing into one error and steps that are SKIPPED.

    Parameters
    ----------
    selection
        What was found.
    steps
        Step -> the reference types it cannot run without, in processing order.
    instrument
        INSTRUME.
    """
    lacking: dict[str, list[str]] = {}
    skipped: dict[str, Problem] = {}
    for step, names in steps.items():
        for reftype in names:
            name = reference_type(reftype).name
            if name not in selection.missing:
                continue
            rejected = selection.missing[name]
            problem = missing_problem(name, step, instrument=instrument, rejected=rejected)
            if problem.code == "missing_reference":
                lacking.setdefault(name, []).append(step)
            else:
                skipped.setdefault(step, problem)
    if not lacking:
        return MissingReferences((), skipped)
    if len(lacking) == 1:
        name, wanting = next(iter(lacking.items()))
        problem = missing_problem(name, wanting[0], instrument=instrument, rejected=selection.missing[name])
        what = f"{problem.what}; {selection.trouble}" if selection.trouble else problem.what
        return MissingReferences((replace(problem, what=what),), skipped)
    return MissingReferences((_all_missing(lacking, selection),), skipped)


def _all_missing(lacking: Mapping[str, Sequence[str]], selection: Selection) -> Problem:
    """Put everything that is missing into one problem: which, for which steps, three ways to go on."""
    lines = []
    for name, steps in lacking.items():
        rejected = selection.missing[name]
        seen = f" ({'; '.join(rejected)})" if rejected else ""
        lines.append(f"{name} for {' and '.join(steps)}{seen}")
    what = f"{len(lacking)} reference files are missing: {', '.join(lines)}"
    if selection.trouble:
        what += f"; {selection.trouble}"
    optional = [step for steps in lacking.values() for step in steps if step not in _INDISPENSABLE]
    leave_out = f"; or leave steps out, as in --skip-step {optional[0]}" if optional else ""
    todo = (
        f"supply them in one of three ways: from CRDS (set CRDS_PATH to a cache, and "
        f"CRDS_SERVER_URL={SERVER} to download what it lacks), as a directory (--refs DIR), or one by one "
        f"(--override TYPE=FILE){leave_out}"
    )
    return Problem(what, "", todo, "missing_reference")
