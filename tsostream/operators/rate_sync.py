"""What every step on slopes ends with: NaN where DO_NOT_USE, DO_NOT_USE where NaN (spec stages 2-3, B.10)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.integration.payload import Rate
from tsostream.operators.jit import kernel

__all__ = ["flat_variance", "match_nans_and_flags", "multiply_rate", "synchronise"]

_LOST = np.uint32(dq.DO_NOT_USE)
_NAN = np.float32(np.nan)


@kernel
def _find_lost(data, err, var_poisson, var_rnoise, bits, lost):
    """Write 1 for pixels that are NaN in an array, or flagged DO_NOT_USE; all [x], ``lost`` uint8."""
    for x in range(lost.size):
        bad = (data[x] != data[x]) | (err[x] != err[x])
        lost[x] = np.uint8(bad | (var_poisson[x] != var_poisson[x]) | (var_rnoise[x] != var_rnoise[x]))
    for x in range(lost.size):
        lost[x] |= np.uint8(bits[x] & _LOST)


@kernel
def synchronise(data, err, var_poisson, var_rnoise, var_flat, bits):
    """Make a pixel that is NaN in any array, or flagged DO_NOT_USE, both in all of them.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place.
    var_flat : float32 [integration, y, x]
        The same; with no integrations where there is no such variance.
    bits : uint32 [integration, y, x]
        Changed in place.
    """
    nx = data.shape[2]
    lost, places = np.empty(nx, np.uint8), np.empty(nx, np.int32)
    has_flat = var_flat.shape[0] > 0
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            _find_lost(data[i, y], err[i, y], var_poisson[i, y], var_rnoise[i, y], bits[i, y], lost)
            if has_flat:
                row = var_flat[i, y]
                for x in range(nx):
                    lost[x] |= np.uint8(row[x] != row[x])
            # through a list: stores under a condition in the loop over pixels take many cycles each
            count = 0
            for x in range(nx):
                places[count] = x
                count += lost[x]
            for k in range(count):
                x = places[k]
                bits[i, y, x] |= _LOST
                data[i, y, x] = _NAN
                err[i, y, x] = _NAN
                var_poisson[i, y, x] = _NAN
                var_rnoise[i, y, x] = _NAN
                if has_flat:
                    var_flat[i, y, x] = _NAN


@kernel
def multiply_rate(data, err, var_poisson, var_rnoise, var_flat, bits, factor, flags):
    """Multiply slopes and errors by a map, variances by its square, add flags, and synchronise.

    Parameters
    ----------
    data, err, var_poisson, var_rnoise : float32 [integration, y, x]
        Changed in place.
    var_flat : float32 [integration, y, x]
        The same; with no integrations where there is no such variance.
    bits : uint32 [integration, y, x]
        Changed in place.
    factor : float32 [y, x]
        The map.
    flags : uint32 [y, x]
        DQ bits of the map.
    """
    has_flat = var_flat.shape[0] > 0
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            if has_flat:
                for x in range(data.shape[2]):
                    square = factor[y, x] * factor[y, x]
                    value = var_flat[i, y, x] * square
                    var_flat[i, y, x] = value
                    bits[i, y, x] |= _LOST if value != value else np.uint32(0)
            for x in range(data.shape[2]):
                one = factor[y, x]
                square = one * one
                signal, error = data[i, y, x] * one, err[i, y, x] * one
                poisson, rnoise = var_poisson[i, y, x] * square, var_rnoise[i, y, x] * square
                flag = bits[i, y, x] | flags[y, x]
                lost = ((flag & _LOST) != 0) | (signal != signal) | (error != error)
                lost |= (poisson != poisson) | (rnoise != rnoise)
                data[i, y, x] = _NAN if lost else signal
                err[i, y, x] = _NAN if lost else error
                var_poisson[i, y, x] = _NAN if lost else poisson
                var_rnoise[i, y, x] = _NAN if lost else rnoise
                bits[i, y, x] = flag | _LOST if lost else flag
            if has_flat:
                for x in range(data.shape[2]):
                    if (bits[i, y, x] & _LOST) != 0:
                        var_flat[i, y, x] = _NAN


def flat_variance(rate: Rate) -> np.ndarray:
    """Give the flat-field variance of a block for a kernel: an array without integrations where there is none."""
    return np.empty((0, 0, 0), np.float32) if rate.var_flat is None else rate.var_flat


def match_nans_and_flags(rate: Rate) -> None:
    """Synchronise NaN and DO_NOT_USE of a block, in place."""
    synchronise(rate.data, rate.err, rate.var_poisson, rate.var_rnoise, flat_variance(rate), rate.dq)
