"""Products of the whole exposure (``x1dints, whtlt, phot``): who feeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.files import Exposure, sky_coordinates
from tsostream.integration.payload import Measurement
from tsostream.run.order import STATUS
from tsostream.run.prepared import Prepared
from tsostream.run.versions import package_versions
from tsostream.sinks.products import (
    ExposureHeader,
    MeasuredProducts,
    MeasuredSpec,
    Resumed,
)

__all__ = ["attach_measured", "sky_tap"]


def sky_tap(exposure: Exposure, place: tuple[float, float]) -> Callable[[Measurement], None] | None:
    """Make a function that adds ``ra`` and ``dec`` of the aperture to what is measured.

    Parameters
    ----------
    exposure
        Of images; the coordinate system of its first file is used.
    place
        x and y of an aperture that stands still [px].

    Returns
    -------
    callable or None
        None where the files hold no coordinate system, or the extra ``wcs`` is not installed: then both stay NaN.

    Raises
    ------
    ConfigError
        The coordinate system cannot be used.
    """
    locate = None if exposure.info.is_ramp else sky_coordinates(exposure.segments[0].path)
    if locate is None:
        return None

    def fill(measurement: Measurement) -> None:
        shape = (measurement.count, len(measurement.keys))
        x, y = (
            np.asarray(measurement.extras.get(name, np.full(shape, where)))
            for name, where in zip(("aperture_x", "aperture_y"), place, strict=True)
        )
        if measurement.columns:
            measurement.columns["ra"], measurement.columns["dec"] = locate(x, y)

    return fill


@contextmanager
def attach_measured(
    prepared: Prepared,
    start: Mapping[str, Any],
    measuring: Any,
    resume: Resumed | None = None,
    *,
    overwrite: bool = False,
) -> Iterator[MeasuredProducts]:
    """Open the products for as long as the block lasts.

    Parameters
    ----------
    prepared
        The run.
    start
        Metadata of the light curve.
    measuring
        The bound step that measures.
    resume
        What an earlier session has done.
    overwrite
        Replace products of an older run.

    Yields
    ------
    MeasuredProducts
        Feed it by `add`; publish it when the run is complete, otherwise the files stay as ``.part``.
    """
    exposure, plan = prepared.exposure, prepared.products
    paths = {one.kind: one.path for one in plan.measured} if plan is not None else {}
    orders = sorted({order for order, _ in measuring.keys}) if exposure.info.is_spectroscopy else []
    spec = MeasuredSpec(
        paths=paths,
        metadata=start,
        first=exposure.first,
        count=exposure.last - exposure.first + 1,
        orders=orders,
        segments=[
            (one.first, one.segment_number or number) for number, one in enumerate(exposure.segments, 1)
        ],
        header=ExposureHeader(
            Path(exposure.segments[0].path),
            {"CAL_VER": f"tsostream {package_versions()['tsostream']}"},
            _sections(prepared),
        ),
        cards={order: _cards(prepared, measuring, order) for order in orders},
        parity=prepared.request.parity is not None,
        background_unit=getattr(measuring, "background_unit", ""),
    )
    products = MeasuredProducts(spec, overwrite=overwrite, resume=resume)
    products.check_kept()
    try:
        yield products
    finally:
        products.close()


def _sections(prepared: Prepared) -> dict[str, dict[str, str]]:
    """Title -> keyword -> value: the steps that ran."""
    done = {STATUS[one.name]: "COMPLETE" for one in prepared.config.operators if one.name in STATUS}
    return {"Calibration step information": done}


def _cards(prepared: Prepared, measuring: Any, order: int) -> dict[str, Any]:
    """Keywords of an EXTRACT1D table, as far as they are known."""
    info = prepared.exposure.info
    header = info.header
    cards: dict[str, Any] = {
        "SLTNAME": header.get("SLTNAME") or header.get("FXD_SLIT") or info.exp_type,
        "SPORDER": order,
        "DISPAXIS": info.dispaxis,
        "DETECTOR": info.detector,
        "SRCTYPE": header.get("SRCTYPE") or header.get("SRCTYAPT"),
    }
    cards |= {key: header.get(key) for key in ("SLIT_RA", "SLIT_DEC", "SOURCEID", "SRCXPOS", "SRCYPOS")}
    aperture = getattr(measuring, "aperture", None)
    if order == measuring.keys[0][0] and aperture is not None:
        cards |= _limits(measuring.pixeldq.shape, aperture.pixel)
    return {key: _plain(value) for key, value in cards.items() if value is not None and value != ""}


def _limits(shape: tuple[int, int], pixel: np.ndarray) -> dict[str, int]:
    """Reach of the default aperture, 1-based as the official tables have it."""
    if not pixel.size:
        return {}
    rows, columns = np.unravel_index(pixel, shape)
    return {
        "EXTRXSTR": int(columns.min()) + 1,
        "EXTRXSTP": int(columns.max()) + 1,
        "EXTRYSTR": int(rows.min()) + 1,
        "EXTRYSTP": int(rows.max()) + 1,
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
