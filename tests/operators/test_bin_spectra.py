"""bin_spectra: whole columns by their wavelength, lost ones filled, errors with what the columns share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.operators.aperture.covariance import excess_variance
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.bin_spectra import BinSpectra, BoundBinSpectra, describe_bins, read_edges
from tsostream.operators.spectral.columns import ColumnBins, bin_columns, shared_variance
from tsostream.testing.builders import make_info, make_measurement, make_templates
from tsostream.testing.naive.extraction import sum_of_columns

INFO = make_info("NRS_BRIGHTOBJ")


def bind(seed: int = 0, **parameters: Any) -> BoundBinSpectra:
    return BinSpectra(**parameters).bind(
        Binding(INFO, templates=make_templates(INFO, np.random.default_rng(seed)))
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bad=st.sampled_from([0.0, 0.1, 0.6]), count=st.integers(1, 12))
def test_agrees_with_its_twin(seed: int, bad: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    step = bind(seed, bins=f"N={count}")
    block = make_measurement(INFO, rng, 3, bad=bad)
    (out,) = step.push(block)
    members = step.bins[0]
    for i in range(block.count):
        for b in range(count):
            column = members.column[members.start[b] : members.start[b + 1]]
            share = members.spectrum[members.start[b] : members.start[b + 1]]
            spectra = {name: block.spectra[name][i, 0, column] for name in ("flux", "own_err", "lost")}
            flux, variance, lost = sum_of_columns(
                spectra["flux"], spectra["own_err"], spectra["lost"], share, step_max_lost()
            )
            error = np.sqrt(variance + step.excess[0, b])
            found = [out.bins[name][i, 0, b] for name in ("flux", "flux_err", "frac_filled")]
            np.testing.assert_allclose(found, [flux, error, lost], rtol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bad=st.sampled_from([0.0, 0.1, 0.6]), dark=st.booleans())
def test_everything_the_kernel_writes(seed: int, bad: float, dark: bool) -> None:
    rng = np.random.default_rng(seed)
    spectra = make_measurement(INFO, rng, 2, bad=bad).spectra
    size = spectra["flux"].shape[2]
    spectra["background"][rng.random(spectra["background"].shape) < bad / 2] = np.nan
    start = np.array([0, 1, 1, 9, 40], np.int32)
    column = rng.permutation(size)[:40].astype(np.int32)
    share = np.zeros(40) if dark else rng.uniform(0, 5, 40)
    out = bin_columns(spectra, 0, ColumnBins(start, column, share, 0.3))
    for i in range(2):
        for b in range(4):
            place = slice(start[b], start[b + 1])
            at = {name: array[i, 0, column[place]] for name, array in spectra.items() if array.ndim >= 3}
            given_ = at["flux"], at["own_err"], at["lost"], share[place], 0.3
            flux, variance, lost = sum_of_columns(*given_)
            there = np.isfinite(at["flux"]) & np.isfinite(at["own_err"])
            parts = []
            for name in ("flux_var_poisson", "flux_var_rnoise"):
                error = np.where(there, np.sqrt(np.where(there, at[name], 0.0)), np.nan)
                parts.append(sum_of_columns(at["flux"], error, *given_[2:])[1])
            known = np.isfinite(at["background"]) & np.isfinite(at["background_err"])
            count = int(known.sum())
            level = at["background"][known].sum() / count if count else np.nan
            spread = np.sqrt((at["background_err"][known] ** 2).sum()) / count if count else np.nan
            found = [
                a[i, b]
                for a in (
                    out.flux, out.variance, out.lost, out.var_poisson, out.var_rnoise, out.ground, out.ground_error
                )
            ]  # fmt: skip
            np.testing.assert_allclose(found, [flux, variance, lost, *parts, level, spread], rtol=1e-11)
            np.testing.assert_array_equal(out.counts[i, b], at["counts"].sum(axis=0))
            assert out.dq[i, b] == np.bitwise_or.reduce(at["dq"][there].astype(np.uint32), initial=0)


def step_max_lost() -> float:
    return BinSpectra().max_lost


def test_bins_add_up_to_the_spectrum_and_keep_a_transit() -> None:
    step = bind(bins="R=20", min_snr=0.0)
    block = make_measurement(INFO, np.random.default_rng(3), 2, bad=0.0)
    block.spectra["flux"][1] = 0.99 * block.spectra["flux"][0]
    (out,) = step.push(block)
    members = np.unique(step.bins[0].column)
    assert members.size == step.bins[0].column.size
    total = block.spectra["flux"][:, 0, members].sum(axis=1)
    np.testing.assert_allclose(np.nansum(out.bins["flux"][:, 0], axis=1), total, rtol=1e-12)
    depth = out.bins["flux"][1, 0] / out.bins["flux"][0, 0]
    np.testing.assert_allclose(depth[np.isfinite(depth)], 0.99, rtol=1e-12)


def test_lost_columns_do_not_bias_a_bin() -> None:
    step = bind(bins="N=4")
    template = np.nan_to_num(np.asarray(make_templates(INFO, np.random.default_rng(0))["spectrum"]))
    block = make_measurement(INFO, np.random.default_rng(3), 1, bad=0.0)
    block.spectra["flux"][...] = 1.07 * template
    whole = step.push(block)[0].bins["flux"]
    block.spectra["flux"][0, 0, 10] = np.nan
    out = step.push(block)[0].bins
    np.testing.assert_allclose(out["flux"], whole, rtol=1e-12)
    assert (out["frac_filled"] > 0).sum() >= 1


def test_edges_by_resolving_power_by_number_and_from_files(tmp_path: Path) -> None:
    edges = bind(bins="R=50", min_wavelength=1.0, max_wavelength=4.0).edges[1]
    assert edges[0, 0] == 1.0
    assert edges[-1, 1] == pytest.approx(4.0)
    width = np.diff(edges, axis=1)[:-1, 0]
    np.testing.assert_allclose(edges[:-1, 0] / width, 50.0, rtol=1e-9)
    np.testing.assert_array_equal(edges[1:, 0], edges[:-1, 1])
    number = bind(bins="N=7", min_wavelength=1.0, max_wavelength=4.5).edges[1]
    np.testing.assert_allclose(np.diff(number, axis=1), 0.5)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("# low high\n1.0 1.5\n\n2.0, 3.0 # gap between\n")
    np.testing.assert_array_equal(bind(bins=str(pairs)).edges[1], [[1.0, 1.5], [2.0, 3.0]])
    one = tmp_path / "edges.txt"
    one.write_text("1\n2\n4\n")
    np.testing.assert_array_equal(read_edges(one), [[1, 2], [2, 4]])


def test_a_bin_without_columns_is_nan_and_told(tmp_path: Path) -> None:
    file = tmp_path / "bins.txt"
    file.write_text("1.0 2.0\n8.0 9.0\n")
    step = bind(bins=str(file))
    assert "1 of the wavelength bins hold no column" in step.notes[0]
    (out,) = step.push(make_measurement(INFO, np.random.default_rng(0), 2, bad=0.0))
    assert np.isfinite(out.bins["flux"][:, 0, 0]).all()
    assert np.isnan(out.bins["flux"][:, 0, 1]).all()


def test_orders_have_bins_of_their_own() -> None:
    """Orders with fewer bins are padded with NaN; apertures of one order share theirs."""
    templates = make_templates(INFO, np.random.default_rng(0))
    spectrum = np.asarray(templates["spectrum"])
    templates |= {
        "keys": ((1, 0), (1, 1), (2, 0)),
        "spectrum": np.stack([spectrum] * 3),
        "spectrum_error": np.stack([np.ones(spectrum.size)] * 3),
        "columns_wavelength": np.stack(
            [np.linspace(1, 3, spectrum.size)] * 2 + [np.linspace(1, 1.5, spectrum.size)]
        ),
        "sum_weights": [templates["sum_weights"]] * 3,
    }
    step = BinSpectra(bins="R=10").bind(Binding(INFO, templates=templates))
    assert len(step.edges[2]) < len(step.edges[1]) == step.count
    block = make_measurement(INFO, np.random.default_rng(0), 2, bad=0.0)
    spectra = {name: np.repeat(array, 3, axis=1) for name, array in block.spectra.items()}
    (out,) = step.push(dataclasses.replace(block, keys=templates["keys"], spectra=spectra))
    assert np.isfinite(out.bins["flux"][:, :2]).all()
    assert np.isnan(out.bins["flux"][:, 2, len(step.edges[2]) :]).all()
    facts = describe_bins(step, templates["keys"], np.arange(spectrum.size) * 0.1)
    assert set(facts["bin_edges"]) == {"1", "2"}
    times = facts["bin_dt_eff_s"]["1"]
    assert (np.diff(times) > 0).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, 30), length=st.integers(1, 18))
def test_shared_noise_of_a_bin_is_that_of_the_whole_frame(seed: int, first: int, length: int) -> None:
    """Looking at the bin's own columns gives what all columns give."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(12, 48))
    covariance = rng.normal(size=(9, 41)) ** 2
    covariance += covariance[::-1, ::-1]
    chosen = np.zeros(48, bool)
    chosen[first : first + length] = True
    expected = excess_variance(weights * chosen, covariance)
    assert shared_variance(weights, chosen, covariance) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        ("R=0", "expected a positive number"),
        ("N=2.5", "expected a positive number"),
        ("N=x", "expected a positive number"),
        ("/no/such/file", "cannot be read"),
    ],
)
def test_what_is_no_bin_is_refused(bins: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(BinSpectra, {"bins": bins})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 x\n", "line 1"),
        ("1 2 3\n", "two wavelengths a line"),
        ("2 1\n", "below the last one"),
        ("", "expected two"),
    ],
)
def test_files_that_hold_no_bins_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bins.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build_operator(BinSpectra, {"bins": str(file)})


def test_bins_beside_the_spectrum_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bins.txt"
    file.write_text("8.0 9.0\n")
    with pytest.raises(ConfigError, match="no column of the spectrum lies in any of the bins"):
        bind(bins=str(file))
