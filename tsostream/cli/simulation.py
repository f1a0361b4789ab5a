"""``tsostream simulate``: an exposure with known truth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tsostream.cli.options import Grouped, grouped

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.simulate import SimulatedExposure

__all__ = ["simulate_command", "simulate_watched"]

EXAMPLES: Final = """
tsostream simulate NRS_BRIGHTOBJ --ints 200 --segments 3 --out sim/
tsostream simulate NRC_TSIMAGE --subarray SUB160P --ints 100 --transit-depth 0.005 --seed 7 --out sim/
tsostream simulate NIS_SOSS --ints 20 --noise none --out sim/
"""


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
@grouped("Output", "--overwrite", is_flag=True, help="Replace a simulation that is there already.")
@grouped("Exposure", "--ints", type=int, default=40, show_default=True, metavar="N", help="Integrations.")
@grouped(
    "Exposure", "--groups", type=int, metavar="N", help="Groups per integration [default: the mode's usual]."
)
@grouped(
    "Exposure",
    "--segments",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Files to cut it into.",
)
@grouped(
    "Exposure", "--subarray", metavar="NAME", help="One of the mode's subarrays [default: the usual one]."
)
@grouped(
    "Exposure",
    "--seed",
    type=int,
    default=1,
    show_default=True,
    metavar="S",
    help="The same seed gives the same pixels, however the exposure is cut.",
)
@grouped("Exposure", "--nx", type=int, metavar="N", help="Cut the subarray to this width around the source.")
@grouped("Exposure", "--ny", type=int, metavar="N", help="Cut the subarray to this height around the source.")
@grouped(
    "Source",
    "--transit-depth",
    type=float,
    default=0.01,
    show_default=True,
    metavar="D",
    help="Depth of the white light.",
)
@grouped(
    "Source",
    "--scene",
    type=click.Path(path_type=Path),
    metavar="FITS",
    help="Median image (MEDFLUX or SCI) to use as the source.",
)
@grouped(
    "Source",
    "--peak",
    type=float,
    default=0.75,
    show_default=True,
    metavar="F",
    help="Brightest pixel at the end of a ramp, relative to full well.",
)
@grouped(
    "Noise and systematics",
    "--noise",
    type=click.Choice(["full", "none"]),
    default="full",
    show_default=True,
    help="none: expectation values without any noise.",
)
@grouped(
    "Noise and systematics",
    "--oof",
    type=float,
    metavar="DN",
    help="1/f noise per frame [default: the instrument's]; 0: none.",
)
@grouped(
    "Noise and systematics",
    "--cosmic-rays",
    type=float,
    metavar="RATE",
    help="Hits per pixel and second [default: the rate at L2]; 0: none.",
)
@grouped(
    "Noise and systematics",
    "--jitter",
    type=float,
    metavar="PX",
    help="Pointing jitter per integration and axis.",
)
@grouped(
    "Noise and systematics",
    "--drift",
    type=float,
    metavar="PX",
    help="Movement over the exposure along x and y.",
)
@grouped(
    "Noise and systematics",
    "--tilt",
    type=int,
    metavar="INT",
    help="Integration from which the mirror is tilted.",
)
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
