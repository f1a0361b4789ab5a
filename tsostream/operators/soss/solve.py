"""Spectra from images by regularised least squares: one engine per set of orders (spec stages 2-3, B.9)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.interpolate import Akima1DInterpolator
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import MatrixRankWarning, lsqr, splu, spsolve

from tsostream.operators.soss.grids import (
    Function,
    SpectralKernel,
    convolution,
    derivative,
    pixel_edges,
    pixel_integrals,
)

__all__ = ["Engine", "OrderModel", "Solver", "TooFewPixelsError", "best_factor", "factorised"]

#: gives the solutions for right-hand sides [point, ...]
Solver = Callable[[np.ndarray], np.ndarray]

#: an order with fewer pixels than this is not fitted
FEWEST = 25
#: the smoothest solution is wanted before a step of ten in the factor costs this much chi squared (Cauchy loss)
SLOPE = 1e-3


#: smallest block of a factor, below which calls cost more than numbers
LEAST_BLOCK = 64


class TooFewPixelsError(Exception):
    """An order has hardly a pixel inside the wavelength grid."""


@dataclass(frozen=True)
class OrderModel:
    """What one order does to a spectrum.

    Parameters
    ----------
    order
        Spectral order.
    wavelength : float64 [x]
        Of whole columns [µm]; NaN where there is none.
    profile : float64 [y, x]
        Spatial profile.
    trace : float64 [x]
        Wavelength on the trace, NaN where the order is not extracted.
    throughput
        Of wavelength; None for 1.
    kernel
        Line-spread kernel; None for none.
    """

    order: int
    wavelength: np.ndarray
    profile: np.ndarray
    trace: np.ndarray
    throughput: Function | None = None
    kernel: SpectralKernel | None = None

    @property
    def native(self) -> np.ndarray:
        """Wavelengths of the columns of the trace, rising."""
        return np.sort(self.trace[np.isfinite(self.trace)])


class Engine:
    """The linear model ``pixel = sum_m P_m(y, x) (G_m f)(x)`` of one or more orders on one wavelength grid.

    Parameters
    ----------
    orders
        Models.
    grid : float64 [point]
        Wavelengths at which the spectrum is solved for.
    outside : bool [order, y, x]
        Pixels that are not part of an order.
    bad : bool [y, x], optional
        Pixels that are not used at all.
    threshold
        A pixel to which all orders contribute more than this is left out where the grid does not cover all of them.

    Attributes
    ----------
    mask : bool [y, x]
        Pixels that are left out.
    spans
        Per order: points of the grid that its pixels cover.
    kernels
        Per order: convolution [point of span, point].
    matrices
        Per order: G [x, point].
    covered : bool [order, x]
        Columns inside the grid.
    """

    def __init__(
        self,
        orders: Sequence[OrderModel],
        grid: np.ndarray,
        outside: Sequence[np.ndarray],
        bad: np.ndarray | None = None,
        threshold: float = 1e-3,
    ):
        self.orders, self.grid = tuple(orders), grid
        edges = [pixel_edges(one.wavelength) for one in orders]
        everywhere = [(0, grid.size)] * len(orders)
        self.covered = np.stack(
            [_inside(grid, span, *edge) for span, edge in zip(everywhere, edges, strict=True)]
        )
        self.mask = self._masked(outside, bad, threshold)
        self.spans = [self._span(k) for k in range(len(orders))]
        self.covered = np.stack(
            [_inside(grid, span, *edge) for span, edge in zip(self.spans, edges, strict=True)]
        )
        self.mask = self._masked(outside, bad, threshold)
        self.kernels, self.matrices = [], []
        for one, span, edge, covered in zip(orders, self.spans, edges, self.covered, strict=True):
            part = grid[slice(*span)]
            through = part if one.throughput is None else part * one.throughput(part)
            kernel = convolution(one.kernel, grid, span)
            integrals = pixel_integrals(part, *edge, covered)
            self.kernels.append(kernel)
            self.matrices.append((integrals @ sparse.diags_array(through) @ kernel).tocsr())

    def _masked(self, outside: Sequence[np.ndarray], bad: np.ndarray | None, threshold: float) -> np.ndarray:
        """Pixels that no order uses, or that an order the grid does not cover contaminates."""
        mask = np.ones(outside[0].shape, bool)
        for part, covered in zip(outside, self.covered, strict=True):
            inside = ~part & covered
            if bad is not None:
                inside &= ~bad
            if inside.sum() < FEWEST:
                raise TooFewPixelsError
            mask &= ~inside
        contaminated = np.logical_and.reduce([one.profile > threshold for one in self.orders])
        return mask | (contaminated & ~self.covered.all(axis=0))

    def _span(self, k: int) -> tuple[int, int]:
        """Points of the grid between the centres of the outermost pixels that are used."""
        used = self.covered[k] & ~self.mask.all(axis=0)
        wave = self.orders[k].wavelength[used]
        first = int(np.searchsorted(self.grid, wave.min(), side="left"))
        last = int(np.searchsorted(self.grid, wave.max(), side="right"))
        return first, last

    def share(self, k: int, inverse: np.ndarray) -> np.ndarray:
        """Profile of an order times inverse variance where pixels are used, float64 [y, x]."""
        return np.where(self.mask | ~self.covered[k], 0.0, self.orders[k].profile * inverse)

    def normal(self, inverse: np.ndarray) -> sparse.csc_matrix:
        """Matrix of the normal equations [point, point], for inverse variances [y, x] (0 for no pixel)."""
        total = sparse.csc_matrix((self.grid.size, self.grid.size))
        for k, one in enumerate(self.matrices):
            share = self.share(k, inverse)
            for m, other in enumerate(self.matrices):
                column = np.where(self.mask | ~self.covered[m], 0.0, share * self.orders[m].profile).sum(
                    axis=0
                )
                total = total + one.T @ sparse.diags_array(column) @ other
        return total.tocsc()

    def right(self, data: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Right-hand side of the normal equations, float64 [point]."""
        total = np.zeros(self.grid.size)
        for k, one in enumerate(self.matrices):
            column = np.where(self.mask, 0.0, self.share(k, inverse) * np.where(self.mask, 0.0, data)).sum(
                axis=0
            )
            total += one.T @ column
        return total

    def solve(self, normal: sparse.csc_matrix, right: np.ndarray, factor: float = 0.0) -> np.ndarray:
        """Solve for the spectrum, float64 [point]; NaN where no pixel says anything."""
        slope = derivative(self.grid)
        matrix = (normal + factor**2 * (slope.T @ slope)).tocsc()
        told = np.flatnonzero(right != 0)
        found = np.full(right.size, np.nan)
        found[told] = _solve(matrix[told][:, told], right[told])
        return found

    def amplitudes(self, spectrum: np.ndarray) -> np.ndarray:
        """Give what a spectrum puts into the columns of each order, float64 [order, x]."""
        whole = np.where(np.isfinite(spectrum), spectrum, 0.0)
        return np.stack([one @ whole for one in self.matrices])

    def loss(self, spectrum: np.ndarray, data: np.ndarray, inverse: np.ndarray) -> float:
        """Mean of log(1 + r^2) over the used pixels, r in sigma."""
        model = np.zeros(self.mask.shape)
        for one, row, covered in zip(self.orders, self.amplitudes(spectrum), self.covered, strict=True):
            model += np.where(covered, one.profile * row, 0.0)
        used = ~self.mask
        return float(np.nanmean(np.log1p((model[used] - data[used]) ** 2 * inverse[used])))


class BlockCholesky:
    """Cholesky factor of a sparse symmetric matrix, in dense blocks along the diagonal.

    Two orders tie wavelengths together that lie far apart; in the order of reverse Cuthill-McKee they stand within a
    band again, whose blocks a dense library takes many right-hand sides through at its full speed.

    Parameters
    ----------
    matrix : float64 [point, point]
        Symmetric, positive definite.

    Raises
    ------
    LinAlgError
        It is not positive definite.
    """

    def __init__(self, matrix: sparse.csc_matrix):
        self.order = reverse_cuthill_mckee(matrix.tocsr(), symmetric_mode=True)
        rows = matrix.tocsr()[self.order][:, self.order]
        entries = rows.tocoo()
        block = max(LEAST_BLOCK, int(np.abs(entries.row - entries.col).max(initial=0)))
        self.edges = [*range(0, rows.shape[0], block), rows.shape[0]]
        self.diagonal: list[np.ndarray] = []
        self.below: list[np.ndarray] = []
        for low, high in pairwise(self.edges):
            own = rows[low:high, low:high].toarray()
            if self.diagonal:
                beside = rows[low:high, low - block : low].toarray()
                self.below.append(_triangle(self.diagonal[-1], beside.T).T)
                own -= self.below[-1] @ self.below[-1].T
            self.diagonal.append(cholesky(own, lower=True, check_finite=False))

    def __call__(self, right: np.ndarray) -> np.ndarray:
        """Solve for right-hand sides, float64 [point] or [point, column]."""
        parts = np.split(right[self.order], self.edges[1:-1])
        for k, factor in enumerate(self.diagonal):
            if k:
                parts[k] = parts[k] - self.below[k - 1] @ parts[k - 1]
            parts[k] = _triangle(factor, parts[k])
        for k in range(len(parts) - 1, -1, -1):
            if k + 1 < len(parts):
                parts[k] = parts[k] - self.below[k].T @ parts[k + 1]
            parts[k] = _triangle(self.diagonal[k], parts[k], transposed=True)
        solved = np.empty(right.shape)
        solved[self.order] = np.concatenate(parts)
        return solved


def _triangle(factor: np.ndarray, right: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    return solve_triangular(factor, right, lower=True, trans="T" if transposed else "N", check_finite=False)


def factorised(matrix: sparse.csc_matrix) -> Solver:
    """Factorise a symmetric matrix; one that rounding makes singular gets the least weight that helps."""
    try:
        return BlockCholesky(matrix)
    except LinAlgError:
        least = 1e-13 * abs(matrix.diagonal()).max()
        return splu((matrix + least * sparse.eye_array(matrix.shape[0])).tocsc()).solve


def _solve(matrix: sparse.csc_matrix, right: np.ndarray) -> np.ndarray:
    """Solve, in the least-squares sense where the pixels leave some combination of points open."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", MatrixRankWarning)
        try:
            return spsolve(matrix, right)
        except MatrixRankWarning:
            return lsqr(matrix, right)[0]


def _inside(grid: np.ndarray, span: tuple[int, int], short: np.ndarray, long: np.ndarray) -> np.ndarray:
    return (short >= grid[span[0]]) & (long <= grid[span[1] - 1])


def best_factor(
    engine: Engine,
    data: np.ndarray,
    inverse: np.ndarray,
    guess: float,
    span: tuple[float, float],
    rounds: int = 3,
) -> float:
    """Find the largest regularisation that does not cost any fit yet.

    Parameters
    ----------
    engine
        The model.
    data, inverse : float64 [y, x]
        A typical image and inverse variances.
    guess
        Middle of the search.
    span
        Powers of ten below and above it.
    rounds
        How often two points are added about the best one.
    """
    normal, right = engine.normal(inverse), engine.right(data, inverse)
    tested: dict[float, float] = {}

    def test(factors: np.ndarray) -> None:
        for factor in factors:
            tested[float(factor)] = engine.loss(engine.solve(normal, right, factor), data, inverse)

    test(np.logspace(np.log10(guess) + span[0], np.log10(guess) + span[1], 10))
    best = _knee(tested)
    for _ in range(rounds):
        known = np.sort(np.array(list(tested)))
        near = int(np.argmin(np.abs(np.log(known) - np.log(best))))
        if near == 0:
            more = [known[0] ** 2 / known[1], np.sqrt(known[0] * known[1])]
        elif near == known.size - 1:
            more = [np.sqrt(known[-1] * known[-2]), known[-1] ** 2 / known[-2]]
        else:
            more = [np.sqrt(known[near] * known[near - 1]), np.sqrt(known[near] * known[near + 1])]
        test(np.array(more))
        best = _knee(tested)
    return best


def _knee(tested: dict[float, float]) -> float:
    """Smallest factor at which the loss rises by more than `SLOPE` per power of ten."""
    factors = np.array(sorted(tested))
    loss = np.array([tested[factor] for factor in factors])
    good = np.isfinite(loss)
    at = np.log10(factors[good])
    fine = np.linspace(at[0], at[-1], 10000)
    steep = Akima1DInterpolator(at, loss[good], method="makima").derivative()(fine) > SLOPE
    return float(10 ** (fine[steep].min() if steep.any() else at[-1]))
