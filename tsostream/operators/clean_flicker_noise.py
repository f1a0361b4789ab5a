"""clean_flicker_noise: take noise out that a line of pixels has in common, group by group (stage 1, section 17).

The difference of two groups, less a background level, is noise where no source is. Its median along each
line is subtracted, and the groups are added up again. What is background is decided three times: by a mask
of the scene, and twice by clipping the values of the difference itself. For both clips one sorting of the
values is enough: a clip keeps a stretch of the sorted list, and means and widths of stretches follow from
running sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.jit import kernel
from tsostream.operators.ranks import (
    clipped_stretch,
    half_width,
    middle_of_lines,
    sort_values,
    sums_of_squares,
)
from tsostream.operators.tile import Tile

__all__ = ["CleanFlickerNoise", "add_scene", "clean_ramp", "clip_limits", "scene_level", "scene_mask"]

UNUSABLE = np.uint8(dq.DO_NOT_USE | dq.JUMP_DET)
#: at most this many pixels tell how bright an integration is
BRIGHT = 1024
#: limit of the clips that find the level and width of the background [sigma]
SIGMA = 3.0


@kernel
def clip_limits(values, start, stop, below, above, halved, sums, squares):
    """Limits of background values.

    Parameters
    ----------
    values : float32 [value]
        Sorted.
    start, stop : int
        Which of them; at least one.
    below, above : float
        Limits below and above the centre [sigma].
    halved : bool
        Take the width from the values below the centre, mirrored.
    sums, squares : float64 [value + 1]
        Working arrays.

    Returns
    -------
    low, high : float
        Limits.
    """
    zero = np.float64(values[(start + stop) // 2])
    sums_of_squares(values, start, stop, zero, sums, squares)
    _, _, centre, width = clipped_stretch(values, start, stop, SIGMA, zero, sums, squares)
    if halved:
        width = half_width(values, start, stop, centre, SIGMA, squares)
    return centre - below * width, centre + above * width


@kernel
def _collect(group, flags, scene, before, image, good, work):
    """Take the difference to the group before, and list its background; returns the number of values listed."""
    count = 0
    for y in range(group.shape[0]):
        for x in range(group.shape[1]):
            value = group[y, x] - before[y, x]
            before[y, x] = group[y, x]
            keep = scene[y, x] and not flags[y, x] & UNUSABLE and np.isfinite(value)
            image[y, x] = value
            good[y, x] = keep
            if keep:
                work[count] = value
                count += 1
    return count


@kernel
def clean_ramp(
    data,
    groupdq,
    scene,
    subtract_level,
    n_sigma,
    along_x,
    channels,
    before,
    image,
    good,
    work,
    spare,
    sums,
    squares,
):
    """Clean one integration.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN], changed in place; the first group stays.
    groupdq : uint8 [group, y, x]
        Samples with DO_NOT_USE or JUMP_DET do not count.
    scene : bool [y, x]
        True where there is background only.
    subtract_level : bool
        background_method is ``median``.
    n_sigma : float
        Limit of the second clip [sigma].
    along_x : bool
        The lines run along x (else along y).
    channels : int
        Parts each line is cut into.
    before, image : float32 [y, x]
        Working arrays.
    good : bool [y, x]
        Working array.
    work, spare : float32 [pixel]
        Working arrays.
    sums, squares : float64 [pixel + 1]
        Working arrays.
    """
    ngroups, ny, nx = data.shape
    before[:] = data[0]
    for g in range(1, ngroups):
        count = _collect(data[g], groupdq[g], scene, before, image, good, work)
        if count == 0:
            continue
        level = np.float32(0.0)
        if subtract_level:
            sort_values(work, spare, count)
            low, high = clip_limits(work, 0, count, SIGMA, SIGMA, True, sums, squares)
            first, last = 0, count
            while first < last and work[first] < low:
                first += 1
            while last > first and work[last - 1] > high:
                last -= 1
            if first == last:
                continue
            half = (first + last) // 2
            level = work[half]
            if (last - first) % 2 == 0:
                level = np.float32(0.5) * (work[half - 1] + work[half])
            inner, outer = -np.inf, np.inf
            if n_sigma > 0.0:
                for k in range(first, last):
                    work[k] -= level
                inner, outer = clip_limits(work, first, last, n_sigma, n_sigma, True, sums, squares)
            for y in range(ny):
                for x in range(nx):
                    value = image[y, x]
                    rest = value - level
                    keep = value >= low and value <= high and rest >= inner and rest <= outer
                    good[y, x] = good[y, x] and keep
                    image[y, x] = rest
        middle_of_lines(image, good, along_x, channels, work)
        for y in range(ny):
            for x in range(nx):
                if np.isnan(data[g, y, x]):
                    continue
                data[g, y, x] = data[g - 1, y, x] + (image[y, x] + level)


@kernel
def scene_level(data, groupdq, pixels, levels, tgroup, ratios):
    """Scale of an integration against the scene: the median over bright pixels of their rise, before any hit or loss.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN].
    groupdq : uint8 [group, y, x]
        A ramp counts up to its first flag.
    pixels : int32 [pixel]
        Flat indices of the pixels to use.
    levels : float32 [pixel]
        The scene's slope there [DN/s], positive.
    tgroup : float
        Group time [s].
    ratios : float64 [pixel]
        Working array.
    """
    nx, count = data.shape[2], 0
    for p in range(pixels.size):
        y, x = pixels[p] // nx, pixels[p] % nx
        last = 0
        while last < data.shape[0] and groupdq[last, y, x] == 0:
            last += 1
        last -= 1
        if last < 1:
            continue
        ratio = np.float64(data[last, y, x] - data[0, y, x]) / (last * tgroup * levels[p])
        if np.isfinite(ratio):
            ratios[count] = ratio
            count += 1
    return np.median(ratios[:count]) if count > 0 else 1.0


@kernel
def add_scene(data, image, step):
    """Add a scene that rises by ``step * image`` (float32 [y, x]) from group to group, in place."""
    for g in range(1, data.shape[0]):
        for y in range(data.shape[1]):
            row, scene = data[g, y], image[y]
            factor = np.float32(step * g)
            for x in range(row.size):
                row[x] += factor * scene[x]


def scene_mask(image: np.ndarray, n_sigma: float) -> np.ndarray:
    """Find the pixels without signal.

    Parameters
    ----------
    image : float32 [y, x]
        Slopes [DN/s].
    n_sigma
        Pixels further above the median are signal [sigma].

    Returns
    -------
    mask : bool [y, x]
        True where there is background only; NaN and exact zeros are no data.
    """
    mask = np.isfinite(image) & (image != 0)
    count = int(mask.sum())
    if n_sigma > 0 and count:
        values = np.sort(image[mask].astype(np.float32))
        low, high = clip_limits(
            values, 0, count, SIGMA, float(n_sigma), False, np.empty(count + 1), np.empty(count + 1)
        )
        with np.errstate(invalid="ignore"):
            mask &= (image >= low) & (image <= high)
    return np.ascontiguousarray(mask)


@dataclass(frozen=True, kw_only=True)
class CleanFlickerNoise(Operator):
    """Subtract the median of each line of background from the difference of each pair of groups.

    The scene is masked once for the run, from the scout's image; the official step takes the mean slopes
    of the file (``single_mask``). While there is no image yet, for the scout itself, the step does nothing.

    Parameters
    ----------
    fit_method
        ``fft`` is refused.
    fit_by_channel
        Cut the lines of near-infrared full frames into the four outputs.
    background_method
        ``median`` or None; or ``median_image``: the scout's image, scaled by the integration's own flux, is taken out
        before the lines are judged, so that all pixels count, the source's too. The official step takes the median ramp
        of the file instead, and the white light of each integration. ``model`` is refused.
    n_sigma
        Pixels further above the background are signal [sigma]; without effect with ``median_image``.
    single_mask
        False, a mask for each integration from its own slopes, is refused: it would follow the source.
    mask_science_regions, apply_flat_field, fit_histogram, user_mask
        Refused.
    background_box_size, autoparam, save_mask, save_background, save_noise
        Without effect; ``autoparam`` is refused.
    """

    name: ClassVar[str] = "clean_flicker_noise"

    autoparam: bool = False
    fit_method: Literal["fft", "median"] = "median"
    fit_by_channel: bool = False
    background_method: Literal["median", "model", "median_image"] | None = "median"
    background_box_size: tuple[int, int] | None = None
    mask_science_regions: bool = False
    apply_flat_field: bool = False
    n_sigma: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    fit_histogram: bool = False
    single_mask: bool = True
    user_mask: str | None = None
    save_mask: bool = False
    save_background: bool = False
    save_noise: bool = False
    skip: bool = True

    @property
    def coupling(self) -> Coupling:
        """The scene comes from the scout's image."""
        return Template(("image",))

    def bind(self, binding: Binding) -> BoundRampStep:
        """Mask the scene.

        Raises
        ------
        ConfigError
            For what is not supported.
        """
        info, plane = binding.info, binding.dq_plane
        image = binding.templates.get("image")
        if info.exp_type.startswith("MIR") and info.exp_type != "MIR_IMAGE":
            return BoundRampStep(self.name, plane, skipped=f"not for {info.exp_type}")
        self._refuse_unsupported()
        if info.ngroups < 2:
            return BoundRampStep(self.name, plane, skipped="fewer than two groups")
        if image is None:
            return BoundRampStep(self.name, plane, skipped="no image to mask the scene by yet")
        along_x = not info.is_miri and abs(info.slowaxis) == 2
        length = info.nx if along_x else info.ny
        whole = (
            self.fit_by_channel and info.subarray.upper() == "FULL" and not info.is_miri and length == 2048
        )
        scene = np.ascontiguousarray(np.nan_to_num(image), np.float32)
        pixels, levels = np.empty(0, np.int32), np.empty(0, np.float32)
        mask = scene_mask(np.asarray(image), self.n_sigma)
        if self.background_method == "median_image":
            mask = np.ascontiguousarray(np.isfinite(image))
            pixels = bright_places(np.where((plane & dq.DO_NOT_USE) == 0, scene, np.float32(0)))
            levels = np.ascontiguousarray(scene.ravel()[pixels])
        run = partial(
            _clean,
            image=scene,
            bright=(pixels, levels, float(info.group_time)),
            scene=mask,
            subtract_level=self.background_method == "median",
            n_sigma=float(self.n_sigma),
            along_x=along_x,
            channels=4 if whole else 1,
        )
        return BoundRampStep(self.name, plane, (RowPass(run, frame=True),), working_arrays(info))

    def _refuse_unsupported(self) -> None:
        asked = {
            "fit_method 'fft'": self.fit_method == "fft",
            f"background_method {self.background_method!r}": self.background_method == "model",
            "single_mask False": not self.single_mask,
            "mask_science_regions": self.mask_science_regions,
            "apply_flat_field": self.apply_flat_field,
            "fit_histogram": self.fit_histogram,
            "autoparam": self.autoparam,
            "user_mask": self.user_mask is not None,
        }
        problems = [
            Problem(f"clean_flicker_noise does not support {what}", todo="leave it out", code="unsupported")
            for what, wanted in asked.items()
            if wanted
        ]
        if problems:
            raise ConfigError(problems)


def bright_places(image: np.ndarray) -> np.ndarray:
    """Flat indices of the brightest pixels (int32 [pixel]), at most `BRIGHT`, in ascending order."""
    flat = image.ravel()
    order = np.argsort(-flat, kind="stable")[:BRIGHT]
    enough = 0.3 * flat[order[: max(1, len(order) // 10)]].mean()
    return np.sort(order[(flat[order] > enough) & (flat[order] > 0)]).astype(np.int32)


def working_arrays(info: ExposureInfo) -> dict[str, tuple[tuple[int, ...], type]]:
    """Scratch of `clean_ramp`."""
    plane, size = info.frame_shape, info.ny * info.nx
    return {
        "clean_flicker_noise.before": (plane, np.float32),
        "clean_flicker_noise.image": (plane, np.float32),
        "clean_flicker_noise.good": (plane, np.bool_),
        "clean_flicker_noise.work": ((size,), np.float32),
        "clean_flicker_noise.spare": ((size,), np.float32),
        "clean_flicker_noise.sums": ((size + 1,), np.float64),
        "clean_flicker_noise.squares": ((size + 1,), np.float64),
    }


def _clean(
    tile: Tile,
    y0: int,
    y1: int,
    *,
    image: np.ndarray,
    bright: tuple[np.ndarray, np.ndarray, float],
    scene: np.ndarray,
    subtract_level: bool,
    n_sigma: float,
    along_x: bool,
    channels: int,
) -> None:
    names = ("before", "image", "good", "work", "spare", "sums", "squares")
    pixels, levels, tgroup = bright
    ratios = np.empty(pixels.size)
    for i in range(tile.count):
        arrays = [tile.scratch[f"clean_flicker_noise.{name}"][i] for name in names]
        data, flags = tile.data[i], tile.groupdq[i]
        step = 0.0
        if pixels.size:
            step = scene_level(data, flags, pixels, levels, tgroup, ratios) * tgroup
            add_scene(data, image, -step)
        clean_ramp(data, flags, scene, subtract_level, n_sigma, along_x, channels, *arrays)
        if pixels.size:
            add_scene(data, image, step)
