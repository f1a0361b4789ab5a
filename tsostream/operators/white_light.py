"""white_light: sum the spectrum over a wavelength range (spec stages 2-3, C.5).

The columns in the sum are fixed for the run: a column that is lost in one integration is filled from the scout's
spectrum, scaled by the columns that are there, so that NaN does not bias the sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.payload import Measurement
from tsostream.operators.aperture.covariance import excess_variance
from tsostream.operators.base import Binding, Operator

__all__ = ["BoundWhiteLight", "WhiteLight"]

#: what the extraction hands over for the sum and no row shows
WORKING = ("own_err", "counts", "lost")


def _columns(spectra: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Chosen columns of the first series, [integration, column].

    Contiguous along the columns: numpy sums in another order where they are not, which depends on the block's length.
    """
    return np.ascontiguousarray(spectra[:, 0][:, chosen])


@dataclass(frozen=True)
class BoundWhiteLight:
    """White light of one exposure.

    Parameters
    ----------
    columns : bool [column]
        Columns in the sum.
    spectrum : float64 [column]
        The scout's spectrum, for filling.
    wavelength_range
        First and last wavelength (or pixel) in the sum.
    max_lost
        Largest fraction of the light that is filled.
    excess
        Variance that shared (1/f) noise adds to the sum.
    """

    name: str
    pixeldq: np.ndarray
    columns: np.ndarray
    spectrum: np.ndarray
    wavelength_range: tuple[float, float]
    max_lost: float
    excess: float = 0.0
    skipped: str = ""

    def push(self, block: Measurement) -> list[Measurement]:
        """Add the white-light columns to a block of spectra."""
        chosen = self.columns
        flux = _columns(block.spectra["flux"], chosen)
        # the columns' own errors: what they share enters once, for their sum
        error = _columns(block.spectra["own_err"], chosen)
        weight = self.spectrum[chosen]
        there = np.isfinite(flux) & np.isfinite(error)
        whole = weight.sum()
        cover = (there * weight).sum(axis=1)
        usable = (whole - cover <= self.max_lost * whole) & (cover > 0)
        # a spectrum without light cannot fill anything, but nothing is to be filled where all columns are there
        fill = np.where(usable, whole / np.where(cover > 0, cover, 1.0), np.nan)
        fill[there.all(axis=1)] = 1.0
        # summed in float64 over a fixed number of columns: independent of how the block was cut
        white = np.where(there, flux, 0.0).sum(axis=1) * fill
        variance = np.where(there, error**2, 0.0).sum(axis=1) * fill**2
        lost = np.where(there, _columns(block.spectra["lost"], chosen), 1.0)
        ground = _columns(block.spectra["background"], chosen)
        ground_error = _columns(block.spectra["background_err"], chosen)
        known = np.isfinite(ground) & np.isfinite(ground_error)
        number = np.maximum(known.sum(axis=1), 1)
        counts = block.spectra["counts"][:, 0, chosen].sum(axis=1)
        columns = {
            "flux": white,
            "flux_err": np.sqrt(variance + self.excess),
            "background": np.where(known, ground, 0.0).sum(axis=1) / number,
            "background_err": np.sqrt(np.where(known, ground_error**2, 0.0).sum(axis=1)) / number,
            "n_jump": counts[:, 0],
            "n_saturated": counts[:, 1],
            "n_outlier": counts[:, 2],
            "n_bad": counts[:, 3],
            "frac_filled": (lost * weight).sum(axis=1) / (whole or 1.0),
        }
        return [
            replace(
                block,
                columns={**block.columns, **{name: values[:, None] for name, values in columns.items()}},
                spectra={name: array for name, array in block.spectra.items() if name not in WORKING},
            )
        ]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


@dataclass(frozen=True, kw_only=True)
class WhiteLight(Operator):
    """Sum each spectrum to a light curve.

    Parameters
    ----------
    min_wavelength, max_wavelength
        Range of the sum [µm, or pixels where no wavelength is known].
    min_snr
        Without a range: columns whose flux in the scout's spectrum is at least this many times its error in one
        integration.
    max_lost
        Integrations that miss more than this fraction of the light become NaN.
    """

    name: ClassVar[str] = "white_light"
    accepts: ClassVar[str] = "measurement"
    produces: ClassVar[str] = "measurement"

    min_wavelength: float | None = None
    max_wavelength: float | None = None
    min_snr: Annotated[float, msgspec.Meta(ge=0)] = 3.0
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.min_wavelength, self.max_wavelength
        if low is not None and high is not None and not low < high:
            raise ConfigError(
                Problem(
                    f"white_light.min_wavelength = {low} is not below white_light.max_wavelength = {high}",
                    todo="exchange them",
                    code="parameter",
                )
            )

    @property
    def coupling(self) -> Coupling:
        """The scout's spectrum chooses the columns and fills lost ones."""
        return Template(
            ("spectrum", "spectrum_error", "columns_wavelength", "sum_weights", "column_covariance")
        )

    def bind(self, binding: Binding) -> BoundWhiteLight:
        """Choose the columns."""
        spectrum = np.asarray(binding.templates["spectrum"], np.float64)
        error = np.asarray(binding.templates["spectrum_error"], np.float64)
        wavelength = np.asarray(binding.templates["columns_wavelength"], np.float64)
        known = np.isfinite(spectrum) & (error > 0) & np.isfinite(wavelength)
        chosen = known.copy()
        if self.min_wavelength is not None:
            chosen &= wavelength >= self.min_wavelength
        if self.max_wavelength is not None:
            chosen &= wavelength <= self.max_wavelength
        if self.min_wavelength is None and self.max_wavelength is None:
            with np.errstate(invalid="ignore", divide="ignore"):
                chosen &= spectrum > self.min_snr * error
        if not chosen.any():
            have = f"{np.nanmin(wavelength):.4g} to {np.nanmax(wavelength):.4g}" if known.any() else "nothing"
            raise ConfigError(
                Problem(
                    f"no column of the spectrum lies between white_light.min_wavelength={self.min_wavelength} and "
                    f"white_light.max_wavelength={self.max_wavelength} with usable flux (the spectrum covers {have})",
                    todo="choose another range with --set white_light.min_wavelength=… or lower white_light.min_snr",
                    code="parameter",
                )
            )
        limits = wavelength[chosen]
        weights = np.asarray(binding.templates["sum_weights"], np.float64)
        return BoundWhiteLight(
            name=self.name,
            pixeldq=binding.dq_plane,
            columns=chosen,
            spectrum=np.where(chosen, np.clip(spectrum, 0.0, None), 0.0),
            wavelength_range=(float(limits.min()), float(limits.max())),
            max_lost=self.max_lost,
            excess=excess_variance(weights * chosen, np.asarray(binding.templates["column_covariance"])),
        )
