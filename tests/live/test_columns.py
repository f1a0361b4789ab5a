"""What a page is told about a run: decimated fairly, in bounded size, whatever the rows hold."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_builders import DETECTOR, EXPOSURE, measurement, schemas

from tsostream.live.columns import Series, allan_scatter, bin_bounds
from tsostream.live.picture import FINE, GROUPS, read_rows
from tsostream.live.store import Store
from tsostream.records import RowSchemas, to_batches
from tsostream.sinks import Output, spectra_path


def commit(output, first, count, *, change=lambda made: None, keys=((1, 0),), n_wave=16):
    lc, spectra = schemas(n_wave=n_wave)
    made = measurement(first, count, keys=keys, n_wave=n_wave)
    change(made)
    output.commit(*to_batches(made, RowSchemas(EXPOSURE, DETECTOR, lc, spectra)))


def written(out, rows, **options):
    n_wave = options.get("n_wave", 16)
    output = Output.create(out, *schemas(n_wave=n_wave, last_integration=rows))
    for first in range(1, rows + 1, 64):
        commit(output, first, min(64, rows + 1 - first), **options)
    output.finish("complete")
    store = Store(out)
    while store.poll():
        pass
    return store


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 600))
def test_bins_cover_everything_once(first, count, bins):
    bounds = bin_bounds(first, first + count, bins)
    assert (bounds[0], bounds[-1]) == (first, first + count)
    assert (np.diff(bounds) > 0).all()
    assert len(bounds) - 1 == min(bins, count)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(2, 120), st.integers(0, 5))
def test_decimation_loses_no_extreme(count, points, bad):
    rng = np.random.default_rng(count)
    lc, spectra = schemas()
    made = measurement(1, count)
    made.columns["flux"][:] *= 1 + 1e-3 * rng.standard_normal((count, 1))
    made.columns["flux"][rng.random(count) < 0.1 * bad] = np.nan
    batch = to_batches(made, RowSchemas(EXPOSURE, DETECTOR, lc, spectra))[0]
    series = Series()
    series.add(batch)
    drawn = series.decimated(-np.inf, np.inf, points)
    json.dumps(drawn, allow_nan=False)
    assert len(drawn["x"]) == min(points, count)
    flux = made.columns["flux"][:, 0]
    if not np.isfinite(flux).any():
        return
    relative = flux / np.nanmedian(flux)
    if drawn["raw"]:
        assert drawn["rows"] == count == len(drawn["flux"])
        np.testing.assert_allclose(np.array(drawn["flux"], float), relative, rtol=1e-8)
    else:
        low, high = (np.array(drawn[name], float) for name in ("low", "high"))
        assert np.nanmin(low) == pytest.approx(np.nanmin(relative), rel=1e-8)
        assert np.nanmax(high) == pytest.approx(np.nanmax(relative), rel=1e-8)
        mean = np.array(drawn["flux"], float)
        seen = np.isfinite(mean)
        assert (low[seen] <= mean[seen] * (1 + 1e-8)).all()
        assert (mean[seen] <= high[seen] * (1 + 1e-8)).all()


def test_only_what_is_in_sight_is_told(out):
    series = written(out, 300).series[1, 0]
    x = series.x
    assert x[0] == 0
    assert (series.clock, len(series)) == ("BMJD (TDB)", 300)
    drawn = series.decimated(x[100], x[120], 1000)
    assert drawn["rows"] == 21
    assert drawn["x"][0] == pytest.approx(x[100])
    assert series.decimated(x[-1] + 1, x[-1] + 2, 100)["rows"] == 0
    assert series.decimated(x[-1] + 1, x[-1] + 2, 100)["x"] == []


def test_errors_of_binned_points_shrink_with_the_root_of_their_number(out):
    series = written(out, 96 * 4).series[1, 0]
    binned = series.decimated(-np.inf, np.inf, 50)["binned"]
    assert len(binned["x"]) == 96
    np.testing.assert_allclose(binned["err"], 1e-3 / 2, rtol=1e-3)


def test_white_noise_falls_and_red_noise_does_not():
    rng = np.random.default_rng(2)
    white = 1 + 1e-3 * rng.standard_normal(1 << 14)
    found = allan_scatter(white, np.full(len(white), 1e-3))
    assert found["size"][:4] == [1, 2, 4, 8]
    ratio = np.array(found["measured"]) / np.array(found["expected"])
    np.testing.assert_allclose(ratio[:6], 1, atol=0.12)
    red = white + 1e-3 * np.cumsum(rng.standard_normal(len(white))) / 4
    found = allan_scatter(red, np.full(len(white), 1e-3))
    assert found["measured"][8] > 5 * found["expected"][8]
    # neither a transit nor a flare counts
    white[4000:9000] -= 0.02
    white[100] = 7
    found = allan_scatter(white, np.full(len(white), 1e-3))
    assert found["measured"][0] == pytest.approx(1000, rel=0.05)
    assert allan_scatter(white[:5], white[:5])["size"] == []


def test_rows_without_times_are_counted(out):
    def without(made):
        made.times.values[:] = np.nan

    series = written(out, 70, change=without).series[1, 0]
    assert series.clock == "integration"
    np.testing.assert_array_equal(series.x, np.arange(1, 71))


def test_a_lost_or_wrong_time_does_not_go_backwards(out):
    def lost(made):
        made.times.values[10:12] = np.nan
        made.times.values[20] -= 1

    series = written(out, 64, change=lost).series[1, 0]
    assert (np.diff(series.x) >= 0).all()
    assert np.isfinite(series.x).all()


def transit(made):
    deep = np.where((made.first - 1 + np.arange(len(made.present))) % 200 < 120, 1.0, 0.98)
    made.columns["flux"][:] *= deep[:, None]
    made.spectra["flux"][:] = (1000 * deep[:, None, None]) * (1 + np.arange(made.spectra["flux"].shape[2]))
    made.spectra["flux"][5, 0, 3] = np.nan


def cells(drawn):
    shape = drawn["columns"], len(drawn["edges"]) - 1
    raw = np.frombuffer(base64.b64decode(drawn["cells"]), np.uint8).reshape(shape)
    return np.where(raw == 255, np.nan, drawn["low"] + raw / 254 * (drawn["high"] - drawn["low"]))


def test_spectra_as_a_picture(out):
    store = written(out, 400, change=transit)
    picture = store.pictures[1, 0]
    drawn = picture.drawn(1, 400, 400, residual=False)
    found = cells(drawn)
    assert found.shape == (400, 16)
    assert np.count_nonzero(np.isnan(found)) == 7  # one lost pixel per batch, and nothing else
    step = np.nanmean(found[:120]) - np.nanmean(found[120:200])
    assert step == pytest.approx(2.0, abs=0.05)
    np.testing.assert_allclose(drawn["numbers"], np.arange(1, 401))
    flat = cells(picture.drawn(1, 400, 400, residual=True))
    np.testing.assert_allclose(flat[np.isfinite(flat)], 0, atol=0.01)


def test_many_wavelengths_are_put_together_and_a_lost_one_does_not_show(out):
    store = written(out, 64, change=transit, n_wave=500)
    drawn = store.pictures[1, 0].drawn(1, 64, 64, residual=False)
    found = cells(drawn)
    assert 0.8 * GROUPS < found.shape[1] <= GROUPS
    # more light, narrower groups
    assert np.diff(drawn["edges"])[0] > 3 * np.diff(drawn["edges"])[-1]
    assert np.isfinite(found).all()
    assert abs(found[5] - found[6]).max() < 0.02


def test_a_part_of_a_long_run_is_read_again_from_the_file(out):
    rows = 2600
    store = written(out, rows, change=transit)
    picture = store.pictures[1, 0]
    assert picture._overview.size > 1
    assert rows < FINE
    drawn = picture.drawn(1001, 1200, 400, residual=False)
    np.testing.assert_allclose(drawn["numbers"], np.arange(1001, 1201))
    found = cells(drawn)
    assert np.nanmean(found[:120]) - np.nanmean(found[120:]) == pytest.approx(2.0, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(-5, 260), st.integers(0, 200))
def test_batches_of_a_range_are_found(tmp_path_factory, first, count):
    out = tmp_path_factory.getbasetemp() / "ranges.arrow"
    if not out.exists():
        written(out, 250)
    numbers = [
        number
        for batch in read_rows(spectra_path(out), first, first + count)
        for number in batch["integration"].to_pylist()
    ]
    wanted = set(range(max(1, first), min(250, first + count) + 1))
    assert wanted <= set(numbers)
    assert len(numbers) <= len(wanted) + 128
    assert read_rows(out.with_name("nothing"), 1, 2) == []


def test_orders_and_apertures_are_kept_apart(out):
    output = Output.create(out, *schemas(last_integration=20))
    commit(output, 1, 20, keys=((1, 0), (2, 0)))
    output.finish("complete")
    store = Store(out)
    while store.poll():
        pass
    assert list(store.series) == list(store.pictures) == [(1, 0), (2, 0)]
    assert len(store.series[2, 0]) == 20
    assert store.series[2, 0].column("flux")[0] - store.series[1, 0].column("flux")[0] == pytest.approx(0.1)
    status = store.status()
    assert (status["rows"], status["total"], status["state"]) == (20, 20, "complete")
    assert status["keys"] == [[1, 0], [2, 0]]


def test_another_run_under_the_name_begins_anew(out):
    store = written(out, 100)
    assert store.figures.rows == 100
    with Output.create(out, *schemas(last_integration=7), overwrite=True) as output:
        commit(output, 1, 7)
        output.finish("complete")
    while store.poll():
        pass
    assert (len(store.series[1, 0]), store.pictures[1, 0].rows) == (7, 7)
    assert (store.status()["rows"], store.status()["run"]) == (7, 2)
