"""extract_1d: box extraction along the trace, with background, position and lost pixels filled from the profile.

Spec stages 2-3, B.8 for the official step. Here lost pixels do not bias the sum: they are filled from the profile,
shifted to this integration's position (see `tsostream.operators.aperture.measure`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.aperture.covariance import column_excess, sum_weights
from tsostream.operators.aperture.measure import Aperture
from tsostream.operators.aperture.sums import measure_block, position
from tsostream.operators.aperture.units import flux_scale_map
from tsostream.operators.base import Binding, Operator

__all__ = ["BoundExtract1d", "Extract1d"]

#: rows across that must remain for the background
LEAST_BACKGROUND = 4


@dataclass(frozen=True)
class BoundExtract1d:
    """Extraction of one exposure.

    Parameters
    ----------
    aperture
        Pixel lists and profiles.
    centre, width
        Mean position across and Gaussian-equivalent width of the profile [px].
    along_y
        Whether the spectrum runs along y.
    order
        Spectral order.
    wavelength : float64 [column]
        Wavelength [µm], or the pixel index where none is known.
    trace : float64 [column]
        Centre of the aperture across [px].
    unit
        Unit of the flux.
    sum_weights : float64 [cross, disp]
        Weight of each pixel in the columns' sums, background included.
    excess : float64 [column]
        Variance that shared (1/f) noise adds to each column.
    """

    name: str
    pixeldq: np.ndarray
    aperture: Aperture
    centre: float
    width: float
    along_y: bool
    order: int
    wavelength: np.ndarray
    trace: np.ndarray
    unit: str
    sum_weights: np.ndarray
    excess: np.ndarray
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """``(order, aperture)`` of each series."""
        return ((self.order, 0),)

    def push(self, block: Rate) -> list[Measurement]:
        """Extract every integration of a block."""
        out = measure_block(block, self.aperture)
        # one series: add the axis of (order, aperture)
        spectra = {
            "flux": out.flux,
            "flux_err": np.sqrt(out.error**2 + self.excess),
            "own_err": out.error,
            "flux_var_poisson": out.var_poisson,
            "flux_var_rnoise": out.var_rnoise,
            "flux_var_flat": out.var_flat,
            "background": out.ground,
            "background_err": np.sqrt(out.ground_variance),
            "dq": out.dq,
            "npixels": out.npixels,
            "lost": out.lost,
            "counts": out.counts,
        }
        across = position(out, 1, 2, self.width)
        along = position(out, 3, 3, 1.0)
        nothing = np.full(block.count, np.nan)
        names = ("y", "x") if self.along_y else ("x", "y")
        columns = {
            names[0]: along.shift,
            f"{names[0]}_err": along.shift_error,
            f"width_{names[0]}": nothing,
            names[1]: self.centre + across.shift,
            f"{names[1]}_err": across.shift_error,
            f"width_{names[1]}": across.width,
        }
        return [
            Measurement(
                block.first,
                block.times,
                self.keys,
                {name: values[:, None] for name, values in columns.items()},
                {name: values[:, None] for name, values in spectra.items()},
                np.ones(block.count, bool),
            )
        ]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


@dataclass(frozen=True, kw_only=True)
class Extract1d(Operator):
    """Extract a spectrum from each integration.

    Parameters
    ----------
    width
        Full width of the box across the trace [px].
    subtract_background
        Whether to subtract the mean of the background pixels of each column.
    bkg_inner, bkg_outer
        Distances from the trace between which the background lies [px].
    bkg_clip
        Background pixels further than this from the column's robust level are left out [sigma].
    trace_coeffs
        Polynomial of the trace, constant term first (pixel across as a function of the pixel along); by default the
        scout finds the trace.
    max_lost
        Columns that miss more than this fraction of the profile become NaN.
    correct_shift
        Put back the light that a shift of the source across the trace moves over the edge of the box. The official
        step does not; set to false to see the difference.
    order
        Spectral order to label the rows with; 1 everywhere but where the exposure has several.
    """

    name: ClassVar[str] = "extract_1d"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "measurement"
    optional_references: ClassVar[tuple[str, ...]] = ("gain",)

    width: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    subtract_background: bool = True
    bkg_inner: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bkg_outer: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bkg_clip: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    trace_coeffs: list[float] | None = None
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    correct_shift: bool = True
    order: Annotated[int, msgspec.Meta(ge=0, le=3)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trace_coeffs is not None and not (self.trace_coeffs and np.isfinite(self.trace_coeffs).all()):
            raise ConfigError(
                Problem(
                    f"extract_1d.trace_coeffs = {self.trace_coeffs} is not a polynomial",
                    todo="give its coefficients, constant term first, for example [15.5, 0.001]",
                    code="parameter",
                )
            )

    @property
    def coupling(self) -> Coupling:
        """Trace and profile come from the scout."""
        return Template(("image", "scatter", "variance", "covariance", "count", "wavelength"))

    def bind(self, binding: Binding) -> BoundExtract1d:
        """Find the trace and prepare the pixel lists."""
        info = binding.info
        along_y = info.dispaxis == 2
        orient = np.transpose if along_y else np.asarray
        image = orient(np.asarray(binding.templates["image"], np.float64))
        scatter = orient(np.asarray(binding.templates["scatter"], np.float64))
        variance = orient(np.asarray(binding.templates["variance"], np.float64))
        scale, unit = flux_scale_map(binding)
        static = orient((binding.dq_plane & np.uint32(dq.DO_NOT_USE)) != 0)
        reference = orient((binding.dq_plane & np.uint32(dq.REFERENCE_PIXEL | dq.NON_SCIENCE)) != 0)
        bad = static | ~np.isfinite(image) | ~np.isfinite(variance) | orient(~np.isfinite(scale)) | reference
        trace = self._trace(image, bad)
        width, inner, notes = self._box(image.shape[0])
        weight = geometry.box_weights(trace, width, image.shape[0])
        ground = geometry.ground_mask(image, bad, trace, inner, self.bkg_outer)
        if self.subtract_background and not ground.any():
            raise ConfigError(
                Problem(
                    f"no background pixels: {image.shape[0]} pixels across, box of {width:g}, "
                    f"background from {inner:g} px outwards",
                    todo="choose a smaller extract_1d.width or extract_1d.bkg_inner, or set "
                    "extract_1d.subtract_background=false",
                    code="parameter",
                )
            )
        source, _ = geometry.column_profile(image, bad, trace, weight, ground)
        if not self.subtract_background:
            source = np.where(bad, 0.0, image)
        aperture, total = _assemble(
            image, source, bad, weight, ground, variance, scatter, scale,
            along_y=along_y, operator=self, binding=binding,
        )  # fmt: skip
        factor = orient(np.where(np.isfinite(scale), scale, np.nanmedian(scale)))
        weights = sum_weights(weight, ground & bool(self.subtract_background), factor)
        flux = np.where(np.isfinite(total) & (total > 0), total, 0.0)
        mean = flux.sum() or 1.0
        cross = np.arange(image.shape[0])[:, None]
        share = np.clip(source * weight, 0, None)
        moment = (share * (cross - trace) ** 2).sum() / max(share.sum(), 1e-30)
        return BoundExtract1d(
            name=self.name,
            pixeldq=binding.dq_plane,
            aperture=aperture,
            centre=float((trace * flux).sum() / mean),
            width=float(np.sqrt(max(moment, 1e-6))),
            along_y=along_y,
            order=self.order,
            wavelength=_column_wavelength(binding, weight, along_y, self.order),
            trace=trace,
            unit=unit,
            notes=notes,
            sum_weights=weights,
            excess=column_excess(weights, orient(np.asarray(binding.templates["covariance"]))),
        )

    def _box(self, ncross: int) -> tuple[float, float, tuple[str, ...]]:
        """Width and inner edge of the background, made smaller where the subarray has no room for them."""
        inner = self.bkg_inner if self.bkg_inner is not None else self.width / 2 + 2
        if not self.subtract_background or 2 * inner <= ncross - LEAST_BACKGROUND:
            return self.width, inner, ()
        room = max(ncross - LEAST_BACKGROUND, 2) / 2
        width = min(self.width, max(2 * room - 1, 2.0))
        note = (
            f"the subarray is only {ncross} pixels across: box of {width:g} instead of {self.width:g} pixels, "
            f"background from {room:g} instead of {inner:g} pixels outwards"
        )
        return width, room, (note,)

    def _trace(self, image: np.ndarray, bad: np.ndarray) -> np.ndarray:
        if self.trace_coeffs is not None:
            given = np.polynomial.polynomial.polyval(
                np.arange(image.shape[1], dtype=float), self.trace_coeffs
            )
            if not ((given > 0) & (given < image.shape[0] - 1)).any():
                raise ConfigError(
                    Problem(
                        f"the trace of extract_1d.trace_coeffs = {self.trace_coeffs} lies nowhere within the "
                        f"{image.shape[0]} pixels across",
                        todo="give 0-based pixels of the subarray",
                        code="parameter",
                    )
                )
            return given
        return geometry.find_trace(image, bad, half_width=self.width / 2).centre


def _assemble(
    image: np.ndarray,
    source: np.ndarray,
    bad: np.ndarray,
    weight: np.ndarray,
    ground: np.ndarray,
    variance: np.ndarray,
    scatter: np.ndarray,
    scale: np.ndarray,
    *,
    along_y: bool,
    operator: Extract1d,
    binding: Binding,
) -> tuple[Aperture, np.ndarray]:
    """Pixel lists, normalised profile with derivatives, and the template for position and width."""
    # weights are zero outside the detector area, so a trace that leaves the subarray just loses flux
    start, pixel, (cross, disp) = geometry.pixel_lists(weight > 0, along_y=along_y)
    ground_start, ground_pixel, (ground_cross, ground_disp) = geometry.pixel_lists(ground, along_y=along_y)
    oriented = scale.T if along_y else scale
    unit = np.where(np.isfinite(oriented), oriented, np.nanmedian(oriented))
    total = (source * unit * weight).sum(axis=0)
    norm = np.where(total > 0, total, np.nan) / unit
    across1, across2 = geometry.derivatives(source, 0)
    along1, along2 = geometry.derivatives(source, 1)
    terms = [source, across1, across2, along1, along2]
    # the profile is one of fluxes in the rows' unit, the template for position one of slopes
    shape = np.stack([(term / norm)[cross, disp] for term in terms], axis=1)
    # a column without flux has no profile: nothing of it can be filled
    shape = np.where(np.isfinite(shape), shape, 0.0)
    count = max(int(binding.templates.get("count", 1)), 1)
    noise = 1.2533 * scatter / np.sqrt(count)
    error = np.hypot(np.nan_to_num(noise / norm), 0.03 * np.clip(source / norm, 0, None))[cross, disp]
    sure = ~bad[cross, disp]
    bright = sure & (source[cross, disp] > 0.02 * np.nanmax(source))
    usable = bright if bright.sum() >= 8 else sure
    inverse = 1.0 / variance[cross, disp]
    inverse = np.where(np.isfinite(inverse), inverse, 0.0)
    basis = np.stack([term[cross, disp] for term in terms[:4]], axis=1)
    aperture = Aperture(
        start=start,
        pixel=pixel,
        weight=weight[cross, disp].astype(np.float32),
        shape=shape.astype(np.float32),
        shape_error=np.nan_to_num(error, nan=1.0).astype(np.float32),
        lost_always=~sure,
        ground_start=ground_start,
        ground=ground_pixel,
        ground_template=image[ground_cross, ground_disp].astype(np.float32),
        fit_pixel=pixel[usable],
        fit_column=disp[usable].astype(np.int32),
        basis=np.ascontiguousarray(basis[usable], np.float32),
        fit_weight=inverse[usable].astype(np.float32),
        scale=np.ascontiguousarray(scale.ravel(), np.float32),
        ground_sample=9,
        ground_clip=operator.bkg_clip,
        max_lost=operator.max_lost,
        subtract=operator.subtract_background,
        correct_across=operator.correct_shift,
        correct_along=False,
    )
    return aperture, total


def _column_wavelength(binding: Binding, weight: np.ndarray, along_y: bool, order: int) -> np.ndarray:
    """Wavelength of each column: the weighted mean over the aperture, or the pixel index."""
    given = binding.templates.get("wavelength") or {}
    image = given.get(order, given.get(0))
    if image is None:
        return np.arange(weight.shape[1], dtype=np.float64)
    image = np.asarray(image, np.float64)
    if image.ndim == 1:
        return image
    image = image.T if along_y else image
    known = np.isfinite(image) & (image > 0)
    share = np.where(known, weight, 0.0)
    norm = share.sum(axis=0)
    mean = (share * np.where(known, image, 0.0)).sum(axis=0)
    return np.where(norm > 0, mean / np.where(norm > 0, norm, 1.0), np.nan)
