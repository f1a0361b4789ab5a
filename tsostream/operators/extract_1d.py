"""extract_1d: spectra from images, by a box, by optimal extraction, or by a joint fit of profile and background.

Spec stages 2-3, B.8 for the official step, which ``scope: segment`` reproduces. By default the trace is that of the
scout, and lost pixels do not bias the sum: they are filled from the profile, shifted to this integration's position
(see `tsostream.operators.aperture.measure`), or left out of a fit of it (`tsostream.operators.spectral.fitting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.coupling import Coupling, PerIntegration, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture import geometry
from tsostream.operators.aperture.lists import Aperture
from tsostream.operators.aperture.units import note_lost
from tsostream.operators.base import Binding, Operator
from tsostream.operators.spectral.correction import choose_correction
from tsostream.operators.spectral.definition import choose_entry, column_wavelengths, define_aperture
from tsostream.operators.spectral.official_block import BoundOfficialExtract1d, bind_official
from tsostream.operators.spectral.scene import Scene, read_scene
from tsostream.operators.spectral.series import (
    Recipe,
    Series,
    build_series,
    extract_series,
    join_series,
)

if TYPE_CHECKING:
    from tsostream.operators.soss.extract import BoundSoss
    from tsostream.operators.soss.official_block import BoundOfficialSoss

__all__ = ["BoundExtract1d", "Extract1d"]

#: traces, wavelengths and profiles of SOSS
SOSS_REFERENCES = ("pastasoss", "spectrace", "wavemap", "specprofile", "speckernel")
#: rows across that must remain for the background
LEAST_BACKGROUND = 4

Method = Literal["box", "optimal", "profile"]
Width = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class BoundExtract1d:
    """Extraction of one exposure.

    Parameters
    ----------
    series
        What is extracted in one pass; the first one is the default (aperture 0).
    along_y
        Whether the spectrum runs along y.
    order
        Spectral order.
    wavelength : float64 [column]
        Wavelength [µm], or the pixel index where none is known.
    unit
        Unit of the flux.
    corrections : float64 [key, column], optional
        Aperture correction.
    """

    name: str
    pixeldq: np.ndarray
    series: tuple[Series, ...]
    along_y: bool
    order: int
    wavelength: np.ndarray
    unit: str
    corrections: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """(order, aperture) of the rows."""
        return tuple((self.order, one.number) for one in self.series)

    @property
    def background_unit(self) -> str:
        """Unit of the background."""
        return f"{self.unit} / pix"

    @property
    def aperture(self) -> Aperture:
        """Pixel lists and profiles of the default series."""
        return self.series[0].aperture

    @property
    def centre(self) -> float:
        """Mean position of the default series across [px]."""
        return self.series[0].centre

    @property
    def width(self) -> float:
        """Gaussian-equivalent width of the profile [px]."""
        return self.series[0].width

    @property
    def trace(self) -> np.ndarray:
        """Centre of the default aperture across, float64 [column]."""
        return self.series[0].trace

    @property
    def sum_weights(self) -> tuple[np.ndarray, ...]:
        """Weight of each pixel in the columns' sums of every series, float64 [cross, disp] each."""
        return tuple(one.sum_weights for one in self.series)

    def settled(self) -> BoundExtract1d:
        """Let go of what only the steps behind this one look at, when they are bound: images as large as the frame."""
        return replace(self, series=tuple(one.without_sum_weights() for one in self.series))

    def describe(self) -> list[dict[str, Any]]:
        """Say what the aperture numbers mean."""
        return [one.describe() for one in self.series]

    def push(self, block: Rate) -> list[Measurement]:
        """Extract every integration of a block, in all series."""
        found = extract_series(block, self.series, along_y=self.along_y)
        return [join_series(block, self.keys, found, self.corrections)]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


@dataclass(frozen=True, kw_only=True)
class Extract1d(Operator):
    """Extract spectra from each integration.

    Parameters
    ----------
    extraction_type
        ``box``; ``optimal`` (Horne 1986); ``profile``, the joint fit of profile and background of each column. A list
        makes further rows by aperture number.
    extract_width
        Full width of the aperture across the trace [px]; a list makes further rows. ``width`` is the same. In the
        segment scope it overrides the EXTRACT1D reference, which counts when this is not set.
    scope
        ``streaming``, or ``segment``: the official extraction, with the aperture and the background of the EXTRACT1D
        reference; lost pixels are not filled.
    aperture
        Of the streaming scope: ``scout`` for a box about the trace the scout found, ``reference`` for the aperture
        and the background regions of the EXTRACT1D reference.
    subtract_background
        Whether to subtract a background. Not set: yes; in the segment scope if the reference has ``bkg_coeff``.
    bkg_inner, bkg_outer
        Distances from the trace between which the background lies [px].
    bkg_clip
        Background pixels further than this from the column's robust level are left out [sigma].
    bkg_fit, bkg_order
        Fit of the background in each column: ``poly`` of a degree, ``mean`` or ``median``, in the segment scope. In
        the streaming one the mean is taken, and ``bkg_order`` is the degree in the joint fit (``profile``), up to 2.
    smoothing_length
        Running mean along the dispersion before the background is fitted [px]; segment scope only.
    use_source_posn
        Whether the aperture of the reference follows the source's expected position; segment scope only: the scout
        finds the source where it is.
    position_offset
        Moves the aperture across [px].
    apply_apcorr
        Whether to apply the aperture correction of an APCORR reference (NIRSpec, MIRI LRS). In the streaming scope
        it is that of the whole aperture, whose lost pixels are filled.
    trace_coeffs
        Polynomial of the trace, constant term first (pixel across as a function of the pixel along); by default the
        scout finds the trace.
    max_lost
        Columns that miss more than this fraction of the profile become NaN.
    profile_clip
        Fits leave out pixels further than this from the model [sigma].
    correct_shift
        Put back the light that a shift of the source across the trace moves over the edge of the box. The official
        step does not; set to false to see the difference.
    order
        Spectral order to label the rows with; 1 everywhere but where the exposure has several.
    soss_atoca
        Whether the overlap of the SOSS orders is modelled and taken out; needs pastasoss, specprofile and speckernel
        references.
    soss_width
        Full width of the SOSS boxes [px], where ``extract_width`` is not set.
    soss_order_3
        Whether order 3 is extracted.
    soss_bad_pix
        ``masking`` leaves bad pixels out, ``model`` takes them from the model of the overlap; segment scope only: the
        streaming one fills lost pixels from the profile.
    soss_threshold, soss_n_os, soss_rtol, soss_max_grid_size, soss_tikfac
        As in the official step: least share of a pixel that counts as contaminated, points per pixel, relative error
        of integrals and largest size of the wavelength grid, and the regularisation (not set: found on the template).
    soss_wave_grid_in, soss_wave_grid_out
        Files of the wavelength grid of the joint fit, in the layout of the official SossWaveGridModel: read instead of
        finding one, and written.
    soss_estimate
        File of a spectrum (EXTRACT1D table, one row for each point) that the grid is refined for and the search for
        the regularisation starts from; not set: estimated on the template.
    soss_modelname
        Official: file of the model images of all integrations. Refused: they are not kept.
    """

    name: ClassVar[str] = "extract_1d"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "measurement"
    optional_references: ClassVar[tuple[str, ...]] = (
        "gain",
        "extract1d",
        "apcorr",
        *SOSS_REFERENCES,
        "specwcs",
    )
    #: other names of parameters
    aliases: ClassVar[Mapping[str, str]] = {"width": "extract_width"}

    extraction_type: Method | list[Method] | None = "box"
    extract_width: Width | list[Width] | None = None
    scope: Literal["streaming", "segment"] = "streaming"
    aperture: Literal["scout", "reference"] = "scout"
    subtract_background: bool | None = None
    bkg_inner: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bkg_outer: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bkg_clip: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    bkg_fit: Literal["poly", "mean", "median"] | None = None
    bkg_order: Annotated[int, msgspec.Meta(ge=0)] | None = None
    smoothing_length: Annotated[int, msgspec.Meta(ge=0)] | None = None
    use_source_posn: bool | None = None
    position_offset: float = 0.0
    apply_apcorr: bool = True
    trace_coeffs: list[float] | None = None
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    profile_clip: Annotated[float, msgspec.Meta(gt=0)] = 6.0
    correct_shift: bool = True
    order: Annotated[int, msgspec.Meta(ge=0, le=3)] = 1
    soss_atoca: bool = True
    soss_width: Width = 40.0
    soss_order_3: bool = True
    soss_bad_pix: Literal["masking", "model"] = "masking"
    soss_threshold: Annotated[float, msgspec.Meta(gt=0)] = 1e-2
    soss_n_os: Annotated[int, msgspec.Meta(ge=1)] = 2
    soss_rtol: Annotated[float, msgspec.Meta(gt=0)] = 1e-4
    soss_max_grid_size: Annotated[int, msgspec.Meta(gt=0)] = 20000
    soss_tikfac: Annotated[float, msgspec.Meta(gt=0)] | None = None
    soss_wave_grid_in: str | None = None
    soss_wave_grid_out: str | None = None
    soss_estimate: str | None = None
    soss_modelname: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trace_coeffs is not None and not (self.trace_coeffs and np.isfinite(self.trace_coeffs).all()):
            raise _refusal(
                f"extract_1d.trace_coeffs = {self.trace_coeffs} is not a polynomial",
                "give its coefficients, constant term first, for example [15.5, 0.001]",
            )
        if self.soss_modelname is not None:
            raise _refusal(
                f"extract_1d.soss_modelname = {self.soss_modelname!r}: model images are not written",
                "leave it out; the spectra, the factor and the grid (soss_wave_grid_out) are",
            )
        for name, values in (("extraction_type", self.methods), ("extract_width", self.widths)):
            if not values or len(set(values)) < len(values):
                raise _refusal(
                    f"extract_1d.{name} = {getattr(self, name)!r}: expected values that differ",
                    "name each once",
                )
        if self.scope == "segment" and self.methods != ("box",):
            raise _refusal(
                f"extract_1d.extraction_type = {self.extraction_type!r} with scope=segment",
                "the segment scope has the official box; leave out scope=segment (--parity) for other methods",
            )
        if self.scope == "streaming" and self.bkg_fit == "median":
            raise _refusal(
                "extract_1d.bkg_fit = 'median' is for scope=segment",
                "the streaming background is a mean that leaves out outliers (bkg_clip); leave bkg_fit out",
            )
        if self.scope == "streaming" and self.bkg_order and self.methods != ("profile",):
            raise _refusal(
                f"extract_1d.bkg_order = {self.bkg_order} needs extraction_type=profile or scope=segment",
                "the background beside the trace is one level per column",
            )
        if self.scope == "streaming" and (self.bkg_order or 0) > 2:
            raise _refusal(f"extract_1d.bkg_order = {self.bkg_order} is more than 2", "give 0, 1 or 2")

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods, the default one first."""
        given = self.extraction_type or "box"
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def widths(self) -> tuple[float | None, ...]:
        """Widths, the default one first; None where the reference or the step decides."""
        given = self.extract_width
        return tuple(given) if isinstance(given, list) else (given,)

    @property
    def coupling(self) -> Coupling:
        """Trace and profile come from the scout."""
        if self.scope == "segment":
            return PerIntegration()
        return Template(("image", "scatter", "variance", "covariance", "count", "wavelength"))

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the references of the mode: the traces of SOSS, the dispersion of MIRI."""
        own = {"NIS_SOSS": SOSS_REFERENCES, "MIR_LRS-SLITLESS": ("specwcs",)}.get(info.exp_type, ())
        return (), ("gain", "extract1d", "apcorr", *own)

    def bind(
        self, binding: Binding
    ) -> BoundExtract1d | BoundOfficialExtract1d | BoundSoss | BoundOfficialSoss:
        """Find the trace and prepare the pixel lists."""
        if binding.info.exp_type == "NIS_SOSS" and (soss := self._bind_soss(binding)) is not None:
            return soss
        if self.scope == "segment":
            return bind_official(self.name, binding, self.parameters(), self.widths, self.order)
        scene = read_scene(binding)
        notes: list[str] = []
        series: list[Series] = []
        for place, width in enumerate(self.widths):
            numbers = {method: m * len(self.widths) + place for m, method in enumerate(self.methods)}
            trace, recipe = self._recipe(
                scene, binding, self._default_width(binding) if width is None else width, notes
            )
            series += build_series(scene, trace, recipe, numbers)
        series.sort(key=lambda one: one.number)
        first = series[0]
        weight = first.weight.T if scene.along_y else first.weight
        notes += note_lost(binding, weight)
        wavelength = _column_wavelength(binding, first, scene, self.order)
        corrections = None
        if self.apply_apcorr:
            correction = choose_correction(
                binding.references.get("apcorr"), binding.info, binding.info.header
            )
            if correction is not None:
                at = np.where(np.isfinite(wavelength), wavelength, 0.0)
                corrections = np.stack([correction.factors(at, one.weight.sum(axis=0)) for one in series])
        return BoundExtract1d(
            name=self.name,
            pixeldq=binding.dq_plane,
            series=tuple(series),
            along_y=scene.along_y,
            order=self.order,
            wavelength=wavelength,
            unit=scene.unit,
            corrections=corrections,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _bind_soss(self, binding: Binding) -> BoundSoss | BoundOfficialSoss | None:
        """Bind the extraction of overlapping orders; None where its references are not there."""
        # with what it stands on, it takes half as long to load as the rest of the program
        from tsostream.operators.soss.extract import bind_soss
        from tsostream.operators.soss.official_block import bind_official_soss

        if self.scope == "segment":
            segments = binding.templates.get("soss_segments")
            return None if segments is None else bind_official_soss(self, binding, segments)
        if self.trace_coeffs is not None or self.aperture != "scout":
            return None
        return bind_soss(self, binding)

    def _default_width(self, binding: Binding) -> float:
        return self.soss_width if binding.info.exp_type == "NIS_SOSS" else 10.0

    def _recipe(
        self, scene: Scene, binding: Binding, width: float, notes: list[str]
    ) -> tuple[np.ndarray, Recipe]:
        """Trace, aperture and background pixels of one width."""
        image, bad = scene.image, scene.bad
        trace = self._trace(image, bad, width) + self.position_offset
        subtract = self.subtract_background is not False
        width, inner, told = self._box(image.shape[0], width, subtract=subtract)
        weight = geometry.box_weights(trace, width, image.shape[0])
        ground = geometry.ground_mask(geometry.smoothed(image, bad), bad, trace, inner, self.bkg_outer)
        if self.aperture == "reference":
            weight, ground, told = self._from_reference(scene, binding, ground)
            width = np.nan
        notes += told
        if subtract and not ground.any():
            raise _refusal(
                f"no background pixels: {image.shape[0]} pixels across, box of {width:g}, "
                f"background from {inner:g} px outwards",
                "choose a smaller extract_1d.extract_width or extract_1d.bkg_inner, or set "
                "extract_1d.subtract_background=false",
            )
        recipe = Recipe(
            extract_width=width,
            weight=weight,
            ground=ground,
            subtract=subtract,
            bkg_clip=self.bkg_clip,
            max_lost=self.max_lost,
            correct_shift=self.correct_shift,
            profile_clip=self.profile_clip,
            terms=1 + (self.bkg_order or 0),
        )
        return trace, recipe

    def _from_reference(
        self, scene: Scene, binding: Binding, ground: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Aperture and background of the EXTRACT1D reference instead of those about the trace."""
        reference = binding.references.get("extract1d")
        if reference is None:
            raise _refusal(
                "extract_1d.aperture = 'reference', but there is no EXTRACT1D reference",
                "give one with --override extract1d=FILE or --refs DIR, or leave extract_1d.aperture out",
            )
        entry = choose_entry(reference, binding.info, self.order)
        shape = scene.image.shape
        definition = define_aperture(
            entry,
            (shape[0], shape[1]),
            along_y=scene.along_y,
            chosen=self.parameters() | {"extract_width": None},
        ).moved(self.position_offset)
        wave = _wavelength_image(binding, scene, self.order)
        mask = definition.ground((shape[0], shape[1]), wave)
        if mask is not None:
            ground = (mask > 0) & ~scene.bad
        return definition.weights((shape[0], shape[1]), wave), ground, ()

    def _box(self, ncross: int, width: float, *, subtract: bool) -> tuple[float, float, tuple[str, ...]]:
        """Width and inner edge of the background, made smaller where the subarray has no room for them."""
        inner = self.bkg_inner if self.bkg_inner is not None else width / 2 + 2
        if not subtract or 2 * inner <= ncross - LEAST_BACKGROUND:
            return width, inner, ()
        room = max(ncross - LEAST_BACKGROUND, 2) / 2
        smaller = min(width, max(2 * room - 1, 2.0))
        note = (
            f"the subarray is only {ncross} pixels across: box of {smaller:g} instead of {width:g} pixels, "
            f"background from {room:g} instead of {inner:g} pixels outwards"
        )
        return smaller, room, (note,)

    def _trace(self, image: np.ndarray, bad: np.ndarray, width: float) -> np.ndarray:
        if self.trace_coeffs is None:
            return geometry.find_trace(image, bad, half_width=width / 2).centre
        along = np.arange(image.shape[1], dtype=float)
        given = np.polynomial.polynomial.polyval(along, self.trace_coeffs)
        if not ((given > 0) & (given < image.shape[0] - 1)).any():
            raise _refusal(
                f"the trace of extract_1d.trace_coeffs = {self.trace_coeffs} lies nowhere within the "
                f"{image.shape[0]} pixels across",
                "give 0-based pixels of the subarray",
            )
        return given


def _refusal(what: str, todo: str) -> ConfigError:
    return ConfigError(Problem(what, todo=todo, code="parameter"))


def _wavelength_image(binding: Binding, scene: Scene, order: int) -> np.ndarray | None:
    """Wavelength of each pixel [cross, disp], NaN where there is none; None where nothing is known."""
    given = binding.templates.get("wavelength") or {}
    image = given.get(order, given.get(0))
    if image is None:
        return None
    image = np.asarray(image, np.float64)
    if image.ndim == 1:
        return np.broadcast_to(image, scene.image.shape)
    image = scene.orient(image)
    return np.where(np.isfinite(image) & (image > 0), image, np.nan)


def _column_wavelength(binding: Binding, one: Series, scene: Scene, order: int) -> np.ndarray:
    """Wavelength of each column: the weighted mean over the aperture, or the pixel index."""
    given = binding.templates.get("wavelength") or {}
    image = _wavelength_image(binding, scene, order)
    if image is None:
        return np.arange(scene.image.shape[1], dtype=np.float64)
    if np.asarray(given.get(order, given.get(0))).ndim == 1:
        return image[0].copy()
    return column_wavelengths(image, one.weight)
