"""The overlap of the SOSS orders: calibrated once on a typical image, then a linear solve per integration.

ATOCA (Darveau-Bernier et al. 2022; spec stages 2-3, B.9) solves for the one spectrum that orders 1 and 2 share, and
predicts from it what each order puts into the pixels of the other. With a typical image and its errors everything but
the pixels themselves is fixed; since wavelengths depend on the column alone, what is left per integration are the
profile-weighted sums of the columns, ``s_m(x) = sum_y P_m D / sigma^2``, the spectrum ``f`` that solves the factorised
normal equations for ``sum_m G_m' s_m``, and the amplitudes ``a_m = R_m f``: order *m* puts ``P_m(y, x) a_m(x)`` into a
pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.interpolate import UnivariateSpline
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.linalg import spsolve

from tsostream.operators.soss.engine import Engine, Integrals, OrderModel, TooFewPixelsError
from tsostream.operators.soss.grids import (
    Function,
    combined_grid,
    derivative,
    pixel_edges,
    pixel_integrals,
    split_grid,
)
from tsostream.operators.soss.official_rules import official_integrals, official_normal, official_wavelengths
from tsostream.operators.soss.solve import BandFactor, Search, System, best_factor, sparse_solve

__all__ = ["Overlap", "OverlapSettings", "Single", "calibrate_overlap"]

#: the first estimate of the spectrum leaves out pixels in which order 2 has more than this
CLEAN = 1e-4
#: points per pixel in the fits of single orders
SINGLE_OVERSAMPLING = 3
#: the official step fits single integrations with this limit of order 2 [µm], whatever the reference says
OFFICIAL_LIMIT = 0.95


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
    estimate
        First estimate of the spectrum, instead of one from the image.
    official
        Whether all is done by the official step's rules (`tsostream.operators.soss.official_rules`), and the search for
        the regularisation is as long as officially.
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
    estimate: Function | None = None
    official: bool = False

    @property
    def integrals(self) -> Integrals:
        """How pixels are integrated."""
        return official_integrals if self.official else pixel_integrals

    def search(self, low: float, high: float) -> Search:
        """How the regularisation is looked for between powers of ten of the guess."""
        return Search((low, high)) if self.official else Search((low, high), points=5, rounds=2)


@dataclass(frozen=True)
class Single:
    """Fit of one order that no other disturbs.

    Parameters
    ----------
    order
        Its number.
    share : float64 [y, x]
        Profile where pixels are used, else 0.
    grid : float64 [point]
        Wavelengths of the fit.
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
    grid: np.ndarray
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
        told = right != 0
        if not told.any():
            return np.full(self.columns.size, np.nan)
        found = np.full(right.size, np.nan)
        matrix = (self._normal(weight) + self.factor**2 * self.slopes).tocsc()
        found[told] = _solve_banded(matrix, right, told)
        empty = np.isnan(found)
        amplitude = self.rebuild @ np.where(empty, 0.0, found)
        # a column that leans on a point nobody measured is not known
        amplitude[(abs(self.rebuild) @ empty.astype(float)) > 0] = np.nan
        return amplitude

    def frozen(self, inverse: np.ndarray) -> tuple[np.ndarray, BandFactor]:
        """Points that are solved for with these inverse variances, and the factorised normal equations."""
        normal = self._normal(self.share * inverse)
        system = System(normal.tocsc(), self.grid, normal.diagonal() > 0)
        return system.points, system.factorised(self.factor)

    def _normal(self, weight: np.ndarray) -> sparse.csr_matrix:
        return self.matrix.T @ sparse.diags_array((weight * self.share).sum(axis=0)) @ self.matrix


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


@dataclass(frozen=True)
class Overlap:
    """The calibrated overlap of an exposure or a file.

    Parameters
    ----------
    models
        Orders, in rising order.
    shares : float64 [source, y, x]
        ``P_m / sigma^2`` of orders 1 and 2 where pixels are used, else 0.
    gather
        G' of both orders: from the sums of their columns to the right-hand side [point, 2 x].
    solver
        The factorised normal equations.
    scatter
        From the spectrum to the amplitudes of both orders [2 x, point].
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
    gather: sparse.csr_matrix
    solver: BandFactor
    scatter: sparse.csr_matrix
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
        clean = np.where(np.isfinite(data), data, 0.0)
        sums = np.concatenate([(share * clean).sum(axis=0) for share in self.shares])
        nx = data.shape[1]
        both = (self.scatter @ self.solver.solve(self.gather @ sums)).reshape(2, nx)
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
    """Find grid, regularisation and solver on a typical image.

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
    estimate = settings.estimate or np.zeros_like
    if settings.estimate is None and (settings.grid is None or settings.tikfac is None):
        estimate = _first_estimate(models, image, inverse, outside[0], bad, settings)
    grid = _grid(models, estimate, settings) if settings.grid is None else settings.grid
    joint = Engine(models[:2], grid, outside[:2], bad, settings.threshold, settings.integrals)
    pixels = joint.pixels(image, inverse)
    factor = settings.tikfac
    if factor is None:
        slope = derivative(grid) @ estimate(grid)
        guess = float(np.sqrt((~joint.mask).sum() / np.nansum(slope**2)))
        factor = best_factor(joint, pixels, guess, settings.search(-4, 4))
    everywhere = np.logical_and.reduce(outside)
    rebuilt = [_rebuild(model, joint, k, everywhere) for k, model in enumerate(models[:2])]
    singles = [
        _single(model, image, inverse, own | bad, everywhere, factor, settings)
        for model, own in zip(models[1:], outside[1:], strict=True)
        if settings.singles
    ]
    return Overlap(
        models=tuple(models),
        shares=np.stack([joint.share(k, inverse) for k in range(2)]),
        gather=sparse.hstack([matrix.T for matrix in joint.matrices]).tocsr(),
        solver=System(joint.normal(pixels), grid).factorised(factor),
        scatter=sparse.vstack([matrix for matrix, _ in rebuilt]).tocsr(),
        covered=np.stack([covered for _, covered in rebuilt]),
        singles=tuple(single for single in singles if single is not None),
        rebuilt=~everywhere,
        factor=factor,
        grid=grid,
    )


def _first_estimate(
    models: Sequence[OrderModel],
    data: np.ndarray,
    inverse: np.ndarray,
    outside: np.ndarray,
    bad: np.ndarray,
    settings: OverlapSettings,
) -> Function:
    """Roughly solve for the spectrum from pixels that order 2 does not reach."""
    first = models[0]
    profile = first.profile.clip(0.0, None)
    lit = (profile.sum(axis=0) > 0) & np.isfinite(first.wavelength)
    wave = official_wavelengths(first.wavelength, profile, lit) if settings.official else first.wavelength
    grid = np.sort(wave[lit])
    alone = OrderModel(first.order, first.wavelength, profile, first.trace, first.throughput, None)
    mask = (models[1].profile >= CLEAN) | outside
    engine = Engine([alone], grid, [mask], bad, integrals=settings.integrals)
    if settings.official:
        spectrum = sparse_solve(*official_normal(engine, data, inverse))
    else:
        pixels = engine.pixels(data, inverse)
        spectrum = sparse_solve(engine.normal(pixels), engine.right(pixels))
    known = np.isfinite(spectrum)
    values = spectrum[known]
    if settings.smoothing > 0:
        values = gaussian_filter1d(values, settings.smoothing, mode="nearest")
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
    alone = Engine([plain], part, [everywhere], integrals=engine.integrals)
    return (alone.matrices[0] @ engine.kernels[k]).tocsr(), alone.covered[0]


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
    limit = settings.limits[1] if model.order == 2 else np.inf
    try:
        engine = _alone(model, limit, outside, settings)
        if engine is None:
            return None
        factor = best_factor(engine, engine.pixels(data, inverse), guess, settings.search(-2, 8))
        if settings.official and model.order == 2 and limit != OFFICIAL_LIMIT:
            engine = _alone(model, OFFICIAL_LIMIT, outside, settings) or engine
        whole = Engine(engine.orders, engine.grid, [everywhere], integrals=settings.integrals)
    except TooFewPixelsError:
        return None
    slope = derivative(engine.grid)
    return Single(
        order=model.order,
        share=engine.share(0, np.ones_like(inverse)),
        grid=engine.grid,
        matrix=engine.matrices[0],
        rebuild=whole.matrices[0],
        factor=factor,
        columns=whole.covered[0],
        slopes=(slope.T @ slope).tocsc(),
    )


def _alone(model: OrderModel, limit: float, outside: np.ndarray, settings: OverlapSettings) -> Engine | None:
    """Model one order shortward of a limit, as if light came through without throughput and kernel.

    They have no say where no other order is to be predicted.
    """
    native = model.native[model.native < limit]
    if native.size < 4:
        return None
    plain = replace(model, throughput=None, kernel=None)
    return Engine([plain], split_grid(native, SINGLE_OVERSAMPLING), [outside], integrals=settings.integrals)
