"""Twins of the steps that come before the jump search (spec stage 1, sections 4, 6, 8, 10, 11, 13, 14)."""

from __future__ import annotations

import struct

import numpy as np

from tsostream.integration import dq

__all__ = [
    "decode_words",
    "evaluate_polynomial",
    "flag_last_group",
    "flag_mask",
    "grow_box",
    "saturate",
    "subtract_numbered",
    "subtract_static",
]


def decode_words(raw: np.ndarray) -> np.ndarray:
    """Read big-endian 16-bit words with BZERO = 32768, one by one.

    Parameters
    ----------
    raw : uint16 [...]
        Words whose bytes are those of the file.

    Returns
    -------
    data : float64 [...]
        Samples [DN].
    """
    values = [struct.unpack(">h", word.tobytes())[0] + 32768 for word in raw.ravel()]
    return np.array(values, np.float64).reshape(raw.shape)


def flag_mask(groupdq: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of the mask's bits only DO_NOT_USE enters the groups.

    Parameters
    ----------
    groupdq : uint8 [integration, group, y, x]
        Before.
    mask : uint32 [y, x]
        Reference.
    """
    out = groupdq.copy()
    for i, g, y, x in np.ndindex(out.shape):
        out[i, g, y, x] |= int(mask[y, x]) & dq.DO_NOT_USE
    return out


def grow_box(mask: np.ndarray, reach: int) -> np.ndarray:
    """Binary dilation by a box of ``2 * reach + 1`` pixels (bool [y, x])."""
    out = mask.copy()
    for y, x in zip(*np.nonzero(mask), strict=True):
        out[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
    return out


def saturate(
    data: np.ndarray,
    groupdq: np.ndarray,
    level: np.ndarray,
    bits: np.ndarray,
    bias: np.ndarray,
    *,
    reach: int,
    nframes: int,
    use_readpatt: bool,
) -> np.ndarray:
    """Flag saturation, group after group: forward, backward, second group.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Raw samples [DN].
    groupdq : uint8 [integration, group, y, x]
        Before.
    level, bits : [y, x]
        The saturation reference's SCI and DQ.
    bias : [y, x]
        Superbias [DN].
    reach
        n_pix_grow_sat.
    nframes
        NFRAMES.
    use_readpatt
        Whether the backward pass and the second-group rule run.
    """
    out = groupdq.copy()
    unchecked = ((bits & dq.NO_SAT_CHECK) != 0) | np.isnan(level)
    threshold = np.where(unchecked, 65536.0, level.astype(np.float64))
    value = data.astype(np.float64)
    n, ngroups = data.shape[:2]
    frames = [[g * nframes + k for k in range(1, nframes + 1)] for g in range(ngroups)]
    for i in range(n):
        before = np.zeros(level.shape, bool)
        for g in range(ngroups):
            before |= value[i, g] >= threshold
            out[i, g][grow_box(before, reach)] |= dq.SATURATED
            out[i, g][value[i, g] <= 0] |= dq.AD_FLOOR | dq.DO_NOT_USE
        if not use_readpatt:
            continue
        if nframes > 1:
            for g in range(ngroups - 2, -1, -1):
                dilution = np.where(unchecked, 1.0, np.mean(frames[g]) / frames[g][-1])
                late = value[i, g] >= threshold * dilution
                late &= (out[i, g] & (dq.SATURATED | dq.DO_NOT_USE)) == 0
                late &= (out[i, g + 1] & dq.SATURATED) != 0
                out[i, g][grow_box(late, reach)] |= dq.DO_NOT_USE
        if ngroups > 2:
            first, second = value[i, 0], (data[i, 1] - data[i, 0]).astype(np.float64)
            base = bias.astype(np.float64)
            hit = (first - base) / np.mean(frames[0]) * frames[2][-1] + base < threshold
            hit &= second > (threshold - first) / nframes
            hit &= ((out[i, 2] & dq.SATURATED) != 0) & ((out[i, 1] & dq.SATURATED) == 0)
            out[i, 1][hit] |= dq.DO_NOT_USE
    return out


def subtract_static(data: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Subtract a plane, NaN counting as zero; float64 [integration, group, y, x]."""
    out = data.astype(np.float64)
    for i, g, y, x in np.ndindex(data.shape):
        if not np.isnan(plane[y, x]):
            out[i, g, y, x] -= float(plane[y, x])
    return out


def subtract_numbered(data: np.ndarray, planes: np.ndarray, first: int) -> np.ndarray:
    """Subtract the planes of the reference's integration of the same number, or of its last one.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    planes : float32 [member, group, y, x]
        Reference; NaN counts as zero; groups it does not have are not corrected.
    first
        Number in the exposure (1-based) of the first integration.
    """
    out = data.astype(np.float64)
    for i in range(data.shape[0]):
        zero_based = first - 1 + i
        member = zero_based if zero_based < len(planes) else len(planes) - 1
        for g in range(data.shape[1]):
            if g < planes.shape[1]:
                out[i, g] -= np.where(np.isnan(planes[member, g]), 0.0, planes[member, g].astype(np.float64))
    return out


def evaluate_polynomial(
    data: np.ndarray, groupdq: np.ndarray, coefficients: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the linearity polynomial as a sum of powers, and clean its coefficients as the spec says.

    Parameters
    ----------
    data : float32 [integration, group, y, x]
        Signal [DN].
    groupdq : uint8 [integration, group, y, x]
        Saturated samples stay as they are.
    coefficients : float32 [power, y, x]
        Reference, constant term first.
    bits : uint32 [y, x]
        The reference's DQ.

    Returns
    -------
    data : float64 [integration, group, y, x]
        Linearised.
    bits : uint32 [y, x]
        DQ with NO_LIN_CORR added.
    """
    out, flags = data.astype(np.float64), bits.copy()
    for y, x in np.ndindex(bits.shape):
        terms = [float(c) for c in coefficients[:, y, x]]
        if bits[y, x] & dq.NO_LIN_CORR:
            continue
        if any(np.isnan(term) for term in terms) or terms[1] == 0:
            flags[y, x] |= dq.NO_LIN_CORR
            continue
        for i, g in np.ndindex(data.shape[:2]):
            if not groupdq[i, g, y, x] & dq.SATURATED:
                value = float(data[i, g, y, x])
                out[i, g, y, x] = sum(term * value**power for power, term in enumerate(terms))
    return out, flags


def flag_last_group(groupdq: np.ndarray) -> np.ndarray:
    """DO_NOT_USE in the last of more than two groups."""
    out = groupdq.copy()
    if out.shape[1] > 2:
        out[:, -1] |= dq.DO_NOT_USE
    return out
