"""Light that changes within an integration is no jump: what the pixels of the source have in common is taken out.

In the ingress of a deep eclipse the light changes by a quarter within one integration, and bright pixels would have
jumps by the thousand, in step with the light curve. A hit is in a few pixels, the light in all of them. So before the
search, some of the source's pixels (chosen from the scout's image) tell how bright it was in each difference over the
mean of the integration, in each stretch of the spectrum or in the whole image: the median of what each of them says,
weighted by its light. Where that changes, differences are searched as if it had not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.jit import kernel

__all__ = ["LANES", "LightPixels", "choose_pixels", "find_light", "gather_ramps", "steady_differences"]

SATURATED, UNUSABLE = np.uint8(dq.SATURATED), np.uint8(dq.SATURATED | dq.DO_NOT_USE)
#: columns that are searched side by side; a stretch of a spectrum that runs along rows
LANES = 128
#: rows of a stretch of a spectrum that runs along columns
ROWS = 64
#: how many pixels tell of the light of a stretch, and of an image; with fewer than the last number nothing is told
MOST, MOST_OF_IMAGE, LEAST = 40, 64, 6
#: what such a pixel's difference has [sigma]
BRIGHT = 3.0
#: no pixel may have more than this share of the light of all: a hit on it would be taken for the source's own
SHARE = 0.4
#: a change is one when it is so many times its error
SURE = 3.5


@dataclass(frozen=True)
class LightPixels:
    """Pixels that tell how bright the source is.

    Parameters
    ----------
    rows, columns : int32 [pixel]
        Where they are; those of a stretch stand together.
    bounds : int32 [stretch + 1]
        Which pixels belong to which stretch.
    stretches : int16 [y, chunk]
        Stretch of every row and every `LANES` columns.
    gain, noise2 : float32 [pixel]
        e-/DN, and read-noise variance of a difference [e-^2].
    """

    rows: np.ndarray
    columns: np.ndarray
    bounds: np.ndarray
    stretches: np.ndarray
    gain: np.ndarray
    noise2: np.ndarray

    @property
    def count(self) -> int:
        """How many stretches there are."""
        return len(self.bounds) - 1


def choose_pixels(
    info: ExposureInfo, image: np.ndarray | None, usable: np.ndarray, gain: np.ndarray, noise2: np.ndarray
) -> LightPixels:
    """Choose the pixels that tell of the light: the brightest of each stretch.

    Parameters
    ----------
    info
        The exposure.
    image : float32 [y, x]
        The scout's [DN/s]; None: no pixels, and no stretch.
    usable : bool [y, x]
        Pixels that may be chosen.
    gain, noise2 : float32 [y, x]
        As in `LightPixels`.
    """
    ny, nx = info.frame_shape
    stretches = np.zeros((ny, -(-nx // LANES)), np.int16)
    if info.dispaxis == 1:
        stretches[:] = np.arange(stretches.shape[1])
    elif info.dispaxis == 2:
        stretches[:] = (np.arange(ny) // ROWS)[:, None]
    chosen: list[np.ndarray] = []
    if image is not None:
        signal = np.where(usable & np.isfinite(image), image, 0.0) * gain * info.group_time
        with np.errstate(invalid="ignore"):
            signal = np.where(signal > BRIGHT * np.sqrt(signal + noise2), signal, 0.0)
        own = np.repeat(stretches, LANES, axis=1)[:, :nx]
        most = MOST if info.dispaxis else MOST_OF_IMAGE
        for stretch in range(int(stretches.max()) + 1):
            inside = np.flatnonzero((own == stretch) & (signal > 0))
            levels = signal.ravel()[inside]
            best = np.argsort(-levels, kind="stable")[:most]
            enough = best.size >= LEAST and levels[best[0]] < SHARE * levels[best].sum()
            chosen.append(np.sort(inside[best]) if enough else inside[:0])
    places = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    rows, columns = (one.astype(np.int32) for one in np.divmod(places, nx))
    bounds = np.cumsum([0, *(one.size for one in chosen)]).astype(np.int32)
    return LightPixels(rows, columns, bounds, stretches, gain[rows, columns], noise2[rows, columns])


@kernel
def gather_ramps(data, groupdq, rows, columns, samples):
    """Take the ramps of some pixels (``samples``: float32 [integration, group, pixel], NaN where unusable).

    Ramps that saturate are left out altogether.
    """
    n, ngroups = data.shape[:2]
    for i in range(n):
        for p in range(rows.size):
            y, x = rows[p], columns[p]
            bits = np.uint8(0)
            for g in range(ngroups):
                bits |= groupdq[i, g, y, x]
            for g in range(ngroups):
                lost = (bits & SATURATED) | (groupdq[i, g, y, x] & UNUSABLE)
                samples[i, g, p] = np.float32(np.nan) if lost else data[i, g, y, x]


@kernel
def _differences(samples, i, low, high, gain, noise2, d, level, there):
    """Fill in the differences of a stretch, which of them most ramps have, and the mean of ramps that have those.

    Ramps without any do not count.

    Returns how many pixels there are, the sum of their means, the variance of one difference of them all, and the
    largest mean.
    """
    ndiff, width, alive = d.shape[0], high - low, 0
    for k in range(width):
        some = False
        for j in range(ndiff):
            d[j, k] = (samples[i, j + 1, low + k] - samples[i, j, low + k]) * gain[low + k]
            some |= abs(d[j, k]) < np.float32(np.inf)
        alive += some
    for j in range(ndiff):
        have = 0
        for k in range(width):
            have += abs(d[j, k]) < np.float32(np.inf)
        there[j] = 2 * have > alive
    used, total, variance, largest = 0, 0.0, 0.0, 0.0
    for k in range(width):
        mean, count = 0.0, 0
        for j in range(ndiff):
            if there[j]:
                mean += np.float64(d[j, k])
                count += 1
        level[k] = 0.0
        # false for a pixel that lacks a difference
        if count > 1 and mean > 0.0 and mean < np.inf:
            level[k] = mean / count
            used += 1
            total += level[k]
            variance += level[k] + np.float64(noise2[low + k])
            largest = max(largest, level[k])
    return used, total, variance, largest


@kernel
def _weighted_middle(ratio, weight, count):
    """Weighted median: where half of the weight lies below, between the middles of neighbours (both reordered)."""
    total = 0.0
    for k in range(count):
        total += weight[k]
    for k in range(1, count):
        value, own, place = ratio[k], weight[k], k
        while place > 0 and ratio[place - 1] > value:
            ratio[place], weight[place] = ratio[place - 1], weight[place - 1]
            place -= 1
        ratio[place], weight[place] = value, own
    below, before = 0.5 * weight[0], 0.0
    for k in range(count):
        if k > 0:
            before, below = below, below + 0.5 * (weight[k - 1] + weight[k])
        if below >= 0.5 * total:
            if k == 0:
                return ratio[0]
            part = (0.5 * total - before) / (below - before)
            return ratio[k - 1] + part * (ratio[k] - ratio[k - 1])
    return ratio[count - 1]


@kernel
def find_light(samples, bounds, gain, noise2, light, changes):
    """Tell how bright the source was in each difference, where that changes.

    Parameters
    ----------
    samples : float32 [integration, group, pixel]
        Ramps of the pixels that tell of it [DN]; NaN where they are unusable.
    bounds : int32 [stretch + 1]
        Which pixels belong to which stretch.
    gain, noise2 : float32 [pixel]
        As in `LightPixels`.
    light : float32 [integration, stretch, difference]
        Brightness over the mean of the integration, 1 where nothing is known; written.
    changes : uint8 [integration, stretch]
        Whether any of them is certainly not 1; written.
    """
    n, ndiff = samples.shape[0], samples.shape[1] - 1
    widest = 1
    for s in range(bounds.size - 1):
        widest = max(widest, bounds[s + 1] - bounds[s])
    d = np.empty((ndiff, widest), np.float32)
    level, ratio, weight = np.empty(widest), np.empty(widest), np.empty(widest)
    there = np.empty(ndiff, np.bool_)
    for i in range(n):
        for s in range(bounds.size - 1):
            low, high = bounds[s], bounds[s + 1]
            light[i, s] = np.float32(1.0)
            changes[i, s] = 0
            used, total, variance, largest = _differences(
                samples, i, low, high, gain, noise2, d, level, there
            )
            if used < LEAST or largest > SHARE * total:
                continue
            limit = SURE * np.sqrt(variance) / total
            # the sum, which a hit can move, tells whether the median is worth while
            suspected = False
            for j in range(ndiff):
                together = 0.0
                for k in range(high - low):
                    if level[k] > 0.0:
                        together += np.float64(d[j, k])
                suspected |= there[j] and abs(together / total - 1.0) > limit
            if not suspected:
                continue
            for j in range(ndiff):
                if not there[j]:
                    continue
                count = 0
                for k in range(high - low):
                    if level[k] > 0.0:
                        ratio[count], weight[count] = np.float64(d[j, k]) / level[k], level[k]
                        count += 1
                middle = max(_weighted_middle(ratio, weight, count), 0.0)
                light[i, s, j] = np.float32(middle)
                # a median is uncertain by 1.2533 times what a mean is
                if abs(middle - 1.0) > 1.2533 * limit:
                    changes[i, s] = 1


@kernel
def steady_differences(d, light, noise2, first, width, sums):
    """Make of differences what they would have been in steady light, with the noise of that.

    With the pixel's own level m the light L gives L m to a difference: what it has more or less, over the noise of L m,
    is put on m with the noise of m. Of m the difference that exceeds the light most, perhaps a hit, knows nothing.

    Parameters
    ----------
    d : float32 [difference, lane]
        Differences of neighbouring pixels [e-], NaN where there is none; changed.
    light : float32 [difference]
        Brightness over the mean.
    noise2 : float32 [lane]
        Read-noise variance of a difference [e-^2].
    first, width : int
        First lane, and how many.
    sums : float32 [6, lane]
        Scratch.
    """
    zero = np.float32(0.0)
    total, norm, most, worst, without = sums[0], sums[1], sums[2], sums[3], sums[4]
    total[:] = zero
    norm[:] = zero
    for j in range(d.shape[0]):
        row, bright = d[j, first : first + width], light[j]
        for lane in range(width):
            there = row[lane] == row[lane]
            total[lane] += row[lane] if there else zero
            norm[lane] += bright if there else zero
    most[:] = -np.float32(np.inf)
    worst[:] = zero
    without[:] = zero
    for j in range(d.shape[0]):
        row, bright = d[j, first : first + width], light[j]
        for lane in range(width):
            # not stored unchanged: see `tsostream.operators.sorting.sort_lanes`
            excess, before = row[lane] * norm[lane] - bright * total[lane], most[lane] + zero
            more = excess > before
            most[lane] = excess if more else before
            worst[lane] = row[lane] if more else worst[lane] + zero
            without[lane] = bright if more else without[lane] + zero
    for lane in range(width):
        left = norm[lane] - without[lane]
        total[lane] = (total[lane] - worst[lane]) / left if left > zero else zero
    for j in range(d.shape[0]):
        row, bright = d[j, first : first + width], light[j]
        for lane in range(width):
            m, noise = total[lane], noise2[lane]
            own = max(m, zero)
            scale = np.sqrt((own + noise) / max(bright * own + noise, np.float32(1e-12)))
            row[lane] = m + (row[lane] - bright * m) * scale
