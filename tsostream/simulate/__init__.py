"""Exposures with known truth: real file format, matching reference files, honest physics.

``simulate("NRS_BRIGHTOBJ", "directory", ints=40)`` writes the uncal segments of a transit, the reference
files that undo its detector's effects, and ``truth.arrow`` with what was injected.
"""

from __future__ import annotations

from tsostream.simulate.exposure import SimulatedExposure, simulate
from tsostream.simulate.modes import EXP_TYPES
from tsostream.simulate.settings import Settings

__all__ = ["EXP_TYPES", "Settings", "SimulatedExposure", "simulate"]
