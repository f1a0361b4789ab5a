"""emicorr: electromagnetic interference in MIRI ramps (stage 1, section 5).

Here the step is joined to an exposure, and what the streaming scope does with one integration; the two algorithms are
in `emi_joint` and `emi_sequential`, the scope of a file in `emi_segment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.emi_clock import READPATTS, Setting, wave_settings
from tsostream.operators.emi_joint import (
    PHASES,
    Wave,
    accumulate,
    best_amplitude,
    best_phase,
    fit_coefficients,
    group_scatter,
    make_wave,
    subtract_wave,
    template_index,
)
from tsostream.operators.emi_segment import SegmentInterference
from tsostream.operators.emi_sequential import (
    Clock,
    bin_means,
    count_samples,
    find_table,
    leave_waves,
    put_samples,
    subtract_table,
)
from tsostream.operators.tile import Tile

__all__ = ["Emicorr"]


@dataclass(frozen=True, kw_only=True)
class Emicorr(Operator):
    """Fit and subtract waves of electromagnetic interference (MIRI).

    Every integration is fitted by itself, as the official step does with ``fit_ints_separately``; phases that are
    counted from the first integration of a file depend on how the exposure was cut, and belong to the segment scope.
    Two differences to ``fit_ints_separately`` remain: the official step takes as quiet the pixels that
    scatter less than twice the median over the *file*; here the limit is the run's template
    ``emicorr_limit`` or, without one, twice the median of the integration. And the trial phases are
    counted from the integration's own start.

    Parameters
    ----------
    algorithm
        ``joint``: waves of a reference, fitted along with the ramps; from 3 groups on. ``sequential``: waves found in
        what straight lines leave of the ramps; the official step advises 10 groups or more. Without a reference
        (``onthefly_corr_freq``) always the latter.
    nints_to_phase
        Integrations that tell a wave in the sequential algorithm of the segment scope; each its own otherwise.
    nbins
        Bins of phase; by default half the period in clocks, at most 500.
    scale_reference
        Give the reference wave the amplitude found in the data.
    onthefly_corr_freq
        Frequencies [Hz] to find and subtract without a reference.
    use_n_cycles
        Segment scope: phase as many integrations as hold so many cycles, None: all, where ``nints_to_phase`` is None.
    fit_ints_separately
        Segment scope: the joint algorithm fits each integration by itself.
    user_supplied_reffile
        Like ``--override emicorr=FILE``.
    save_intermediate_results
        Segment scope: write waves found on the fly as ``…_emi_ref_waves.asdf``.
    scope
        ``streaming``: as above. ``segment``: what the official step does to a file (``--parity jwst``).
    """

    name: ClassVar[str] = "emicorr"
    optional_references: ClassVar[tuple[str, ...]] = ("emicorr",)

    algorithm: Literal["sequential", "joint"] = "joint"
    nints_to_phase: Annotated[int, msgspec.Meta(ge=1)] | None = None
    nbins: Annotated[int, msgspec.Meta(ge=1)] | None = None
    scale_reference: bool = True
    onthefly_corr_freq: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] | None = None
    use_n_cycles: Annotated[int, msgspec.Meta(ge=1)] | None = 3
    fit_ints_separately: bool = False
    user_supplied_reffile: str | None = None
    save_intermediate_results: bool = False
    scope: Literal["streaming", "segment"] = "streaming"
    skip: bool = True

    @property
    def coupling(self) -> Coupling:
        """What is quiet is decided by the run's template, if it has one."""
        return Template(("emicorr_limit",))

    @property
    def joint(self) -> bool:
        """Whether the joint algorithm runs: it needs a reference."""
        return self.algorithm == "joint" and self.onthefly_corr_freq is None

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Waves found on the fly need no reference."""
        return (), () if self.onthefly_corr_freq is not None else self.optional_references

    def setting(self, binding: Binding) -> Setting | str:
        """Waves and clocks of an exposure, or why there is nothing to do."""
        info = binding.info
        if not info.is_miri:
            return "only MIRI has the effect"
        if info.readpatt.upper() not in READPATTS:
            return f"not for the read pattern {info.readpatt}"
        if info.ngroups < 3:
            return "fewer than three groups"
        if self.onthefly_corr_freq is not None:
            found = wave_settings(None, info, self.onthefly_corr_freq)
            return found or f"the clocks of {info.subarray} are not known"
        reference = binding.references.get("emicorr")
        if reference is None:
            return "no emicorr reference"
        return wave_settings(reference.keywords, info) or (
            f"the emicorr reference has nothing for {info.subarray}"
        )

    def bind(self, binding: Binding) -> BoundRampStep:
        """Prepare the waves."""
        info, plane = binding.info, binding.dq_plane
        limit, setting = binding.templates.get("emicorr_limit"), self.setting(binding)
        if isinstance(setting, str):
            return BoundRampStep(self.name, plane, skipped=setting)
        if not self.joint:
            clocks = tuple(
                Clock.make(info, setting, wave, self.nbins) for wave in range(len(setting.frequencies))
            )
            samples = info.ngroups * info.ny * (info.nx // 4)
            run = partial(_correct_sequentially, clocks=clocks, scale=self.scale_reference)
            quarter = (info.ngroups, info.ny, info.nx // 4)
            scratch: dict[str, tuple[tuple[int, ...], Any]] = {
                "emicorr.rest": (quarter, np.float32),
                "emicorr.samples": ((samples,), np.float32),
                "emicorr.groups": ((info.ngroups,), np.float32),
                "emicorr.plane": ((quarter[1] * quarter[2],), np.float32),
            }
            return BoundRampStep(self.name, plane, (RowPass(run, frame=True),), scratch)
        waves = tuple(
            make_wave(info, setting, frequency, shape)
            for frequency, shape in zip(setting.frequencies, setting.shapes, strict=True)
        )
        usable = np.ascontiguousarray(plane == 0)
        together = partial(
            _correct, waves=waves, usable=usable, limit=None if limit is None else np.float32(limit)
        )
        bins = max(wave.templates.shape[0] for wave in waves)
        scratch = {
            "emicorr.scatter": (info.frame_shape, np.float32),
            "emicorr.signal": ((info.ngroups, bins), np.float64),
            "emicorr.number": ((bins,), np.float64),
        }
        return BoundRampStep(self.name, plane, (RowPass(together, frame=True),), scratch)

    def bind_segment(self, binding: Binding) -> SegmentInterference | str:
        """Join the step to the files of an exposure, or say why it does nothing."""
        setting = self.setting(binding)
        if isinstance(setting, str):
            return setting
        return SegmentInterference(
            binding.info,
            setting,
            np.ascontiguousarray(binding.dq_plane == 0),
            joint=self.joint,
            separately=self.fit_ints_separately,
            nints_to_phase=self.nints_to_phase,
            use_n_cycles=self.use_n_cycles,
            nbins=self.nbins,
            scale_reference=self.scale_reference,
        )


def _correct(
    tile: Tile, y0: int, y1: int, *, waves: tuple[Wave, ...], usable: np.ndarray, limit: np.float32 | None
) -> None:
    a, b = np.empty(PHASES), np.empty(PHASES)
    where = (0, 0, 0, tile.data.shape[2])
    for i in range(tile.count):
        data, scatter = tile.data[i], tile.scratch["emicorr.scatter"][i]
        for wave in waves:
            size = wave.templates.shape[0]
            signal = tile.scratch["emicorr.signal"][i][:, :size]
            number = tile.scratch["emicorr.number"][i][:size]
            group_scatter(data, scatter)
            quiet = np.float32(2 * np.median(scatter)) if limit is None else limit
            accumulate(data, scatter, quiet, usable, wave.bins, signal, number)
            fit_coefficients(signal, number, wave.templates, a, b)
            start = best_phase(a, b)
            k = template_index(start)
            amplitude = best_amplitude(a[k], b[k])
            subtract_wave(data, wave.phases, wave.step, start, amplitude, wave.knots, where)


def _correct_sequentially(tile: Tile, y0: int, y1: int, *, clocks: tuple[Clock, ...], scale: bool) -> None:
    """Each integration tells its own waves, at phases counted from its own start."""
    where = (0, 0, 0, tile.data.shape[2])
    for i in range(tile.count):
        data = tile.data[i]
        rest, values, groups, plane = (
            tile.scratch[f"emicorr.{name}"][i] for name in ("rest", "samples", "groups", "plane")
        )
        for clock in clocks:
            counts = np.zeros(clock.bins, np.int64)
            count_samples(rest.shape, 0.0, clock.numbers, counts)
            leave_waves(data, rest, groups, plane)
            put_samples(rest, 0.0, clock.numbers, np.cumsum(counts) - counts, values)
            table = find_table(bin_means(values, counts), clock, scale=scale)
            subtract_table(data, 0.0, clock.numbers, table, where)
