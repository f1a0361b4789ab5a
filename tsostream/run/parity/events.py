"""What the parity scope flags across integrations behind the jump search: snowballs, and persistence."""

from __future__ import annotations

import numpy as np

from tsostream.files import SegmentFile, SegmentTimes
from tsostream.files.open_windows import read_open_windows, write_open_windows
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jump import Jump
from tsostream.operators.jump_events import event_scratch, flag_cores, flag_events
from tsostream.operators.persistence import Persistence, epoch_seconds, flag_windows

__all__ = ["earlier_windows", "flag_persistence", "grow_events", "save_windows"]


def grow_events(jump: Jump, info: ExposureInfo, groupdq: np.ndarray) -> None:
    """Grow snowballs in whole frames, integration by integration.

    Parameters
    ----------
    jump
        Parameters.
    info
        The exposure.
    groupdq : uint8 [integration, group, y, x]
        All integrations of a segment, after the jump search; changed in place.
    """
    stop, before = jump.groups_masked(info), np.zeros((1, *info.frame_shape), np.uint8)
    cores = np.zeros_like(before)
    specs = event_scratch(*info.frame_shape)
    scratch: list[np.ndarray] = [np.empty((1, *shape), dtype) for shape, dtype in specs.values()]
    for number in range(len(groupdq)):
        flags = groupdq[number : number + 1]
        flag_events(flags, jump.event_rules, *scratch, cores)
        flag_cores(flags, before, stop)
        before, cores = cores, before


def flag_persistence(
    step: Persistence,
    info: ExposureInfo,
    segment: SegmentFile,
    data: np.ndarray,
    groupdq: np.ndarray,
    until: np.ndarray,
) -> None:
    """Flag what follows saturated, or bright, samples, integration by integration.

    Parameters
    ----------
    step
        Parameters.
    info
        The exposure.
    segment
        The file, which knows the times.
    data, groupdq : float32, uint8 [integration, group, y, x]
        Some pixels of all its integrations; ``groupdq`` is changed in place.
    until : float64 [1, y, x]
        When the windows close that the file finds open [s since 1970], 0 for none; on return, those it leaves.
    """
    if step.persistence_time is None:
        return
    starts = epoch_seconds(SegmentTimes(segment).rows(segment.first, len(data)))
    threshold = np.inf if step.dn_threshold is None else float(step.dn_threshold)
    rules = (float(info.group_time), float(step.persistence_time), threshold, step.flag)
    for number in range(len(data)):
        one = slice(number, number + 1)
        flag_windows(groupdq[one], data[one], starts[one], *rules, until, 0, until.shape[1])


def earlier_windows(step: Persistence | None, info: ExposureInfo) -> np.ndarray:
    """When the windows close that an earlier file left open [s since 1970], float64 [y, x].

    Read anew for each file of an exposure, as by the official step: what one saved, the next may be given.

    Raises
    ------
    InputError
        The windows cannot be read.
    """
    if step is None or step.persistence_time is None or not step.persistence_array_file:
        return np.zeros(info.frame_shape)
    duration = float(step.persistence_time)
    return read_open_windows(step.persistence_array_file, info.detector, duration, info.frame_shape)[0]


def save_windows(
    step: Persistence | None, info: ExposureInfo, segment: SegmentFile, until: np.ndarray
) -> None:
    """Write the windows that a file leaves open [s since 1970], float64 [y, x], if that is asked for.

    Raises
    ------
    SinkError
        They cannot be written.
    """
    if step is not None and step.persistence_time is not None and step.save_persistence:
        name = segment.source_path.name
        write_open_windows(step.save_persistence, info.detector, name, step.persistence_time, until)
