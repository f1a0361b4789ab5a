"""Twins of spectral extraction: the official box, the fits of the profile, the sums over columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsostream.integration import dq

__all__ = ["covered_fraction", "fit_column", "official_column", "sum_of_columns"]


def covered_fraction(pixel: int, low: float, high: float) -> float:
    """Part of a pixel that counts between inclusive limits (spec stages 2-3, B.8, "Profile")."""
    if low <= pixel <= high:
        return 1.0
    parts = [part for part in (pixel - low + 1, high - pixel + 1) if 0 < part < 1]
    return max(parts, default=0.0)


def official_column(
    image: np.ndarray,
    variance: np.ndarray,
    weight: np.ndarray,
    mask: np.ndarray | None,
    kind: str,
    order: int,
) -> dict[str, Any]:
    """Extract one column as the official step does (spec B.8), without smoothing.

    Parameters
    ----------
    image, weight, mask : float64 [cross]
        The column, aperture and background weights.
    variance : float64 [3, cross]
        Poisson, read noise, flat field.
    """
    n = len(image)
    y = np.linspace(-1, 1, n)
    level, effect = np.zeros(n), np.zeros(n)
    penalty = 1.0
    if mask is not None:
        used = [
            j
            for j in range(n)
            if mask[j] != 0 and np.isfinite(image[j]) and np.isfinite(variance[:, j].sum())
        ]
        if kind == "median":
            there = [image[j] for j in range(n) if mask[j] != 0 and not np.isnan(image[j])]
            level[:] = np.median(there) if there else np.nan
            penalty = 1.2
            for j in used:
                effect[j] = weight.sum() / len(used)
        elif used:
            basis = np.array([[y[j] ** i for i in range(order + 1)] for j in used])
            normal = basis.T @ basis
            if np.linalg.cond(normal) < 1e10:
                inverse = np.linalg.inv(normal)
                coefficients = inverse @ (basis.T @ image[used])
                level = sum(c * y**i for i, c in enumerate(coefficients))
                moments = np.array([(weight * y**i).sum() for i in range(order + 1)])
                for j in used:
                    effect[j] = sum(
                        y[j] ** a * inverse[a, b] * moments[b]
                        for a in range(order + 1)
                        for b in range(order + 1)
                    )
    flux = npixels = ground = 0.0
    own = np.zeros(3)
    for j in range(n):
        if not np.isfinite(image[j] - level[j]):
            continue
        flux += (image[j] - level[j]) * weight[j]
        npixels += weight[j]
        ground += level[j] * weight[j]
        own += [v * weight[j] ** 2 if weight[j] and not np.isnan(v) else 0.0 for v in variance[:, j]]
    shared = (
        np.array(
            [
                sum(v[j] * effect[j] ** 2 for j in range(n) if effect[j] and not np.isnan(v[j]))
                for v in variance
            ]
        )
        * penalty**2
    )
    return {
        "flux": np.nan if npixels < 1e-8 else flux,
        "variance": own + shared,
        "ground": ground,
        "ground_variance": shared,
        "npixels": npixels,
    }


def fit_column(
    value: np.ndarray,
    inverse: np.ndarray,
    spread: np.ndarray,
    basis: np.ndarray,
    error: np.ndarray,
    clip: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Weighted least squares of one column that drops the worst pixel until all lie within ``clip``.

    Parameters
    ----------
    value, inverse, spread : float64 [pixel]
        Data, fixed weights, and the variance pixels are judged by.
    basis : float64 [pixel, term]
        Profile, then powers of the place.
    error : float64 [pixel]
        Uncertainty of the profile.

    Returns
    -------
    coefficients, kept, weights
        Weights of the pixels in the amplitude; None without a solution.
    """
    kept = np.ones(len(value), bool)
    dropped = 0
    while True:
        if len(value) <= basis.shape[1]:
            return None
        b, w = basis[kept], inverse[kept]
        normal = b.T @ (b * w[:, None])
        if not (np.diag(normal) > 0).all():
            return None
        solution = np.linalg.solve(normal, b.T @ (w * value[kept]))
        if dropped >= max(1, len(value) // 3):
            break
        slack = spread + (solution[0] * error) ** 2
        far = np.where(kept, (value - basis @ solution) ** 2 / slack, 0.0)
        if far.max() <= clip**2:
            break
        kept[int(np.argmax(far))] = False
        dropped += 1
    weights = np.zeros(len(value))
    weights[kept] = np.linalg.solve(normal, np.eye(len(solution))[0]) @ (b * w[:, None]).T
    return solution, kept, weights


def sum_of_columns(
    flux: np.ndarray, error: np.ndarray, lost: np.ndarray, spectrum: np.ndarray, max_lost: float
) -> tuple[float, float, float]:
    """Sum of some columns of one integration, its variance, and the part of its light that was filled.

    Parameters
    ----------
    flux, error, lost, spectrum : float64 [column]
        Measured flux, its error, the part of each that was filled, and the template.
    """
    there = np.isfinite(flux) & np.isfinite(error)
    whole = spectrum.sum()
    missing = (spectrum * np.where(there, lost, 1.0)).sum()
    fraction = missing / whole if whole > 0 else float(not there.any())
    if not there.any():
        return np.nan, np.nan, fraction
    fill = 1.0
    if not there.all():
        cover = spectrum[there].sum()
        fill = whole / cover if cover > 0 and whole - cover <= max_lost * whole else np.nan
    return flux[there].sum() * fill, (error[there] ** 2).sum() * fill**2, fraction


def is_lost(data: float, variance: float, bits: int) -> bool:
    """Whether a pixel cannot be used."""
    return not np.isfinite(data) or not variance >= 0 or bool(bits & dq.DO_NOT_USE)
