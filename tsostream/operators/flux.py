"""How bright an integration is against a template."""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel

__all__ = ["flux_scale"]


@kernel
def flux_scale(slope, pixels, template, scale):
    """Scale of each integration against the template: the median of slope / template over bright pixels.

    Parameters
    ----------
    slope : float32 [integration, y, x]
        [DN/s].
    pixels : int32 [pixel]
        Flat indices of the pixels to use.
    template : float32 [pixel]
        The template's slope there [DN/s], positive.
    scale : float64 [integration]
        Written; 1 where no pixel is usable.
    """
    ratios = np.empty(pixels.size, np.float64)
    nx = slope.shape[2]
    for i in range(slope.shape[0]):
        count = 0
        for p in range(pixels.size):
            value = slope[i, pixels[p] // nx, pixels[p] % nx]
            if np.isfinite(value):
                ratios[count] = value / template[p]
                count += 1
        scale[i] = np.median(ratios[:count]) if count > 0 else 1.0
