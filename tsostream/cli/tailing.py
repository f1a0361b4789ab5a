"""``tsostream tail``: a light curve is watched while it grows, by people or by programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tsostream.cli.options import Grouped, grouped

if TYPE_CHECKING:
    from tsostream.live.follow import Follower
    from tsostream.live.text import Writer

__all__ = ["tail"]

EXAMPLES: Final = """
tsostream tail lc.arrow
tsostream tail lc.arrow --wait --json | jq .flux
tsostream tail lc.arrow --csv --rows 0 >> new.csv
"""

#: batches read at once, so that a long file takes no memory
BATCHES: Final = 64
#: how each end of a run is told, and the exit code
SENTENCES: Final = {
    "complete": ("the run is complete", 0),
    "interrupted": ("the run was interrupted", 1),
    "failed": ("the run failed", 1),
    "died": ("whoever wrote it died without ending the file; its rows are readable as they are", 1),
}


@click.command("tail", cls=Grouped, examples=EXAMPLES)
@click.argument("path", metavar="LC.ARROW", type=click.Path(path_type=Path))
@grouped("What is shown", "--json", "style", flag_value="json", help="One JSON object per row, for pipes.")
@grouped("What is shown", "--csv", "style", flag_value="csv", help="Comma-separated rows, with a header.")
@grouped("What is shown", "--plain", "style", flag_value="plain", help="Lines of text, also in a terminal.")
@grouped(
    "What is shown",
    "--rows",
    "-n",
    type=click.IntRange(0),
    metavar="N",
    help="Of the rows that are there already, only the last N [default: all].",
)
@grouped("When", "--wait", is_flag=True, help="Wait for the file to appear.")
@grouped(
    "When",
    "--interval",
    type=click.FloatRange(0.02),
    default=0.25,
    show_default=True,
    metavar="SECONDS",
    help="How often the file is looked at, at most.",
)
@click.pass_context
def tail(
    ctx: click.Context, path: Path, style: str | None, rows: int | None, wait: bool, interval: float
) -> None:
    """Follow a light curve: its rows as they come, until the run ends.

    In a terminal it is drawn, with the scatter of the latest rows beside what photon and read noise expect, the rate,
    the time left and the flags so far. Elsewhere every row is a line; --json and --csv are for programs.

    Works on a file that is being written, one that is finished, and one whose writer died. The run does not notice.

    Exit codes: 0 the run is complete; 1 it was interrupted, failed or died; 2 no such file, or not a light curve;
    130 you stopped watching.
    """
    import sys

    from tsostream.live.follow import Follower
    from tsostream.live.pace import step_back
    from tsostream.live.text import make_writer

    path = path.expanduser()
    if not wait and not path.exists():
        _check_begun(path)
    step_back()
    follower = Follower(path, patient=wait)
    if style is None and sys.stdout.isatty():
        from tsostream.cli.terminal import watch

        watch(follower, interval)
    else:
        _print_rows(follower, make_writer(style or "plain"), rows, interval)
    sentence, code = SENTENCES[follower.state]
    if follower.schema is None:
        sentence = "the run ended before its first row"
    if follower.error and code:
        sentence += f" ({follower.error})"
    click.echo(f"tsostream: {path}: {sentence}", err=True)
    ctx.exit(code)


def _check_begun(path: Path) -> None:
    """Go on where a run has started and has no rows yet.

    Raises
    ------
    InputError
        There is no such run, or it ended before its first row.
    """
    from dataclasses import replace

    from tsostream.errors import InputError
    from tsostream.sinks import is_being_written, journal_path, missing_output

    if is_being_written(journal_path(path)):
        click.echo(f"tsostream: {path}: no rows yet: the run has started, its scout is measured", err=True)
    elif not path.exists():
        problem = missing_output(path)
        raise InputError(replace(problem, todo=f"{problem.todo}, or give --wait"))


def _print_rows(follower: Follower, writer: Writer, rows: int | None, interval: float) -> None:
    """Print rows until the run ends."""
    import time

    from tsostream.live.follow import ENDED
    from tsostream.live.pace import Pace

    pace = Pace(interval)
    kept: list | None = [] if rows is not None else None
    while True:
        batches = follower.poll(BATCHES)
        if kept is not None and batches:  # still reading what was there when we came
            kept = _last_rows([*kept, *batches], rows or 0)
        elif batches:
            writer.write(batches)
        else:
            if kept is not None and follower.state != "waiting":
                writer.write(kept)
                kept = None
            if follower.state in ENDED:
                return
            time.sleep(pace.rest(waiting=follower.state == "waiting"))


def _last_rows(batches: list, count: int) -> list:
    """Return the last rows of some batches."""
    kept: list = []
    for batch in reversed(batches):
        if count <= 0:
            break
        kept.insert(0, batch.slice(max(0, batch.num_rows - count)))
        count -= kept[0].num_rows
    return kept
