"""The clock of MIRI's readout, and which waves disturb it (stage 1, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo

__all__ = ["READPATTS", "Setting", "frame_clocks", "wave_settings"]

READPATTS = ("FAST", "FASTR1", "SLOW", "SLOWR1")
#: rows of the whole detector, and clocks of a row that is skipped (10 µs)
ROWS, SKIPPED_ROW = 1024, 7
#: subarray -> clocks of a row and of a frame, for waves that are found without a reference
CLOCKS = {
    "SLITLESSPRISM": (28, 15904), "MASKLYOT": (90, 32400), "SUB64": (28, 8512), "SUB128": (44, 11904),
    "MASK1140": (82, 23968), "MASK1550": (82, 23968), "MASK1065": (82, 23968), "FULL_FAST": (271, 277504),
    "FULL_SLOW": (2333, 2388992), "BRIGHTSKY": (162, 86528), "SUB256": (96, 29952),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What is known of an exposure's interference.

    Parameters
    ----------
    row, frame
        Clocks of a row, and of a frame.
    reset
        Clocks of the frame between integrations that is not recorded; 0 for read patterns without one.
    samples
        Clocks of a pixel: 1 for fast, 9 for slow readout.
    names
        Of the waves, in the order of correction.
    frequencies
        Of the waves [Hz].
    shapes : float64 [bin] each
        Reference waves over one period; empty when they are found on the fly.
    """

    row: float
    frame: float
    reset: float
    samples: float
    names: tuple[str, ...]
    frequencies: tuple[float, ...]
    shapes: tuple[np.ndarray, ...] = ()


def frame_clocks(info: ExposureInfo, setting: Setting) -> float:
    """Clocks from one group to the next: the rows of the subarray, and those that are skipped."""
    return info.ny * setting.row + (float(ROWS) - info.ny) * SKIPPED_ROW


def wave_settings(
    content: Mapping[str, Any] | None, info: ExposureInfo, on_the_fly: tuple[float, ...] | None = None
) -> Setting | None:
    """Look the exposure up in the reference.

    Parameters
    ----------
    content
        The reference's tree: ``frequencies.NAME.frequency``, ``.phase_amplitudes`` and
        ``subarray_cases.SUBARRAY.rowclocks``, ``.frameclocks``, ``.freqs``.
    info
        The exposure; NSAMPLES of its header tells fast from slow readout.
    on_the_fly
        Frequencies [Hz] to find without a reference.

    Returns
    -------
    Setting or None
        None: nothing to correct.
    """
    speed = "SLOW" if "SLOW" in info.readpatt.upper() else "FAST"
    name = f"{info.subarray}_{speed}" if "FULL" in info.subarray else info.subarray
    if on_the_fly is not None:
        if name not in CLOCKS or not on_the_fly:
            return None
        names = tuple(repr(one) for one in on_the_fly)
        return _setting(info, *CLOCKS[name], names, tuple(on_the_fly), ())
    case = (content or {}).get("subarray_cases", {}).get(name)
    if case is None:
        return None
    listed = case.get("freqs", {}).get(speed)
    if speed == "SLOW" and listed is not None:
        listed = listed.get(info.detector)
    if not listed:
        return None
    entries = [(content or {})["frequencies"][one] for one in listed]
    frequencies = tuple(float(one["frequency"]) for one in entries)
    shapes = tuple(np.asarray(one["phase_amplitudes"], np.float64) for one in entries)
    return _setting(info, case["rowclocks"], case["frameclocks"], tuple(listed), frequencies, shapes)


def _setting(
    info: ExposureInfo,
    row: float,
    frame: float,
    names: tuple[str, ...],
    frequencies: tuple[float, ...],
    shapes: tuple[np.ndarray, ...],
) -> Setting:
    reset = float(frame) if info.readpatt.upper().endswith("R1") else 0.0
    samples = float(info.header.get("NSAMPLES", 1) or 1)
    return Setting(float(row), float(frame), reset, samples, names, frequencies, shapes)
