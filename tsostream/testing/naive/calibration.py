"""Naive twins of the steps on slopes that follow the ramp fit, pixel by pixel (spec stages 2-3, B.5-B.10)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tsostream.integration import dq

__all__ = [
    "CALIBRATION_TWINS",
    "naive_brightness",
    "naive_cut",
    "naive_divide_by_flat",
    "naive_mingrad",
    "naive_multiply_rate",
    "naive_profiles",
    "naive_subtract",
    "naive_synchronise",
]

PLANES = ("data", "err", "var_poisson", "var_rnoise", "var_flat")


def naive_synchronise(planes: dict[str, np.ndarray], bits: np.ndarray) -> None:
    """NaN in any plane or DO_NOT_USE: both, in all planes (in place)."""
    for index in np.ndindex(bits.shape):
        lost = bool(bits[index] & dq.DO_NOT_USE) or any(math.isnan(plane[index]) for plane in planes.values())
        if lost:
            bits[index] |= np.uint32(dq.DO_NOT_USE)
            for plane in planes.values():
                plane[index] = np.nan


def naive_multiply_rate(
    planes: dict[str, np.ndarray], bits: np.ndarray, factor: np.ndarray, flags: np.ndarray
) -> None:
    """Slope and error times the factor, variances times its square, flags, synchronisation (in place)."""
    for i, y, x in np.ndindex(bits.shape):
        one = factor[y, x]
        for name, plane in planes.items():
            plane[i, y, x] *= one * one if name.startswith("var") else one
        bits[i, y, x] |= flags[y, x]
    naive_synchronise(planes, bits)


def naive_divide_by_flat(
    planes: dict[str, np.ndarray], bits: np.ndarray, flat: np.ndarray, error: np.ndarray, flags: np.ndarray
) -> None:
    """S/f; VF = (S/f)^2/f^2 s^2; VP/f^2; VR/f^2; ERR from all three; flags; synchronisation (in place)."""
    for i, y, x in np.ndindex(bits.shape):
        f, sigma = float(flat[y, x]), float(error[y, x])
        signal = float(planes["data"][i, y, x]) / f
        poisson = float(planes["var_poisson"][i, y, x]) / f**2
        rnoise = float(planes["var_rnoise"][i, y, x]) / f**2
        var_flat = (signal / f * sigma) ** 2
        total = poisson + rnoise + var_flat
        planes["data"][i, y, x] = signal
        planes["var_poisson"][i, y, x] = poisson
        planes["var_rnoise"][i, y, x] = rnoise
        planes["var_flat"][i, y, x] = var_flat
        planes["err"][i, y, x] = math.sqrt(total) if total >= 0 else math.nan
        bits[i, y, x] |= flags[y, x]
    naive_synchronise(planes, bits)


def naive_mingrad(planes: dict[str, np.ndarray], bits: np.ndarray) -> None:
    """Mean of the neighbours along the axis on which they differ less (in place), from the original values."""
    before = {name: plane.copy() for name, plane in planes.items()}
    data = before["data"].astype(np.float64)
    count, ny, nx = bits.shape
    for i in range(count):
        for y in range(2, ny - 1):
            for x in range(2, nx - 1):
                if math.isfinite(data[i, y, x]):
                    continue
                pairs = [((i, y, x - 1), (i, y, x + 1)), ((i, y - 1, x), (i, y + 1, x))]
                rises = [
                    abs(data[a] - data[b]) if math.isfinite(data[a] - data[b]) else math.inf for a, b in pairs
                ]
                if min(rises) == math.inf:
                    continue
                a, b = pairs[rises.index(min(rises))]
                for name, plane in planes.items():
                    one, two = float(before[name][a]), float(before[name][b])
                    if name.startswith("var"):
                        plane[i, y, x] = ((np.sqrt(one) + np.sqrt(two)) / 2) ** 2
                    else:
                        plane[i, y, x] = (one + two) / 2
                if not bits[i, y, x] & dq.NON_SCIENCE:
                    bits[i, y, x] &= ~np.uint32(dq.DO_NOT_USE)
                bits[i, y, x] |= np.uint32(dq.FLUX_ESTIMATED)


def naive_profiles(planes: dict[str, np.ndarray], bits: np.ndarray, reach: int) -> None:
    """Median profile of the neighbouring columns, scaled by least squares (in place); columns are profiles."""
    for i in range(len(bits)):
        flags = bits[i].copy()
        lost, outside = (flags & dq.DO_NOT_USE) != 0, (flags & dq.NON_SCIENCE) != 0
        good = np.argwhere(~lost)
        if not len(good):
            continue
        (top, left), (bottom, right) = good.min(axis=0), good.max(axis=0) + 1
        rows = slice(top, bottom)
        usable = [x for x in range(left, right) if (~lost & ~outside)[rows, x].any()]
        for x in usable:
            bad = (lost & ~outside)[rows, x]
            near = [k for k in usable if k != x and abs(k - x) <= reach]
            if not bad.any() or not near:
                continue

            seen = {
                name: _unlost(plane[i], lost, rows, near, root=name.startswith("var"))
                for name, plane in planes.items()
            }
            norm = np.nanmax(np.abs(seen["data"]), axis=0)
            if np.nanmax(np.abs(seen["data"] / seen["err"])) < 5:
                norm[:] = 1.0
            profiles = {name: np.nanmedian(values / norm, axis=1) for name, values in seen.items()}
            own = np.where(lost[rows, x], np.nan, planes["data"][i, rows, x].astype(np.float64))
            known = ~np.isnan(own)
            scale = 1.0
            if np.nanmedian(norm) != 1.0:
                m, c = np.abs(profiles["data"][known]), np.abs(own[known] / np.nanmax(own))
                scale = np.nanmax(own) * np.nansum(m * c) / np.nansum(m * m)
            for name, plane in planes.items():
                value = profiles[name] * scale
                plane[i, rows, x][bad] = (value**2 if name.startswith("var") else value)[bad]
            plane = planes["data"][i, rows, x]
            plane[(lost & outside)[rows, x]] = np.nan
            done = bad & ~np.isnan(plane)
            bits[i, rows, x] = np.where(
                done, flags[rows, x] ^ dq.DO_NOT_USE ^ dq.FLUX_ESTIMATED, flags[rows, x]
            )


def _unlost(plane: np.ndarray, lost: np.ndarray, rows: slice, near: list[int], *, root: bool) -> np.ndarray:
    values = plane[rows][:, near].astype(np.float64)
    return np.where(lost[rows][:, near], np.nan, np.sqrt(values) if root else values)


def naive_cut(plane: np.ndarray, y0: int, x0: int, ny: int, nx: int) -> np.ndarray:
    """Window of every integration."""
    return plane[:, y0 : y0 + ny, x0 : x0 + nx].copy()


def naive_subtract(
    data: np.ndarray, bits: np.ndarray, images: np.ndarray, flags: np.ndarray, which: np.ndarray
) -> None:
    """One image per integration is subtracted, its flags are added (in place)."""
    for i, k in enumerate(which):
        data[i] = data[i] - images[k]
        bits[i] |= flags[k]


def naive_brightness(
    data: np.ndarray,
    bits: np.ndarray,
    template: np.ndarray,
    side: np.ndarray,
    source: float,
    ground: list[float],
) -> tuple[list[float], list[float]]:
    """Brightness of a template and residual on both sides of its step, as the official step words it."""
    flagged = (bits & np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL)) != 0
    finite = np.isfinite(data) & ~flagged
    threshold = np.percentile(data[finite].astype(np.float64), source)
    masked = (finite & (data >= threshold)) | flagged
    scales, residuals = [], []
    for which in (1, 2):
        use = np.broadcast_to(side == which, data.shape) & ~masked
        with np.errstate(all="ignore"):
            ratio = (data / template)[use]
        good = np.isfinite(ratio)
        low, high = np.percentile(ratio[good].astype(np.float64), ground)
        scale = float(np.median(ratio[good & (ratio > low) & (ratio < high)].astype(np.float64)))
        rest = (data.astype(np.float64) - template.astype(np.float64) * scale)[use][good]
        scales.append(scale)
        residuals.append(float(np.sqrt((rest**2).mean())))
    return scales, residuals


#: kernel -> its twin
CALIBRATION_TWINS: dict[str, Callable[..., Any]] = {
    "rate_sync._find_lost": naive_synchronise,
    "rate_sync.synchronise": naive_synchronise,
    "rate_sync.multiply_rate": naive_multiply_rate,
    "flat_field.divide_by_flat": naive_divide_by_flat,
    "extract_2d.cut_planes": naive_cut,
    "bkg_subtract.subtract_image": naive_subtract,
    "soss_background.count_ratios": naive_brightness,
    "soss_background.sum_squares": naive_brightness,
    "pixel_replace._mean": naive_mingrad,
    "pixel_replace._mean_variance": naive_mingrad,
    "pixel_replace.replace_gradient": naive_mingrad,
    **{
        f"profile_replace.{name}": naive_profiles
        for name in (
            "_sum_short", "_sum", "_misfit", "fit_scale", "_median", "_limits", "_collect", "_norms",
            "replace_profiles", "_has_lost", "_has_good", "_worth_fitting",
        )
    },
}  # fmt: skip
