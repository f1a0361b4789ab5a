"""Light that changes for all pixels alike is no jump: what a stretch of a spectrum has in common is divided out.

In the ingress of a deep eclipse the light changes by a quarter within one integration, and bright pixels would have
jumps by the thousand, in step with the light curve. A hit is in a few pixels, the light in all of them; so the median,
over neighbours that are bright, of each difference over the mean of its pixel tells how bright the source was.
"""

from __future__ import annotations

import numpy as np

from tsostream.operators.jit import kernel
from tsostream.operators.ranks import middle_value

__all__ = ["common_light", "divide_light"]

#: fewest bright pixels that tell of a change
LEAST = 32
#: what a bright pixel's difference has [sigma]
BRIGHT = np.float32(25.0)
#: a change is one when it is so many times its error
SURE = 6.0


@kernel
def common_light(d, noise2, y, start, width, level, ratio, light):
    """Tell how bright the source was in each difference, when it changes.

    Parameters
    ----------
    d : float32 [difference, lane]
        Differences of neighbouring pixels [e-], NaN where there is none.
    noise2 : float32 [y, x]
        Read-noise variance of a difference [e-^2].
    y, start, width : int
        Row, first column, and how many lanes.
    level, ratio : float32 [lane]
        Scratch.
    light : float32 [difference]
        Brightness over the mean of the integration; written.

    Returns
    -------
    changes : bool
        Whether any of them is certainly not 1.
    """
    ndiff, used, error2 = d.shape[0], 0, 0.0
    for lane in range(width):
        mean = np.float32(0.0)
        for j in range(ndiff):
            mean += d[j, lane]
        mean /= np.float32(ndiff)
        variance = mean + noise2[y, start + lane]
        # false for a pixel that lacks a difference
        bright = mean > np.float32(0.0) and mean * mean >= BRIGHT * BRIGHT * variance
        level[lane] = mean if bright else np.float32(0.0)
        if bright:
            error2 += np.float64(variance) / (np.float64(mean) * np.float64(mean))
            used += 1
    if used < LEAST:
        return False
    # the median of n values is uncertain by 1.2533 sigma / sqrt(n)
    least = SURE * 1.2533 * np.sqrt(error2) / used
    changes = False
    for j in range(ndiff):
        count = 0
        for lane in range(width):
            if level[lane] > np.float32(0.0):
                ratio[count] = d[j, lane] / level[lane]
                count += 1
        light[j] = middle_value(ratio, count)
        changes |= abs(np.float64(light[j]) - 1.0) > least
        if not light[j] > np.float32(0.1):
            return False
    return changes


@kernel
def divide_light(d, light, width):
    """Divide the light's changes out of differences (``d``: float32 [difference, lane], changed)."""
    for j in range(d.shape[0]):
        for lane in range(width):
            d[j, lane] /= light[j]
