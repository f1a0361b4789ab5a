"""Our rows beside a product of another pipeline: matched by integration or time, compared relative to their levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tsostream.errors import InputError, Problem
from tsostream.replay.baseline import Rows
from tsostream.replay.drawing import NEW, OLD, STEP, new_figure
from tsostream.replay.foreign import Foreign

__all__ = ["Agreement", "compare_with", "draw_agreement"]

Floats = npt.NDArray[np.float64]

#: columns of the table of wavelengths
_ROWS: Final = 12


@dataclass(frozen=True)
class Agreement:
    """Two light curves of the same integrations.

    Parameters
    ----------
    matched_by
        ``integration``, ``BMJD (TDB)`` or ``MJD (UTC)``.
    integration
        Numbers of the integrations both have.
    ours, theirs
        Relative to their medians [row].
    error
        Our error, relative [row].
    ratio
        Our median over theirs, in whatever units they are.
    alone
        How many integrations only we have, and only they.
    wavelength
        Of the common bins [µm or pixel]; None without spectra.
    levels, scatter
        Of each common bin: our median over theirs, and scatter of the relative difference [ppm].
    """

    matched_by: str
    integration: npt.NDArray[np.int64]
    ours: Floats
    theirs: Floats
    error: Floats
    ratio: float
    alone: tuple[int, int]
    wavelength: Floats | None = None
    levels: Floats | None = None
    scatter: Floats | None = None

    @property
    def difference(self) -> Floats:
        """Ours minus theirs [ppm]."""
        return 1e6 * (self.ours - self.theirs)

    @property
    def rms(self) -> float:
        """Root mean square of the difference [ppm]."""
        known = self.difference[np.isfinite(self.difference)]
        return float(np.sqrt(np.mean(known**2))) if len(known) else float("nan")

    def facts(self) -> list[tuple[str, str]]:
        """List what a table says."""
        step = self.difference
        known = np.isfinite(step)
        facts = [("matched by", f"{self.matched_by}, {len(step)} integrations")]
        if any(self.alone):
            facts.append(("not matched", f"{self.alone[0]} of ours, {self.alone[1]} of theirs"))
        facts.append(("level, ours / theirs", f"{self.ratio:.9g}"))
        if known.any():
            place = int(np.nanargmax(np.abs(step)))
            own = 1e6 * float(np.nanmedian(self.error))
            facts += [
                (
                    "difference, rms",
                    f"{self.rms:.3g} ppm ({self.rms / own:.3g} of our errors, {own:.3g} ppm)",
                ),
                ("largest", f"{step[place]:+.3g} ppm at integration {self.integration[place]}"),
            ]
            if known.sum() > 2:
                slope = np.polyfit(np.arange(len(step))[known], step[known], 1)[0] * len(step)
                facts.append(("trend, first to last", f"{slope:+.3g} ppm"))
        if self.levels is not None and self.scatter is not None and np.isfinite(self.levels).any():
            low, middle, high = np.nanpercentile(self.levels / np.nanmedian(self.levels), (5, 50, 95))
            facts.append(("spectra", f"{np.isfinite(self.levels).sum()} common bins"))
            facts.append(("levels of the bins", f"{low:.6g} to {high:.6g} of the median ({middle:.6g})"))
            facts.append(("difference per bin, rms", f"median {np.nanmedian(self.scatter):.3g} ppm"))
        return facts


def compare_with(rows: Rows, wavelength: Floats | None, foreign: Foreign, where: str) -> Agreement:
    """Lay our rows beside a product.

    Parameters
    ----------
    rows
        Ours.
    wavelength
        Of our spectra.
    foreign
        Theirs.
    where
        Its file, for messages.

    Raises
    ------
    InputError
        They have no integration in common.
    """
    first = (rows["order"] == rows["order"][0]) & (rows["aperture"] == rows["aperture"][0])
    ours = {name: values[first] for name, values in rows.items()}
    by, mine, other = _match(ours, foreign)
    if not len(mine):
        todo = "check that both are of the same exposure and detector"
        raise InputError(
            Problem("has no integration in common with the light curve", where, todo, "no_match")
        )
    flux, theirs = ours["flux"][mine], foreign.flux[other]
    level, their_level = float(np.nanmedian(flux)), float(np.nanmedian(theirs))
    agreement = Agreement(
        matched_by=by,
        integration=ours["integration"][mine],
        ours=flux / level,
        theirs=theirs / their_level,
        error=ours["flux_err"][mine] / level,
        ratio=level / their_level,
        alone=(int(first.sum()) - len(mine), len(foreign.flux) - len(other)),
    )
    if (
        foreign.spectra is None
        or foreign.wavelength is None
        or wavelength is None
        or "spectra.flux" not in ours
    ):
        return agreement
    return _with_spectra(agreement, ours["spectra.flux"][mine], wavelength, foreign, other)


def _match(ours: Rows, foreign: Foreign) -> tuple[str, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the same integrations in both."""
    if foreign.integration is not None:
        _, mine, other = np.intersect1d(ours["integration"], foreign.integration, return_indices=True)
        return "integration", mine, other
    best: tuple[str, npt.NDArray[np.intp], npt.NDArray[np.intp]] = (
        "",
        np.empty(0, np.intp),
        np.empty(0, np.intp),
    )
    clocks = (
        ("BMJD (TDB)", "time_bmjd_tdb_mid", foreign.bmjd),
        ("MJD (UTC)", "time_mjd_utc_mid", foreign.mjd),
    )
    for name, column, times in clocks:
        known = np.flatnonzero(np.isfinite(ours[column]))
        if times is None or len(known) < 1:
            continue
        days = ours[column][known]
        step = float(np.median(np.diff(days))) if len(days) > 1 else 1e-5
        right = np.clip(np.searchsorted(days, times), 1, max(1, len(days) - 1))
        right = np.minimum(right, len(days) - 1)
        left = np.maximum(right - 1, 0)
        near = np.where(np.abs(days[left] - times) <= np.abs(days[right] - times), left, right)
        close = np.abs(days[near] - times) < 0.25 * step
        mine, where = np.unique(near[close], return_index=True)
        if len(mine) > len(best[1]):
            best = (name, known[mine], np.flatnonzero(close)[where])
    return best


def _with_spectra(
    agreement: Agreement, flux: np.ndarray, wavelength: Floats, foreign: Foreign, other: npt.NDArray[np.intp]
) -> Agreement:
    """Compare the bins whose wavelengths both have, to a tenth of a bin."""
    assert foreign.spectra is not None and foreign.wavelength is not None  # noqa: S101, PT018 - for the type checker
    theirs = foreign.wavelength
    known = np.flatnonzero(np.isfinite(wavelength))
    order = known[np.argsort(wavelength[known])]
    if len(order) < 2:
        return agreement
    waves = wavelength[order]
    place = np.clip(np.searchsorted(waves, theirs), 1, len(waves) - 1)
    near = np.where(np.abs(waves[place - 1] - theirs) <= np.abs(waves[place] - theirs), place - 1, place)
    width = np.abs(np.gradient(waves))
    common = np.flatnonzero(np.isfinite(theirs) & (np.abs(waves[near] - theirs) < 0.1 * width[near]))
    if not len(common):
        return agreement
    a = flux[:, order[near[common]]].astype(np.float64)
    b = foreign.spectra[other][:, common]
    usable = (np.isfinite(a) & np.isfinite(b)).sum(axis=0) > 1
    a, b, common = a[:, usable], b[:, usable], common[usable]
    with np.errstate(invalid="ignore", divide="ignore"):
        level_a, level_b = np.nanmedian(a, axis=0), np.nanmedian(b, axis=0)
        scatter = 1e6 * np.sqrt(np.nanmean((a / level_a - b / level_b) ** 2, axis=0))
        levels = level_a / level_b
    return Agreement(
        **{**agreement.__dict__, "wavelength": theirs[common], "levels": levels, "scatter": scatter},
    )


def draw_agreement(path: Path, title: str, agreement: Agreement) -> None:
    """Draw both light curves, their difference, and the spectra where there are any."""
    spectra = agreement.wavelength is not None
    figure, axes = new_figure(2 if spectra else 1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes[0, 0].plot(agreement.integration, agreement.theirs, "o", ms=5, color=OLD, label="theirs")
    axes[0, 0].plot(agreement.integration, agreement.ours, ".", ms=5, color=NEW, label="ours")
    axes[0, 0].set_ylabel("relative flux", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 1].axhline(0, color=OLD, lw=0.8)
    axes[0, 1].plot(agreement.integration, agreement.difference, ".-", ms=5, lw=0.8, color=STEP)
    axes[0, 1].set_ylabel("ours − theirs [ppm]", fontsize=9)
    for one in axes[0]:
        one.set_xlabel("integration", fontsize=9)
    if spectra:
        axes[1, 0].plot(agreement.wavelength, agreement.levels, ".", ms=3, color=NEW)
        axes[1, 0].set_ylabel("level, ours / theirs", fontsize=9)
        axes[1, 1].semilogy(agreement.wavelength, agreement.scatter, ".", ms=3, color=STEP)
        axes[1, 1].set_ylabel("rms of the difference [ppm]", fontsize=9)
        for one in axes[1]:
            one.set_xlabel("wavelength", fontsize=9)
    figure.savefig(path)
