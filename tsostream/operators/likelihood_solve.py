"""Tridiagonal least squares of neighbouring pixels side by side, and what dropping a difference would gain.

See `tsostream.operators.likelihood` for the model. Loops over lanes are simple and touch few arrays each: the compiler
finds vector instructions for no others.
"""

from __future__ import annotations

from tsostream.operators.jit import kernel

__all__ = ["LANES", "has_no_root", "search_drops", "slope_noise", "solve_lanes"]

#: pixels that are worked on side by side
LANES = 64
#: gains in chi-squared for which one difference, and two neighbouring ones, are dropped
ONE, TWO = 20.25, 23.8


@kernel
def solve_lanes(values, used, photon, read, covariance, low, high, inverse, parts, ones, rises, links, sums):
    """Solve the tridiagonal systems of lanes ``low <= lane < high``.

    ``photon`` is rate / gain and ``read`` the read variance (float64 [lane]). Written, float64 [difference, lane]: one
    over the pivots, links to the next difference over the pivots, C^-1 times ones, C^-1 times the differences; and
    ``sums`` (float64 [3, lane]): A, B, C, the differences' square and sum and the number's, in the metric C^-1.
    """
    n = values.shape[0]
    photon, read, link = photon[low:high], read[low:high], links[low:high]
    for k in range(n):
        own, one, rise = inverse[k, low:high], ones[k, low:high], rises[k, low:high]
        good, value = used[k, low:high], values[k, low:high]
        a, b = covariance[0, k], covariance[2, k]
        for x in range(own.size):
            own[x] = photon[x] * a + read[x] * b
        if k == 0:
            for x in range(own.size):
                one[x] = good[x]
            for x in range(own.size):
                rise[x] = value[x] if good[x] > 0.0 else 0.0
        else:
            part, last, last_rise = parts[k - 1, low:high], ones[k - 1, low:high], rises[k - 1, low:high]
            for x in range(own.size):
                own[x] -= part[x] * link[x]
            for x in range(own.size):
                one[x] = good[x] - part[x] * last[x]
            for x in range(own.size):
                rise[x] = (value[x] if good[x] > 0.0 else 0.0) - part[x] * last_rise[x]
        for x in range(own.size):
            own[x] = 1.0 / own[x]
        if k < n - 1:
            after, part = used[k + 1, low:high], parts[k, low:high]
            a, b = covariance[1, k], covariance[3, k]
            for x in range(own.size):
                link[x] = (photon[x] * a + read[x] * b) * good[x] * after[x]
            for x in range(own.size):
                part[x] = link[x] * own[x]
    square, total, number = sums[0, low:high], sums[1, low:high], sums[2, low:high]
    square[:] = 0.0
    total[:] = 0.0
    number[:] = 0.0
    for k in range(n - 1, -1, -1):
        own, one, rise = inverse[k, low:high], ones[k, low:high], rises[k, low:high]
        good, value = used[k, low:high], values[k, low:high]
        for x in range(own.size):
            one[x] *= own[x]
        for x in range(own.size):
            rise[x] *= own[x]
        if k < n - 1:
            part, last, last_rise = parts[k, low:high], ones[k + 1, low:high], rises[k + 1, low:high]
            for x in range(own.size):
                one[x] -= part[x] * last[x]
            for x in range(own.size):
                rise[x] -= part[x] * last_rise[x]
        for x in range(own.size):
            square[x] += rise[x] * (value[x] if good[x] > 0.0 else 0.0)
        for x in range(own.size):
            total[x] += one[x] * (value[x] if good[x] > 0.0 else 0.0)
        for x in range(own.size):
            number[x] += one[x]


@kernel
def _invert(inverse, parts, low, high, diagonal):
    """Write the diagonal of C^-1 (float64 [difference, lane])."""
    n = inverse.shape[0]
    diagonal[n - 1, low:high] = inverse[n - 1, low:high]
    for k in range(n - 2, -1, -1):
        own, part = inverse[k, low:high], parts[k, low:high]
        now, after = diagonal[k, low:high], diagonal[k + 1, low:high]
        for x in range(own.size):
            now[x] = own[x] + part[x] * part[x] * after[x]


@kernel
def _screen(used, shared, parts, ones, rises, sums, diagonal, rate, best, best_pair, off, before):
    """Largest gains of chi-squared by dropping one difference, and a pair, of every lane (``best, best_pair``)."""
    n = used.shape[0]
    number = sums[2]
    best[:] = 0.0
    best_pair[:] = 0.0
    for k in range(n):
        one, rise, good, own = ones[k], rises[k], used[k], diagonal[k]
        before[:] = off
        for x in range(LANES):
            off[x] = rise[x] - rate[x] * one[x]
        for x in range(LANES):
            width = own[x] - one[x] * one[x] / number[x]
            gain = off[x] * off[x] / width
            best[x] = gain if (gain > best[x]) & (good[x] > 0.0) else best[x]
        if k > 0 and shared[k - 1]:
            last, wide, part = ones[k - 1], diagonal[k - 1], parts[k - 1]
            for x in range(LANES):
                width = own[x] - one[x] * one[x] / number[x]
                other = wide[x] - last[x] * last[x] / number[x]
                across = -part[x] * own[x] - last[x] * one[x] / number[x]
                gain = (
                    before[x] * before[x] * width
                    - 2.0 * before[x] * off[x] * across
                    + off[x] * off[x] * other
                )
                gain /= width * other - across * across
                best_pair[x] = gain if gain > best_pair[x] else best_pair[x]


@kernel
def _drop_worst(used, lane, shared, parts, ones, rises, sums, diagonal):
    """Drop the difference, or pair, that lowers chi-squared most, if by more than the threshold.

    Returns whether one was dropped, and the rate without it.
    """
    n = used.shape[0]
    count = 0
    for k in range(n):
        count += used[k, lane] > 0.0
    if count < 2:
        return False, 0.0
    total = sums[2, lane]
    rate = sums[1, lane] / total
    best, place = -1.0, -1
    best_pair, place_pair = 0.0, -1
    before, width_before = 0.0, 1.0
    for k in range(n):
        gain, off, width = 0.0, 0.0, 1.0
        if used[k, lane] > 0.0:
            off = rises[k, lane] - rate * ones[k, lane]
            width = diagonal[k, lane] - ones[k, lane] * ones[k, lane] / total
            gain = off * off / width
            if gain > best:
                best, place = gain, k
        if k > 0 and shared[k - 1]:
            pair = max(gain, before * before / width_before)
            if used[k, lane] > 0.0 and used[k - 1, lane] > 0.0:
                pair = 0.0
                if count > 2:
                    across = (
                        -parts[k - 1, lane] * diagonal[k, lane] - ones[k - 1, lane] * ones[k, lane] / total
                    )
                    square = width_before * width - across * across
                    pair = before * before * width - 2.0 * before * off * across + off * off * width_before
                    pair /= square
            if pair > best_pair:
                best_pair, place_pair = pair, k - 1
        before, width_before = off, width
    one_better = best - ONE > best_pair - TWO
    if one_better and best > ONE:
        off = rises[place, lane] - rate * ones[place, lane]
        width = diagonal[place, lane] - ones[place, lane] * ones[place, lane] / total
        used[place, lane] = 0.0
        return True, (sums[1, lane] - off / width * ones[place, lane]) / total
    if not one_better and best_pair > TWO:
        k = place_pair
        first = rises[k, lane] - rate * ones[k, lane]
        second = rises[k + 1, lane] - rate * ones[k + 1, lane]
        width = diagonal[k, lane] - ones[k, lane] * ones[k, lane] / total
        width_next = diagonal[k + 1, lane] - ones[k + 1, lane] * ones[k + 1, lane] / total
        across = -parts[k, lane] * diagonal[k + 1, lane] - ones[k, lane] * ones[k + 1, lane] / total
        square = width * width_next - across * across
        a = (first * width_next - second * across) / square
        b = (second * width - first * across) / square
        used[k, lane] = 0.0
        used[k + 1, lane] = 0.0
        return True, (sums[1, lane] - a * ones[k, lane] - b * ones[k + 1, lane]) / total
    return False, 0.0


@kernel
def has_no_root(inverse, lane):
    """Whether the determinant is negative where the official step takes its root: without a gain it may be."""
    n, negative = inverse.shape[0], 0
    for k in range(n):
        negative += inverse[k, lane] < 0.0
        if k > 0 and ((k + 1) % 10 == 0 or k == n - 1) and negative % 2:
            return True
    return False


@kernel
def search_drops(values, used, photon, read, covariance, shared, found, lists, rows, sums):
    """Drop differences until none is worth it; ``found`` (float64 [lane]) receives the rates without them."""
    inverse, parts, ones, rises, diagonal = lists[0], lists[1], lists[2], lists[3], lists[4]
    links, best, best_pair = rows[0], rows[1], rows[2]
    solve_lanes(values, used, photon, read, covariance, 0, LANES, inverse, parts, ones, rises, links, sums)
    _invert(inverse, parts, 0, LANES, diagonal)
    for lane in range(LANES):
        found[lane] = sums[1, lane] / sums[2, lane]
    _screen(used, shared, parts, ones, rises, sums, diagonal, found, best, best_pair, rows[3], rows[4])
    for lane in range(LANES):
        if not (best[lane] > ONE or best_pair[lane] > TWO):
            continue
        for _ in range(values.shape[0]):
            dropped, rate = _drop_worst(used, lane, shared, parts, ones, rises, sums, diagonal)
            if not dropped:
                break
            found[lane] = rate
            left = 0
            for k in range(values.shape[0]):
                left += used[k, lane] > 0.0
            # of two or three that are left nobody can tell which one is good
            if left <= 3:
                break
            solve_lanes(
                values, used, photon, read, covariance, lane, lane + 1, inverse, parts, ones, rises, links, sums
            )  # fmt: skip
            _invert(inverse, parts, lane, lane + 1, diagonal)


@kernel
def slope_noise(ones, photon, read, covariance, sums, variances):
    """Variance of the slope from photons and from reading (``variances``: float64 [2, lane], written)."""
    n = ones.shape[0]
    photons, reads, number = variances[0], variances[1], sums[2]
    photons[:] = 0.0
    reads[:] = 0.0
    for k in range(n):
        one, after = ones[k], ones[min(k + 1, n - 1)]
        a, b, c, d = covariance[0, k], 2.0 * covariance[1, k], covariance[2, k], 2.0 * covariance[3, k]
        for lane in range(LANES):
            photons[lane] += one[lane] * (one[lane] * a + after[lane] * b)
        for lane in range(LANES):
            reads[lane] += one[lane] * (one[lane] * c + after[lane] * d)
    for lane in range(LANES):
        photons[lane] *= photon[lane] / (number[lane] * number[lane])
        reads[lane] *= read[lane] / (number[lane] * number[lane])
