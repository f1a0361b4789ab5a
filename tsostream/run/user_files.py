"""Images that the user gives to steps by parameters: they are read once, before anything is bound."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.files import Exposure, SegmentTimes
from tsostream.files.masks import read_flags, read_mask
from tsostream.files.open_windows import read_open_windows
from tsostream.operators.persistence import Persistence, epoch_seconds
from tsostream.references.loading import LoadedReferences
from tsostream.run.config import Config

__all__ = ["open_windows", "user_mask", "with_user_flags"]

logger = logging.getLogger("tsostream")


def user_mask(config: Config) -> dict[str, Any]:
    """Read the mask that clean_flicker_noise is given, as the template ``user_mask``; empty without one.

    Raises
    ------
    InputError
        It cannot be read.
    """
    path = getattr(config.operator("clean_flicker_noise"), "user_mask", None)
    return {"user_mask": read_mask(path)} if path is not None and path.lower() != "none" else {}


def open_windows(config: Config, exposure: Exposure) -> dict[str, Any]:
    """Read the windows of persistence that an earlier exposure left open, as the template ``open_windows``.

    Windows that close later than one that the first group opens are no windows (stage 1, 19).

    Returns
    -------
    dict
        float64 [y, x], when they close [s since 1970], 0 for none; empty without a file.

    Raises
    ------
    InputError
        They cannot be read.
    """
    step, info = config.operator(Persistence.name), exposure.info
    if not isinstance(step, Persistence) or step.persistence_time is None or not step.persistence_array_file:
        return {}
    duration, path = float(step.persistence_time), step.persistence_array_file
    until, reason = read_open_windows(path, info.detector, duration, info.frame_shape)
    if reason:
        logger.warning("persistence.persistence_array_file %s: %s; no window is open", path, reason)
        return {}
    segment = exposure.segments[0]
    (start,) = epoch_seconds(SegmentTimes(segment).rows(segment.first, 1))
    until[until > start + info.group_time + duration] = 0.0
    return {"open_windows": until}


def with_user_flags(config: Config, loaded: LoadedReferences) -> LoadedReferences:
    """Add the flags that dq_init is given to the mask reference (stage 1, 4).

    Raises
    ------
    InputError
        They cannot be read.
    ConfigError
        They are of another subarray.
    """
    path = getattr(config.operator("dq_init"), "user_supplied_dq", None)
    mask = loaded.references.get("mask")
    if path is None or mask is None:
        return loaded
    flags, own = read_flags(path), mask.arrays["DQ"]
    if flags.shape != own.shape:
        what = f"dq_init.user_supplied_dq holds flags of {flags.shape} pixels (y, x), the subarray has {own.shape}"
        raise ConfigError(Problem(what, str(path), "give flags of this subarray", "parameter"))
    joined = own | flags.astype(np.uint32)
    joined.setflags(write=False)
    changed = replace(mask, arrays={**mask.arrays, "DQ": joined})
    note = Problem("dq_init.user_supplied_dq: its flags are added to those of the mask reference", str(path))
    return replace(loaded, references={**loaded.references, "mask": changed}, notes=(*loaded.notes, note))
