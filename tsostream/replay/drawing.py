"""Pictures of what moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsostream.replay.baseline import Rows
from tsostream.replay.comparison import Outcome

__all__ = ["draw_moved", "new_figure"]

#: columns that are drawn, at most
_MOST: Final = 6
OLD: Final = "#8899a6"
NEW: Final = "#2b7bba"
STEP: Final = "#d9480f"


def new_figure(rows: int, columns: int = 2, height: float = 2.3) -> tuple[Any, Any]:
    """Make a figure and its axes [row, column]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 0.8 + height * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.ticklabel_format(axis="y", useOffset=False)
    return figure, axes


def draw_moved(path: Path, title: str, outcome: Outcome, old: Rows, new: Rows) -> bool:
    """Draw the columns that moved: before and after, and the difference.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    names = [one.column for one in outcome.moved if one.verdict in ("moved", "within tolerance")]
    names = [name for name in names if old[name].dtype.kind in "fiub"][:_MOST]
    if not names:
        return False
    figure, axes = new_figure(len(names))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    both = np.intersect1d(old["integration"], new["integration"])
    for row, name in enumerate(names):
        was, now = (_of_integrations(rows, name, both) for rows in (old, new))
        axes[row, 0].plot(both, was, "o", ms=5, color=OLD, label="baseline")
        axes[row, 0].plot(both, now, ".", ms=5, color=NEW, label="now")
        axes[row, 0].set_ylabel(name if was.ndim == 1 else f"{name} (median)", fontsize=9)
        axes[row, 1].axhline(0, color=OLD, lw=0.8)
        axes[row, 1].plot(both, now - was, ".-", ms=5, lw=0.8, color=STEP)
        axes[row, 1].set_ylabel("now − baseline", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    for one in axes[-1]:
        one.set_xlabel("integration", fontsize=9)
    figure.savefig(path)
    return True


def _of_integrations(rows: Rows, name: str, integrations: Sequence[int] | np.ndarray) -> np.ndarray:
    """One number per integration: that of the first order and aperture, of spectra the median."""
    first: dict[int, int] = {}
    for place, number in enumerate(rows["integration"].tolist()):
        first.setdefault(number, place)
    values = rows[name][[first[number] for number in np.asarray(integrations).tolist()]].astype(np.float64)
    if values.ndim == 2:
        known = np.isfinite(values).any(axis=1)
        median = np.full(len(values), np.nan)
        median[known] = np.nanmedian(values[known], axis=1)
        return median
    return values
