"""How bright the source is in an integration, by wavelength, and how much of each pixel's light is the source's.

A change of the source's brightness must not be mistaken for a bad pixel, nor hide one: pixels of the source follow its
level, pixels of the background do not. So the expected signal of a pixel is its template times
``1 + (level - 1) * share`` with `share` the part of the template that is the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import comparators, sort_lanes

__all__ = ["SourceLevel", "find_source", "source_level", "spread_level"]

#: pixels that decide about the level of a stretch of the spectrum, and the fewest that can
NODE_PIXELS = 96
LEAST_PIXELS = 24
#: columns of a stretch, and the most stretches
NODE_COLUMNS = 48
MOST_NODES = 32
#: levels that are found side by side
LANES = 32
#: levels outside are no levels of a source that is still there
LOWEST, HIGHEST = 0.02, 50.0

_LOST = np.uint32(dq.DO_NOT_USE)


@kernel
def source_level(data, bits, start, pixels, ground, source, pairs, level):
    """Level of the source against the template: the median of (signal - ground) / source over bright pixels.

    Parameters
    ----------
    data : float32 [integration, y, x]
        Any unit.
    bits : uint32 [integration, y, x]
        DQ; pixels with DO_NOT_USE do not count.
    start : int64 [node + 1]
        Where each node's pixels begin in the lists.
    pixels : int32 [pixel]
        Flat indices.
    ground, source : float32 [pixel]
        Template of the background and of the source there; the latter positive.
    pairs : int32 [comparator, 2]
        Comparators for the longest list, as `tsostream.operators.sorting.comparators`.
    level : float64 [integration, node]
        Written; NaN where no pixel counts.
    """
    slopes, flags = data.reshape(data.shape[0], -1), bits.reshape(data.shape[0], -1)
    longest = 0
    for node in range(start.size - 1):
        longest = max(longest, start[node + 1] - start[node])
    # lists lie side by side, and are sorted together: those of an integration's nodes, then of the next one
    nodes = start.size - 1
    total = data.shape[0] * nodes
    lanes = np.empty((longest, min(LANES, total)), np.float32)
    count = np.empty(lanes.shape[1], np.int64)
    for first in range(0, total, LANES):
        filled = min(lanes.shape[1], total - first)
        # what is missing sorts behind all others
        lanes[:, :] = np.inf
        for lane in range(filled):
            i, node = divmod(first + lane, nodes)
            known = 0
            for p in range(start[node], start[node + 1]):
                value = (slopes[i, pixels[p]] - ground[p]) / source[p]
                # only finite values have difference 0
                if (value - value == 0) & ((flags[i, pixels[p]] & _LOST) == 0):
                    lanes[known, lane] = value
                    known += 1
            count[lane] = known
        sort_lanes(lanes, pairs)
        for lane in range(filled):
            i, node = divmod(first + lane, nodes)
            half = count[lane] // 2
            if count[lane] == 0:
                level[i, node] = np.nan
            elif count[lane] % 2:
                level[i, node] = lanes[half, lane]
            else:
                level[i, node] = 0.5 * (np.float64(lanes[half - 1, lane]) + np.float64(lanes[half, lane]))


@kernel
def spread_level(level, left, share, lowest, highest, line):
    """Levels between the nodes, on straight pieces.

    Parameters
    ----------
    level : float64 [integration, node]
        At the nodes.
    left : int64 [place]
        Node to the left of each place.
    share : float64 [place]
        How far it is towards the next one.
    lowest, highest : float
        Levels outside are set to these.
    line : float32 [integration, place]
        Written.
    """
    last = level.shape[1] - 1
    for i in range(level.shape[0]):
        for x in range(left.size):
            value = level[i, left[x]] * (1.0 - share[x]) + level[i, min(left[x] + 1, last)] * share[x]
            line[i, x] = min(max(value, lowest), highest)


@dataclass(frozen=True)
class SourceLevel:
    """The source in the scout's template.

    Parameters
    ----------
    share : float32 [y, x]
        Part of each pixel's light that is the source's, 0 to 1.
    start, pixels, ground, source
        Of `source_level`.
    node : float64 [node]
        Where each node is along the dispersion [px]; one node for images.
    axis
        Dispersion along x (1), along y (2), or an image (0).
    """

    share: np.ndarray
    start: np.ndarray
    pixels: np.ndarray
    ground: np.ndarray
    source: np.ndarray
    node: np.ndarray
    axis: int

    def measure(self, data: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Level of each integration at each node, float64 [integration, node]."""
        level = np.empty((len(data), len(self.node)))
        source_level(data, bits, self.start, self.pixels, self.ground, self.source, self._comparators, level)
        return level

    def spread(self, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levels of rows and columns, float32 [integration, y] and [integration, x]; one of them is 1.

        A node without a level takes its neighbours'; an integration without any counts as usual.
        """
        ny, nx = self.share.shape
        rows, columns = np.ones((len(level), ny), np.float32), np.ones((len(level), nx), np.float32)
        target = rows if self.axis == 2 else columns
        good = np.isfinite(level) & (level > LOWEST) & (level < HIGHEST)
        whole = good.all(axis=1) & (level.shape[1] > 0)
        left, share = self._pieces
        if whole.all() and len(whole):
            spread_level(level, left, share, LOWEST, HIGHEST, target)
        elif whole.any():
            line = np.empty((int(whole.sum()), target.shape[1]), np.float32)
            spread_level(level[whole], left, share, LOWEST, HIGHEST, line)
            target[whole] = line
        if whole.all():
            return rows, columns
        place = np.arange(target.shape[1], dtype=np.float64)
        for i in np.flatnonzero(~whole & good.any(axis=1)):
            target[i] = _line_through(place, self.node[good[i]], level[i, good[i]])
        return rows, columns

    @cached_property
    def _comparators(self) -> np.ndarray:
        """Comparators that sort the longest list."""
        return comparators(int(np.diff(self.start).max(initial=1)))

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Node to the left of each pixel along the dispersion, and how far the pixel is towards the next one."""
        length, node = self.share.shape[0 if self.axis == 2 else 1], self.node
        if len(node) < 2:
            return np.zeros(length, np.int64), np.zeros(length)
        place = np.arange(length, dtype=np.float64)
        left = np.clip(np.searchsorted(node, place, side="right") - 1, 0, len(node) - 2)
        return left, (place - node[left]) / (node[left + 1] - node[left])


def _line_through(place: np.ndarray, node: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Straight pieces from node to node, the outermost ones carried on to the edges."""
    line = np.interp(place, node, value)
    if len(node) > 1:
        for edge, inner, outside in ((0, 1, place < node[0]), (-1, -2, place > node[-1])):
            slope = (value[edge] - value[inner]) / (node[edge] - node[inner])
            line[outside] = value[edge] + slope * (place[outside] - node[edge])
    return np.clip(line, LOWEST, HIGHEST)


def find_source(templates: Mapping[str, Any], info: ExposureInfo, pixeldq: np.ndarray) -> SourceLevel:
    """Tell the source from its background in the scout's image.

    Parameters
    ----------
    templates
        ``image`` and ``variance`` float32 [y, x]; without them nothing is source.
    info
        The exposure.
    pixeldq : uint32 [y, x]
        Static flags.
    """
    image = templates.get("image")
    if image is None:
        return _nothing(info)
    axis = info.dispaxis
    image = np.asarray(image, np.float64)
    error = np.sqrt(np.clip(np.asarray(templates["variance"], np.float64), 0, None))
    usable = np.isfinite(image) & np.isfinite(error) & (error > 0) & ((pixeldq & _LOST) == 0)
    if not usable.any():
        return _nothing(info)
    ground = _ground(np.where(usable, image, np.nan), axis)
    source = image - ground
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.where(usable, source / error, 0.0)
        share = np.where(usable & (snr > 3), np.clip(source / image, 0.0, 1.0), 0.0)
    share = _fill(share, usable)
    node, chosen = _nodes(snr, axis)
    start = np.cumsum([0, *map(len, chosen)])
    pixels = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    return SourceLevel(
        share.astype(np.float32),
        start.astype(np.int64),
        pixels.astype(np.int32),
        ground.ravel()[pixels].astype(np.float32),
        source.ravel()[pixels].astype(np.float32),
        np.array(node, np.float64),
        axis,
    )


def _nothing(info: ExposureInfo) -> SourceLevel:
    empty = np.empty(0, np.float32)
    return SourceLevel(
        np.zeros(info.frame_shape, np.float32), np.zeros(1, np.int64), np.empty(0, np.int32), empty, empty,
        np.empty(0), info.dispaxis,
    )  # fmt: skip


def _ground(image: np.ndarray, axis: int) -> np.ndarray:
    """Background of each pixel: a low level of its column across the dispersion, of the whole frame in images."""
    across = {0: None, 1: 0, 2: 1}[axis]
    known = np.isfinite(image)
    if across is None:
        return np.full(image.shape, np.median(image[known]))
    # a column without a usable pixel has no source either
    filled = np.where(known.any(axis=across, keepdims=True), image, 0.0)
    return np.broadcast_to(_low_level(filled, across), image.shape)


def _low_level(image: np.ndarray, axis: int) -> np.ndarray:
    """Lower quartile of the finite values along an axis, which is kept (what `numpy.nanquantile` does list by list)."""
    ordered = np.sort(image, axis=axis)  # NaN comes last
    last = np.isfinite(image).sum(axis=axis, keepdims=True) - 1
    place = 0.25 * last
    low = np.floor(place).astype(np.int64)
    part = place - low
    below = np.take_along_axis(ordered, low, axis=axis)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=axis)
    step = above - below
    # from the nearer of the two, as NumPy does
    return np.where(part >= 0.5, above - step * (1 - part), below + step * part)


def _fill(share: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Give pixels without a template the mean share of their usable neighbours."""
    total, count = np.zeros(share.shape), np.zeros(share.shape)
    padded, there = np.pad(share * usable, 1), np.pad(usable.astype(float), 1)
    ny, nx = share.shape
    for dy in range(3):
        for dx in range(3):
            total += padded[dy : dy + ny, dx : dx + nx]
            count += there[dy : dy + ny, dx : dx + nx]
    return np.where(usable, share, total / np.maximum(count, 1))


def _nodes(snr: np.ndarray, axis: int) -> tuple[list[float], list[np.ndarray]]:
    """Centres of the stretches along the dispersion, and the flat indices of their brightest pixels."""
    place = np.broadcast_to(np.arange(snr.shape[1 - (axis == 2)]), snr.shape if axis != 2 else snr.T.shape)
    place = place.T if axis == 2 else place
    bright = np.flatnonzero(snr.ravel() > 5)
    where = place.ravel()[bright]
    count = 1
    if axis and bright.size:
        count = int(np.clip((where.max() - where.min() + 1) // NODE_COLUMNS, 1, MOST_NODES))
    edges = np.linspace(where.min(), where.max() + 1, count + 1) if bright.size else np.zeros(2)
    centres, chosen = [], []
    for low, high in pairwise(edges):
        mine = bright[(where >= low) & (where < high)]
        best = mine[np.argsort(-snr.ravel()[mine], kind="stable")[:NODE_PIXELS]]
        if best.size >= LEAST_PIXELS or (count == 1 and best.size >= 4):
            chosen.append(np.sort(best))
            centres.append(float(place.ravel()[best].mean()))
    return centres, chosen
