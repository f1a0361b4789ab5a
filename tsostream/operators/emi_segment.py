"""emicorr over all integrations of a file: the official scope (stage 1, section 5), in bounded memory.

Waves are found one after the other, each in what the earlier ones leave; every step of that is one pass over the file,
which leaves a few numbers per integration. The one statistic of single pixels, the median of their scatter, is found
exactly from two passes that count values by their leading and by their trailing bits. What the sequential algorithm
sorts lies, a quarter of a ramp's samples, where the caller makes room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import RowPass
from tsostream.operators.emi_clock import Setting
from tsostream.operators.emi_joint import (
    PHASES,
    Wave,
    accumulate,
    best_amplitude,
    best_phase,
    combine_tables,
    fit_coefficients,
    group_scatter,
    make_wave,
    subtract_wave,
    template_index,
)
from tsostream.operators.emi_sequential import (
    Clock,
    bin_means,
    count_samples,
    find_table,
    leave_waves,
    put_samples,
    subtract_table,
)

if TYPE_CHECKING:
    from tsostream.operators.tile import Tile

__all__ = ["Corrections", "Found", "JointWave", "SegmentInterference", "TableWave"]

#: takes integrations ``0 … count - 1`` of a file, decoded, to ``visit(index, data)``, side by side
Scan = Callable[[Callable[[int, np.ndarray], None], int], None]
#: makes room for so many float32
Room = Callable[[int], np.ndarray]


class Found(Protocol):
    """A wave whose phase and amplitude are known in every integration of a file."""

    def subtract(self, data: np.ndarray, index: int, where: tuple[int, int, int, int]) -> None:
        """Subtract it from integration ``index``; ``where`` as in `subtract_wave`."""


@dataclass(frozen=True)
class JointWave:
    """A reference wave.

    Parameters
    ----------
    wave
        Its shape.
    starts, amplitudes : float64 [integration]
        Phase and factor.
    """

    wave: Wave
    starts: np.ndarray
    amplitudes: np.ndarray

    def subtract(self, data: np.ndarray, index: int, where: tuple[int, int, int, int]) -> None:
        """Subtract it; see `Found`."""
        one = self.wave
        start, amplitude = float(self.starts[index]), float(self.amplitudes[index])
        subtract_wave(data, one.phases, one.step, start, amplitude, one.knots, where)


@dataclass(frozen=True)
class TableWave:
    """A wave by the clock of the file.

    Parameters
    ----------
    clock
        The readout.
    table : float64 [clock of a period]
        The wave.
    """

    clock: Clock
    table: np.ndarray

    def subtract(self, data: np.ndarray, index: int, where: tuple[int, int, int, int]) -> None:
        """Subtract it; see `Found`."""
        start = index * self.clock.integration
        subtract_table(data, start, self.clock.numbers, self.table, where)


@dataclass(frozen=True)
class Corrections:
    """All waves of a file.

    Parameters
    ----------
    found
        In order.
    first
        Number in the exposure of the file's first integration.
    waves
        Name -> frequency [Hz] and means of the bins, of waves found on the fly.
    """

    found: tuple[Found, ...]
    first: int
    waves: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def row_pass(self, top: int = 0, left: int = 0) -> RowPass:
        """Subtract them from a window that begins at row ``top`` and column ``left``."""
        return RowPass(partial(_subtract, found=self.found, first=self.first, top=top, left=left))


def _subtract(
    tile: Tile, y0: int, y1: int, *, found: tuple[Found, ...], first: int, top: int, left: int
) -> None:
    for i in range(tile.count):
        for one in found:
            one.subtract(tile.data[i], tile.first - first + i, (top, left, y0, y1))


@dataclass(frozen=True)
class SegmentInterference:
    """The step, joined to an exposure.

    Parameters
    ----------
    info
        The exposure.
    setting
        Waves and clocks.
    usable : bool [y, x]
        Pixels without a DQ flag.
    joint
        Which algorithm.
    separately
        Of the joint one: fit each integration.
    nints_to_phase, use_n_cycles, nbins, scale_reference
        Of the sequential one, see `tsostream.operators.emicorr.Emicorr`.
    """

    info: ExposureInfo
    setting: Setting
    usable: np.ndarray
    joint: bool
    separately: bool = False
    nints_to_phase: int | None = None
    use_n_cycles: int | None = 3
    nbins: int | None = None
    scale_reference: bool = True

    @property
    def whole(self) -> tuple[int, int, int, int]:
        """The whole frame as a window."""
        return 0, 0, 0, self.info.ny

    def find(self, scan: Scan, count: int, first: int, room: Room) -> Corrections:
        """Find all waves of a file.

        Parameters
        ----------
        scan
            Gives the integrations, each into arrays that may be changed.
        count, first
            Integrations of the file, and the number of the first one in the exposure.
        room
            Makes room for samples.
        """
        found: list[Found] = []
        waves: dict[str, tuple[float, np.ndarray]] = {}
        for number, frequency in enumerate(self.setting.frequencies):

            def clean_scan(
                visit: Callable[[int, np.ndarray], None], stop: int, known: tuple[Found, ...] = tuple(found)
            ) -> None:
                def take(index: int, data: np.ndarray) -> None:
                    for one in known:
                        one.subtract(data, index, self.whole)
                    visit(index, data)

                scan(take, stop)

            if self.joint:
                wave = make_wave(self.info, self.setting, frequency, self.setting.shapes[number])
                found.append(self._fit(wave, clean_scan, count))
                continue
            clock = Clock.make(self.info, self.setting, number, self.nbins)
            means = self._sort(clock, clean_scan, count, room)
            waves[self.setting.names[number]] = (frequency, means - np.median(means))
            found.append(TableWave(clock, find_table(means, clock, scale=self.scale_reference)))
        return Corrections(tuple(found), first, {} if self.setting.shapes else waves)

    # -- joint --------------------------------------------------------------------------------------------------

    def _fit(self, wave: Wave, scan: Scan, count: int) -> JointWave:
        """Find phase and amplitude of a reference wave in all integrations."""
        size, limit = wave.templates.shape[0], self._quiet_limit(scan, count)
        tables = np.empty((count, 2, PHASES))

        def work(index: int, data: np.ndarray) -> None:
            scatter = np.empty(self.info.frame_shape, np.float32)
            signal, number = np.empty((self.info.ngroups, size)), np.empty(size)
            group_scatter(data, scatter)
            accumulate(data, scatter, limit, self.usable, wave.bins, signal, number)
            fit_coefficients(signal, number, wave.templates, tables[index, 0], tables[index, 1])

        scan(work, count)
        step, a, b = wave.step_integration, np.empty(PHASES), np.empty(PHASES)
        starts, amplitudes = np.empty(count), np.empty(count)
        groups = [[i] for i in range(count)] if self.separately else [list(range(count))]
        for members in groups:
            if self.separately:
                turned = [template_index(m / PHASES + step * members[0]) for m in range(PHASES)]
                a, b = tables[members[0], 0][turned], tables[members[0], 1][turned]
            else:
                combine_tables(tables, step, a, b)
            best = best_phase(a, b)
            index = [template_index(best + step * i) for i in members]
            total = [sum(tables[i, row, k] for i, k in zip(members, index, strict=True)) for row in (0, 1)]
            starts[members] = best + step * np.array(members)
            amplitudes[members] = best_amplitude(total[0], total[1])
        return JointWave(wave, starts, amplitudes)

    def _quiet_limit(self, scan: Scan, count: int) -> np.float32:
        """Twice the median of the scatter of all ramps of the file, to the bit."""
        lock, values = threading.Lock(), count * self.info.ny * self.info.nx
        ranks = ((values - 1) // 2, values // 2)
        high, low = np.zeros(1 << 16, np.int64), np.zeros((2, 1 << 16), np.int64)
        buckets: list[int] = []

        def bits_of(data: np.ndarray) -> np.ndarray:
            scatter = np.empty(self.info.frame_shape, np.float32)
            group_scatter(data, scatter)
            return scatter.ravel().view(np.uint32)

        def count_high(_: int, data: np.ndarray) -> None:
            own = np.bincount(bits_of(data) >> 16, minlength=1 << 16)
            with lock:
                high[...] += own

        def count_low(_: int, data: np.ndarray) -> None:
            bits = bits_of(data)
            for row, bucket in enumerate(buckets):
                own = np.bincount(bits[bits >> 16 == bucket] & 0xFFFF, minlength=1 << 16)
                with lock:
                    low[row] += own

        scan(count_high, count)
        ends = np.cumsum(high)
        buckets += [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
        scan(count_low, count)
        middle = []
        for row, (rank, bucket) in enumerate(zip(ranks, buckets, strict=True)):
            within = rank - int(ends[bucket] - high[bucket])
            bits = (bucket << 16) + int(np.searchsorted(np.cumsum(low[row]), within, side="right"))
            middle.append(np.array([bits], np.uint32).view(np.float32)[0])
        return np.float32(2) * np.float32((middle[0] + middle[1]) / np.float32(2))

    # -- sequential ---------------------------------------------------------------------------------------------

    def _phased(self, clock: Clock, count: int) -> int:
        """How many integrations tell the wave; the first wave settles it for all, as in the official step."""
        if self.nints_to_phase is not None:
            return min(self.nints_to_phase, count)
        if self.use_n_cycles is None:
            return count
        first = (1.0 / self.setting.frequencies[0]) / 10.0e-6
        wanted = self.use_n_cycles * first / (self.setting.frame * self.info.ngroups)
        return min(int(np.ceil(wanted)), count)

    def _sort(self, clock: Clock, scan: Scan, count: int, room: Room) -> np.ndarray:
        """Means of the bins of a wave; float64 [bin]."""
        info, used = self.info, self._phased(clock, count)
        shape = (info.ngroups, info.ny, info.nx // 4)
        counts = np.zeros((used, clock.bins), np.int64)
        for index in range(used):
            count_samples(shape, index * clock.integration, clock.numbers, counts[index])
        # bin after bin, and in a bin integration after integration
        places = (np.cumsum(counts.T.ravel()) - counts.T.ravel()).reshape(clock.bins, used).T.copy()
        values = room(int(counts.sum()))

        def work(index: int, data: np.ndarray) -> None:
            rest, plane = np.empty(shape, np.float32), np.empty(shape[1] * shape[2], np.float32)
            leave_waves(data, rest, np.empty(info.ngroups, np.float32), plane)
            put_samples(rest, index * clock.integration, clock.numbers, places[index], values)

        scan(work, used)
        return bin_means(values, counts.sum(axis=0))
