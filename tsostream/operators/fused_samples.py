"""From the words of the file to corrected samples: kernels that do in one walk what several steps say.

Rows are walked end to end, a few hundred pixels at a time through all groups: their references stay in the level-1
cache, and rows of narrow frames, each so short that calls would cost more than work, are taken together.
"""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq
from tsostream.operators.jit import kernel

__all__ = ["correct_samples", "decode_pixels", "find_saturated_words", "grow_first", "second_groups"]

SAT = np.uint8(dq.SATURATED)
DNU = np.uint8(dq.DO_NOT_USE)
FLOOR = np.uint8(dq.AD_FLOOR | dq.DO_NOT_USE)
#: pixels that are taken through all groups before the next ones, when they are corrected and when only looked at
CHUNK, LOOK = 1024, 512


@kernel
def _words(raw, words, count):
    """Make samples [DN] of big-endian signed words; uint16 [count]."""
    for x in range(count):
        words[x] = ((raw[x] >> np.uint16(8)) | (raw[x] << np.uint16(8))) ^ np.uint16(0x8000)


@kernel
def _extremes(words, start, stop, most, least, found, top):
    """Largest and smallest sample of a few pixels; returns whether one saturates or is at the floor."""
    width = stop - start
    most[:width] = 0
    least[:width] = 65535
    for g in range(words.shape[0]):
        source = words[g, start:stop]
        for x in range(width):
            word = np.uint16((source[x] >> np.uint16(8)) | (source[x] << np.uint16(8)))
            most[x] = max(most[x], word ^ np.uint16(0x8000))
            least[x] = min(least[x], word ^ np.uint16(0x8000))
    found[:] = words.shape[0]
    some = False
    for x in range(width):
        some |= most[x] > top[x]
    for x in range(width):
        some |= least[x] == np.uint16(0)
    return some


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
    n, ngroups, ny, nx = raw.shape
    words, found, top = raw.reshape(n, ngroups, ny * nx), first.reshape(n, ny * nx), limit.reshape(ny * nx)
    most, least = np.empty(LOOK, np.uint16), np.empty(LOOK, np.uint16)
    for i in range(n):
        notes[i, y0:y1, 0] = 0
        for start in range(y0 * nx, y1 * nx, LOOK):
            stop = min(start + LOOK, y1 * nx)
            if not _extremes(words[i], start, stop, most, least, found[i, start:stop], top[start:stop]):
                continue  # most pixels never saturate, nor reach the floor
            for x in range(stop - start):
                if least[x] == np.uint16(0):
                    notes[i, (start + x) // nx, 0] = 1
                if most[x] <= top[start + x]:
                    continue
                for g in range(ngroups):
                    word = words[i, g, start + x]
                    word = np.uint16((word >> np.uint16(8)) | (word << np.uint16(8))) ^ np.uint16(0x8000)
                    if word > top[start + x]:
                        found[i, start + x] = g
                        break


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
def _evaluate(value, coefficients, start, width, result):
    """Polynomial of ``value`` by Horner's rule in float32 (``result``, another array, is written).

    Up to three powers a loop: more arrays than that, and the compiler finds no vector instructions.
    """
    k = coefficients.shape[0] - 1
    stop = start + width
    top = coefficients[k, start:stop]
    for x in range(width):
        result[x] = top[x]
    while k >= 3:
        a = coefficients[k - 1, start:stop]
        b, c = coefficients[k - 2, start:stop], coefficients[k - 3, start:stop]
        for x in range(width):
            one = result[x] * value[x] + a[x]
            two = one * value[x] + b[x]
            result[x] = two * value[x] + c[x]
        k -= 3
    while k >= 1:
        a = coefficients[k - 1, start:stop]
        for x in range(width):
            result[x] = result[x] * value[x] + a[x]
        k -= 1


@kernel
def _store_saturated(value, result, full, group, current, out):
    """Store samples less their dark, if there is one; saturated ones as they were before the linearity.

    To put them into ``result`` first would be a masked store (see `tsostream.operators.sorting.sort_lanes`). ``group``
    is an int16 like ``full``: compared with a longer word the loop would take twice as long.
    """
    if current.size > 0:
        for x in range(out.size):
            before, after = value[x], result[x]
            out[x] = (before if full[x] <= group else after) - current[x]
    else:
        for x in range(out.size):
            before, after = value[x], result[x]
            out[x] = before if full[x] <= group else after


@kernel
def _set_flags(flags, grown, floor, words, g, lowest, unused, width, out):
    """Write the flags of one group: the mask, saturation, the A/D floor, a group that is not to be used."""
    every = DNU if g == unused else np.uint8(0)
    if lowest <= g:
        for x in range(width):
            out[x] = (flags[x] | every) | (SAT if grown[x] <= np.int16(g) else np.uint8(0))
    else:
        for x in range(width):
            out[x] = flags[x] | every
    if floor:
        for x in range(width):
            out[x] |= FLOOR if words[x] == np.uint16(0) else np.uint8(0)


@kernel
def _note(notes, i, first, last):
    """Whether a sample of some rows is 0, and their first saturated group."""
    floor, lowest = notes[i, first, 0], notes[i, first, 1]
    for y in range(first + 1, last + 1):
        floor |= notes[i, y, 0]
        lowest = min(lowest, notes[i, y, 1])
    return floor, lowest


@kernel
def _take_levels(value, start, stop, along_x, along_y):
    """Subtract the levels of the reference pixels from pixels ``start <= pixel < stop`` of rows end to end."""
    nx, at = along_x.size, start
    while at < stop:
        y = at // nx
        end = min(stop, (y + 1) * nx)
        part, columns = value[at - start : end - start], along_x[at - y * nx : end - y * nx]
        level = along_y[y]
        for x in range(part.size):
            part[x] = (part[x] - columns[x]) - level
        at = end


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
    n, ngroups, ny, nx = raw.shape
    pixels, first, offset = ny * nx, y0 * nx, top * nx
    sources, outs = raw.reshape(n, ngroups, pixels), data.reshape(n, ngroups, data.shape[2] * nx)
    marks, saturated = groupdq.reshape(n, ngroups, data.shape[2] * nx), grown.reshape(n, pixels)
    masks, zeros = flags.reshape(pixels), bias.reshape(bias.size)
    resets = reset.reshape(reset.shape[0], reset.shape[1], reset.shape[2] * reset.shape[3])
    darks = dark.reshape(dark.shape[0], dark.shape[1], dark.shape[2] * dark.shape[3])
    powers = coefficients.reshape(coefficients.shape[0], coefficients.shape[1] * coefficients.shape[2])
    words = np.empty(CHUNK, np.uint16)
    value, result = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    nothing = np.empty(0, np.float32)
    for i in range(n):
        early, late = min(number + i - 1, reset.shape[0] - 1), min(number + i - 1, dark.shape[0] - 1)
        for start in range(first, y1 * nx, CHUNK):
            stop = min(start + CHUNK, y1 * nx)
            width, low, high = stop - start, start - offset, stop - offset
            floor, lowest = _note(notes, i, start // nx, (stop - 1) // nx)
            mask, full = masks[start:stop], saturated[i, start:stop]
            for g in range(ngroups):
                out = outs[i, g, low:high]
                _words(sources[i, g, start:stop], words, width)
                _set_flags(mask, full, floor, words, g, lowest, unused, width, marks[i, g, low:high])
                if zeros.size > 0:
                    zero = zeros[start:stop]
                    for x in range(width):
                        value[x] = np.float32(words[x]) - zero[x]
                else:
                    for x in range(width):
                        value[x] = np.float32(words[x])
                if g < resets.shape[1]:
                    plane = resets[early, g, start:stop]
                    for x in range(width):
                        value[x] -= plane[x]
                if along_x.shape[0] > 0:
                    _take_levels(value, start, stop, along_x[i, g], along_y[i, g])
                if powers.shape[0] > 0:
                    _evaluate(value, powers, start, width, result)
                else:
                    result[:width] = value[:width]
                current = darks[late, g, start:stop] if g < darks.shape[1] else nothing
                if lowest <= g:
                    _store_saturated(value, result, full, np.int16(g), current, out)
                elif current.size > 0:
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
