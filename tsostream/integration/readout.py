"""When each pixel is read within a frame (spec stages 2-3, section G)."""

from __future__ import annotations

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["read_times"]

#: time of one sample [s]
SAMPLE = 10e-6
#: clocks at the end of each row, near infrared
OVERHEAD = 12
#: MIRI: clocks per row by subarray
MIRI_ROW_CLOCKS = {
    "SLITLESSPRISM": 28,
    "SUB64": 28,
    "SUB128": 44,
    "SUB256": 96,
    "BRIGHTSKY": 162,
    "MASK1065": 82,
    "MASK1140": 82,
    "MASK1550": 82,
    "MASKLYOT": 90,
    "FULL": 271,
}


def read_times(info: ExposureInfo) -> np.ndarray:
    """Time from the start of a frame to the reading of each pixel.

    Parameters
    ----------
    info
        The exposure; its readout axes, outputs and frame time.

    Returns
    -------
    tau : float64 [y, x]
        [s]. Where the clock formula does not give the header's TFRAME (an unknown subarray), rows share the frame
        time evenly.
    """
    swapped = abs(info.fastaxis) == 2
    n_fast, n_slow = (info.ny, info.nx) if swapped else (info.nx, info.ny)
    slow, fast = np.mgrid[0:n_slow, 0:n_fast].astype(np.float64)
    if info.is_miri:
        row = MIRI_ROW_CLOCKS.get(info.subarray, info.frame_time / SAMPLE / max(n_slow, 1)) * SAMPLE
        tau = slow * row + np.floor(fast / 4) * SAMPLE
    else:
        outputs = info.noutputs if n_fast % max(info.noutputs, 1) == 0 else 1
        width = n_fast // max(outputs, 1)
        # one output needs two rows of overhead a frame (three for narrow ones), four outputs one row and a sample
        extra, single = (1, 1) if outputs == 4 else (3 if n_fast <= 8 else 2, 0)
        frame = ((width + OVERHEAD) * (n_slow + extra) + single) * SAMPLE
        row = (width + OVERHEAD) * SAMPLE
        if info.frame_time and abs(frame - info.frame_time) > 2e-5:
            row = info.frame_time / (n_slow + extra)
        place = fast % width
        backwards = (fast // width) % 2 == 1
        tau = slow * row + np.where(backwards, width - 1 - place, place) * SAMPLE
    if info.slowaxis < 0:
        tau = tau[::-1]
    if info.fastaxis < 0:
        tau = tau[:, ::-1]
    return np.ascontiguousarray(tau.T if swapped else tau)
