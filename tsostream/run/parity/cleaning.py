"""clean_flicker_noise of the parity scope: between the jump search and the fit, on whole frames of all integrations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tsostream.operators.flicker import Work
from tsostream.operators.flicker_segment import SegmentFlicker
from tsostream.operators.rate_planes import RatePlanes
from tsostream.run.parity.spool import RampSpool

__all__ = ["clean_spool"]

#: how the work of a list of jobs is shared among workers
Each = Callable[[Callable[[int], None], range], None]


@dataclass
class _Idle:
    """Working arrays nobody uses at the moment."""

    step: SegmentFlicker
    arrays: list[Work] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def borrow(self) -> Work:
        with self.lock:
            return self.arrays.pop() if self.arrays else self.step.working_arrays()

    def put_back(self, work: Work) -> None:
        with self.lock:
            self.arrays.append(work)


def clean_spool(
    step: SegmentFlicker, spool: RampSpool, signal: Callable[[int], np.ndarray], mean: RatePlanes, each: Each
) -> bool:
    """Clean all integrations of a segment.

    Parameters
    ----------
    step
        Joined to the exposure.
    spool
        Ramps after the jump search, changed in place.
    signal, mean
        Give the draft slopes of an integration, float32 [y, x]; those of all together [y, x].
    each
        Shares the integrations among the workers.

    Returns
    -------
    bool
        False when the official step gives the file back as it came: the noise of some group cannot be found, or the
        user's mask is not for so many integrations. The spool is of no use then.
    """
    count = len(spool.data)
    if step.user is not None and step.user.ndim == 3 and len(step.user) != count:
        return False
    common = step.user
    if common is None and step.single_mask:
        common = step.scene(mean.data)
    idle, failed = _Idle(step), []

    def work(i: int) -> None:
        scene = common
        if scene is None:
            scene = step.scene(signal(i))
        elif scene.ndim == 3:
            scene = scene[i]
        data, flags, arrays = np.array(spool.data[i]), np.array(spool.groupdq[i]), idle.borrow()
        if not step.clean(data, flags, scene, arrays):
            failed.append(i)
        spool.data[i] = data
        idle.put_back(arrays)
        spool.rest()

    each(work, range(count))
    return not failed
