"""Products of the whole exposure (``x1dints, whtlt, phot``): who feeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsostream.files import EMPTY_TREE, portable_tree, read_tree
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement
from tsostream.run.chain import Chain
from tsostream.run.coordinates import system_of
from tsostream.run.order import all_steps
from tsostream.run.prepared import Prepared
from tsostream.run.product_headers import calibration_sections, general_keywords
from tsostream.sinks.products import (
    ExposureHeader,
    MeasuredProducts,
    MeasuredSpec,
    Resumed,
)

__all__ = ["attach_measured", "sky_tap"]

#: keywords of the images that their spectra have, too
_CARRIED: Final = ("PA_APER", "SOURCEID", "SRCXPOS", "SRCYPOS", "TA_XPOS", "TA_YPOS")


def sky_tap(
    prepared: Prepared, info: ExposureInfo, place: tuple[float, float]
) -> Callable[[Measurement], None] | None:
    """Make a function that adds ``ra`` and ``dec`` of the aperture to what is measured.

    Parameters
    ----------
    prepared
        The run; the coordinate system of its first file is used.
    info
        The images that are measured.
    place
        x and y of an aperture that stands still [px].

    Returns
    -------
    callable or None
        None where the files hold no coordinate system, or the extra ``wcs`` is not installed: then both stay NaN.
    """
    system = system_of(prepared, info)
    if system is None or system.n_inputs != 2:
        return None

    def fill(measurement: Measurement) -> None:
        shape = (measurement.count, len(measurement.keys))
        x, y = (
            np.asarray(measurement.extras.get(name, np.full(shape, where)))
            for name, where in zip(("aperture_x", "aperture_y"), place, strict=True)
        )
        found = system.sky(x, y)
        if measurement.columns and found is not None:
            measurement.columns["ra"], measurement.columns["dec"] = found

    return fill


@contextmanager
def attach_measured(
    prepared: Prepared,
    start: Mapping[str, Any],
    chain: Chain,
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
    chain
        The bound steps.
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
    measuring: Any = chain.measuring[0]
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
        header=_header(prepared, chain),
        cards=_cards(prepared, chain, orders) if "x1dints" in paths else {},
        parity=prepared.request.parity is not None,
        background_unit=getattr(measuring, "background_unit", ""),
    )
    products = MeasuredProducts(spec, overwrite=overwrite, resume=resume)
    products.check_kept()
    try:
        yield products
    finally:
        products.close()


def _header(prepared: Prepared, chain: Chain) -> ExposureHeader:
    """Say what the x1dints of an exposure is made from."""
    source = Path(prepared.exposure.segments[0].path)
    # stage 1 of a parity run hands over its slopes without steps: what they would be is the same
    steps = [*(chain.rates.steps or prepared.chain({}).steps), *chain.slopes.all, *chain.measuring]
    sections = calibration_sections(prepared, steps, all_steps(prepared.exposure.info))
    try:
        # a spectrum is no image: the coordinate system of the images is not its own
        tree = portable_tree(read_tree(source), without=("wcs",))
    except (OSError, ValueError, KeyError, TypeError):
        tree = EMPTY_TREE
    keywords = general_keywords(prepared) | _soss_keywords(prepared, chain.measuring[0])
    return ExposureHeader(source, keywords, sections, tree)


def _soss_keywords(prepared: Prepared, measuring: Any) -> dict[str, Any]:
    """Parameters of the extraction of SOSS orders under the official keywords (``meta.soss_extract1d``)."""
    step: Any = prepared.config.operator("extract_1d")
    orders = measuring.describe() if prepared.exposure.info.exp_type == "NIS_SOSS" else []
    if not orders or "overlap" not in orders[0]:
        return {}
    factor = orders[0]["tikhonov_factor"]
    # every file has its own in the segment scope; a product of the exposure tells that of the first
    factor = factor[0] if isinstance(factor, list) else factor
    known = {
        "SOSSWDTH": orders[0]["extract_width"],
        "OVERSAMP": step.soss_n_os,
        "THRESHLD": step.soss_threshold,
        "TIKFACTR": factor,
    }
    return {key: _plain(value) for key, value in known.items() if value is not None}


def _cards(prepared: Prepared, chain: Chain, orders: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Order -> keywords of its EXTRACT1D table, as far as they are known."""
    measuring: Any = chain.measuring[0]
    info = chain.slopes.info
    header = info.header
    common: dict[str, Any] = {
        "SLTNAME": header.get("SLTNAME") or header.get("FXD_SLIT") or info.exp_type,
        "DISPAXIS": info.dispaxis,
        "DETECTOR": info.detector,
        "SRCTYPE": header.get("SRCTYPE") or header.get("SRCTYAPT"),
    }
    common |= {key: header.get(key) for key in _CARRIED}
    pixel = _aperture_weights(measuring, chain.slopes.pixeldq.shape)
    cards = {order: {**common, "SPORDER": order} for order in orders}
    if pixel is not None:
        cards[measuring.keys[0][0]] |= _limits(pixel) | _place(prepared, info, pixel)
    return {
        order: {key: _plain(value) for key, value in one.items() if value is not None and value != ""}
        for order, one in cards.items()
    }


def _aperture_weights(measuring: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Weights of the default aperture, float64 [y, x]; None where it has none of its own."""
    series = getattr(measuring, "series", ())
    weight = getattr(series[0], "weight", None) if series else None
    if weight is None:
        return None
    weight = np.clip(np.asarray(weight, np.float64), 0.0, None)
    weight = weight.T if getattr(measuring, "along_y", False) else weight
    return weight if weight.shape == shape and weight.any() else None


def _place(prepared: Prepared, info: ExposureInfo, weight: np.ndarray) -> dict[str, float]:
    """Sky coordinates of the middle of the aperture."""
    system = system_of(prepared, info)
    rows, columns = np.indices(weight.shape)
    found = None
    if system is not None:
        found = system.sky(*(np.average(axis, weights=weight) for axis in (columns, rows)))
    if found is None or not np.isfinite(found).all():
        return {}
    return {"SLIT_RA": float(found[0]), "SLIT_DEC": float(found[1])}


def _limits(weight: np.ndarray) -> dict[str, int]:
    """Reach of an aperture [y, x], 1-based as the official tables have it."""
    rows, columns = np.nonzero(weight > 0)
    return {
        "EXTRXSTR": int(columns.min()) + 1,
        "EXTRXSTP": int(columns.max()) + 1,
        "EXTRYSTR": int(rows.min()) + 1,
        "EXTRYSTP": int(rows.max()) + 1,
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
