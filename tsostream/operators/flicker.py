"""Noise that lines of pixels share: the kernels of clean_flicker_noise (stage 1, section 17.2).

The difference of two groups, less a background level, is noise where no source is. What of it the lines share, or
slow waves of the readout's clock (`tsostream.operators.flicker_waves`), is subtracted, and the groups are added up
again. What is background is decided three times: by a mask of the scene, and twice by clipping the values of the
difference itself. For both clips one sorting of the values is enough: a clip keeps a stretch of the sorted list, and
means and widths of stretches follow from running sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.operators.flicker_waves import WAVE_SCRATCH, WaveTables, subtract_waves, wave_scratch
from tsostream.operators.jit import kernel
from tsostream.operators.ranks import (
    clipped_stretch,
    half_width,
    middle_of_columns,
    middle_of_lines,
    sort_values,
    sums_of_squares,
)

__all__ = ["SIGMA", "Cleaner", "Work", "add_up", "clip_limits", "difference", "split_background"]

UNUSABLE = np.uint8(dq.DO_NOT_USE | dq.JUMP_DET)
#: limit of the clips that find the level and width of the background [sigma]
SIGMA = 3.0
#: columns that are sorted side by side
LANES = 64


@kernel
def clip_limits(values, start, stop, below, above, halved, sums, squares):
    """Limits of background values.

    Parameters
    ----------
    values : float32 [value]
        Sorted.
    start, stop : int
        Which of them; at least one.
    below, above : float
        Limits below and above the centre [sigma].
    halved : bool
        Take the width from the values below the centre, mirrored.
    sums, squares : float64 [value + 1]
        Working arrays.

    Returns
    -------
    low, high : float
        Limits.
    """
    zero = np.float64(values[(start + stop) // 2])
    sums_of_squares(values, start, stop, zero, sums, squares)
    _, _, centre, width = clipped_stretch(values, start, stop, SIGMA, zero, sums, squares)
    if halved:
        width = half_width(values, start, stop, centre, SIGMA, squares)
    return centre - below * width, centre + above * width


@kernel
def difference(group, flags, scene, flat, before, image, good):
    """Take the difference to the group before, without the flat's structure, and find its background.

    Parameters
    ----------
    group : float32 [y, x]
        Signal [DN].
    flags : uint8 [y, x]
        Samples with DO_NOT_USE or JUMP_DET do not count.
    scene : bool [y, x]
        True where there is background only.
    flat : float32 [y, x]
        The difference is divided by it.
    before : float32 [y, x]
        The group before as it came; replaced by this one.
    image : float32 [y, x]
        Written.
    good : bool [y, x]
        Written: background that can be used.

    Returns
    -------
    count : int
        How many pixels are.
    """
    count = 0
    for y in range(group.shape[0]):
        for x in range(group.shape[1]):
            value = (group[y, x] - before[y, x]) / flat[y, x]
            before[y, x] = group[y, x]
            keep = scene[y, x] and not flags[y, x] & UNUSABLE and np.isfinite(value)
            image[y, x] = value
            good[y, x] = keep
            count += keep
    return count


@kernel
def _gather(image, good, work):
    """List the values of the background; returns how many there are."""
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if good[y, x]:
                work[count] = image[y, x]
                count += 1
    return count


@kernel
def _keep(image, good, low, high):
    """Leave values beyond limits out of the background; returns how many stay."""
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            keep = good[y, x] and image[y, x] >= low and image[y, x] <= high
            good[y, x] = keep
            count += keep
    return count


@kernel
def clip_image(image, good, sigma, work, spare, sums, squares):
    """Leave values out of the background that stand out of it.

    Parameters
    ----------
    image : float32 [y, x]
        Values.
    good : bool [y, x]
        The background, changed in place.
    sigma : float
        Limit on both sides, in widths of the lower half.
    work, spare : float32 [pixel]
        Working arrays.
    sums, squares : float64 [pixel + 1]
        Working arrays.

    Returns
    -------
    count : int
        How many pixels stay.
    """
    count = _gather(image, good, work)
    if count == 0:
        return 0
    sort_values(work, spare, count)
    low, high = clip_limits(work, 0, count, sigma, sigma, True, sums, squares)
    return _keep(image, good, low, high)


@kernel
def split_background(image, good, n_sigma, work, spare, sums, squares):
    """Take a level off, and leave out of the background what stands out of it.

    Parameters
    ----------
    image : float32 [y, x]
        Values, the level is subtracted.
    good : bool [y, x]
        The background, changed in place.
    n_sigma : float
        Limit of the second clip [sigma]; 0: there is none.
    work, spare : float32 [pixel]
        Working arrays.
    sums, squares : float64 [pixel + 1]
        Working arrays.

    Returns
    -------
    level : float32
        The level; NaN when there is no background.
    """
    count = _gather(image, good, work)
    if count == 0:
        return np.float32(np.nan)
    sort_values(work, spare, count)
    low, high = clip_limits(work, 0, count, SIGMA, SIGMA, True, sums, squares)
    first, last = 0, count
    while first < last and work[first] < low:
        first += 1
    while last > first and work[last - 1] > high:
        last -= 1
    if first == last:
        return np.float32(np.nan)
    half = (first + last) // 2
    level = work[half]
    if (last - first) % 2 == 0:
        level = np.float32(0.5) * (work[half - 1] + work[half])
    inner, outer = -np.inf, np.inf
    if n_sigma > 0.0:
        for k in range(first, last):
            work[k] -= level
        inner, outer = clip_limits(work, first, last, n_sigma, n_sigma, True, sums, squares)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            value = image[y, x]
            rest = value - level
            keep = value >= low and value <= high and rest >= inner and rest <= outer
            good[y, x] = good[y, x] and keep
            image[y, x] = rest
    return level


@kernel
def add_up(earlier, group, image, level, flat):
    """Put background and flat back, and the cleaned difference onto the cleaned group before.

    Parameters
    ----------
    earlier : float32 [y, x]
        The group before, cleaned.
    group : float32 [y, x]
        Written; what is NaN stays NaN.
    image : float32 [y, x]
        Cleaned difference.
    level : float32 [y, x] or [1, 1]
        Background, of each pixel or of all.
    flat : float32 [y, x]
        The flat's structure.
    """
    one = level.size == 1
    for y in range(group.shape[0]):
        for x in range(group.shape[1]):
            if np.isnan(group[y, x]):
                continue
            rest = level[0, 0] if one else level[y, x]
            group[y, x] = earlier[y, x] + (image[y, x] + rest) * flat[y, x]


@dataclass(frozen=True)
class Work:
    """Working arrays for one integration.

    Parameters
    ----------
    before, image : float32 [y, x]
        The group before as it came; the difference.
    good : bool [y, x]
        Its background.
    work, spare : float32 [pixel]
        Values, sorted.
    sums, squares : float64 [pixel + 1]
        Running sums of them.
    waves
        Those of `tsostream.operators.flicker_waves.subtract_waves`; empty where no waves are fitted.
    lanes : float32 [y, lane]
        Columns that are sorted side by side; None where lines are not.
    """

    before: np.ndarray
    image: np.ndarray
    good: np.ndarray
    work: np.ndarray
    spare: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    waves: tuple[np.ndarray, ...] = ()
    lanes: np.ndarray | None = None

    @property
    def sorting(self) -> tuple[np.ndarray, ...]:
        """Arguments of kernels that sort."""
        return self.work, self.spare, self.sums, self.squares


@dataclass(frozen=True)
class Cleaner:
    """How one integration is cleaned.

    Parameters
    ----------
    along_x
        The lines run along x (else along y).
    channels
        Parts each line is cut into.
    subtract_level
        Subtract a level of each difference first (background_method ``median``).
    n_sigma
        Limit of the second clip of the background [sigma].
    waves
        Fit waves, not lines.
    model
        ``model(image, good)`` gives the background of each pixel, float32 [y, x], or one level, float32 [1, 1]
        (background_method ``model``).
    flat : float32 [y, x]
        What the difference is divided by before it is judged.
    pairs : int32 [comparator, 2]
        Comparators that sort a column, where the lines are short columns; else empty.
    """

    along_x: bool
    channels: int
    flat: np.ndarray
    subtract_level: bool = False
    n_sigma: float = 2.0
    waves: WaveTables | None = None
    model: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int32))

    def clean(
        self,
        data: np.ndarray,
        groupdq: np.ndarray,
        scene: np.ndarray,
        work: Work,
        background: np.ndarray | None = None,
    ) -> bool:
        """Clean the differences of one integration.

        Parameters
        ----------
        data : float32 [group, y, x]
            Signal [DN], changed in place; the first group stays.
        groupdq : uint8 [group, y, x]
            Samples with DO_NOT_USE or JUMP_DET do not count.
        scene : bool [y, x]
            True where there is background only.
        work
            Working arrays.
        background : float32 [group, y, x]
            The backgrounds are written here, if it is given; 0 in the first group.

        Returns
        -------
        bool
            False when the waves of a group could not be found; it is left as it is.
        """
        good, image, done = work.good, work.image, True
        work.before[...] = data[0]
        if background is not None:
            background[0] = 0.0
        for g in range(1, len(data)):
            if background is not None:
                background[g] = 0.0
            if difference(data[g], groupdq[g], scene, self.flat, work.before, image, good) == 0:
                continue
            level = self._take_background(work)
            if np.isnan(level[0, 0]):
                continue
            if not self._take_noise(work):
                done = False
                continue
            if background is not None:
                background[g] = level
            add_up(data[g - 1], data[g], image, level, self.flat)
        return done

    def clean_against(
        self,
        data: np.ndarray,
        expected: Callable[[int], np.ndarray],
        scene: np.ndarray,
        work: Work,
        background: np.ndarray | None = None,
    ) -> bool:
        """Clean what differs from expected groups; all groups, whatever their flags.

        Parameters
        ----------
        data : float32 [group, y, x]
            Signal [DN], changed in place.
        expected
            ``expected(g)`` gives what group g should be, float64 [y, x].
        scene, work
            As in `clean`.
        background : float32 [group, y, x]
            What groups should be is written here, if it is given; 0 where nothing is cleaned.
        """
        done = True
        if background is not None:
            background[...] = 0.0
        for g in range(len(data)):
            wanted = expected(g)
            np.divide(data[g] - wanted, self.flat, out=work.image, casting="same_kind")
            np.logical_and(scene, np.isfinite(work.image), out=work.good)
            if not work.good.any():
                continue
            if not self._take_noise(work):
                done = False
                continue
            data[g] = wanted + work.image * self.flat
            if background is not None:
                background[g] = wanted
        return done

    def _take_background(self, work: Work) -> np.ndarray:
        if self.model is not None:
            # limits of the official step: three widths of the lower half
            if clip_image(work.image, work.good, SIGMA, *work.sorting) == 0:
                return np.full((1, 1), np.nan, np.float32)
            level = self.model(work.image, work.good)
            np.subtract(work.image, level, out=work.image)
            if self.n_sigma > 0:
                clip_image(work.image, work.good, self.n_sigma, *work.sorting)
            return level
        if self.subtract_level:
            one = split_background(work.image, work.good, self.n_sigma, *work.sorting)
            return np.full((1, 1), one, np.float32)
        return np.zeros((1, 1), np.float32)

    def _take_noise(self, work: Work) -> bool:
        if self.waves is not None:
            return bool(subtract_waves(work.image, work.good, *self.waves.arguments(), *work.waves))
        if work.lanes is not None:
            middle_of_columns(work.image, work.good, work.lanes, self.pairs)
        else:
            middle_of_lines(work.image, work.good, self.along_x, self.channels, work.work)
        return True

    def scratch(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name -> shape and type of the working arrays of one integration."""
        plane, size = self.flat.shape, self.flat.size
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "before": (plane, np.float32), "image": (plane, np.float32), "good": (plane, np.bool_),
            "work": ((size,), np.float32), "spare": ((size,), np.float32),
            "sums": ((size + 1,), np.float64), "squares": ((size + 1,), np.float64),
        }  # fmt: skip
        if len(self.pairs):
            shapes["lanes"] = ((plane[0], LANES), np.float32)
        arrays = {f"clean_flicker_noise.{name}": shape for name, shape in shapes.items()}
        return arrays if self.waves is None else arrays | wave_scratch(plane, self.waves.most)

    def work(self, scratch: Mapping[str, np.ndarray], i: int) -> Work:
        """Working arrays of integration ``i`` of a tile."""
        names = ("before", "image", "good", "work", "spare", "sums", "squares")
        own = [scratch[f"clean_flicker_noise.{name}"][i] for name in names]
        waves: tuple[np.ndarray, ...] = ()
        if self.waves is not None:
            waves = tuple(scratch[f"clean_flicker_noise.wave_{name}"][i] for name in WAVE_SCRATCH)
        before, image, good, values, spare, sums, squares = own
        lanes = scratch["clean_flicker_noise.lanes"][i] if len(self.pairs) else None
        return Work(before, image, good, values, spare, sums, squares, waves, lanes)
