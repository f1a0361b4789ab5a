"""``tsostream simulate``: an exposure with known truth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tsostream.cli.options import Grouped, apply_options, grouped, overwrite_option

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.simulate import SimulatedExposure

__all__ = ["simulate_command", "simulate_watched"]

EXAMPLES: Final = """
tsostream simulate NRS_BRIGHTOBJ --ints 200 --segments 3 --out sim/
tsostream simulate NRC_TSIMAGE --subarray SUB160P --ints 100 --transit-depth 0.005 --seed 7 --out sim/
tsostream simulate NIS_SOSS --ints 20 --noise none --out sim/
"""


#: what can be chosen: (flag, type, placeholder, default to show, help); defaults are those of `Settings`
_EXPOSURE = (
    ("--ints", int, "N", 40, "Integrations."),
    ("--groups", int, "N", None, "Groups per integration [default: the mode's usual]."),
    ("--segments", int, "N", 1, "Files to cut it into."),
    ("--subarray", str, "NAME", None, "One of the mode's subarrays [default: the usual one]."),
    ("--pupil", str, "NAME", None, "A weak lens in front of NIRCam's images: WLP4, WLP8, WLM8."),
    ("--seed", int, "S", 1, "The same seed gives the same pixels, however the exposure is cut."),
    ("--nx", int, "N", None, "Cut the subarray to this width around the source."),
    ("--ny", int, "N", None, "Cut the subarray to this height around the source."),
)
_SOURCE = (
    ("--transit-depth", float, "D", 0.01, "Depth of the white light."),
    (
        "--scene",
        click.Path(path_type=Path),
        "FITS",
        None,
        "Median image (MEDFLUX or SCI) to use as the source.",
    ),
    ("--peak", float, "F", 0.75, "Brightest pixel at the end of a ramp, relative to full well."),
)
_NOISE = (
    ("--noise", click.Choice(["full", "none"]), None, "full", "none: expectation values without any noise."),
    ("--oof", float, "DN", None, "1/f noise per frame [default: the instrument's]; 0: none."),
    ("--cosmic-rays", float, "RATE", None, "Hits per pixel and second [default: the rate at L2]; 0: none."),
    ("--jitter", float, "PX", None, "Pointing jitter per integration and axis."),
    ("--drift", float, "PX", None, "Movement over the exposure along x and y."),
    ("--tilt", int, "INT", None, "Integration from which the mirror is tilted."),
)


def _settings(function: Any) -> Any:
    """Take what can be chosen."""
    found = [
        grouped(
            group,
            flag,
            type=kind,
            metavar=shown,
            default=default,
            show_default=default is not None,
            help=text,
        )
        for group, table in (("Exposure", _EXPOSURE), ("Source", _SOURCE), ("Noise and systematics", _NOISE))
        for flag, kind, shown, default, text in table
    ]
    return apply_options(function, found)


@click.command("simulate", cls=Grouped, examples=EXAMPLES)
@click.argument("exp_type", metavar="EXP_TYPE")
@grouped(
    "Output",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory for segments, references and truth.arrow; made when absent.",
)
@overwrite_option("Replace a simulation that is there already.")
@_settings
def simulate_command(exp_type: str, out: Path, **chosen: Any) -> None:
    """Simulate a transit with known truth.

    EXP_TYPE is NRS_BRIGHTOBJ, NRC_TSGRISM, NIS_SOSS, MIR_LRS-SLITLESS, NRC_TSIMAGE or MIR_IMAGE.

    Writes uncal segments in the archive's format, the reference files that undo the simulated detector, and
    truth.arrow with what was injected, all into one directory. Memory does not grow with their length.
    """
    from tsostream.cli.interruption import Interruptible
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    with logging_to(None, None), Interruptible():
        exposure = simulate_watched(make_console(), exp_type, out.expanduser(), **chosen)
        click.echo("\n".join(str(path) for path in (*exposure.segments, exposure.truth)))
        click.echo(f"reduce it with: {process_command(exposure)}", err=True)


def process_command(exposure: SimulatedExposure) -> str:
    """Spell the command that reduces a simulation."""
    where = shlex.quote(str(exposure.directory))
    command = f"tsostream process {where} --refs {where}"
    wavelength = exposure.references.get("wavelength")
    if wavelength is not None:
        command += f" --wavelengths {shlex.quote(str(wavelength))}"
    return f"{command} --out {shlex.quote(str(exposure.directory / 'lc.arrow'))}"


def simulate_watched(console: Console, exp_type: str, out: Path, **chosen: Any) -> SimulatedExposure:
    """Simulate with a progress bar, or on no terminal with a line."""
    from rich.progress import Progress

    from tsostream.simulate import simulate

    given = {name: value for name, value in chosen.items() if value is not None}
    if not console.is_terminal:

        def say(done: int, total: int) -> None:
            # not before: what is refused is not simulated
            if done == 0:
                console.print(f"simulating {total} integrations of {exp_type}", soft_wrap=True)

        return simulate(exp_type, out, progress=say, **given)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("simulating", total=chosen.get("ints"))
        return simulate(
            exp_type, out, progress=lambda done, total: bar.update(task, completed=done, total=total), **given
        )
