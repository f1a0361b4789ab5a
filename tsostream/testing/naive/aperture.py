"""Twins of the measuring kernel (design section 5, "Lost pixels"; docstrings of the aperture's fields)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsostream.integration import dq

__all__ = ["measure_columns", "solve_system"]

#: pixels further from the template than 8 sigma + 15 % of it do not decide the position
FIT_SIGMA, FIT_PART = 8.0, 0.15
#: with fewer usable pixels in the sample, all are taken
FEWEST = 3


def solve_system(matrix: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solution of a linear system, and the diagonal of the inverse."""
    inverse = np.linalg.inv(matrix)
    return inverse @ vector, np.diag(inverse).copy()


def _ground(data: np.ndarray, variance: np.ndarray, good: np.ndarray, a: Any, c: int) -> tuple[float, float]:
    places = range(a.ground_start[c], a.ground_start[c + 1])
    if len(places) == 0:
        return np.nan, np.nan
    excess = {}
    for k in places:
        p = a.ground[k]
        if good[p]:
            scale = float(a.scale[p])
            excess[k] = (float(data[p] - a.ground_template[k]) * scale, float(variance[p]) * scale**2)
    sample = [value for k, (value, _) in excess.items() if a.ground_sampled[k]]
    if len(sample) < FEWEST:
        sample = [value for value, _ in excess.values()]
    if not sample:
        return np.nan, np.nan
    level = float(np.median(sample))
    # the level itself is known to about 1.25 sigma / sqrt(sample) only
    limit = a.ground_clip**2 * (1 + 1.6 / len(sample))
    kept = [
        (value, spread2)
        for k, (value, spread2) in excess.items()
        if max(abs(value - level) - float(a.ground_wing[k]), 0.0) ** 2 <= limit * spread2
    ]
    template = float(np.mean([float(a.ground_template[k]) * float(a.scale[a.ground[k]]) for k in places]))
    if not kept:
        return template + level, np.nan
    return template + float(np.mean([v for v, _ in kept])), sum(s for _, s in kept) / len(kept) ** 2


def _amplitudes(
    data: np.ndarray, good: np.ndarray, ground: np.ndarray, a: Any
) -> tuple[np.ndarray, np.ndarray]:
    fit, error = np.full(5, np.nan), np.full(5, np.nan)
    rows = [q for q, p in enumerate(a.fit_pixel) if good[p] and not np.isnan(ground[a.fit_column[q]])]
    if not rows:
        return fit, error
    p = a.fit_pixel[rows]
    value = data[p].astype(np.float64) - ground[a.fit_column[rows]] / a.scale[p].astype(np.float64)
    basis, weight = a.basis[rows].astype(np.float64), a.fit_weight[rows].astype(np.float64)
    kept = np.ones(len(rows), bool)
    for _ in range(2):
        used, share = basis[kept], weight[kept]
        normal = used.T @ (used * share[:, None])
        size = np.sqrt(np.diag(normal))
        if not (size > 0).all() or np.linalg.cond(normal / np.outer(size, size)) > 1e10:
            return np.full(5, np.nan), np.full(5, np.nan)
        n = basis.shape[1]
        fit[:n], diagonal = solve_system(normal, used.T @ (share * value[kept]))
        error[:n] = np.sqrt(diagonal)
        # one cosmic ray that nobody flagged would move the source in all columns
        model = basis @ fit[:n]
        with np.errstate(divide="ignore"):
            kept = np.abs(value - model) <= FIT_SIGMA / np.sqrt(weight) + FIT_PART * np.abs(model)
    return fit, error


def measure_columns(
    data: np.ndarray,
    poisson: np.ndarray,
    rnoise: np.ndarray,
    flat: np.ndarray | None,
    bits: np.ndarray,
    a: Any,
) -> dict[str, np.ndarray]:
    """Measure every column of every integration.

    Parameters
    ----------
    data, poisson, rnoise : float32 [integration, pixel]
        Slopes and variances.
    flat : float32 [integration, pixel] or None
        Flat-field variance.
    bits : uint32 [integration, pixel]
        DQ.
    a
        The `tsostream.operators.aperture.lists.Aperture`.

    Returns
    -------
    results : dict
        The fields of ``Sums`` by name.
    """
    n, columns = len(data), a.start.size - 1
    names = (
        "flux",
        "var_poisson",
        "var_rnoise",
        "var_flat",
        "error",
        "ground",
        "ground_variance",
        "npixels",
        "lost",
    )
    out: dict[str, np.ndarray] = {name: np.full((n, columns), np.nan) for name in names}
    out["dq"] = np.zeros((n, columns), np.uint32)
    out["counts"] = np.zeros((n, columns, 4), np.int32)
    out["fit"], out["fit_error"] = np.full((n, 5), np.nan), np.full((n, 5), np.nan)
    for i in range(n):
        with np.errstate(invalid="ignore"):
            total = poisson[i] + rnoise[i]
            good = np.isfinite(data[i]) & (total >= 0) & ((bits[i] & dq.DO_NOT_USE) == 0)
        for c in range(columns):
            pair = _ground(data[i], total, good, a, c) if a.subtract else (0.0, 0.0)
            out["ground"][i, c], out["ground_variance"][i, c] = pair
        out["fit"][i], out["fit_error"][i] = _amplitudes(data[i], good, out["ground"][i], a)
        amplitude = out["fit"][i, 0]
        ratio = (
            np.where(np.isfinite(out["fit"][i]), out["fit"][i], 0.0) / amplitude
            if amplitude > 0
            else np.eye(5)[0]
        )
        for c in range(columns):
            planes = (data[i], poisson[i], rnoise[i], None if flat is None else flat[i], bits[i], good)
            one = _column(*planes, ratio, a, c, out["ground"][i, c], out["ground_variance"][i, c])
            for name, value in one.items():
                out[name][i, c] = value
    return out


def _column(
    data: np.ndarray,
    poisson: np.ndarray,
    rnoise: np.ndarray,
    flat: np.ndarray | None,
    bits: np.ndarray,
    good: np.ndarray,
    ratio: np.ndarray,
    a: Any,
    c: int,
    ground: float,
    ground_variance: float,
) -> dict[str, Any]:
    place = np.arange(a.start[c], a.start[c + 1])
    p = a.pixel[place]
    w = a.weight[place].astype(np.float64)
    profile = a.shape[place].astype(np.float64) @ ratio
    use = good[p] & ~a.lost_always[place]
    missing = ~use
    full = (bits[p] & (dq.SATURATED | dq.OUTLIER)) == dq.SATURATED
    saturated = bool((missing & ~a.lost_always[place] & full).any())
    whole, cover = (w * profile).sum(), (w * profile)[use].sum()
    lost, fill = 0.0, 1.0
    if missing.any():
        lost = 1 - cover / whole if whole > 0 else 1.0
        fill = whole / cover if cover > 0 else 1.0
    fill /= 1 + _moved(w, a.shape[place].astype(np.float64), ratio, a)
    usable = bool(use.any()) and not saturated and lost <= a.max_lost and bool(np.isfinite(ground))
    flags = int(np.bitwise_or.reduce(bits[p] & (dq.SATURATED | dq.JUMP_DET | dq.OUTLIER), initial=0))
    if missing.any() and usable:
        flags |= dq.FLUX_ESTIMATED
    if not usable:
        flags |= dq.DO_NOT_USE
    scale = a.scale[p].astype(np.float64)

    def add(plane: np.ndarray) -> float:
        return float(((w * scale) ** 2 * plane[p])[use].sum()) * fill**2 if usable else np.nan

    flux = float((w * (data[p] * scale - ground))[use].sum()) * fill if usable else np.nan
    parts = add(poisson), add(rnoise), add(flat) if flat is not None else (0.0 if usable else np.nan)
    shared = ground_variance * (w[use].sum() * fill) ** 2
    filled = flux**2 * ((w * a.shape_error[place]) ** 2)[missing].sum()
    return {
        "flux": flux,
        "var_poisson": parts[0],
        "var_rnoise": parts[1],
        "var_flat": parts[2],
        "error": np.sqrt(sum(parts) + shared + filled),
        "dq": flags,
        "npixels": w[use].sum(),
        "lost": min(max(lost, 0.0), 1.0),
        "counts": [
            int(((bits[p] & dq.JUMP_DET) != 0).sum()),
            int(((bits[p] & dq.SATURATED) != 0).sum()),
            int(((bits[p] & dq.OUTLIER) != 0).sum()),
            int(missing.sum()),
        ],
    }


def _moved(w: np.ndarray, shape: np.ndarray, ratio: np.ndarray, a: Any) -> float:
    """Relative change of the light in the aperture by the shift, at most a twentieth."""
    nominal = (w * shape[:, 0]).sum()
    if nominal <= 0:
        return 0.0
    moved = 0.0
    if a.correct_across:
        moved += (w * shape[:, 1]).sum() * ratio[1]
    if a.correct_along:
        moved += (w * shape[:, 3]).sum() * ratio[3]
    return float(np.clip(moved / nominal, -0.05, 0.05))
