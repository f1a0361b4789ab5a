"""Twin of the read-level linearity (spec stage 1, section 10)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq

__all__ = ["linearize_frames"]


def linearize_frames(
    data: np.ndarray, groupdq: np.ndarray, coefficients: np.ndarray, inverse: np.ndarray, nframes: int
) -> np.ndarray:
    """Tell the frames of each group apart, linearise them, and average them again.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Saturated samples stay as they are.
    coefficients, inverse : float32 [power, y, x]
        Cleaned polynomials, constant term first.
    nframes
        NFRAMES.
    """
    out = data.astype(np.float64)
    n, ngroups, ny, nx = data.shape
    frames = [np.arange(g * nframes + 1, (g + 1) * nframes + 1) for g in range(ngroups)]
    middles = [float(np.mean(one)) for one in frames]
    for i, y, x in np.ndindex(n, ny, nx):
        forward, back = (c[:, y, x].astype(np.float64)[::-1] for c in (coefficients, inverse))
        saturated = (groupdq[i, :, y, x] & dq.SATURATED) != 0
        ramp = data[i, :, y, x].astype(np.float64)
        last = max(int((~saturated).sum()) - 1, 2) - 1
        ends = [ramp[g] if saturated[g] else np.polyval(forward, ramp[g]) for g in (0, last)]
        slope = (ends[1] - ends[0]) / (middles[last] - middles[0])
        for g in range(ngroups):
            measured = np.polyval(back, ends[0] + slope * (frames[g] - middles[0]))
            measured += ramp[g] - measured.mean()
            if not saturated[g]:
                out[i, g, y, x] = np.polyval(forward, measured).mean()
    return out
