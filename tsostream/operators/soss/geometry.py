"""Where the SOSS orders lie, and which wavelength each column has (spec stages 2-3, B.9).

A trace reference of today (PASTASOSS, Baines et al. 2023) tells the traces at the commanded position of the pupil
wheel; the wheel stops a little elsewhere at every visit, which turns the spectra about a pivot. The older SPECTRACE
tables hold traces that are not turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["OrderTrace", "box_weights", "order_wavelengths", "soss_traces", "trace_reference"]

#: SUBSTRIP256 begins at this row of the detector, SUBSTRIP96 ten rows higher (0-based)
FIRST_ROW = 1792
LAST_COLUMN = 2047
#: trace tables without a cutoff: columns with less than this fraction of the order's best throughput have no light
FAINTEST = 0.01


@dataclass(frozen=True)
class OrderTrace:
    """One order in the exposure's subarray.

    Parameters
    ----------
    order
        Spectral order.
    x, y, wavelength : float64 [point]
        The trace, 0-based subarray pixels and µm; x increases.
    cutoff
        Number of columns, from the red end, in which the order is extracted.
    throughput : float64 [2, point]
        Wavelength [µm] and throughput; empty when the reference has none.
    """

    order: int
    x: np.ndarray
    y: np.ndarray
    wavelength: np.ndarray
    cutoff: int
    throughput: np.ndarray

    def columns(self, nx: int) -> tuple[np.ndarray, np.ndarray]:
        """Position across [px] and wavelength [µm] of each column, float64 [x]; NaN from ``cutoff`` on."""
        # most exposures have no such traces, and scipy.interpolate takes a fifth of a second to load
        from scipy.interpolate import CubicSpline

        count = min(self.cutoff, nx)
        result = []
        for values in (self.y, self.wavelength):
            column = np.full(nx, np.nan)
            column[:count] = CubicSpline(self.x, values)(np.arange(count))
            result.append(column)
        return result[0], result[1]

    def pixel_wavelengths(self, nx: int) -> np.ndarray:
        """Wavelength of whole columns [µm], float64 [x]; NaN where the trace table does not reach.

        As officially there and back again: what the two interpolations differ by, mere rounding, is taken off once.
        """
        columns = np.arange(nx, dtype=np.float64)
        rising = np.argsort(self.wavelength, kind="stable")
        first = np.interp(columns, self.x, self.wavelength)
        back = np.interp(first, self.wavelength[rising], self.x[rising])
        at = columns - (back - columns)
        return np.interp(at, self.x, self.wavelength, left=np.nan, right=np.nan)


def _line(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate linearly, and go on straight beyond both ends; x in any order."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    k = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return y[k] + (at - x[k]) * ((y[k + 1] - y[k]) / (x[k + 1] - x[k]))


def _polynomial(coefficients: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Sum c_ij u^i v^j; coefficients by total degree, within one degree by rising power of v.

    Horner's scheme, in u within v: as officially, down to the last bit, on which the ends of the first estimate of the
    spectrum depend (`tsostream.operators.soss.overlap`).
    """
    degree = int(np.sqrt(2 * len(coefficients))) - 1
    total = np.zeros(np.broadcast(u, v).shape)
    for power in range(degree, -1, -1):
        inner = np.zeros_like(total)
        for total_degree in range(degree, power, -1):
            inner = u * (coefficients[total_degree * (total_degree + 1) // 2 + power] + inner)
        inner = coefficients[power * (power + 1) // 2 + power] + inner
        total = inner + total
        if power:
            total = v * total
    return total


def _wheel_offset(reference: Reference, info: ExposureInfo) -> float:
    """How far the pupil wheel is from its commanded position [degree]."""
    where = reference.path or reference.name
    position = info.header.get("PWCPOS")
    low, high = (float(reference.keywords[name]) for name in ("PWCPOS_MIN", "PWCPOS_MAX"))
    if not isinstance(position, int | float) or isinstance(position, bool):
        raise ConfigError(
            Problem("the header has no PWCPOS, so the turn of the traces is not known", info.exposure_id,
                    "give a spectrace table instead of the pastasoss reference", "pwcpos")
        )  # fmt: skip
    if not low <= position <= high:
        raise ReferenceMismatchError(
            Problem(f"PWCPOS is {position}, the trace reference holds from {low} to {high}", where,
                    "give a pastasoss reference for this position", "pwcpos")
        )  # fmt: skip
    return float(position) - float(reference.keywords["PWCPOS_CMD"])


def _pastasoss(reference: Reference, info: ExposureInfo) -> dict[int, OrderTrace]:
    """Turn the traces of a PASTASOSS reference, and put them on its uniform wavelength grid."""
    offset = _wheel_offset(reference, info)
    keys, arrays = reference.keywords, reference.arrays
    grid = np.linspace(keys["WAVEMAP_WLMIN"], keys["WAVEMAP_WLMAX"], int(keys["WAVEMAP_NWL"]))
    cos, sin = np.cos(np.radians(offset)), np.sin(np.radians(offset))
    traces = {}
    for order in keys["ORDERS"]:
        x, y = np.asarray(arrays[f"TRACE,{order}"], np.float64).T
        # the tables are in rows of SUBSTRIP256
        y = y - _rows(info)
        px, py = arrays[f"PIVOT,{order}"]
        turned = np.array([[cos, -sin], [sin, cos]]) @ np.stack([x - px, y - py])
        turned_x, turned_y = turned[0] + px, turned[1] + py
        y = _line(x, turned_x, turned_y)
        inside = y <= 255.0
        x, y = x[inside], y[inside]
        low, high = np.asarray(arrays[f"EXTENTS,{order}"], np.float64)
        wave = _polynomial(
            np.asarray(arrays[f"WAVECAL,{order}"], np.float64),
            (x - low[0]) / (high[0] - low[0]),
            np.full_like(x, (offset - low[1]) / (high[1] - low[1])),
        )
        through = np.asarray(arrays.get(f"THROUGHPUT,{order}", np.empty((2, 0))))
        cutoff = int(arrays[f"CUTOFF,{order}"][0])
        traces[order] = _trace(
            info, order, (_line(grid, wave, x), _line(grid, wave, y), grid), cutoff, through
        )
    return traces


def _rows(info: ExposureInfo) -> int:
    """Row of the named subarray's first pixel in SUBSTRIP256; exposures cut out of one count from there."""
    return 10 if info.subarray == "SUBSTRIP96" else 0


def _trace(
    info: ExposureInfo,
    order: int,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    cutoff: int,
    throughput: np.ndarray,
) -> OrderTrace:
    """Move (x, y, wavelength) of the named subarray to the exposure's first pixel, x rising."""
    x, y, wave = points
    x0, y0 = info.xstart - 1, info.ystart - 1 - FIRST_ROW - _rows(info)
    if x[0] > x[-1]:
        x, y, wave = x[::-1], y[::-1], wave[::-1]
    return OrderTrace(order, x - x0, y - y0, wave, max(cutoff - x0, 0), np.asarray(throughput, np.float64))


def _spectrace(reference: Reference, info: ExposureInfo) -> dict[int, OrderTrace]:
    """Take the traces of a SPECTRACE table as they are; it has no cutoffs, so light decides."""
    traces = {}
    height = 96 if info.subarray == "SUBSTRIP96" else 256
    for number, (name, table) in enumerate(sorted(reference.tables.items()), 1):
        columns = {column.lower(): column for column in table.dtype.names or ()}
        if not {"wavelength", "x", "y"} <= set(columns):
            raise ReferenceMismatchError(
                Problem(f"table {name} lacks wavelength, x or y", reference.path or reference.name,
                        "give a spectrace reference in CRDS format", "spectrace")
            )  # fmt: skip
        x, y, wave = (np.asarray(table[columns[one]], np.float64) for one in ("x", "y", "wavelength"))
        light = np.asarray(table[columns["throughput"]], np.float64) if "throughput" in columns else None
        order = int(reference.keywords.get(f"ORDER,{name}", number))
        lit = (x >= 0) & (x <= LAST_COLUMN) & (y > -0.5) & (y < height - 0.5)
        if light is not None:
            lit &= light > FAINTEST * light.max()
        cutoff = min(int(np.ceil(x[lit].max())), LAST_COLUMN) + 1 if lit.any() else 0
        if cutoff:
            through = np.stack([wave, light]) if light is not None else np.empty((2, 0))
            traces[order] = _trace(info, order, (x, y, wave), cutoff, through)
    return traces


def trace_reference(references: Mapping[str, Reference]) -> Reference | None:
    """Choose the reference that tells the traces; None when there is none."""
    return references.get("pastasoss") or references.get("spectrace")


def soss_traces(
    references: Mapping[str, Reference], info: ExposureInfo, orders: Sequence[int] = (1, 2, 3)
) -> dict[int, OrderTrace]:
    """Find the traces of the orders in the exposure's subarray.

    Parameters
    ----------
    references
        Among them ``pastasoss`` or ``spectrace``.
    info
        The exposure; PWCPOS is taken from its header.
    orders
        Orders wanted; those the reference does not have are left out.

    Returns
    -------
    dict
        Order -> trace; empty without a trace reference.

    Raises
    ------
    ConfigError, ReferenceMismatchError
        The position of the pupil wheel is not known, or outside the reference's range.
    """
    reference = trace_reference(references)
    if reference is None:
        return {}
    found = _pastasoss(reference, info) if reference.reftype == "pastasoss" else _spectrace(reference, info)
    return {order: found[order] for order in orders if order in found}


def order_wavelengths(
    references: Mapping[str, Reference], info: ExposureInfo, orders: Sequence[int] = (1, 2, 3)
) -> dict[int, np.ndarray]:
    """Wavelength of each column on the trace [µm], by order; float64 [x], NaN where the order is not extracted."""
    return {order: one.columns(info.nx)[1] for order, one in soss_traces(references, info, orders).items()}


def box_weights(centre: np.ndarray, width: float, ny: int) -> np.ndarray:
    """Weights of the official box: 1 inside, the covered fraction at the edges, 0 where there is no trace.

    Parameters
    ----------
    centre : float64 [x]
        Row of the trace, NaN where there is none.
    width
        Full width [px], at least 1: the official formula gives narrower boxes other weights.
    ny
        Rows.

    Returns
    -------
    weight : float64 [y, x]
    """
    rows = np.arange(ny)[:, None]
    with np.errstate(invalid="ignore"):
        upper = centre + width / 2 - (rows - 0.5)
        lower = rows + 0.5 - (centre - width / 2)
        weight = np.minimum(np.minimum(upper, lower), 1.0)
    return np.where(np.isfinite(weight) & (weight > 0), weight, 0.0)
