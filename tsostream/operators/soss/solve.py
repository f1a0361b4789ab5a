"""Regularised normal equations in a band, and the search for the regularisation (spec stages 2-3, B.9)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import Akima1DInterpolator
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import MatrixRankWarning, lsqr, spsolve

from tsostream.operators.soss.engine import Engine, Pixels
from tsostream.operators.soss.grids import derivative
from tsostream.operators.soss.kernels import factor_band, solve_band

__all__ = ["BandFactor", "Search", "System", "best_factor", "sparse_solve"]

#: the smoothest solution is wanted before a step of ten in the factor costs this much chi squared (Cauchy loss)
SLOPE = 1e-3
#: weight that is added to a matrix which rounding keeps from being positive definite, relative to its diagonal
LEAST = 1e-14


@dataclass(frozen=True)
class BandFactor:
    """Cholesky factor of a symmetric matrix whose points have been put in an order that makes it narrow.

    Parameters
    ----------
    order : int32 [point]
        Points of the matrix in the order of the band.
    band : float64 [point, below]
        ``band[j, t]`` is the factor's element [j + t, j].
    """

    order: np.ndarray
    band: np.ndarray

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve for one right-hand side, float64 [point]."""
        values = np.ascontiguousarray(right[self.order], np.float64)
        solve_band(self.band, values[None])
        solved = np.empty(right.size)
        solved[self.order] = values
        return solved


class System:
    """Normal equations with a regularisation that can be varied.

    Two orders tie wavelengths together that lie far apart; in the order of reverse Cuthill-McKee they stand within a
    band again.

    Parameters
    ----------
    normal : float64 [point, point]
        Symmetric.
    grid : float64 [point]
        Wavelengths; the first derivative on it is what is kept small.
    told : bool [point], optional
        Points to solve for; the others are NaN in the solution, and no derivative reaches over to them.
    """

    def __init__(self, normal: sparse.csc_matrix, grid: np.ndarray, told: np.ndarray | None = None):
        slope = derivative(grid)
        self.size = grid.size
        self.points = np.arange(grid.size) if told is None else np.flatnonzero(told)
        parts = [one.tocsr()[self.points][:, self.points] for one in (normal, slope.T @ slope)]
        self.order = reverse_cuthill_mckee((abs(parts[0]) + abs(parts[1])).tocsr(), symmetric_mode=True)
        entries = [one[self.order][:, self.order].tocoo() for one in parts]
        self.below = max(int((one.row - one.col).max(initial=0)) for one in entries)
        self.normal, self.slopes = (_lower(one) for one in entries)

    def factorised(self, factor: float) -> BandFactor:
        """Cholesky factor for one regularisation."""
        added, least = 0.0, None
        while True:
            band = np.zeros((self.points.size, self.below + 1))
            for (below, column, value), scale in ((self.normal, 1.0), (self.slopes, factor**2)):
                band[column, below] += scale * value
            least = LEAST * float(band[:, 0].max()) if least is None else 10 * least
            band[:, 0] += added
            if factor_band(band):
                return BandFactor(self.order, band)
            added += least

    def solve(self, right: np.ndarray, factor: float) -> np.ndarray:
        """Solve for the spectrum, float64 [point]; NaN where it is not solved for."""
        found = np.full(self.size, np.nan)
        found[self.points] = self.factorised(factor).solve(right[self.points])
        return found


def _lower(entries: sparse.coo_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements on and below the diagonal: their distance from it, their column, their value."""
    keep = entries.row >= entries.col
    row, column = entries.row[keep], entries.col[keep]
    return row - column, column, entries.data[keep]


def sparse_solve(matrix: sparse.csc_matrix, right: np.ndarray) -> np.ndarray:
    """Solve for the points that a pixel says something about, in the least-squares sense where that is not enough."""
    told = np.flatnonzero(right)
    found = np.full(right.size, np.nan)
    part = matrix[told, :][:, told]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MatrixRankWarning)
        try:
            found[told] = spsolve(part, right[told])
        except MatrixRankWarning:
            found[told] = lsqr(part, right[told])[0]
    return found


@dataclass(frozen=True)
class Search:
    """Where the regularisation is looked for.

    Parameters
    ----------
    span
        Powers of ten below and above the guess.
    points
        First tries, evenly over the span.
    rounds
        How often two points are added about the best one.
    """

    span: tuple[float, float]
    points: int = 10
    rounds: int = 3


def best_factor(engine: Engine, pixels: Pixels, guess: float, search: Search) -> float:
    """Find the largest regularisation that does not cost any fit yet.

    Parameters
    ----------
    engine
        The model.
    pixels
        A typical image.
    guess
        Middle of the search.
    search
        Where to look.
    """
    right = engine.right(pixels)
    system = System(engine.normal(pixels), engine.grid, right != 0)
    tested: dict[float, float] = {}

    def test(factors: np.ndarray) -> None:
        for factor in factors:
            tested[float(factor)] = engine.loss(system.solve(right, factor), pixels)

    middle = np.log10(guess)
    test(np.logspace(middle + search.span[0], middle + search.span[1], search.points))
    best = _knee(tested)
    for _ in range(search.rounds):
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
