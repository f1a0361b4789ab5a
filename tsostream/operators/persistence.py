"""persistence: flag what follows a saturated group for a fixed time (spec stage 1, section 19).

A window of ``persistence_time`` opens with the first saturated group of a ramp; the last window to open is the last to
close. So all that is known of the past is when the latest window closes, a plane that is carried from integration to
integration by its maximum; an integration that began longer than ``persistence_time`` ago says nothing any more. With
``dn_threshold`` that is not so: bright samples open a window only while none is open, hence when windows open depends
on all that came before. Only the segment scope has it, and writes what a file leaves open for the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Lasting, PerIntegration
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Times
from tsostream.operators.base import Binding, BoundRampStep, Memory, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = ["Persistence", "close_windows", "epoch_seconds", "flag_windows", "integrations_before"]

SAT = np.uint8(dq.SATURATED)
#: scratch plane: when the latest window of earlier integrations closes
UNTIL = "persistence.until"


@kernel
def flag_windows(groupdq, data, starts, group_time, duration, threshold, flag, until, y0, y1):
    """Flag the groups inside a window.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Changed in place.
    data : float32 [integration, group, y, x]
        Signal [DN].
    starts : float64 [integration]
        When each integration begins [s].
    group_time : float
        TGROUP [s].
    duration : float
        persistence_time [s].
    threshold : float
        Brighter samples open a window while none is open [DN]; infinity for none.
    flag : uint8
        Flags to set.
    until : float64 [integration, y, x]
        When the window closes that an integration finds open [s], 0 for none; on return, the one it leaves. Windows
        that close later than one that opens now are no windows.
    y0, y1 : int
        Rows.
    """
    n, ngroups, _, nx = groupdq.shape
    for i in range(n):
        for y in range(y0, y1):
            for x in range(nx):
                now, end, seen = starts[i], until[i, y, x], 0
                for g in range(ngroups):
                    now = now + group_time
                    if end < now:
                        end = 0.0
                    if groupdq[i, g, y, x] & SAT:
                        seen += 1
                    if seen == 1 or (data[i, g, y, x] > threshold and end == 0.0):
                        end = now + duration
                    if end > now + duration:
                        end = 0.0
                    if end > 0.0:
                        groupdq[i, g, y, x] |= flag
                until[i, y, x] = end


@kernel
def close_windows(groupdq, starts, group_time, duration, until):
    """Find when the last window closes that an integration opens.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Flags.
    starts, group_time, duration
        As `flag_windows`.
    until : float64 [integration, y, x]
        Written [s]; 0 where nothing is saturated.
    """
    n, ngroups, ny, nx = groupdq.shape
    for i in range(n):
        for y in range(ny):
            for x in range(nx):
                now, end, seen = starts[i], 0.0, 0
                for g in range(ngroups):
                    now = now + group_time
                    if groupdq[i, g, y, x] & SAT:
                        seen += 1
                    if seen == 1:
                        end = now + duration
                until[i, y, x] = end


def epoch_seconds(times: Times) -> np.ndarray:
    """When integrations begin, in seconds since 1970 as the official step counts them; float64 [integration]."""
    return (times.values[:, 0] - 40587.0) * 86400.0


def integrations_before(info: ExposureInfo, duration: float) -> int:
    """How many earlier integrations can hold a window that is still open."""
    frames = info.ngroups * info.nframes + (info.ngroups - 1) * info.groupgap
    length = frames * info.frame_time or info.integration_time
    # one more than whole integrations: times of files are rounded
    return math.ceil(duration / length) + 1 if length > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Persistence(Operator):
    """Flag groups that follow a saturated one.

    Without a ``persistence_time`` the step does nothing, like the official one.

    Parameters
    ----------
    persistence_time
        How long a window is [s].
    dn_threshold
        Samples above it open a window, too, while none is open [DN]; only with ``--parity jwst``.
    persistence_dnu
        Also set DO_NOT_USE.
    persistence_array_file
        ASDF file with the windows that an earlier exposure left open, in the official format. Without the file, or an
        entry of this detector and ``persistence_time`` in it, there are none.
    save_persistence
        With ``--parity jwst``: ASDF file to write the windows to that each file leaves open.
    """

    name: ClassVar[str] = "persistence"

    persistence_time: Annotated[int, msgspec.Meta(gt=0)] | None = None
    dn_threshold: float | None = None
    persistence_dnu: bool = False
    persistence_array_file: str | None = None
    save_persistence: str | None = None
    skip: bool = True

    @property
    def coupling(self) -> Coupling:
        """A window stays open for its time."""
        return PerIntegration() if self.persistence_time is None else Lasting(float(self.persistence_time))

    @property
    def flag(self) -> np.uint8:
        """What is set inside a window."""
        return np.uint8(dq.PERSISTENCE | (dq.DO_NOT_USE if self.persistence_dnu else 0))

    def bind(self, binding: Binding) -> BoundRampStep:
        """Prepare what is carried.

        Raises
        ------
        ConfigError
            For windows that depend on more than the last ``persistence_time`` seconds, or are to be saved, outside of
            the parity scope.
        """
        if self.persistence_time is None:
            return BoundRampStep(self.name, binding.dq_plane, skipped="persistence_time is not given")
        if binding.official_rounding and (self.dn_threshold is not None or self.save_persistence):
            # not in blocks: the segment scope has all integrations of a file at hand
            return BoundRampStep(self.name, binding.dq_plane, skipped="done in whole files")
        if self.dn_threshold is not None:
            what = "persistence.dn_threshold opens windows that depend on all earlier integrations"
            todo = "leave it out, or use --parity jwst, which has it within each file"
            raise ConfigError(Problem(what, todo=todo, code="unsupported"))
        if self.save_persistence:
            what = "persistence.save_persistence writes the windows that a whole file leaves open"
            todo = "leave it out, or use --parity jwst"
            raise ConfigError(Problem(what, todo=todo, code="unsupported"))
        info, duration = binding.info, float(self.persistence_time)
        rules: dict[str, Any] = {"group_time": float(info.group_time), "duration": duration}
        memory = Memory(
            UNTIL, np.float64, integrations_before(info, duration), partial(_trace, **rules), _join
        )
        earlier = binding.templates.get("open_windows")
        passes = (RowPass(partial(_flag, **rules, flag=self.flag, earlier=earlier)),)
        scratch = {UNTIL: (info.frame_shape, np.float64)}
        return BoundRampStep(self.name, binding.dq_plane, passes, scratch, memory=memory)


def _trace(tile: Tile, planes: np.ndarray, *, group_time: float, duration: float) -> None:
    close_windows(tile.groupdq, _starts(tile), group_time, duration, planes)


def _join(state: np.ndarray, plane: np.ndarray) -> None:
    np.fmax(state, plane, out=state)


def _flag(
    tile: Tile,
    y0: int,
    y1: int,
    *,
    group_time: float,
    duration: float,
    flag: Any,
    earlier: np.ndarray | None,
) -> None:
    until = tile.scratch[UNTIL]
    if earlier is not None:
        # what another exposure left open stays the same for all integrations: the last to close counts
        np.fmax(until[:, y0:y1], earlier[y0:y1], out=until[:, y0:y1])
    flag_windows(tile.groupdq, tile.data, _starts(tile), group_time, duration, np.inf, flag, until, y0, y1)


def _starts(tile: Tile) -> np.ndarray:
    if tile.rate is None:
        raise ValueError("persistence needs the times of the integrations")
    return epoch_seconds(tile.rate.times)
