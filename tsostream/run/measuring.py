"""What a run knows once its images are measured: the scout's own spectrum, and what spectra and bins are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tsostream.operators.bin_spectra import BoundBinSpectra
from tsostream.operators.bin_spectra import describe_bins as bin_facts
from tsostream.operators.spectral.official_block import FirstCorrection
from tsostream.run.observer import Observer
from tsostream.run.prepared import Prepared

__all__ = ["describe_bins", "describe_spectrum", "late_steps", "scout_spectrum"]


def late_steps(steps: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Tell the steps for the workers from those that must see the measurements in order."""
    measuring, *rest = steps
    if not getattr(measuring, "needs_order", False):
        return steps, ()
    return (measuring,), (FirstCorrection(measuring), *rest)


def describe_bins(
    steps: tuple[Any, ...], measuring: Any, times: Any, observer: Observer
) -> Mapping[str, Any]:
    """Say what the bins are, when there are any."""
    for step in steps:
        if isinstance(step, BoundBinSpectra):
            for note in step.notes:
                observer.message(note)
            return bin_facts(step, measuring.keys, times)
    return {}


def scout_spectrum(extract: Any, templates: dict[str, Any]) -> dict[str, Any]:
    """Spectrum of the template itself in all series, and its error in one integration."""
    from tsostream.integration.payload import Rate, Times

    image = templates["image"][None]
    half = (templates["variance"] / 2).astype(np.float32)[None]
    bits = (extract.pixeldq & np.uint32(1))[None].astype(np.uint32)
    times = Times(np.zeros((1, 6)), np.zeros(1, np.uint32))
    block = Rate(1, image, np.sqrt(2 * half), half, half, bits, times)
    (measurement,) = extract.push(block)
    covariance = np.asarray(templates["covariance"])
    return {
        "keys": extract.keys,
        "spectrum": measurement.spectra["flux"][0],
        "spectrum_error": measurement.spectra["flux_err"][0],
        "columns_wavelength": _by_key(extract),
        "sum_weights": extract.sum_weights,
        "column_covariance": covariance.T if extract.along_y else covariance,
    }


def _by_key(extract: Any) -> np.ndarray:
    """Wavelengths of every series [key, column]; apertures of one order share theirs."""
    wavelength = np.asarray(extract.wavelength)
    return np.broadcast_to(wavelength, (len(extract.keys), wavelength.shape[-1]))


def describe_spectrum(extract: Any, white: Any, prepared: Prepared, times: np.ndarray) -> dict[str, Any]:
    """Describe spectra and white light, for the metadata; by order where there are several.

    Parameters
    ----------
    extract, white
        Bound steps.
    prepared
        The run.
    times : float64 [key, column]
        Effective times [s].
    """
    waves = _by_key(extract)
    orders = [order for order, _ in extract.keys]
    facts: dict[str, Any] = {
        "wavelength": waves[0], "wavelength_edges": _edges(waves[0]), "dt_eff_s": times[0],
    }  # fmt: skip
    if len(set(orders)) > 1:
        first = {order: orders.index(order) for order in orders}
        facts = {
            "wavelength": {str(order): waves[k] for order, k in first.items()},
            "wavelength_edges": {str(order): _edges(waves[k]) for order, k in first.items()},
            "dt_eff_s": {str(order): times[k] for order, k in first.items()},
        }
    return {
        **facts,
        "wavelength_unit": "um" if prepared.wavelengths else "pixel",
        "white_light_range": white.wavelength_range,
        "white_light_columns": int(white.columns.sum()),
        "trace": extract.trace,
        "apertures": extract.describe() if hasattr(extract, "describe") else [],
        "extraction_order": extract.order,
    }


def _edges(wavelength: np.ndarray) -> np.ndarray:
    """Half way between the columns; the outermost ones are as wide as their neighbours."""
    middle = 0.5 * (wavelength[1:] + wavelength[:-1])
    ends = 1.5 * wavelength[0] - 0.5 * wavelength[1], 1.5 * wavelength[-1] - 0.5 * wavelength[-2]
    return np.concatenate([ends[:1], middle, ends[1:]])
