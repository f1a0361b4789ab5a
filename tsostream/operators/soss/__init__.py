"""NIRISS SOSS: three curved orders that overlap (spec stages 2-3, B.9)."""

from __future__ import annotations

__all__ = ["OVERLAP_REFERENCES"]

#: the overlap of the orders is only solved with all of these
OVERLAP_REFERENCES = ("pastasoss", "specprofile", "speckernel")
