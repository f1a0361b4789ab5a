"""Outputs in the formats of other tools, from the Arrow files alone: of finished, growing and killed runs alike.

============== ==================================================================== =====================
format         what                                                                 memory
============== ==================================================================== =====================
``whtlt``      white light curve, ECSV, official columns and errors                 constant
``phot``       photometric catalogue, ECSV, official columns                        constant
``x1dints``    spectra, FITS, official layout                                       constant
``csv``        the rows as text                                                     constant
``parquet``    the rows, with units and metadata                                    constant
``timeseries`` astropy TimeSeries, ECSV                                             constant
``lightkurve`` light curve, FITS, names lightkurve knows                            constant
``eureka``     HDF5 for stage 4 of Eureka! (extra ``export``)                       constant
============== ==================================================================== =====================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem
from tsostream.sinks.export.rows import Source

if TYPE_CHECKING:
    from tsostream.sinks.reading import LightCurve

__all__ = ["FORMATS", "Exports", "Format", "default_path", "export"]

Format = Literal["whtlt", "phot", "x1dints", "csv", "parquet", "timeseries", "lightkurve", "eureka"]

FORMATS: Final[tuple[str, ...]] = get_args(Format)
#: format -> end of the file's name
_ENDS: Final = {
    "whtlt": "_whtlt.ecsv", "phot": "_phot.ecsv", "x1dints": "_x1dints.fits", "csv": ".csv", "parquet": ".parquet",
    "timeseries": ".timeseries.ecsv", "lightkurve": ".lightkurve.fits", "eureka": ".eureka.h5",
}  # fmt: skip


def default_path(light_curve: Path, format: str, table: str = "light_curve") -> Path:  # noqa: A002 - what it is
    """``lc.arrow`` -> ``lc.csv``, ``lc_whtlt.ecsv``, …, beside it."""
    stem = light_curve.stem if table == "light_curve" else f"{light_curve.stem}.{table}"
    return light_curve.with_name(f"{stem}{_ENDS[format]}")


def export(
    light_curve: LightCurve,
    format: str,  # noqa: A002 - what it is
    path: Path | None = None,
    *,
    order: int | None = None,
    aperture: int | None = None,
    table: str = "light_curve",
    overwrite: bool = False,
) -> Path:
    """Write an output in another format.

    Parameters
    ----------
    light_curve
        The opened output; what has come since it was opened is not in it.
    format
        One of `FORMATS`.
    path
        Where; by default beside the light curve.
    order
        Spectral order: of formats that hold one series, by default the first; of CSV and Parquet the rows to write, by
        default all. The official tables hold all orders.
    aperture
        Aperture; by default 0, of CSV and Parquet all.
    table
        ``light_curve``, ``spectra`` or ``bins``, for CSV and Parquet.
    overwrite
        Replace what is there.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ConfigError
        There is no such format.
    InputError
        The output does not have what is asked for, or is the file to be written.
    OutputExistsError
        The file is there already.
    SinkError
        It cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(
            Problem(
                f"there is no format {format!r}", todo=f"choose from {', '.join(FORMATS)}", code="parameter"
            )
        )
    source = Source(light_curve)
    path = default_path(light_curve.path, format, table) if path is None else Path(path)
    _check(path, light_curve, overwrite=overwrite)
    if format in ("whtlt", "phot", "x1dints"):
        from tsostream.sinks.export.official import write_product

        if order is not None:
            what = f"{format} holds all orders"
            raise ConfigError(Problem(what, "--order", "leave it out, or take another format", "parameter"))
        write_product(source, format, path, aperture=aperture or 0, overwrite=overwrite)
        return path
    from tsostream.sinks.export import plain

    if format in ("csv", "parquet"):
        (plain.write_csv if format == "csv" else plain.write_parquet)(
            source, path, table, order=order, aperture=aperture
        )
        return path
    key = source.check(order, aperture or 0)
    if format == "timeseries":
        plain.write_timeseries(source, path, key)
    elif format == "lightkurve":
        plain.write_lightkurve(source, path, key, overwrite=overwrite)
    else:
        from tsostream.sinks.export.eureka import write_eureka

        write_eureka(source, path, key)
    return path


def _check(path: Path, light_curve: LightCurve, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        what = "the directory does not exist"
        raise InputError(Problem(what, str(path.parent), "make it, or choose another --out", "unwritable"))
    if not path.exists():
        return
    ours = [one.path for one in (light_curve, light_curve.spectra, light_curve.bins) if one is not None]
    if path.is_dir() or any(path.samefile(one) for one in ours):
        raise OutputExistsError(Problem("is what is exported", str(path), "choose another --out", "exists"))
    if not overwrite:
        todo = "choose another --out, or give --overwrite to replace it"
        raise OutputExistsError(Problem("exists already", str(path), todo, "exists"))


class Exports:
    """What a light curve can be turned into; each method is a format of ``tsostream export``.

    The arguments are those of `export`.
    """

    def export(self: Any, format: str, path: str | Path | None = None, **options: Any) -> Path:  # noqa: A002
        """Write the output in another format; see `tsostream.sinks.export.export`."""
        return export(self, format, None if path is None else Path(path), **options)

    def to_whtlt(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the white light curve as ECSV, with the official columns and errors."""
        return self.export("whtlt", path, **options)

    def to_phot(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the photometric catalogue as ECSV, with the official columns."""
        return self.export("phot", path, **options)

    def to_x1dints(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the spectra as FITS, in the official layout."""
        return self.export("x1dints", path, **options)

    def to_csv(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the rows as comma-separated text."""
        return self.export("csv", path, **options)

    def to_parquet(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the rows as Parquet."""
        return self.export("parquet", path, **options)

    def to_eureka(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the HDF5 that stage 4 of Eureka! reads."""
        return self.export("eureka", path, **options)

    def to_timeseries(self: Any, *, order: int | None = None, aperture: int = 0) -> Any:
        """Give a series as an `astropy.timeseries.TimeSeries`, in memory."""
        from tsostream.sinks.export.plain import make_timeseries, timeseries_columns

        source = Source(self)
        key = source.check(order, aperture)
        return make_timeseries(source, _joined(source, key), timeseries_columns(source), key)

    def to_lightkurve(self: Any, *, order: int | None = None, aperture: int = 0) -> Any:
        """Give a series as a ``lightkurve.LightCurve``, in memory (extra ``lightkurve``).

        Raises
        ------
        InputError
            When lightkurve is not installed.
        """
        from importlib.util import find_spec

        if find_spec("lightkurve") is None:
            todo = (
                "pip install 'tsostream[lightkurve]', or write a FITS light curve with export('lightkurve')"
            )
            raise InputError(Problem("lightkurve is not installed", todo=todo, code="missing_package"))
        import lightkurve

        series = self.to_timeseries(order=order, aperture=aperture)
        names = {"x": "centroid_col", "y": "centroid_row", "background": "sap_bkg"}
        data = {names.get(name, name): series[name] for name in series.colnames if name != "time"}
        curve = lightkurve.LightCurve(time=series.time, data=data)
        curve.meta.update({**series.meta, "LABEL": series.meta["target"] or series.meta["exposure"]})
        return curve


def _joined(source: Source, key: tuple[int, int]) -> dict[str, Any]:
    import numpy as np

    pieces = list(source.pieces(key))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
