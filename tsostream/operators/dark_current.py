"""dark_current: subtract the dark ramp, averaged to the exposure's read pattern (spec stage 1, section 14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tsostream.integration.coupling import Coupling, Numbered
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, Operator, reference_array
from tsostream.operators.group_planes import subtraction_pass

__all__ = ["DarkCurrent", "average_dark", "group_darks"]


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


def average_dark(reference: Reference, value: float | None, shape: tuple[int, int]) -> np.ndarray:
    """Average dark current of each pixel, which the ramp fit adds to the rate it takes photon noise from.

    Parameters
    ----------
    reference
        The dark: an image ``AVDRKCUR``, used when its sum is not zero and its shape fits, or a keyword of that name.
    value
        The step's parameter, which goes before the reference.
    shape
        Of the subarray.

    Returns
    -------
    dark : float32 [y, x]
        The reference's unit is e-/s; like the official step, the fit adds it to DN/s as it is.
    """
    if value is None:
        image = reference.arrays.get("AVDRKCUR")
        if image is not None and image.shape == shape and np.nansum(image) != 0:
            return np.ascontiguousarray(image, np.float32)
        value = float(reference.keywords.get("AVDRKCUR") or 0.0)
    return np.full(shape, value, np.float32)


def _pattern(reference: Reference) -> tuple[int, int]:
    return int(reference.keywords.get("NFRAMES", 1) or 1), int(reference.keywords.get("GROUPGAP", 0) or 0)


@dataclass(frozen=True, kw_only=True)
class DarkCurrent(Operator):
    """Subtract the dark ramp of each group.

    Near infrared: the same for every integration. MIRI: integration *n* of the exposure uses the reference's
    integration *n*, or its last.

    Parameters
    ----------
    average_dark_current
        Average dark current [e-/s], for the photon noise of slopes; default: the reference's own.
    """

    name: ClassVar[str] = "dark_current"
    references: ClassVar[tuple[str, ...]] = ("dark",)

    average_dark_current: Annotated[float, msgspec.Meta(ge=0)] | None = None

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

        dark = average_dark(reference, self.average_dark_current, info.frame_shape)
        return BoundRampStep(
            self.name,
            binding.dq_plane | bits,
            (subtraction_pass(darks),),
            templates={"average_dark_current": dark},
        )
