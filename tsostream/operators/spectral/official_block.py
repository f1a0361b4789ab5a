"""The official box extraction of whole blocks, bound to an exposure (spec stages 2-3, B.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement, Rate
from tsostream.operators.aperture.geometry import pixel_lists
from tsostream.operators.base import Binding
from tsostream.operators.spectral.correction import ApertureCorrection, apply_correction, choose_correction
from tsostream.operators.spectral.definition import (
    ApertureDefinition,
    centre_of,
    choose_entry,
    column_wavelengths,
    define_aperture,
)
from tsostream.operators.spectral.official import GroundFit, extract_box

__all__ = ["BoundOfficialExtract1d", "FirstCorrection", "OfficialUnits", "bind_official", "official_units"]

KINDS = ("poisson", "rnoise", "flat")
LOST = np.uint32(dq.DO_NOT_USE)
COUNTED = (dq.JUMP_DET, dq.SATURATED, dq.OUTLIER)


@dataclass(frozen=True)
class OfficialUnits:
    """Factors from sums of pixels to the columns of the table.

    Parameters
    ----------
    flux
        For the flux; its square for variances.
    surface
        For the surface brightness; 0 where it has no meaning.
    ground
        For the background per pixel.
    unit, surface_unit
        Of flux, and of surface brightness and background.
    """

    flux: float = 1.0
    surface: float = 1.0
    ground: float = 1.0
    unit: str = "DN/s"
    surface_unit: str = "DN/s"


def official_units(info: ExposureInfo) -> OfficialUnits:
    """Say what the official step makes of the input's unit, by whether photom was done and how (spec B.8)."""
    if not info.bunit.strip().upper().startswith("MJY"):
        return OfficialUnits()
    area = info.header.get("PIXAR_SR")
    steradian = float(area) if isinstance(area, int | float) and area else 1.0
    if info.instrument == "NIRSPEC" and _is_point(info):
        # slopes are in MJy
        return OfficialUnits(1e6, 0.0, 1.0 / steradian, "Jy", "MJy/sr")
    return OfficialUnits(steradian * 1e6, 1.0, 1.0, "Jy", "MJy/sr")


def _is_point(info: ExposureInfo) -> bool:
    return str(info.header.get("SRCTYPE", "POINT") or "POINT").strip().upper() == "POINT"


@dataclass(frozen=True)
class OfficialSeries:
    """One aperture.

    Parameters
    ----------
    number
        Aperture number of its rows.
    weight : float64 [cross, disp]
        Weights.
    ground
        Background; None for none.
    definition
        Where they came from.
    """

    number: int
    weight: np.ndarray
    ground: GroundFit | None
    definition: ApertureDefinition


@dataclass(frozen=True)
class BoundOfficialExtract1d:
    """Official extraction of one exposure; columns are those with a wavelength.

    Parameters
    ----------
    series
        Apertures.
    columns : int64 [column]
        Which columns of the frame have a wavelength and a pixel.
    wavelength : float64 [column]
        [µm], or the pixel where none is known.
    units
        Factors.
    correction
        Aperture correction, if any.
    segments
        First and last integration of each file.
    """

    name: str
    pixeldq: np.ndarray
    series: tuple[OfficialSeries, ...]
    columns: np.ndarray
    wavelength: np.ndarray
    along_y: bool
    order: int
    units: OfficialUnits
    correction: ApertureCorrection | None = None
    segments: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """(order, aperture) of the rows."""
        return tuple((self.order, one.number) for one in self.series)

    @property
    def unit(self) -> str:
        """Unit of the flux."""
        return self.units.unit

    @property
    def background_unit(self) -> str:
        """Unit of background and surface brightness."""
        return self.units.surface_unit

    @property
    def trace(self) -> np.ndarray:
        """Middle of the first aperture across, float64 [column]."""
        return np.array([centre_of(self.series[0].weight, int(c)) for c in self.columns])

    @property
    def aperture(self) -> SimpleNamespace:
        """Pixels of the first aperture column by column, and their weights: where the light was read when."""
        weight = self.series[0].weight[:, self.columns]
        whole = np.zeros_like(self.series[0].weight)
        whole[:, self.columns] = weight
        start, pixel, (cross, disp) = pixel_lists(whole > 0, along_y=self.along_y)
        chosen = np.concatenate([start[self.columns], start[-1:]])
        share = whole[cross, disp]
        return SimpleNamespace(start=chosen, pixel=pixel, weight=share, shape=np.ones((pixel.size, 1)))

    @property
    def sum_weights(self) -> tuple[np.ndarray, ...]:
        """Weight of each pixel in the sums of every series; nothing is shared officially."""
        return tuple(one.weight[:, self.columns] * self.units.flux for one in self.series)

    def describe(self) -> list[dict[str, Any]]:
        """Say what the aperture numbers mean."""
        return [
            {
                "aperture": one.number,
                "extraction_type": "box",
                "extract_width": one.definition.extract_width,
                "limits": self._limits(one),
            }
            for one in self.series
        ]

    def _limits(self, one: OfficialSeries) -> list[float]:
        inside = np.flatnonzero(one.weight.sum(axis=1) > 0)
        return [float(inside[0]), float(inside[-1])] if inside.size else []

    def push(self, block: Rate) -> list[Measurement]:
        """Extract every integration of a block."""
        found = [[self._extract(block, i, one) for one in self.series] for i in range(block.count)]
        spectra = {
            name: np.stack([np.stack([one[name] for one in row]) for row in found]) for name in found[0][0]
        }
        if self.correction is not None and not self.correction.by_phase:
            factors = self.correction.factors(
                np.broadcast_to(self.wavelength, spectra["npixels"].shape).ravel(), spectra["npixels"].ravel()
            )
            apply_correction(spectra, factors.reshape(spectra["npixels"].shape))
        spectra["own_err"] = spectra["flux_err"].copy()
        return [Measurement(block.first, block.times, self.keys, {}, spectra, np.ones(block.count, bool))]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []

    @property
    def needs_order(self) -> bool:
        """Whether `FirstCorrection` must see the blocks in order: a file's correction is its first integration's."""
        return self.correction is not None and self.correction.by_phase

    def _extract(self, block: Rate, i: int, one: OfficialSeries) -> dict[str, np.ndarray]:
        planes = [block.data[i], block.err[i], block.var_poisson[i], block.var_rnoise[i]]
        flat = None if block.var_flat is None else block.var_flat[i]
        lost = (block.dq[i] & LOST) != 0
        for plane in [*planes, *([] if flat is None else [flat])]:
            lost = lost | np.isnan(plane)
        variances = [planes[2], planes[3], np.zeros_like(planes[0]) if flat is None else flat]
        image, *variance = (
            self._orient(np.where(lost, np.nan, plane).astype(np.float64))
            for plane in (planes[0], *variances)
        )
        sums = extract_box(image, np.stack(variance), one.weight, one.ground)
        return self._columns(sums, self._orient(block.dq[i]), self._orient(lost), one)

    def _orient(self, array: np.ndarray) -> np.ndarray:
        return array.T if self.along_y else array

    def _columns(
        self, sums: Any, bits: np.ndarray, lost: np.ndarray, one: OfficialSeries
    ) -> dict[str, np.ndarray]:
        units, at = self.units, self.columns
        area = np.where(sums.npixels > 0, sums.npixels, 1.0)
        out: dict[str, np.ndarray] = {
            "flux": sums.flux * units.flux,
            "surf_bright": sums.flux / area * units.surface,
        }
        out["background"] = sums.ground / area * units.ground
        for k, kind in enumerate(KINDS):
            out[f"flux_var_{kind}"] = sums.variance[k] * units.flux**2
            out[f"sb_var_{kind}"] = sums.variance[k] / area**2 * units.surface**2
            out[f"background_var_{kind}"] = sums.ground_variance[k] / area**2 * units.ground**2
        for name, parts in (
            ("flux_err", "flux_var"),
            ("sb_error", "sb_var"),
            ("background_err", "background_var"),
        ):
            out[name] = np.sqrt(sum(out[f"{parts}_{kind}"] for kind in KINDS))
        if units.surface == 0.0:
            out["surf_bright"] = np.zeros_like(sums.flux)
        out["npixels"] = sums.npixels
        out["dq"] = np.where(np.isnan(out["flux"]), LOST, np.uint32(0)).astype(np.uint32)
        inside = one.weight > 0
        whole = one.weight.sum(axis=0)
        out["lost"] = np.where(whole > 0, 1.0 - sums.npixels / np.where(whole > 0, whole, 1.0), 0.0)
        counts = [((bits & np.uint32(bit)) != 0) & inside for bit in COUNTED]
        out["counts"] = np.stack([part.sum(axis=0) for part in (*counts, lost & inside)], axis=1).astype(
            np.int32
        )
        return {name: values[at] for name, values in out.items()}


class FirstCorrection:
    """Applies a correction with pixel phases, which a file takes from its first integration (spec Q5).

    Blocks must come in order, from the beginning of a file.

    Parameters
    ----------
    bound
        The extraction.
    """

    name = "extract_1d"

    def __init__(self, bound: BoundOfficialExtract1d):
        self._bound = bound
        self._begin = 0
        self._factors: np.ndarray | None = None

    def begin_of(self, number: int) -> int:
        """First integration of the file that holds one."""
        return max((low for low, _ in self._bound.segments if low <= number), default=1)

    def push(self, block: Measurement) -> list[Measurement]:
        """Correct a block, in place."""
        if self._bound.correction is None or not block.spectra:
            return [block]
        for i in range(block.count):
            begin = self.begin_of(block.first + i)
            if begin != self._begin or self._factors is None:
                correction, wavelength = self._bound.correction, self._bound.wavelength
                rows = block.spectra["npixels"][i]
                self._begin, self._factors = (
                    begin,
                    np.stack([correction.factors(wavelength, row) for row in rows]),
                )
            apply_correction({name: array[i] for name, array in block.spectra.items()}, self._factors)
        block.spectra["own_err"] = block.spectra["flux_err"].copy()
        return [block]


def bind_official(
    name: str, binding: Binding, chosen: Mapping[str, Any], widths: Sequence[float | None], order: int
) -> BoundOfficialExtract1d:
    """Join the official extraction to an exposure.

    Parameters
    ----------
    name
        Name of the step.
    binding
        Exposure, references, templates.
    chosen
        Parameters of the step under their jwst names.
    widths
        Widths of the apertures [px]; None for the reference's own.
    order
        Spectral order.
    """
    info = binding.info
    along_y = info.dispaxis == 2
    shape = info.frame_shape[::-1] if along_y else info.frame_shape
    entry = choose_entry(binding.references.get("extract1d"), info, order)
    wavelength = _wavelengths(binding, order, along_y, shape)
    known = wavelength if wavelength is not None else None
    series, notes = [], []
    point = _is_point(info)
    if not point and chosen.get("use_source_posn") is None:
        chosen = {**chosen, "use_source_posn": False}
    for number, width in enumerate(widths):
        wish = {
            **chosen,
            "extract_width": width,
            "follows_source": info.exp_type == "NRS_BRIGHTOBJ" and point,
        }
        definition = define_aperture(entry, shape, along_y=along_y, chosen=wish)
        definition, told = _follow_source(definition, binding, shape, known)
        notes += told
        offset = float(chosen.get("position_offset") or 0.0)
        if offset:
            definition = definition.moved(offset)
        weight = definition.weights(shape, known)
        mask = definition.ground(shape, known)
        ground = None
        if mask is not None:
            ground = GroundFit(mask, definition.bkg_fit, definition.bkg_order, definition.smoothing_length)
        series.append(OfficialSeries(number, weight, ground, definition))
    along = (
        column_wavelengths(known, series[0].weight) if known is not None else np.arange(shape[1], dtype=float)
    )
    along = np.where(series[0].weight.sum(axis=0) > 0, along, np.nan)
    columns = np.flatnonzero(np.isfinite(along))
    correction = None
    if chosen.get("apply_apcorr", True) and point:
        correction = choose_correction(binding.references.get("apcorr"), info, info.header)
    return BoundOfficialExtract1d(
        name=name,
        pixeldq=binding.dq_plane,
        series=tuple(series),
        columns=columns,
        wavelength=along[columns],
        along_y=along_y,
        order=order,
        units=official_units(info),
        correction=correction,
        segments=tuple(getattr(binding, "segments", ())),
        notes=tuple(dict.fromkeys(notes)),
    )


def _wavelengths(binding: Binding, order: int, along_y: bool, shape: tuple[int, int]) -> np.ndarray | None:
    """Wavelength image, oriented, NaN where there is none; None where nothing is known."""
    given = binding.templates.get("wavelength") or {}
    image = given.get(order, given.get(0))
    if image is None:
        return None
    image = np.asarray(image, np.float64)
    if image.ndim == 1:
        return np.broadcast_to(image, shape)
    return image.T if along_y else image


def _follow_source(
    definition: ApertureDefinition, binding: Binding, shape: tuple[int, int], wavelength: np.ndarray | None
) -> tuple[ApertureDefinition, list[str]]:
    """Move an aperture from its nominal place to where the coordinates of the exposure expect the source."""
    if not definition.use_source_posn:
        return definition, []
    expected = binding.templates.get("source_location")
    if expected is None:
        told = (
            "extract_1d: the position of the source is not known from the coordinates of the exposure; the aperture "
            "stays where the EXTRACT1D reference puts it"
        )
        return definition, [told]
    nominal = centre_of(definition.weights(shape, wavelength), int(expected["pixel"]))
    moved = definition.moved(float(expected["location"]) - nominal, with_trace=False)
    trace = expected.get("trace")
    return replace(moved, trace=None if trace is None else np.asarray(trace, np.float64)), []
