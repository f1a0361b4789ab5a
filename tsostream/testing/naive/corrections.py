"""Twins of the corrections around the ramps (spec stage 1, sections 3, 7, 9, 12, 13, 15, 19)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.testing.naive.flicker import FLICKER_TWINS
from tsostream.testing.naive.interference import INTERFERENCE_TWINS
from tsostream.testing.naive.reads import linearize_frames
from tsostream.testing.naive.zeros import ZERO_TWINS

__all__ = [
    "CORRECTION_TWINS",
    "clip_mean",
    "convolve_frames",
    "flag_charge_loss",
    "flag_persistence",
    "keep_bright_first",
    "last_closing",
    "rescale",
    "skip_initial",
    "subtract_reference_pixels",
]

FULL = 2048


def rescale(data: np.ndarray, divisor: int, frames: int) -> np.ndarray:
    """Multiply by FRMDIVSR / NFRAMES (float64 [integration, group, y, x])."""
    return data.astype(np.float64) * divisor / frames


def convolve_frames(data: np.ndarray, weights: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """Convolve the science pixels of every group, zero outside.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    weights : float32 [row, column] or [row, column, y, x]
        Kernel.
    region
        bottom, top, left, right of the science pixels.
    """
    bottom, top, left, right = region
    out = data.astype(np.float64)
    height, width = weights.shape[:2]
    for i, g, y, x in np.ndindex(data.shape):
        if not (bottom <= y < top and left <= x < right):
            continue
        total = 0.0
        for j in range(height):
            for k in range(width):
                # a true convolution: the kernel is turned by 180 degrees about its central element
                yy, xx = y - (j - (height - 1 - height // 2)), x - (k - (width - 1 - width // 2))
                if j == height // 2 and k == width // 2:
                    yy, xx = y, x
                weight = weights[j, k] if weights.ndim == 2 else weights[j, k, y, x]
                if bottom <= yy < top and left <= xx < right:
                    total += float(weight) * float(data[i, g, yy, xx])
        out[i, g, y, x] = total
    return out


def clip_mean(values: list[float], limit: float) -> float:
    """Mean of the values within ``limit`` standard deviations, until none is dropped."""
    kept = np.array([value for value in values if np.isfinite(value)])
    while kept.size and kept.std() > 0:
        mean, std = kept.mean(), kept.std()
        inside = kept[(kept >= mean - limit * std) & (kept <= mean + limit * std)]
        if inside.size == kept.size:
            break
        kept = inside
    return float(kept.mean()) if kept.size else float("nan")


def _place(info: ExposureInfo, y: int, x: int) -> tuple[int, int]:
    """Detector row and column of a science pixel, by flipping and transposing a full frame in thought."""
    big_y, big_x = y + info.ystart - 1, x + info.xstart - 1
    if abs(info.fastaxis) == 1:
        return (
            big_y if info.slowaxis > 0 else FULL - 1 - big_y,
            big_x if info.fastaxis > 0 else FULL - 1 - big_x,
        )
    return big_x if info.slowaxis > 0 else FULL - 1 - big_x, big_y if info.fastaxis > 0 else FULL - 1 - big_y


def subtract_reference_pixels(
    data: np.ndarray,
    pixeldq: np.ndarray,
    info: ExposureInfo,
    *,
    odd_even: bool = True,
    sides: bool = True,
    length: int = 11,
    gain: float = 1.0,
    limit: float = 3.0,
) -> np.ndarray:
    """Subtract the reference pixels' levels (9.2 for one output, 9.3 for four).

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    pixeldq : uint32 [y, x]
        Static DQ plane.
    info
        The exposure.
    odd_even, sides, length, gain, limit
        odd_even_columns, use_side_ref_pixels, side_smoothing_length, side_gain, siglimit.
    """
    out = data.astype(np.float64)
    good = (pixeldq & dq.DO_NOT_USE) == 0
    reference = (pixeldq & dq.REFERENCE_PIXEL) != 0
    if info.subarray in ("SUB512", "SUB512S", "SUB32"):
        reference[:, :4] = reference[:, -4:] = True
    where = {(y, x): _place(info, y, x) for y, x in np.ndindex(pixeldq.shape)}
    for i, g in np.ndindex(data.shape[:2]):
        frame = out[i, g]
        if info.noutputs != 4:
            for parity in (0, 1) if odd_even else (None,):
                members = [p for p, (_, c) in where.items() if parity in (None, c % 2)]
                values = [float(data[i, g][p]) for p in members if reference[p] and good[p]]
                mean = clip_mean(values, limit)
                for p in members:
                    frame[p] -= mean
            continue
        for output in range(4):
            levels = []
            for parity in (0, 1) if odd_even else (None,):
                members = [p for p, (_, c) in where.items() if c // 512 == output and parity in (None, c % 2)]
                edges = []
                for rows in (range(4), range(FULL - 4, FULL)):
                    values = [float(data[i, g][p]) for p in members if where[p][0] in rows and good[p]]
                    if values:
                        edges.append(clip_mean(values, limit))
                levels.append((members, float(np.mean(edges)) if edges else None))
            if all(level is not None for _, level in levels):
                for members, level in levels:
                    for p in members:
                        frame[p] -= 0.0 if level is None else level
        if sides:
            _subtract_sides(frame, good, where, length, gain)
    return out


def _subtract_sides(
    frame: np.ndarray,
    good: np.ndarray,
    where: dict[tuple[int, int], tuple[int, int]],
    length: int,
    gain: float,
) -> None:
    """Subtract the running median of the side columns, in place on one group (float64 [y, x])."""
    found: dict[tuple[str, int], list[float]] = {}
    for p, (row, column) in where.items():
        if good[p] and (column < 4 or column >= FULL - 4):
            found.setdefault(("left" if column < 4 else "right", row), []).append(float(frame[p]))
    levels: dict[int, float] = {}
    for row in {row for row, _ in where.values()}:
        medians = []
        for side in ("left", "right"):
            values: list[float] = []
            for step in range(length):
                near = row - length // 2 + step
                near = -near if near < 0 else 2 * (FULL - 1) - near if near > FULL - 1 else near
                values += found.get((side, near), [])
            if values:
                medians.append(float(np.median(values)))
        levels[row] = float(np.mean(medians)) if medians else 0.0
    for p, (row, _) in where.items():
        frame[p] -= gain * levels[row]


def keep_bright_first(groupdq: np.ndarray, *, keep_bright: bool) -> tuple[np.ndarray, np.ndarray]:
    """Flag the first group; returns the flags and where it was kept (bool [integration, y, x])."""
    out, kept = groupdq.copy(), np.zeros((len(groupdq), *groupdq.shape[2:]), bool)
    for i, y, x in np.ndindex(kept.shape):
        if keep_bright and groupdq[i, 2, y, x] & dq.SATURATED:
            kept[i, y, x] = True
        else:
            out[i, 0, y, x] |= dq.DO_NOT_USE
    return out, kept


def skip_initial(groupdq: np.ndarray, first: int, skips: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Leave the first groups out (section 12); returns the flags, and where fewer were left out (bool)."""
    out, lowered = groupdq.copy(), np.zeros((len(groupdq), *groupdq.shape[2:]), bool)
    for i, y, x in np.ndindex(lowered.shape):
        skip = skips[0] if first + i == 1 else skips[1]
        saturated = (groupdq[i, :, y, x] & dq.SATURATED) != 0
        count = skip
        if saturated[skip + 1] and not saturated[0]:
            count = max(int(np.flatnonzero(saturated)[0]) - 2, 0)
        lowered[i, y, x] = count < skip
        out[i, :count, y, x] |= dq.DO_NOT_USE
    return out, lowered


def flag_charge_loss(data: np.ndarray, groupdq: np.ndarray, threshold: float) -> np.ndarray:
    """Flag bright samples, what follows them, and the same in the four neighbours (section 15)."""
    out = groupdq.copy()
    for i, g, y, x in np.ndindex(data.shape):
        if data[i, g, y, x] > np.float32(threshold) and groupdq[i, g, y, x] != dq.DO_NOT_USE:
            for yy, xx in ((y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= yy < data.shape[2] and 0 <= xx < data.shape[3]:
                    out[i, g:, yy, xx] |= dq.CHARGELOSS | dq.DO_NOT_USE
    return out


def flag_persistence(
    groupdq: np.ndarray,
    starts: np.ndarray,
    group_time: float,
    duration: float,
    flag: int,
    bright: np.ndarray | None = None,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Flag the groups within ``duration`` of a first saturated group (section 19).

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Before; saturated groups stay saturated to the end of the ramp.
    starts : float64 [integration]
        When each integration begins [s].
    group_time, duration
        TGROUP and persistence_time [s].
    flag
        Flags to set.
    bright : bool [integration, group, y, x]
        Samples that open a window where none is open, by their brightness.
    before : float64 [y, x]
        When windows close that are open from before, 0 for none.
    """
    out = groupdq.copy()
    n, ngroups = groupdq.shape[:2]
    times = np.array([[starts[i] + (g + 1) * group_time for g in range(ngroups)] for i in range(n)])
    for y, x in np.ndindex(groupdq.shape[2:]):
        opened: list[float] = []
        earlier = 0.0 if before is None else before[y, x]
        for i in range(n):
            saturated = np.flatnonzero(groupdq[i, :, y, x] & dq.SATURATED)
            for g in range(ngroups):
                now = times[i, g]
                is_open = earlier >= now or any(start <= now <= start + duration for start in opened)
                if g in saturated[:1] or (bright is not None and bright[i, g, y, x] and not is_open):
                    opened.append(now)
                    earlier = 0.0
                    is_open = True
                if earlier > now + duration:
                    # no window of this length can close then
                    earlier, is_open = 0.0, False
                if is_open:
                    out[i, g, y, x] |= flag
    return out


def last_closing(groupdq: np.ndarray, starts: np.ndarray, group_time: float, duration: float) -> np.ndarray:
    """Find when the window of the first saturated group closes, 0 for none; float64 [integration, y, x]."""
    until = np.zeros((len(groupdq), *groupdq.shape[2:]))
    for i, y, x in np.ndindex(until.shape):
        saturated = np.flatnonzero(groupdq[i, :, y, x] & dq.SATURATED)
        if saturated.size:
            until[i, y, x] = starts[i] + (saturated[0] + 1) * group_time + duration
    return until


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
CORRECTION_TWINS: dict[str, Callable[..., Any]] = {
    "group_scale.scale_groups": rescale,
    "ipc.copy_rows": convolve_frames,
    "ipc.convolve": convolve_frames,
    **FLICKER_TWINS,
    **INTERFERENCE_TWINS,
    **ZERO_TWINS,
    "refpix_levels._kept_moments": clip_mean,
    "refpix_levels.clipped_mean": clip_mean,
    "refpix_levels._block_sum": clip_mean,
    "refpix_levels._pairwise_sum": clip_mean,
    "refpix_levels.single_mean": clip_mean,
    "refpix_levels.mean_levels": subtract_reference_pixels,
    "refpix_levels.side_levels": subtract_reference_pixels,
    "refpix_levels.spread_levels": subtract_reference_pixels,
    "refpix_levels.subtract_profiles": subtract_reference_pixels,
    "firstframe.flag_first_group": keep_bright_first,
    "rscd.skip_groups": skip_initial,
    "charge_migration.find_bright": flag_charge_loss,
    "charge_migration.flag_bright": flag_charge_loss,
    "persistence.flag_windows": flag_persistence,
    "persistence.close_windows": last_closing,
    "linearity_reads._linear_sample": linearize_frames,
    "linearity_reads._apply": linearize_frames,
    "linearity_reads.linearize_reads": linearize_frames,
}
