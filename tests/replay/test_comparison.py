"""What moved is found, whatever it is, and told rightly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError, InputError
from tsostream.replay.baseline import machine, read_baseline, write_baseline
from tsostream.replay.case import Case, Tolerance, find_cases, load_case
from tsostream.replay.comparison import compare
from tsostream.replay.drawing import draw_moved

CASE = Case(folder=None, about="", simulate={}, files=(), refs=None, runs={})


def rows(count=12, waves=7):
    rng = np.random.default_rng(1)
    flux = 1e6 * (1 + 1e-3 * rng.standard_normal(count))
    return {
        "exposure_id": np.array(["jw01"] * count, dtype=object),
        "order": np.ones(count, np.int16),
        "aperture": np.zeros(count, np.int32),
        "integration": np.arange(1, count + 1),
        "present": np.ones(count, bool),
        "flux": flux,
        "flux_err": np.full(count, 1000.0),
        "x": 1e-3 * rng.standard_normal(count),
        "width_x": np.full(count, np.nan),
        "n_jump": rng.integers(0, 5, count).astype(np.int32),
        "spectra.flux": rng.normal(1000, 10, (count, waves)).astype(np.float32),
        "spectra.dq": np.zeros((count, waves), np.uint32),
    }


def changed(name, change):
    new = {key: value.copy() for key, value in rows().items()}
    change(new[name])
    return new


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_rows_are_the_same(exact):
    outcome = compare(CASE, rows(), rows(), exact=exact)
    assert (outcome.moved, outcome.failed) == ((), False)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["flux", "flux_err", "spectra.flux"]), st.integers(0, 11), st.sampled_from([-1, 1]))
def test_twenty_ppm_in_one_value_are_found(name, row, sign):
    def change(values):
        values[row] *= 1 + sign * 20e-6

    for exact in (True, False):
        (one,) = compare(CASE, rows(), changed(name, change), exact=exact).moved
        assert (one.column, one.verdict, one.first) == (name, "moved", row + 1)
        assert one.ppm == pytest.approx(20 * sign, rel=0.1)
    if name == "flux":
        assert one.sigma == pytest.approx(20e-6 * 1e6 / 1000, rel=0.01)


def test_a_last_bit_is_a_regression_only_where_bits_must_be_the_same():
    def change(values):
        values[3] = np.nextafter(values[3], np.inf)

    new = changed("flux", change)
    (one,) = compare(CASE, rows(), new, exact=True).moved
    assert (one.verdict, one.values, one.first) == ("moved", 1, 4)
    outcome = compare(CASE, rows(), new, exact=False)
    assert (outcome.moved[0].verdict, outcome.failed) == ("within tolerance", False)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("n_jump", lambda values: values.__setitem__(5, values[5] + 1)),
        ("present", lambda values: values.__setitem__(5, False)),
        ("exposure_id", lambda values: values.__setitem__(5, "jw02")),
        ("spectra.dq", lambda values: values.__setitem__((5, 2), 1)),
        ("flux", lambda values: values.__setitem__(5, np.nan)),
        ("width_x", lambda values: values.__setitem__(5, 1.0)),
    ],
)
def test_flags_names_and_lost_values_have_no_tolerance(name, change):
    outcome = compare(CASE, rows(), changed(name, change), exact=False)
    assert [(one.column, one.first, one.failed) for one in outcome.moved] == [(name, 6, True)]


def test_tolerances_of_the_recipe():
    def change(values):
        values += 2.0

    loose = Case(None, "", {}, (), None, {}, {"flux": Tolerance(absolute=3.0)})
    assert not compare(loose, rows(), changed("flux", change), exact=False).failed
    assert compare(loose, rows(), changed("flux", change), exact=True).failed
    assert compare(CASE, rows(), changed("flux", change), exact=False).failed


def test_rows_and_columns_that_are_gone_or_new():
    fewer = {name: values[:9] for name, values in rows().items()}
    (one,) = compare(CASE, rows(), fewer, exact=True).moved
    assert (one.column, one.verdict, one.values, one.first) == ("rows", "gone", 3, 10)
    (one,) = compare(CASE, fewer, rows(), exact=True).moved
    assert (one.column, one.verdict, one.values, one.first) == ("rows", "new", 3, 10)
    without = {name: values for name, values in rows().items() if name != "x"}
    (one,) = compare(CASE, rows(), without, exact=False).moved
    assert (one.column, one.verdict, one.failed) == ("x", "gone", True)
    (one,) = compare(CASE, without, rows(), exact=False).moved
    assert (one.column, one.verdict) == ("x", "new")
    wider = {**rows(), "spectra.flux": np.zeros((12, 9), np.float32)}
    assert compare(CASE, rows(), wider, exact=False).failed


def test_the_order_of_rows_does_not_matter():
    turned = {name: values[::-1].copy() for name, values in rows().items()}
    assert compare(CASE, rows(), turned, exact=True).moved == ()


def test_baselines_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "run.arrow"
    write_baseline(path, rows())
    first = path.read_bytes()
    write_baseline(path, rows())
    assert path.read_bytes() == first
    again, made_on = read_baseline(path)
    assert made_on == machine()
    assert compare(CASE, rows(), again, exact=True).moved == ()
    assert "numba" in machine()
    with pytest.raises(InputError, match="make it with --update"):
        read_baseline(tmp_path / "nothing.arrow")
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(path)


def test_a_picture_of_what_moved(tmp_path):
    def change(values):
        values[5:] *= 1.01

    new = changed("flux", change)
    outcome = compare(CASE, rows(), new, exact=True)
    assert draw_moved(tmp_path / "moved.png", "case/run", outcome, rows(), new)
    assert (tmp_path / "moved.png").read_bytes()[:4] == b"\x89PNG"
    assert not draw_moved(
        tmp_path / "same.png", "", compare(CASE, rows(), rows(), exact=True), rows(), rows()
    )
    assert not (tmp_path / "same.png").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("runs: {a: {}}", "simulate or files"),
        ("input: {simulate: {exp_type: X}, files: [a]}\nruns: {a: {}}", "one of them"),
        ("input: {simulate: {exp_type: X}}", "there are no runs"),
        ("input: {simulate: {exp_type: X}}\nruns: {a: {from: b}, b: {}}", "run a is from b"),
        ("input: {simulate: {exp_type: X}}\nruns: {a: {}}\ntolerances: {flux: many}", "tolerance of flux"),
        ("input: {simulate: {exp_type: X}, seed: 3}\nruns: {a: {}}\nspeed: 3", r"unknown keys \['speed'\]"),
    ],
)
def test_recipes_that_make_no_sense(tmp_path, text, message):
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_case(tmp_path)
    with pytest.raises(ConfigError):
        find_cases([tmp_path])


def test_cases_of_the_repository(cases_folder):
    cases = find_cases([cases_folder])
    modes = {case.simulate["exp_type"] for case in cases}
    assert modes == {
        "NRS_BRIGHTOBJ", "NRC_TSGRISM", "NIS_SOSS", "MIR_LRS-SLITLESS", "NRC_TSIMAGE", "MIR_IMAGE",
    }  # fmt: skip
    for case in cases:
        recipes = case.runs.values()
        scopes = {(recipe.get("from") is not None, recipe.get("parity")) for recipe in recipes}
        assert scopes == {(False, None), (False, "jwst"), (True, None), (True, "jwst")}
        for run in case.runs:
            path = case.baseline(run)
            assert path.stat().st_size < 100_000, path
            old, _ = read_baseline(path)
            assert np.isfinite(old["flux"]).all()
            assert not math.isnan(old["flux_err"][0])
    with pytest.raises(ConfigError, match="there is no case here"):
        find_cases([cases_folder / "nirspec_bots" / "nothing"])
