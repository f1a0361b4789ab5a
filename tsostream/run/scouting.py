"""The scout at work: slopes of some integrations, and the templates they give.

Every integration is divided by its own flux scale before the median is taken, so a transit does not leak into the
template. There are two stages: slopes of a few integrations without templates give a first image, which is enough to
choose weights by; slopes with it (weights and variances as in the run) of all integrations give the templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tsostream.errors import InputError, Problem
from tsostream.files import Exposure, OnError, read_sync
from tsostream.integration import dq
from tsostream.integration.payload import Raw
from tsostream.operators.aperture.covariance import shared_covariance
from tsostream.operators.flux import flux_scale
from tsostream.operators.sorting import comparators, stack_statistics
from tsostream.run.ramps import RateChain
from tsostream.run.scout import COVARIANCE_PIXELS, Scout, first_numbers

__all__ = ["UnreadableError", "run_scout"]

#: images of the stack that are enough to find bright pixels on
FEW_IMAGES = 9
#: of how many bright pixels the flux scale is the median
BRIGHT_PIXELS = 4096


class UnreadableError(Exception):
    """Raised inside this package: integrations the scout was to read cannot be read."""

    def __init__(self, numbers: list[int]):
        super().__init__(f"integrations {numbers}")
        self.numbers = numbers


@dataclass(frozen=True)
class _Stack:
    """What the scout holds.

    Parameters
    ----------
    slopes : float32 [integration, y, x]
        NaN where they are not usable.
    variance : float64 [y, x]
        Sum of the slopes' variances.
    weight : int32 [y, x]
        How many there are.
    image, scatter : float32 [y, x]
        Statistics of the slopes over the integrations.
    finite : int32 [y, x]
        Integrations with a slope.
    """

    slopes: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    scatter: np.ndarray
    finite: np.ndarray

    @classmethod
    def empty(cls, count: int, shape: tuple[int, int]) -> _Stack:
        """Make room for ``count`` integrations."""
        return cls(
            np.empty((count, *shape), np.float32),
            np.zeros(shape),
            np.zeros(shape, np.int32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
            np.empty(shape, np.int32),
        )

    def take(self, chain: RateChain, raw: Raw, place: int) -> np.ndarray:
        """Keep the slopes of a block at their place, and return their variances [integration, y, x]."""
        if not raw.present:
            raise UnreadableError(raw.numbers.tolist())
        with chain.rates(raw) as rate:
            part = self.slopes[place : place + rate.count]
            part[...] = rate.data
            part[(rate.dq & np.uint32(dq.DO_NOT_USE)) != 0] = np.nan
            return rate.var_poisson + rate.var_rnoise

    def add_variance(self, variances: np.ndarray) -> None:
        """Add variances, integration by integration: the sum must not depend on the size of the blocks."""
        for plane in variances:
            there = np.isfinite(plane) & (plane > 0)
            np.add(self.variance, plane, out=self.variance, where=there)
            self.weight[...] += there

    def mean_variance(self) -> np.ndarray:
        """Mean of the variances, float32 [y, x]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.variance / self.weight).astype(np.float32)

    def find_statistics(self, count: int, pool: Executor, workers: int) -> np.ndarray:
        """Find the statistics of the first ``count`` integrations.

        Returns
        -------
        float64 [integration]
            Flux scales; empty where no pixel has a positive slope.
        """
        stack, scale = self.slopes[:count], np.ones(count)
        first = np.ascontiguousarray(stack[:: max(1, count // FEW_IMAGES)][:FEW_IMAGES])
        self._reduce(first, np.ones(len(first)), comparators(len(first)), 0, stack.shape[1])
        pixels = bright_pixels(self.image, self.finite > 0)
        if pixels.size == 0:
            return np.empty(0)
        flux_scale(stack, pixels, self.image.ravel()[pixels], scale)
        scale /= np.median(scale)
        scale = np.where(np.isfinite(scale) & (scale > 0.05), scale, 1.0)
        pairs = comparators(count)
        edges = np.linspace(0, stack.shape[1], max(1, workers) + 1).astype(int)
        jobs = [
            pool.submit(self._reduce, stack, scale, pairs, int(low), int(high))
            for low, high in pairwise(edges)
        ]
        for job in jobs:
            job.result()
        return scale

    def _reduce(self, stack: np.ndarray, scale: np.ndarray, pairs: np.ndarray, low: int, high: int) -> None:
        """Median and scatter of some rows."""
        stack_statistics(stack, scale, pairs, self.image, self.scatter, self.finite, low, high)


def run_scout(
    exposure: Exposure,
    numbers: list[int],
    make_chain: Callable[[dict[str, Any]], RateChain],
    pool: Executor,
    *,
    workers: int,
    block_bytes: int,
    first_image: bool,
    on_error: OnError = "stop",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scout:
    """Make the templates.

    Parameters
    ----------
    exposure
        The exposure.
    numbers
        Integrations to read, ascending.
    make_chain
        Binds the steps up to the slopes to given templates.
    pool, workers
        Where blocks are worked on.
    block_bytes
        Size of a block.
    first_image
        Whether the steps up to the slopes depend on templates, so that a first image is needed.
    on_error
        What bytes mean that cannot be read, see `tsostream.files.read_blocks`.
    progress
        Called with (integrations done, integrations to do).

    Raises
    ------
    InputError
        When no pixel has a slope.
    UnreadableError
        Names integrations that cannot be read, with ``on_error="flag"``: choose others.
    """
    info = exposure.info
    runs = [first_numbers(numbers), numbers] if first_image else [numbers]
    total, done = sum(len(one) for one in runs), 0
    stack = _Stack.empty(len(numbers), info.frame_shape)
    templates: dict[str, Any] = {}
    for chosen in runs:
        chain = make_chain(templates)
        stack.variance[...], stack.weight[...] = 0.0, 0
        blocks = read_sync(exposure, _ranges(chosen), block_bytes=block_bytes, on_error=on_error)
        for variances in _in_order(pool, stack, chain, blocks, workers):
            stack.add_variance(variances)
            done += len(variances)
            progress(done, total)
        scale = stack.find_statistics(len(chosen), pool, workers)
        if not scale.size:
            what = f"no usable pixel has a positive slope in the {len(chosen)} integrations the scout read"
            todo = "check the references and that the exposure holds a source"
            raise InputError(Problem(what, exposure.label, todo, "no-signal"))
        templates = {
            "image": stack.image.copy(),
            "scatter": stack.scatter.copy(),
            "variance": stack.mean_variance(),
            "count": len(chosen),
        }
    # a pixel that is rarely usable has no template
    stack.image[stack.finite * 2 < len(numbers)] = np.nan
    facts = {"scale_min": float(scale.min()), "scale_max": float(scale.max())}
    variance, slow_is_x = templates["variance"], abs(info.slowaxis) == 1
    wings = info.dispaxis == 0
    covariance = _covariance(stack.slopes, scale, stack.image, variance, slow_is_x=slow_is_x, wings=wings)
    return Scout(stack.image, stack.scatter, variance, covariance, len(numbers), tuple(numbers), facts)


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, count)."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][0] + ranges[-1][1]:
            ranges[-1][1] += 1
        else:
            ranges.append([number, 1])
    return [(first, count) for first, count in ranges]


def _in_order(
    pool: Executor, stack: _Stack, chain: RateChain, blocks: Iterator[Raw], ahead: int
) -> Iterator[np.ndarray]:
    """Take blocks side by side, hand their variances out in order."""
    waiting: list[Future[np.ndarray]] = []
    place = 0
    for raw in blocks:
        waiting.append(pool.submit(stack.take, chain, raw, place))
        place += raw.count
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def bright_pixels(image: np.ndarray, usable: np.ndarray, most: int = BRIGHT_PIXELS) -> np.ndarray:
    """Flat indices of the brightest pixels, a fraction of the frame."""
    values = np.where(usable & np.isfinite(image), image, -np.inf).ravel()
    count = int(min(most, max(8, values.size // 50)))
    order = np.argsort(-values, kind="stable")[:count]
    return np.sort(order[values[order] > 0]).astype(np.int32)


def _covariance(
    stack: np.ndarray,
    scale: np.ndarray,
    image: np.ndarray,
    variance: np.ndarray,
    *,
    slow_is_x: bool,
    wings: bool,
) -> np.ndarray:
    """Measure the noise that background pixels share, where there are ``wings`` without what is left of the source."""
    count = int(min(len(stack), max(4, COVARIANCE_PIXELS // image.size)))
    chosen = np.linspace(0, len(stack) - 1, count).astype(int)
    # the fainter half of the frame, without pixels that are noisier than the rest or not always there
    level = np.nanmedian(image)
    noise = np.nanmedian(np.where(image <= level, variance, np.nan))
    mask = (image <= level) & (variance < 4 * noise)
    residuals = np.empty((count, *image.shape), np.float32)
    for place, index in enumerate(chosen):
        residuals[place] = stack[index] - image * np.float32(scale[index])
        mask &= np.isfinite(residuals[place])
    # image by image: temporary copies of all of them would be the peak of the run's memory
    size = np.mean([np.nan_to_num(np.abs(one)).mean(dtype=np.float64) for one in residuals])
    limit = 6 * np.sqrt(noise) + 6 * size
    # the template, a median, holds about 1/n of each image's own noise
    factor = np.float32(1.0 / np.sqrt(1.0 - 1.0 / len(stack)) if len(stack) > 1 else 1.0)
    shapes = _source_shapes(image, mask) if wings else []
    for one in residuals:
        one[~(np.abs(one) < limit)] = 0.0
        one -= _light_left(one, shapes, mask)
        one *= factor
    independent = float(variance[mask].mean()) if mask.any() else 0.0
    return shared_covariance(residuals, mask, independent=independent, slow_is_x=slow_is_x)


def _source_shapes(image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Find what a source that brightens or moves leaves in the background, each float64 [y, x], 0 off the mask.

    Orthonormal, and without what they have in common with a level.
    """
    found: list[np.ndarray] = [mask / np.sqrt(max(int(mask.sum()), 1))]
    for one in (image, *np.gradient(image)):
        shape = np.where(mask & np.isfinite(one), one, 0.0).astype(np.float64)
        size = float((shape**2).sum())
        for other in found:
            shape -= other * (other * shape).sum()
        left = float((shape**2).sum())
        if left > 1e-6 * size:
            found.append(shape / np.sqrt(left))
    return found[1:]


def _light_left(residual: np.ndarray, shapes: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Find the source's light that is left in the background of an image; float32 [y, x].

    A flux scale is known as well as the photons of the bright pixels tell it, and the telescope's pointing jitters.
    What that leaves in the wings of a star reaches far, but is no noise that pixels share wherever they are; through a
    weak lens, wings are everywhere. (In a spectrum, what few lines of background share looks like them.)
    """
    light = np.zeros(residual.shape)
    for shape in shapes:
        light += shape * (shape * np.where(mask, residual, 0.0)).sum()
    return light.astype(np.float32)
