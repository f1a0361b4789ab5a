"""The scout: which integrations it reads before the run, and the templates it freezes of the whole.

Templates are shapes; levels always come from the integration itself. `tsostream.run.scouting` makes them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from tsostream.errors import ConfigError, Problem, SinkError
from tsostream.files import Exposure

__all__ = [
    "COVARIANCE_PIXELS",
    "SCOUT_INTEGRATIONS",
    "Scout",
    "ScoutPlan",
    "first_numbers",
    "load_scout",
    "parse_scout",
    "scout_numbers",
    "scout_path",
    "stack_size",
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
