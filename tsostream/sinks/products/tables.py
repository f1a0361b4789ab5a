"""Columns of ``whtlt`` and ``phot``, and what they hold (spec stages 2-3, C.3, C.5, C.6).

Everything is said by the metadata of an output, so a run that makes the products and an export from its Arrow files
agree. Beyond the official columns, the white light carries its error (``errors=False`` leaves it out: parity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tsostream.sinks.products.ecsv import Column

__all__ = ["phot_columns", "phot_meta", "phot_values", "whtlt_columns", "whtlt_meta", "whtlt_values"]

Array = npt.NDArray[Any]

#: columns of the background, which photometry of a whole subarray does not have
_GROUND: Final = (
    "annulus_sum", "annulus_sum_err", "annulus_mean", "annulus_mean_err", "aperture_bkg", "aperture_bkg_err",
)  # fmt: skip
_NET: Final = ("net_aperture_sum", "net_aperture_sum_err")
_CENTROID: Final = ("centroid_x", "centroid_y", "psf_width_x", "psf_width_y")


def _suffix(metadata: Mapping[str, Any]) -> str:
    """Detector in the names of columns: always for NIRSpec, which has two."""
    exposure = metadata["exposure"]
    return f"_{exposure['detector'].upper()}" if exposure["instrument"] == "NIRSPEC" else ""


def whtlt_columns(metadata: Mapping[str, Any], orders: Sequence[int], *, errors: bool = True) -> list[Column]:
    """Columns of a white light curve.

    Parameters
    ----------
    metadata
        Of the light curve.
    orders
        Spectral orders, named in the columns where there are several.
    errors
        Whether each flux has its error.
    """
    end, unit = _suffix(metadata), metadata.get("flux_unit", "")
    columns = [Column(f"MJD_UTC{end}"), Column(f"BJD_TDB{end}")]
    for order in orders:
        part = f"_order_{order}" if len(orders) > 1 else ""
        columns.append(Column(f"whitelight_flux{part}{end}", unit))
        if errors:
            columns.append(Column(f"whitelight_flux_err{part}{end}", unit))
    return columns


def whtlt_values(
    metadata: Mapping[str, Any],
    orders: Sequence[int],
    times: Array,
    series: Mapping[int, tuple[Array, Array]],
) -> dict[str, Array]:
    """Values of some rows of a white light curve.

    Parameters
    ----------
    metadata, orders
        As for `whtlt_columns`.
    times : float64 [integration, 6]
        In the order of INT_TIMES [d].
    series
        Order -> flux and error, each [integration].
    """
    end = _suffix(metadata)
    values = {f"MJD_UTC{end}": times[:, 1], f"BJD_TDB{end}": times[:, 4]}
    for order in orders:
        part = f"_order_{order}" if len(orders) > 1 else ""
        if order in series:
            values[f"whitelight_flux{part}{end}"], values[f"whitelight_flux_err{part}{end}"] = series[order]
    return values


def _facts(metadata: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    exposure = metadata["exposure"]
    return {name: exposure.get(name) or None for name in names}


def whtlt_meta(metadata: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Say what stands above a white light curve."""
    return {
        **_facts(metadata, ("instrument", "exp_type", "subarray", "filter", "pupil")),
        "target_name": metadata.get("target_name") or None,
        "number_of_integrations": rows,
    }


def _whole_frame(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get("whole_frame"))


def phot_columns(metadata: Mapping[str, Any]) -> list[Column]:
    """Columns of a photometric catalogue, in the official order."""
    unit = metadata.get("flux_unit", "")
    ground = "" if _whole_frame(metadata) else unit
    columns = [
        Column("MJD"),
        Column("BJD_TDB"),
        Column("aperture_sum", unit),
        Column("aperture_sum_err", unit),
    ]
    columns += [Column(name, ground) for name in _GROUND]
    columns += [Column(name, unit) for name in _NET]
    columns += [Column("aperture_x", "pix"), Column("aperture_y", "pix")]
    columns += [Column("aperture_ra_icrs", "deg"), Column("aperture_dec_icrs", "deg")]
    if metadata.get("centroided", True):
        columns += [Column(name, "pix") for name in _CENTROID]
        columns.append(Column("psf_flux", unit))
    return columns


def phot_meta(metadata: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Say what stands above a photometric catalogue."""
    if _whole_frame(metadata):
        text = "Photometry measured as the sum of all values in the subarray.  No background subtraction was performed."
    else:
        radius = metadata.get("radius")
        first = radius[0] if isinstance(radius, list | tuple) else radius
        inner, outer = (metadata.get(name) for name in ("radius_inner", "radius_outer"))
        text = (
            f"Photometry measured in a circular aperture of r={_number(first)} pixels.  Background calculated as the "
            f"mean in a circular annulus with r_inner={_number(inner)} pixels and r_outer={_number(outer)} pixels."
        )
    return {
        **_facts(metadata, ("instrument", "detector", "channel", "subarray", "filter", "pupil")),
        "target_name": metadata.get("target_name") or None,
        "apertures": text,
        "number_of_integrations": rows,
    }


def _number(value: Any) -> str:
    return repr(float(value)) if value is not None else "?"


def phot_values(metadata: Mapping[str, Any], times: Array, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Values of some rows of a photometric catalogue.

    Parameters
    ----------
    metadata
        Of the light curve.
    times : float64 [integration, 6]
        In the order of INT_TIMES [d].
    columns
        Columns of the light curve, [integration]; those of the catalogue itself where the step knows them.

    Notes
    -----
    A run by default knows the net flux (lost pixels filled) and the background per pixel; with the areas of aperture
    and annulus the other sums follow.
    """
    area, annulus = (float(metadata.get(name) or np.nan) for name in ("aperture_area", "annulus_area"))
    ground, ground_error = columns["background"] * area, columns["background_err"] * area
    place = {name: np.full(len(times), _or_nan(metadata.get(name))) for name in ("x", "y")}
    values = {
        "MJD": times[:, 1],
        "BJD_TDB": times[:, 4],
        "aperture_sum": columns["flux"] + ground,
        "aperture_sum_err": np.sqrt(np.clip(columns["flux_err"] ** 2 - ground_error**2, 0.0, None)),
        "annulus_sum": columns["annulus_mean"] * annulus,
        "annulus_sum_err": columns["background_err"] * annulus,
        "annulus_mean": columns["annulus_mean"],
        "annulus_mean_err": columns["background_err"],
        "aperture_bkg": ground,
        "aperture_bkg_err": ground_error,
        "net_aperture_sum": columns["flux"],
        "net_aperture_sum_err": columns["flux_err"],
        "aperture_x": place["x"],
        "aperture_y": place["y"],
        "aperture_ra_icrs": columns["ra"],
        "aperture_dec_icrs": columns["dec"],
        "centroid_x": columns["x"],
        "centroid_y": columns["y"],
        "psf_width_x": columns["width_x"],
        "psf_width_y": columns["width_y"],
        "psf_flux": columns["psf_flux"],
    }
    return {name: columns.get(name, value) for name, value in values.items()}


def _or_nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
