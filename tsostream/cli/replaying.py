"""``tsostream replay``: segments arrive once more, at their own pace."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, get_args

import click

from tsostream.cli.options import Grouped, grouped
from tsostream.integration.exposure_info import Level

__all__ = ["replay"]

EXAMPLES: Final = """
tsostream replay archive/ --into incoming/ --speed 100
tsostream replay archive/ --into incoming/ --speed 100 --faults late,truncate,duplicate --seed 3
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


@click.command("replay", cls=Grouped, examples=EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@grouped(
    "Arrival",
    "--into",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory the segments arrive in; made when absent.",
)
@grouped(
    "Arrival",
    "--speed",
    type=_Speed(),
    default="1",
    show_default=True,
    metavar="X",
    help="Seconds of the observation per second; inf: as fast as it goes.",
)
@grouped(
    "Arrival",
    "--arrival",
    type=click.Choice(["grow", "whole"]),
    default="grow",
    show_default=True,
    help="grow: a file grows with its integrations; whole: it is downloaded as .part after the last one.",
)
@grouped(
    "Arrival",
    "--faults",
    default="",
    metavar="LIST",
    help="What goes wrong, separated by commas: late, out-of-order, duplicate, truncate, stall, replace, "
    "missing; or all (without missing).",
)
@grouped("Arrival", "--seed", type=int, default=0, show_default=True, help="Another seed, other faults.")
@grouped("Arrival", "--overwrite", is_flag=True, help="Write over segments that are in --into already.")
@grouped(
    "Arrival",
    "--level",
    type=click.Choice(get_args(Level)),
    metavar="LEVEL",
    help="Product level to use where a directory holds several.",
)
@grouped("What is said", "--quiet", "-q", is_flag=True, help="Nothing but errors.")
def replay(inputs: tuple[str, ...], into: Path | None, quiet: bool, **chosen: Any) -> None:
    """Let archived segments arrive in a directory at the pace they were observed.

    INPUT is segment files, a directory or an association. Each file grows integration by integration by the times
    in its INT_TIMES, --speed times as fast; --faults lets go wrong what goes wrong. For trying out programs that
    watch a directory, ours and others'.
    """
    if into is None:
        raise click.UsageError("give --into DIR")
    _feed(inputs, into.expanduser(), quiet=quiet, **chosen)


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
