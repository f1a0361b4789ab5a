"""Twins of the outlier detection: medians in words, one pixel after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "OUTLIER_TWINS", "level_between", "marks_of", "middle_interval", "official_median", "source_ratio", "unfit_removed",
]  # fmt: skip


def source_ratio(values: np.ndarray, lost: np.ndarray, ground: np.ndarray, source: np.ndarray) -> float:
    """Median of (value - ground) / source over the pixels that are there; all [pixel]."""
    ratios = [
        (float(v) - float(g)) / float(s)
        for v, bad, g, s in zip(values, lost, ground, source, strict=True)
        if not bad and np.isfinite(v)
    ]
    return float(np.median(ratios)) if ratios else np.nan


def level_between(level: np.ndarray, node: np.ndarray, place: float) -> float:
    """Level at a place between nodes or beyond the outermost ones, on the straight line through the nearest two."""
    if len(node) == 1:
        return float(level[0])
    k = min(max(sum(1 for one in node if one <= place) - 1, 0), len(node) - 2)
    return float(level[k] + (level[k + 1] - level[k]) * (place - node[k]) / (node[k + 1] - node[k]))


def unfit_removed(value: float, bad: bool, level: float = 1.0, share: float = 0.0) -> float:
    """Make a sample as it would be at level 1; NaN when it is unfit."""
    if bad:
        return np.nan
    return float(value) / (1.0 + (level - 1.0) * share)


def marks_of(sample: float, limit: float, expected: float, reach: float) -> tuple[bool, bool, bool]:
    """Tell whether a sample is within reach, whether its limits are not around the reach, and whether it is there.

    A sample without an error has a limit of NaN.
    """
    there = not np.isnan(sample) and not np.isnan(limit)
    low, high = expected - reach, expected + reach
    around = sample - limit <= low and high <= sample + limit
    return bool(low <= sample <= high), bool(there and not around), bool(there)


def middle_interval(samples: np.ndarray) -> tuple[float, float]:
    """Find the two middle values of the good samples, equal for odd counts; NaN without any."""
    good = sorted(float(one) for one in samples if not np.isnan(one))
    if not good:
        return np.nan, np.nan
    return good[(len(good) - 1) // 2], good[len(good) // 2]


def official_median(cube: np.ndarray, width: int) -> np.ndarray:
    """Median that the official step compares each integration with (spec stages 2-3, C.1).

    Parameters
    ----------
    cube : float32 [integration, y, x]
        Slopes of a file, NaN where the weight is low if ``1 < width < n``.
    width
        Window.
    """
    n = len(cube)
    if not 1 < width < n:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.broadcast_to(np.nanmedian(cube, axis=0), cube.shape)
    out = np.full(cube.shape, np.nan)
    half = width // 2
    for start in range(n - width + 1):
        out[start + half] = np.median(cube[start : start + width], axis=0)
    for edge in range(half):
        out[edge] = out[half]
    if width == 2:
        # "the last half - 1 rows" are, for half = 1, all of them
        return np.broadcast_to(out[-1], cube.shape)
    last = n - 1 - half if width % 2 else n - half
    for edge in range(last + 1, n):
        out[edge] = out[last]
    return out


OUTLIER_TWINS: dict[str, Any] = {
    "source_level.source_level": source_ratio,
    "source_level.spread_level": level_between,
    "outlier_marks._divide_row": unfit_removed,
    "outlier_marks.remember_samples": marks_of,
    "outlier_marks._mark_near": marks_of,
    "outlier_marks._mark_far": marks_of,
    "outlier_marks.pack_flags": marks_of,
    **{
        f"outlier_window.{name}": middle_interval
        for name in (
            "count_outliers",
            "_share_windows",
            "_take_lowest",
            "_take_highest",
            "_set_bounds",
            "_find_unsettled",
            "_add_seven",
            "_carry_on",
            "_find_doubtful",
            "_are_many",
            "_lies_outside",
            "_judge_row",
            "_settle_rows",
        )
    },
    "outlier_segment.keep_samples": unfit_removed,
    "outlier_segment.flag_against_median": official_median,
}
