"""``tsostream export``: outputs in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from tsostream.cli.options import Grouped, grouped, overwrite_option

__all__ = ["export_command"]

FORMATS: Final = ("whtlt", "phot", "x1dints", "csv", "parquet", "timeseries", "lightkurve", "eureka")
EXAMPLES: Final = """
tsostream export lc.arrow --to whtlt
tsostream export lc.arrow --to x1dints --out spectra.fits
tsostream export lc.arrow --to csv --table spectra
tsostream export lc.arrow --to eureka --out S3_SpecData.h5
"""
_PATH = click.Path(path_type=Path)


@click.command("export", cls=Grouped, examples=EXAMPLES)
@click.argument("light_curve", metavar="LC.ARROW", type=_PATH)
@grouped("What", "--to", "format_", required=True, type=click.Choice(FORMATS), metavar="FORMAT",
         help="whtlt, phot, x1dints: the official tables. csv, parquet: the rows. timeseries: astropy's, as ECSV. "
         "lightkurve: a FITS light curve. eureka: the HDF5 that stage 4 of Eureka! reads.")  # fmt: skip
@grouped(
    "What",
    "--order",
    type=int,
    metavar="N",
    help="Spectral order: the series of timeseries, lightkurve and eureka [default: the first], the rows of csv and "
    "parquet [default: all].",
)
@grouped(
    "What", "--aperture", type=int, metavar="N", help="Aperture, likewise [default: 0; csv, parquet: all]."
)
@grouped("What", "--table", type=click.Choice(("light_curve", "spectra", "bins")), default="light_curve",
         metavar="TABLE", help="light_curve, spectra or bins, for csv and parquet [default: light_curve].")  # fmt: skip
@grouped(
    "Output", "--out", type=_PATH, metavar="FILE", help="What to write [default: beside the light curve]."
)
@overwrite_option("Replace an existing file.")
def export_command(
    light_curve: Path,
    format_: str,
    order: int | None,
    aperture: int | None,
    table: str,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Write an output in the format of another tool.

    Works from the Arrow files alone, of finished, growing and killed runs; what it found is said. Exit codes: 0 done;
    2 the output does not have what is asked for, or the file is there already.
    """
    from tsostream.cli.watching import make_console
    from tsostream.sinks import open_output
    from tsostream.sinks.export import export

    lc = open_output(light_curve)
    if lc.status != "complete":
        so_far = {"growing": "is not finished (being written, or its writer was killed)"}.get(
            lc.status, f"ended as {lc.status}"
        )
        make_console().print(f"{light_curve} {so_far}: what is whole so far is exported")
    path = export(lc, format_, out, order=order, aperture=aperture, table=table, overwrite=overwrite)
    click.echo(str(path))
