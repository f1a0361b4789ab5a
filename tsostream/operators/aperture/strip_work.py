"""What the kernels over strips share: a block's planes, and the working arrays of one integration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.operators.aperture.closing import PARTS
from tsostream.operators.aperture.lists import COEFFICIENTS, JUMP, OUTLIER, SAT
from tsostream.operators.aperture.strips import FIT_TERMS
from tsostream.operators.jit import kernel

__all__ = ["NOTABLE", "Planes", "Work", "make_work"]

#: what makes a pixel more than a term of the sums; DO_NOT_USE stands for lost ones
NOTABLE = np.uint32(SAT | JUMP | OUTLIER)


class Planes(NamedTuple):
    """A block, oriented [cross, disp].

    Attributes
    ----------
    data, vp, vr, vf : float32 [integration, cross, disp]
        Slopes and variances; ``vf`` may have no pixels.
    bits : uint32 [integration, cross, disp]
        DQ.
    """

    data: np.ndarray
    vp: np.ndarray
    vr: np.ndarray
    vf: np.ndarray
    bits: np.ndarray


class Work(NamedTuple):
    """Working arrays of one integration.

    Attributes
    ----------
    marks : uint32 [entry]
        Notable bits of the aperture's pixels, DO_NOT_USE for all that are lost.
    seen : uint32 [run]
        The same of a whole stretch.
    parts : float64 [10, column]
        As in `close_columns`.
    cover : float64 [5, column]
        Weighted sums of the profile's terms over the pixels that are not lost.
    terms : float64 [4, column]
        Data in the normal equations of the fit.
    lanes : float32 [lane, column]
        Samples of the background.
    known : int32 [column]
        How many there are.
    start, limit : float32 [column]
        First level of the background, and squared limit about it.
    ground : float64 [3, column]
        Sum, variance and number of the background pixels within the limit.
    level : float32 [column]
        Background.
    values : float32 [value]
        Background pixels of a column.
    """

    marks: np.ndarray
    seen: np.ndarray
    parts: np.ndarray
    cover: np.ndarray
    terms: np.ndarray
    lanes: np.ndarray
    known: np.ndarray
    start: np.ndarray
    limit: np.ndarray
    ground: np.ndarray
    level: np.ndarray
    values: np.ndarray


@kernel
def make_work(s):
    """Make the working arrays for `Strips`."""
    columns = s.area.size
    most = 1
    for c in range(columns):
        most = max(most, s.lists.ground_start[c + 1] - s.lists.ground_start[c])
    return Work(
        np.zeros(s.pixel.size, np.uint32),
        np.zeros(s.run.shape[0], np.uint32),
        np.zeros((PARTS, columns)),
        np.empty((COEFFICIENTS, columns)),
        np.empty((FIT_TERMS, columns)),
        np.empty((s.lanes, columns), np.float32),
        np.empty(columns, np.int32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty((3, columns)),
        np.empty(columns, np.float32),
        np.empty(most, np.float32),
    )
