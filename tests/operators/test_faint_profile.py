"""Columns that have hardly any light are fitted with the profile of their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from tsostream.operators.aperture import geometry
from tsostream.operators.base import Binding
from tsostream.operators.extract_1d import Extract1d
from tsostream.operators.spectral.faint import faint_profile
from tsostream.testing.builders import make_info, make_rate

NY, NX, LIT = 24, 160, 90
TRACE = 11.3 + 0.01 * np.arange(NX)
NOISE = 2.0
ROWS = np.arange(NY)[:, None]


def profile() -> np.ndarray:
    shape = np.exp(-0.5 * ((ROWS - TRACE) / 1.3) ** 2)
    return shape / shape.sum(axis=0)


def template(rng: np.random.Generator, faint: float) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum, and its image with the noise of a template of 16 integrations."""
    light = np.where(np.arange(NX) < LIT, 3000.0, faint)
    return light, profile() * light + rng.normal(0, NOISE / 4, (NY, NX))


def test_the_profile_is_that_of_the_neighbours() -> None:
    _, image = template(np.random.default_rng(1), 0.0)
    weight = geometry.box_weights(TRACE, 8.0, NY)
    found = faint_profile(image, np.full(image.shape, NOISE / 4), TRACE, weight)
    # one column of noise in a million has five sigma
    assert found.columns[LIT:].all()
    assert not found.columns[:LIT].any()
    np.testing.assert_allclose((found.shape[0] * weight).sum(axis=0)[LIT:], 1.0)
    assert not found.shape[:, :, :LIT].any()
    # as well as rows about a sloping trace can be told by whole pixels
    assert np.abs(found.shape[0] - profile())[:, LIT:].max() < 0.1
    first, second = geometry.derivatives(found.shape[0], 0)
    np.testing.assert_array_equal(found.shape[1:], [first, second])


def test_without_any_light_there_is_none() -> None:
    rng = np.random.default_rng(2)
    weight = geometry.box_weights(TRACE, 8.0, NY)
    found = faint_profile(rng.normal(0, 1, (NY, NX)), np.ones((NY, NX)), TRACE, weight)
    assert not found.columns.any()
    assert not found.shape.any()


@pytest.mark.parametrize("method", ["optimal", "profile"])
@pytest.mark.parametrize("faint", [0.0, 1.0])
def test_faint_columns_have_a_flux(method: str, faint: float) -> None:
    """None is missing, the mean is that of the box, and so is the light that is there; the scatter is less."""
    rng = np.random.default_rng(3)
    light, image = template(rng, faint)
    info = make_info("NRS_BRIGHTOBJ", level="calints", ny=NY, nx=NX)
    variance = np.full(info.frame_shape, NOISE**2, np.float32)
    templates = {"image": image.astype(np.float32), "scatter": np.sqrt(variance), "variance": variance,
                 "covariance": np.zeros((3, 3)), "count": 16}  # fmt: skip
    step = Extract1d(extraction_type=["box", method], extract_width=8.0).bind(
        Binding(info, templates=templates)
    )
    block = make_rate(info, rng, 200, noise=0.0, bad=0.0)
    block.data[...] = profile() * light + rng.normal(0, NOISE, block.data.shape)
    block.var_poisson[...], block.var_rnoise[...] = 0.0, NOISE**2
    (out,) = step.push(block)
    flux, error = out.spectra["flux"][:, :, LIT + 10 :], out.spectra["flux_err"][:, :, LIT + 10 :]
    assert np.isfinite(flux).all()
    assert np.isfinite(error).all()
    mean, sigma = flux.mean(axis=0), error.mean(axis=0) / np.sqrt(200)
    assert np.abs((mean[1] - faint) / sigma[1]).max() < 4.5
    # the level of the template's background has the noise of its 16 integrations
    assert abs(mean[1].mean() - faint) < 3 * error[:, 1].mean() / np.sqrt(16 * mean.shape[1])
    scatter = flux.std(axis=0)
    assert np.median(scatter[1] / scatter[0]) < 0.9
    assert np.median(scatter[1] / error[:, 1].mean(axis=0)) == pytest.approx(1.0, abs=0.05)
