"""The zero frame, the first read of each integration on its own, through the steps before the fit.

It has no flags: a zero means that the sample is bad, and stays zero. The kernels below are what saturation
(stage 1, 6, point 4), superbias (8) and linearity (10) do to it; reference pixels are subtracted with the
kernels of `refpix` on an array with one group, followed by `restore_zeros`. Dark current is not subtracted.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel

__all__ = [
    "clear_saturated",
    "linearize_zero",
    "mark_saturated",
    "restore_zeros",
    "subtract_from_zero",
    "zero_scratch",
]

#: marks of a sample: at or above the threshold; at or below the A/D floor
HIGH, LOW = np.uint8(1), np.uint8(2)


def zero_scratch(info: ExposureInfo) -> dict[str, tuple[tuple[int, ...], type]]:
    """Declare the array all steps share for the zero frames; nothing for exposures without."""
    return {"zeroframe": (info.frame_shape, np.float32)} if info.zeroframe else {}


@kernel
def mark_saturated(zero, threshold, marks, y0, y1):
    """Mark samples at or above the threshold, and those not above zero.

    Parameters
    ----------
    zero : float32 [integration, y, x]
        Raw samples [DN].
    threshold : float32 [y, x]
        Saturation level [DN]; 65536 where not to be checked.
    marks : uint8 [integration, y, x]
        Written.
    y0, y1 : int
        Rows.
    """
    for i in range(zero.shape[0]):
        for y in range(y0, y1):
            for x in range(zero.shape[2]):
                value = zero[i, y, x]
                marks[i, y, x] = (HIGH if value >= threshold[y, x] else 0) | (LOW if value <= 0.0 else 0)


@kernel
def clear_saturated(zero, marks, reach, y0, y1):
    """Set marked samples and the neighbours of saturated ones to zero.

    Parameters
    ----------
    zero : float32 [integration, y, x]
        Changed in place.
    marks : uint8 [integration, y, x]
        As from `mark_saturated`, complete for ``reach`` more rows on either side.
    reach : int
        n_pix_grow_sat.
    y0, y1 : int
        Rows.
    """
    n, ny, nx = zero.shape
    for i in range(n):
        for y in range(y0, y1):
            for x in range(nx):
                if marks[i, y, x]:
                    zero[i, y, x] = 0.0
            for near in range(max(0, y - reach), min(ny, y + reach + 1)):
                for x in range(nx):
                    if marks[i, near, x] & HIGH:
                        zero[i, y, max(0, x - reach) : min(nx, x + reach + 1)] = 0.0


@kernel
def subtract_from_zero(zero, plane, y0, y1):
    """Subtract a plane where the sample is not zero.

    Parameters
    ----------
    zero : float32 [integration, y, x]
        Changed in place [DN].
    plane : float32 [y, x]
        Superbias without NaN [DN].
    y0, y1 : int
        Rows.
    """
    for i in range(zero.shape[0]):
        for y in range(y0, y1):
            for x in range(zero.shape[2]):
                value = zero[i, y, x]
                zero[i, y, x] = value - plane[y, x] if value != 0.0 else np.float32(0.0)


@kernel
def restore_zeros(zero, before, y0, y1):
    """Set samples to zero that were zero before.

    Parameters
    ----------
    zero : float32 [integration, y, x]
        Changed in place.
    before : float32 [integration, y, x]
        The zero frame before the step.
    y0, y1 : int
        Rows.
    """
    for i in range(zero.shape[0]):
        for y in range(y0, y1):
            for x in range(zero.shape[2]):
                if before[i, y, x] == 0.0:
                    zero[i, y, x] = 0.0


@kernel
def linearize_zero(zero, coefficients, y0, y1):
    """Evaluate the polynomial in float32 where the sample is not zero.

    Parameters
    ----------
    zero : float32 [integration, y, x]
        Changed in place [DN].
    coefficients : float32 [power, y, x]
        Cleaned, constant term first.
    y0, y1 : int
        Rows.
    """
    powers = coefficients.shape[0]
    for i in range(zero.shape[0]):
        for y in range(y0, y1):
            for x in range(zero.shape[2]):
                value = zero[i, y, x]
                result = coefficients[powers - 1, y, x]
                for k in range(powers - 2, -1, -1):
                    result = result * value + coefficients[k, y, x]
                zero[i, y, x] = result if value != 0.0 else np.float32(0.0)
