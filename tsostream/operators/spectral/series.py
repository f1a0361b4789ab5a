"""One series of spectra: an aperture, a method, and everything prepared for them from the scout's template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.aperture.covariance import column_excess, sum_weights
from tsostream.operators.aperture.lists import Aperture, Sums
from tsostream.operators.aperture.strips import Strips, lay_out
from tsostream.operators.aperture.sums import Position, measure_spectrum, position
from tsostream.operators.spectral.correction import apply_correction
from tsostream.operators.spectral.faint import faint_profile
from tsostream.operators.spectral.fitting import ProfileFit, fit_block, linear_weights
from tsostream.operators.spectral.scene import Scene

__all__ = [
    "Extracted", "Recipe", "Series", "build_series", "extract_series", "join_series", "profile_positions",
    "side_by_side",
]  # fmt: skip

#: pixels of a column that the first level of its background is taken from
GROUND_SAMPLE = 9
#: least relative uncertainty of the profile
PROFILE_ERROR = 0.03
#: relative uncertainty of a profile that is the neighbours'
FAINT_ERROR = 0.1


@dataclass(frozen=True)
class Series:
    """One series, ready to be measured.

    Parameters
    ----------
    number
        Aperture number of its rows.
    method
        ``box``, ``optimal`` or ``profile``.
    extract_width
        Full width of the aperture [px]; NaN for one from a reference.
    aperture, strips
        Pixel lists and profile, by columns and in the order of memory.
    fit
        Weights of a fit; None for a box.
    centre, width
        Mean position across and Gaussian-equivalent width of the profile [px].
    trace : float64 [column]
        Centre of the aperture across [px].
    sum_weights : float64 [cross, disp]
        Weight of each pixel in the columns' sums, background included.
    excess : float64 [column]
        Variance that shared (1/f) noise adds to each column.
    weight : float64 [cross, disp]
        Fraction of each pixel inside the aperture.
    """

    number: int
    method: str
    extract_width: float
    aperture: Aperture
    strips: Strips
    fit: ProfileFit | None
    centre: float
    width: float
    trace: np.ndarray
    sum_weights: np.ndarray
    excess: np.ndarray
    weight: np.ndarray

    def without_sum_weights(self) -> Series:
        """Give the same without the weights in the sums."""
        return replace(self, sum_weights=np.empty((0, 0)))

    def describe(self) -> dict[str, Any]:
        """Say what the aperture's number means, for the metadata."""
        return {
            "aperture": self.number,
            "extraction_type": self.method,
            "extract_width": None if np.isnan(self.extract_width) else self.extract_width,
        }


@dataclass(frozen=True)
class Recipe:
    """How a series is made.

    Parameters
    ----------
    extract_width
        Full width [px], for the record.
    weight : float64 [cross, disp]
        Aperture.
    ground : bool [cross, disp]
        Background pixels.
    subtract
        Whether a background is subtracted.
    bkg_clip, max_lost, correct_shift, profile_clip, terms
        Parameters of the step; ``terms`` of the background in the joint fit.
    """

    extract_width: float
    weight: np.ndarray
    ground: np.ndarray
    subtract: bool
    bkg_clip: float
    max_lost: float
    correct_shift: bool
    profile_clip: float
    terms: int


def build_series(scene: Scene, trace: np.ndarray, recipe: Recipe, methods: dict[str, int]) -> list[Series]:
    """Prepare one aperture for several methods.

    Parameters
    ----------
    scene
        The template.
    trace : float64 [disp]
        Centre of the spectrum across.
    recipe
        Aperture and parameters.
    methods
        Method -> aperture number.
    """
    weight = recipe.weight
    source, level = geometry.column_profile(scene.image, scene.bad, trace, weight, recipe.ground)
    if not recipe.subtract:
        source, level = np.where(scene.bad, 0.0, scene.image), np.zeros_like(level)
    aperture, total = _assemble(scene, source, recipe)
    strips = lay_out(aperture, (scene.scale_map.shape[0], scene.scale_map.shape[1]), along_y=scene.along_y)
    flux = np.where(np.isfinite(total) & (total > 0), total, 0.0)
    cross = np.arange(source.shape[0])[:, None]
    share = np.clip(source * weight, 0, None)
    moment = (share * (cross - trace) ** 2).sum() / max(share.sum(), 1e-30)
    fitted = (
        aperture if set(methods) == {"box"} else _with_faint_columns(scene, aperture, source, trace, weight)
    )
    found = []
    for method, number in methods.items():
        fit, own = None, aperture if method == "box" else fitted
        if method == "box":
            ground = recipe.ground & bool(recipe.subtract)
            weights = sum_weights(weight, ground, scene.whole_scale)
        else:
            fit = _profile_fit(scene, own, trace, level, recipe, joint=method == "profile")
            weights = scene.orient(linear_weights(own, fit, scene.scale_map.shape))
        found.append(
            Series(
                number=number,
                method=method,
                extract_width=recipe.extract_width,
                aperture=own,
                strips=strips,
                fit=fit,
                centre=float((trace * flux).sum() / (flux.sum() or 1.0)),
                width=float(np.sqrt(max(moment, 1e-6))),
                trace=trace,
                sum_weights=weights,
                excess=column_excess(weights, scene.covariance),
                weight=weight,
            )
        )
    return found


def _assemble(scene: Scene, source: np.ndarray, recipe: Recipe) -> tuple[Aperture, np.ndarray]:
    """Pixel lists, normalised profile with derivatives, and the template for position and width."""
    weight, along_y = recipe.weight, scene.along_y
    # weights are zero outside the detector area, so a trace that leaves the subarray just loses flux
    start, pixel, (cross, disp) = geometry.pixel_lists(weight > 0, along_y=along_y)
    ground_start, ground_pixel, (ground_cross, ground_disp) = geometry.pixel_lists(
        recipe.ground, along_y=along_y
    )
    unit = scene.whole_scale
    total = (source * unit * weight).sum(axis=0)
    norm = np.where(total > 0, total, np.nan) / unit
    across1, across2 = geometry.derivatives(source, 0)
    along1, along2 = geometry.derivatives(source, 1)
    terms = [source, across1, across2, along1, along2]
    # the profile is one of fluxes in the rows' unit, the template for position one of slopes
    shape = np.stack([(term / norm)[cross, disp] for term in terms], axis=1)
    # a column without flux has no profile: nothing of it can be filled
    shape = np.where(np.isfinite(shape), shape, 0.0)
    noise = 1.2533 * scene.scatter / np.sqrt(scene.count)
    error = np.hypot(np.nan_to_num(noise / norm), PROFILE_ERROR * np.clip(source / norm, 0, None))[
        cross, disp
    ]
    sure = ~scene.bad[cross, disp]
    bright = sure & (source[cross, disp] > 0.02 * np.nanmax(source))
    usable = bright if bright.sum() >= 8 else sure
    inverse = 1.0 / scene.variance[cross, disp]
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
        ground_template=scene.image[ground_cross, ground_disp].astype(np.float32),
        ground_wing=np.zeros(ground_cross.size, np.float32),
        ground_sampled=geometry.sampled_rows(recipe.ground, GROUND_SAMPLE)[ground_cross],
        fit_pixel=pixel[usable],
        fit_column=disp[usable].astype(np.int32),
        basis=np.ascontiguousarray(basis[usable], np.float32),
        fit_weight=inverse[usable].astype(np.float32),
        scale=np.ascontiguousarray(scene.scale_map.ravel(), np.float32),
        ground_clip=recipe.bkg_clip,
        max_lost=recipe.max_lost,
        subtract=recipe.subtract,
        correct_across=recipe.correct_shift,
        correct_along=False,
    )
    return aperture, total


def _with_faint_columns(
    scene: Scene, aperture: Aperture, source: np.ndarray, trace: np.ndarray, weight: np.ndarray
) -> Aperture:
    """Give columns without a profile of their own that of their neighbours: a fit needs one."""
    unit = scene.whole_scale
    noise = 1.2533 * np.sqrt(np.where(scene.bad, np.nan, scene.variance) / scene.count)
    faint = faint_profile(source * unit, noise * unit, trace, weight)
    if not faint.columns.any():
        return aperture
    _, _, (cross, disp) = geometry.pixel_lists(weight > 0, along_y=scene.along_y)
    chosen = faint.columns[disp]
    shape, error = aperture.shape.copy(), aperture.shape_error.copy()
    shape[chosen] = 0.0
    shape[chosen, :3] = faint.shape[:, cross[chosen], disp[chosen]].T
    error[chosen] = FAINT_ERROR * shape[chosen, 0]
    return aperture._replace(shape=shape, shape_error=error)


def _profile_fit(
    scene: Scene, aperture: Aperture, trace: np.ndarray, level: np.ndarray, recipe: Recipe, *, joint: bool
) -> ProfileFit:
    """Weights and coordinates of the fit."""
    inverse = 1.0 / (scene.variance * scene.whole_scale**2)
    inverse = np.where(np.isfinite(inverse) & (inverse > 0), inverse, 0.0)
    place = (np.arange(scene.image.shape[0])[:, None] - trace) / (scene.image.shape[0] / 2)

    def listed(array: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(scene.orient(array).ravel()[pixels], np.float32)

    return ProfileFit(
        inverse=listed(inverse, aperture.pixel),
        ground_inverse=listed(inverse, aperture.ground),
        place=listed(place, aperture.pixel),
        ground_place=listed(place, aperture.ground),
        level=np.ascontiguousarray(level, np.float64),
        terms=recipe.terms if joint and recipe.subtract else 0,
        clip=recipe.profile_clip,
    )


def profile_positions(out: Any, series: Series) -> tuple[Position, Position]:
    """Position across and along of every integration."""
    return position(out, 1, 2, series.width), position(out, 3, 3, 1.0)


@dataclass(frozen=True)
class Extracted:
    """What one series gives of a block.

    Parameters
    ----------
    columns
        Light-curve columns that tell where the source is, [integration].
    spectra
        [integration, column].
    """

    columns: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]


def extract_series(block: Rate, series: Iterable[Series], *, along_y: bool) -> list[Extracted]:
    """Measure a block in several series; those of one width share their pixels, and so their box sums."""
    boxes: dict[int, Sums] = {}
    found = []
    for one in series:
        box = boxes.get(id(one.strips))
        if box is None:
            box = boxes[id(one.strips)] = measure_spectrum(block, one.strips)
        out = box if one.fit is None else fit_block(block, one.aperture, one.fit, box)
        found.append(Extracted(_series_columns(out, one, along_y=along_y), _series_spectra(out, one)))
    return found


def join_series(
    block: Rate,
    keys: tuple[tuple[int, int], ...],
    found: Sequence[Extracted],
    corrections: np.ndarray | None,
) -> Measurement:
    """Put series side by side.

    Parameters
    ----------
    block
        What was measured.
    keys
        (order, aperture) of each series.
    found
        Of each.
    corrections : float64 [key, column], optional
        Factors of flux and errors.
    """
    spectra = side_by_side([one.spectra for one in found])
    if corrections is not None:
        apply_correction(spectra, corrections)
        spectra["own_err"] *= corrections
    columns = side_by_side([one.columns for one in found])
    return Measurement(block.first, block.times, keys, columns, spectra, np.ones(block.count, bool))


def side_by_side(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put what was found for each series, [integration, …] by name, into arrays [integration, key, …]."""
    if len(parts) == 1:
        return {name: array[:, None] for name, array in parts[0].items()}
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def _series_columns(out: Sums, one: Series, *, along_y: bool) -> dict[str, np.ndarray]:
    """Light-curve columns of one series that tell where the source is, [integration]."""
    across, along = profile_positions(out, one)
    names = ("y", "x") if along_y else ("x", "y")
    return {
        names[0]: along.shift,
        f"{names[0]}_err": along.shift_error,
        f"width_{names[0]}": np.full(len(out.flux), np.nan),
        names[1]: one.centre + across.shift,
        f"{names[1]}_err": across.shift_error,
        f"width_{names[1]}": across.width,
    }


def _series_spectra(out: Sums, one: Series) -> dict[str, np.ndarray]:
    """Spectrum columns of one series, [integration, column]."""
    return {
        "flux": out.flux,
        "flux_err": np.sqrt(out.error * out.error + one.excess),
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
