"""clean_flicker_noise: take noise out that lines of pixels have in common, group by group (stage 1, section 17).

How a group is cleaned is in `tsostream.operators.flicker`, short columns in `flicker_columns`; which pixels are
background in `flicker_mask`; here they are joined to an exposure. The segment scope, which looks at all integrations of
a file, is in `flicker_segment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem
from tsostream.integration import dq
from tsostream.integration.coupling import Coupling, Template
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass, reference_array
from tsostream.operators.flicker import Cleaner
from tsostream.operators.flicker_background import SmoothBackground, need_photutils, smooth_flat
from tsostream.operators.flicker_columns import ShortColumns, scene_level
from tsostream.operators.flicker_mask import check_user_mask, outside_science, scene_mask
from tsostream.operators.flicker_waves import wave_tables
from tsostream.operators.jit import kernel
from tsostream.operators.sorting import comparators, median_comparators
from tsostream.operators.tile import Tile

__all__ = ["CleanFlickerNoise", "add_scene", "draft_slopes"]

#: at most this many pixels tell how bright an integration is
BRIGHT = 1024
#: exposures whose readout the waves of ``fit_method=fft`` are made for
FFT_MODES = ("NRS_MSASPEC", "NRS_IFU", "NRS_FIXEDSLIT", "NRS_BRIGHTOBJ")
#: side of a whole near-infrared detector, and its outputs
WHOLE, OUTPUTS = 2048, 4
#: columns up to this length are sorted side by side
SHORT = 256


@kernel
def add_scene(data, image, step):
    """Add a scene that rises by ``step * image`` (float32 [y, x]) from group to group, in place."""
    for g in range(1, data.shape[0]):
        for y in range(data.shape[1]):
            row, scene = data[g, y], image[y]
            factor = np.float32(step * g)
            for x in range(row.size):
                row[x] += factor * scene[x]


@kernel
def draft_slopes(data, groupdq, tgroup, slopes):
    """Slopes of one integration that are good enough to tell source from background.

    Parameters
    ----------
    data : float32 [group, y, x]
        Signal [DN].
    groupdq : uint8 [group, y, x]
        A difference counts when neither of its groups is flagged.
    tgroup : float
        Group time [s].
    slopes : float32 [y, x]
        Mean of the differences [DN/s], written; NaN where none counts.
    """
    for y in range(data.shape[1]):
        for x in range(data.shape[2]):
            total, count = 0.0, 0
            for g in range(1, data.shape[0]):
                if groupdq[g - 1, y, x] == 0 and groupdq[g, y, x] == 0:
                    total += np.float64(data[g, y, x]) - np.float64(data[g - 1, y, x])
                    count += 1
            slopes[y, x] = total / (count * tgroup) if count > 0 else np.nan


@dataclass(frozen=True, kw_only=True)
class CleanFlickerNoise(Operator):
    """Subtract what the pixels of a line, or of a stretch of time, share in the difference of each pair of groups.

    The scene is masked once for the run, from the scout's image; the official step takes the mean slopes
    of the file (``single_mask``). While there is no image yet, for the scout itself, the step does nothing.

    Parameters
    ----------
    autoparam
        The official step chooses parameters for NIRISS and NIRCam images only, no time series: without effect.
    fit_method
        ``median``: of each line. ``fft``: slow waves of the readout's clock, NIRSpec only.
    fit_by_channel
        Cut the lines of near-infrared full frames into the four outputs.
    background_method
        What is subtracted before the noise is judged: ``median``, a level; ``model``, a smooth surface (needs
        photutils); None, nothing; ``median_image``: the scout's image, scaled by the integration's own flux, so that
        all pixels count, the source's too. The official step takes the median ramp of the file for that, and the
        white light of each integration.
    background_box_size
        Rows and columns of a box of the ``model``; by default up to 32, dividing the image evenly.
    mask_science_regions
        Take the slit of NIRSpec, 16 pixels on either side of the SOSS traces, and what MIRI's flat calls no science
        out of the background.
    apply_flat_field
        Divide by the flat (``--override flat=FILE`` for NIRSpec) before judging.
    n_sigma
        Pixels further above the background are signal [sigma]; without effect with ``median_image``.
    fit_histogram
        Take the width of the background from a Gaussian fitted to the histogram of the slopes.
    single_mask
        One mask for all integrations. False: one for each from its own slopes, which may follow the source.
    user_mask
        Image file that is not 0 where there is background, instead of the mask.
    save_mask, save_background, save_noise
        Write products ``mask``, ``flicker_bkg``, ``flicker_noise``.
    scope
        ``streaming``: as above. ``segment``: what the official step does to a file (``--parity jwst``).
    """

    name: ClassVar[str] = "clean_flicker_noise"
    optional_references: ClassVar[tuple[str, ...]] = ("flat", "pastasoss")

    autoparam: bool = False
    fit_method: Literal["fft", "median"] = "median"
    fit_by_channel: bool = False
    background_method: Literal["median", "model", "median_image"] | None = "median"
    background_box_size: (
        tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]] | None
    ) = None
    mask_science_regions: bool = False
    apply_flat_field: bool = False
    n_sigma: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    fit_histogram: bool = False
    single_mask: bool = True
    user_mask: str | None = None
    save_mask: bool = False
    save_background: bool = False
    save_noise: bool = False
    scope: Literal["streaming", "segment"] = "streaming"
    skip: bool = True

    @property
    def coupling(self) -> Coupling:
        """The scene comes from the scout; the slit's window with the wavelengths; a mask from the user."""
        return Template(("image", "slit", "user_mask"))

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Flats and traces only where they are asked for."""
        needed: list[str] = []
        if self.mask_science_regions and info.exp_type == "NIS_SOSS":
            needed.append("pastasoss")
        if self.apply_flat_field or (self.mask_science_regions and info.exp_type == "MIR_IMAGE"):
            needed.append("flat")
        return (), tuple(needed)

    def unsuited(self, info: ExposureInfo) -> str:
        """Why the step does nothing for an exposure; empty when it works."""
        if info.exp_type.startswith("MIR") and info.exp_type != "MIR_IMAGE":
            return f"not for {info.exp_type}"
        if self.fit_method == "fft" and info.exp_type not in FFT_MODES:
            return f"fit_method fft is not for {info.exp_type}"
        return "fewer than two groups" if info.ngroups < 2 else ""

    def cleaner(self, info: ExposureInfo, references: Mapping[str, Reference]) -> Cleaner:
        """Settle how an integration is cleaned.

        Raises
        ------
        ConfigError
            ``model`` without photutils; waves of a whole detector.
        """
        along_x = not info.is_miri and abs(info.slowaxis) == 2
        length = info.nx if along_x else info.ny
        outputs = self.fit_by_channel and info.subarray.upper() == "FULL" and not info.is_miri
        model = None
        if self.background_method == "model":
            need_photutils("clean_flicker_noise.background_method = model")
            model = SmoothBackground(self.background_box_size)
        waves = None
        if self.fit_method == "fft":
            if info.frame_shape == (WHOLE, WHOLE):
                what = (
                    "clean_flicker_noise.fit_method fft is not for whole detectors, which no time series has"
                )
                raise ConfigError(Problem(what, todo="use median", code="unsupported"))
            waves = wave_tables(info)
        channels = OUTPUTS if outputs and length == WHOLE else 1
        short = not along_x and channels == 1 and waves is None and info.ny <= SHORT
        return Cleaner(
            along_x=along_x,
            channels=channels,
            pairs=comparators(info.ny if short else 0),
            flat=self.flat(info, references),
            subtract_level=self.background_method == "median",
            n_sigma=float(self.n_sigma),
            waves=waves,
            model=model,
        )

    def flat(self, info: ExposureInfo, references: Mapping[str, Reference]) -> np.ndarray:
        """Structure to divide by, ones without a flat; float32 [y, x]."""
        if not self.apply_flat_field or "flat" not in references:
            return np.ones(info.frame_shape, np.float32)
        return smooth_flat(reference_array(references["flat"], "SCI", info.frame_shape, self.name))

    def allowed(self, binding: Binding) -> np.ndarray:
        """Pixels that can be background as far as regions tell; bool [y, x]."""
        if not self.mask_science_regions:
            return np.ones(binding.info.frame_shape, bool)
        slit = binding.templates.get("slit", {})
        return outside_science(binding.info, binding.dq_plane, binding.references, slit)

    def in_one_walk(self, cleaner: Cleaner, references: Mapping[str, Reference]) -> bool:
        """Whether nothing is wanted but medians of short columns, and one scene for all integrations."""
        alone = self.background_method == "median_image" or (
            self.background_method is None and self.single_mask
        )
        flat = self.apply_flat_field and "flat" in references
        return alone and self.user_mask is None and not flat and len(cleaner.pairs) > 0

    def bind(self, binding: Binding) -> BoundRampStep:
        """Mask the scene.

        Raises
        ------
        ConfigError
            For what is not supported or not known.
        """
        info, plane = binding.info, binding.dq_plane
        if reason := self.unsuited(info):
            return BoundRampStep(self.name, plane, skipped=reason)
        cleaner, allowed = self.cleaner(info, binding.references), self.allowed(binding)
        walk = self.in_one_walk(cleaner, binding.references)
        scratch = {**({} if walk else cleaner.scratch()), **self._kept(info)}
        user, image = binding.templates.get("user_mask"), binding.templates.get("image")
        against = self.background_method == "median_image"
        if user is not None:
            user = check_user_mask(user, info, str(self.user_mask))
        if image is None and (user is None or against):
            # the scout's own first images are made without
            return BoundRampStep(self.name, plane, (RowPass(_wait),), scratch)
        scene = np.ones(info.frame_shape, np.float32) if image is None else np.asarray(image, np.float32)
        pixels, levels = np.empty(0, np.int32), np.empty(0, np.float32)
        known = np.ascontiguousarray(np.nan_to_num(scene))
        own = not (self.single_mask or against or user is not None)
        if user is not None:
            mask = user
        elif against:
            mask = np.ascontiguousarray(np.isfinite(scene) & allowed)
        else:
            mask = scene_mask(scene / cleaner.flat, self.n_sigma, allowed, fit_histogram=self.fit_histogram)
        if against:
            pixels = bright_places(np.where((plane & dq.DO_NOT_USE) == 0, known, np.float32(0)))
            levels = np.ascontiguousarray(known.ravel()[pixels])
        bright = pixels, levels, float(info.group_time)
        if walk:
            counts = np.where(mask, known, np.float32(np.nan))
            columns = ShortColumns(counts, *bright, median_comparators(info.ny))
            run = RowPass(partial(_clean_columns, columns=columns, image=known, mask=mask), frame=True)
            return BoundRampStep(self.name, plane, (run,), scratch)
        work = _Streaming(
            cleaner=cleaner,
            image=known,
            bright=bright,
            mask=allowed if own else mask,
            limits=(float(self.n_sigma), self.fit_histogram) if own else None,
        )
        run = RowPass(partial(_clean, work=work), frame=True)
        return BoundRampStep(self.name, plane, (run,), scratch)

    def _kept(self, info: ExposureInfo) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Arrays for what is to be saved."""
        scratch: dict[str, tuple[tuple[int, ...], Any]] = {}
        ramp = (info.ngroups, *info.frame_shape)
        if self.save_background:
            scratch["clean_flicker_noise.background"] = (ramp, np.float32)
        if self.save_noise:
            scratch["clean_flicker_noise.noise"] = (ramp, np.float32)
        if self.save_mask:
            scratch["clean_flicker_noise.mask"] = (info.frame_shape, np.bool_)
        return scratch


def _wait(tile: Tile, y0: int, y1: int) -> None:
    """Do nothing yet."""


def bright_places(image: np.ndarray) -> np.ndarray:
    """Flat indices of the brightest pixels (int32 [pixel]), at most `BRIGHT`, in ascending order."""
    flat = image.ravel()
    order = np.argsort(-flat, kind="stable")[:BRIGHT]
    enough = 0.3 * flat[order[: max(1, len(order) // 10)]].mean()
    return np.sort(order[(flat[order] > enough) & (flat[order] > 0)]).astype(np.int32)


@dataclass(frozen=True)
class _Streaming:
    """What `_clean` needs to know; see `CleanFlickerNoise`.

    Parameters
    ----------
    cleaner
        How it is cleaned.
    image : float32 [y, x]
        The scene, without NaN.
    bright
        Flat indices of bright pixels, the scene there, and the group time [s]; no pixel where the scene stays in.
    mask : bool [y, x] or [integration, y, x]
        Background; what can be background where ``limits`` say that each integration has its own.
    limits
        n_sigma and fit_histogram for masks from the integration's own slopes.
    """

    cleaner: Cleaner
    image: np.ndarray
    bright: tuple[np.ndarray, np.ndarray, float]
    mask: np.ndarray
    limits: tuple[float, bool] | None

    def scene(self, data: np.ndarray, flags: np.ndarray, number: int) -> np.ndarray:
        """Background of an integration, bool [y, x]."""
        if self.limits is not None:
            slopes = np.empty(self.mask.shape, np.float32)
            draft_slopes(data, flags, self.bright[2], slopes)
            n_sigma, histogram = self.limits
            return scene_mask(slopes / self.cleaner.flat, n_sigma, self.mask, fit_histogram=histogram)
        return self.mask if self.mask.ndim == 2 else np.asarray(self.mask[number - 1])


def _saved(tile: Tile) -> list[np.ndarray | None]:
    """Arrays for noise, background and mask, where they are to be saved."""
    return [tile.scratch.get(f"clean_flicker_noise.{name}") for name in ("noise", "background", "mask")]


def _clean_columns(
    tile: Tile, y0: int, y1: int, *, columns: ShortColumns, image: np.ndarray, mask: np.ndarray
) -> None:
    noise, background, masks = _saved(tile)
    if noise is not None:
        noise[...] = tile.data
    steps = columns.clean(tile)
    if noise is not None:
        np.subtract(tile.data, noise, out=noise)
    if masks is not None:
        masks[...] = mask
    if background is not None:
        background[...] = 0.0
        for own, step in zip(background, steps, strict=True):
            add_scene(own, image, step)


def _clean(tile: Tile, y0: int, y1: int, *, work: _Streaming) -> None:
    pixels, levels, tgroup = work.bright
    ratios = np.empty(pixels.size)
    scratch = tile.scratch
    noise, background, masks = _saved(tile)
    for i in range(tile.count):
        data, flags = tile.data[i], tile.groupdq[i]
        scene = work.scene(data, flags, tile.first + i)
        if noise is not None:
            noise[i] = data
        if masks is not None:
            masks[i] = scene
        step = 0.0
        if pixels.size:
            step = scene_level(data, flags, pixels, levels, tgroup, ratios) * tgroup
            add_scene(data, work.image, -step)
        own = None if background is None else background[i]
        work.cleaner.clean(data, flags, scene, work.cleaner.work(scratch, 0), own)
        if pixels.size:
            add_scene(data, work.image, step)
            if own is not None:
                add_scene(own, work.image, step)
        if noise is not None:
            np.subtract(data, noise[i], out=noise[i])
