"""What the parity scope flags across integrations behind the jump search: snowballs, and persistence."""

from __future__ import annotations

import numpy as np

from tsostream.files import SegmentFile, SegmentTimes
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jump import Jump
from tsostream.operators.jump_events import event_scratch, flag_cores, flag_events
from tsostream.operators.persistence import Persistence, epoch_seconds, flag_windows

__all__ = ["flag_persistence", "grow_events"]


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
    step: Persistence, info: ExposureInfo, segment: SegmentFile, data: np.ndarray, groupdq: np.ndarray
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
    """
    if step.persistence_time is None:
        return
    starts = epoch_seconds(SegmentTimes(segment).rows(segment.first, len(data)))
    threshold = np.inf if step.dn_threshold is None else float(step.dn_threshold)
    rules = (float(info.group_time), float(step.persistence_time), threshold, step.flag)
    until = np.zeros((1, *data.shape[-2:]))
    for number in range(len(data)):
        one = slice(number, number + 1)
        flag_windows(groupdq[one], data[one], starts[one], *rules, until, 0, until.shape[1])
