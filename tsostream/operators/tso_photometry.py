"""tso_photometry: centroid, apertures and annulus on each image (spec stages 2-3, C.3).

By default (`scope` streaming) the apertures stand still, at the source's position in the scout's template; where the
source was in each integration comes from fitting the template and its derivatives, and lost pixels are filled from it.
In the segment scope the step does what the official one does to a file (`tsostream.operators.photometry.images`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.aperture.covariance import excess_variance
from tsostream.operators.aperture.units import flux_scale_map, note_lost
from tsostream.operators.base import Binding, Operator, reference_array
from tsostream.operators.photometry.images import BoundOfficialPhotometry
from tsostream.operators.photometry.template import (
    BoundTsoPhotometry,
    Circle,
    GrowthCurve,
    Scene,
    centroid,
    growth_curve,
    make_circle,
    widths,
)
from tsostream.operators.smoothing import gaussian, median_of_nine

__all__ = ["BoundOfficialPhotometry", "BoundTsoPhotometry", "TsoPhotometry"]

Radius = Annotated[float, msgspec.Meta(gt=0)]

#: radii of the official step [px]
OFFICIAL_RADII = (3.0, 4.0, 5.0)
_WHOLE = (
    "the weak lens spreads the light over the whole subarray: all of it is summed, and no background subtracted "
    "(another choice: --set tso_photometry.radius=…)"
)


@dataclass(frozen=True)
class WeakLens:
    """What a weak lens makes of a star: a ring, as wide as the pupil out of focus.

    Parameters
    ----------
    radius, inner, outer
        Recommended aperture, and the sky where the subarray has room for it [px].
    """

    radius: float
    inner: float
    outer: float

    @property
    def sigma(self) -> float:
        """Width of the ring as if it were a Gaussian [px]."""
        return 0.46 * self.radius


#: WLP8 and WLM8 spread the light over 130 pixels: in the image of a real star (WASP-39, F210M) a circle of 70 px holds
#: 97 per cent of it, one of 50 px 63 per cent, and from 60 to 70 px it is a quarter as bright as inside
WEAK_LENSES = {
    "WLP4": WeakLens(50.0, 60.0, 70.0),
    "WLP8": WeakLens(70.0, 75.0, 100.0),
    "WLM8": WeakLens(70.0, 75.0, 100.0),
}


@dataclass(frozen=True, kw_only=True)
class TsoPhotometry(Operator):
    """Aperture photometry.

    Parameters
    ----------
    radius
        Aperture radius [px]; several make rows by ``aperture``, the first being the default one. By default the radius
        with the best signal-to-noise in the scout's growth curve. Through a weak lens 70 px (WLP4: 50 px), or the
        whole frame where the subarray does not hold them; in the segment scope 3 px.
    radius_inner, radius_outer
        Annulus of the background [px]; by default outside the largest aperture, as far as the subarray reaches (75 to
        100 px through a weak lens, WLP4: 60 to 70 px; none about a whole frame); in the segment scope 4 to 5 px.
    position
        Source position ``[x, y]`` [px], 0-based in the subarray; by default the brightest source of the template
        (near XREF_SCI, YREF_SCI where the header has them). In the segment scope in place of XREF_SCI and YREF_SCI,
        which are needed there.
    subtract_background
        Whether to subtract the annulus.
    bkg_clip
        Annulus pixels further than this from its robust level are left out [sigma].
    search_box_width
        Size of the box about the expected position in which the source is looked for [px].
    fit_box_width
        Size of the box for the second centroid and the Gaussian fit [px]; segment scope only.
    centroid_source, moving_centroid
        Whether the aperture goes where the source is found (else where the header has it), and whether in every
        integration anew; the latter in the segment scope only, elsewhere a moving source is corrected for.
    max_lost
        Integrations that miss more than this fraction of the profile become NaN.
    correct_shift
        Put back the light that a shift of the source moves over the edge of the aperture. The official step does not
        (it offers to move the aperture instead); set to false to see the difference.
    scope
        ``streaming``, or ``segment``: what the official step does to all integrations of a file.
    """

    name: ClassVar[str] = "tso_photometry"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "measurement"
    optional_references: ClassVar[tuple[str, ...]] = ("gain",)

    radius: Radius | tuple[Radius, ...] | None = None
    radius_inner: Radius | None = None
    radius_outer: Radius | None = None
    position: tuple[float, float] | None = None
    subtract_background: bool = True
    bkg_clip: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    search_box_width: Annotated[int, msgspec.Meta(ge=3)] = 41
    fit_box_width: Annotated[int, msgspec.Meta(ge=3)] = 11
    centroid_source: bool = True
    moving_centroid: bool = False
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    correct_shift: bool = True
    scope: Literal["streaming", "segment"] = "streaming"

    @property
    def coupling(self) -> Coupling:
        """Position and profile come from the scout."""
        return Template(("image", "scatter", "variance", "covariance", "count"))

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii that were asked for [px]; empty for the default."""
        if self.radius is None:
            return ()
        return self.radius if isinstance(self.radius, tuple) else (self.radius,)

    def bind(self, binding: Binding) -> BoundTsoPhotometry | BoundOfficialPhotometry:
        """Find the source and prepare the apertures.

        Raises
        ------
        ConfigError
            Radii or a position that do not fit the subarray; no position where one is needed.
        """
        if self.scope == "segment":
            return self._bind_official(binding)
        scale, unit = flux_scale_map(binding)
        scene = _scene(binding, scale)
        x, y = self._find_source(scene.image, binding)
        growth = growth_curve(scene, x, y)
        radii, inner, outer = self._radii(scene, growth, x, y, binding.info)
        distance = scene.distance(x, y)
        ground = (distance >= inner) & (distance <= outer) & ~scene.bad
        subtract = self.subtract_background and bool(np.isfinite(inner))
        if subtract and ground.sum() < 8:
            raise ConfigError(
                Problem(
                    f"only {int(ground.sum())} usable background pixels between {inner:g} and {outer:g} px of "
                    f"({x:.1f}, {y:.1f})",
                    todo="choose other radii: --set tso_photometry.radius_inner=… --set tso_photometry.radius_outer=…",
                    code="parameter",
                )
            )
        options: dict[str, Any] = {
            "ground_clip": self.bkg_clip,
            "max_lost": self.max_lost,
            "subtract": subtract,
            "correct_across": self.correct_shift,
            "correct_along": self.correct_shift,
        }
        circles = [make_circle(scene, (x, y), radius, ground, options=options) for radius in radii]
        covariance = np.asarray(binding.templates["covariance"])
        circles = [replace(one, excess=_excess(scene, one, covariance, subtract=subtract)) for one in circles]
        level = float(np.median(scene.image[ground])) if subtract else 0.0
        width_x, width_y = widths(scene, scene.image - level, circles[0].weight, (x, y))
        return BoundTsoPhotometry(
            name=self.name,
            pixeldq=binding.dq_plane,
            circles=tuple(circles),
            x=x,
            y=y,
            radius_inner=inner,
            radius_outer=outer,
            width_x=width_x,
            width_y=width_y,
            unit=unit,
            growth=growth,
            notes=(
                *self._without_effect(),
                *note_lost(binding, circles[0].weight),
                *(() if np.isfinite(inner) else (_WHOLE,)),
            ),
        )

    def _without_effect(self) -> Iterator[str]:
        """Say which parameters only concern the segment scope."""
        if self.moving_centroid:
            yield (
                "tso_photometry.moving_centroid: the aperture stands still; light that a shift moves over "
                "its edge is put back (correct_shift)"
            )
        if self.fit_box_width != type(self).fit_box_width:
            yield "tso_photometry.fit_box_width has no effect: positions come from fitting the template"

    def checked_position(self, info: ExposureInfo) -> tuple[float, float] | None:
        """Position that was asked for.

        Raises
        ------
        ConfigError
            It is not in the subarray.
        """
        if self.position is None:
            return None
        x, y = self.position
        if not (-0.5 <= x < info.nx - 0.5 and -0.5 <= y < info.ny - 0.5):
            raise ConfigError(
                Problem(
                    f"tso_photometry.position = [{x:g}, {y:g}] lies outside the subarray of {info.nx} x {info.ny}",
                    todo="give x and y in 0-based pixels of the subarray",
                    code="parameter",
                )
            )
        return float(x), float(y)

    def _find_source(self, image: np.ndarray, binding: Binding) -> tuple[float, float]:
        given = self.checked_position(binding.info)
        if given is not None:
            return given
        planned = _planned(binding.info)
        if planned is not None and not self.centroid_source:
            return planned
        lens = WEAK_LENSES.get(binding.info.pupil.upper())
        sigma = 1.5 if lens is None else lens.sigma
        smooth = image - np.median(image)
        for axis in (0, 1):
            smooth = gaussian(smooth, sigma, axis, mode="symmetric")
        if planned is not None:
            half = self.search_box_width / 2
            yy, xx = np.indices(image.shape)
            near = (np.abs(xx - planned[0]) <= half) & (np.abs(yy - planned[1]) <= half)
            if near.any():
                smooth = np.where(near, smooth, -np.inf)
        row, column = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
        if lens is None:
            return centroid(image, float(column), float(row))
        return centroid(image, float(column), float(row), windows=(lens.sigma,))

    def _radii(
        self, scene: Scene, growth: GrowthCurve, x: float, y: float, info: ExposureInfo
    ) -> tuple[tuple[float, ...], float, float]:
        """Radii of apertures and annulus [px]."""
        ny, nx = scene.image.shape
        radii, inner, outer = self.radii, self.radius_inner, self.radius_outer
        lens = WEAK_LENSES.get(info.pupil.upper())
        if not radii and lens is not None:
            if min(x, y, nx - 1 - x, ny - 1 - y) < lens.radius:
                return (_corner(x, y, nx, ny) + 1.0,), np.nan, np.nan
            radii = (lens.radius,)
            inner, outer = inner or lens.inner, outer or lens.outer
        if not radii:
            radii = (growth.best(),)
        largest = max(radii)
        if inner is None:
            inner = largest + min(2.0, 0.15 * largest + 1)
        if outer is None:
            outer = min(max(2.0 * inner, inner + 5.0), _corner(x, y, nx, ny))
        if not largest <= inner < outer:
            raise ConfigError(
                Problem(
                    f"radii must grow: tso_photometry.radius = {largest:g}, radius_inner = {inner:g}, "
                    f"radius_outer = {outer:g}",
                    todo="the annulus lies outside the aperture",
                    code="parameter",
                )
            )
        return tuple(map(float, radii)), float(inner), float(outer)

    def _bind_official(self, binding: Binding) -> BoundOfficialPhotometry:
        info = binding.info
        place = self.checked_position(info) or _planned(info)
        if place is None:
            raise ConfigError(
                Problem(
                    "the header has no XREF_SCI and YREF_SCI, where the official photometry looks for the source",
                    todo="give --position X,Y (0-based pixels of the subarray)",
                    code="parameter",
                )
            )
        radii, notes = self.radii or OFFICIAL_RADII[:1], []
        boxes = {name: getattr(self, name) for name in ("search_box_width", "fit_box_width")}
        for name, size in boxes.items():
            if size % 2 == 0:
                boxes[name] = size - 1
                notes.append(f"{name} must be odd: {size - 1} is used")
        scale, unit = _official_scale(binding)
        if unit not in ("Jy", "electron"):
            notes.append(
                f"the unit of the input ({unit or 'none'}) is kept: no gain, or no area of a pixel (PIXAR_SR)"
            )
        return BoundOfficialPhotometry(
            name=self.name,
            pixeldq=binding.dq_plane,
            scale=scale,
            unit=unit,
            x=place[0],
            y=place[1],
            radii=tuple(map(float, radii)),
            radius_inner=float(self.radius_inner or OFFICIAL_RADII[1]),
            radius_outer=float(self.radius_outer or OFFICIAL_RADII[2]),
            search_box=boxes["search_box_width"],
            fit_box=boxes["fit_box_width"],
            centroid_source=self.centroid_source,
            moving_centroid=self.moving_centroid,
            whole_frame=(info.subarray.upper(), info.pupil.upper()) == ("SUB64P", "WLP8"),
            segments=binding.segments,
            notes=tuple(notes),
        )


def _corner(x: float, y: float, nx: int, ny: int) -> float:
    """Distance of the farthest corner of the frame [px]."""
    return float(max(np.hypot(a - x, b - y) for a in (0, nx - 1) for b in (0, ny - 1)))


def _excess(scene: Scene, circle: Circle, covariance: np.ndarray, *, subtract: bool) -> float:
    """Variance that shared noise adds to the flux of an aperture."""
    factor = np.where(np.isfinite(scene.scale), scene.scale, np.nanmedian(scene.scale))
    # one column: the annulus' mean counts once for every pixel of the aperture
    each = circle.area / max(circle.ground_area, 1.0) if subtract else 0.0
    return excess_variance((circle.weight - circle.ground * each) * factor, covariance)


def _official_scale(binding: Binding) -> tuple[np.ndarray, str]:
    """Factor per pixel and unit, as the official step has them: gains are taken as they are."""
    info, gain = binding.info, binding.references.get("gain")
    if info.bunit == "DN/s" and gain is not None:
        values = reference_array(gain, "SCI", info.frame_shape, "tso_photometry")
        return (values * np.float32(info.integration_time)).astype(np.float32), "electron"
    if info.bunit == "DN/s":
        return np.ones(info.frame_shape, np.float32), info.bunit
    return flux_scale_map(binding)


def _planned(info: ExposureInfo) -> tuple[float, float] | None:
    """Where the source was meant to be, 0-based [px]."""
    x, y = info.header.get("XREF_SCI"), info.header.get("YREF_SCI")
    if isinstance(x, int | float) and isinstance(y, int | float):
        return float(x) - 1.0, float(y) - 1.0
    return None


def _scene(binding: Binding, scale: np.ndarray) -> Scene:
    """Take the scout's image, with bad pixels filled from their neighbours."""
    image = np.asarray(binding.templates["image"], np.float64)
    variance = np.asarray(binding.templates["variance"], np.float64)
    unusable = np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL | dq.NON_SCIENCE)
    bad = (
        ((binding.dq_plane & unusable) != 0)
        | ~np.isfinite(image)
        | ~np.isfinite(variance)
        | ~np.isfinite(scale)
    )
    filled = median_of_nine(np.where(bad, np.nanmedian(image), image))
    return Scene(
        image=np.where(bad, filled, image),
        bad=bad,
        variance=variance,
        scatter=np.asarray(binding.templates["scatter"], np.float64),
        scale=scale,
        count=max(int(binding.templates.get("count", 1)), 1),
    )
