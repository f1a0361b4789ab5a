"""Noise that short columns share, found and taken out in one walk: clean_flicker_noise where nothing else is asked for.

Of each difference of two groups, less what the scene adds, the median over a column is noise. The scene's image and its
rise are known, so no level of the background has to be judged first, and a median hardly moves by what a clip would
leave out: none is made here. Where `tsostream.operators.flicker` follows the official step through images of whole
differences, this goes through a stretch of columns, group after group, in arrays that stay in the level-1 cache; the
noise found so far is subtracted from each group, and no sample is summed up again.

Samples with any of the flags DO_NOT_USE, JUMP_DET and SATURATED do not count, nor does the rise from one that is not
to be used. (The official step takes saturated ones for background.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import sort_lanes
from tsostream.operators.tile import Tile

__all__ = ["ShortColumns", "clean_columns", "scene_level", "scene_steps"]

#: flags of the later and of the earlier group that spoil a difference
LATER = np.uint8(dq.DO_NOT_USE | dq.JUMP_DET | dq.SATURATED)
EARLIER = np.uint8(dq.DO_NOT_USE | dq.SATURATED)
#: columns that are sorted side by side: 32 rows of them fill half of a level-1 cache
LANES = 128


@kernel
def scene_level(data, groupdq, pixels, levels, tgroup, ratios):
    """Scale of an integration against the scene: the median over bright pixels of their rise, before any hit or loss.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN].
    groupdq : uint8 [group, y, x]
        A ramp counts up to its first flag.
    pixels : int32 [pixel]
        Flat indices of the pixels to use.
    levels : float32 [pixel]
        The scene's slope there [DN/s], positive.
    tgroup : float
        Group time [s].
    ratios : float64 [pixel]
        Working array.
    """
    nx, count = data.shape[2], 0
    for p in range(pixels.size):
        y, x = pixels[p] // nx, pixels[p] % nx
        last = 0
        while last < data.shape[0] and groupdq[last, y, x] == 0:
            last += 1
        last -= 1
        if last < 1:
            continue
        ratio = np.float64(data[last, y, x] - data[0, y, x]) / (last * tgroup * levels[p])
        if np.isfinite(ratio):
            ratios[count] = ratio
            count += 1
    return np.median(ratios[:count]) if count > 0 else 1.0


@kernel
def scene_steps(data, groupdq, pixels, levels, tgroup, ratios, steps):
    """Find by how much of its slope the scene rises from group to group [s], in each integration.

    Parameters
    ----------
    data, groupdq : float32, uint8 [integration, group, y, x]
        As `scene_level`; so the others.
    pixels, levels, tgroup, ratios
        Without pixels: there is no scene.
    steps : float64 [integration]
        Written.
    """
    for i in range(data.shape[0]):
        steps[i] = 0.0
        if pixels.size > 0:
            steps[i] = tgroup * scene_level(data[i], groupdq[i], pixels, levels, tgroup, ratios)


@kernel
def _rise(group, before, scene, step, rise):
    """Rise of a row since the group before (replaced by this one), less the scene's; NaN where the scene is."""
    for x in range(rise.size):
        rise[x] = (group[x] - before[x]) - step * scene[x]
    for x in range(rise.size):
        before[x] = group[x]


@kernel
def _leave_out(flags, earlier, spoilt, words, rise):
    """Make a rise NaN that a flag spoils (``words``: the bytes of ``spoilt`` by eights, for a quick look)."""
    for x in range(rise.size):
        spoilt[x] = (flags[x] & LATER) | (earlier[x] & EARLIER)
    some = np.uint64(0)
    for k in range(words.size):
        some |= words[k]
    if some == 0:
        return
    zero, nothing = np.float32(0.0), np.float32(np.nan)
    for x in range(rise.size):
        # not stored unchanged: see `sort_lanes`
        rise[x] = nothing if spoilt[x] else rise[x] + zero


@kernel
def _fill(rise, filling):
    """Put infinities, by turns of one and the other sign, where no number is: so the middle of a column stays it."""
    zero, most = np.float32(0.0), np.float32(np.inf)
    for x in range(rise.size):
        # not stored unchanged: see `sort_lanes`
        value, other = rise[x] + zero, filling[x] + zero
        good = abs(value) < most
        rise[x] = value if good else other
        filling[x] = other if good else -other


@kernel
def _add_middles(lanes, filling, total):
    """Add the medians of sorted columns to what was found before; nothing where a column has no number.

    The first infinity filled in was positive. After an even number of them the middle of all is the middle of the
    numbers; after an odd number there is one more above than below.
    """
    ny = lanes.shape[0]
    low, high = lanes[max(ny // 2 - 1, 0)], lanes[ny // 2]
    one = high if ny % 2 else low
    turn = np.float32(-1.0) if ny % 2 else np.float32(1.0)
    most, half = np.float32(np.inf), np.float32(0.5)
    for x in range(total.size):
        middle = half * (low[x] + high[x]) if filling[x] * turn > 0 else one[x]
        total[x] += middle if abs(middle) < most else np.float32(0.0)


@kernel
def clean_columns(data, groupdq, scene, steps, pairs):
    """Subtract from every group what its columns gathered up to it.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN], changed in place; the first group stays, NaN stays NaN.
    groupdq : uint8 [integration, group, y, x]
        See the module.
    scene : float32 [y, x]
        Slope of the scene [DN/s]; NaN where a pixel does not count.
    steps : float64 [integration]
        As `scene_steps`.
    pairs : int32 [comparator, 2]
        Of `tsostream.operators.sorting.median_comparators` for so many rows.
    """
    n, ngroups, ny, nx = data.shape
    lanes, before = np.zeros((ny, LANES), np.float32), np.empty((ny, LANES), np.float32)
    filling, total = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    spoilt = np.zeros(LANES, np.uint8)
    words = spoilt.view(np.uint64)
    for i in range(n):
        step = np.float32(steps[i])
        for start in range(0, nx, LANES):
            stop = min(start + LANES, nx)
            width = stop - start
            total[:] = 0
            for y in range(ny):
                before[y, :width] = data[i, 0, y, start:stop]
            for g in range(1, ngroups):
                filling[:] = np.inf
                for y in range(ny):
                    rise = lanes[y, :width]
                    _rise(data[i, g, y, start:stop], before[y, :width], scene[y, start:stop], step, rise)
                    flags, earlier = groupdq[i, g, y, start:stop], groupdq[i, g - 1, y, start:stop]
                    _leave_out(flags, earlier, spoilt, words, rise)
                    _fill(rise, filling)
                sort_lanes(lanes, pairs)
                _add_middles(lanes, filling, total)
                for y in range(ny):
                    group, raw = data[i, g, y, start:stop], before[y]
                    for x in range(width):
                        group[x] = raw[x] - total[x]


@dataclass(frozen=True)
class ShortColumns:
    """How the columns of an exposure are cleaned.

    Parameters
    ----------
    scene : float32 [y, x]
        As `clean_columns`.
    pixels, levels, tgroup
        As `scene_steps`.
    pairs : int32 [comparator, 2]
        As `clean_columns`.
    """

    scene: np.ndarray
    pixels: np.ndarray
    levels: np.ndarray
    tgroup: float
    pairs: np.ndarray

    def clean(self, tile: Tile) -> np.ndarray:
        """Clean all integrations of a tile; gives their `scene_steps`."""
        steps, ratios = np.empty(tile.count), np.empty(self.pixels.size)
        scene_steps(tile.data, tile.groupdq, self.pixels, self.levels, self.tgroup, ratios, steps)
        clean_columns(tile.data, tile.groupdq, self.scene, steps, self.pairs)
        return steps
