"""From the rows to the official tables: ``whtlt`` or ``phot`` (ECSV), ``x1dints`` (FITS)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tsostream.errors import InputError, Problem
from tsostream.sinks.export.rows import Source
from tsostream.sinks.products.measured import MeasuredProducts, MeasuredSpec
from tsostream.sinks.products.slabs import part_path
from tsostream.sinks.products.spectra import ExposureHeader

__all__ = ["write_product"]


def write_product(
    source: Source, kind: str, path: Path, *, aperture: int = 0, overwrite: bool = False
) -> None:
    """Write one of the products from the rows alone.

    Parameters
    ----------
    source
        The output.
    kind
        ``whtlt``, ``phot`` or ``x1dints``.
    path
        Where.
    aperture
        Which aperture.
    overwrite
        Replace what is there.

    Raises
    ------
    InputError
        When this kind of exposure has no such product.
    SinkError, OutputExistsError
        When it cannot be written.

    Notes
    -----
    Headers hold what the metadata of the output say. Columns of x1dints that the rows do not show (surface brightness,
    the parts of the background's variance) are NaN; `--products x1dints` during a run has them.
    """
    if (kind == "phot") != source.is_image:
        other = "phot" if source.is_image else "whtlt or x1dints"
        what = f"{source.metadata['exposure']['exp_type']} has no {kind}"
        raise InputError(Problem(what, str(source.light_curve.path), f"it has {other}", "parameter"))
    if kind == "x1dints" and source.light_curve.spectra is None:
        what = "the spectra are not beside the light curve"
        raise InputError(Problem(what, str(source.light_curve.path), "put them back", "missing"))
    metadata = source.metadata
    first, count = source.first, source.count
    source.check(None, aperture)
    orders = [] if source.is_image else source.orders
    exposure = metadata["exposure"]
    cards = {
        order: {"SPORDER": order, "DETECTOR": exposure["detector"], "SLTNAME": exposure["exp_type"]}
        for order in orders
    }
    spec = MeasuredSpec(
        paths={kind: path},
        metadata=_at_aperture(metadata, aperture),
        first=first,
        count=count,
        orders=orders,
        segments=[(one["intstart"], one["segment"]) for one in metadata["segments"]],
        header=ExposureHeader(None, _keywords(metadata, source.light_curve.status)),
        cards=cards,
    )
    products = MeasuredProducts(spec, overwrite=overwrite)
    try:
        for measurement in source.measurements(aperture):
            products.add(measurement)
        products.publish()
    except BaseException:
        # made from files that are still there: nothing to keep
        with suppress(OSError):
            part_path(path).unlink(missing_ok=True)
        raise
    finally:
        products.close()


def _at_aperture(metadata: dict[str, Any], aperture: int) -> dict[str, Any]:
    radii = metadata.get("aperture_radii")
    if not aperture or not isinstance(radii, list):
        return metadata
    # the area is known for the default aperture only
    return {**metadata, "radius": radii[aperture], "aperture_area": None}


def _keywords(metadata: dict[str, Any], status: str) -> dict[str, Any]:
    exposure = metadata["exposure"]
    keywords = {
        "CAL_VER": f"tsostream {metadata.get('versions', {}).get('tsostream', '')}".strip(),
        "TELESCOP": "JWST",
        "TSOVISIT": True,
        "TARGNAME": metadata.get("target_name", ""),
        "INSTRUME": exposure.get("instrument"),
        "DETECTOR": exposure.get("detector"),
        "CHANNEL": exposure.get("channel"),
        "FILTER": exposure.get("filter"),
        "PUPIL": exposure.get("pupil"),
        "GRATING": exposure.get("grating"),
        "EXP_TYPE": exposure.get("exp_type"),
        "READPATT": exposure.get("readpatt"),
        "SUBARRAY": exposure.get("subarray"),
        "NINTS": exposure.get("nints"),
        "NGROUPS": exposure.get("ngroups"),
        "TFRAME": exposure.get("frame_time"),
        "TGROUP": exposure.get("group_time"),
        "EFFINTTM": exposure.get("integration_time"),
    }
    if status != "complete":
        keywords["TSOSTAT"] = status
    return {key: value for key, value in keywords.items() if value not in (None, "")}
