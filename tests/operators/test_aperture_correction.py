"""The aperture correction of NIRSpec for all columns at once, against a spline for each (spec stages 2-3, B.8)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline, interp1d

from tsostream.operators.source_level import _low_level
from tsostream.operators.spectral.correction import PHASE, ApertureCorrection


@pytest.mark.parametrize("backwards", [False, True])
def test_agrees_with_a_spline_for_each_column(backwards: bool) -> None:
    rng = np.random.default_rng(3)
    wave = np.linspace(0.6, 5.3, 12)[:: -1 if backwards else 1]
    size = np.sort(rng.uniform(1, 30, (6, 12)), axis=0)
    row = {
        "wavelength": wave,
        "size": size,
        "pixphase": np.linspace(0, 1, 5),
        "apcorr": rng.uniform(1, 2, (6, 12, 5)),
    }
    at, count = rng.uniform(0.3, 5.6, 200), rng.uniform(0, 35, 200)
    found = ApertureCorrection(row, by_phase=True).factors(at, count)
    order = np.argsort(wave)
    values = interp1d(row["pixphase"], row["apcorr"])(PHASE)[:, order]
    for k in range(at.size):
        if not wave.min() <= at[k] <= wave.max():
            assert found[k] == 1.0
            continue
        sizes = interp1d(wave, size)(at[k])
        spline = RectBivariateSpline(wave[order], sizes, values.T, kx=1, ky=1)
        assert found[k] == pytest.approx(float(spline(at[k], count[k])[0, 0]), rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_lower_quartile_is_that_of_numpy_to_the_last_bit(axis: int) -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(0, 3, (37, 23))
    image[rng.random(image.shape) < 0.3] = np.nan
    image[0, :], image[:, 0] = 1.5, 2.5
    expected = np.nanquantile(image, 0.25, axis=axis, keepdims=True)
    np.testing.assert_array_equal(_low_level(image, axis), expected)
