"""Linearity of the reads inside a group: the kernel that `linearity` uses for averaged groups (stage 1, 10).

A group of several frames is the mean of their non-linear samples, so the polynomial of the mean is not the
mean of the polynomials. With the inverse polynomial the frames can be told apart: a straight line through the
first group and the last but one of the unsaturated groups predicts the linear signal of each frame; the
inverse polynomial makes it non-linear; a shift brings the frames' mean to the group; each is linearised,
and their mean is the result.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["linearize_reads", "reads_pass", "wants_reads"]

SAT = np.uint8(dq.SATURATED)


@kernel
def _linear_sample(value, flags, coefficients, y, x):
    """Polynomial of one sample in float32, the sample itself where it is saturated."""
    if flags & SAT:
        return value
    result = coefficients[coefficients.shape[0] - 1, y, x]
    for k in range(coefficients.shape[0] - 2, -1, -1):
        result = result * value + coefficients[k, y, x]
    return result


@kernel
def _apply(values, coefficients, y):
    """Polynomial of a row of float64 values, in place."""
    powers = coefficients.shape[0]
    for x in range(values.size):
        value = values[x]
        result = np.float64(coefficients[powers - 1, y, x])
        for k in range(powers - 2, -1, -1):
            result = result * value + np.float64(coefficients[k, y, x])
        values[x] = result


@kernel
def linearize_reads(data, groupdq, coefficients, inverse, nframes, y0, y1):
    """Linearise each frame of a group by itself, where the group is not saturated.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place; at least two groups.
    groupdq : uint8 [integration, group, y, x]
        Samples with SATURATED stay as they are.
    coefficients, inverse : float32 [power, y, x]
        Polynomials from measured to linear signal and back, constant term first.
    nframes : int
        Frames per group.
    y0, y1 : int
        Rows.
    """
    n, ngroups, _, nx = data.shape
    middle = (nframes + 1) / 2.0
    start = np.empty(nx, np.float64)
    rate = np.empty(nx, np.float64)
    reads = np.empty((nframes, nx), np.float64)
    mean = np.empty(nx, np.float64)
    for i in range(n):
        for y in range(y0, y1):
            for x in range(nx):
                usable = -1
                for g in range(ngroups):
                    usable += (groupdq[i, g, y, x] & SAT) == 0
                # the last unsaturated group is left out: it may hold saturated frames
                last = max(usable, 2) - 1
                first = _linear_sample(data[i, 0, y, x], groupdq[i, 0, y, x], coefficients, y, x)
                final = _linear_sample(data[i, last, y, x], groupdq[i, last, y, x], coefficients, y, x)
                start[x] = first
                rate[x] = np.float64(final - first) / np.float64(last * nframes)
            for g in range(ngroups):
                mean[:] = 0.0
                for f in range(nframes):
                    since = g * nframes + f + 1 - middle
                    for x in range(nx):
                        reads[f, x] = start[x] + rate[x] * since
                    _apply(reads[f], inverse, y)
                    for x in range(nx):
                        mean[x] += reads[f, x]
                for x in range(nx):
                    mean[x] = np.float64(data[i, g, y, x]) - mean[x] / nframes
                for f in range(nframes):
                    for x in range(nx):
                        reads[f, x] += mean[x]
                    _apply(reads[f], coefficients, y)
                for x in range(nx):
                    total = 0.0
                    for f in range(nframes):
                        total += reads[f, x]
                    if not groupdq[i, g, y, x] & SAT:
                        data[i, g, y, x] = total / nframes


def wants_reads(reference: Reference, info: ExposureInfo) -> bool:
    """Whether the reference and the read pattern call for this treatment.

    A single group leaves no line to predict the frames by; the simple path is taken, where the official step
    fails.
    """
    return "INV_COEFFS" in reference.arrays and info.nframes > 1 and info.ngroups > 1


def reads_pass(coefficients: np.ndarray, inverse: np.ndarray, nframes: int) -> RowPass:
    """Make the row pass; both sets of coefficients (float32 [power, y, x]) have been cleaned."""
    return RowPass(partial(_run, coefficients=coefficients, inverse=inverse, nframes=nframes))


def _run(
    tile: Tile, y0: int, y1: int, *, coefficients: np.ndarray, inverse: np.ndarray, nframes: int
) -> None:
    linearize_reads(tile.data, tile.groupdq, coefficients, inverse, nframes, y0, y1)
