"""The scout's template as an extraction sees it: oriented along the spectrum, with units and bad pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq
from tsostream.operators.aperture.units import flux_scale_map
from tsostream.operators.base import Binding

__all__ = ["Scene", "read_scene"]


@dataclass(frozen=True)
class Scene:
    """The scout's template, oriented [cross, disp].

    Parameters
    ----------
    image, scatter, variance : float64 [cross, disp]
        Template, its scatter, and the variance of one integration.
    scale : float64 [cross, disp]
        Factor from the input's unit to that of the rows; NaN where not known.
    bad : bool [cross, disp]
        Pixels that are never used.
    covariance : float64
        Shared noise by distance, oriented likewise.
    count
        Integrations in the template.
    along_y
        Whether the spectrum runs along y.
    unit
        Of the rows.
    scale_map : float32 [y, x]
        The factor as stored.
    """

    image: np.ndarray
    scatter: np.ndarray
    variance: np.ndarray
    scale: np.ndarray
    bad: np.ndarray
    covariance: np.ndarray
    count: int
    along_y: bool
    unit: str
    scale_map: np.ndarray

    def orient(self, array: np.ndarray) -> np.ndarray:
        """[y, x] to [cross, disp], and back."""
        return array.T if self.along_y else array

    @property
    def whole_scale(self) -> np.ndarray:
        """The factor without holes."""
        return np.where(np.isfinite(self.scale), self.scale, np.nanmedian(self.scale))


def read_scene(binding: Binding) -> Scene:
    """Take what an extraction needs out of the scout's products."""
    along_y = binding.info.dispaxis == 2
    orient = np.transpose if along_y else np.asarray
    image, scatter, variance = (
        orient(np.asarray(binding.templates[name], np.float64)) for name in ("image", "scatter", "variance")
    )
    scale, unit = flux_scale_map(binding)
    never = np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL | dq.NON_SCIENCE)
    bad = orient((binding.dq_plane & never) != 0) | ~np.isfinite(image) | ~np.isfinite(variance)
    return Scene(
        image=image,
        scatter=scatter,
        variance=variance,
        scale=orient(scale.astype(np.float64)),
        bad=bad | orient(~np.isfinite(scale)),
        covariance=orient(np.asarray(binding.templates["covariance"])),
        count=max(int(binding.templates.get("count", 1)), 1),
        along_y=along_y,
        unit=unit,
        scale_map=scale,
    )
