"""Whether an unfinished output was made by the same run: the differences, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tsostream.errors import InputError, Problem
from tsostream.records.metadata import plain_values

__all__ = ["compare_run", "run_differences"]

#: more differences than this are counted, not listed: it is another run altogether
_LISTED: Final = 12
_BEGAN: Final = "when the run began"
_TODO: Final = {
    "inputs": "put it back as it was, or start again with --overwrite",
    "references": "resume with that file, or start again with --overwrite",
    "versions": "resume with that version, or start again with --overwrite",
}
_RESUME_TODO: Final = "resume with what the run began with, or start again with --overwrite"


def compare_run(
    out: Path,
    header: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    only: Collection[str] | None = None,
) -> None:
    """Raise when a journal's run is not this one.

    Parameters
    ----------
    out
        The output, for messages.
    header
        Of the journal.
    fingerprint
        Of this run.
    only
        Parts of the fingerprint to compare; default all.

    Raises
    ------
    InputError
        With every difference.
    """
    problems = run_differences(str(out), header.get("fingerprint", {}), fingerprint, only)
    if problems:
        raise InputError(problems)


def run_differences(
    where: str, old: Mapping[str, Any], new: Mapping[str, Any], only: Collection[str] | None = None
) -> list[Problem]:
    """Say what is not as it was; one `Problem` each.

    Inputs that came since are no difference when the run followed a growing directory (``growing`` in its
    fingerprint): integrations are known by their numbers.
    """
    # plain, as the one on disk became: a tuple is a list there
    new = plain_values(new)
    growing = old.get("growing") or new.get("growing")
    if only is not None:
        old = {key: value for key, value in old.items() if key in only}
        new = {key: value for key, value in new.items() if key in only}
    found = [
        Problem(_say(path, before, now), where, _TODO.get(path[0], _RESUME_TODO), "other_run")
        for path, before, now in _differences(old, new)
        if path[0] != "growing" and not (growing and path[0] == "inputs" and before is None)
    ]
    if len(found) > _LISTED:
        what = f"and {len(found) - _LISTED} more differences: this is another run"
        found = [*found[:_LISTED], Problem(what, where, _RESUME_TODO, "other_run")]
    return found


def _differences(
    old: Any, new: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            yield from _differences(old.get(key), new.get(key), (*path, str(key)))
    elif old != new and not (old != old and new != new):
        yield path, old, new


def _say(path: tuple[str, ...], old: Any, new: Any) -> str:
    kind, name = path[0], path[-1]
    if kind == "inputs" and len(path) == 2:
        if new is None:
            return f"{name} was an input {_BEGAN} and is not there now"
        if old is None:
            return f"{name} is an input now and was none {_BEGAN}"
        if old[0] != new[0]:
            return f"the input {name} had {old[0]} bytes {_BEGAN} and has {new[0]} now"
        return f"the headers of the input {name} have changed since the run began"
    if kind == "references" and len(path) == 2:
        if old is None:
            return f"the reference {name} was not used {_BEGAN} and is now"
        if new is None:
            return f"the reference {name} was used {_BEGAN} and is not now"
        sums = f"sha256 {str(old)[:12]}… then, {str(new)[:12]}… now"
        return f"the reference {name} is another file than {_BEGAN} ({sums})"
    if kind == "versions" and len(path) == 2:
        return f"the version of {name} was {old} {_BEGAN} and is {new} now"
    if kind in ("scout", "scout_integrations"):
        return f"the scout (templates) is another than {_BEGAN}"
    if kind == "wavelength":
        return f"the wavelengths are others than {_BEGAN}"
    return f"{'.'.join(path)} was {_short(old)} and is {_short(new)} now"


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
