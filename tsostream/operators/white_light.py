"""white_light: sum the spectrum over a wavelength range (spec stages 2-3, C.5).

The columns in the sum are fixed for the run: a column that is lost in one integration is filled from the scout's
spectrum, scaled by the columns that are there, so that NaN does not bias the sum. In the segment scope the sum is the
official one: of what is there, over the limits of the first order for all orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.payload import Measurement
from tsostream.operators.base import Binding, Operator
from tsostream.operators.spectral.columns import ColumnBins, bin_columns, shared_variance
from tsostream.operators.spectral.series import side_by_side

__all__ = ["BoundWhiteLight", "WhiteLight", "reference_ranges"]

#: what the extraction hands over for the sum and no row shows
WORKING = ("own_err", "counts", "lost")


@dataclass(frozen=True)
class WhiteSeries:
    """White light of one series (order and aperture).

    Parameters
    ----------
    columns : bool [column]
        Columns in the sum.
    bins
        The same as a list, with the scout's spectrum for filling.
    wavelength_range
        First and last wavelength (or pixel) in the sum.
    excess
        Variance that shared (1/f) noise adds to the sum.
    """

    columns: np.ndarray
    bins: ColumnBins
    wavelength_range: tuple[float, float]
    excess: float = 0.0


@dataclass(frozen=True)
class BoundWhiteLight:
    """White light of one exposure.

    Parameters
    ----------
    series
        One for each (order, aperture) of the measurement.
    official
        Sum what is there, and fill nothing.
    """

    name: str
    pixeldq: np.ndarray
    series: tuple[WhiteSeries, ...]
    official: bool = False
    skipped: str = ""

    @property
    def columns(self) -> np.ndarray:
        """Columns in the sum of the default series, bool [column]."""
        return self.series[0].columns

    @property
    def wavelength_range(self) -> tuple[float, float]:
        """First and last wavelength in the sum of the default series."""
        return self.series[0].wavelength_range

    def push(self, block: Measurement) -> list[Measurement]:
        """Add the white-light columns to a block of spectra."""
        found: list[dict[str, np.ndarray]] = []
        for key, one in enumerate(self.series):
            sums = bin_columns(block.spectra, key, one.bins)
            flux, variance, lost = sums.flux[:, 0], sums.variance[:, 0], sums.lost[:, 0]
            if self.official:
                flux, variance, lost = _official_sum(block.spectra, key, one.columns)
            found.append(
                {
                    "flux": flux,
                    "flux_err": np.sqrt(variance + one.excess),
                    "background": sums.ground[:, 0],
                    "background_err": sums.ground_error[:, 0],
                    "n_jump": sums.counts[:, 0, 0],
                    "n_saturated": sums.counts[:, 0, 1],
                    "n_outlier": sums.counts[:, 0, 2],
                    "n_bad": sums.counts[:, 0, 3],
                    "frac_filled": lost,
                }
            )
        columns = side_by_side(found)
        return [
            replace(
                block,
                columns={**block.columns, **columns},
                spectra={name: array for name, array in block.spectra.items() if name not in WORKING},
            )
        ]

    def flush(self) -> list[Measurement]:
        """Nothing is held back."""
        return []


def _official_sum(
    spectra: Mapping[str, np.ndarray], key: int, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of the finite columns, its variance, and zeros for what was filled; an integration without any gives 0."""
    flux = np.ascontiguousarray(spectra["flux"][:, key][:, chosen])
    error = np.ascontiguousarray(spectra["own_err"][:, key][:, chosen])
    there = np.isfinite(flux)
    variance = np.where(there & np.isfinite(error), error**2, 0.0).sum(axis=1)
    return np.where(there, flux, 0.0).sum(axis=1), variance, np.zeros(len(flux))


@dataclass(frozen=True, kw_only=True)
class WhiteLight(Operator):
    """Sum each spectrum to a light curve.

    Parameters
    ----------
    min_wavelength, max_wavelength
        Range of the sum [µm, or pixels where no wavelength is known]; for several orders also a mapping from order to
        limit. Not set: the range of the order in a WAVELENGTHRANGE reference, if there is one.
    min_snr
        Without a range: columns whose flux in the scout's spectrum is at least this many times its error in one
        integration.
    max_lost
        Integrations that miss more than this fraction of the light become NaN.
    scope
        ``streaming``, or ``segment``: the official sum, which leaves lost columns out without a replacement, and takes
        the limits of the first order for all orders.
    """

    name: ClassVar[str] = "white_light"
    accepts: ClassVar[str] = "measurement"
    produces: ClassVar[str] = "measurement"
    optional_references: ClassVar[tuple[str, ...]] = ("wavelengthrange",)

    min_wavelength: float | dict[int, float] | None = None
    max_wavelength: float | dict[int, float] | None = None
    min_snr: Annotated[float, msgspec.Meta(ge=0)] = 3.0
    max_lost: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    scope: Literal["streaming", "segment"] = "streaming"

    def __post_init__(self) -> None:
        super().__post_init__()
        for order in {*_orders(self.min_wavelength), *_orders(self.max_wavelength), 0}:
            low, high = _limit(self.min_wavelength, order), _limit(self.max_wavelength, order)
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
            ("keys", "spectrum", "spectrum_error", "columns_wavelength", "sum_weights", "column_covariance")
        )

    def bind(self, binding: Binding) -> BoundWhiteLight:
        """Choose the columns.

        The templates ``spectrum``, ``spectrum_error`` and ``columns_wavelength`` are [key, column] (or [column] for
        one series), ``sum_weights`` one [cross, disp] for each key; ``keys`` are (order, aperture).
        """
        templates = binding.templates
        spectrum = np.atleast_2d(np.asarray(templates["spectrum"], np.float64))
        error = np.atleast_2d(np.asarray(templates["spectrum_error"], np.float64))
        wavelength = np.atleast_2d(np.asarray(templates["columns_wavelength"], np.float64))
        keys = tuple(templates.get("keys") or ((1, 0),) * len(spectrum))
        weights = templates["sum_weights"]
        weights = [weights] if isinstance(weights, np.ndarray) and weights.ndim == 2 else list(weights)
        covariance = np.asarray(templates["column_covariance"])
        ranges = reference_ranges(binding)
        official = self.scope == "segment"
        series = []
        of_order: dict[int, np.ndarray] = {}
        for k, (order, _) in enumerate(keys):
            # officially the limits of the first order become those of all others
            limits = self._limits(keys[0][0] if official else order, ranges)
            known = np.isfinite(wavelength[k])
            if not official:
                known &= np.isfinite(spectrum[k]) & (error[k] > 0)
            # apertures of one order are compared with each other, so they sum the same columns
            if order not in of_order:
                try:
                    of_order[order] = self._choose(known, wavelength[k], spectrum[k], error[k], limits)
                except ConfigError:
                    # an order without a column that stands out is no reason to lose the others
                    if order == keys[0][0]:
                        raise
                    of_order[order] = known
            chosen = of_order[order] & known
            excess = 0.0 if official else shared_variance(weights[k], chosen, covariance)
            series.append(_white_series(chosen, spectrum[k], wavelength[k], self.max_lost, excess))
        return BoundWhiteLight(self.name, binding.dq_plane, tuple(series), official)

    def _limits(
        self, order: int, ranges: Mapping[int, tuple[float, float]]
    ) -> tuple[float | None, float | None]:
        low, high = _limit(self.min_wavelength, order), _limit(self.max_wavelength, order)
        if order in ranges:
            low = ranges[order][0] if low is None else low
            high = ranges[order][1] if high is None else high
        return low, high

    def _choose(
        self,
        known: np.ndarray,
        wavelength: np.ndarray,
        spectrum: np.ndarray,
        error: np.ndarray,
        limits: tuple[float | None, float | None],
    ) -> np.ndarray:
        low, high = limits
        chosen = known.copy()
        if low is not None:
            chosen &= wavelength >= low
        if high is not None:
            chosen &= wavelength <= high
        if low is None and high is None and self.scope == "streaming":
            with np.errstate(invalid="ignore", divide="ignore"):
                chosen &= spectrum > self.min_snr * error
        if not chosen.any() and self.scope == "streaming":
            have = f"{np.nanmin(wavelength):.4g} to {np.nanmax(wavelength):.4g}" if known.any() else "nothing"
            raise ConfigError(
                Problem(
                    f"no column of the spectrum lies between white_light.min_wavelength={low} and "
                    f"white_light.max_wavelength={high} with usable flux (the spectrum covers {have})",
                    todo="choose another range with --set white_light.min_wavelength=… or lower white_light.min_snr",
                    code="parameter",
                )
            )
        return chosen


def _white_series(
    chosen: np.ndarray, spectrum: np.ndarray, wavelength: np.ndarray, max_lost: float, excess: float
) -> WhiteSeries:
    column = np.flatnonzero(chosen).astype(np.int32)
    share = np.nan_to_num(np.clip(spectrum[column], 0.0, None))
    bins = ColumnBins(np.array([0, column.size], np.int32), column, share, max_lost)
    limits = wavelength[column]
    span = (float(limits.min()), float(limits.max())) if column.size else (np.nan, np.nan)
    return WhiteSeries(chosen, bins, span, excess)


def _orders(limit: float | dict[int, float] | None) -> tuple[int, ...]:
    return tuple(limit) if isinstance(limit, dict) else ()


def _limit(limit: float | dict[int, float] | None, order: int) -> float | None:
    return limit.get(order) if isinstance(limit, dict) else limit


def reference_ranges(binding: Binding) -> dict[int, tuple[float, float]]:
    """Order -> range of a WAVELENGTHRANGE reference for the exposure's filter; officially for SOSS alone."""
    reference = binding.references.get("wavelengthrange")
    if reference is None or binding.info.exp_type != "NIS_SOSS":
        return {}
    rows: Any = reference.keywords.get("WAVELENGTHRANGE", ())
    return {
        int(order): (float(low), float(high))
        for order, name, low, high in rows
        if str(name).strip().upper() == binding.info.filter.strip().upper()
    }
