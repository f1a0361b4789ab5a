"""Photometry against the scout's template: where the source is in it, how its light grows with the radius, apertures.

The apertures stand still; where the source was in each integration, how wide and how bright as a whole, comes from
fitting the template and its derivatives. Lost pixels are filled from the template at that position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.aperture.lists import Aperture
from tsostream.operators.aperture.sums import measure_block, position
from tsostream.operators.circle import circle_weights

__all__ = ["BoundTsoPhotometry", "Circle", "GrowthCurve", "Scene", "centroid", "growth_curve", "make_circle"]


#: pixels that the first level of the background is taken from
GROUND_SAMPLE = 101


@dataclass(frozen=True)
class Scene:
    """The scout's image and what is known of its pixels.

    Parameters
    ----------
    image : float64 [y, x]
        Template, bad pixels filled [input unit].
    bad : bool [y, x]
        Pixels that are bad in every integration.
    variance, scatter : float64 [y, x]
        Of one integration [input unit squared, input unit].
    scale : float32 [y, x]
        Factor from the input's unit to that of the rows.
    count : int
        Integrations of the template.
    """

    image: np.ndarray
    bad: np.ndarray
    variance: np.ndarray
    scatter: np.ndarray
    scale: np.ndarray
    count: int

    def distance(self, x: float, y: float) -> np.ndarray:
        """Distance of every pixel from a place [px]."""
        yy, xx = np.indices(self.image.shape)
        return np.hypot(xx - x, yy - y)


@dataclass(frozen=True)
class GrowthCurve:
    """How much light a circle holds.

    Parameters
    ----------
    radius : float64 [radius]
        Radii [px].
    flux : float64 [radius]
        Light inside, above the sky at the edge of the frame, in units of that inside the largest circle.
    snr : float64 [radius]
        Signal-to-noise ratio of one integration.
    """

    radius: np.ndarray
    flux: np.ndarray
    snr: np.ndarray

    def best(self) -> float:
        """Radius with the best signal-to-noise ratio [px], on the grid of half pixels."""
        if not len(self.snr) or not np.isfinite(self.snr).any():
            return 2.0
        return float(self.radius[int(np.nanargmax(self.snr))])

    def describe(self) -> dict[str, list[float]]:
        """Plain numbers for the metadata of an output."""
        return {
            "radius": self.radius.tolist(),
            "flux": np.round(self.flux, 6).tolist(),
            "snr": np.round(self.snr, 2).tolist(),
        }


@dataclass(frozen=True)
class Circle:
    """One aperture with its background.

    Parameters
    ----------
    radius
        [px].
    aperture
        Pixel lists and profile; one column.
    template_flux
        Flux of the template inside [unit of the rows].
    excess
        Variance that shared (1/f) noise adds to the flux.
    area
        Pixels inside, with their fractions.
    ground_area
        Pixels of the annulus.
    weight : float64 [y, x]
        Fraction of each pixel inside.
    ground : bool [y, x]
        Pixels of the annulus.
    """

    radius: float
    aperture: Aperture
    template_flux: float
    excess: float
    area: float
    ground_area: float
    weight: np.ndarray = field(repr=False)
    ground: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class BoundTsoPhotometry:
    """Photometry of one exposure.

    Parameters
    ----------
    circles
        The apertures, the default one first; they share the annulus.
    x, y
        Centre of the apertures [px], 0-based in the subarray.
    radius_inner, radius_outer
        Radii of the annulus [px]; NaN where the whole frame is summed, without a background.
    width_x, width_y
        Gaussian-equivalent widths of the template [px].
    unit
        Unit of the flux.
    growth
        Growth curve of the template.
    notes
        What is worth telling.
    """

    name: str
    pixeldq: np.ndarray
    circles: tuple[Circle, ...]
    x: float
    y: float
    radius_inner: float
    radius_outer: float
    width_x: float
    width_y: float
    unit: str
    growth: GrowthCurve
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def radius(self) -> float:
        """Radius of the default aperture [px]."""
        return self.circles[0].radius

    @property
    def aperture(self) -> Aperture:
        """Pixel lists of the default aperture."""
        return self.circles[0].aperture

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """``(order, aperture)`` of each series."""
        return tuple((0, number) for number in range(len(self.circles)))

    @property
    def facts(self) -> dict[str, object]:
        """What the output's metadata say of the apertures."""
        return {
            "aperture_radii": [circle.radius for circle in self.circles],
            "aperture_area": self.circles[0].area,
            "annulus_area": self.circles[0].ground_area,
            "growth_curve": self.growth.describe(),
            **({} if np.isfinite(self.radius_inner) else {"whole_frame": True}),
        }

    def push(self, block: Rate) -> list[Measurement]:
        """Measure every integration of a block."""
        series = [self._series(block, circle) for circle in self.circles]
        for name in ("x", "y", "x_err", "y_err", "width_x", "width_y"):
            # one source has one position: that of the default aperture's fit
            for one in series[1:]:
                one[name] = series[0][name]
        columns = {name: np.stack([one[name] for one in series], axis=1) for name in series[0]}
        return [Measurement(block.first, block.times, self.keys, columns, {}, np.ones(block.count, bool))]

    def _series(self, block: Rate, circle: Circle) -> dict[str, np.ndarray]:
        out = measure_block(block, circle.aperture)
        vertical = position(out, 1, 2, self.width_y)
        horizontal = position(out, 3, 4, self.width_x)
        counts = out.counts[:, 0]
        return {
            "flux": out.flux[:, 0],
            "flux_err": np.sqrt(out.error[:, 0] ** 2 + circle.excess),
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
            "psf_flux": out.fit[:, 0] * circle.template_flux,
        }

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


def growth_curve(scene: Scene, x: float, y: float) -> GrowthCurve:
    """Growth curve of the template about a place, in steps of half a pixel from two pixels on.

    Parameters
    ----------
    scene
        The template.
    x, y
        Centre [px].
    """
    ny, nx = scene.image.shape
    edge = min(x + 0.5, y + 0.5, nx - 0.5 - x, ny - 0.5 - y)
    distance = scene.distance(x, y)
    far = (distance > 0.8 * edge) & ~scene.bad
    level = float(np.median(scene.image[far])) if far.any() else 0.0
    source = scene.image - level
    variance = np.where(scene.bad, np.nan, scene.variance)
    radii = np.arange(2.0, max(0.75 * edge, 2.0) + 0.25, 0.5)
    flux, noise2 = np.empty(radii.size), np.empty(radii.size)
    for k, radius in enumerate(radii):
        inside = distance <= radius
        flux[k] = source[inside].sum()
        noise2[k] = np.nansum(variance[inside])
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(noise2 > 0, flux / np.sqrt(noise2), np.nan)
        share = flux / flux[-1]
    return GrowthCurve(radii, share, snr)


def make_circle(
    scene: Scene,
    place: tuple[float, float],
    radius: float,
    ground: np.ndarray,
    *,
    options: dict[str, Any],
) -> Circle:
    """Pixel lists of an aperture.

    Parameters
    ----------
    scene
        The template.
    place
        x and y of the centre [px].
    radius
        [px].
    ground : bool [y, x]
        Pixels of the annulus.
    options
        ``ground_clip, max_lost, subtract, correct_across, correct_along`` of `Aperture`.
    """
    weight = np.zeros(scene.image.shape)
    circle_weights(weight, *place, radius)
    level = float(np.median(scene.image[ground])) if options["subtract"] else 0.0
    source = scene.image - level
    factor = np.where(np.isfinite(scene.scale), scene.scale, np.nanmedian(scene.scale))
    return Circle(
        radius=radius,
        aperture=_assemble(scene, source, factor, weight, ground, options),
        template_flux=float((source * factor * weight).sum()),
        excess=0.0,
        area=float(weight.sum()),
        ground_area=float(ground.sum()),
        weight=weight,
        ground=ground,
    )


def _assemble(
    scene: Scene,
    source: np.ndarray,
    unit: np.ndarray,
    weight: np.ndarray,
    ground: np.ndarray,
    options: dict[str, Any],
) -> Aperture:
    pixel = np.flatnonzero(weight > 0).astype(np.int32)
    total = float((source * unit * weight).sum()) or 1.0
    across1, across2 = geometry.derivatives(source, 0)
    along1, along2 = geometry.derivatives(source, 1)
    terms = [source, across1, across2, along1, along2]
    shape = np.stack([(term * unit / total).ravel()[pixel] for term in terms], axis=1)
    noise = np.nan_to_num(1.2533 * scene.scatter / np.sqrt(scene.count)) * unit / total
    error = np.hypot(noise, 0.03 * np.clip(source * unit / total, 0, None)).ravel()[pixel]
    sure = ~scene.bad.ravel()[pixel]
    inverse = 1.0 / scene.variance.ravel()[pixel]
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
        ground_template=scene.image.ravel()[ground_pixel].astype(np.float32),
        ground_wing=_wings(scene, ground).astype(np.float32),
        ground_sampled=np.arange(ground_pixel.size) % max(1, ground_pixel.size // GROUND_SAMPLE) == 0,
        fit_pixel=pixel[sure],
        fit_column=np.zeros(int(sure.sum()), np.int32),
        basis=np.ascontiguousarray(basis[sure], np.float32),
        fit_weight=inverse[sure].astype(np.float32),
        scale=np.ascontiguousarray(scene.scale.ravel(), np.float32),
        **options,
    )


def _wings(scene: Scene, ground: np.ndarray) -> np.ndarray:
    """How far the star's light is from level in each pixel of the annulus, in the output's unit; float64 [background].

    Outliers are told by their distance from the template, in which the star has its usual brightness. In an eclipse its
    wings fade, most where they are brightest: to leave those pixels out would raise the background as the star fades.
    """
    template = scene.image[ground]
    if not template.size:
        return np.zeros(0)
    return np.nan_to_num(np.abs(template - np.median(template)) * scene.scale[ground])


def centroid(
    image: np.ndarray, x: float, y: float, windows: Sequence[float] = (6.0, 4.0, 3.0)
) -> tuple[float, float]:
    """Gaussian-windowed centroid, iterated.

    Parameters
    ----------
    image : float64 [y, x]
        Image.
    x, y
        Where to begin [px].
    windows
        Widths of the windows [px], one after the other: the last one about as wide as the source.
    """
    yy, xx = np.indices(image.shape)
    level = float(np.median(image))
    for sigma in windows:
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


def widths(
    scene: Scene, source: np.ndarray, weight: np.ndarray, place: Sequence[float]
) -> tuple[float, float]:
    """Gaussian-equivalent widths of the template inside an aperture, along x and y [px]."""
    yy, xx = np.indices(scene.image.shape)
    share = np.clip(source, 0, None) * weight
    total = max(share.sum(), 1e-30)
    return (
        float(np.sqrt((share * (xx - place[0]) ** 2).sum() / total)),
        float(np.sqrt((share * (yy - place[1]) ** 2).sum() / total)),
    )
