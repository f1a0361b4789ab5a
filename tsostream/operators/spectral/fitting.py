"""Optimal extraction (Horne 1986, PASP 98, 609) and the joint fit of profile and background.

Both are linear in the data of a column: ``F = sum h D`` with weights fixed for the exposure but for lost pixels, so
that no weight follows the flux. Optimal extraction takes the background that was measured beside the trace and weighs
the pixels of the aperture by profile over variance; the joint fit solves for the amplitude of the profile and the
background of the column, a constant or a polynomial across, at once, which takes out what a column shares (1/f noise)
as well as its pixels allow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tsostream.integration.payload import Rate
from tsostream.operators.aperture.lists import Aperture, Sums
from tsostream.operators.aperture.sums import flat_planes
from tsostream.operators.spectral.fit_columns import fit_columns

__all__ = ["ProfileFit", "fit_block", "linear_weights"]

#: a normal matrix worse than this has no solution
WORST_CONDITION = 1e10


class ProfileFit(NamedTuple):
    """What the fit knows beyond the `Aperture`.

    Attributes
    ----------
    inverse : float32 [source]
        Inverse variance of the aperture's pixels in one integration, from the template [1/output unit squared].
    ground_inverse : float32 [background]
        Likewise for the background pixels.
    place, ground_place : float32 [source], [background]
        Distance across from the trace, in units of half the frame.
    level : float64 [column]
        Background of the template [input unit].
    terms : int
        Terms of the background: 0 where it is measured beside the trace, 1 for a constant, 2 and 3 for polynomials.
    clip : float
        Pixels further than this from the model are left out, the worst first [sigma].
    """

    inverse: np.ndarray
    ground_inverse: np.ndarray
    place: np.ndarray
    ground_place: np.ndarray
    level: np.ndarray
    terms: int
    clip: float


def fit_block(block: Rate, aperture: Aperture, fit: ProfileFit, box: Sums) -> Sums:
    """Fit a block whose box sums are known; those are left as they are.

    Parameters
    ----------
    block
        Slopes.
    aperture, fit
        Pixels and weights.
    box
        From `tsostream.operators.aperture.sums.measure_block` with the same aperture.
    """
    out = Sums(
        *(array if name in ("fit", "fit_error") else array.copy() for name, array in box._asdict().items())
    )
    fit_columns(flat_planes(block), aperture, fit, out)
    return out


def linear_weights(aperture: Aperture, fit: ProfileFit, shape: tuple[int, int]) -> np.ndarray:
    """Weight of every pixel [y, x] in the amplitude of its column, when none is lost.

    For optimal extraction the background's weight is spread evenly over the background pixels.

    Returns
    -------
    float64 [y, x]
        In the output's unit per input unit.
    """
    weights = np.zeros(shape[0] * shape[1])
    # a pixel without a gain has no scale either; it has no weight, so nothing comes of it
    scale = np.nan_to_num(aperture.scale, nan=0.0)
    for c in range(aperture.start.size - 1):
        source = slice(aperture.start[c], aperture.start[c + 1])
        ground = slice(aperture.ground_start[c], aperture.ground_start[c + 1])
        pixel, beside = aperture.pixel[source], aperture.ground[ground]
        inverse = np.where(aperture.lost_always[source], 0.0, fit.inverse[source].astype(float))
        terms = [aperture.shape[source, 0].astype(float)]
        terms += [fit.place[source].astype(float) ** j for j in range(fit.terms)]
        basis, each = np.stack(terms, axis=1), inverse
        if fit.terms:
            place = fit.ground_place[ground].astype(float)
            wide = np.stack([np.zeros(place.size), *(place**j for j in range(fit.terms))], axis=1)
            basis, each = np.concatenate([basis, wide]), np.concatenate([inverse, fit.ground_inverse[ground]])
        normal = basis.T @ (basis * each[:, None])
        size = np.sqrt(np.diag(normal))
        if not (size > 0).all():
            continue
        scaled = normal / np.outer(size, size)
        if np.linalg.cond(scaled) > WORST_CONDITION:
            continue
        first = np.linalg.solve(scaled, np.eye(len(size))[0]) / size / size[0]
        h = each * (basis @ first)
        inside = h[: pixel.size]
        weights[pixel] += inside * scale[pixel]
        if fit.terms:
            weights[beside] += h[pixel.size :] * scale[beside]
        elif aperture.subtract and beside.size:
            weights[beside] -= inside.sum() / beside.size * scale[beside]
    return weights.reshape(shape)
