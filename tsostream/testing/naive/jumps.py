"""Twin of the jump step for a single integration (spec stage 1, sections 16.2 to 16.9)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq

__all__ = ["flag_jumps", "in_steady_light", "pixel_jumps", "source_light"]

UNUSABLE = dq.DO_NOT_USE | dq.SATURATED


def source_light(samples: np.ndarray, gain: np.ndarray, noise2: np.ndarray) -> tuple[np.ndarray, bool]:
    """Tell how bright a source was in each difference of an integration, and whether that changes.

    Parameters
    ----------
    samples : float32 [group, pixel]
        Ramps of some of its pixels [DN], NaN where they are unusable.
    gain, noise2 : float32 [pixel]
        e-/DN, and read-noise variance of a difference [e-^2].

    Returns
    -------
    light : float64 [difference]
        Brightness over the mean.
    changes : bool
        Whether it is certainly not constant.
    """
    d = np.diff(samples, axis=0) * gain
    alive = np.isfinite(d).any(axis=0)
    d, noise2 = d[:, alive], noise2[alive]
    there = np.isfinite(d).sum(axis=1) * 2 > d.shape[1]
    steady = np.ones(len(d)), False
    if there.sum() < 2:
        return steady
    mean = d[there].astype(float).mean(axis=0)
    used = np.isfinite(mean) & (mean > 0)
    weight = mean[used]
    if used.sum() < 6 or weight.max() > 0.4 * weight.sum():
        return steady
    limit = 3.5 * np.sqrt((weight + noise2[used]).sum()) / weight.sum()
    sums = d[there][:, used].astype(float).sum(axis=1) / weight.sum()
    if not (np.abs(sums - 1) > limit).any():
        return steady
    light = np.ones(len(d))
    for j in np.flatnonzero(there):
        order = np.argsort(d[j, used] / weight, kind="stable")
        ratio, own = (d[j, used] / weight)[order], weight[order]
        light[j] = max(np.interp(0.5, (np.cumsum(own) - own / 2) / own.sum(), ratio), 0.0)
    return light, bool((np.abs(light - 1) > 1.2533 * limit).any())


def in_steady_light(d: np.ndarray, light: np.ndarray, noise2: float) -> np.ndarray:
    """Make of a pixel's differences what they would have been in steady light (float64 [difference], NaN kept)."""
    there = np.isfinite(d)
    if not there.any():
        return d
    excess = np.where(there, d * light[there].sum() - light * d[there].sum(), -np.inf)
    rest = there.copy()
    rest[np.argmax(excess)] = False
    level = d[rest].sum() / light[rest].sum() if rest.any() else 0.0
    noise = np.sqrt((max(level, 0) + noise2) / (max(level, 0) * light + noise2))
    return level + (d - light * level) * noise


def pixel_jumps(
    d: np.ndarray, noise2: float, thresholds: tuple[float, float, float], *, single: bool
) -> np.ndarray:
    """Find the hits among the differences of one pixel.

    Parameters
    ----------
    d : float64 [difference]
        Differences [e-], NaN where a group cannot be used.
    noise2
        Read-noise variance of a difference [e-^2].
    thresholds
        For four or more, three and two usable differences [sigma].
    single
        16.5 (one pass about the signed median) rather than 16.6 (iterative, on absolute values).

    Returns
    -------
    hits : bool [difference]
        Jumps.
    """
    hits = np.zeros(d.size, bool)
    if single:
        middle = np.nanmedian(d)
        sigma = np.sqrt(abs(middle) + noise2)
        for j in range(d.size):
            hits[j] = sigma > 0 and np.isfinite(d[j]) and abs(d[j] - middle) / sigma > thresholds[0]
        return hits
    a = np.abs(d)
    for turn in range(d.size):
        left = a[np.isfinite(a)]
        if left.size >= 4:
            rest = left[left != left.max()]
            if rest.size == 0:
                break
            level, limit = np.median(rest), thresholds[0]
        elif left.size == 3:
            level, limit = np.median(left), thresholds[1]
        elif left.size == 2:
            level, limit = left.min(), thresholds[2]
        else:
            break
        if turn > 0:
            level = float(np.float32(level))
        sigma = np.sqrt(abs(level) + noise2)
        if not sigma > 0:
            break
        ratio = [abs(float(np.float32(value - level))) / sigma if np.isfinite(value) else -1.0 for value in a]
        if not max(ratio) > limit:
            break
        for j in range(d.size):
            if ratio[j] == max(ratio):
                hits[j] = True
        a = np.where(hits, np.nan, a)
    return hits


def flag_jumps(
    data: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    *,
    nframes: int = 1,
    thresholds: tuple[float, float, float] = (4.0, 5.0, 6.0),
    single_pass: int = 10,
    neighbours: tuple[float, float] | None = (10.0, 1000.0),
    after: tuple[tuple[float, int], ...] = (),
    by_plane: bool = False,
) -> np.ndarray:
    """Flag jumps, their neighbours and what comes after them, each integration by itself.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Linearised signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Before.
    gain, readnoise : float32 [y, x]
        References; gain not above zero: the caller masks the pixel, here it counts as 1.
    nframes
        NFRAMES.
    thresholds
        For four or more, three and two usable differences [sigma].
    single_pass
        min_diffs_single_pass.
    neighbours
        A hit between these [sigma] spreads; None: none does.
    after
        (size [e-], groups) of the flags after a jump.
    by_plane
        Choose the method as the official step does, from the number of groups that are not DO_NOT_USE in
        every pixel; else from the pixel's own usable differences, as the streaming step does.
    """
    out = groupdq.copy()
    n, ngroups, ny, nx = data.shape
    scale = np.where(gain > 0, gain, np.float32(1)).astype(np.float32)
    noise = ((readnoise * scale) ** 2 / nframes).astype(np.float32)
    for i in range(n):
        electrons = (data[i] * scale).astype(np.float32)
        electrons[(groupdq[i] & UNUSABLE) != 0] = np.nan
        with np.errstate(invalid="ignore"):
            d = np.diff(electrons, axis=0).astype(np.float64)
        d[~np.isfinite(d)] = np.nan
        planes = sum(not np.all(groupdq[i, g] & dq.DO_NOT_USE) for g in range(ngroups)) - 1
        seeds = np.zeros(d.shape, bool)
        for y, x in np.ndindex(ny, nx):
            usable = int(np.isfinite(d[:, y, x]).sum())
            if usable < 2 or not noise[y, x] >= 0:
                continue
            single = (planes if by_plane else usable) >= single_pass
            hits = pixel_jumps(d[:, y, x], float(noise[y, x]), thresholds, single=single)
            middle = np.nanmedian(d[:, y, x])
            sigma = np.sqrt(abs(middle) + float(noise[y, x]))
            for j in np.flatnonzero(hits):
                out[i, j + 1, y, x] |= dq.JUMP_DET
                if neighbours is not None and sigma > 0:
                    seeds[j, y, x] = neighbours[0] < abs(d[j, y, x] - middle) / sigma < neighbours[1]
        for j, y, x in zip(*np.nonzero(seeds), strict=True):
            for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near_y < ny and 0 <= near_x < nx
                if inside and not out[i, j + 1, near_y, near_x] & UNUSABLE:
                    out[i, j + 1, near_y, near_x] |= dq.JUMP_DET
        _flag_after(out[i], d, after)
    return out


def _flag_after(flags: np.ndarray, d: np.ndarray, after: tuple[tuple[float, int], ...]) -> None:
    """Section 16.8, in place on the flags of one integration (uint8 [group, y, x])."""
    seeds = []
    for size, count in after:
        if count < 1:
            continue
        for g, y, x in zip(*np.nonzero(flags & dq.JUMP_DET), strict=True):
            if g > 0 and np.isfinite(d[:, y, x]).any() and d[g - 1, y, x] - np.nanmedian(d[:, y, x]) >= size:
                seeds.append((g, count, y, x))
    for g, count, y, x in seeds:
        for later in range(g, min(g + count, len(flags) - 1) + 1):
            if not flags[later, y, x] & UNUSABLE:
                flags[later, y, x] |= dq.JUMP_DET
