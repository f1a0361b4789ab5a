"""white_light: the same columns in every integration, lost ones filled from the scout's spectrum."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tsostream.errors import ConfigError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.white_light import WhiteLight
from tsostream.testing.builders import make_info, make_measurement, make_templates


def setup(**parameters: Any) -> tuple[ExposureInfo, Any, np.ndarray]:
    info = make_info("NRS_BRIGHTOBJ")
    spectrum = np.linspace(100.0, 1000.0, info.nx)
    return info, bind(info, spectrum, np.full(info.nx, 10.0), **parameters), spectrum


def bind(info: ExposureInfo, spectrum: np.ndarray, error: np.ndarray, **parameters: Any) -> Any:
    """Bind to a spectrum, without shared noise."""
    templates = make_templates(info, np.random.default_rng(0))
    templates |= {
        "spectrum": spectrum,
        "spectrum_error": error,
        "columns_wavelength": np.linspace(1, 5, info.nx),
    }
    templates["column_covariance"] = np.zeros_like(templates["column_covariance"])
    return WhiteLight(**parameters).bind(Binding(info, templates=templates))


def block_of(info: ExposureInfo, flux: np.ndarray) -> Measurement:
    block = make_measurement(info, np.random.default_rng(0), len(flux), bad=0.0)
    block.spectra["flux"][:, 0] = flux
    block.spectra["own_err"][...] = 10.0
    return block


def test_sum_and_error_of_all_columns() -> None:
    info, step, spectrum = setup()
    flux = spectrum * np.array([[1.0], [0.98], [1.3]])
    (out,) = step.push(block_of(info, flux))
    np.testing.assert_allclose(out.columns["flux"][:, 0], flux.sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(out.columns["flux_err"][:, 0], 10.0 * np.sqrt(info.nx), rtol=1e-13)
    assert (out.columns["frac_filled"] == 0).all()


def test_lost_columns_do_not_bias_the_light_curve() -> None:
    info, step, spectrum = setup()
    level = np.array([1.0, 0.97, 1.02])
    flux = spectrum * level[:, None]
    flux[0, 5:9] = np.nan
    flux[1, ::7] = np.nan
    block = block_of(info, flux)
    block.spectra["own_err"][2, 0, 11] = np.nan
    (out,) = step.push(block)
    np.testing.assert_allclose(out.columns["flux"][:, 0], level * spectrum.sum(), rtol=1e-12)
    lost = np.isnan(flux)
    lost[2, 11] = True
    share = (lost * spectrum).sum(axis=1) / spectrum.sum()
    np.testing.assert_allclose(out.columns["frac_filled"][:, 0], share, rtol=1e-12)
    assert (out.columns["flux_err"][:, 0] > 10.0 * np.sqrt(lost.shape[1] - lost.sum(axis=1))).all()


def test_too_much_lost_is_nan() -> None:
    info, step, spectrum = setup(max_lost=0.1)
    flux = np.tile(spectrum, (2, 1))
    flux[1, -8:] = np.nan
    (out,) = step.push(block_of(info, flux))
    assert np.isnan(out.columns["flux"][:, 0]).tolist() == [False, True]


def test_nothing_may_be_lost_and_nothing_is() -> None:
    """max_lost = 0 keeps the integrations that are complete."""
    info, step, spectrum = setup(max_lost=0.0)
    flux = np.tile(spectrum, (2, 1))
    flux[1, 3] = np.nan
    (out,) = step.push(block_of(info, flux))
    assert out.columns["flux"][0, 0] == pytest.approx(spectrum.sum())
    assert np.isnan(out.columns["flux"][1, 0])


def test_a_dark_range_is_summed_where_it_is_complete() -> None:
    """Columns whose template is not positive cannot fill, but they can be added up."""
    info, _, _ = setup()
    step = bind(info, np.full(info.nx, -1.0), np.ones(info.nx), min_wavelength=1.0)
    flux = np.full((2, info.nx), 2.0)
    flux[1, 0] = np.nan
    (out,) = step.push(block_of(info, flux))
    assert out.columns["flux"][0, 0] == pytest.approx(2.0 * info.nx)
    assert np.isnan(out.columns["flux"][1, 0])


def test_range_in_wavelength_and_choice_by_signal() -> None:
    _, step, _ = setup(min_wavelength=2.0, max_wavelength=3.0)
    wave = np.linspace(1.0, 5.0, step.columns.size)
    np.testing.assert_array_equal(step.columns, (wave >= 2.0) & (wave <= 3.0))
    assert step.wavelength_range == (wave[step.columns].min(), wave[step.columns].max())
    _, by_signal, spectrum = setup(min_snr=50.0)
    np.testing.assert_array_equal(by_signal.columns, spectrum > 500.0)


def test_columns_do_not_follow_the_flux() -> None:
    """P9: an integration that is far brighter or fainter is summed over the same columns."""
    info, step, spectrum = setup()
    (out,) = step.push(block_of(info, spectrum * np.array([[1e-6], [1e3]])))
    np.testing.assert_allclose(out.columns["flux"][:, 0], spectrum.sum() * np.array([1e-6, 1e3]), rtol=1e-12)


def test_counts_and_background_are_those_of_the_chosen_columns() -> None:
    info, step, spectrum = setup(min_wavelength=2.0, max_wavelength=3.0)
    block = block_of(info, np.tile(spectrum, (2, 1)))
    counts = block.spectra["counts"][:, 0, step.columns].sum(axis=1)
    ground = block.spectra["background"][:, 0, step.columns].mean(axis=1)
    (out,) = step.push(block)
    names = ("n_jump", "n_saturated", "n_outlier", "n_bad")
    np.testing.assert_array_equal(np.stack([out.columns[name][:, 0] for name in names], axis=1), counts)
    np.testing.assert_allclose(out.columns["background"][:, 0], ground, rtol=1e-12)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"no column of the spectrum lies between white_light.min_wavelength=8\.0"
    ):
        setup(min_wavelength=8.0)
    info, _, _ = setup()
    with pytest.raises(ConfigError, match="covers nothing"):
        bind(info, np.full(info.nx, np.nan), np.ones(info.nx))


def test_noise_that_columns_share_is_added_once_for_their_sum() -> None:
    """Neighbouring columns with covariance c add 2 c for every pair, beside the columns' own errors."""
    info = make_info("NRS_BRIGHTOBJ")
    templates = make_templates(info, np.random.default_rng(0))
    covariance = np.zeros((1, 3))
    covariance[0, [0, 2]] = 4.0
    weights = np.zeros(info.frame_shape)
    weights[9] = 2.0
    templates |= {
        "spectrum": np.full(info.nx, 100.0),
        "spectrum_error": np.ones(info.nx),
        "columns_wavelength": np.linspace(1, 5, info.nx),
        "column_covariance": covariance,
        "sum_weights": weights,
    }
    step = WhiteLight().bind(Binding(info, templates=templates))
    (out,) = step.push(block_of(info, np.full((1, info.nx), 100.0)))
    shared = (info.nx - 1) * 2 * 4.0 * 2.0**2
    assert out.columns["flux_err"][0, 0] ** 2 == pytest.approx(100.0 * info.nx + shared)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_lost": 1.0}, r"white_light\.max_lost = 1\.0.*< 1"),
        ({"min_wave": 1.0}, r"did you mean min_wavelength\?"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(WhiteLight, parameters)


def test_apertures_sum_the_same_columns_and_orders_their_own() -> None:
    info = make_info("NRS_BRIGHTOBJ")
    templates = make_templates(info, np.random.default_rng(0))
    spectrum, n = np.linspace(100.0, 1000.0, info.nx), info.nx
    templates |= {
        "keys": ((1, 0), (1, 1), (2, 0)),
        "spectrum": np.stack([spectrum, spectrum, spectrum[::-1]]),
        "spectrum_error": np.stack([np.full(n, 100.0), np.full(n, 10.0), np.full(n, 100.0)]),
        "columns_wavelength": np.stack([np.linspace(1, 5, n)] * 3),
        "sum_weights": [np.ones(info.frame_shape)] * 3,
        "column_covariance": np.zeros((1, 1)),
    }
    first, second, other = WhiteLight().bind(Binding(info, templates=templates)).series
    np.testing.assert_array_equal(first.columns, spectrum > 300.0)
    np.testing.assert_array_equal(second.columns, first.columns)
    np.testing.assert_array_equal(other.columns, spectrum[::-1] > 300.0)
    limits = WhiteLight(min_wavelength={1: 2.0, 2: 3.0}, max_wavelength=4.0).bind(
        Binding(info, templates=templates)
    )
    assert [round(one.wavelength_range[0]) for one in limits.series] == [2, 2, 3]


def test_the_official_sum_takes_what_is_there_over_the_limits_of_the_first_order() -> None:
    info, _, spectrum = setup()
    templates = make_templates(info, np.random.default_rng(0))
    templates |= {
        "keys": ((1, 0), (2, 0)),
        "spectrum": np.stack([spectrum] * 2),
        "spectrum_error": np.ones((2, info.nx)),
        "columns_wavelength": np.stack([np.linspace(1, 5, info.nx)] * 2),
        "sum_weights": [np.ones(info.frame_shape)] * 2,
    }
    step = WhiteLight(scope="segment", min_wavelength={1: 2.0, 2: 4.0}).bind(
        Binding(info, templates=templates)
    )
    block = block_of(info, np.tile(spectrum, (2, 1)))
    block.spectra["flux"][0, 0, -5:] = np.nan
    block.spectra["flux"][1] = np.nan
    spectra = {name: np.repeat(array, 2, axis=1) for name, array in block.spectra.items()}
    (out,) = step.push(dataclasses.replace(block, keys=((1, 0), (2, 0)), spectra=spectra))
    wave = np.linspace(1, 5, info.nx)
    expected = spectrum[:-5][wave[:-5] >= 2.0].sum()
    np.testing.assert_allclose(out.columns["flux"], [[expected, expected], [0.0, 0.0]])
