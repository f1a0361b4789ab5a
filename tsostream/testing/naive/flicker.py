"""Twins of clean_flicker_noise (spec stage 1, sections 17.1 and 17.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tsostream.integration import dq

__all__ = [
    "FLICKER_TWINS",
    "clean_integration",
    "clean_short_columns",
    "clip_background",
    "clip_statistics",
    "mean_slopes",
    "median_lines",
    "order",
    "rising_scene",
    "scene_ratio",
]


def order(values: np.ndarray) -> np.ndarray:
    """Sort."""
    return np.array(sorted(values.tolist()), values.dtype)


def clip_statistics(values: np.ndarray, limit: float = 3.0) -> tuple[float, float]:
    """Median and standard deviation after clipping about the median, limits evaluated up to five times."""
    kept, low, high = values, -np.inf, np.inf
    for _ in range(5):
        centre, width = np.median(kept), kept.std()
        low, high = centre - limit * width, centre + limit * width
        inside = kept[(kept >= low) & (kept <= high)]
        if inside.size in (0, kept.size):
            break
        kept = inside
    kept = values[(values >= low) & (values <= high)]
    return float(np.median(kept)), float(kept.std())


def clip_background(
    image: np.ndarray, mask: np.ndarray, below: float, above: float, *, halved: bool
) -> np.ndarray:
    """Mask (bool [y, x]) without the values that stand out of the background."""
    image = image.astype(np.float64)
    if not mask.any():
        return mask
    centre, width = clip_statistics(image[mask])
    if halved:
        off = centre - image[mask & (image <= centre)]
        _, width = clip_statistics(np.concatenate([-off, off]))
    return mask & (image >= centre - below * width) & (image <= centre + above * width)


def median_lines(image: np.ndarray, good: np.ndarray, *, along_x: bool, channels: int) -> np.ndarray:
    """Subtract the median of the good pixels of each part of each line."""
    out = image.copy()
    axis = 1 if along_x else 0
    for part in np.array_split(np.arange(image.shape[axis]), channels):
        for line in range(image.shape[1 - axis]):
            where = (line, part) if along_x else (part, line)
            if good[where].any():
                out[where] -= np.median(image[where][good[where]])
    return out


def clean_integration(
    data: np.ndarray,
    groupdq: np.ndarray,
    scene: np.ndarray,
    *,
    level: bool,
    n_sigma: float,
    along_x: bool,
    flat: np.ndarray | None = None,
) -> np.ndarray:
    """Clean the groups of one integration one after the other.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN].
    groupdq : uint8 [group, y, x]
        Flags.
    scene : bool [y, x]
        True where there is background only.
    level
        Subtract a median level first.
    n_sigma
        Second clip.
    along_x
        Direction of the lines.
    flat : float32 [y, x]
        Structure to divide by.
    """
    flat = np.ones(scene.shape, np.float32) if flat is None else flat
    out = data.copy()
    for g in range(1, len(data)):
        image = (data[g] - data[g - 1]) / flat
        mask = scene & ((groupdq[g] & (dq.DO_NOT_USE | dq.JUMP_DET)) == 0) & ~np.isnan(image)
        lost = np.isnan(image)
        image[lost] = 0.0
        if not mask.any():
            continue
        background = np.float32(0)
        if level:
            mask = clip_background(image, mask, 3.0, 3.0, halved=True)
            background = np.float32(np.median(image[mask]))
            if n_sigma > 0:
                mask = clip_background(image - background, mask, n_sigma, n_sigma, halved=True)
        cleaned = median_lines(image - background, mask, along_x=along_x, channels=1) + background
        cleaned[lost] = np.nan
        out[g] = out[g - 1] + cleaned * flat
    return out


def clean_short_columns(data: np.ndarray, groupdq: np.ndarray, scene: np.ndarray, step: float) -> np.ndarray:
    """Subtract from every group the medians of its columns' differences up to it.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN].
    groupdq : uint8 [group, y, x]
        Flags.
    scene : float32 [y, x]
        Slope of the scene [DN/s], NaN where a pixel does not count.
    step
        What it is multiplied by from group to group [s].
    """
    out = data.astype(np.float64)
    total = np.zeros(data.shape[2])
    for g in range(1, len(data)):
        rise = data[g].astype(np.float64) - data[g - 1] - step * scene.astype(np.float64)
        spoilt = (groupdq[g] & (dq.DO_NOT_USE | dq.JUMP_DET | dq.SATURATED)) != 0
        spoilt |= (groupdq[g - 1] & (dq.DO_NOT_USE | dq.SATURATED)) != 0
        for x in range(data.shape[2]):
            good = rise[np.isfinite(rise[:, x]) & ~spoilt[:, x], x]
            total[x] += np.median(good) if good.size else 0.0
        out[g] -= total
    return out


def mean_slopes(data: np.ndarray, groupdq: np.ndarray, tgroup: float) -> np.ndarray:
    """Mean of the differences between groups without flags [DN/s]; NaN where there is none."""
    out = np.full(data.shape[1:], np.nan)
    for y, x in np.ndindex(out.shape):
        good = [g for g in range(1, len(data)) if not groupdq[g - 1, y, x] and not groupdq[g, y, x]]
        if good:
            out[y, x] = np.mean([float(data[g, y, x]) - float(data[g - 1, y, x]) for g in good]) / tgroup
    return out


def scene_ratio(
    data: np.ndarray, groupdq: np.ndarray, image: np.ndarray, pixels: np.ndarray, tgroup: float
) -> float:
    """Median over pixels (flat indices) of the rise before the first flag, against that of the image."""
    ratios = []
    for place in pixels:
        y, x = divmod(int(place), data.shape[2])
        flagged = [g for g in range(len(data)) if groupdq[g, y, x]]
        last = (flagged[0] if flagged else len(data)) - 1
        if last >= 1:
            rise = float(np.float32(data[last, y, x] - data[0, y, x]))
            ratios.append(rise / (last * tgroup * float(image[y, x])))
    ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
    return float(np.median(ratios)) if ratios else 1.0


def rising_scene(image: np.ndarray, step: float, ngroups: int) -> np.ndarray:
    """Signal of a scene that begins at zero; [group, y, x]."""
    return np.arange(ngroups)[:, None, None] * step * image


#: ``module.kernel`` below ``tsostream.operators`` -> its twin
FLICKER_TWINS: dict[str, Callable[..., Any]] = {
    "ranks.sort_values": order,
    "ranks.sums_of_squares": clip_statistics,
    "ranks._first_at_least": clip_statistics,
    "ranks._first_above": clip_statistics,
    "ranks._middle": clip_statistics,
    "ranks.clipped_stretch": clip_statistics,
    "ranks.half_width": clip_background,
    "ranks.middle_value": median_lines,
    "ranks.middle_of_lines": median_lines,
    "ranks.middle_of_columns": median_lines,
    "flicker.clip_limits": clip_background,
    "flicker.difference": clean_integration,
    "flicker._gather": clip_background,
    "flicker._keep": clip_background,
    "flicker.clip_image": clip_background,
    "flicker.split_background": clean_integration,
    "flicker.add_up": clean_integration,
    "clean_flicker_noise.draft_slopes": mean_slopes,
    "flicker_columns.scene_level": scene_ratio,
    "flicker_columns.scene_steps": scene_ratio,
    "flicker_columns._rise": clean_short_columns,
    "flicker_columns._leave_out": clean_short_columns,
    "flicker_columns._fill": clean_short_columns,
    "flicker_columns._add_middles": clean_short_columns,
    "flicker_columns.clean_columns": clean_short_columns,
    "clean_flicker_noise.add_scene": rising_scene,
}
