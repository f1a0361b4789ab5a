"""persistence: flag what follows a saturated group for a fixed time (spec stage 1, section 19).

A window of ``persistence_time`` opens with the first saturated group of a ramp; the last window to open is
the last to close. So the state at any time follows from the integrations that began at most
``persistence_time`` before: a window of the run, and nothing has to be remembered. With ``dn_threshold``
that is not so: bright samples open a window only while none is open, hence when windows open depends on all
that came before. It is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator
from tsostream.operators.jit import kernel

__all__ = ["Persistence", "flag_windows", "integrations_before"]

SAT = np.uint8(dq.SATURATED)


@kernel
def flag_windows(groupdq, starts, group_time, duration, flag, lead, until, seen):
    """Flag the groups inside a window.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Consecutive integrations; changed in place from integration ``lead`` on.
    starts : float64 [integration]
        When each integration begins [s].
    group_time : float
        TGROUP [s].
    duration : float
        persistence_time [s].
    flag : uint8
        Flags to set.
    lead : int
        How many of the integrations only tell which windows are open.
    until : float64 [y, x]
        When the open window closes [s], 0 for none; begin with zeros.
    seen : uint8 [y, x]
        Working array: saturated groups of the ramp so far, up to 2.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        now = starts[i]
        seen[:] = 0
        for g in range(ngroups):
            now = now + group_time
            for y in range(ny):
                for x in range(nx):
                    if until[y, x] < now:
                        until[y, x] = 0.0
                    if groupdq[i, g, y, x] & SAT:
                        seen[y, x] = min(2, seen[y, x] + 1)
                    if seen[y, x] == 1:
                        until[y, x] = now + duration
                    if i >= lead and until[y, x] > 0.0:
                        groupdq[i, g, y, x] |= flag


def integrations_before(info: ExposureInfo, duration: float) -> int:
    """How many earlier integrations can hold a window that is still open."""
    frames = info.ngroups * info.nframes + (info.ngroups - 1) * info.groupgap
    length = frames * info.frame_time or info.integration_time
    return math.ceil(duration / length) if length > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Persistence(Operator):
    """Flag groups that follow a saturated one.

    Without a ``persistence_time`` the step does nothing, like the official one. With it the step is refused
    for now: the runner hands no earlier integrations to the ramp steps (`integrations_before` says how many
    are needed, and `flag_windows` does the work once it does).

    Parameters
    ----------
    persistence_time
        How long a window is [s].
    dn_threshold
        Samples above it open windows too [DN]; refused, see above.
    persistence_dnu
        Also set DO_NOT_USE.
    persistence_array_file, save_persistence
        Windows of other exposures; refused.
    """

    name: ClassVar[str] = "persistence"

    persistence_time: Annotated[int, msgspec.Meta(gt=0)] | None = None
    dn_threshold: float | None = None
    persistence_dnu: bool = False
    persistence_array_file: str | None = None
    save_persistence: str | None = None
    skip: bool = True

    def bind(self, binding: Binding) -> BoundRampStep:
        """Refuse what would depend on how the exposure was cut.

        Raises
        ------
        ConfigError
            When persistence_time is given.
        """
        if self.persistence_time is None:
            return BoundRampStep(self.name, binding.dq_plane, skipped="persistence_time is not given")
        if self.dn_threshold is not None or self.persistence_array_file or self.save_persistence:
            what = "persistence: windows opened by dn_threshold or by other exposures have no bounded memory"
            raise ConfigError(Problem(what, todo="give persistence_time only", code="unsupported"))
        count = integrations_before(binding.info, float(self.persistence_time))
        what = f"persistence needs the {count} integrations before each, which ramp steps are not given yet"
        raise ConfigError(Problem(what, todo="skip persistence", code="unsupported"))
