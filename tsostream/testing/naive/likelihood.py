"""Twin of the likelihood fit: dense matrices, every drop tried out by fitting again (spec stage 1, 21.11)."""

from __future__ import annotations

import numpy as np

from tsostream.integration import dq

__all__ = ["fit_likelihood", "read_statistics"]


def read_statistics(reads: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean time, number of reads and variance-weighted time of each group (paper I, equations 4 and 11)."""
    mean, number, weighted = [], [], []
    for times in reads:
        n = len(times)
        mean.append(sum(times) / n)
        number.append(n)
        weighted.append(sum((2 * n + 1 - 2 * (k + 1)) * t for k, t in enumerate(times)) / n**2)
    return np.array(mean), np.array(number, float), np.array(weighted)


def _covariance(
    reads: list[np.ndarray], photons: float, read2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of the differences, photon part and read part (papers' equations 28 and 29), and time steps."""
    mean, number, weighted = read_statistics(reads)
    step = np.diff(mean)
    n = len(step)
    photon, read = np.zeros((n, n)), np.zeros((n, n))
    for j in range(n):
        photon[j, j] = photons * (weighted[j] + weighted[j + 1] - 2 * mean[j]) / step[j] ** 2
        read[j, j] = read2 * (1 / number[j] + 1 / number[j + 1]) / step[j] ** 2
        if j + 1 < n:
            scale = step[j] * step[j + 1]
            photon[j, j + 1] = photon[j + 1, j] = photons * (mean[j + 1] - weighted[j + 1]) / scale
            read[j, j + 1] = read[j + 1, j] = -read2 / number[j + 1] / scale
    return photon, read, step


def _fit(
    rates: np.ndarray, used: np.ndarray, photon: np.ndarray, read: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Slope, chi-squared, error and the two variances from the used differences.

    Links between used differences only: a chain that is cut has independent parts.
    """
    keep = np.flatnonzero(used)
    inverse = np.linalg.inv((photon + read)[np.ix_(keep, keep)])
    ones = np.ones(len(keep))
    c, b = ones @ inverse @ ones, ones @ inverse @ rates[keep]
    weights = inverse @ ones / c
    chi2 = rates[keep] @ inverse @ rates[keep] - b * b / c
    parts = [weights @ one[np.ix_(keep, keep)] @ weights for one in (photon, read)]
    return b / c, chi2, float(np.sqrt(1 / c)), *parts


def fit_likelihood(
    data: np.ndarray,
    flags: np.ndarray,
    pixeldq: int,
    gain: float,
    readnoise: float,
    dark: float,
    reads: list[np.ndarray],
    *,
    zero: float | None = None,
    thresholds: tuple[float, float] = (20.25, 23.8),
) -> tuple[float, float, float, float, int, float]:
    """Fit one ramp.

    Parameters
    ----------
    data, flags : [group]
        Signal [DN] and flags.
    pixeldq
        Static flags.
    gain, readnoise, dark
        e-/DN, noise of a difference of two reads [DN], average dark current.
    reads
        Times of the reads of each group [s].
    zero
        Zero frame [DN], the first read of the first group.
    thresholds
        Gain of chi-squared for one and for two differences.

    Returns
    -------
    slope, err, var_poisson, var_rnoise, bits, margin
        The last: how near the closest decision was to its threshold or to another choice.
    """
    signal = data.astype(np.float32)
    dirty = flags.astype(int)
    if zero is not None:
        n = len(reads[0])
        first = (signal[0] * np.float32(n) - np.float32(zero)) / np.float32(n - 1)
        signal = np.concatenate([[np.float32(zero), first], signal[1:]]).astype(np.float32)
        dirty = np.concatenate([dirty[:1], dirty])
        reads = [reads[0][:1], reads[0][1:], *reads[1:]]
    number = read_statistics(reads)[1]
    photon, read, step = _covariance(reads, 1.0, readnoise**2 / 2)
    rates = np.diff(signal).astype(float) / step
    used = (dirty[1:] == 0) & (dirty[:-1] == 0)
    bits = int(pixeldq)
    lost = sum(int(value) & (dq.DO_NOT_USE | dq.SATURATED) != 0 for value in flags)
    bits |= dq.DO_NOT_USE if lost == len(flags) else 0
    for name in (dq.SATURATED, dq.JUMP_DET):
        bits |= name if any(int(value) & name for value in flags) else 0
    if not used.any():
        return np.nan, np.nan, np.nan, np.nan, bits, np.inf
    guess = max(float(np.median(rates)), 0.0) / gain
    slope, chi2, *_ = _fit(rates, used, photon * guess, read)
    margin = np.inf
    turn = 0
    while used.sum() >= 2 and (turn == 0 or used.sum() > 3):
        turn += 1
        choices = []
        for j in range(len(used)):
            if used[j]:
                choices.append((0, [j]))
            if j + 1 < len(used) and number[j + 1] > 1 and used[j] and used[j + 1] and used.sum() > 2:
                choices.append((1, [j, j + 1]))
        scored = []
        for kind, out in choices:
            rest = used.copy()
            rest[out] = False
            if rest.any():
                left = _fit(rates, rest, photon * guess, read)
                scored.append((chi2 - left[1] - thresholds[kind], kind, out, left))
        scored.sort(key=lambda one: -one[0])
        margin = min(margin, abs(scored[0][0]))
        if len(scored) > 1 and scored[0][0] > 0:
            margin = min(margin, scored[0][0] - scored[1][0])
        if not scored[0][0] > 0:
            break
        used[scored[0][2]] = False
        bits |= dq.JUMP_DET
        slope, chi2 = scored[0][3][0], scored[0][3][1]
    level = (max(slope, 0.0) + dark) / gain
    value, _, err, poisson, rnoise = _fit(rates, used, photon * level, read)
    return value, err, poisson, rnoise, bits, float(margin)
