"""photom: from DN/s to MJy/sr or MJy (spec stages 2-3, B.6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.photom_tables import ARCSEC2, PhotomRow, photom_row, pixel_area, response_at
from tsostream.operators.rate_sync import flat_variance, multiply_rate
from tsostream.operators.spectrum_photom import BoundSpectrumPhotom, bind_spectra
from tsostream.operators.wavelengths import wavelength_map

__all__ = ["Photom", "dispersion"]

#: what the extraction leaves for SOSS
_EXTRACTED = ("keys", "columns_wavelength", "spectrum", "spectrum_error", "sum_weights")
#: MJy/sr in µJy per square arc second
_MICROJANSKY = 1e12 * ARCSEC2


def dispersion(wave: np.ndarray) -> np.ndarray:
    """Wavelength per pixel along x.

    Parameters
    ----------
    wave : float64 [y, x]
        Wavelength [µm]; NaN where there is none.

    Returns
    -------
    float64 [y, x]
        Half the difference of both neighbours [µm]; beside a pixel without wavelength, and at the edge, the
        difference with the other one.
    """
    before, after = np.full_like(wave, np.nan), np.full_like(wave, np.nan)
    before[:, 1:] = wave[:, 1:] - wave[:, :-1]
    after[:, :-1] = before[:, 1:]
    both = 0.5 * (before + after)
    return np.where(np.isfinite(both), both, np.where(np.isfinite(before), before, after))


@dataclass(frozen=True, kw_only=True)
class Photom(Operator):
    """Convert slopes to surface brightness (MJy/sr), or to flux density (MJy) for NIRSpec point sources.

    Parameters
    ----------
    inverse
        Divide by the conversion instead: back to DN/s.
    source_type
        ``POINT`` or ``EXTENDED``, whatever the exposure says (SRCTYPE); matters for NIRSpec.
    apply_time_correction
        Correct for the loss of throughput until the middle of the exposure, where the reference tells it.
    scope
        Of SOSS spectra, which are converted after the extraction: ``streaming``, Jy, and NaN where the reference has no
        response; ``segment``, as the official step: MJy and 0.
    """

    name: ClassVar[str] = "photom"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("photom",)
    optional_references: ClassVar[tuple[str, ...]] = ("area",)

    inverse: bool = False
    source_type: Literal["POINT", "EXTENDED"] | None = None
    apply_time_correction: bool = True
    scope: Literal["streaming", "segment"] = "streaming"

    @property
    def coupling(self) -> Coupling:
        """The response is looked up at each pixel's wavelength."""
        return Template(("wavelength", *_EXTRACTED))

    def bind(self, binding: Binding) -> BoundRateStep | BoundSpectrumPhotom:
        """Find the row and make the map of conversions; for SOSS, the conversion of each spectrum."""
        info = binding.info
        skip = partial(BoundRateStep, self.name, binding.dq_plane, info, _unchanged)
        if str(info.header.get("S_PHOTOM", "")).strip().upper() == "COMPLETE" and not self.inverse:
            return skip(skipped="the input is flux-calibrated already (S_PHOTOM)")
        if info.exp_type == "NIS_SOSS":
            return bind_spectra(self.name, binding, official=self.scope == "segment")
        reference = binding.references["photom"]
        order = _order(info)
        row = photom_row(reference, info, order=order, correct_time=self.apply_time_correction)
        if row is None:
            setting = " ".join(one for one in (info.filter, info.pupil, info.grating, info.subarray) if one)
            return skip(skipped=f"{reference.name} has no conversion for {setting}")
        if info.is_spectroscopy and row.wave is None:
            raise ReferenceMismatchError(
                Problem("the table PHOTOM has no wavelengths, which a spectrum needs", reference.path or reference.name,
                        f"give the PHOTOM reference of {info.exp_type}", "photom")
            )  # fmt: skip
        wave = wavelength_map(binding, order) if row.wave is not None else None
        if row.wave is not None and wave is None:
            return skip(
                skipped="the response depends on the wavelength, and none is known (--wavelengths FILE)"
            )
        steradian, square = pixel_area(binding.references.get("area"), reference, info)
        row, unit = self._unit(row, info, steradian)
        factor, flags = _conversion(row, info, wave)
        if self.inverse:
            with np.errstate(divide="ignore"):
                factor, unit = np.where(factor == 0, np.nan, 1.0 / factor), "DN/s"
        run = partial(
            _multiply,
            factor=np.ascontiguousarray(factor, np.float32),
            flags=np.ascontiguousarray(flags, np.uint32),
        )
        facts = _facts(row, steradian, square)
        after = replace(info, bunit=unit, header={**info.header, **facts, "BUNIT": unit})
        return BoundRateStep(self.name, binding.dq_plane | flags, after, run, facts=facts)

    def _unit(self, row: PhotomRow, info: ExposureInfo, steradian: float | None) -> tuple[PhotomRow, str]:
        """Decide between flux density and surface brightness."""
        kind = self.source_type or str(info.header.get("SRCTYPE", "") or "POINT").strip().upper()
        if row.per_area:
            return row, "MJy/sr"
        if kind == "POINT":
            return row, "MJy"
        if steradian is None:
            raise ReferenceMismatchError(
                Problem("an extended source needs the area of a pixel, and neither AREA nor PHOTOM tells it",
                        todo="give --override area=FILE, or set photom.source_type=POINT", code="photom")
            )  # fmt: skip
        return replace(row, conversion=row.conversion / steradian), "MJy/sr"


def _order(info: ExposureInfo) -> int:
    value: Any = info.header.get("SPORDER")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def _conversion(row: PhotomRow, info: ExposureInfo, wave: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Factor per pixel, and DO_NOT_USE where there is none."""
    flags = np.zeros(info.frame_shape, np.uint32)
    if wave is None:
        return np.full(info.frame_shape, row.conversion), flags
    factor = response_at(row, wave)
    if info.exp_type == "NRC_TSGRISM":
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = factor / np.abs(dispersion(wave))
    lost = ~np.isfinite(factor)
    flags[lost] = np.uint32(dq.DO_NOT_USE)
    return np.where(lost, 0.0, factor), flags


def _facts(row: PhotomRow, steradian: float | None, square: float | None) -> dict[str, float]:
    facts = {"PHOTMJSR": row.conversion, "PHOTUJA2": row.conversion * _MICROJANSKY}
    facts |= {} if steradian is None else {"PIXAR_SR": steradian}
    return facts | ({} if square is None else {"PIXAR_A2": square})


def _unchanged(rate: Rate) -> Rate:
    return rate


def _multiply(rate: Rate, *, factor: np.ndarray, flags: np.ndarray) -> Rate:
    multiply_rate(
        rate.data, rate.err, rate.var_poisson, rate.var_rnoise, flat_variance(rate), rate.dq, factor, flags
    )
    return rate
