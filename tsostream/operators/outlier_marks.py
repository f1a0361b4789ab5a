"""Kernels that remember samples for the streaming outlier detection: levels divided out, and three bits of each.

Most samples are no outliers, and little has to be known to see it. The scout's image tells where a pixel is expected at
level 1, and its noise a reach about that place. When at least half of a window's samples are within reach, and the
sample's own limits lie around all of the reach, then no more than half of the window lies beyond either limit, whatever
the samples are. Whether a sample is within reach, and whether its limits are around it, is a function of the sample
alone: it is found when the integration is at hand, and kept as one bit each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.jit import kernel

__all__ = ["FAR", "MARKS", "NEAR", "THERE", "Typical", "pack_flags", "remember_samples"]

#: bits of a sample: within reach; limits not around the reach; there at all
NEAR, FAR, THERE = range(3)
MARKS = 3
#: the quick test asks for this share of the squared limit, so that no rounding settles what counting would not
SURE = np.float32(0.98)
#: multiplies eight bytes of 0 or 1 so that their bits stand side by side in the highest byte
_GATHER = np.uint64(0x0102040810204080)


class Typical(NamedTuple):
    """What is expected of each pixel.

    Attributes
    ----------
    share : float32 [y, x]
        Part of its light that is the source's.
    expected : float32 [y, x]
        Its slope at level 1; NaN where nothing is expected.
    reach : float32 [y, x]
        Distance from it that is nothing unusual.
    excess : float32 [y, x]
        Variance beyond the errors that the pixel shows in time, at level 1.
    """

    share: np.ndarray
    expected: np.ndarray
    reach: np.ndarray
    excess: np.ndarray


@kernel
def _divide_row(data, bits, bad, row, columns, share, level, plane):
    """Divide the level out of a row, and keep it.

    Rows of their own, and few arrays at a time, let the compiler do several pixels at once.
    """
    one, nan = np.float32(1.0), np.float32(np.nan)
    for x in range(plane.size):
        level[x] = one + (row * columns[x] - one) * share[x]
    for x in range(plane.size):
        value = data[x] / level[x]
        # no branches; only finite values have difference 0
        good = ((bits[x] & bad) == 0) & (value - value == 0)
        plane[x] = value if good else nan


@kernel
def _mark_near(value, expected, reach, away, near):
    """Mark the samples of a row within reach, and find how far the far end of the reach is from each."""
    for x in range(value.size):
        distance = abs(value[x] - expected[x])
        away[x] = distance + reach[x]
        # NaN is not within reach
        near[x] = np.uint8(distance <= reach[x])


@kernel
def _mark_far(value, err, excess, level, away, limit2, there, far):
    """Mark the samples of a row that are there, and those whose limits are not around the reach.

    Neither a root nor a division is taken: both sides are squared, and multiplied by the square of the level.
    """
    for x in range(value.size):
        there[x] = np.uint8((value[x] == value[x]) & (err[x] == err[x]))
    for x in range(value.size):
        end = away[x] * level[x]
        error2 = err[x] * err[x] + excess[x] * (level[x] * level[x])
        far[x] = np.uint8(~(end * end <= limit2 * error2)) & there[x]


@kernel
def pack_flags(eights, words):
    """Put flags, eight of them in each number, into words of 64."""
    for w in range(words.size):
        word = np.uint64(0)
        for k in range(8):
            word |= ((eights[8 * w + k] * _GATHER) >> np.uint64(56)) << np.uint64(8 * k)
        words[w] = word


@kernel
def remember_samples(data, bits, bad, err, rows, columns, typical, snr, planes, marks):
    """Divide the source's level out of slopes, and mark what is nothing unusual.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Slopes.
    bits : uint32 [integration, y, x]
        DQ.
    bad : uint32
        Bits that make a sample unfit.
    err : float32 [integration, y, x]
        1-sigma error of the slopes.
    rows, columns : float32 [integration, y], [integration, x]
        Level of the source is their product.
    typical : Typical
        Of the pixels.
    snr : float32
        Limit [sigma].
    planes : float32 [integration, y, x]
        Written: what the slopes were at level 1; NaN for unfit samples.
    marks : uint64 [integration, mark, y, word]
        Written: the bits of each sample, those of a row in words of their own.
    """
    ny, nx = planes.shape[1:]
    limit2 = snr * snr * SURE
    flags = np.zeros((MARKS, 64 * marks.shape[3]), np.uint8)
    eights = flags.view(np.uint64)
    level, away = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for i in range(planes.shape[0]):
        for y in range(ny):
            plane = planes[i, y]
            _divide_row(data[i, y], bits[i, y], bad, rows[i, y], columns[i], typical.share[y], level, plane)
            _mark_near(plane, typical.expected[y], typical.reach[y], away, flags[NEAR, :nx])
            _mark_far(
                plane, err[i, y], typical.excess[y], level, away, limit2, flags[THERE, :nx], flags[FAR, :nx]
            )
            for mark in range(MARKS):
                pack_flags(eights[mark], marks[i, mark, y])
