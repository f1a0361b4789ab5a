"""``tsostream process``: the main job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tsostream.cli.options import (
    Grouped,
    grouped,
    inputs_argument,
    make_request,
    options,
    overwrite_option,
    product_options,
    quiet_option,
    save_config_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.cli.interruption import Interruptible
    from tsostream.cli.watching import Watcher
    from tsostream.run.prepared import Prepared
    from tsostream.run.ready import Result

__all__ = ["process", "run_all"]

logger = logging.getLogger("tsostream")

EXAMPLES: Final = """
tsostream process jw*_uncal.fits --refs references/ --out lc.arrow
tsostream process data/ --level calints --wavelengths jw*_calints.fits --out lc.arrow
tsostream process data/ --refs references/ --out lc.arrow --set jump.rejection_threshold=8
tsostream process data/ --refs references/ --out lc.arrow --max-memory 1GB --log-file lc.log
tsostream process data/ --refs references/ --out lc.arrow --resume
tsostream process incoming/ --refs references/ --out lc.arrow --follow --idle-timeout 3600
tsostream process data/ --refs references/ --out lc.arrow --products rateints --save-steps refpix --save-ints 1-10
"""


@click.command(cls=Grouped, examples=EXAMPLES)
@inputs_argument
@grouped(
    "Output",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Light curve to write. Spectra go beside it: lc.arrow and lc.spectra.arrow.",
)
@overwrite_option("Replace an output that is there already.")
@grouped(
    "Output",
    "--resume",
    is_flag=True,
    help="Go on with an output that did not reach its end, with the same inputs, references and parameters; the "
    "result is that of an undisturbed run.",
)
@product_options
@grouped(
    "Input",
    "--follow",
    is_flag=True,
    help="Begin before all segments of a directory are there: each is taken as soon as it is complete, in whatever "
    "order they come.",
)
@grouped(
    "Input",
    "--idle-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --follow, give up when nothing new came for so long [default: wait for ever]; --resume goes on.",
)
@grouped(
    "Input",
    "--on-error",
    type=click.Choice(("stop", "flag")),
    default="stop",
    show_default=True,
    help="What to do about integrations that cannot be read (disk errors, a file that becomes shorter): stop, or "
    "flag their rows (present = false, READ_FAILED) and go on.",
)
@grouped(
    "Output",
    "--hash-inputs",
    is_flag=True,
    help="Record the sha256 of the whole input files, not only of their headers.",
)
@save_config_option
@options
@quiet_option("Nothing but errors, and the path of the light curve.")
@click.pass_context
def process(
    ctx: click.Context,
    inputs: tuple[str, ...],
    out: Path,
    log_file: Path | None,
    log_level: str | None,
    quiet: bool,
    save_config: Path | None,
    **chosen: Any,
) -> None:
    """Reduce exposures into a light curve and spectra.

    INPUT is any number of segment files (uncal, rateints, calints or crfints, also .fits.gz) in any order,
    a directory of them, or an association. Everything is checked before the first pixel is read: gaps,
    overlaps, foreign or truncated files, parameters, references.

    Rows are on disk, readable by other programs, as soon as they are made; memory does not grow with the
    length of the exposure. Several exposures or detectors give one output each (lc.nrs1.arrow,
    lc.nrs2.arrow).

    \b
    Exit codes: 0 done; 1 failed on the way (the rows written are kept; go on with --resume);
    2 a problem found before the start; 130 interrupted (Ctrl-C or SIGTERM; the output is closed properly,
    with status "interrupted"; go on with --resume).
    """  # noqa: D301 - click looks for the backspace itself
    from tsostream.cli.interruption import Interruptible
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    with logging_to(log_file, log_level, quiet=quiet), Interruptible() as interruptible:
        from tsostream.cli.downloads import download_bar
        from tsostream.run.setup import prepare_all

        console = make_console()

        def say(text: str) -> None:
            logger.info("%s", text)
            if not quiet:
                console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)

        with download_bar(console, quiet=quiet) as progress:
            runs = prepare_all(make_request(inputs, out.expanduser(), **chosen), progress=progress, say=say)
        if save_config is not None:
            from tsostream.cli.report import save_configs

            settled = [(run.exposure, run.config) for run in runs]
            save_configs(settled, save_config.expanduser(), overwrite=chosen["overwrite"])
        if not run_all(runs, console, interruptible, quiet=quiet):
            from tsostream.cli.failures import INTERRUPTED

            ctx.exit(INTERRUPTED)


def run_all(
    runs: Sequence[Prepared], console: Console, interruptible: Interruptible, *, quiet: bool
) -> list[Result]:
    """Show the plans, then run them one after the other.

    Returns
    -------
    list of Result
        Empty when the run was interrupted.
    """
    from tsostream.cli.report import print_notes, print_plan

    said: set[str] = set()
    for prepared in runs:
        for note in prepared.notes:
            logger.info("note: %s", note)
        if not quiet:
            print_plan(console, prepared)
            print_notes(console, prepared.notes, said)
    if len(runs) > 1 and all(prepared.arrivals is not None for prepared in runs):
        return _run_together(runs, console, interruptible, quiet=quiet)
    results = []
    for prepared in runs:
        result = _run(prepared, console, interruptible, quiet=quiet)
        if result is None:
            return []
        results.append(result)
        click.echo(str(result.out))
    return results


def _run_together(
    runs: Sequence[Prepared], console: Console, interruptible: Interruptible, *, quiet: bool
) -> list[Result]:
    """Run detectors whose segments still arrive side by side; empty when interrupted."""
    from tsostream.cli.meter import Meter
    from tsostream.cli.summary import how_far, look_at_rows, summarise
    from tsostream.cli.watching import Lines, Watcher
    from tsostream.run.api import run_together
    from tsostream.run.stream import run_exposure

    watchers: list[Watcher] = []
    for prepared in runs:
        size = sum(one.size for one in prepared.exposure.segments)
        meter = Meter(size / max(sum(one.count for one in prepared.exposure.segments), 1))
        watchers.append(Watcher(meter) if quiet else Lines(meter, console))
    interruptible.announce = watchers[0].message
    work = [run_exposure(prepared, watcher) for prepared, watcher in zip(runs, watchers, strict=True)]
    try:
        results: list[Result] = interruptible.run(run_together(work))
    except KeyboardInterrupt:
        for prepared, watcher in zip(runs, watchers, strict=True):
            click.echo(f"tsostream: interrupted: {how_far(prepared, watcher)}", err=True)
        return []
    for result, watcher in zip(results, watchers, strict=True):
        if not quiet:
            said = summarise(result, watcher, look_at_rows(result.out))
            console.print(f"{result.out.name}: {said}", soft_wrap=not console.is_terminal)
        click.echo(str(result.out))
    return results


def _run(prepared: Prepared, console: Console, interruptible: Interruptible, *, quiet: bool) -> Result | None:
    """Run one exposure; None when it was interrupted."""
    from tsostream.cli.meter import Meter
    from tsostream.cli.report import memory_text
    from tsostream.cli.summary import how_far, log_counts, look_at_rows, summarise
    from tsostream.cli.watching import make_watcher
    from tsostream.errors import TsoStreamError
    from tsostream.run.stream import run_exposure

    exposure = prepared.exposure
    logger.info("plan: %s", memory_text(prepared.plan))
    there = sum(segment.count for segment in exposure.segments)
    size = sum(segment.size for segment in exposure.segments) / max(there, 1)
    watcher = make_watcher(Meter(size), console, quiet=quiet)
    interruptible.announce = watcher.message
    logger.info("%s: integrations %d-%d into %s", exposure.label, exposure.first, exposure.last, prepared.out)
    try:
        with watcher.watching():
            result: Result = interruptible.run(run_exposure(prepared, watcher))
    except KeyboardInterrupt:
        click.echo(f"tsostream: interrupted: {how_far(prepared, watcher)}", err=True)
        logger.warning("interrupted: %s", how_far(prepared, watcher), extra={"file_only": True})
        return None
    except TsoStreamError:
        if watcher.meter.stage == "stream":
            click.echo(f"tsostream: {how_far(prepared, watcher)}", err=True)
        raise
    rows = look_at_rows(result.out)
    summary = summarise(result, watcher, rows)
    logger.info("%s", summary)
    log_counts(result, rows)
    if not quiet:
        console.print(summary, soft_wrap=not console.is_terminal)
    return result
