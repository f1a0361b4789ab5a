"""Naive twins of the steps on slopes that follow the ramp fit, pixel by pixel (spec stages 2-3, B.5-B.10)."""

from __future__ import annotations

import math

import numpy as np

from tsostream.integration import dq

__all__ = ["naive_divide_by_flat", "naive_multiply_rate", "naive_synchronise"]

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
