"""``tsostream inspect``: what is this, is it complete, are its times sane, and what would a run do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tsostream.cli.options import Grouped, inputs_argument, make_request, options, save_config_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsostream.errors import InputError
    from tsostream.files import Exposure
    from tsostream.run.request import Request

__all__ = ["inspect_command"]

EXAMPLES: Final = """
tsostream inspect jw*_uncal.fits
tsostream inspect data/ --refs references/ --max-memory 1GB
tsostream inspect lc.arrow
"""

#: findings that only stop a run, not a look at the files
_NOT_YET: Final = "missing_reference"


@click.command("inspect", cls=Grouped, examples=EXAMPLES)
@inputs_argument
@save_config_option
@options
def inspect_command(
    inputs: tuple[str, ...],
    log_file: Path | None,
    log_level: str | None,
    save_config: Path | None,
    **chosen: Any,
) -> None:
    """Look at exposures without reducing them.

    Shows what the files hold, whether they are complete, how sane their times are, and what process would do
    with them: steps, parameters, references, memory. Without references it says which are missing and how to
    give them.

    INPUT is as for process, or a light curve that process wrote (finished, growing or interrupted).

    \b
    Exit codes: 0 nothing stands against a run (but for references still to be given); 2 a problem was found.
    """  # noqa: D301 - click looks for the backspace itself
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    with logging_to(log_file, log_level):
        console = make_console(stderr=False)
        written = [name for name in inputs if _is_output(Path(name))]
        for name in written:
            from tsostream.cli.written import print_output

            print_output(console, Path(name))
        others = tuple(name for name in inputs if name not in written)
        if others:
            _inspect(console, make_request(others, None, **chosen), save_config)


def _is_output(path: Path) -> bool:
    """Whether a file is an Arrow file, or the output of a run that has no rows yet."""
    from tsostream.sinks.output import journal_path

    if not path.exists() and journal_path(path).exists():
        return True
    try:
        with path.open("rb") as file:
            return file.read(6) == b"ARROW1"
    except OSError:
        return False


def _inspect(console: Console, request: Request, save_config: Path | None = None) -> None:
    """Print everything about the exposures of a request, then raise what was found against a run."""
    from tsostream.cli.report import heading
    from tsostream.cli.times import print_times
    from tsostream.errors import InputError, MemoryLimitError
    from tsostream.files import find_exposures

    exposures = find_exposures(
        [Path(one) for one in request.inputs], level=request.level, allow_gaps=request.allow_gaps
    )
    problems = []
    too_much: MemoryLimitError | None = None
    for number, exposure in enumerate(exposures):
        if number:
            console.print()
        _print_exposure(console, exposure)
        print_times(console, exposure)
        console.print(heading("The run"))
        try:
            _print_run(console, request, exposure)
        except InputError as error:
            problems += list(error.problems)
        except MemoryLimitError as error:
            too_much = error
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if save_config is not None:
        _save_configs(request, exposures, save_config)
    if too_much is not None:
        raise too_much


def _save_configs(request: Request, exposures: Sequence[Exposure], path: Path) -> None:
    """Write the configurations a run would use."""
    from tsostream.cli.report import save_configs
    from tsostream.run.choices import choose
    from tsostream.run.problems import Problems

    settled = []
    for exposure in exposures:
        chosen = choose(request, exposure.info, Problems(), fetch=False)
        if chosen is not None:
            settled.append((exposure, chosen.config.without(chosen.missing.skipped)))
    save_configs(settled, path.expanduser())


def _print_exposure(console: Console, exposure: Exposure) -> None:
    from rich.table import Table

    from tsostream.cli.report import emit, facts_table, integrations_text, print_notes, size_text, title

    info = exposure.info
    emit(console, title(exposure))
    emit(console, facts_table([("integrations", integrations_text(exposure)), ("product", exposure.product)]))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name, side in (
        ("file", "left"),
        ("segment", "right"),
        ("integrations", "right"),
        ("count", "right"),
        ("size", "right"),
    ):
        table.add_column(name, justify=side, no_wrap=name != "file", overflow="fold")  # type: ignore[arg-type]
    for segment in exposure.segments:
        table.add_row(
            Path(segment.source_path).name,
            f"{segment.segment_number}/{segment.segment_total or '?'}",
            f"{segment.first}-{segment.last}",
            str(segment.count),
            size_text(segment.size),
        )
    emit(console, table)
    if info.is_ramp:
        readout = f"{info.nframes} frames per group, {info.groupgap} dropped; frame {info.frame_time:g} s"
        emit(console, facts_table([("readout", f"{readout}, integration {info.integration_time:g} s")]))
    print_notes(console, exposure.notes)


def _print_run(console: Console, request: Request, exposure: Exposure) -> None:
    """Print what a run would do; where only references are missing, what can be said without them.

    Raises
    ------
    InputError
        For everything else that stands against a run.
    """
    from tsostream.cli.report import emit, facts_table, plan_rows, print_notes
    from tsostream.errors import InputError
    from tsostream.run.setup import prepare

    try:
        # looking does not download; what the CRDS cache lacks is listed
        prepared = prepare(request, exposure, None, fetch=False)
    except InputError as error:
        if any(problem.code != _NOT_YET for problem in error.problems):
            raise
        _print_without_references(console, request, exposure, error)
        return
    emit(console, facts_table(plan_rows(prepared)))
    print_notes(console, [note for note in prepared.notes if note not in exposure.notes])


def _print_without_references(
    console: Console, request: Request, exposure: Exposure, error: InputError
) -> None:
    """Print steps, the references that were found and those that were not, and the least memory."""
    from rich.text import Text

    from tsostream.cli.report import (
        changed_parameters,
        couplings,
        emit,
        facts_table,
        references_text,
        steps_text,
    )
    from tsostream.run.choices import choose
    from tsostream.run.problems import Problems

    chosen = choose(request, exposure.info, Problems(), fetch=False)
    if chosen is None:
        raise error
    config = chosen.config
    found = {kind: path.name for kind, path in chosen.selection.paths.items()}
    rows: list[tuple[str, str | Text]] = [
        ("steps", steps_text(config)),
        ("parameters", config.source + "".join(f"\n{line}" for line in changed_parameters(config))),
        ("windows", "\n".join(couplings(config))),
        (
            "references",
            references_text(found, chosen.sources),
        ),
        ("missing", Text("\n".join(map(str, error.problems)), style="yellow")),
        ("memory", _least_memory(request, exposure)),
    ]
    emit(console, facts_table(rows))


def _least_memory(request: Request, exposure: Exposure) -> str:
    """Size the run with steps that keep no references."""
    import os

    import numpy as np

    from tsostream.operators.tile import plan_tile
    from tsostream.run.plan import make_plan, parse_bytes
    from tsostream.run.ramps import RateChain
    from tsostream.run.scout import parse_scout
    from tsostream.run.slopes import SlopeSteps

    info = exposure.info
    rates = RateChain(info, (), np.zeros(info.frame_shape, np.uint32), plan_tile(info, []))
    plan = make_plan(
        exposure,
        rates,
        SlopeSteps(info, rates.pixeldq),
        parse_scout(request.scout),
        reference_bytes=0,
        workers=request.workers or os.cpu_count() or 1,
        max_memory=parse_bytes(request.max_memory) if request.max_memory else None,
    )
    return f"at least {plan.total / 1e6:.0f} MB, references not counted"
