"""outlier_detection: samples that do not fit the same pixel's neighbours in time (spec stages 2-3, C.1).

The official step compares each integration with the rolling median of a file; so an ingress or a flare is an outlier, a
file's edges have a median of another time, and one bad sample takes the test from all integrations around it. The
streaming form compares what is left when the source's own level is divided out (`tsostream.operators.source_level`),
across the borders of files, with those samples of the window that are good.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Window
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding, BoundWindowStep, Frames, Operator
from tsostream.operators.outlier_marks import MARKS, Typical, remember_samples
from tsostream.operators.outlier_segment import flag_against_median, keep_samples, segment_windows
from tsostream.operators.outlier_window import count_outliers
from tsostream.operators.pointing import pointing_variance
from tsostream.operators.rate_sync import match_nans_and_flags
from tsostream.operators.sorting import comparators
from tsostream.operators.source_level import SourceLevel, find_source

__all__ = ["OutlierDetection", "parse_good_bits"]

#: samples a window may have
MOST_SAMPLES = 1023
#: how far from its template a sample lies without being worth a look [sigma]; nothing but the cost depends on it
REACH = 1.7


def parse_good_bits(text: str | int | None) -> int:
    """Bits that do not spoil a sample, from the official step's notation: ``~DO_NOT_USE``, ``A+B``, a number.

    Raises
    ------
    ConfigError
        A name or number that is none.
    """
    everything = (1 << 32) - 1
    if text is None:
        return everything
    whole = str(text).strip()
    inverted = whole.startswith("~")
    total = 0
    for name in whole.lstrip("~").strip("() ").replace("+", ",").replace("|", ",").split(","):
        name = name.strip().upper()
        if not name:
            continue
        value = dq.BITS.get(name, int(name) if name.isdecimal() else None)
        if value is None:
            raise ConfigError(
                Problem(
                    f"outlier_detection.good_bits = {text!r}: there is no DQ bit {name!r}",
                    todo="write for example ~DO_NOT_USE, or names joined by +",
                    code="parameter",
                )
            )
        total |= value
    return everything & ~total if inverted else total


@dataclass(frozen=True, kw_only=True)
class OutlierDetection(Operator):
    """Flag samples that do not fit their pixel's neighbours in time.

    Parameters
    ----------
    rolling_window_width
        Integrations in the window.
    snr
        Limit [sigma]; of several numbers, as the official step writes them, the first counts.
    maskpt
        Samples whose weight (1 for good ones, else 0) is below this share of the mean weight are not used.
    good_bits
        DQ bits that do not spoil a sample.
    scope
        ``streaming``: a window across files, on slopes with the source's level divided out. ``segment``: what the
        official step does to each file.
    set_nan
        Whether flagged samples become NaN as well; otherwise only their DQ changes.
    excess_scatter
        Whether the limit counts what a pixel varies in time beyond its error: its own excess in the scout's
        integrations, or what pointing jitter, measured on all pixels of the source, makes of the image's gradient;
        streaming only.
    """

    name: ClassVar[str] = "outlier_detection"
    accepts: ClassVar[str] = "rate"
    produces: ClassVar[str] = "rate"

    rolling_window_width: Annotated[int, msgspec.Meta(ge=1, le=MOST_SAMPLES - 1)] = 25
    snr: float | str = "5.0 4.0"
    maskpt: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    good_bits: int | str | None = "~DO_NOT_USE"
    scope: Literal["streaming", "segment"] = "streaming"
    set_nan: bool = False
    excess_scatter: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_good_bits(self.good_bits)
        try:
            limit = self.limit
        except ValueError:
            limit = 0.0
        if not limit > 0:
            raise ConfigError(
                Problem(
                    f"outlier_detection.snr = {self.snr!r} is not a positive number",
                    todo="the default is '5.0 4.0', of which the first number counts",
                    code="parameter",
                )
            )

    @property
    def limit(self) -> float:
        """Limit [sigma]."""
        text = str(self.snr).replace(",", " ").split()
        return float(text[0]) if text else 0.0

    @property
    def coupling(self) -> Coupling:
        """The neighbours in time; in the streaming scope also the scout's image, to know what the source is."""
        half, odd = divmod(self.rolling_window_width, 2)
        if self.scope == "segment":
            reach = max(self.rolling_window_width - 1, 0)
            return Window(reach, reach, "hold")
        return Window(half, half - (not odd), "shrink", ("image", "scatter", "variance", "count"))

    def bind(self, binding: Binding) -> BoundWindowStep:
        """Settle windows, and what is source in each pixel."""
        bad = np.uint32(~parse_good_bits(self.good_bits) & 0xFFFFFFFF) if self.maskpt > 0 else np.uint32(0)
        if self.scope == "segment":
            return self._bind_segments(binding, bad)
        source = find_source(binding.templates, binding.info, binding.dq_plane)
        typical = self._typical(binding, source)
        half, odd = divmod(self.rolling_window_width, 2)
        before, after = half, max(half - (not odd), 0)
        shared: dict[str, Any] = {"source": source, "typical": typical, "snr": np.float32(self.limit)}
        return BoundWindowStep(
            self.name, binding.dq_plane, binding.info, before, after, partial(_remember, bad=bad, **shared),
            partial(_flag, before=before, after=after, set_nan=self.set_nan, **shared),
            scalars=len(source.node), marks=MARKS,
        )  # fmt: skip

    def _typical(self, binding: Binding, source: SourceLevel) -> Typical:
        """Say what is expected of each pixel; nothing without a template."""
        excess, shape = self._excess(binding, source), binding.info.frame_shape
        expected = np.full(shape, np.nan, np.float32)
        reach = expected
        if "image" in binding.templates:
            expected = np.ascontiguousarray(binding.templates["image"], np.float32)
            variance = np.asarray(binding.templates["variance"], np.float32)
            reach = (REACH * np.sqrt(variance + excess)).astype(np.float32)
        return Typical(source.share, expected, reach, excess)

    def _excess(self, binding: Binding, source: SourceLevel) -> np.ndarray:
        """Variance of each pixel in time beyond its errors: its own, or what pointing jitter gives it."""
        templates = binding.templates
        if not self.excess_scatter or "scatter" not in templates:
            return np.zeros(binding.info.frame_shape, np.float32)
        scatter, variance = (np.asarray(templates[name], np.float32) for name in ("scatter", "variance"))
        jitter = pointing_variance(
            templates["image"], scatter, variance, source.share, int(templates.get("count", 1))
        )
        own = scatter**2 - variance
        # a few integrations may by chance see little of what a pixel varies
        return np.fmax(np.where(own > 0, own, np.float32(0)), jitter).astype(np.float32)

    def _bind_segments(self, binding: Binding, bad: np.uint32) -> BoundWindowStep:
        width = self.rolling_window_width
        segments = binding.segments or ((1, max(binding.info.nints, 1)),)
        reach = 0
        for first, last in segments:
            n = last - first + 1
            reach = max(reach, (width if 2 < width < n else n) - 1)
        return BoundWindowStep(
            self.name, binding.dq_plane, binding.info, reach, reach,
            partial(_remember_segment, bad=bad, width=width, segments=segments),
            partial(
                _flag_segment, width=width, segments=segments, snr=np.float32(self.limit), set_nan=self.set_nan
            ),
            segments=segments,
        )  # fmt: skip


def _remember(
    rate: Rate, frames: Frames, *, bad: np.uint32, source: SourceLevel, typical: Typical, snr: np.float32
) -> None:
    frames.scalars[...] = source.measure(rate.data, rate.dq)
    rows, columns = source.spread(frames.scalars)
    remember_samples(
        rate.data, rate.dq, bad, rate.err, rows, columns, typical, snr, frames.planes, frames.marks
    )


def _flag(
    rate: Rate,
    frames: Frames,
    *,
    before: int,
    after: int,
    source: SourceLevel,
    typical: Typical,
    snr: np.float32,
    set_nan: bool,
) -> Rate:
    numbers = np.arange(rate.first, rate.first + rate.count)
    own = numbers % len(frames.numbers)
    slots = frames.slots(numbers[:, None] + np.arange(-before, after + 1))
    rows, columns = source.spread(frames.scalars[own])
    count_outliers(frames.planes, frames.marks, slots, own, rate.err, typical, rows, columns, snr, rate.dq)
    if set_nan:
        match_nans_and_flags(rate)
    return rate


def _remember_segment(
    rate: Rate,
    frames: Frames,
    *,
    bad: np.uint32,
    width: int,
    segments: tuple[tuple[int, int], ...],
) -> None:
    # the short form of the official step looks at no flags
    _, rolling = segment_windows(np.arange(rate.first, rate.first + rate.count), width, segments)
    keep_samples(rate.data, rate.dq, np.where(rolling, bad, np.uint32(0)), frames.planes)


def _flag_segment(
    rate: Rate,
    frames: Frames,
    *,
    width: int,
    segments: tuple[tuple[int, int], ...],
    snr: np.float32,
    set_nan: bool,
) -> Rate:
    numbers = np.arange(rate.first, rate.first + rate.count)
    windows, rolling = segment_windows(numbers, width, segments)
    # windows of one length at a time: a block lies in one file, so there is but one
    for kind in (True, False):
        mine = np.flatnonzero(rolling == kind)
        if mine.size == 0:
            continue
        length = int((windows[mine, 1] - windows[mine, 0]).max()) + 1
        slots = frames.slots(windows[mine, :1] + np.arange(length))
        flag_against_median(
            rate.data, mine, frames.planes, slots, comparators(length), rate.err, snr, kind, rate.dq
        )
    if set_nan:
        match_nans_and_flags(rate)
    return rate
