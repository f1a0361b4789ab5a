"""Wavelength grids and matrices of the SOSS detector model (Darveau-Bernier et al. 2022, spec stages 2-3, B.9).

A wavelength map that depends on the column alone makes all pixels of a column see the same spectrum, so the matrices
here have one row per column; what differs between the pixels is their share in the spatial profile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.interpolate import RectBivariateSpline, make_interp_spline

__all__ = [
    "Function", "SpectralKernel", "combined_grid", "convolution", "derivative", "pixel_edges", "pixel_integrals",
    "split_grid", "throughput_function",
]  # fmt: skip

Function = Callable[[np.ndarray], np.ndarray]

#: grid points are never closer than this [µm], about a hundredth of a pixel
CLOSEST = 1e-5
#: an integral this exact is not refined any more, whatever its size
ABSOLUTE = 1e-6


def throughput_function(table: np.ndarray) -> Function:
    """Interpolate a throughput by a cubic spline that ends flat at zero.

    Parameters
    ----------
    table : float64 [2, point]
        Wavelength, rising, and throughput.
    """
    wave, value = np.sort(table[0]), table[1].copy()
    value[0] = value[-1] = 0.0
    spline = make_interp_spline(wave, value, k=3, bc_type=("clamped", "clamped"))
    return lambda at: spline(np.clip(at, wave[0], wave[-1]))


def pixel_edges(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shorter and longer wavelength at the edges of pixels in a row; 0 where a pixel has none.

    Edges lie half way between the centres of neighbours; the outermost pixels are as wide as their neighbours.
    """
    short, long = np.zeros_like(wave), np.zeros_like(wave)
    known = np.flatnonzero(np.isfinite(wave) & (wave >= 0))
    if known.size < 2:
        return short, long
    centre = wave[known]
    half = np.diff(centre) / 2
    left = centre - np.concatenate([half[:1], half])
    right = centre + np.concatenate([half, half[-1:]])
    short[known], long[known] = np.minimum(left, right), np.maximum(left, right)
    return short, long


def split_grid(grid: np.ndarray, parts: int | np.ndarray) -> np.ndarray:
    """Divide each interval of a grid into so many equal parts."""
    counts = np.broadcast_to(np.asarray(parts), (len(grid) - 1,))
    at = np.cumsum(np.concatenate([[0.0], np.repeat(1.0 / counts, counts)]))
    return np.unique(np.interp(at, np.arange(grid.size), grid))


def pixel_integrals(
    grid: np.ndarray, short: np.ndarray, long: np.ndarray, use: np.ndarray
) -> sparse.csr_matrix:
    """Integrate a function that is straight between grid points over each pixel: a matrix [pixel, grid point].

    Parameters
    ----------
    grid : float64 [point]
        Rising.
    short, long : float64 [pixel]
        Edges of the pixels, inside the grid where `use`.
    use : bool [pixel]
        Pixels to integrate; rows of the others are empty.
    """
    step = np.diff(grid)
    pixel = np.flatnonzero(use)
    first = np.clip(np.searchsorted(grid, short[pixel], side="right") - 1, 0, step.size - 1)
    last = np.clip(np.searchsorted(grid, long[pixel], side="left") - 1, first, step.size - 1)
    # one entry for each interval of the grid that a pixel touches
    count = last - first + 1
    row = np.repeat(pixel, count)
    k = np.arange(row.size) - np.repeat(np.cumsum(count) - count - first, count)
    low, high = np.maximum(grid[k], short[row]), np.minimum(grid[k + 1], long[row])
    # the mean of a straight line over a part of an interval is its value half way
    right = (high - low) * ((low + high) / 2 - grid[k]) / step[k]
    left = (high - low) - right
    entries = np.concatenate([left, right]), (np.concatenate([row, row]), np.concatenate([k, k + 1]))
    return sparse.csr_matrix(entries, shape=(short.size, grid.size))


def derivative(grid: np.ndarray) -> sparse.csr_matrix:
    """First derivative of a function on a grid, a matrix [interval, point]."""
    slope = 1.0 / np.diff(grid)
    return sparse.diags_array([-slope, slope], offsets=[0, 1], shape=(grid.size - 1, grid.size)).tocsr()


class SpectralKernel:
    """The line-spread kernel of an order, tabulated over oversampled pixels at some wavelengths.

    Parameters
    ----------
    centres : float64 [kernel]
        Wavelengths of the kernels, rising [µm].
    kernels : float64 [sample, kernel]
        Values.
    trace : float64 [x]
        Wavelength of each column; 0 where the order has none.
    reach
        Pixels the kernels cover, an odd number.
    """

    def __init__(self, centres: np.ndarray, kernels: np.ndarray, trace: np.ndarray, reach: int):
        self.half = reach // 2
        pixels = np.linspace(-self.half, self.half, kernels.shape[0])
        lit = trace != 0
        both = lit[1:] & lit[:-1]
        if np.diff(trace)[both].mean() < 0:
            trace, lit = trace[::-1], lit[::-1]
        known = trace[lit & (trace > 0)]
        first, last = np.searchsorted(centres, known.min()), np.searchsorted(centres, known.max()) - 1
        box = [None, None, centres[max(first - 1, 0)], centres[min(last + 1, centres.size - 1)]]
        kernels = kernels[:, first : last + 1]
        self.least = float(kernels[kernels > 0].min())
        around = np.arange(-self.half, self.half + 1)
        middle, lines = [], []
        for centre in centres[first : last + 1]:
            distance = np.where(lit, np.abs(trace - centre), np.inf)
            column = int(np.argmin(distance))
            at = column + around
            good = (at >= 0) & (at < trace.size)
            good[good] &= lit[at[good]]
            slope, offset = (
                np.polynomial.Polynomial.fit(around[good], trace[at[good]], 1).convert().coef[::-1]
            )
            # in the precision of the reference, as officially: the spline below takes it for a node
            middle.append(centres.dtype.type(trace[column]))
            lines.append((slope, offset))
        self.middle = np.array(middle, np.float64)
        self.lines = np.array(lines)
        # a subarray cut to some columns sees few of the kernels
        degree = max(1, min(3, len(middle) - 1))
        self.spline = RectBivariateSpline(pixels, self.middle, kernels, bbox=box, ky=degree)

    def __call__(self, wave: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Give the kernel about ``centre`` at ``wave``; zero beyond its reach."""
        k = np.clip(np.searchsorted(self.middle, centre) - 1, 0, self.middle.size - 2)
        share = (centre - self.middle[k]) / (self.middle[k + 1] - self.middle[k])
        slope = (1 - share) * self.lines[k, 0] + share * self.lines[k + 1, 0]
        offset = (1 - share) * self.lines[k, 1] + share * self.lines[k + 1, 1]
        pixel = (wave - offset) / slope
        value = np.zeros(pixel.shape)
        near = np.abs(pixel) <= self.half
        value[near] = np.maximum(self.spline(pixel[near], centre[near], grid=False), self.least)
        return value


def convolution(kernel: SpectralKernel | None, grid: np.ndarray, span: tuple[int, int]) -> sparse.csr_matrix:
    """Convolve a function on a grid, giving its values at ``grid[span]``: a matrix [point of span, point].

    Parameters
    ----------
    kernel
        None for none.
    grid : float64 [point]
    span
        First point, and the one after the last.
    """
    low, high = span
    rows = np.arange(high - low)
    shape = (high - low, grid.size)
    if kernel is None:
        return sparse.csr_matrix((np.ones(rows.size), (rows, rows + low)), shape=shape)
    centre = grid[low:high]
    bands = {0: kernel(centre, centre)}
    reach = 0
    while True:
        reach += 1
        found = {}
        for side in (-reach, reach):
            at = rows + low + side
            inside = (at >= 0) & (at < grid.size)
            value = np.zeros(rows.size)
            value[inside] = kernel(grid[at[inside]], centre[inside])
            value[value < kernel.least] = 0.0
            found[side] = value
        if not any(value.any() for value in found.values()):
            break
        bands |= found
    step = np.diff(grid)
    offsets = np.array(sorted(bands))
    at = rows[None] + low + offsets[:, None]
    # trapezoids between neighbouring samples; none across the ends of the grid
    interval = at[:-1]
    inside = (interval >= 0) & (interval < grid.size - 1)
    half = np.where(inside, 0.5 * step[np.clip(interval, 0, step.size - 1)], 0.0)
    weight = np.zeros(at.shape)
    weight[:-1] += half
    weight[1:] += half
    value = np.stack([bands[one] for one in offsets]) * weight
    value = value / value.sum(axis=0)
    keep = (at >= 0) & (at < grid.size)
    where = np.broadcast_to(rows, at.shape)
    return sparse.csr_matrix((value[keep], (where[keep], at[keep])), shape=shape)


def combined_grid(
    grids: list[np.ndarray], estimates: list[Function], span: tuple[float, float], *, rtol: float, most: int
) -> np.ndarray:
    """Join grids, the most important first, refined until integrals of the estimates are exact to ``rtol``.

    Parameters
    ----------
    grids
        What is covered by one already is left out of the later ones.
    estimates
        The spectrum expected, one function per grid.
    span
        Wavelengths to cover [µm].
    rtol
        Relative error of the integral over one interval.
    most
        Largest number of points.
    """
    cut: list[np.ndarray] = []
    for grid in grids:
        first = max(int(np.searchsorted(grid, span[0], side="right")) - 1, 0)
        last = min(int(np.searchsorted(grid, span[1], side="left")), len(grid) - 1)
        part = grid[first : last + 1]
        if cut and part.size:
            part = _uncovered(part, np.concatenate(cut))
        cut.append(part)
    sizes = [part.size for part in cut]
    joined = np.empty(0)
    for place, (part, estimate) in enumerate(zip(cut, estimates, strict=True)):
        if part.size < 2:
            joined = np.concatenate([joined, part])
            continue
        room = max(most - joined.size - sum(sizes[place + 1 :]), part.size)
        joined = np.concatenate([joined, _refined(part, estimate, rtol, room)])
    return np.unique(joined)


def _uncovered(grid: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Leave the points outside what is covered, and one more to join the two."""
    below, above = np.flatnonzero(grid < covered.min()), np.flatnonzero(grid > covered.max())
    parts = [grid[: below.max() + 2]] if below.size else []
    if above.size:
        parts.append(grid[max(above.min() - 1, 0) :])
    return np.concatenate(parts) if parts else np.empty(0)


def _refined(grid: np.ndarray, estimate: Function, rtol: float, room: int, rounds: int = 30) -> np.ndarray:
    """Halve the intervals in which one Romberg step changes the integral by more than the tolerance."""
    full = False
    for _ in range(rounds):
        low, high = grid[:-1], grid[1:]
        width = high - low
        ends = 0.5 * (estimate(low) + estimate(high))
        coarse = width * ends
        fine = width * (ends + estimate(low + 0.5 * width)) / 2
        better = (4.0 * fine - coarse) / 3.0
        error = np.abs(better - coarse)
        relative = np.full_like(error, np.inf)
        np.divide(error, np.abs(better), out=relative, where=better != 0)
        done = (relative < rtol) | (error < ABSOLUTE)
        if full or done.all():
            break
        parts = np.where(done, 1, 2)
        if parts.sum() > room:
            full = True
            parts = np.ones_like(parts)
            # with no room left a slice [-0:] is everything, which the official code takes as it comes
            parts[np.argsort(relative)[-(room - grid.size) :]] = 2
        grid = split_grid(grid, parts)
        spaced = [grid[0]]
        for point in grid[1:]:
            if point - spaced[-1] > CLOSEST:
                spaced.append(point)
        grid = np.array(spaced)
    return grid
