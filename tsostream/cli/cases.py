"""Regression cases are run, and what moved is told; light curves are laid beside other pipelines' products."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tsostream.cli.report import emit
from tsostream.errors import InputError
from tsostream.replay.against import compare_with, draw_agreement
from tsostream.replay.baseline import machine, read_baseline, rows_of_run, write_baseline
from tsostream.replay.case import Case, find_cases
from tsostream.replay.comparison import Moved, Outcome, compare
from tsostream.replay.drawing import draw_moved
from tsostream.replay.foreign import read_foreign
from tsostream.replay.running import Prepared, make_runs
from tsostream.sinks import open_output

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Chosen", "replay_against", "replay_cases"]


@dataclass(frozen=True)
class Chosen:
    """What the user asked for.

    Parameters
    ----------
    update
        Write the baselines instead of comparing with them.
    run
        Only the run of this name.
    work
        Where inputs and outputs are made; None: a directory that is removed.
    pictures
        Where pictures go.
    tolerant
        Compare within the tolerances, also on the processor the baseline was made on.
    """

    update: bool = False
    run: str | None = None
    work: Path | None = None
    pictures: Path = Path()
    tolerant: bool = False


def replay_cases(console: Console, given: Sequence[Path], chosen: Chosen) -> bool:
    """Run cases; True when nothing moved that must not."""
    cases = find_cases(list(given))
    good = True
    summary: list[str] = []
    with _folder(chosen.work) as work:
        for case in cases:
            for name, path in make_runs(case, work / case.name, simulated, chosen.run):
                label = f"{case.name}/{name}"
                rows = rows_of_run(path)
                if chosen.update:
                    summary.append(_update(case, name, rows))
                    console.print(summary[-1], soft_wrap=True)
                    continue
                old, made_on = read_baseline(case.baseline(name))
                outcome = compare(case, old, rows, exact=made_on == machine() and not chosen.tolerant)
                print_outcome(console, label, outcome)
                good &= not outcome.failed
                picture = chosen.pictures / f"replay-{case.name}-{name}.png"
                if outcome.failed and draw_moved(picture, label, outcome, old, rows):
                    console.print(f"  picture: {picture}", soft_wrap=True)
    return good


def simulated(recipe: dict[str, Any], folder: Path) -> Prepared:
    """Make the input of a case with the simulator."""
    from tsostream.simulate import simulate

    made = simulate(recipe.pop("exp_type"), folder, overwrite=True, **recipe)
    return Prepared(made.segments, made.directory, made.references.get("wavelength"))


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="tsostream-replay-") as folder:
        yield Path(folder)


def _update(case: Case, name: str, rows: Any) -> str:
    """Write a baseline; returns a line for the commit message."""
    path = case.baseline(name)
    label = f"{case.name}/{name}"
    try:
        old, _ = read_baseline(path)
    except InputError:
        write_baseline(path, rows)
        return f"{label}: new, {len(rows['integration'])} rows"
    outcome = compare(case, old, rows, exact=True)
    if not outcome.moved:
        return f"{label}: as it was"
    write_baseline(path, rows)
    return f"{label}: " + "; ".join(_said(one) for one in outcome.moved)


def _said(one: Moved) -> str:
    if one.verdict in ("gone", "new"):
        return f"{one.column} {one.verdict}"
    size = f"{one.ppm:+.3g} ppm" if one.ppm == one.ppm else f"{one.largest:+.3g}"
    return f"{one.column} {size} from integration {one.first}"


def print_outcome(console: Console, label: str, outcome: Outcome) -> None:
    """Say what moved."""
    how = "bit for bit" if outcome.exact else "within the tolerances"
    if not outcome.moved:
        console.print(f"{label}: the same, every bit", style="green")
        return
    verdict = "MOVED" if outcome.failed else f"the same {how}"
    console.print(f"{label}: {verdict} (compared {how})", style="bold red" if outcome.failed else "green")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in (
        "column",
        "values",
        "largest",
        "ppm of the median",
        "of its error",
        "from integration",
        "verdict",
    ):
        table.add_column(heading, justify="left" if heading in ("column", "verdict") else "right")
    for one in outcome.moved:
        numbers = (one.largest, one.ppm, one.sigma)
        shown = ("" if value != value else f"{value:+.4g}" for value in numbers)
        table.add_row(f"  {one.column}", str(one.values), *shown, str(one.first or ""), one.verdict)
    emit(console, table)


def replay_against(
    console: Console, given: Sequence[Path], product: Path, chosen: Chosen, tolerance: float | None
) -> bool:
    """Lay light curves beside a product of another pipeline; True when they agree as well as was asked for."""
    foreign = read_foreign(product)
    good = True
    with _folder(chosen.work) as work:
        for label, path in _light_curves(given, work, chosen):
            lc = open_output(path)
            wavelength = lc.wavelength(_order(lc)) if lc.spectra is not None else None
            agreement = compare_with(rows_of_run(path), wavelength, foreign, str(product))
            console.print(f"{label} beside {product.name}", style="bold")
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
            for name, value in agreement.facts():
                table.add_row(f"  {name}", value)
            emit(console, table)
            picture = chosen.pictures / f"replay-{label.replace('/', '-')}-against.png"
            draw_agreement(picture, f"{label} beside {product.name}", agreement)
            console.print(f"  picture: {picture}", soft_wrap=True)
            if tolerance is not None and not agreement.rms <= tolerance:
                console.print(f"  the difference is more than {tolerance:g} ppm", style="bold red")
                good = False
    return good


def _order(lc: Any) -> int | None:
    rows = lc.table
    return int(rows.column("order")[0].as_py()) if len(rows) else None


def _light_curves(given: Sequence[Path], work: Path, chosen: Chosen) -> Iterator[tuple[str, Path]]:
    """Light curves that are there, and those of cases, made now."""
    for path in given:
        if path.is_file():
            yield path.stem, path
            continue
        for case in find_cases([path]):
            for name, out in make_runs(case, work / case.name, simulated, chosen.run):
                yield f"{case.name}/{name}", out
