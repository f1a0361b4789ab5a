"""How bright the zodiacal background of a SOSS exposure is, from templates of it (spec stages 2-3, B.7).

The background has a step near column 700, and its brightness on both sides is found by itself: from the fainter
pixels, as the median of the ratio to the template between two of its percentiles. Percentiles are found exactly, in a
few passes over the images, by counting the upper and then the lower half of the bits of each value; memory does not
depend on how many images there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel
from tsostream.operators.smoothing import gaussian

__all__ = ["STEP", "Images", "TemplateFit", "count_ratios", "fit_templates", "sides"]

#: gives (slopes float32 [integration, y, x], DQ uint32 of the same shape) block by block, from the start each time
Images = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]

#: columns among which the step of the background lies
STEP = (685, 725)
#: right of this column the field's other sources spoil the fit
_LAST = 950
_USELESS = np.uint32(dq.DO_NOT_USE | dq.REFERENCE_PIXEL)
_BINS = 1 << 16
_SIGN = np.uint32(0x80000000)


@dataclass(frozen=True)
class TemplateFit:
    """The template that fits best.

    Parameters
    ----------
    template
        Which one.
    scales
        Brightness left and right of the step.
    rms
        Sum of the root mean squares of the residuals on both sides.
    image : float32 [y, x]
        The background.
    """

    template: int
    scales: tuple[float, float]
    rms: float
    image: np.ndarray


def sides(template: np.ndarray, *, fitting: bool) -> np.ndarray:
    """Tell pixels left of the step from those right of it.

    Parameters
    ----------
    template : float32 [y, x]
        Background template.
    fitting
        Leave out what lies too far right to be fitted.

    Returns
    -------
    uint8 [y, x]
        1 left, 2 right, 0 left out.
    """
    slope = np.gradient(gaussian(gaussian(template, 3.0, 0, "symmetric"), 3.0, 1, "symmetric"), axis=1)
    step = np.argmax(slope[:, STEP[0] : STEP[1]], axis=1) + STEP[0]
    columns = np.arange(template.shape[1])
    side = np.where(columns >= step[:, None], 2, 1).astype(np.uint8)
    if fitting:
        side[(side == 2) & (columns > _LAST)] = 0
    return side


@kernel
def count_ratios(data, bits, limit, template, side, low, high, upper, counts):
    """Count ratios of the images to a template, on both sides of its step.

    Parameters
    ----------
    data, bits : float32, uint32 [integration, y, x]
        Images and their DQ.
    limit : float64
        Brighter pixels, and those as bright, belong to sources.
    template : float32 [y, x]
        Divides; ones to count the values themselves.
    side : uint8 [y, x]
        1 or 2; 0 is left out.
    low, high : float64 [side]
        Only ratios between them count.
    upper : int64 [side, rank]
        Upper half of the bits of the ratios whose lower half is counted; -1 in the first place: the upper half is
        counted instead.
    counts : int64 [side, rank, 65536]
        Added to.
    """
    cell = np.empty(1, np.float32)
    word = cell.view(np.uint32)
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                s = side[y, x]
                if s == 0 or (bits[i, y, x] & _USELESS) != 0 or not data[i, y, x] < limit:
                    continue
                ratio = data[i, y, x] / template[y, x]
                if not np.isfinite(ratio) or not low[s - 1] < ratio < high[s - 1]:
                    continue
                cell[0] = ratio
                key = word[0]
                # ascending as unsigned numbers
                key = ~key if (key & _SIGN) != 0 else key | _SIGN
                top = np.int64(key >> np.uint32(16))
                if upper[s - 1, 0] < 0:
                    counts[s - 1, 0, top] += 1
                else:
                    for r in range(upper.shape[1]):
                        if upper[s - 1, r] == top:
                            counts[s - 1, r, np.int64(key & np.uint32(0xFFFF))] += 1


@kernel
def sum_squares(data, bits, limit, template, side, scale, totals):
    """Add up squared residuals on both sides.

    Parameters
    ----------
    data, bits, limit, template, side
        As in `count_ratios`.
    scale : float64 [side]
        Brightness.
    totals : float64 [side, (sum, number)]
        Added to.
    """
    for i in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                s = side[y, x]
                if s == 0 or (bits[i, y, x] & _USELESS) != 0 or not data[i, y, x] < limit:
                    continue
                if np.isfinite(data[i, y, x] / template[y, x]):
                    rest = data[i, y, x] - template[y, x] * scale[s - 1]
                    totals[s - 1, 0] += rest * rest
                    totals[s - 1, 1] += 1.0


def _value(upper: int, lower: int) -> float:
    """Give back the number whose ordered bits are these."""
    key = np.uint32((upper << 16) | lower)
    bits = key & ~_SIGN if key & _SIGN else ~key
    return float(np.array([bits], np.uint32).view(np.float32)[0])


@dataclass
class _Counter:
    """Passes over the images for one template, or for the values themselves."""

    images: Images
    template: np.ndarray
    side: np.ndarray
    limit: float = np.inf

    def ranks(
        self, places: Callable[[int], list[float]], low: np.ndarray, high: np.ndarray
    ) -> list[list[float]]:
        """Values at given places of the sorted ratios, per side; between two ranks linear.

        ``places`` gives them for a number of ratios; a side without any gets none.
        """
        first = self._count(np.full((2, 1), -1), low, high)[:, 0]
        numbers = first.sum(axis=1)
        wanted = [[] if n == 0 else [k for p in places(int(n)) for k in (int(p), min(int(p) + 1, int(n) - 1))]
                  for n in numbers]  # fmt: skip
        width = max([len(one) for one in wanted] + [1])
        upper = np.full((2, width), _BINS)
        below = np.zeros((2, width), np.int64)
        for s in range(2):
            ends = first[s].cumsum()
            for r, rank in enumerate(wanted[s]):
                upper[s, r] = np.searchsorted(ends, rank, side="right")
                below[s, r] = ends[upper[s, r] - 1] if upper[s, r] else 0
        second = self._count(upper, low, high)
        found: list[list[float]] = [[], []]
        for s in range(2):
            values = []
            for r, rank in enumerate(wanted[s]):
                lower = np.searchsorted(second[s, r].cumsum(), rank - below[s, r], side="right")
                values.append(_value(int(upper[s, r]), int(lower)))
            for k, place in enumerate(places(int(numbers[s])) if wanted[s] else []):
                share = place - int(place)
                found[s].append(values[2 * k] + share * (values[2 * k + 1] - values[2 * k]))
        return found

    def _count(self, upper: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        counts = np.zeros((2, upper.shape[1], _BINS), np.int64)
        for data, bits in self.images():
            count_ratios(
                data, bits, self.limit, self.template, self.side, low, high, upper.astype(np.int64), counts
            )
        return counts

    def rms(self, scale: np.ndarray) -> np.ndarray:
        """Root mean square of the residuals, per side."""
        totals = np.zeros((2, 2))
        for data, bits in self.images():
            sum_squares(data, bits, self.limit, self.template, self.side, scale, totals)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(totals[:, 0] / totals[:, 1])


_ALL = (np.full(2, -np.inf), np.full(2, np.inf))


def fit_templates(
    images: Images, templates: np.ndarray, *, source: float, ground: tuple[float, float]
) -> TemplateFit | None:
    """Find the template that fits the images best, and its brightness.

    Parameters
    ----------
    images
        Slopes and DQ, again and again.
    templates : float32 [template, y, x]
        Backgrounds, on the pixels of the images.
    source
        Percentile of all values from which on pixels belong to sources.
    ground
        Percentiles of the ratio to the template between which the brightness is its median.

    Returns
    -------
    TemplateFit or None
        None when no template can be fitted on both sides.
    """
    shape = templates.shape[1:]
    values = _Counter(images, np.ones(shape, np.float32), np.ones(shape, np.uint8))
    threshold = values.ranks(lambda n: [(n - 1) * source / 100], *_ALL)[0]
    if not threshold:
        return None
    best: TemplateFit | None = None
    for number, template in enumerate(templates):
        counter = _Counter(images, template, sides(template, fitting=True), threshold[0])
        limits = counter.ranks(lambda n: [(n - 1) * one / 100 for one in ground], *_ALL)
        low, high = (np.array([one[k] if one else np.nan for one in limits]) for k in (0, 1))
        middle = counter.ranks(lambda n: [(n - 1) / 2], low, high)
        if not all(middle):
            continue
        scale = np.array([one[0] for one in middle])
        rms = float(counter.rms(scale).sum())
        if np.isfinite(rms) and (best is None or rms < best.rms):
            side = sides(template, fitting=False)
            image = (template * scale[side.astype(np.int64) - 1]).astype(np.float32)
            best = TemplateFit(number, (float(scale[0]), float(scale[1])), rms, image)
    return best
