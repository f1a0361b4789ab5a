"""A reduced simulation compared with what was injected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsostream.simulate.truth import read_truth
from tsostream.sinks import LightCurve

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """A white light curve beside the truth.

    Parameters
    ----------
    minutes
        Time from the middle of the transit.
    flux, error
        Relative to the level out of transit.
    covered
        Part of the depth that is covered in each integration, 0 to 1.
    model
        The injected light curve with the depth expected in the columns that were summed.
    depth, depth_error
        As measured.
    injected
        Depth expected in the columns that were summed.
    """

    minutes: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    covered: np.ndarray
    model: np.ndarray
    depth: float
    depth_error: float
    injected: float

    @property
    def residuals(self) -> np.ndarray:
        """Measured minus injected [ppm]."""
        return 1e6 * (self.flux - self.model)

    @property
    def sigma(self) -> float:
        """How many standard errors the measured depth is off."""
        return (self.depth - self.injected) / self.depth_error if self.depth_error > 0 else 0.0


def compare(lc: LightCurve, truth: Path) -> Comparison:
    """Fit level, slope and depth of the injected transit to a light curve.

    The error of the depth is scaled by the scatter about the fit, so that noise the rows do not know of (1/f)
    counts.
    """
    table, facts = read_truth(truth)
    integration = lc.table.column("integration").to_numpy()
    drop = 1.0 - table["flux_model"][integration - 1]
    covered = drop / drop.max() if drop.max() > 0 else drop
    time = lc.table.column("time_mjd_utc_mid").to_numpy()
    middle = float(np.sum(time * covered) / np.sum(covered)) if covered.any() else float(time.mean())
    minutes = 1440.0 * (time - middle)
    flux, error = lc.table.column("flux").to_numpy(), lc.table.column("flux_err").to_numpy()
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    matrix = np.stack([np.ones_like(time), minutes / max(np.ptp(minutes), 1e-9), -covered], axis=1)
    weighted = matrix[good] / error[good, None]
    solution, *_ = np.linalg.lstsq(weighted, flux[good] / error[good], rcond=None)
    level = solution[0] + solution[1] * matrix[:, 1]
    residual = (flux[good] - matrix[good] @ solution) / error[good]
    spread = np.sqrt(max(1.0, float(np.sum(residual**2)) / max(1, int(good.sum()) - 3)))
    covariance = np.linalg.pinv(weighted.T @ weighted) * spread**2
    injected = _injected(facts, lc.metadata)
    return Comparison(
        minutes=minutes,
        flux=flux / level,
        error=error / level,
        covered=covered,
        model=1.0 - injected * covered,
        depth=float(solution[2] / solution[0]),
        depth_error=float(np.sqrt(covariance[2, 2]) / solution[0]),
        injected=injected,
    )


def _injected(facts: dict[str, Any], metadata: dict[str, Any]) -> float:
    """Depth of the light in the columns that make up the white light."""
    order = facts.get("orders", {}).get("1")
    limits = metadata.get("white_light_range")
    if order is None or limits is None or metadata.get("wavelength_unit") != "um":
        return float(facts["transit_depth"])
    wave, depth, light = (
        np.array(order[name], float) for name in ("wavelength_um", "depth", "electron_per_s")
    )
    inside = (wave >= limits[0]) & (wave <= limits[1])
    return float(np.sum(depth[inside] * light[inside]) / np.sum(light[inside]))
