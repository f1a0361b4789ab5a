"""Kernels of the SOSS overlap: sums of columns, the linear operator, and the subtraction of other orders."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["apply_operator", "column_sums", "subtract_orders"]

DNU = np.uint32(dq.DO_NOT_USE)


@kernel
def column_sums(data, bits, start, pixel, share, template, out):
    """Sum pixels of each column, weighted by profile over variance.

    A pixel that is missing is filled from the template, scaled to the column by the pixels that are there: the sums
    are those of a whole column, whatever a cosmic ray took out of it.

    Parameters
    ----------
    data : float32 [integration, pixel]
        Slopes.
    bits : uint32 [integration, pixel]
        DQ.
    start : int32 [column + 1]
        Pixels of column *c* are ``start[c] … start[c+1] - 1`` of the list.
    pixel : int32 [list]
        Flat indices.
    share : float32 [list]
        ``P / sigma^2``.
    template : float32 [list]
        Typical image there.
    out : float64 [integration, column]
        Sums, written.
    """
    for i in range(data.shape[0]):
        for c in range(start.size - 1):
            good = seen = whole = 0.0
            lost = 0
            for k in range(start[c], start[c + 1]):
                p = pixel[k]
                expected = np.float64(share[k]) * template[k]
                whole += expected
                if np.isfinite(data[i, p]) and not bits[i, p] & DNU:
                    good += np.float64(share[k]) * data[i, p]
                    seen += expected
                else:
                    lost += 1
            if lost > 0:
                # nothing is known of a column without light that has lost a pixel: what is there stands
                good = good * whole / seen if seen > 0.0 and whole > 0.0 else good
            out[i, c] = good


@kernel
def apply_operator(operator, source, target, sums, scratch, out):
    """Add the product of sums and an operator to each integration, in fixed order.

    Parameters
    ----------
    operator : float32 [source, target]
    source : int32 [source]
        Which sums the rows belong to.
    target : int32 [target]
        Which results the columns belong to.
    sums : float64 [integration, column]
    scratch : float64 [target]
        Working array.
    out : float64 [integration, result]
        Added to.
    """
    for i in range(sums.shape[0]):
        scratch[:] = 0.0
        for s in range(source.size):
            value = sums[i, source[s]]
            if value != 0.0:
                for t in range(scratch.size):
                    scratch[t] += value * operator[s, t]
        for t in range(target.size):
            out[i, target[t]] += scratch[t]


@kernel
def subtract_orders(data, profiles, amplitudes, keep, out):
    """Take all orders but one out of the images.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    profiles : float32 [order, y, x]
        Spatial profiles.
    amplitudes : float64 [integration, order, x]
        What each order puts into a column.
    keep : int
        The order that stays.
    out : float32 [integration, y, x]
        Written.
    """
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                value = np.float64(data[i, y, x])
                for m in range(profiles.shape[0]):
                    if m != keep:
                        value -= profiles[m, y, x] * amplitudes[i, m, x]
                out[i, y, x] = value
