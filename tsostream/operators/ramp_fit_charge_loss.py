"""Read-noise variance of ramps that lost groups to charge migration, as in the official fit (spec stage 1, 21.8).

The official step tells the variance such a ramp would have with those groups, so that weights do not follow the flux.
Slope and error stay those of the groups in use.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["charge_loss_weights", "replace_read_variance"]

PERS = np.uint8(dq.PERSISTENCE)
JUMP = np.uint8(dq.JUMP_DET)
LOSS = np.uint8(dq.CHARGELOSS)
BOTH = np.uint8(dq.CHARGELOSS | dq.DO_NOT_USE)
#: variances from here on are written as 0
LARGE_VARIANCE = 1e6


@kernel
def _segment_weights(flags, noise, electrons, tgroup, single_time):
    """Sum of 1 / read variance over the segments of one ramp, whose flags are without PERSISTENCE; 0: no segment."""
    # segments of one group only count where there is no longer one, and then the first
    several = lone = 0.0
    longest, g, count = 0.0, 0, flags.size
    while g < count:
        if flags[g]:
            g += 1
            continue
        start = g - 1 if g > 0 and flags[g - 1] == JUMP else g
        while g < count and not flags[g]:
            g += 1
        length = np.float64(g - start)
        time = single_time if length == 1.0 else tgroup
        scatter = length * (length * length - 1.0) if length > 2.0 else 6.0
        variance = 12.0 * (noise / time) * (noise / time) / (scatter * electrons * electrons)
        weight = 1.0 / variance if variance > 0.0 else 0.0
        if length > 1.0:
            several += weight
        elif longest == 0.0:
            lone = weight
        longest = max(longest, length)
    return several if longest > 1.0 else lone


@kernel
def charge_loss_weights(groupdq, gain, rnoise, times, suppress, g0, g1, weights, y0, y1, x0, x1):
    """Find the inverse read variance that ramps would have with the groups that charge migration took.

    Comes before the fit, which changes the flags.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Flags.
    gain, rnoise : float32 [y, x]
        e-/DN, noise of one group [e-].
    times : float64 [2]
        Group time, and time of a group that stands alone [s].
    suppress : bool
        suppress_one_group.
    g0, g1 : int
        The groups in use.
    weights : float64 [integration, row, column]
        Of the window [(DN/s)^-2], written; -1 for ramps without such groups.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    flags = np.empty(g1 - g0, np.uint8)
    for i in range(groupdq.shape[0]):
        for y in range(y0, y1):
            for x in range(x0, x1):
                lost, strict = False, 0
                for g in range(g0, g1):
                    found = groupdq[i, g, y, x]
                    strict += found == 0
                    if found & LOSS:
                        lost = True
                        found ^= BOTH
                    flags[g - g0] = found & ~PERS
                if not lost:
                    weights[i, y - y0, x - x0] = -1.0
                    continue
                alone = not suppress and strict == 1 and groupdq[i, g0, y, x] == 0
                weights[i, y - y0, x - x0] = _segment_weights(
                    flags, np.float64(rnoise[y, x]), np.float64(gain[y, x]), times[0],
                    times[1] if alone else times[0],
                )  # fmt: skip


@kernel
def replace_read_variance(weights, var_rnoise, rate_rnoise, y0, y1, x0, x1):
    """Write the variances that `charge_loss_weights` found, and that of the mean over the integrations.

    Parameters
    ----------
    weights : float64 [integration, row, column]
        As from `charge_loss_weights`.
    var_rnoise : float32 [integration, y, x]
        [(DN/s)^2], changed where a ramp lost groups.
    rate_rnoise : float32 [y, x]
        Of the mean, changed where any ramp of the pixel did.
    y0, y1, x0, x1 : int
        Rows and columns.
    """
    for y in range(y0, y1):
        for x in range(x0, x1):
            total, lost = 0.0, False
            for i in range(weights.shape[0]):
                weight = weights[i, y - y0, x - x0]
                if weight < 0.0:
                    value = np.float64(var_rnoise[i, y, x])
                    total += 1.0 / value if value > 0.0 else 0.0
                    continue
                lost = True
                value = 1.0 / weight if weight > 0.0 else np.inf
                var_rnoise[i, y, x] = 0.0 if value >= LARGE_VARIANCE else value
                total += weight
            if lost and total > 0.0:
                value = 1.0 / total
                rate_rnoise[y, x] = 0.0 if value >= LARGE_VARIANCE else value
