"""``tsostream replay``: segments arrive once more at their own pace, or regression cases are run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import click

from tsostream.cli.options import (
    Grouped,
    apply_options,
    grouped,
    inputs_argument,
    level_option,
    overwrite_option,
    quiet_option,
)

__all__ = ["replay"]

EXAMPLES: Final = """
tsostream replay archive/ --into incoming/ --speed 100
tsostream replay archive/ --into incoming/ --speed 100 --faults late,truncate,duplicate --seed 3
tsostream replay replay/
tsostream replay replay/nirspec_bots --run uncal --update
tsostream replay lc.arrow --against jw01366-o003_t001_nirspec_x1dints.fits
"""


class _Speed(click.ParamType):
    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            speed = float(value)
        except ValueError:
            speed = math.nan
        if not speed > 0:
            self.fail(f"{value!r} is no speed: give a number above 0, or inf", param, ctx)
        return speed


_DIRECTORY: Final = click.Path(path_type=Path)

_ARRIVAL = (
    grouped("Arrival", "--into", type=_DIRECTORY, metavar="DIR",
            help="Directory the segments arrive in; made when absent."),
    grouped("Arrival", "--speed", type=_Speed(), default="1", show_default=True, metavar="X",
            help="Seconds of the observation per second; inf: as fast as it goes."),
    grouped("Arrival", "--arrival", type=click.Choice(["grow", "whole"]), default="grow", show_default=True,
            help="grow: a file grows with its integrations; whole: it is downloaded as .part after the last one."),
    grouped("Arrival", "--faults", default="", metavar="LIST",
            help="What goes wrong, separated by commas: late, out-of-order, duplicate, truncate, stall, replace, "
            "missing; or all (without missing)."),
    grouped("Arrival", "--seed", type=int, default=0, show_default=True, help="Another seed, other faults."),
    overwrite_option("Write over segments that are in --into already.", "Arrival"),
    level_option("Arrival"),
)  # fmt: skip
_CASES = (
    grouped("Cases", "--update", is_flag=True, help="Make the baselines anew; prints lines for the commit message."),
    grouped("Cases", "--run", metavar="NAME", help="Only this run of the cases."),
    grouped("Cases", "--tolerant", is_flag=True,
            help="Compare within the tolerances also on the type of processor the baselines were made on."),
    grouped("Cases", "--work", type=_DIRECTORY, metavar="DIR",
            help="Keep inputs and outputs here [default: a directory that is removed]."),
    grouped("Cases", "--pictures", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".",
            metavar="DIR", help="Where pictures of what moved go [default: here]."),
)  # fmt: skip
_OTHERS = (
    grouped("Other pipelines", "--against", type=_DIRECTORY, metavar="FILE",
            help="Compare with a product: x1dints.fits, whtlt.ecsv, phot.ecsv of jwst, HDF5 of Eureka!. INPUT may then "
            "also be light curves."),
    grouped("Other pipelines", "--tolerance", type=click.FloatRange(0), metavar="PPM",
            help="Exit code 1 when the white light differs by more (root mean square)."),
)  # fmt: skip


def _options(function: Any) -> Any:
    return apply_options(function, (*_ARRIVAL, *_CASES, *_OTHERS, quiet_option()))


@click.command("replay", cls=Grouped, examples=EXAMPLES)
@inputs_argument
@_options
@click.pass_context
def replay(
    ctx: click.Context,
    inputs: tuple[str, ...],
    into: Path | None,
    against: Path | None,
    tolerance: float | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Replay archived exposures: as segments that arrive, or as regression cases.

    With --into, INPUT is segment files, a directory or an association. Each file grows in DIR integration by
    integration by the times in its INT_TIMES, --speed times as fast; --faults lets go wrong what goes wrong. For
    trying out programs that watch a directory, ours and others'.

    Without, INPUT is folders of cases: a recipe (case.yaml), baseline rows, tolerances. Each is run, and the columns
    that moved are told, by how much and from which integration on. On the type of processor the baseline was made on
    every bit must be the same.

    \b
    Exit codes: 0 all the same; 1 a regression; 2 a problem found before the start; 130 interrupted.
    """  # noqa: D301 - click looks for the backspace itself
    names = ("update", "run", "tolerant", "work", "pictures")
    for_cases = {name: chosen.pop(name) for name in names}
    if into is not None:
        if against is not None or for_cases["update"]:
            raise click.UsageError("--into feeds segments; it does not go with --update or --against")
        _feed(inputs, into.expanduser(), quiet=quiet, **chosen)
        return
    if against is not None and for_cases["update"]:
        raise click.UsageError("--update makes baselines of our own rows; it does not go with --against")
    from tsostream.cli.cases import Chosen, replay_against, replay_cases
    from tsostream.cli.watching import make_console

    console = make_console(stderr=False)
    console.quiet = quiet
    paths = [Path(one).expanduser() for one in inputs]
    if against is not None:
        good = replay_against(console, paths, against.expanduser(), Chosen(**for_cases), tolerance)
    else:
        good = replay_cases(console, paths, Chosen(**for_cases))
    if not good:
        from tsostream.cli.failures import FAILED

        ctx.exit(FAILED)


def _feed(
    inputs: tuple[str, ...],
    into: Path,
    *,
    speed: float,
    arrival: Any,
    faults: str,
    seed: int,
    overwrite: bool,
    level: Any,
    quiet: bool,
) -> None:
    from tsostream.files import find_exposures
    from tsostream.live.figures import duration
    from tsostream.replay.feed import check_target, feed
    from tsostream.replay.schedule import make_schedule, parse_faults, total_seconds

    names = parse_faults(faults)
    exposures = find_exposures(inputs, level=level)
    transfers = make_schedule(exposures, faults=names, seed=seed, arrival=arrival)
    check_target(transfers, into, overwrite=overwrite)
    if not quiet:
        seconds = total_seconds(transfers)
        took = duration(seconds / speed) if math.isfinite(speed) else "no time"
        click.echo(f"{len(transfers)} transfers, {duration(seconds)} of observation in {took}", err=True)

    def say(at: float, text: str) -> None:
        if not quiet:
            click.echo(f"{duration(at):>9}  {text}", err=True)

    feed(transfers, into, speed=speed, say=say)
