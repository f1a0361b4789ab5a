"""The picture of a reduced simulation: light curve, residuals, spectra, position."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsostream.cli.truth import Comparison
from tsostream.live.figures import noise
from tsostream.sinks import LightCurve

__all__ = ["save_figure"]

_INK: Final = "#22303c"
_POINT: Final = "#2b7bba"
_MODEL: Final = "#e4572e"
_SOFT: Final = "#c9d3db"
_STYLE: Final[Any] = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": "#8899a6",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.direction": "out",
    "figure.facecolor": "white",
}
#: wavelength bins of the picture, at most
_BINS: Final = 48


def save_figure(path: Path, lc: LightCurve, comparison: Comparison, title: str) -> None:
    """Draw the result of a demo.

    Parameters
    ----------
    path
        PNG to write.
    lc
        The light curve, with its spectra.
    comparison
        The same light curve beside the truth.
    title
        Headline.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 10.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(4, 1, sharex=True, height_ratios=(3.0, 1.2, 2.6, 1.3))
        _light_curve(axes[0], comparison)
        rows = lc.table.column("flux").to_numpy(), lc.table.column("flux_err").to_numpy()
        _residuals(axes[1], comparison, rows)
        _spectra(figure, axes[2], lc, comparison)
        _position(axes[3], lc, comparison)
        axes[0].set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=12)
        axes[-1].set_xlabel("minutes from mid-transit")
        minutes = comparison.minutes
        margin = 0.5 * float(np.median(np.diff(minutes))) if len(minutes) > 1 else 0.5
        # half an integration further than the pictures of the spectra, so that no point is cut
        axes[0].set_xlim(minutes.min() - 2 * margin, minutes.max() + 2 * margin)
        figure.align_ylabels(axes)
        figure.savefig(path)


def _light_curve(axes: Any, comparison: Comparison) -> None:
    minutes = comparison.minutes
    axes.errorbar(
        minutes,
        comparison.flux,
        comparison.error,
        fmt="o",
        ms=3.2,
        lw=0.7,
        color=_POINT,
        mec="white",
        mew=0.3,
        ecolor=_SOFT,
        label="white light, with its own errors",
        zorder=2,
    )
    axes.plot(minutes, comparison.model, color=_MODEL, lw=1.6, label="injected", zorder=3)
    axes.set_ylabel("relative flux")
    axes.ticklabel_format(axis="y", useOffset=False)
    text = (
        f"depth {1e6 * comparison.depth:,.0f} ± {1e6 * comparison.depth_error:,.0f} ppm\n"
        f"injected {1e6 * comparison.injected:,.0f} ppm"
    ).replace(",", "\u202f")
    axes.text(
        0.5, 0.62, text, transform=axes.transAxes, ha="center", va="center", fontsize=11, linespacing=1.5
    )
    axes.legend(loc="lower left", frameon=False)


def _residuals(axes: Any, comparison: Comparison, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw measured minus injected; the scatter is that of the rows [flux, error], as everywhere."""
    residuals = comparison.residuals
    axes.axhline(0.0, color=_MODEL, lw=1.2, zorder=1)
    axes.errorbar(
        comparison.minutes,
        residuals,
        1e6 * comparison.error,
        fmt="o",
        ms=2.6,
        lw=0.7,
        color=_POINT,
        mec="white",
        mew=0.3,
        ecolor=_SOFT,
        zorder=2,
    )
    axes.set_ylabel("residual [ppm]")
    scatter, own = noise(*rows)
    axes.text(
        0.995,
        0.97,
        f"scatter {scatter:.0f} ppm from point to point, own errors {own:.0f} ppm",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
    )


def _spectra(figure: Any, axes: Any, lc: LightCurve, comparison: Comparison) -> None:
    """Draw every wavelength bin relative to its level out of transit, time to the right."""
    if lc.spectra is None:
        axes.set_visible(False)
        return
    flux, wave = lc.spectra.array("flux").astype(float), lc.wavelength()
    low, high = lc.metadata.get("white_light_range", (np.nanmin(wave), np.nanmax(wave)))
    inside = np.isfinite(wave) & (wave >= low) & (wave <= high)
    flux, wave = flux[:, inside], wave[inside]
    if wave[0] > wave[-1]:
        flux, wave = flux[:, ::-1], wave[::-1]
    edges = _equal_light(np.nanmedian(flux, axis=0))
    binned = np.stack([np.nansum(flux[:, a:b], axis=1) for a, b in pairwise(edges)], axis=1)
    out = comparison.covered < 0.01
    if out.sum() < 3:
        out[:] = True
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 100.0 * (binned / np.median(binned[out], axis=0) - 1.0)
    bounds = np.append(wave[edges[:-1]], wave[-1])
    minutes = comparison.minutes
    half = 0.5 * float(np.median(np.diff(minutes))) if len(minutes) > 1 else 0.5
    times = np.append(minutes - half, minutes[-1] + half)
    depth = 100.0 * comparison.injected
    image = axes.pcolormesh(
        times, bounds, relative.T, cmap="cividis", vmin=-1.35 * depth, vmax=0.35 * depth, rasterized=True
    )
    unit = lc.metadata.get("wavelength_unit", "pixel")
    axes.set_ylabel("wavelength [µm]" if unit == "um" else f"wavelength [{unit}]")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=18)
    bar.set_label("relative flux − 1 [%]")
    bar.outline.set_visible(False)


def _equal_light(spectrum: np.ndarray) -> np.ndarray:
    """Edges of bins that hold about the same light, so that all of them show the transit equally well."""
    light = np.cumsum(np.clip(np.nan_to_num(spectrum), 0.0, None))
    if light[-1] <= 0:
        return np.linspace(0, len(spectrum), min(_BINS, len(spectrum)) + 1).astype(int)
    inner = np.searchsorted(light, light[-1] * np.arange(1, _BINS) / _BINS) + 1
    return np.unique(np.concatenate(([0], np.clip(inner, 0, len(spectrum)), [len(spectrum)])))


def _position(axes: Any, lc: LightCurve, comparison: Comparison) -> None:
    for name, colour in (("x", "#6a4c93"), ("y", "#2a9d8f")):
        value, error = lc.table.column(name).to_numpy(), lc.table.column(f"{name}_err").to_numpy()
        shift = 1e3 * (value - np.nanmedian(value))
        axes.errorbar(
            comparison.minutes,
            shift,
            1e3 * error,
            fmt="o",
            ms=2.4,
            lw=0.6,
            color=colour,
            mec="white",
            mew=0.2,
            ecolor=_SOFT,
            label=name,
        )
    axes.set_ylabel("position\n[10⁻³ pixel]")
    axes.legend(loc="upper right", frameon=False, ncols=2, handletextpad=0.1, borderaxespad=0.0)
