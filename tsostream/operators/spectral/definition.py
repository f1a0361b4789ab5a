"""Apertures of the official extraction: what an EXTRACT1D reference says, and the pixel weights it means.

Spec stages 2-3, B.8. Arrays are oriented ``[cross, disp]`` whatever the instrument does; a reference speaks of x and y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference

__all__ = ["ApertureDefinition", "centre_of", "choose_entry", "column_wavelengths", "define_aperture"]

#: what ``id`` of an aperture must be; the others go by the name of the mode
SLIT = {"NRS_BRIGHTOBJ": "S1600A1"}


@dataclass(frozen=True)
class ApertureDefinition:
    """One aperture, in oriented 0-based pixels; limits are inclusive.

    Parameters
    ----------
    cross_start, cross_stop, disp_start, disp_stop
        Limits across and along [px].
    src_coeff, bkg_coeff
        Pairs of polynomials (lower, upper limit across), constant term first; they win over the limits.
    in_wavelength
        Whether the polynomials are of the wavelength [µm], not of the pixel along.
    extract_width
        Full width [px]; wins over the limits across, about their middle or the trace.
    subtract_background
        Whether a background is fitted in ``bkg_coeff``.
    bkg_fit, bkg_order
        ``poly`` of a degree, or ``median``.
    smoothing_length
        Boxcar along the dispersion before the background is fitted [px], odd; 0 for none.
    use_source_posn
        Whether the aperture follows the source's position.
    trace : float64 [disp]
        Where the source is expected, if known.
    """

    cross_start: float
    cross_stop: float
    disp_start: float
    disp_stop: float
    src_coeff: tuple[tuple[float, ...], ...] | None = None
    bkg_coeff: tuple[tuple[float, ...], ...] | None = None
    in_wavelength: bool = False
    extract_width: float | None = None
    subtract_background: bool = False
    bkg_fit: str = "poly"
    bkg_order: int = 0
    smoothing_length: int = 0
    use_source_posn: bool = False
    trace: np.ndarray | None = None

    def moved(self, offset: float, *, with_trace: bool = True) -> ApertureDefinition:
        """Shift limits and polynomials across."""

        def shift(coefficients: tuple[tuple[float, ...], ...] | None) -> tuple[tuple[float, ...], ...] | None:
            return coefficients and tuple((one[0] + offset, *one[1:]) for one in coefficients)

        trace = self.trace
        if with_trace and trace is not None:
            trace = trace + offset
        return replace(
            self,
            cross_start=self.cross_start + offset,
            cross_stop=self.cross_stop + offset,
            src_coeff=shift(self.src_coeff),
            bkg_coeff=shift(self.bkg_coeff),
            trace=trace,
        )

    def weights(self, shape: tuple[int, int], wavelength: np.ndarray | None = None) -> np.ndarray:
        """Fraction of each pixel inside the source aperture.

        Parameters
        ----------
        shape
            (cross, disp).
        wavelength : float64 [cross, disp]
            Needed for polynomials in wavelength; the weight is 0 where it is not finite.

        Returns
        -------
        float64 [cross, disp]
        """
        weight = np.zeros(shape)
        if self.src_coeff is not None:
            for low, high in self._limits(self.src_coeff, shape, wavelength):
                _cover(weight, low, high)
        elif self.extract_width is not None:
            middle: Any = (self.cross_start + self.cross_stop) / 2.0
            if self.trace is not None:
                middle = self.trace
            low = middle - (self.extract_width - 1.0) / 2.0
            _cover(weight, low, low + self.extract_width - 1)
        else:
            _cover(weight, self.cross_start, self.cross_stop)
        self._cut(weight)
        if wavelength is not None:
            weight[~np.isfinite(wavelength)] = 0.0
        return weight

    def ground(self, shape: tuple[int, int], wavelength: np.ndarray | None = None) -> np.ndarray | None:
        """Weights of the background pixels, float64 [cross, disp]; None where no background is subtracted."""
        if not self.subtract_background or self.bkg_coeff is None:
            return None
        weight = np.zeros(shape)
        for low, high in self._limits(self.bkg_coeff, shape, wavelength):
            _cover(weight, low, high, partial=self.bkg_fit != "median")
        self._cut(weight)
        return weight

    def _limits(
        self, coefficients: Sequence[Sequence[float]], shape: tuple[int, int], wavelength: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Inclusive pixel limits: polynomials count from the pixels' centres, limits from their edges."""
        along: np.ndarray = np.arange(shape[1], dtype=float)[None, :]
        if self.in_wavelength and wavelength is not None:
            along = wavelength
        values = [np.polynomial.polynomial.polyval(along, np.asarray(one, float)) for one in coefficients]
        return [(low + 0.5, high - 0.5) for low, high in zip(values[::2], values[1::2], strict=True)]

    def _cut(self, weight: np.ndarray) -> None:
        weight[:, : max(int(np.ceil(self.disp_start)), 0)] = 0.0
        weight[:, max(int(np.floor(self.disp_stop)) + 1, 0) :] = 0.0


def _cover(weight: np.ndarray, low: Any, high: Any, *, partial: bool = True) -> None:
    """Raise weights to the covered fraction of each pixel: whole between the limits, linear beyond them."""
    cross = np.arange(weight.shape[0], dtype=float)[:, None]
    with np.errstate(invalid="ignore"):
        weight[np.broadcast_to((cross >= low) & (cross <= high), weight.shape)] = 1.0
        if not partial:
            return
        for part in (cross - low + 1, high - cross + 1):
            part = np.broadcast_to(part, weight.shape)
            better = (part > 0) & (part < 1) & (weight < part)
            weight[better] = part[better]


def choose_entry(reference: Reference | None, info: ExposureInfo, order: int) -> Mapping[str, Any] | None:
    """Find the aperture of an EXTRACT1D reference that belongs to the exposure; None without a reference.

    Raises
    ------
    ReferenceMismatchError
        No aperture matches.
    """
    if reference is None:
        return None
    name = SLIT.get(info.exp_type, info.exp_type)
    entries = reference.keywords.get("APERTURES", ())
    for entry in entries:
        if (
            entry.get("id") in (name, "ANY")
            and entry.get("region_type", "target") == "target"
            and entry.get("spectral_order", order) in (order, "ANY")
        ):
            return entry
    have = ", ".join(f"{one.get('id')} (order {one.get('spectral_order', 'any')})" for one in entries)
    raise ReferenceMismatchError(
        Problem(
            f"has no aperture for {name}, order {order}; it has {have or 'none'}",
            reference.path or reference.name,
            "give the EXTRACT1D reference of this mode",
            "extract1d",
        )
    )


def define_aperture(
    entry: Mapping[str, Any] | None, shape: tuple[int, int], *, along_y: bool, chosen: Mapping[str, Any]
) -> ApertureDefinition:
    """Join an aperture of the reference with the step's parameters.

    Parameters
    ----------
    entry
        From `choose_entry`; None for the whole frame without background.
    shape
        (cross, disp).
    along_y
        Whether the spectrum runs along y.
    chosen
        The step's parameters under their jwst names; None for those the reference decides.
    """
    cross, disp = ("x", "y") if along_y else ("y", "x")
    if entry is None:
        return ApertureDefinition(0, shape[0] - 1, 0, shape[1] - 1, extract_width=chosen.get("extract_width"))

    def pick(name: str, default: Any) -> Any:
        given = chosen.get(name)
        return given if given is not None else entry.get(name, default)

    ground = _pairs(entry, "bkg_coeff")
    subtract = chosen.get("subtract_background")
    fit, degree = pick("bkg_fit", "poly"), int(pick("bkg_order", 0))
    if fit == "mean":
        fit, degree = "poly", 0
    return ApertureDefinition(
        cross_start=entry.get(f"{cross}start", 0),
        cross_stop=entry.get(f"{cross}stop", shape[0] - 1),
        disp_start=entry.get(f"{disp}start", 0),
        disp_stop=entry.get(f"{disp}stop", shape[1] - 1),
        src_coeff=_pairs(entry, "src_coeff"),
        bkg_coeff=ground,
        in_wavelength=str(entry.get("independent_var", "pixel")).lower().startswith("wavelength"),
        extract_width=pick("extract_width", None),
        subtract_background=ground is not None if subtract is None else bool(subtract),
        bkg_fit=str(fit),
        bkg_order=degree,
        smoothing_length=_odd(pick("smoothing_length", 0)),
        use_source_posn=bool(pick("use_source_posn", chosen.get("follows_source", False))),
    )


def _pairs(entry: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], ...] | None:
    given = entry.get(name)
    if given is None:
        return None
    if len(given) % 2 or not all(len(one) for one in given):
        raise ReferenceMismatchError(
            Problem(
                f"{name} has {len(given)} polynomials, expected pairs of a lower and an upper limit",
                f"aperture {entry.get('id')}",
                "correct the EXTRACT1D reference",
                "extract1d",
            )
        )
    return tuple(tuple(float(value) for value in one) for one in given)


def _odd(length: float) -> int:
    """Smoothing length as the official step takes it: rounded, none below 3, odd."""
    length = round(length)
    if length < 3:
        return 0
    return length - 1 if length % 2 == 0 else length


def centre_of(weight: np.ndarray, column: int) -> float:
    """Weighted middle of an aperture in one column; the middle of the frame where it is empty."""
    share = np.clip(weight[:, column], 0.0, None)
    if share.sum() == 0:
        share = np.ones_like(share)
    return float(np.average(np.arange(weight.shape[0]), weights=share))


def column_wavelengths(wavelength: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean wavelength of each column, NaN where no pixel has one; float64 [disp]."""
    share = np.where(np.isfinite(wavelength) & (weight > 0), weight, 0.0)
    norm = share.sum(axis=0)
    total = (share * np.where(share > 0, wavelength, 0.0)).sum(axis=0)
    return np.where(norm > 0, total / np.where(norm > 0, norm, 1.0), np.nan)
