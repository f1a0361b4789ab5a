"""reset: subtract the transient after a MIRI reset (spec stage 1, section 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.integration.coupling import Coupling, Numbered
from tsostream.operators.base import Binding, BoundRampStep, Operator, reference_array
from tsostream.operators.group_planes import subtraction_pass

__all__ = ["Reset"]


@dataclass(frozen=True, kw_only=True)
class Reset(Operator):
    """Subtract the reset reference: integration *n* of the exposure uses its integration *n*, or its last."""

    name: ClassVar[str] = "reset"
    optional_references: ClassVar[tuple[str, ...]] = ("reset",)

    @property
    def coupling(self) -> Coupling:
        """The absolute number picks the reference integration."""
        return Numbered()

    def bind(self, binding: Binding) -> BoundRampStep:
        """Scrub NaN and merge the reference's DQ."""
        if not binding.info.is_miri:
            return BoundRampStep(self.name, binding.dq_plane, skipped="only MIRI has the effect")
        reference = binding.references.get("reset")
        if reference is None:
            return BoundRampStep(self.name, binding.dq_plane, skipped="no reset reference")
        shape = binding.info.frame_shape
        planes = reference_array(reference, "SCI", shape, self.name)
        if planes.ndim != 4:
            raise ReferenceMismatchError(
                Problem(f"SCI has {planes.ndim} axes, expected (integration, group, y, x)", reference.name)
            )
        planes = np.ascontiguousarray(np.nan_to_num(planes, nan=0.0), np.float32)
        bits = reference_array(reference, "DQ", shape, self.name)

        return BoundRampStep(self.name, binding.dq_plane | bits, (subtraction_pass(planes),))
