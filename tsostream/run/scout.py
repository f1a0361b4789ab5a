"""The scout: reads some integrations before the run and freezes what the steps need to know of the whole.

Templates are shapes; levels always come from the integration itself. Every integration is divided by its own flux
scale before the median is taken, so a transit does not leak into the template. The scout works in two stages: slopes
of a few integrations without templates give a first image, which is enough to choose weights by; slopes with it
(weights and variances as in the run) of all its integrations give the templates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from tsostream.errors import ConfigError, InputError, Problem, SinkError
from tsostream.files import Exposure, OnError, read_sync
from tsostream.integration import dq
from tsostream.integration.payload import Raw
from tsostream.operators.aperture.covariance import shared_covariance
from tsostream.operators.flux import flux_scale
from tsostream.operators.sorting import comparators, stack_statistics
from tsostream.run.ramps import RateChain

__all__ = [
    "SCOUT_INTEGRATIONS",
    "Scout",
    "ScoutPlan",
    "UnreadableError",
    "first_numbers",
    "load_scout",
    "parse_scout",
    "run_scout",
    "scout_numbers",
]

#: how many integrations the scout reads: this part of the exposure, but at least and at most so many
SCOUT_SHARE, SCOUT_FEWEST, SCOUT_INTEGRATIONS = 6, 16, 64
#: and how many of them for the first image
FIRST_SHARE, FIRST_FEWEST = 4, 5
#: images of the stack never take more than this [bytes]; large frames get fewer of them
STACK_BYTES = 256 << 20
#: arrays of a stored scout
STORED = ("image", "scatter", "variance", "covariance", "numbers")
#: the covariance is measured on as many images as have this many pixels together
COVARIANCE_PIXELS = 1 << 22
#: fewest images a template is made from, whatever memory they take
FEWEST = 8


class UnreadableError(Exception):
    """Raised inside this package: integrations the scout was to read cannot be read."""

    def __init__(self, numbers: list[int]):
        super().__init__(f"integrations {numbers}")
        self.numbers = numbers


@dataclass(frozen=True)
class ScoutPlan:
    """What the scout shall do.

    Parameters
    ----------
    kind
        ``spread`` (evenly over the exposure), ``head`` (the first ones after settling), or ``file``.
    integrations
        How many; None: a sixth of the exposure, 16 to 64.
    path
        Of a stored scout.
    """

    kind: Literal["spread", "head", "file"] = "spread"
    integrations: int | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Scout:
    """Frozen templates of an exposure.

    Parameters
    ----------
    image : float32 [y, x]
        Median slope at the typical flux level.
    scatter : float32 [y, x]
        Scatter of one integration about it.
    variance : float32 [y, x]
        Mean of the slopes' own variance.
    covariance : float64 [2 * lag_y + 1, 2 * lag_x + 1]
        Covariance of background pixels by their distance (1/f noise), centred.
    count
        Integrations it was made from.
    numbers
        Their numbers in the exposure.
    facts
        What else is worth recording.
    """

    image: np.ndarray
    scatter: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray
    count: int
    numbers: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def templates(self) -> dict[str, Any]:
        """Name the products as steps ask for them."""
        return {
            "image": self.image,
            "scatter": self.scatter,
            "variance": self.variance,
            "covariance": self.covariance,
            "count": self.count,
        }

    def save(self, path: Path) -> None:
        """Store the templates beside the output, in one step; equal scouts give equal files.

        Raises
        ------
        SinkError
            When it cannot be written.
        """
        unfinished = path.with_name(path.name + ".new")
        try:
            with unfinished.open("wb") as file:
                np.savez(
                    file,
                    image=self.image,
                    scatter=self.scatter,
                    variance=self.variance,
                    covariance=self.covariance,
                    numbers=np.array(self.numbers, np.int64),
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise SinkError(
                f"{path}: the scout cannot be stored ({error.strerror or error}); "
                "free some space or choose another --out"
            ) from error


def scout_path(out: Path) -> Path:
    """Name the file that stores the scout of an output."""
    return out.with_name(f"{out.stem}.scout.npz")


def load_scout(path: Path, shape: tuple[int, int]) -> Scout:
    """Read a stored scout.

    Raises
    ------
    ConfigError
        When the file is not a scout, or one of another subarray.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            parts = {name: content[name] for name in STORED}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(
            Problem(
                f"is not a stored scout ({error})",
                str(path),
                "give a *.scout.npz file of an earlier run",
                "scout",
            )
        ) from None
    if parts["image"].shape != shape:
        raise ConfigError(
            Problem(f"holds images of {parts['image'].shape}, the exposure has {shape}", str(path),
                    "use a scout of the same subarray", "scout")
        )  # fmt: skip
    numbers = tuple(int(number) for number in parts["numbers"])
    return Scout(**{**parts, "numbers": numbers}, count=len(numbers), facts={"file": str(path)})


def parse_scout(text: str) -> ScoutPlan:
    """Read ``auto``, ``spread:N``, ``head:N`` or a file name.

    Raises
    ------
    ConfigError
        When it is none of them.
    """
    kind, _, number = text.partition(":")
    if text == "auto":
        return ScoutPlan()
    if kind in ("spread", "head"):
        try:
            count = int(number) if number else SCOUT_INTEGRATIONS
        except ValueError:
            count = 0
        if count < 1:
            raise ConfigError(
                Problem(
                    "expected a number of integrations", f"--scout {text}", f"for example {kind}:64", "scout"
                )
            )
        return ScoutPlan("head" if kind == "head" else "spread", count)
    path = Path(text).expanduser()
    if not path.exists():
        raise ConfigError(
            Problem(
                "is neither auto, spread:N, head:N nor a file", f"--scout {text}", "give one of them", "scout"
            )
        )
    return ScoutPlan("file", 0, path)


def stack_size(plan: ScoutPlan, exposure: Exposure) -> int:
    """How many integrations the scout reads."""
    frame = int(np.prod(exposure.info.frame_shape)) * 4
    affordable = max(FEWEST, STACK_BYTES // frame)
    wanted = plan.integrations
    if wanted is None:
        wanted = min(max(exposure.count // SCOUT_SHARE, SCOUT_FEWEST), SCOUT_INTEGRATIONS)
    return max(1, min(wanted, exposure.count, affordable))


def first_numbers(numbers: list[int]) -> list[int]:
    """Choose the integrations of the first image, evenly among those of the scout."""
    count = min(len(numbers), max(len(numbers) // FIRST_SHARE, FIRST_FEWEST))
    places = (np.arange(count) + 0.5) * len(numbers) / count
    return [numbers[int(place)] for place in places]


def scout_numbers(plan: ScoutPlan, exposure: Exposure) -> list[int]:
    """Choose the integrations: a pure function of the exposure, not of its segments.

    The first integrations after a reset differ from the rest, so the first twentieth (at most 60) is left out when
    there are enough others.
    """
    gaps = exposure.gaps
    numbers = np.arange(exposure.first, exposure.last + 1)
    for low, high in gaps:
        numbers = numbers[(numbers < low) | (numbers > high)]
    count = stack_size(plan, exposure)
    settle = min(60, len(numbers) // 20)
    candidates = numbers[settle:] if len(numbers) - settle >= count else numbers
    if plan.kind == "head":
        return [int(number) for number in candidates[:count]]
    places = (np.arange(count) + 0.5) * len(candidates) / count
    return [int(number) for number in candidates[places.astype(np.int64)]]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][0] + ranges[-1][1]:
            ranges[-1][1] += 1
        else:
            ranges.append([number, 1])
    return [(first, count) for first, count in ranges]


def _in_order(
    pool: Executor, work: Callable[[Raw, int], np.ndarray], blocks: Iterator[Raw], ahead: int
) -> Iterator[np.ndarray]:
    """Work on blocks side by side, hand results out in order; each call is told where its block stands."""
    waiting: list[Future[np.ndarray]] = []
    place = 0
    for raw in blocks:
        waiting.append(pool.submit(work, raw, place))
        place += raw.count
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def bright_pixels(image: np.ndarray, usable: np.ndarray, most: int = 4096) -> np.ndarray:
    """Flat indices of the brightest pixels, a fraction of the frame."""
    values = np.where(usable & np.isfinite(image), image, -np.inf).ravel()
    count = int(min(most, max(8, values.size // 50)))
    order = np.argsort(-values, kind="stable")[:count]
    return np.sort(order[values[order] > 0]).astype(np.int32)


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
    shape = info.frame_shape
    runs = [first_numbers(numbers), numbers] if first_image else [numbers]
    total = sum(len(one) for one in runs)
    whole = np.empty((len(numbers), *shape), np.float32)
    image, scatter = np.empty(shape, np.float32), np.empty(shape, np.float32)
    finite = np.empty(shape, np.int32)
    variance = np.zeros(shape)
    weight = np.zeros(shape, np.int32)
    templates: dict[str, Any] = {}
    done = 0
    for chosen in runs:
        chain = make_chain(templates)
        stack = whole[: len(chosen)]
        variance[...] = 0.0
        weight[...] = 0

        def take(raw: Raw, place: int, chain: RateChain = chain, stack: np.ndarray = stack) -> np.ndarray:
            if not raw.present:
                raise UnreadableError(raw.numbers.tolist())
            with chain.rates(raw) as rate:
                part = stack[place : place + rate.count]
                part[...] = rate.data
                part[(rate.dq & np.uint32(dq.DO_NOT_USE)) != 0] = np.nan
                return rate.var_poisson + rate.var_rnoise

        for one in _in_order(
            pool,
            take,
            read_sync(exposure, _ranges(chosen), block_bytes=block_bytes, on_error=on_error),
            workers,
        ):
            # integration by integration: the sum must not depend on the size of the blocks
            for plane in one:
                there = np.isfinite(plane) & (plane > 0)
                variance += np.where(there, plane, 0.0)
                weight += there
            done += len(one)
            progress(done, total)
        scale = np.ones(len(chosen))
        first = stack[:: max(1, len(chosen) // 9)][:9]
        stack_statistics(
            np.ascontiguousarray(first),
            np.ones(len(first)),
            comparators(len(first)),
            image,
            scatter,
            finite,
            0,
            info.ny,
        )
        pixels = bright_pixels(image, finite > 0)
        if pixels.size == 0:
            raise InputError(
                Problem(
                    f"no usable pixel has a positive slope in the {len(chosen)} integrations the scout read",
                    exposure.label,
                    "check the references and that the exposure holds a source",
                    "no-signal",
                )
            )
        flux_scale(stack, pixels, image.ravel()[pixels], scale)
        scale /= np.median(scale)
        scale = np.where(np.isfinite(scale) & (scale > 0.05), scale, 1.0)
        _statistics(pool, workers, stack, scale, comparators(len(chosen)), image, scatter, finite)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (variance / weight).astype(np.float32)
        templates = {
            "image": image.copy(),
            "scatter": scatter.copy(),
            "variance": mean,
            "count": len(chosen),
        }
    # a pixel that is rarely usable has no template
    image[finite * 2 < len(numbers)] = np.nan
    facts = {"scale_min": float(scale.min()), "scale_max": float(scale.max())}
    return Scout(
        image,
        scatter,
        templates["variance"],
        _covariance(whole, scale, image, templates["variance"], slow_is_x=abs(info.slowaxis) == 1),
        len(numbers),
        tuple(numbers),
        facts,
    )


def _covariance(
    stack: np.ndarray, scale: np.ndarray, image: np.ndarray, variance: np.ndarray, *, slow_is_x: bool
) -> np.ndarray:
    """Measure the noise that background pixels share."""
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
    for one in residuals:
        one[~(np.abs(one) < limit)] = 0.0
        one *= factor
    independent = float(variance[mask].mean()) if mask.any() else 0.0
    return shared_covariance(residuals, mask, independent=independent, slow_is_x=slow_is_x)


def _statistics(
    pool: Executor,
    workers: int,
    stack: np.ndarray,
    scale: np.ndarray,
    pairs: np.ndarray,
    image: np.ndarray,
    scatter: np.ndarray,
    finite: np.ndarray,
) -> None:
    edges = np.linspace(0, stack.shape[1], max(1, workers) + 1).astype(int)
    jobs = [
        pool.submit(stack_statistics, stack, scale, pairs, image, scatter, finite, int(low), int(high))
        for low, high in pairwise(edges)
    ]
    for job in jobs:
        job.result()
