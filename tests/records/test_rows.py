import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from row_builders import DETECTOR, EXPOSURE, batches, measurement, schemas

from tsostream.errors import OperatorError
from tsostream.integration.dq import DO_NOT_USE
from tsostream.records import Quality, RowSchemas, to_batches

SOSS = ((2, 0), (1, 0), (1, 1))


def rows(found, *, kind="spectroscopy"):
    lc, spectra = schemas(kind=kind)
    return to_batches(found, RowSchemas(EXPOSURE, DETECTOR, lc, spectra))[:2]


def test_rows_are_sorted_by_integration_order_aperture():
    lc, spectra = batches(7, 3, keys=SOSS)
    expected = [(n, o, a) for n in (7, 8, 9) for o, a in ((1, 0), (1, 1), (2, 0))]
    for batch in (lc, spectra):
        found = zip(*(batch[name].to_pylist() for name in ("integration", "order", "aperture")), strict=True)
        assert list(found) == expected
    # the values go with their keys
    n, o, a = np.array(expected, dtype=float).T
    np.testing.assert_array_equal(lc["flux"].to_numpy(), 1e6 + n + (10 * o + a) / 100)
    flux = spectra["flux"].flatten().to_numpy().reshape(9, -1)
    np.testing.assert_array_equal(flux, np.float32(lc["flux"].to_numpy()[:, None] / 16 + np.arange(16)))


def test_what_was_not_measured_is_nan_or_zero_never_null():
    lc, spectra = batches(1, 4)
    assert lc.to_pydict()["exposure_id"] == [EXPOSURE] * 4
    assert np.isnan(lc["background"].to_numpy()).all()
    assert (lc["n_bad"].to_numpy() == 0).all()
    assert np.isnan(spectra["flux_err"].flatten().to_numpy()).all()
    for batch in (lc, spectra):
        batch.validate(full=True)
        for column in batch.columns:
            assert column.null_count == 0
            assert column.type.num_fields == 0 or column.flatten().null_count == 0


def test_nan_stays_nan_and_is_not_a_null():
    found = measurement(1, 2)
    found.columns["flux"][1] = np.nan
    found.spectra["flux"][0, 0, 3] = np.nan
    lc, spectra = rows(found)
    assert lc["flux"].null_count == 0
    assert np.isnan(lc["flux"][1].as_py())
    assert np.isnan(spectra["flux"][0].as_py()[3])


def test_missing_integrations_keep_key_and_times_only():
    found = measurement(1, 3)
    found.present[1] = False
    found.columns["n_jump"][:] = 5
    found.columns["quality"] = np.full((3, 1), int(Quality.READ_FAILED), np.uint32)
    lc, spectra = rows(found)
    row = lc.slice(1, 1).to_pylist()[0]
    assert (row["present"], row["integration"], row["n_jump"]) == (False, 2, 0)
    assert row["time_mjd_utc_mid"] == found.times.values[1, 1]
    assert np.isnan([row["flux"], row["x"], row["frac_filled"]]).all()
    missing = Quality.MISSING | Quality.NO_FLUX | Quality.NO_POSITION | Quality.READ_FAILED
    assert row["quality"] == missing
    assert lc["n_jump"].to_pylist() == [5, 0, 5]
    assert np.isnan(spectra["flux"][1].as_py()).all()
    assert set(spectra["dq"][1].as_py()) == {DO_NOT_USE}


@pytest.mark.parametrize(
    ("column", "value", "bits"),
    [
        ("flux", np.nan, Quality.NO_FLUX),
        ("frac_filled", 0.1, Quality.LOST_PIXELS),
        ("frac_filled", 0.31, Quality.LOST_PIXELS | Quality.TOO_MUCH_LOST),
        ("n_saturated", 1, Quality.SATURATED),
        ("n_jump", 2, Quality.JUMP),
        ("n_outlier", 1, Quality.OUTLIER),
        ("x", np.nan, Quality.NO_POSITION),
        ("y", np.nan, Quality.NO_POSITION),
        ("n_bad", 1, Quality(0)),
    ],
)
def test_quality_follows_from_the_columns(column, value, bits):
    found = measurement(1, 2)
    found.columns.setdefault(column, np.zeros((2, 1), np.int32))[1] = value
    assert rows(found)[0]["quality"].to_pylist() == [0, bits]


def test_repaired_times_are_said():
    found = measurement(1, 2)
    found.times.flag[0] = 4
    assert rows(found)[0]["quality"].to_pylist() == [Quality.TIME_REPAIRED, 0]
    assert rows(found)[0]["time_flag"].to_pylist() == [4, 0]


def test_the_operators_arrays_are_neither_kept_nor_changed():
    found = measurement(1, 3)
    found.present[0] = False
    before = found.columns["flux"].copy(), found.spectra["flux"].copy()
    lc, spectra = rows(found)
    assert (found.columns["flux"] == before[0]).all()
    assert (found.spectra["flux"] == before[1]).all()
    expected = lc.to_pydict()["flux"][1:], spectra.to_pydict()["flux"][1:]
    for array in (*found.columns.values(), *found.spectra.values(), found.times.values, found.times.flag):
        array[:] = 1
    assert (lc.to_pydict()["flux"][1:], spectra.to_pydict()["flux"][1:]) == expected


def test_a_column_per_integration_serves_all_keys():
    found = measurement(1, 2, keys=SOSS)
    found.columns["width_x"] = np.array([2.0, 3.0])
    assert rows(found)[0]["width_x"].to_pylist() == [2.0] * 3 + [3.0] * 3


def test_images_have_their_own_columns_and_no_spectra():
    found = measurement(1, 2, keys=((0, 0),), spectra=False)
    found.columns["ra"] = np.array([[10.0], [11.0]])
    lc, spectra = rows(found, kind="imaging")
    assert spectra is None
    assert lc["ra"].to_pylist() == [10.0, 11.0]


def test_an_empty_measurement_is_an_empty_batch():
    lc, spectra = rows(measurement(5, 0))
    assert (lc.num_rows, spectra.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.columns.update(fluxx=m.columns["flux"]), "fluxx are not columns"),
        (lambda m: m.columns.update(integration=m.columns["flux"]), "integration are not columns"),
        (lambda m: m.columns.update(flux=np.zeros((2, 2))), r"'flux' .* shape \(2, 2\), expected \(3, 1\)"),
        (lambda m: m.spectra.update(flux=np.zeros((3, 1, 5))), r"expected \(3, 1, 16\)"),
        (lambda m: m.columns.update(n_jump=np.zeros((3, 1))), "float64, expected whole"),
        (lambda m: setattr(m, "keys", ((1, 0), (1, 0))), "each once"),
        (lambda m: setattr(m, "times", m.times[:2]), "2 times for 3 integrations"),
    ],
)
def test_measurements_that_do_not_fit_are_refused(spoil, message):
    found = measurement(1, 3)
    spoil(found)
    with pytest.raises(OperatorError, match=message):
        rows(found)


def test_spectra_may_hold_more_than_the_rows_show():
    found = measurement(1, 3)
    found.spectra["background_var_poisson"] = np.zeros(found.spectra["flux"].shape)
    assert rows(found)[1].schema.names == rows(measurement(1, 3))[1].schema.names


def test_rows_are_made_without_pandas():
    """`pyarrow.array` imports it when it is there: half a second, and 40 MB for the rest of the run."""
    code = "import sys; from row_builders import batches; batches(1, 4); print('pandas' in sys.modules)"
    here = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
