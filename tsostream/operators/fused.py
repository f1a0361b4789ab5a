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

from tsostream.integration import dq
from tsostream.operators.base import Part, RowPass
from tsostream.operators.fused_light import light_from_words
from tsostream.operators.jit import kernel
from tsostream.operators.tile import Tile

__all__ = [
    "Correction",
    "correct_samples",
    "decode_pixels",
    "find_saturated_words",
    "fuse",
    "fuse_levels",
    "grow_first",
    "second_groups",
]

SAT = np.uint8(dq.SATURATED)
DNU = np.uint8(dq.DO_NOT_USE)
FLOOR = np.uint8(dq.AD_FLOOR | dq.DO_NOT_USE)
#: columns that are taken through all groups before the next ones: their references stay in the level-1 cache
CHUNK = 512
#: in which order parts can be done in one walk
ORDER = (
    "decode", "flags", "saturation", "grow", "second", "unused", "plane", "reset", "levels", "profiles", "polynomial",
    "dark",
)  # fmt: skip


@kernel
def _words(raw, words, count):
    """Make samples [DN] of big-endian signed words; uint16 [count]."""
    for x in range(count):
        words[x] = ((raw[x] >> np.uint16(8)) | (raw[x] << np.uint16(8))) ^ np.uint16(0x8000)


@kernel
def find_saturated_words(raw, limit, first, notes, y0, y1):
    """Find the first saturated group of each pixel, and rows with samples at the A/D floor.

    Parameters
    ----------
    raw : uint16 [integration, group, y, x]
        Big-endian words as they stand in the file.
    limit : uint16 [y, x]
        The largest sample [DN] that is not saturated.
    first : int16 [integration, y, x]
        Index of the first saturated group, NGROUPS if none; written.
    notes : int16 [integration, y, 2]
        Written: 1 where some sample of the row is 0; `grow_first` writes the other.
    y0, y1 : int
        Rows.
    """
    n, ngroups, _, nx = raw.shape
    most, least = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint16)
    for i in range(n):
        for y in range(y0, y1):
            first[i, y] = ngroups
            floor = False
            for start in range(0, nx, CHUNK):
                stop = min(start + CHUNK, nx)
                width = stop - start
                most[:] = 0
                least[:] = 65535
                for g in range(ngroups):
                    source = raw[i, g, y, start:stop]
                    for x in range(width):
                        word = np.uint16((source[x] >> np.uint16(8)) | (source[x] << np.uint16(8)))
                        most[x] = max(most[x], word ^ np.uint16(0x8000))
                        least[x] = min(least[x], word ^ np.uint16(0x8000))
                found, top = first[i, y, start:stop], limit[y, start:stop]
                some = 0
                for x in range(width):
                    some += most[x] > top[x]
                for x in range(width):
                    floor |= least[x] == np.uint16(0)
                if some == 0:
                    continue  # most pixels never saturate
                for x in range(width):
                    if most[x] <= top[x]:
                        continue
                    for g in range(ngroups):
                        word = raw[i, g, y, start + x]
                        word = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8))) ^ np.uint16(0x8000)
                        if word > top[x]:
                            found[x] = g
                            break
            notes[i, y, 0] = floor


@kernel
def grow_first(first, grown, notes, ngroups, reach, y0, y1):
    """First saturated group of each pixel's neighbourhood (``grown``, int16), and of each row (``notes``)."""
    n, ny, nx = first.shape
    for i in range(n):
        for y in range(y0, y1):
            grown[i, y] = first[i, y]
            lowest = np.int16(ngroups)
            for near in range(max(0, y - reach), min(ny, y + reach + 1)):
                nearest, own = np.int16(ngroups), first[i, near]
                for x in range(nx):
                    nearest = min(nearest, own[x])
                if nearest == ngroups:
                    continue  # most rows have no saturated pixel
                lowest = min(lowest, nearest)
                for x in range(nx):
                    if own[x] < ngroups:
                        for k in range(max(0, x - reach), min(nx, x + reach + 1)):
                            grown[i, y, k] = min(grown[i, y, k], own[x])
            notes[i, y, 1] = lowest


@kernel
def decode_pixels(raw, data, bias, rows, columns):
    """Decode some pixels and subtract their bias; what `correct_samples` will find there again.

    Parameters
    ----------
    raw : uint16 [integration, group, y, x]
        Big-endian words.
    data : float32 [integration, group, y, x]
        Written at the pixels [DN].
    bias : float32 [y, x]
        Superbias [DN]; without rows: none.
    rows, columns : int32 [pixel]
        Which pixels.
    """
    for i in range(raw.shape[0]):
        for g in range(raw.shape[1]):
            source, target = raw[i, g], data[i, g]
            for k in range(rows.size):
                word = source[rows[k], columns[k]]
                word = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8))) ^ np.uint16(0x8000)
                value = np.float32(word)
                target[rows[k], columns[k]] = (
                    value - bias[rows[k], columns[k]] if bias.shape[0] > 0 else value
                )


@kernel
def _evaluate(value, coefficients, y, start, width, result):
    """Polynomial of ``value`` by Horner's rule in float32 (``result``, another array, is written).

    Up to three powers a loop: more arrays than that, and the compiler finds no vector instructions.
    """
    k = coefficients.shape[0] - 1
    stop = start + width
    top = coefficients[k, y, start:stop]
    for x in range(width):
        result[x] = top[x]
    while k >= 3:
        a = coefficients[k - 1, y, start:stop]
        b, c = coefficients[k - 2, y, start:stop], coefficients[k - 3, y, start:stop]
        for x in range(width):
            one = result[x] * value[x] + a[x]
            two = one * value[x] + b[x]
            result[x] = two * value[x] + c[x]
        k -= 3
    while k >= 1:
        a = coefficients[k - 1, y, start:stop]
        for x in range(width):
            result[x] = result[x] * value[x] + a[x]
        k -= 1


@kernel
def _set_flags(flags, grown, floor, words, g, lowest, unused, width, out):
    """Write the flags of one group: the mask, saturation, the A/D floor, a group that is not to be used."""
    every = DNU if g == unused else np.uint8(0)
    for x in range(width):
        out[x] = flags[x] | every
    if lowest <= g:
        for x in range(width):
            out[x] |= SAT if grown[x] <= g else np.uint8(0)
    if floor:
        for x in range(width):
            out[x] |= FLOOR if words[x] == np.uint16(0) else np.uint8(0)


@kernel
def correct_samples(
    raw, data, groupdq, flags, unused, grown, notes, bias, reset, along_x, along_y, coefficients, dark, number,
    y0, y1, top,
):  # fmt: skip
    """Decode samples and correct them: bias, reset, reference pixels, linearity, dark, in this order.

    Parameters
    ----------
    raw : uint16 [integration, group, y, x]
        Big-endian words as they stand in the file.
    data : float32 [integration, group, y, x]
        Corrected samples [DN], written; its first row is row ``top``.
    groupdq : uint8 [integration, group, y, x]
        Flags, written; as ``data``.
    flags : uint8 [y, x]
        Flags of all groups.
    unused : int
        Group that is not to be used; -1 for none.
    grown : int16 [integration, y, x]
        First saturated group including neighbours: from there on samples are not linearised.
    notes : int16 [integration, y, 2]
        Of each row: whether a sample is 0; first saturated group.
    bias : float32 [y, x]
        Without rows: nothing to subtract; so for all that follow.
    reset : float32 [member, group, y, x]
        May have fewer groups; the last member serves all later integrations.
    along_x, along_y : float [integration, group, x or y]
        Levels of the reference pixels.
    coefficients : float32 [power, y, x]
        Constant term first.
    dark : float32 [member, group, y, x]
        As ``reset``.
    number : int
        Number in the exposure (1-based) of the first integration.
    y0, y1, top : int
        Rows, and the one that ``data`` begins with.
    """
    n, ngroups, _, nx = raw.shape
    words = np.empty(CHUNK, np.uint16)
    value, result = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for i in range(n):
        early, late = min(number + i - 1, reset.shape[0] - 1), min(number + i - 1, dark.shape[0] - 1)
        for y in range(y0, y1):
            floor, lowest = notes[i, y, 0], notes[i, y, 1]
            for start in range(0, nx, CHUNK):
                stop = min(start + CHUNK, nx)
                width = stop - start
                mask, full = flags[y, start:stop], grown[i, y, start:stop]
                for g in range(ngroups):
                    source, out = raw[i, g, y, start:stop], data[i, g, y - top, start:stop]
                    _words(source, words, width)
                    _set_flags(
                        mask, full, floor, words, g, lowest, unused, width, groupdq[i, g, y - top, start:stop]
                    )
                    if bias.shape[0] > 0:
                        zero = bias[y, start:stop]
                        for x in range(width):
                            value[x] = np.float32(words[x]) - zero[x]
                    else:
                        for x in range(width):
                            value[x] = np.float32(words[x])
                    if reset.shape[0] > 0 and g < reset.shape[1]:
                        plane = reset[early, g, y, start:stop]
                        for x in range(width):
                            value[x] -= plane[x]
                    if along_x.shape[0] > 0:
                        level, columns = along_y[i, g, y], along_x[i, g, start:stop]
                        for x in range(width):
                            value[x] = (value[x] - columns[x]) - level
                    if coefficients.shape[0] > 0:
                        _evaluate(value, coefficients, y, start, width, result)
                        if lowest <= g:
                            for x in range(width):
                                result[x] = value[x] if full[x] <= g else result[x]
                    else:
                        result[:] = value
                    if dark.shape[0] > 0 and g < dark.shape[1]:
                        current = dark[late, g, y, start:stop]
                        for x in range(width):
                            out[x] = result[x] - current[x]
                    else:
                        for x in range(width):
                            out[x] = result[x]


@kernel
def second_groups(raw, groupdq, grown, notes, threshold, bias, nframes, y0, y1, top):
    """`tsostream.operators.saturation.flag_second_group`, from the words of the file, where a row needs it."""
    mean_first = (nframes + 1) / 2.0
    last_third = 3.0 * nframes
    for i in range(raw.shape[0]):
        for y in range(y0, y1):
            if notes[i, y, 1] > 2:
                continue
            for x in range(raw.shape[3]):
                if grown[i, y, x] != 2:
                    continue
                word, later = raw[i, 0, y, x], raw[i, 1, y, x]
                word = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8))) ^ np.uint16(0x8000)
                later = np.uint16((later >> np.uint16(8)) | (later << np.uint16(8))) ^ np.uint16(0x8000)
                start, level, b = np.float64(word), np.float64(threshold[y, x]), np.float64(bias[y, x])
                rise = np.float64(np.int64(later) - np.int64(word))
                if (start - b) / mean_first * last_third + b < level and rise > (level - start) / nframes:
                    groupdq[i, 1, y - top, x] |= DNU


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
