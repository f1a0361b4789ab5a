"""wavecorr: the wavelengths of a point source that is not centred in NIRSpec's slit (spec stages 2-3, B.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.payload import Rate
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRateStep, Operator
from tsostream.operators.wavelengths import wavelength_map

__all__ = ["Wavecorr", "corrected_wavelengths", "zero_point_offset"]

_SLIT = "S1600A1"


def zero_point_offset(reference: Reference, wave: np.ndarray, position: float) -> np.ndarray | None:
    """Shift of the zero point, linear in wavelength and position, extrapolated beyond the table.

    Parameters
    ----------
    reference
        WAVECORR reference: ``WAVE,S1600A1`` [µm], ``POSITION,S1600A1`` [slit width], ``OFFSET,S1600A1``
        [position or wavelength in the order of its axes; pixels].
    wave : float64 [column]
        Wavelength [µm].
    position
        Place of the source across the slit's width, in slit widths from its centre.

    Returns
    -------
    float64 [column] or None
        [pixel]; None when the reference does not know the slit.
    """
    if f"OFFSET,{_SLIT}" not in reference.arrays:
        return None
    waves = np.asarray(reference.arrays[f"WAVE,{_SLIT}"], np.float64)
    places = np.asarray(reference.arrays[f"POSITION,{_SLIT}"], np.float64)
    table = np.asarray(reference.arrays[f"OFFSET,{_SLIT}"], np.float64)

    def bracket(grid: np.ndarray, at: Any) -> tuple[np.ndarray, np.ndarray]:
        low = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2)
        return low, (at - grid[low]) / (grid[low + 1] - grid[low])

    i, u = bracket(waves, wave)
    j, v = bracket(places, np.full(np.shape(wave), position))
    return (1 - u) * ((1 - v) * table[i, j] + v * table[i, j + 1]) + u * (
        (1 - v) * table[i + 1, j] + v * table[i + 1, j + 1]
    )


def corrected_wavelengths(wave: np.ndarray, reference: Reference, position: float) -> np.ndarray | str:
    """Correct the wavelengths of a slit.

    Parameters
    ----------
    wave : float64 [y, x]
        Wavelength [µm], dispersed along x; NaN where there is none.
    reference
        WAVECORR reference.
    position
        SRCXPOS.

    Returns
    -------
    float64 [y, x] or str
        Corrected [µm]; or why there is no correction.
    """
    known = np.isfinite(wave)
    columns = known.any(axis=0)
    if columns.sum() < 3:
        return "the wavelengths of fewer than three columns are known"
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, wave, 0.0).sum(axis=0) / count
        slopes = np.gradient(wave, axis=1)
        step = np.where(np.isfinite(slopes), slopes, 0.0).sum(axis=0) / np.isfinite(slopes).sum(axis=0)
    step = np.where(np.isfinite(step), step, np.gradient(np.where(columns, mean, np.nan)))
    use = columns & np.isfinite(step)
    mean, step = mean[use], step[use]
    offset = zero_point_offset(reference, mean, position)
    if offset is None:
        return f"{reference.name} does not know the slit {_SLIT}"
    moved = mean + offset * step
    if (np.diff(moved) <= 0).any() or (np.diff(mean) <= 0).any():
        return "the corrected wavelengths would not ascend"
    low = np.clip(np.searchsorted(mean, wave, side="right") - 1, 0, len(mean) - 2)
    share = (wave - mean[low]) / (mean[low + 1] - mean[low])
    return np.where(known, moved[low] + share * (moved[low + 1] - moved[low]), np.nan)


@dataclass(frozen=True, kw_only=True)
class Wavecorr(Operator):
    """Correct the wavelengths for the place of a point source in the slit; changes no pixel."""

    name: ClassVar[str] = "wavecorr"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"
    references: ClassVar[tuple[str, ...]] = ("wavecorr",)

    @property
    def coupling(self) -> Coupling:
        """It reads and replaces the wavelengths."""
        return Template(("wavelength", "slit"))

    def bind(self, binding: Binding) -> BoundRateStep:
        """Correct the wavelengths that later steps see."""
        info = binding.info
        slit: Mapping[str, Any] = binding.templates.get("slit") or {}
        skip = partial(BoundRateStep, self.name, binding.dq_plane, info, _unchanged)
        if info.exp_type != "NRS_BRIGHTOBJ":
            return skip(skipped=f"{info.exp_type} has no slit", quiet=True)
        if str(info.header.get("SRCTYPE", "POINT")).strip().upper() != "POINT":
            return skip(skipped="the source is extended")
        wave = wavelength_map(binding)
        if wave is None:
            return skip(skipped="no wavelengths are known")
        if "COMPLETE" in (str(one.get("S_WAVCOR", "")).strip().upper() for one in (slit, info.header)):
            return skip(skipped="the wavelengths are corrected already (S_WAVCOR)")
        told = slit.get("SRCXPOS", info.header.get("SRCXPOS"))
        position = float(told) if isinstance(told, int | float) else 0.0
        corrected = corrected_wavelengths(wave, binding.references["wavecorr"], position)
        if isinstance(corrected, str):
            return skip(skipped=corrected)
        notes = (
            () if isinstance(told, int | float) else ("SRCXPOS is not known; the source is taken as centred",)
        )
        facts = {"SRCXPOS": position}
        others = {
            order: image for order, image in binding.templates["wavelength"].items() if order not in (0, 1)
        }
        after = replace(info, header={**info.header, **facts, "S_WAVCOR": "COMPLETE"})
        return BoundRateStep(
            self.name,
            binding.dq_plane,
            after,
            _unchanged,
            {"wavelength": {**others, 1: corrected}},
            facts,
            "",
            notes,
        )


def _unchanged(rate: Rate) -> Rate:
    return rate
