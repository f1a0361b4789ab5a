"""The pixels of a spectrum as strips: stretches of image rows that kernels walk through in the order of memory.

An `Aperture` lists the pixels column by column, which is the order of the sums but not that of the memory. Here they
stand row after row (across the trace), each row in stretches without long gaps, and all that is fixed for the exposure
is prepared: weights times scales, profiles times inverse variances, and the sums over each column as they are
when no pixel is lost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tsostream.operators.aperture.lists import FIT_CLIP, Aperture
from tsostream.operators.sorting import comparators

__all__ = ["FIT_LEVEL", "FIT_LIMIT", "FIT_TERMS", "FIT_WEIGHT", "Strips", "lay_out"]

#: a stretch goes on over so many pixels that are not in the list
GAP = 8
#: terms of the fit, and the rows of `Strips.fit` after those of the terms
FIT_TERMS = 4
FIT_WEIGHT, FIT_LEVEL, FIT_LIMIT = 4, 5, 6


class Strips(NamedTuple):
    """Pixels of one spectrum in the order of memory, oriented [cross, disp].

    Attributes
    ----------
    lists : Aperture
        The same pixels by columns.
    along_y : bool
        Whether the spectrum runs along y, so that planes are turned first.
    unit : float
        Power of two; scales are relative to it, so that their squares stay within single precision.
    run : int32 [run, 5]
        Stretches of the aperture: row, first column, first entry, length, whether it holds pixels of the fit.
    pixel : int32 [entry]
        Flat index into [y, x].
    member : int32 [entry]
        Place in the lists of the aperture; -1 for a gap.
    fit_member : int32 [entry]
        Place in the lists of the fit; -1 for none.
    weight : float32 [entry]
        Aperture weight times relative scale; 0 in gaps and for pixels that are lost in every integration.
    fit : float32 [7, entry]
        Inverse variance times each of the four terms, the inverse variance, the same over the scale, and the distance
        from the model that is allowed, times the inverse variance; 0 outside the fit.
    whole, cover : float64 [5, column]
        Weighted sums of the profile's terms: over all pixels, and over those that are not lost in every integration.
    area, missing : float64 [column]
        Sum of the weights of the latter, and squared error of the profile in the others.
    lost : int32 [column]
        How many the others are.
    fit_level : float64 [4, column]
        What a background of 1 puts into the normal equations of the fit.
    normal : float64 [column, 4, 4]
        Their matrix, column by column.
    normal_sum : float64 [4, 4]
        The same of all columns, its lower half.
    fit_count : int32 [column]
        Pixels of the fit.
    ground_run : int32 [run, 5]
        Stretches of the background: row, first column, first entry, length, and the lane of its samples or -1.
    ground_template, ground_scale : float32 [entry]
        Template (NaN in gaps) and relative scale.
    ground_mean : float64 [column]
        Mean of the template [output unit].
    lanes : int
        Rows that are sampled.
    pairs : int32 [comparator, 2]
        Sorts their samples.
    """

    lists: Aperture
    along_y: bool
    unit: float
    run: np.ndarray
    pixel: np.ndarray
    member: np.ndarray
    fit_member: np.ndarray
    weight: np.ndarray
    fit: np.ndarray
    whole: np.ndarray
    cover: np.ndarray
    area: np.ndarray
    missing: np.ndarray
    lost: np.ndarray
    fit_level: np.ndarray
    normal: np.ndarray
    normal_sum: np.ndarray
    fit_count: np.ndarray
    ground_run: np.ndarray
    ground_template: np.ndarray
    ground_scale: np.ndarray
    ground_mean: np.ndarray
    lanes: int
    pairs: np.ndarray


def _stretches(
    pixel: np.ndarray, shape: tuple[int, int], *, along_y: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of rows that hold the pixels of a list.

    Returns
    -------
    run : int32 [run, 5]
        Row, first column, first entry, length, 0.
    member : int32 [entry]
        Place in the list, -1 in gaps.
    flat : int32 [entry]
        Flat index into [y, x].
    """
    grid = np.full(shape[0] * shape[1], -1, np.int32)
    grid[pixel] = np.arange(pixel.size)
    index = np.arange(grid.size, dtype=np.int32).reshape(shape)
    grid = grid.reshape(shape)
    if along_y:
        grid, index = grid.T, index.T
    runs, members, flats = [], [], []
    total = 0
    for row in np.flatnonzero((grid >= 0).any(axis=1)):
        columns = np.flatnonzero(grid[row] >= 0)
        for part in np.split(columns, np.flatnonzero(np.diff(columns) > GAP) + 1):
            low, high = int(part[0]), int(part[-1]) + 1
            runs.append((row, low, total, high - low, 0))
            members.append(grid[row, low:high])
            flats.append(index[row, low:high])
            total += high - low
    nothing = np.empty(0, np.int32)
    return (
        np.array(runs, np.int32).reshape(-1, 5),
        np.concatenate(members) if members else nothing,
        np.concatenate(flats) if flats else nothing,
    )


def _by_member(member: np.ndarray, listed: np.ndarray, gap: float) -> np.ndarray:
    """Values of a list in the order of the entries; float32 [entry]."""
    values = np.full(member.size, gap, np.float32)
    values[member >= 0] = listed[member[member >= 0]]
    return values


def _column_sums(columns: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sum values, [..., pixel], by their columns."""
    flat = values.reshape(-1, columns.size)
    sums = np.stack([np.bincount(columns, one, size) for one in flat]) if columns.size else np.zeros(1)
    return np.ascontiguousarray(np.broadcast_to(sums, (len(flat), size)).reshape(*values.shape[:-1], size))


def lay_out(a: Aperture, shape: tuple[int, int], *, along_y: bool) -> Strips:
    """Put the pixels of a spectrum into the order of memory.

    Parameters
    ----------
    a
        Pixel lists of the spectrum; a template with four terms.
    shape
        Of the frame [y, x].
    along_y
        Whether the spectrum runs along y.
    """
    size = a.start.size - 1
    scale = a.scale.astype(np.float64)
    known = np.abs(scale[np.isfinite(scale) & (scale != 0)])
    unit = float(2.0 ** np.round(np.log2(np.median(known)))) if known.size else 1.0
    run, member, pixel = _stretches(a.pixel, shape, along_y=along_y)
    columns = np.repeat(np.arange(size), np.diff(a.start))
    weight = a.weight.astype(np.float64)
    profile = weight * a.shape.T.astype(np.float64)
    sure = np.where(a.lost_always, 0.0, 1.0)
    fit, fit_member = _lay_out_fit(a, pixel)
    run[:, 4] = [np.any(fit_member[first : first + length] >= 0) for _, _, first, length, _ in run]
    basis, inverse = a.basis.astype(np.float64), a.fit_weight.astype(np.float64)
    fit_level = (basis * (inverse / scale[a.fit_pixel])[:, None]).T
    normal = (basis[:, :, None] * basis[:, None, :] * inverse[:, None, None]).transpose(1, 2, 0)
    normal = np.ascontiguousarray(_column_sums(a.fit_column, normal, size).transpose(2, 0, 1))
    return Strips(
        lists=a,
        along_y=along_y,
        unit=unit,
        run=run,
        pixel=pixel,
        member=member,
        fit_member=fit_member,
        weight=_by_member(member, weight * np.where(sure > 0, scale[a.pixel], 0.0) / unit, 0.0),
        fit=fit,
        whole=_column_sums(columns, profile, size),
        cover=_column_sums(columns, profile * sure, size),
        area=_column_sums(columns, weight * sure, size),
        missing=_column_sums(columns, (1 - sure) * (weight * a.shape_error.astype(np.float64)) ** 2, size),
        lost=np.bincount(columns, 1 - sure, size).astype(np.int32),
        fit_level=_column_sums(a.fit_column, fit_level, size),
        normal=normal,
        # one column after the other, as the kernel adds them where some do not count
        normal_sum=np.tril(np.add.accumulate(normal)[-1]),
        fit_count=np.bincount(a.fit_column, minlength=size).astype(np.int32),
        **_lay_out_ground(a, shape, scale, unit, along_y=along_y),
    )


def _lay_out_fit(a: Aperture, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constants of the fit, float32 [7, entry], and the place of each entry in its lists, int32 [entry]."""
    place = np.full(a.scale.size, -1, np.int32)
    place[a.fit_pixel] = np.arange(a.fit_pixel.size)
    member = place[pixel]
    inverse = a.fit_weight.astype(np.float64)
    rows = [inverse * term for term in a.basis.T.astype(np.float64)]
    rows += [inverse, inverse / a.scale[a.fit_pixel].astype(np.float64), FIT_CLIP * np.sqrt(inverse)]
    return np.stack([_by_member(member, row, 0.0) for row in rows]), member


def _lay_out_ground(
    a: Aperture, shape: tuple[int, int], scale: np.ndarray, unit: float, *, along_y: bool
) -> dict[str, Any]:
    """Fields of `Strips` that concern the background."""
    size = a.ground_start.size - 1
    run, member, _ = _stretches(a.ground, shape, along_y=along_y)
    sampled = np.unique(run[[a.ground_sampled[member[_places(one, member)]].any() for one in run], 0])
    lane = {int(row): k for k, row in enumerate(sampled)}
    run[:, 4] = [lane.get(int(row), -1) for row in run[:, 0]]
    columns = np.repeat(np.arange(size), np.diff(a.ground_start))
    total = _column_sums(columns, a.ground_template.astype(np.float64) * scale[a.ground], size)
    return {
        "ground_run": run,
        "ground_template": _by_member(member, a.ground_template, np.nan),
        "ground_scale": _by_member(member, scale[a.ground] / unit, 1.0),
        "ground_mean": total / np.maximum(np.diff(a.ground_start), 1),
        "lanes": max(len(lane), 1),
        "pairs": comparators(len(lane)),
    }


def _places(run: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Entries of a stretch that are in the list."""
    return run[2] + np.flatnonzero(member[run[2] : run[2] + run[3]] >= 0)
