"""picture_frame: a thermal pattern of NIRSpec full frames; refused by name (spec stage 1, section 18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tsostream.errors import ConfigError, Problem
from tsostream.operators.base import Binding, BoundRampStep, Operator

__all__ = ["PictureFrame"]


@dataclass(frozen=True, kw_only=True)
class PictureFrame(Operator):
    """Nothing to do for subarrays; full frames of NIRSpec, which no time series takes, are refused.

    Parameters
    ----------
    mask_science_regions, n_sigma, save_mask, save_correction
        As in the official step; without effect.
    """

    name: ClassVar[str] = "picture_frame"

    mask_science_regions: bool = True
    n_sigma: float = 2.0
    save_mask: bool = False
    save_correction: bool = False
    skip: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Say why nothing is done.

        Raises
        ------
        ConfigError
            For a full frame of NIRSpec.
        """
        info = binding.info
        if info.instrument == "NIRSPEC" and info.subarray.upper() == "FULL":
            what = "picture_frame is not supported; it only applies to full frames of NIRSpec"
            raise ConfigError(Problem(what, todo="skip picture_frame", code="unsupported"))

        return BoundRampStep(
            self.name, binding.dq_plane, skipped="only full frames of NIRSpec have the effect"
        )
