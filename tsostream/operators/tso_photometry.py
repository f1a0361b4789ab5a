"""tso_photometry: centroid, aperture and annulus on each image (spec stages 2-3, C.3).

The aperture stands still, at the source's position in the scout's template; where the source was in each integration,
how wide and how bright as a whole, comes from fitting the template and its derivatives. Lost pixels are filled from
the template at that position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from scipy import ndimage

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.aperture.covariance import excess_variance
from tsostream.operators.aperture.measure import Aperture
from tsostream.operators.aperture.sums import measure_block, position
from tsostream.operators.aperture.units import flux_scale_map
from tsostream.operators.base import Binding, Operator
from tsostream.operators.circle import circle_weights

__all__ = ["BoundTsoPhotometry", "TsoPhotometry"]


@dataclass(frozen=True)
class BoundTsoPhotometry:
    """Photometry of one exposure.

    Parameters
    ----------
    aperture
        Pixel lists and profile; one column.
    x, y
        Centre of the aperture [px], 0-based in the subarray.
    radius, radius_inner, radius_outer
        Radii [px].
    width_x, width_y
        Gaussian-equivalent widths of the template [px].
    template_flux
        Flux of the whole template inside the aperture [unit].
    excess
        Variance that shared (1/f) noise adds to the flux.
    unit
        Unit of the flux.
    """

    name: str
    pixeldq: np.ndarray
    aperture: Aperture
    x: float
    y: float
    radius: float
    radius_inner: float
    radius_outer: float
    width_x: float
    width_y: float
    template_flux: float
    excess: float
    unit: str
    skipped: str = ""

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """``(order, aperture)`` of each series."""
        return ((0, 0),)

    def push(self, block: Rate) -> list[Measurement]:
        """Measure every integration of a block."""
        out = measure_block(block, self.aperture)
        vertical = position(out, 1, 2, self.width_y)
        horizontal = position(out, 3, 4, self.width_x)
        counts = out.counts[:, 0]
        columns = {
            "flux": out.flux[:, 0],
            "flux_err": np.sqrt(out.error[:, 0] ** 2 + self.excess),
            "background": out.ground[:, 0],
            "background_err": np.sqrt(out.ground_variance[:, 0]),
            "x": self.x + horizontal.shift,
            "y": self.y + vertical.shift,
            "x_err": horizontal.shift_error,
            "y_err": vertical.shift_error,
            "width_x": horizontal.width,
            "width_y": vertical.width,
            "n_jump": counts[:, 0],
            "n_saturated": counts[:, 1],
            "n_outlier": counts[:, 2],
            "n_bad": counts[:, 3],
            "frac_filled": out.lost[:, 0],
            "annulus_mean": out.ground[:, 0],
            "psf_flux": out.fit[:, 0] * self.template_flux,
        }
        return [
            Measurement(
                block.first,
                block.times,
                ((0, 0),),
                {name: values[:, None] for name, values in columns.items()},
                {},
                np.ones(block.count, bool),
            )
        ]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


@dataclass(frozen=True, kw_only=True)
class TsoPhotometry(Operator):
    """Aperture photometry.

    Parameters
    ----------
    radius
        Aperture radius [px]; by default the one with the best signal-to-noise in the scout's growth curve.
    radius_inner, radius_outer
        Annulus of the background [px]; by default outside the aperture, as far as the subarray reaches.
    position
        Source position ``[x, y]`` [px], 0-based in the subarray; by default the brightest source of the template
        (near XREF_SCI, YREF_SCI where the header has them).
    subtract_background
        Whether to subtract the annulus.
    bkg_clip
        Annulus pixels further than this from its robust level are left out [sigma].
    search_box_width
        Size of the box about the expected position in which the source is looked for [px].
    max_lost
        Integrations that miss more than this fraction of the profile become NaN.
    correct_shift
        Put back the light that a shift of the source moves over the edge of the aperture. The official step does not
        (it offers to move the aperture instead); set to false to see the difference.
    """

    name: ClassVar[str] = "tso_photometry"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "measurement"
    optional_references: ClassVar[tuple[str, ...]] = ("gain",)

    radius: Annotated[float, msgspec.Meta(gt=0)] | None = None
    radius_inner: Annotated[float, msgspec.Meta(gt=0)] | None = None
    radius_outer: Annotated[float, msgspec.Meta(gt=0)] | None = None
    position: tuple[float, float] | None = None
    subtract_background: bool = True
    bkg_clip: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    search_box_width: Annotated[int, msgspec.Meta(ge=3)] = 41
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    correct_shift: bool = True

    @property
    def coupling(self) -> Coupling:
        """Position and profile come from the scout."""
        return Template(("image", "scatter", "variance", "covariance", "count"))

    def bind(self, binding: Binding) -> BoundTsoPhotometry:
        """Find the source and prepare the pixel lists."""
        info = binding.info
        image = np.asarray(binding.templates["image"], np.float64)
        scatter = np.asarray(binding.templates["scatter"], np.float64)
        variance = np.asarray(binding.templates["variance"], np.float64)
        scale, unit = flux_scale_map(binding)
        unusable = np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL | dq.NON_SCIENCE)
        bad = (
            ((binding.dq_plane & unusable) != 0)
            | ~np.isfinite(image)
            | ~np.isfinite(variance)
            | ~np.isfinite(scale)
        )
        filled = ndimage.median_filter(np.where(bad, np.nanmedian(image), image), 3)
        filled = np.where(bad, filled, image)
        x, y = self._find_source(filled, binding)
        radius, inner, outer = self._radii(filled, variance, bad, x, y)
        weight = np.zeros(info.frame_shape)
        circle_weights(weight, x, y, radius)
        yy, xx = np.indices(info.frame_shape)
        distance = np.hypot(xx - x, yy - y)
        ground = (distance >= inner) & (distance <= outer) & ~bad
        if self.subtract_background and ground.sum() < 8:
            raise ConfigError(
                Problem(
                    f"only {int(ground.sum())} usable background pixels between {inner:g} and {outer:g} px of "
                    f"({x:.1f}, {y:.1f})",
                    todo="choose other radii: --set tso_photometry.radius_inner=… --set tso_photometry.radius_outer=…",
                    code="parameter",
                )
            )
        level = float(np.median(image[ground])) if self.subtract_background else 0.0
        source = filled - level
        aperture = self._assemble(filled, source, bad, weight, ground, variance, scatter, scale, binding)
        share = np.clip(source, 0, None) * weight
        total = max(share.sum(), 1e-30)
        width_x = np.sqrt((share * (xx - x) ** 2).sum() / total)
        width_y = np.sqrt((share * (yy - y) ** 2).sum() / total)
        factor = np.where(np.isfinite(scale), scale, np.nanmedian(scale))
        # one column: the annulus' mean counts once for every pixel of the aperture
        each = weight.sum() / max(int(ground.sum()), 1) if self.subtract_background else 0.0
        weights = (weight - ground * each) * factor
        return BoundTsoPhotometry(
            name=self.name,
            pixeldq=binding.dq_plane,
            aperture=aperture,
            x=x,
            y=y,
            radius=radius,
            radius_inner=inner,
            radius_outer=outer,
            width_x=float(width_x),
            width_y=float(width_y),
            template_flux=float((source * factor * weight).sum()),
            excess=excess_variance(weights, np.asarray(binding.templates["covariance"])),
            unit=unit,
        )

    def _find_source(self, image: np.ndarray, binding: Binding) -> tuple[float, float]:
        ny, nx = image.shape
        header = binding.info.header
        if self.position is not None:
            x, y = self.position
            if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5):
                raise ConfigError(
                    Problem(
                        f"tso_photometry.position = [{x:g}, {y:g}] lies outside the subarray of {nx} x {ny}",
                        todo="give x and y in 0-based pixels of the subarray",
                        code="parameter",
                    )
                )
            return float(x), float(y)
        smooth = ndimage.gaussian_filter(image - np.median(image), 1.5)
        x_ref, y_ref = header.get("XREF_SCI"), header.get("YREF_SCI")
        if isinstance(x_ref, int | float) and isinstance(y_ref, int | float):
            half = self.search_box_width / 2
            yy, xx = np.indices(image.shape)
            near = (np.abs(xx - (x_ref - 1)) <= half) & (np.abs(yy - (y_ref - 1)) <= half)
            if near.any():
                smooth = np.where(near, smooth, -np.inf)
        row, column = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
        return _centroid(image, float(column), float(row))

    def _radii(
        self, image: np.ndarray, variance: np.ndarray, bad: np.ndarray, x: float, y: float
    ) -> tuple[float, float, float]:
        ny, nx = image.shape
        edge = min(x + 0.5, y + 0.5, nx - 0.5 - x, ny - 0.5 - y)
        yy, xx = np.indices(image.shape)
        distance = np.hypot(xx - x, yy - y)
        radius = self.radius
        if radius is None:
            far = distance > 0.8 * edge
            level = float(np.median(image[far & ~bad])) if (far & ~bad).any() else 0.0
            radius = _best_radius(image - level, np.where(bad, np.nan, variance), distance, 0.75 * edge)
        inner = self.radius_inner if self.radius_inner is not None else radius + min(2.0, 0.15 * radius + 1)
        outer = self.radius_outer
        if outer is None:
            corner = max(np.hypot(a - x, b - y) for a in (0, nx - 1) for b in (0, ny - 1))
            outer = min(max(2.0 * inner, inner + 5.0), corner)
        if not radius <= inner < outer:
            raise ConfigError(
                Problem(
                    f"radii must grow: tso_photometry.radius = {radius:g}, radius_inner = {inner:g}, "
                    f"radius_outer = {outer:g}",
                    todo="the annulus lies outside the aperture",
                    code="parameter",
                )
            )
        return float(radius), float(inner), float(outer)

    def _assemble(
        self,
        filled: np.ndarray,
        source: np.ndarray,
        bad: np.ndarray,
        weight: np.ndarray,
        ground: np.ndarray,
        variance: np.ndarray,
        scatter: np.ndarray,
        scale: np.ndarray,
        binding: Binding,
    ) -> Aperture:
        pixel = np.flatnonzero(weight > 0).astype(np.int32)
        unit = np.where(np.isfinite(scale), scale, np.nanmedian(scale))
        total = float((source * unit * weight).sum()) or 1.0
        across1, across2 = geometry.derivatives(source, 0)
        along1, along2 = geometry.derivatives(source, 1)
        terms = [source, across1, across2, along1, along2]
        shape = np.stack([(term * unit / total).ravel()[pixel] for term in terms], axis=1)
        count = max(int(binding.templates.get("count", 1)), 1)
        noise = np.nan_to_num(1.2533 * scatter / np.sqrt(count)) * unit / total
        error = np.hypot(noise, 0.03 * np.clip(source * unit / total, 0, None)).ravel()[pixel]
        sure = ~bad.ravel()[pixel]
        inverse = 1.0 / variance.ravel()[pixel]
        inverse = np.where(np.isfinite(inverse), inverse, 0.0)
        basis = np.stack([term.ravel()[pixel] for term in terms], axis=1)
        ground_pixel = np.flatnonzero(ground).astype(np.int32)
        return Aperture(
            start=np.array([0, pixel.size], np.int32),
            pixel=pixel,
            weight=weight.ravel()[pixel].astype(np.float32),
            shape=shape.astype(np.float32),
            shape_error=error.astype(np.float32),
            lost_always=~sure,
            ground_start=np.array([0, ground_pixel.size], np.int32),
            ground=ground_pixel,
            ground_template=filled.ravel()[ground_pixel].astype(np.float32),
            fit_pixel=pixel[sure],
            fit_column=np.zeros(int(sure.sum()), np.int32),
            basis=np.ascontiguousarray(basis[sure], np.float32),
            fit_weight=inverse[sure].astype(np.float32),
            scale=np.ascontiguousarray(scale.ravel(), np.float32),
            ground_sample=101,
            ground_clip=self.bkg_clip,
            max_lost=self.max_lost,
            subtract=self.subtract_background,
            correct_across=self.correct_shift,
            correct_along=self.correct_shift,
        )


def _centroid(image: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Gaussian-windowed centroid, iterated; stable for cores and for weak-lens donuts alike."""
    yy, xx = np.indices(image.shape)
    level = float(np.median(image))
    for sigma in (6.0, 4.0, 3.0):
        for _ in range(20):
            weight = np.clip(image - level, 0, None) * np.exp(
                -0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / sigma**2
            )
            total = weight.sum()
            if total <= 0:
                return x, y
            new_x, new_y = float((weight * xx).sum() / total), float((weight * yy).sum() / total)
            moved = np.hypot(new_x - x, new_y - y)
            # the window pulls back by half the step
            x, y = (
                x + 2 * (new_x - x) if moved < 0.5 else new_x,
                y + 2 * (new_y - y) if moved < 0.5 else new_y,
            )
            if moved < 1e-4:
                break
    return x, y


def _best_radius(source: np.ndarray, variance: np.ndarray, distance: np.ndarray, largest: float) -> float:
    """Radius with the best signal-to-noise on the growth curve, in steps of half a pixel, at least 2 pixels."""
    best, chosen = -1.0, 2.0
    for radius in np.arange(2.0, max(largest, 2.0) + 0.25, 0.5):
        inside = distance <= radius
        signal = float(source[inside].sum())
        noise2 = float(np.nansum(variance[inside]))
        if noise2 > 0 and signal / np.sqrt(noise2) > best:
            best, chosen = signal / np.sqrt(noise2), float(radius)
    return chosen
