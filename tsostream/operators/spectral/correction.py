"""Aperture correction from an APCORR reference (spec stages 2-3, B.8).

Two kinds of table: for MIRI LRS the correction depends on wavelength and aperture size; for NIRSpec also on the pixel
phase, for which the official step always takes the middle, and the sizes themselves depend on wavelength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.smoothing import between, bilinear

__all__ = ["CORRECTED", "CORRECTED_VARIANCES", "ApertureCorrection", "apply_correction", "choose_correction"]

#: phase of the source on its pixel the official step assumes
PHASE = 0.5
#: columns of a spectrum that the factor multiplies, and those that its square does
CORRECTED = ("flux", "flux_err", "surf_bright", "sb_error")
CORRECTED_VARIANCES = (
    "flux_var_poisson", "flux_var_rnoise", "flux_var_flat", "sb_var_poisson", "sb_var_rnoise", "sb_var_flat",
)  # fmt: skip


@dataclass(frozen=True)
class ApertureCorrection:
    """Correction of an exposure, as a function of wavelength and number of pixels.

    Parameters
    ----------
    row
        The table's row for this exposure.
    by_phase
        Whether it is of the kind that knows pixel phases.
    pixel_size
        Size units of the table per pixel: 1, or arcsec.
    """

    row: Mapping[str, np.ndarray]
    by_phase: bool
    pixel_size: float = 1.0

    def factors(self, wavelength: np.ndarray, npixels: np.ndarray) -> np.ndarray:
        """Factor for each column.

        Parameters
        ----------
        wavelength : float64 [column]
            [µm].
        npixels : float64 [column]
            Weighted number of pixels in the sum.

        Returns
        -------
        float64 [column]
            Beyond the table's ends its edge; outside the wavelengths of a table with phases 1, as officially.
        """
        return self._by_phase(wavelength, npixels) if self.by_phase else self._by_size(wavelength, npixels)

    def _by_size(self, wavelength: np.ndarray, npixels: np.ndarray) -> np.ndarray:
        n_wave, n_size = int(self.row["nelem_wl"]), int(self.row["nelem_size"])
        wave, size = self.row["wavelength"][:n_wave], self.row["size"][:n_size] / self.pixel_size
        order = np.argsort(wave)
        values = np.asarray(self.row["apcorr"][:n_wave, :n_size][order], float)
        return bilinear(wave[order], size, values, wavelength, npixels)

    def _by_phase(self, wavelength: np.ndarray, npixels: np.ndarray) -> np.ndarray:
        wave = np.asarray(self.row["wavelength"], float)
        order = np.argsort(wave)
        # [size, wavelength, phase]
        table = np.asarray(self.row["apcorr"], float)[:, order]
        before, after, beyond = between(np.asarray(self.row["pixphase"], float), np.asarray(PHASE))
        values = table[..., before] * (1.0 - beyond) + table[..., after] * beyond
        sizes = np.asarray(self.row["size"] / self.pixel_size, float)[:, order]
        ordered = wave[order]
        out = np.ones(wavelength.size)
        inside = (wavelength >= ordered[0]) & (wavelength <= ordered[-1])
        at, count = wavelength[inside], npixels[inside]
        # the sizes belong to the wavelength asked for; in both directions straight lines, at the ends the edge
        left, right, along = between(ordered, at)
        size = sizes[:, left] * (1.0 - along) + sizes[:, right] * along
        top = np.clip((size <= count).sum(axis=0), 1, len(size) - 1)
        columns = np.arange(at.size)
        low, high = size[top - 1, columns], size[top, columns]
        across = np.clip((count - low) / (high - low), 0.0, 1.0)
        left_edge = values[top - 1, left] * (1 - across) + values[top, left] * across
        right_edge = values[top - 1, right] * (1 - across) + values[top, right] * across
        factor = left_edge * (1 - along) + right_edge * along
        out[inside] = np.where(factor == 0.0, 1.0, factor)
        return out


def choose_correction(
    reference: Reference | None, info: ExposureInfo, keywords: Mapping[str, Any]
) -> ApertureCorrection | None:
    """Find the exposure's row of an APCORR reference; None without a reference or for a mode that has none.

    Raises
    ------
    ReferenceMismatchError
        No row, or several.
    """
    if reference is None or info.exp_type not in ("NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS"):
        return None
    by_phase = info.instrument == "NIRSPEC"
    wanted = {"subarray": info.subarray}
    if by_phase:
        wanted = {"filter": info.filter, "grating": info.grating, "slit": "S1600A1"}
    table = reference.tables["APCORR"]
    names = {name.lower(): name for name in table.dtype.names or ()}
    rows = np.ones(len(table), bool)
    for name, value in wanted.items():
        if name in names:
            rows &= np.array([_text(one).upper() == value.upper() for one in table[names[name]]])
    if rows.sum() != 1:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise ReferenceMismatchError(
            Problem(
                f"has {int(rows.sum())} rows for {asked}, expected one",
                reference.path or reference.name,
                "give the APCORR reference of this mode, or set extract_1d.apply_apcorr=false",
                "apcorr",
            )
        )
    found = table[np.flatnonzero(rows)[0]]
    row = {name: np.asarray(found[own]) for name, own in names.items()}
    return ApertureCorrection(row, by_phase, _pixel_size(reference, keywords))


def _text(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def _pixel_size(reference: Reference, keywords: Mapping[str, Any]) -> float:
    """Size of a pixel in the table's unit of size."""
    unit = str(reference.keywords.get("SIZEUNIT", "pixels")).strip().lower()
    if not unit.startswith("arcsec"):
        return 1.0
    area = keywords.get("PIXAR_A2")
    if not isinstance(area, int | float) or not area > 0:
        raise ReferenceMismatchError(
            Problem(
                "gives sizes in arcsec, and the exposure has no PIXAR_A2 to turn them into pixels",
                reference.path or reference.name,
                "start from calints, or set extract_1d.apply_apcorr=false",
                "apcorr",
            )
        )
    return float(np.sqrt(area))


def apply_correction(spectra: dict[str, np.ndarray], factors: np.ndarray) -> None:
    """Multiply the columns of a spectrum, in place.

    Parameters
    ----------
    spectra
        Name -> array [..., column].
    factors : float64 [..., column]
        From `ApertureCorrection.factors`.
    """
    for name in CORRECTED:
        if name in spectra:
            spectra[name] *= factors
    for name in CORRECTED_VARIANCES:
        if name in spectra:
            spectra[name] *= factors**2
