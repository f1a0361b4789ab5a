"""clean_flicker_noise of the parity scope: between the jump search and the fit, on whole frames of all integrations."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.clean_flicker_noise import CleanFlickerNoise
from tsostream.operators.flicker import Work
from tsostream.operators.flicker_segment import SegmentFlicker
from tsostream.operators.rate_planes import RatePlanes
from tsostream.run.parity.light import DraftLight, Drafts, relative_light
from tsostream.run.parity.spool import RampSpool, let_go, make_room

__all__ = ["Background", "MedianImage", "clean_spool", "find_median_image", "keep_nothing", "median_ramp"]

#: samples a median is taken of in one go [bytes]
PIECE_BYTES = 4 << 20

#: what can be kept besides the ramps
SAVED = tuple(f"{CleanFlickerNoise.name}.{name}" for name in ("noise", "background", "mask"))

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


@dataclass(frozen=True)
class MedianImage:
    """What the groups of a file should be, but for noise (stage 1, 17.3).

    Parameters
    ----------
    ramp : float32 [group, y, x]
        Median over the integrations [DN], without background.
    light : float64 [integration]
        Light of each integration in units of the median.
    background
        What does not follow the light; None for nothing.
    """

    ramp: np.ndarray
    light: np.ndarray
    background: Background | None = None

    def expected(self, integration: int, group: int) -> np.ndarray:
        """Scale a group, float64 [y, x]."""
        scaled = self.light[integration] * self.ramp[group]
        if self.background is None:
            return scaled
        return scaled + self.background.of(integration, group)


@dataclass(frozen=True)
class Background:
    """Background that grows with time.

    Parameters
    ----------
    slopes : float32 [integration, y, x]
        [DN/s].
    times : float64 [group]
        Since the reset [s].
    """

    slopes: np.ndarray
    times: np.ndarray

    def of(self, integrations: int | slice, group: int, piece: tuple[slice, ...] = ()) -> np.ndarray:
        """Background in a group [DN], float32 [(integration,) y, x], of a piece of the frame or all of it."""
        return self.slopes[integrations, *piece] * np.float32(self.times[group])


def median_ramp(spool: RampSpool, background: Background | None, each: Each) -> np.ndarray:
    """Find the median of each sample over the integrations, NaN left out; float32 [group, y, x].

    Parameters
    ----------
    spool
        Ramps of a file.
    background
        Taken out first; None for nothing.
    each
        Shares the work among the workers.
    """
    count, ngroups, ny, nx = spool.data.shape
    # of long files not even a row has room: then a part of it
    rows = max(1, min(ny, PIECE_BYTES // (4 * count * nx)))
    columns = max(1, min(nx, PIECE_BYTES // (4 * count * rows)))
    pieces = [
        (slice(y, y + rows), slice(x, x + columns)) for y in range(0, ny, rows) for x in range(0, nx, columns)
    ]
    ramp = np.empty((ngroups, ny, nx), np.float32)

    def work(job: int) -> None:
        group, piece = divmod(job, len(pieces))
        samples = np.array(spool.data[:, group, *pieces[piece]])
        if background is not None:
            samples -= background.of(slice(None), group, pieces[piece])
        ramp[group, *pieces[piece]] = np.nanmedian(samples, axis=0, overwrite_input=True)
        spool.rest()

    with warnings.catch_warnings():
        # a sample that no integration has stays NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        each(work, range(ngroups * len(pieces)))
    return ramp


def find_median_image(
    find: DraftLight | None,
    drafts: Drafts,
    spool: RampSpool,
    info: ExposureInfo,
    scratch: Path | None,
    each: Each,
) -> MedianImage | None:
    """Find what the groups of a file should be.

    Parameters
    ----------
    find
        How light and background are found.
    drafts
        Reads the draft slopes.
    spool
        Ramps of the file.
    info
        The exposure.
    scratch
        Folder for what is too large for memory.
    each
        Shares the work among the workers.

    Returns
    -------
    MedianImage or None
        None for a single integration, or where no light is found: the official step does nothing then.
    """
    if find is None or len(spool.data) < 2:
        return None
    level = find.background(drafts)
    light = relative_light(find.flux(drafts, level))
    if light is None:
        return None
    background = None
    if level is not None:
        # the gap comes behind the last frame of a group
        frames = info.nframes + (info.nframes + info.groupgap) * np.arange(info.ngroups)
        slopes = _background_slopes(level, drafts, len(spool.data), scratch)
        background = Background(slopes, frames * info.frame_time)
    return MedianImage(median_ramp(spool, background, each), light, background)


def _background_slopes(level: np.ndarray, drafts: Drafts, count: int, scratch: Path | None) -> np.ndarray:
    """Spread a level over the integrations, with the rounding of the official difference of slopes."""
    slopes = make_room(count * level.size, scratch).reshape(count, *level.shape)
    start = 0
    for rate in drafts():
        taken = rate.data - (rate.data - level)
        slopes[start : start + rate.count] = np.where(np.isfinite(taken), taken, level)
        start += rate.count
        let_go(slopes)
    return slopes


def clean_spool(
    step: SegmentFlicker,
    spool: RampSpool,
    signal: Callable[[int], np.ndarray],
    mean: RatePlanes,
    each: Each,
    median: MedianImage | None = None,
    kept: Mapping[str, RampSpool] | None = None,
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
    median
        What the groups should be, where that is taken out first.
    kept
        Where noise, background and mask go, by `SAVED`, as far as they are wanted.

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
    noise, background, masks = ((kept or {}).get(name) for name in SAVED)

    def work(i: int) -> None:
        scene = common
        if scene is None:
            scene = step.scene(signal(i))
        elif scene.ndim == 3:
            scene = scene[i]
        data, flags, arrays = np.array(spool.data[i]), np.array(spool.groupdq[i]), idle.borrow()
        expected = None if median is None else partial(median.expected, i)
        level = None if background is None else np.empty_like(data)
        if not step.clean(data, flags, scene, arrays, expected, level):
            failed.append(i)
        if noise is not None:
            noise.put_one(i, data - spool.data[i], flags)
        if background is not None and level is not None:
            background.put_one(i, level, flags)
        if masks is not None:
            masks.put_one(i, scene[None], np.zeros_like(flags[:1]))
        spool.data[i] = data
        idle.put_back(arrays)
        spool.rest()

    each(work, range(count))
    return not failed


def keep_nothing(spool: RampSpool, kept: Mapping[str, RampSpool]) -> None:
    """Say that nothing was taken out of the ramps of a file: no noise, no background, no pixel that counts."""
    for one in (kept[name] for name in SAVED if name in kept):
        for i, flags in enumerate(spool.groupdq):
            groups = one.data.shape[1]
            one.put_one(i, np.zeros_like(one.data[i]), flags[:groups])
