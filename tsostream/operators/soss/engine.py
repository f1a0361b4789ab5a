"""The detector model of SOSS orders on one wavelength grid (Darveau-Bernier et al. 2022; spec stages 2-3, B.9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from tsostream.operators.soss.grids import (
    Function,
    SpectralKernel,
    convolution,
    pixel_edges,
    pixel_integrals,
)

__all__ = ["Engine", "Integrals", "OrderModel", "Pixels", "TooFewPixelsError"]

Integrals = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], sparse.csr_matrix]

#: an order with fewer pixels than this is not fitted
FEWEST = 25


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
    integrals
        Makes the matrix of the integrals over pixels, from grid, edges and the pixels to use.

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
        integrals: Integrals = pixel_integrals,
    ):
        self.orders, self.grid, self.integrals = tuple(orders), grid, integrals
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
            over = integrals(part, *edge, covered)
            self.kernels.append(kernel)
            self.matrices.append((over @ sparse.diags_array(through) @ kernel).tocsr())

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

    def pixels(self, data: np.ndarray, inverse: np.ndarray) -> Pixels:
        """Take the used pixels of an image, in units of their errors.

        Parameters
        ----------
        data : float64 [y, x]
            The image, finite where pixels are used.
        inverse : float64 [y, x]
            Inverse variances, 0 for no pixel.
        """
        used = np.flatnonzero(~self.mask)
        column = (used % self.mask.shape[1]).astype(np.int32)
        weight = np.sqrt(inverse.ravel()[used])
        profile = np.stack(
            [
                np.where(covered[column], one.profile.ravel()[used] * weight, 0.0)
                for one, covered in zip(self.orders, self.covered, strict=True)
            ]
        )
        return Pixels(column, profile, data.ravel()[used] * weight, self.mask.shape[1])

    def normal(self, pixels: Pixels) -> sparse.csc_matrix:
        """Matrix of the normal equations [point, point]."""
        total = sparse.csc_matrix((self.grid.size, self.grid.size))
        for k, one in enumerate(self.matrices):
            for m, other in enumerate(self.matrices):
                column = pixels.sums(pixels.profile[k] * pixels.profile[m])
                total = total + one.T @ sparse.diags_array(column) @ other
        return total.tocsc()

    def right(self, pixels: Pixels) -> np.ndarray:
        """Right-hand side of the normal equations, float64 [point]."""
        total = np.zeros(self.grid.size)
        for one, profile in zip(self.matrices, pixels.profile, strict=True):
            total += one.T @ pixels.sums(profile * pixels.value)
        return total

    def loss(self, spectrum: np.ndarray, pixels: Pixels) -> float:
        """Mean of log(1 + r^2) over the used pixels, r in sigma."""
        whole = np.where(np.isfinite(spectrum), spectrum, 0.0)
        residual = pixels.value.copy()
        for one, profile in zip(self.matrices, pixels.profile, strict=True):
            residual -= profile * (one @ whole)[pixels.column]
        return float(np.log1p(residual**2).mean())


@dataclass(frozen=True)
class Pixels:
    """The used pixels of an image, in units of their errors.

    Parameters
    ----------
    column : int32 [pixel]
    profile : float64 [order, pixel]
        Profile over error, 0 outside the order's wavelengths.
    value : float64 [pixel]
        Value over error.
    width
        Columns of the image.
    """

    column: np.ndarray
    profile: np.ndarray
    value: np.ndarray
    width: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum by column, float64 [x]."""
        return np.bincount(self.column, weights=values, minlength=self.width)


def _inside(grid: np.ndarray, span: tuple[int, int], short: np.ndarray, long: np.ndarray) -> np.ndarray:
    return (short >= grid[span[0]]) & (long <= grid[span[1] - 1])
