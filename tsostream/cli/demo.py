"""``tsostream demo``: the whole way in half a minute, without any data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tsostream.cli.options import Grouped, grouped, overwrite_option

if TYPE_CHECKING:
    from rich.console import Console

    from tsostream.cli.interruption import Interruptible
    from tsostream.simulate import SimulatedExposure

__all__ = ["demo"]

FOLDER: Final = Path("tsostream-demo")
DEPTH: Final = 0.015

EXAMPLES: Final = """
tsostream demo
tsostream demo --out try --ints 300 --seed 5
"""


@click.command("demo", cls=Grouped, examples=EXAMPLES)
@grouped(
    "Output",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Directory for everything [default: {FOLDER}, which is made anew each time].",
)
@overwrite_option("Replace a demo that is in --out already.")
@grouped(
    "Exposure",
    "--ints",
    type=click.IntRange(10),
    default=160,
    show_default=True,
    metavar="N",
    help="Integrations.",
)
@grouped(
    "Exposure",
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="S",
    help="Another seed, other noise.",
)
@click.pass_context
def demo(ctx: click.Context, out: Path | None, overwrite: bool, ints: int, seed: int) -> None:
    """Simulate a small transit, reduce it, show the light curve.

    A NIRSpec BrightObj exposure (PRISM, SUB512) of three segments with known depth is written in the
    archive's format with its reference files, then reduced exactly as real data are. The result is drawn here
    and as demo.png, and compared with what was injected. The very first run compiles the kernels, which takes
    a minute or two on an idle machine, more on a busy one.
    """
    from tsostream.cli.failures import INTERRUPTED
    from tsostream.cli.interruption import Interruptible
    from tsostream.cli.logs import logging_to
    from tsostream.cli.watching import make_console

    folder = FOLDER if out is None else out.expanduser()
    with logging_to(None, None), Interruptible() as interruptible:
        console = make_console()
        from tsostream.cli.simulation import process_command, simulate_watched

        console.print(f"1. Simulating {ints} integrations of a transit into {folder}", style="bold")
        exposure = simulate_watched(
            console,
            "NRS_BRIGHTOBJ",
            folder,
            ints=ints,
            groups=5,
            segments=3,
            seed=seed,
            transit_depth=DEPTH,
            overwrite=overwrite or out is None,
        )
        console.print("2. Reducing it", style="bold")
        console.print(f"   {process_command(exposure)}", style="cyan", soft_wrap=True)
        if not _reduce(console, exposure, interruptible, overwrite=overwrite or out is None):
            ctx.exit(INTERRUPTED)
        console.print("3. Looking at it", style="bold")
        _show(console, exposure)


def _reduce(
    console: Console, exposure: SimulatedExposure, interruptible: Interruptible, *, overwrite: bool
) -> bool:
    from tsostream.cli.options import make_request
    from tsostream.cli.processing import run_all
    from tsostream.run.setup import prepare_all

    request = make_request(
        tuple(map(str, exposure.segments)),
        exposure.directory / "lc.arrow",
        refs_dir=exposure.directory,
        wavelengths=exposure.references.get("wavelength"),
        overwrite=overwrite,
    )
    return bool(run_all(prepare_all(request), console, interruptible, quiet=False))


def _show(console: Console, exposure: SimulatedExposure) -> None:
    """Draw the light curve here and as a picture, and say how well the depth came out."""
    from tsostream.cli.figure import save_figure
    from tsostream.cli.plot import draw
    from tsostream.cli.truth import compare
    from tsostream.sinks import open_output

    lc = open_output(exposure.directory / "lc.arrow")
    comparison = compare(lc, exposure.truth)
    width = max(40, min(console.width, 110) - 12)
    lines = draw(
        comparison.minutes,
        100 * comparison.flux,
        width=width,
        height=15,
        xlabel="minutes from mid-transit",
        ylabel="white light, relative flux [%]",
    )
    console.print()
    for line in lines:
        console.print(line, soft_wrap=True)
    picture = exposure.directory / "demo.png"
    save_figure(picture, lc, comparison, "A simulated transit, NIRSpec PRISM, reduced by tsostream")
    measured, error = 1e6 * comparison.depth, 1e6 * comparison.depth_error
    console.print()
    console.print(
        f"depth: measured {measured:.0f} ± {error:.0f} ppm, injected {1e6 * comparison.injected:.0f} ppm "
        f"({comparison.sigma:+.1f} sigma)",
        style="bold green" if abs(comparison.sigma) < 3 else "bold yellow",
        soft_wrap=True,
    )
    console.print(
        "light curve, spectra, picture, truth: lc.arrow, lc.spectra.arrow, demo.png, truth.arrow",
        soft_wrap=True,
    )
    console.print(
        f'in Python: tsostream.open("{exposure.directory / "lc.arrow"}").to_pandas()', soft_wrap=True
    )
    click.echo(str(picture))
