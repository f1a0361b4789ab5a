"""What a light curve says against what the simulator knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from run_helpers import light_curve

import tsostream
from tsostream.simulate import SimulatedExposure
from tsostream.simulate.truth import read_truth

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """One light curve, judged.

    Parameters
    ----------
    out
        Integrations out of transit.
    scatter
        Their scatter over the median of their own errors.
    depth, expected, depth_error
        Measured (mean in against mean out of transit), true, and the error from the rows' own errors.
    along_x, along_y
        Correlation of the measured with the injected position.
    error
        Median relative error of a row.
    """

    out: int
    scatter: float
    depth: float
    expected: float
    depth_error: float
    along_x: float
    along_y: float
    error: float

    @property
    def sigmas(self) -> float:
        """Depth minus truth, in errors."""
        return (self.depth - self.expected) / self.depth_error


def white_depth(path: Path, truth: dict, order: str = "1") -> float:
    """Depth that the columns of the white light have together, from the simulator's spectrum."""
    span = tsostream.open(path).metadata.get("white_light_range")
    if span is None:
        return float(truth["transit_depth"])
    spectrum = {name: np.array(values) for name, values in truth["orders"][order].items()}
    # both ends stand for a whole column
    margin = 0.25 * np.abs(np.median(np.diff(spectrum["wavelength_um"])))
    chosen = (spectrum["wavelength_um"] > span[0] - margin) & (spectrum["wavelength_um"] < span[1] + margin)
    return float(np.average(spectrum["depth"][chosen], weights=spectrum["electron_per_s"][chosen]))


def judge(exposure: SimulatedExposure, path: Path) -> Verdict:
    """Compare an output with the truth of its exposure."""
    columns, truth = read_truth(exposure.truth)
    rows = light_curve(path)
    outside, inside = columns["transit"] == 0, columns["transit"] == 1
    level = rows["flux"][outside].mean()
    relative, error = rows["flux"] / level, rows["flux_err"] / level
    own = float(np.median(error[outside]))
    depth_error = float(
        np.hypot(*(np.sqrt(np.sum(error[part] ** 2)) / part.sum() for part in (outside, inside)))
    )
    return Verdict(
        out=int(outside.sum()),
        scatter=float(np.std(relative[outside], ddof=1)) / own,
        depth=float(1 - relative[inside].mean()),
        expected=white_depth(path, truth),
        depth_error=depth_error,
        along_x=float(np.corrcoef(rows["x"], columns["dx"])[0, 1]),
        along_y=float(np.corrcoef(rows["y"], columns["dy"])[0, 1]),
        error=own,
    )
