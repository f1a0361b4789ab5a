"""The first steps of a ramp in one walk: from the words of the file to corrected samples.

Between the file and the jump search most steps do one operation to every sample. Each alone is a kernel that loads and
stores all of them; together they are one load, a dozen operations in registers, and one store. Passes say what they do
(`tsostream.operators.base.Part`); `fuse` takes as many from the beginning as it can do in one walk, and leaves the
rest, or everything, as it is. The results are the same to the last bit: it is the same arithmetic in the same order.

Saturation looks at neighbours, and reference pixels at whole frames, but neither needs more than the words of the
file: the first saturated group of each pixel is found in integers, and of the reference pixels only they are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tsostream.operators.base import Part, RowPass
from tsostream.operators.fused_light import light_from_words
from tsostream.operators.fused_samples import (
    correct_samples,
    decode_pixels,
    find_saturated_words,
    grow_first,
    second_groups,
)
from tsostream.operators.tile import Tile

__all__ = ["Correction", "fuse", "fuse_levels"]

#: in which order parts can be done in one walk
ORDER = (
    "decode", "flags", "saturation", "grow", "second", "unused", "plane", "reset", "levels", "profiles", "polynomial",
    "dark",
)  # fmt: skip


#: nothing, of each number of axes
NO_PLANE, NO_CUBE, NO_GROUPS = (np.empty((0,) * axes, np.float32) for axes in (2, 3, 4))


@dataclass
class _Parts:
    """What was found to do in one walk."""

    found: dict[str, Part] = field(default_factory=dict)
    levels: RowPass | None = None
    count: int = 0

    def take(self, name: str, one: RowPass) -> bool:
        """Take a pass, if it can be done in this walk after those taken before."""
        part = one.part
        if part is None:
            return False
        kind = part.kind
        if kind == "groups":
            # before the linearity it is a reset, behind it a dark
            kind = "dark" if "polynomial" in self.found else "reset"
        place = ORDER.index(kind) if kind in ORDER else 0
        if kind not in ORDER or kind in self.found or any(ORDER.index(other) > place for other in self.found):
            return False
        self.found[kind] = part
        if kind == "levels":
            self.levels = one
        return True

    def array(self, kind: str, name: str, default: np.ndarray) -> np.ndarray:
        """Array of a part; the default where the part is not there."""
        return self.found[kind].arrays[name] if kind in self.found else default


def fuse(passes: Sequence[tuple[str, RowPass]]) -> list[tuple[str, RowPass]]:
    """Do the first passes in one walk, where that is possible.

    Parameters
    ----------
    passes
        Step names and passes, in order; the first one decodes.

    Returns
    -------
    passes
        The same in fewer walks. What several steps do together stands under ``samples``.
    """
    parts = _Parts()
    for name, one in passes:
        if not parts.take(name, one):
            break
        parts.count += 1
    while parts.count and not _complete(parts):
        # without its last pass it may be complete
        shorter = _Parts()
        for name, one in passes[: parts.count - 1]:
            shorter.take(name, one)
            shorter.count += 1
        parts = shorter
    if "polynomial" not in parts.found:
        return list(passes)
    walks, rest = _walks(parts), list(passes[parts.count :])
    light = rest[0][1].part if rest else None
    if light is not None and light.kind == "light":
        # before the samples, or the walk over rows would have to stop between them and the search
        walks.insert(len(walks) - 1, (rest.pop(0)[0], light_from_words(_correction(parts), light)))
    return [*walks, *rest]


def fuse_levels(passes: Sequence[RowPass]) -> list[RowPass]:
    """Keep only the last pass, which finds levels of reference pixels, if those before are not needed for it."""
    parts = _Parts()
    whole = all(parts.take("", one) for one in passes) and parts.levels is not None
    if not whole or parts.levels is None or {"reset", "polynomial"} & set(parts.found):
        return list(passes)
    return [_levels_pass(parts, parts.levels)]


def _complete(parts: _Parts) -> bool:
    """Whether nothing is left half done, and saturation levels are such that integers can tell."""
    found = parts.found
    if "saturation" not in found or "grow" not in found or ("levels" in found and "profiles" not in found):
        return False
    return bool((found["saturation"].arrays["threshold"] > 0).all())


def _levels_pass(parts: _Parts, levels: RowPass) -> RowPass:
    """Make the pass that decodes reference pixels, and nothing else, before their levels are found."""
    rows, columns = (np.ascontiguousarray(one, np.int32) for one in parts.found["levels"].arrays["pixels"].T)
    bias = parts.array("plane", "plane", NO_PLANE)
    return RowPass(partial(_levels, bias=bias, rows=rows, columns=columns, find=levels.run), frame=True)


@dataclass(frozen=True)
class Correction:
    """All parts up to the dark, as arrays: what `correct_samples` is called with.

    Parameters
    ----------
    flags, bias, reset, coefficients, dark, unused
        As in `correct_samples`.
    reach
        n_pix_grow_sat.
    profiles
        Whether reference pixels are subtracted.
    second
        Arguments of `second_groups`, if it is wanted.
    """

    flags: np.ndarray
    bias: np.ndarray
    reset: np.ndarray
    coefficients: np.ndarray
    dark: np.ndarray
    unused: int
    reach: int
    profiles: bool
    second: tuple[Any, ...]

    def levels(self, scratch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Levels of the reference pixels, [integration, group, x] and [integration, group, y]; empty without them."""
        if not self.profiles:
            return NO_CUBE, NO_CUBE
        return scratch["refpix.along_x"], scratch["refpix.along_y"]

    def run(self, tile: Tile, data: np.ndarray, groupdq: np.ndarray, y0: int, y1: int, top: int) -> None:
        """Correct rows ``y0 <= y < y1`` of a tile into arrays that begin with row ``top``."""
        scratch = tile.scratch
        grown, notes = scratch["saturation.grown"], scratch["saturation.notes"]
        grow_first(scratch["saturation.first"], grown, notes, data.shape[1], self.reach, y0, y1)
        along_x, along_y = self.levels(scratch)
        correct_samples(
            tile.raw, data, groupdq, self.flags, self.unused, grown, notes, self.bias, self.reset, along_x, along_y,
            self.coefficients, self.dark, tile.first, y0, y1, top,
        )  # fmt: skip
        if self.second:
            second_groups(tile.raw, groupdq, grown, notes, *self.second, y0, y1, top)


def _walks(parts: _Parts) -> list[tuple[str, RowPass]]:
    threshold = parts.found["saturation"].arrays["threshold"]
    limit = np.clip(np.ceil(threshold) - 1, 0, 65535).astype(np.uint16)
    walks = [("saturation", RowPass(partial(_find, limit=limit)))]
    if parts.levels is not None:
        walks.append(("refpix", _levels_pass(parts, parts.levels)))
    correction = _correction(parts)
    run = partial(_correct, correction=correction)
    walks.append(
        ("samples", RowPass(run, halo=correction.reach, part=Part("corrected", {"correction": correction})))
    )
    return walks


def _correction(parts: _Parts) -> Correction:
    threshold = parts.found["saturation"].arrays["threshold"]
    second = parts.found.get("second", Part("none")).arrays
    return Correction(
        flags=parts.array("flags", "flags", np.zeros(threshold.shape, np.uint8)),
        bias=parts.array("plane", "plane", NO_PLANE),
        reset=parts.array("reset", "planes", NO_GROUPS),
        coefficients=parts.array("polynomial", "coefficients", NO_CUBE),
        dark=parts.array("dark", "planes", NO_GROUPS),
        unused=parts.found["unused"].arrays["group"] if "unused" in parts.found else -1,
        reach=parts.found["grow"].arrays["reach"],
        profiles="profiles" in parts.found,
        second=tuple(second[name] for name in ("threshold", "bias", "nframes")) if second else (),
    )


def _find(tile: Tile, y0: int, y1: int, *, limit: np.ndarray) -> None:
    scratch = tile.scratch
    find_saturated_words(tile.raw, limit, scratch["saturation.first"], scratch["saturation.notes"], y0, y1)


def _levels(
    tile: Tile, y0: int, y1: int, *, bias: np.ndarray, rows: np.ndarray, columns: np.ndarray, find: Any
) -> None:
    decode_pixels(tile.raw, tile.data, bias, rows, columns)
    find(tile, y0, y1)


def _correct(tile: Tile, y0: int, y1: int, *, correction: Correction) -> None:
    correction.run(tile, tile.data, tile.groupdq, y0, y1, 0)
