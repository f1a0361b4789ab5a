"""A reference file as a step sees it: arrays cut to the subarray, and the keywords that steer their use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

__all__ = ["Reference"]


@dataclass(frozen=True)
class Reference:
    """One reference, ready to bind.

    Parameters
    ----------
    reftype
        CRDS reference type, lower case (``superbias``, ``readnoise``, ...).
    name
        File name, for messages and product headers.
    arrays
        Extension name -> array in native byte order, cut to the subarray ``[..., y, x]``. ``DQ`` is uint32 with the
        standard bits (a DQ_DEF table has been applied); everything else is float32. Read-only.
    keywords
        PRIMARY (and SCI) keywords, such as NGROUPS, NFRAMES, GAINFACT.
    tables
        Extension name -> structured array, for table references.
    path, sha256
        Where it came from.
    """

    reftype: str
    name: str
    arrays: Mapping[str, npt.NDArray]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, npt.NDArray] = field(default_factory=dict)
    path: str = ""
    sha256: str = ""
