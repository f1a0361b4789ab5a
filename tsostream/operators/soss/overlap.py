"""The overlap of the SOSS orders: calibrated once on a typical image, then one linear operator per integration.

ATOCA (Darveau-Bernier et al. 2022; spec stages 2-3, B.9) solves for the one spectrum that orders 1 and 2 share, and
predicts from it what each order puts into the pixels of the other. With a typical image and its errors everything but
the pixels themselves is fixed; since wavelengths depend on the column alone, what is left per integration are the
profile-weighted sums of the columns, ``s_m(x) = sum_y P_m D / sigma^2``, and a matrix that makes amplitudes of them:
order *m* puts ``P_m(y, x) a_m(x)`` into a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import UnivariateSpline
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.linalg import spsolve

from tsostream.operators.soss.grids import Function, combined_grid, derivative, pixel_edges, split_grid
from tsostream.operators.soss.solve import (
    Engine,
    OrderModel,
    Solver,
    TooFewPixelsError,
    best_factor,
    factorised,
)

__all__ = ["Overlap", "OverlapSettings", "Single", "calibrate_overlap"]

#: right-hand sides solved at a time
CHUNK = 256
#: the first estimate of the spectrum leaves out pixels in which order 2 has more than this
CLEAN = 1e-4
#: points per pixel in the fits of single orders
SINGLE_OVERSAMPLING = 3


@dataclass(frozen=True)
class OverlapSettings:
    """Parameters of the step under their official names, without ``soss_``.

    Parameters
    ----------
    threshold, n_os, rtol, max_grid_size, tikfac
        As in the official step.
    limits
        Order 2 is solved with order 1 longward of the first wavelength, alone shortward of the second [µm].
    singles
        Whether order 2 shortward of its limit and order 3 are fitted (not in SUBSTRIP96).
    smoothing
        Width of a Gaussian that takes the noise out of the first estimate of the spectrum, so that it does not refine
        the grid [px]; officially none.
    grid : float64 [point], optional
        Wavelengths of the joint fit, instead of those found.
    """

    threshold: float = 1e-2
    n_os: int = 2
    rtol: float = 1e-4
    max_grid_size: int = 20000
    tikfac: float | None = None
    limits: tuple[float, float] = (0.77, 0.95)
    singles: bool = True
    smoothing: float = 0.0
    grid: np.ndarray | None = None


@dataclass(frozen=True)
class Single:
    """Fit of one order that no other disturbs.

    Parameters
    ----------
    order
        Its number.
    share : float64 [y, x]
        Profile where pixels are used, else 0.
    matrix
        G [x, point].
    rebuild
        From the spectrum to amplitudes [x, point].
    factor
        Regularisation.
    columns : bool [x]
        Columns that get their amplitude from here.
    slopes
        Regularisation matrix of factor 1 [point, point].
    """

    order: int
    share: np.ndarray
    matrix: sparse.csr_matrix
    rebuild: sparse.csr_matrix
    factor: float
    columns: np.ndarray
    slopes: sparse.csc_matrix

    def amplitudes(self, data: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Amplitude of each column for an image with its own inverse variances, float64 [x]."""
        weight = self.share * inverse
        used = weight != 0
        right = self.matrix.T @ np.where(used, weight * np.where(used, data, 0.0), 0.0).sum(axis=0)
        normal = self.matrix.T @ sparse.diags_array((weight * self.share).sum(axis=0)) @ self.matrix
        told = right != 0
        if not told.any():
            return np.full(self.columns.size, np.nan)
        found = np.full(right.size, np.nan)
        found[told] = _solve_banded((normal + self.factor**2 * self.slopes).tocsc(), right, told)
        empty = np.isnan(found)
        amplitude = self.rebuild @ np.where(empty, 0.0, found)
        # a column that leans on a point nobody measured is not known
        amplitude[(abs(self.rebuild) @ empty.astype(float)) > 0] = np.nan
        return amplitude

    def operator(self, inverse: np.ndarray) -> np.ndarray:
        """Matrix from sums of columns to amplitudes of `columns`, float64 [column, x]."""
        normal = self.matrix.T @ sparse.diags_array((self.share**2 * inverse).sum(axis=0)) @ self.matrix
        inner = (normal + self.factor**2 * self.slopes).tocsc()
        told = np.flatnonzero(normal.diagonal() > 0)
        solver = factorised(inner[told][:, told])
        rebuild = self.rebuild[self.columns][:, told]
        return _response(rebuild, solver, self.matrix[:, told])


def _solve_banded(matrix: sparse.csc_matrix, right: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Solve a narrow positive definite system; general where it is not definite."""
    keep = np.flatnonzero(told)
    part = matrix[keep][:, keep].tocoo()
    width = int((part.col - part.row).max(initial=0))
    band = np.zeros((width + 1, keep.size))
    upper = part.col >= part.row
    np.add.at(band, (width + part.row[upper] - part.col[upper], part.col[upper]), part.data[upper])
    try:
        return solveh_banded(band, right[keep], check_finite=False)
    except np.linalg.LinAlgError:
        return spsolve(part.tocsc(), right[keep])


def _response(rebuild: sparse.csr_matrix, solver: Solver, matrix: sparse.csr_matrix) -> np.ndarray:
    """``rebuild @ inverse @ matrix.T`` as a dense array, some columns at a time."""
    columns = matrix.shape[0]
    result = np.empty((rebuild.shape[0], columns))
    for first in range(0, columns, CHUNK):
        part = matrix[first : first + CHUNK].toarray().T
        result[:, first : first + CHUNK] = rebuild @ solver(part)
    return result


@dataclass(frozen=True)
class Overlap:
    """The calibrated overlap of an exposure or a file.

    Parameters
    ----------
    models
        Orders, in rising order.
    shares : float64 [source, y, x]
        ``P_m / sigma^2`` of orders 1 and 2 where pixels are used, else 0.
    response : float64 [2 x, 2 x]
        Amplitudes of orders 1 and 2 from the sums of both.
    covered : bool [2, x]
        Columns whose amplitude the joint fit gives.
    singles
        Fits of order 2 shortward of its limit and of order 3.
    rebuilt : bool [y, x]
        Pixels that the official step models: those of any order's box.
    factor
        Regularisation of the joint fit.
    grid : float64 [point]
        Its wavelengths.
    """

    models: tuple[OrderModel, ...]
    shares: np.ndarray
    response: np.ndarray
    covered: np.ndarray
    singles: tuple[Single, ...]
    rebuilt: np.ndarray
    factor: float
    grid: np.ndarray

    def amplitudes(self, data: np.ndarray, inverse: np.ndarray) -> dict[int, np.ndarray]:
        """Amplitudes of all orders in one image, with its own errors in the single fits (as officially).

        Parameters
        ----------
        data : float64 [y, x]
            Finite where pixels are used.
        inverse : float64 [y, x]
            Inverse variances.

        Returns
        -------
        dict
            Order -> float64 [x], NaN in columns that are not modelled.
        """
        sums = np.where(self.shares != 0, self.shares * np.where(np.isfinite(data), data, 0.0), 0.0).sum(
            axis=1
        )
        nx = sums.shape[1]
        both = (self.response @ sums.ravel()).reshape(2, nx)
        found = {k + 1: np.where(self.covered[k], both[k], np.nan) for k in range(2)}
        for single in self.singles:
            alone = single.amplitudes(data, inverse)
            before = found.setdefault(single.order, np.full(nx, np.nan))
            found[single.order] = np.where(
                np.isfinite(before), before, np.where(single.columns, alone, np.nan)
            )
        return found


def calibrate_overlap(
    models: Sequence[OrderModel],
    data: np.ndarray,
    inverse: np.ndarray,
    outside: Sequence[np.ndarray],
    bad: np.ndarray,
    settings: OverlapSettings,
) -> Overlap:
    """Find grid, regularisation and operator on a typical image.

    Parameters
    ----------
    models
        Orders 1 and 2, and 3 where it is extracted.
    data, inverse : float64 [y, x]
        The image, and inverse variances of one integration (0 for pixels without an error).
    outside : bool [order, y, x]
        Pixels outside each order's box.
    bad : bool [y, x]
        Pixels that are bad in all integrations.
    settings
        Parameters.

    Raises
    ------
    TooFewPixelsError
        The orders do not overlap the wavelength grid.
    """
    image = np.where(np.isfinite(data), data, 0.0)
    estimate = _first_estimate(models, image, inverse, outside[0], bad, settings.smoothing)
    grid = _grid(models, estimate, settings) if settings.grid is None else settings.grid
    joint = Engine(models[:2], grid, outside[:2], bad, settings.threshold)
    factor = settings.tikfac
    if factor is None:
        slope = derivative(grid) @ estimate(grid)
        guess = float(np.sqrt((~joint.mask).sum() / np.nansum(slope**2)))
        factor = best_factor(joint, image, inverse, guess, (-4, 4))
    everywhere = np.logical_and.reduce(outside)
    response, covered = _joint_response(models, joint, inverse, factor, everywhere)
    singles = []
    for model, own in zip(models[1:], outside[1:], strict=True) if settings.singles else ():
        single = _single(model, image, inverse, own | bad, everywhere, factor, settings)
        if single is not None:
            singles.append(single)
    shares = np.stack([joint.share(k, inverse) for k in range(2)])
    return Overlap(tuple(models), shares, response, covered, tuple(singles), ~everywhere, factor, grid)


def _first_estimate(
    models: Sequence[OrderModel],
    data: np.ndarray,
    inverse: np.ndarray,
    outside: np.ndarray,
    bad: np.ndarray,
    smoothing: float,
) -> Function:
    """Roughly solve for the spectrum from pixels that order 2 does not reach."""
    first = models[0]
    lit = first.profile.clip(0.0, None).sum(axis=0) > 0
    grid = np.sort(first.wavelength[lit & np.isfinite(first.wavelength)])
    alone = OrderModel(first.order, first.wavelength, first.profile, first.trace, first.throughput, None)
    engine = Engine([alone], grid, [(models[1].profile >= CLEAN) | outside], bad)
    spectrum = engine.solve(engine.normal(inverse), engine.right(data, inverse))
    known = np.isfinite(spectrum)
    values = spectrum[known]
    if smoothing > 0:
        values = gaussian_filter1d(values, smoothing, mode="nearest")
    return UnivariateSpline(grid[known], values, k=3, s=0, ext=0)


def _grid(models: Sequence[OrderModel], estimate: Function, settings: OverlapSettings) -> np.ndarray:
    """Grid on which orders 1 and 2 are solved together: fine where they share wavelengths."""
    own = []
    for model in models[:2]:
        native = model.native
        short, long = pixel_edges(native)
        own.append(split_grid(np.append(short, long[-1]), settings.n_os))
    first, second = own
    shared = second >= first.min()
    first = first[first > second[shared].min()]
    span = (settings.limits[0], float(first.max()))
    return combined_grid(
        [second[shared], first, second[~shared]],
        [estimate, estimate, np.ones_like],
        span,
        rtol=settings.rtol,
        most=settings.max_grid_size,
    )


def _rebuild(
    model: OrderModel, engine: Engine, k: int, everywhere: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """From the solved spectrum to the amplitudes of an order: matrix [x, point] and the columns it holds for."""
    part = engine.grid[slice(*engine.spans[k])]
    plain = OrderModel(model.order, model.wavelength, model.profile, model.trace, model.throughput, None)
    alone = Engine([plain], part, [everywhere])
    return (alone.matrices[0] @ engine.kernels[k]).tocsr(), alone.covered[0]


def _joint_response(
    models: Sequence[OrderModel], joint: Engine, inverse: np.ndarray, factor: float, everywhere: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    slope = derivative(joint.grid)
    solver = factorised((joint.normal(inverse) + factor**2 * (slope.T @ slope)).tocsc())
    rebuilt = [_rebuild(model, joint, k, everywhere) for k, model in enumerate(models[:2])]
    stacked = sparse.vstack([matrix for matrix, _ in rebuilt]).tocsr()
    sources = sparse.vstack(joint.matrices).tocsr()
    return _response(stacked, solver, sources), np.stack([covered for _, covered in rebuilt])


def _single(
    model: OrderModel,
    data: np.ndarray,
    inverse: np.ndarray,
    outside: np.ndarray,
    everywhere: np.ndarray,
    guess: float,
    settings: OverlapSettings,
) -> Single | None:
    """Fit an order alone; None where it has too few pixels."""
    native = model.native
    if model.order == 2:
        native = native[native < settings.limits[1]]
    if native.size < 4:
        return None
    # throughput and kernel have no say where no other order is to be predicted
    plain = OrderModel(model.order, model.wavelength, model.profile, model.trace)
    grid = split_grid(native, SINGLE_OVERSAMPLING)
    try:
        engine = Engine([plain], grid, [outside])
        whole = Engine([plain], grid, [everywhere])
    except TooFewPixelsError:
        return None
    factor = best_factor(engine, data, inverse, guess, (-2, 8))
    slope = derivative(grid)
    return Single(
        order=model.order,
        share=engine.share(0, np.ones_like(inverse)),
        matrix=engine.matrices[0],
        rebuild=whole.matrices[0],
        factor=factor,
        columns=whole.covered[0],
        slopes=(slope.T @ slope).tocsc(),
    )
