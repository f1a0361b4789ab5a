"""Orders are taken apart in the streaming scope: the overlap of the scout's template, frozen for the exposure.

With its errors frozen every fit is a banded solve: sums of columns, a sparse product to the right-hand side, forward
and backward substitution, a sparse product to the amplitudes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.ndimage import uniform_filter1d

from tsostream.integration import dq
from tsostream.operators.aperture import geometry
from tsostream.operators.base import Binding
from tsostream.operators.soss import OVERLAP_REFERENCES
from tsostream.operators.soss.engine import TooFewPixelsError
from tsostream.operators.soss.geometry import OrderTrace, box_weights
from tsostream.operators.soss.kernels import column_sums, solve_band, sparse_product, subtract_orders
from tsostream.operators.soss.models import order_models
from tsostream.operators.soss.overlap import Overlap, OverlapSettings, calibrate_overlap
from tsostream.operators.soss.solve import BandFactor
from tsostream.operators.spectral.scene import Scene

__all__ = ["Fit", "Separation", "Source", "held_bytes", "official_bytes", "separate"]

#: points of the wavelength grid for each column and point per pixel, and width of the band for each of those points
POINTS, BAND = 1.5, 0.065
#: columns that tell of the background together, and how often it and the wings of the orders are told apart
SKY_COLUMNS, SKY_ROUNDS = 9, 4
#: what profiles, apertures and lists of pixels of three orders take for each pixel [bytes]
PIXEL_BYTES = 130


@dataclass(frozen=True)
class Source:
    """Pixels of an order whose weighted sums are taken, as `column_sums` wants them."""

    start: np.ndarray
    pixel: np.ndarray
    share: np.ndarray
    template: np.ndarray


@dataclass(frozen=True)
class Rows:
    """A sparse matrix as `sparse_product` wants it."""

    start: np.ndarray
    index: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> Rows:
        """Take the elements of a matrix."""
        rows = matrix.tocsr()
        rows.sort_indices()
        return cls(rows.indptr.astype(np.int32), rows.indices.astype(np.int32), rows.data.astype(np.float64))


@dataclass(frozen=True)
class Fit:
    """A regularised fit with frozen errors.

    Parameters
    ----------
    sources
        Sums of columns that go in, one after the other.
    gather
        From all sums to the right-hand side, in the order of the band.
    band : float64 [point, below]
        Cholesky factor, as `solve_band` wants it.
    scatter
        From the solution to amplitudes.
    target : int32 [amplitude]
        Their places in [order, x], flat.
    """

    sources: tuple[Source, ...]
    gather: Rows
    band: np.ndarray
    scatter: Rows
    target: np.ndarray

    def into(self, data: np.ndarray, bits: np.ndarray, found: np.ndarray) -> None:
        """Write the amplitudes of images [integration, pixel] to their places in [integration, order x]."""
        n = len(data)
        sums = [np.empty((n, one.start.size - 1)) for one in self.sources]
        for one, out in zip(self.sources, sums, strict=True):
            column_sums(data, bits, one.start, one.pixel, one.share, one.template, out)
        spectrum = np.empty((n, len(self.band)))
        sparse_product(
            self.gather.start, self.gather.index, self.gather.value, np.concatenate(sums, axis=1), spectrum
        )
        solve_band(self.band, spectrum)
        amplitudes = np.empty((n, self.target.size))
        sparse_product(self.scatter.start, self.scatter.index, self.scatter.value, spectrum, amplitudes)
        found[:, self.target] = amplitudes


@dataclass(frozen=True)
class Separation:
    """Takes the orders apart.

    Parameters
    ----------
    orders
        Orders that are modelled.
    profiles : float32 [order, y, x]
        Their profiles.
    fits
        The joint fit of orders 1 and 2, and those of order 2 shortward of its limit and of order 3.
    factor
        Regularisation of the joint fit, for the record.
    grid : float64 [point]
        Its wavelengths [µm].
    sky : float64 [order, x], optional
        What a background that does not follow the source puts into the amplitudes; taken off them.
    """

    orders: tuple[int, ...]
    profiles: np.ndarray
    fits: tuple[Fit, ...]
    factor: float
    grid: np.ndarray
    sky: np.ndarray | None = None

    def amplitudes(self, data: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Find what each order puts into each column, float64 [integration, order, x]."""
        n, nx = len(data), data.shape[2]
        found = np.zeros((n, len(self.orders) * nx))
        for fit in self.fits:
            fit.into(data.reshape(n, -1), bits.reshape(n, -1), found)
        found = found.reshape(n, len(self.orders), nx)
        return found if self.sky is None else found - self.sky

    def above_sky(self, image: np.ndarray, ground: np.ndarray) -> Separation:
        """Take the background off all amplitudes: the fit of the orders would take it for their light.

        The background is constant in time: what the template has far from the orders, less their own wings there.

        Parameters
        ----------
        image : float64 [y, x]
            Template, finite.
        ground : bool [y, x]
            Pixels far from all orders.
        """
        count = ground.sum(axis=0)
        known = np.flatnonzero(count)
        if not known.size:
            return self
        columns = np.arange(image.shape[1])

        def mean(values: np.ndarray) -> np.ndarray:
            return np.interp(columns, known, (values * ground).sum(axis=0)[known] / count[known])

        level = uniform_filter1d(mean(image), SKY_COLUMNS, mode="nearest")
        wings = np.stack([mean(one) for one in self.profiles])
        one = replace(self, sky=None)
        bits = np.zeros((1, *image.shape), np.uint32)
        sky, whole = level, one.amplitudes(image[None].astype(np.float32), bits)[0]
        for _ in range(SKY_ROUNDS):
            plane = np.broadcast_to(sky.astype(np.float32), (1, *image.shape))
            own = one.amplitudes(np.ascontiguousarray(plane), bits)[0]
            sky = level - (wings * (whole - own)).sum(axis=0)
        return replace(self, sky=own)

    def without_others(self, data: np.ndarray, amplitudes: np.ndarray, order: int) -> np.ndarray:
        """Images from which all orders but one are taken, float32 [integration, y, x]."""
        clean = np.empty_like(data)
        keep = self.orders.index(order) if order in self.orders else -1
        subtract_orders(data, self.profiles, amplitudes, keep, clean)
        return clean


def held_bytes(nx: int, ny: int, n_os: int) -> int:
    """Memory that a calibrated separation takes [bytes]."""
    points = POINTS * nx * n_os
    return int(8 * points * max(BAND * points, 64) + PIXEL_BYTES * nx * ny)


def official_bytes(nx: int, ny: int, most: int) -> int:
    """Memory that the calibration of a file takes in the segment scope [bytes], for a grid of ``most`` points.

    Noise refines the official grid, so that it has some ten thousand points.
    """
    points = 0.7 * most
    return int(2 * 8 * points * BAND * points + 80 * nx * ny)


def separate(
    step: Any,
    binding: Binding,
    scene: Scene,
    traces: Mapping[int, OrderTrace],
    width: float,
    settings: OverlapSettings | None,
) -> tuple[Separation | None, list[str]]:
    """Calibrate the overlap on the template, or say which wavelengths it spoils.

    Parameters
    ----------
    step
        The extract_1d operator.
    binding, scene, traces
        Exposure, template, orders.
    width
        Of the boxes [px].
    settings
        Parameters; None where a reference is missing.
    """
    info = binding.info
    ny, nx = scene.image.shape
    boxes = {order: box_weights(trace.columns(nx)[0], width, ny) for order, trace in traces.items()}
    ranges = _contaminated(boxes, traces, nx)
    if not ranges:
        return None, []
    spoilt = "; ".join(f"order {order}: {text}" for order, text in ranges.items())
    if not step.soss_atoca:
        return None, [f"the orders overlap and soss_atoca is off: contaminated are {spoilt}"]

    def failed(why: str, how: str = "is not taken out") -> tuple[None, list[str]]:
        return None, [f"the overlap of the orders {how} ({why}): CONTAMINATED are {spoilt}"]

    missing = [name for name in OVERLAP_REFERENCES if name not in binding.references]
    if missing or settings is None:
        return failed(f"there is no {' and no '.join(missing)} reference")
    if not {1, 2} <= set(traces):
        return failed("an order is not in the subarray")
    models = order_models(binding.references, traces, info)
    known = {order: model for order, model in models.items() if order in traces}
    if not {1, 2} <= set(known):
        return failed("no profile of an order")
    inverse = 1.0 / np.where(scene.variance > 0, scene.variance, np.inf)
    inverse = np.where(np.isfinite(inverse), inverse, 0.0)
    reference = (binding.dq_plane & np.uint32(dq.REFERENCE_PIXEL)) != 0
    outside = [~(boxes[order] > 0) | reference for order in known]
    # as officially: the criterion for the regularisation wants the noise of one integration
    noise = np.sqrt(np.where(scene.variance > 0, scene.variance, 0.0) * (1.0 - 1.0 / max(scene.count, 2)))
    typical = scene.image + np.random.default_rng(42).normal(0.0, np.nan_to_num(noise))
    try:
        overlap = calibrate_overlap(list(known.values()), typical, inverse, outside, scene.bad, settings)
    except (TooFewPixelsError, ValueError, np.linalg.LinAlgError, RuntimeError) as error:
        why = "too few pixels" if isinstance(error, TooFewPixelsError) else str(error).splitlines()[0]
        return failed(why, "cannot be modelled")
    return _frozen(overlap, scene, inverse), []


def _contaminated(
    boxes: Mapping[int, np.ndarray], traces: Mapping[int, OrderTrace], nx: int
) -> dict[int, str]:
    """Wavelengths in which the box of an order shares pixels with that of another, as text."""
    result = {}
    for order, box in boxes.items():
        shared = np.zeros(nx, bool)
        for other, theirs in boxes.items():
            if other != order:
                shared |= (np.minimum(box, theirs) > 0).any(axis=0)
        wave = traces[order].columns(nx)[1]
        columns = np.flatnonzero(shared & np.isfinite(wave))
        if columns.size:
            runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
            result[order] = ", ".join(f"{wave[run].min():.3f} to {wave[run].max():.3f} µm" for run in runs)
    return result


def _frozen(overlap: Overlap, scene: Scene, inverse: np.ndarray) -> Separation:
    """Freeze the errors, so that all fits are linear."""
    orders = tuple(model.order for model in overlap.models)
    nx = scene.image.shape[1]
    image = np.where(np.isfinite(scene.image), scene.image, 0.0)
    sources = [_source(share, image) for share in overlap.shares]
    place = np.flatnonzero(overlap.covered.ravel())
    fits = [_fit(sources, overlap.gather, overlap.solver, overlap.scatter[place], place)]
    taken = {k + 1: overlap.covered[k] for k in range(2)}
    for single in overlap.singles:
        points, solver = single.frozen(inverse)
        columns = np.flatnonzero(single.columns & ~taken.get(single.order, np.zeros(nx, bool)))
        target = orders.index(single.order) * nx + columns
        gather, scatter = single.matrix.T.tocsr()[points], single.rebuild[columns][:, points]
        fits.append(_fit([_source(single.share * inverse, image)], gather, solver, scatter, target))
    profiles = np.stack([model.profile for model in overlap.models]).astype(np.float32)
    return Separation(orders, profiles, tuple(fits), overlap.factor, overlap.grid)


def _source(share: np.ndarray, image: np.ndarray) -> Source:
    """List the pixels of an order's sums."""
    start, pixel, (cross, disp) = geometry.pixel_lists(share > 0, along_y=False)
    used: Sequence[np.ndarray] = (share[cross, disp], image[cross, disp])
    weight, template = (np.ascontiguousarray(one, np.float32) for one in used)
    return Source(start, pixel, weight, template)


def _fit(
    sources: Sequence[Source],
    gather: sparse.csr_matrix,
    solver: BandFactor,
    scatter: sparse.csr_matrix,
    target: np.ndarray,
) -> Fit:
    """Put both products into the order of the band."""
    return Fit(
        tuple(sources),
        Rows.of(gather.tocsr()[solver.order]),
        solver.band,
        Rows.of(scatter.tocsr()[:, solver.order]),
        target.astype(np.int32),
    )
