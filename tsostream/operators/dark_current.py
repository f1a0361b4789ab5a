"""dark_current: subtract the dark ramp, averaged to the exposure's read pattern (spec stage 1, section 14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tsostream.integration.coupling import Coupling, Numbered
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, Operator, reference_array
from tsostream.operators.group_planes import subtraction_pass

__all__ = ["DarkCurrent", "group_darks"]


def group_darks(frames: np.ndarray, nframes: int, groupgap: int, info: ExposureInfo) -> np.ndarray | None:
    """Turn the reference's groups into darks for the exposure's groups.

    Parameters
    ----------
    frames : float32 [member, group, y, x]
        The reference.
    nframes, groupgap
        The reference's own read pattern.
    info
        The exposure.

    Returns
    -------
    darks : float32 [member, group, y, x] or None
        None when the reference is averaged more coarsely than the exposure.
    """
    if nframes > info.nframes or groupgap > info.groupgap:
        return None
    needed = info.ngroups * info.nframes + (info.ngroups - 1) * info.groupgap
    have = frames.shape[1] * nframes + (frames.shape[1] - 1) * groupgap
    if needed > have:
        extra = math.ceil((needed - have + groupgap) / (nframes + groupgap))
        last = frames[:, -1].astype(np.float64)
        step = last - frames[:, -2] if frames.shape[1] > 1 else np.zeros_like(last)
        more = [last + k * step for k in range(1, extra + 1)]
        frames = np.concatenate([frames, np.stack(more, axis=1).astype(np.float32)], axis=1)
    frames = np.nan_to_num(frames, nan=0.0)
    if nframes == info.nframes and groupgap == info.groupgap:
        return np.ascontiguousarray(frames[:, : info.ngroups], np.float32)
    darks = np.empty((frames.shape[0], info.ngroups, *frames.shape[2:]), np.float32)
    start = 0
    for group in range(info.ngroups):
        darks[:, group] = frames[:, start : start + info.nframes].mean(axis=1, dtype=np.float32)
        start += info.nframes + info.groupgap
    return darks


def _pattern(reference: Reference) -> tuple[int, int]:
    return int(reference.keywords.get("NFRAMES", 1) or 1), int(reference.keywords.get("GROUPGAP", 0) or 0)


@dataclass(frozen=True, kw_only=True)
class DarkCurrent(Operator):
    """Subtract the dark ramp of each group.

    Near infrared: the same for every integration. MIRI: integration *n* of the exposure uses the reference's
    integration *n*, or its last.
    """

    name: ClassVar[str] = "dark_current"
    references: ClassVar[tuple[str, ...]] = ("dark",)

    @property
    def coupling(self) -> Coupling:
        """The absolute number picks MIRI's dark."""
        return Numbered()

    def bind(self, binding: Binding) -> BoundRampStep:
        """Average the dark to the read pattern once."""
        info, reference = binding.info, binding.references["dark"]
        frames = reference_array(reference, "SCI", info.frame_shape, self.name)
        frames = frames.reshape((-1, *frames.shape[-3:])) if frames.ndim == 4 else frames[None]
        darks = group_darks(frames, *_pattern(reference), info)
        if darks is None:
            return BoundRampStep(self.name, binding.dq_plane, skipped="the dark is averaged more coarsely")
        planes = reference_array(reference, "DQ", info.frame_shape, self.name)
        bits = np.bitwise_or.reduce(planes.reshape((-1, *info.frame_shape)), axis=0)

        return BoundRampStep(self.name, binding.dq_plane | bits, (subtraction_pass(darks),))
