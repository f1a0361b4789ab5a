"""Reference files: which one is used, whether it fits, and its arrays cut to the subarray.

::

    --override, --refs, lock, config, CRDS ─► find_references ─► Selection ─► load_references ─► Reference
                                                                    └─► judge_missing: error, steps SKIPPED

Everything is checked and loaded once per exposure, before the first integration, and read-only from then on.
"""

from tsostream.references.catalog import (
    REFERENCE_TYPES,
    ArraySpec,
    ReferenceType,
    canonical_name,
    reference_type,
)
from tsostream.references.loading import LoadedReferences, load_reference, load_references
from tsostream.references.required import MissingReferences, is_required, judge_missing, missing_problem
from tsostream.references.selection import CrdsWish, Selection, find_references, parse_overrides

__all__ = [
    "REFERENCE_TYPES",
    "ArraySpec",
    "CrdsWish",
    "LoadedReferences",
    "MissingReferences",
    "ReferenceType",
    "Selection",
    "canonical_name",
    "find_references",
    "is_required",
    "judge_missing",
    "load_reference",
    "load_references",
    "missing_problem",
    "parse_overrides",
    "reference_type",
]
