"""Flux calibration of extracted spectra: SOSS, whose orders overlap on the detector (spec stages 2-3, B.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tsostream.integration.payload import Measurement
from tsostream.operators.base import Binding
from tsostream.operators.photom_tables import soss_factor

__all__ = ["BoundSpectrumPhotom", "bind_spectra"]

#: spectra in the unit of the flux, and in its square
_LINEAR = ("flux", "flux_err", "own_err", "background", "background_err")
_SQUARE = ("flux_var_", "background_var_")
_MEGA = 1e6


@dataclass(frozen=True)
class BoundSpectrumPhotom:
    """Multiplies the spectra of each series.

    Parameters
    ----------
    factors : float64 [key, wave]
        Conversion of each series to the unit; 1 where the step is skipped.
    unit
        ``Jy``, or ``MJy`` as the official step.
    templates
        The template's spectrum and weights after the step.
    """

    name: str
    pixeldq: np.ndarray
    factors: np.ndarray
    unit: str
    templates: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""
    notes: tuple[str, ...] = ()

    def push(self, block: Measurement) -> list[Measurement]:
        """Multiply the spectra of every integration of a block."""
        spectra = {}
        for name, values in block.spectra.items():
            if name in _LINEAR:
                values = values * self.factors
            elif name.startswith(_SQUARE):
                values = values * self.factors**2
            spectra[name] = values
        return [replace(block, spectra=spectra)]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


def bind_spectra(name: str, binding: Binding, *, official: bool) -> BoundSpectrumPhotom:
    """Find the conversion of each series.

    Parameters
    ----------
    name
        Step name.
    binding
        Its templates ``keys``, ``columns_wavelength`` [key, wave], ``spectrum``, ``spectrum_error`` and ``sum_weights``
        are the extraction's.
    official
        Leave spectra as the official step does: in MJy, and 0 where the reference has no response.

    Returns
    -------
    BoundSpectrumPhotom
        In Jy otherwise, and NaN where there is no response.
    """
    templates = binding.templates
    wavelength = np.atleast_2d(np.asarray(templates.get("columns_wavelength", ()), np.float64))
    keys = tuple(templates.get("keys") or ((1, 0),) * len(wavelength))
    by_order: dict[int, np.ndarray | None] = {}
    rows, lost = [], []
    for (order, _), wave in zip(keys, wavelength, strict=True):
        found = soss_factor(binding.references["photom"], binding.info, order, wave)
        by_order[order] = found
        if found is None:
            lost.append(str(order))
            found = np.full(wave.shape, np.nan)
        rows.append(found)
    if all(one is None for one in by_order.values()):
        why = f"{binding.references['photom'].name} has no conversion for the orders {', '.join(lost)}"
        ones = np.ones(wavelength.shape)
        return BoundSpectrumPhotom(name, binding.dq_plane, ones, binding.info.bunit or "DN/s", skipped=why)
    factors = np.stack(rows)
    factors = np.where(np.isnan(factors), 0.0, factors) if official else factors * _MEGA
    notes = (f"order {', '.join(lost)}: no conversion, its spectra are NaN",) if lost else ()
    return BoundSpectrumPhotom(
        name,
        binding.dq_plane,
        factors,
        "MJy" if official else "Jy",
        _converted(templates, factors),
        "",
        notes,
    )


def _converted(templates: Mapping[str, Any], factors: np.ndarray) -> dict[str, Any]:
    """Template spectra and weights, as the white light looks at them."""
    found: dict[str, Any] = {}
    for name in ("spectrum", "spectrum_error"):
        if name in templates:
            values = np.asarray(templates[name], np.float64)
            found[name] = (np.atleast_2d(values) * factors).reshape(values.shape)
    if "sum_weights" in templates:
        given = templates["sum_weights"]
        single = isinstance(given, np.ndarray) and given.ndim == 2
        weights = [given] if single else list(given)
        # a column without a conversion takes no part, and must not spoil the sum
        scaled = [one * np.nan_to_num(factor) for one, factor in zip(weights, factors, strict=True)]
        found["sum_weights"] = scaled[0] if single else tuple(scaled)
    return found
