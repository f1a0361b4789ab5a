"""Effective time of each wavelength relative to the row's mid time."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tsostream.files import Exposure, OnError, read_sync
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.readout import read_times
from tsostream.operators.tile import Tile
from tsostream.run.ramps import RateChain

__all__ = ["effective_times", "ramp_shifts"]

#: integrations whose usable groups are averaged
LOOKED_AT = 3
UNUSABLE = np.uint8(dq.DO_NOT_USE | dq.SATURATED)


def ramp_shifts(
    exposure: Exposure, rates: RateChain, numbers: Sequence[int], on_error: OnError = "stop"
) -> np.ndarray | None:
    """Time by which the middle of each pixel's usable groups is later than that of the whole ramp (spec G.3).

    A ramp that saturates tells of the beginning of the integration, one whose first groups are left out of its end:
    half a group time for each group. Cosmic rays, which come and go, do not count.

    Parameters
    ----------
    exposure
        The exposure.
    rates
        Bound ramp steps.
    numbers
        Integrations the scout read; a few of those at hand are looked at (a stored scout may be of another exposure).
    on_error
        What bytes mean that cannot be read, see `tsostream.files.read_blocks`.

    Returns
    -------
    float64 [y, x] or None
        [s]; None for slopes, whose ramps are not known.
    """
    info = exposure.info
    ramps = [step.name for step in rates.steps if step.produces == "ramp"]
    if not info.is_ramp or not ramps:
        return None
    there = [
        number for number in numbers if any(one.first <= number <= one.last for one in exposure.segments)
    ]
    numbers = there or [exposure.segments[0].first]
    chosen = sorted({int(numbers[k * len(numbers) // LOOKED_AT]) for k in range(LOOKED_AT)})
    total, count = np.zeros(info.frame_shape), 0

    def look(tile: Tile, _step: str) -> None:
        nonlocal count
        for groups in tile.groupdq:
            total[...] += _middle(groups)
            count += 1

    looking = replace(rates, taps={ramps[-1]: look}, seconds={}, _idle=queue.SimpleQueue())
    for raw in read_sync(exposure, [(number, 1) for number in chosen], block_bytes=1, on_error=on_error):
        if not raw.present:
            continue
        with looking.rates(raw):
            pass
    return total / max(count, 1) * (info.group_time or info.frame_time)


def _middle(groupdq: np.ndarray) -> np.ndarray:
    """Middle of the usable groups less that of all [groups], float64 [y, x]; 0 where none is usable."""
    usable = (groupdq & UNUSABLE) == 0
    count = len(usable)
    first = usable.argmax(axis=0)
    last = count - 1 - usable[::-1].argmax(axis=0)
    return np.where(usable.any(axis=0), 0.5 * (first + last) - 0.5 * (count - 1), 0.0)


def effective_times(
    info: ExposureInfo, extract: Any, cut: ExposureInfo | None = None, late: np.ndarray | None = None
) -> np.ndarray:
    """Read time of each column, weighted by the profile in its aperture, less half a frame (spec stages 2-3, G.3).

    Parameters
    ----------
    info
        The exposure.
    extract
        The bound extraction.
    cut
        The part of the frame it works on; default the whole.
    late : float64 [y, x], optional
        From `ramp_shifts`.

    Returns
    -------
    dt_eff_s : float64 [key, column]
        [s]; positive where the light of a column was measured later than at the row's mid time. NaN for columns
        without aperture.
    """
    cut = cut or info
    top, left = cut.ystart - info.ystart, cut.xstart - info.xstart
    time = read_times(info) - info.frame_time / 2
    if late is not None:
        time = time + late
    flat = time[top : top + cut.ny, left : left + cut.nx].ravel()
    apertures = getattr(extract, "apertures", (extract.aperture,) * len(extract.keys))
    return np.stack([_column_times(one, flat) for one in apertures])


def _column_times(aperture: Any, time: np.ndarray) -> np.ndarray:
    """Mean of the pixels' times in each column, weighted by the light they hold."""
    length = aperture.start.size - 1
    column = np.repeat(np.arange(length), np.diff(aperture.start))
    weight = np.clip(aperture.weight * aperture.shape[:, 0], 0.0, None)
    total = np.bincount(column, weight, length)
    # columns without flux: the plain mean of their aperture
    weight = np.where(total[column] > 0, weight, aperture.weight)
    total = np.bincount(column, weight, length)
    return np.bincount(column, weight * time[aperture.pixel], length) / np.where(total > 0, total, np.nan)
