"""P3: an interior gap is refused by name, or becomes rows that say they are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_helpers import Simulated, differences, light_curve, make_rateints, reduce

import tsostream
from tsostream.errors import InputError
from tsostream.files import TIME_FLAGS
from tsostream.records.quality import Quality

#: last integration of each file; the second and fourth are left out
BOUNDS = (8, 13, 20, 21, 30)
LOST = np.array([*range(9, 14), 21])
ABSENT = TIME_FLAGS["ABSENT"] | TIME_FLAGS["HEADER_TIMES"] | TIME_FLAGS["NO_BJD"]


def with_gaps(simulated: Simulated, exp_type: str, tmp_path: Path, **options: object) -> tuple[Path, Path]:
    """Light curves of the whole exposure and of the one with gaps, the same scout for both."""
    exposure = simulated(exp_type, ints=30, bounds=BOUNDS, seed=6)
    kept = [exposure.segments[index] for index in (4, 0, 2)]
    holed = reduce(exposure, tmp_path / "holed.arrow", kept, allow_gaps=True, **options)
    scout = str(tmp_path / "holed.scout.npz")
    return reduce(exposure, tmp_path / "whole.arrow", scout=scout, **options), holed


def test_a_gap_is_refused(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=30, bounds=BOUNDS, seed=6)
    kept = [exposure.segments[index] for index in (4, 0, 2)]
    with pytest.raises(InputError, match=r"integrations 9-13 are missing .* --allow-gaps") as caught:
        reduce(exposure, tmp_path / "lc.arrow", kept)
    assert "integration 21 is missing" in str(caught.value)
    assert [problem.code for problem in caught.value.problems] == ["gap", "gap"]
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NRC_TSIMAGE", "MIR_LRS-SLITLESS"])
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_missing_integrations_have_rows(
    exp_type: str, block: int, simulated: Simulated, tmp_path: Path
) -> None:
    whole, holed = with_gaps(simulated, exp_type, tmp_path, block_bytes=block)
    rows, reference = light_curve(holed), light_curve(whole)
    np.testing.assert_array_equal(rows["integration"], np.arange(1, 31))
    lost = np.isin(rows["integration"], LOST)
    np.testing.assert_array_equal(rows["present"], ~lost)
    for name in ("flux", "flux_err", "background", "x", "y", "frac_filled"):
        assert np.isnan(rows[name][lost]).all(), name
    for name in ("n_jump", "n_saturated", "n_outlier", "n_bad"):
        assert not rows[name][lost].any(), name
    np.testing.assert_array_equal(rows["quality"] & Quality.MISSING, np.where(lost, Quality.MISSING, 0))
    wanted = Quality.MISSING | Quality.NO_FLUX | Quality.TIME_REPAIRED | Quality.NO_POSITION
    assert (rows["quality"][lost] == wanted).all()
    assert (rows["time_flag"][lost] == ABSENT).all()
    assert not rows["time_flag"][~lost].any()
    for point in ("start", "mid", "end"):
        shift = (rows[f"time_mjd_utc_{point}"] - reference[f"time_mjd_utc_{point}"]) * 86400
        assert np.abs(shift).max() < 1e-3
        assert np.isnan(rows[f"time_bmjd_tdb_{point}"][lost]).all()
        np.testing.assert_array_equal(
            rows[f"time_bmjd_tdb_{point}"][~lost], reference[f"time_bmjd_tdb_{point}"][~lost]
        )
    # the rows that are there do not notice, but for outliers, whose windows are shorter beside a gap
    same = rows["n_outlier"] == reference["n_outlier"]
    assert np.count_nonzero(~same & ~lost) <= 2
    for name, values in reference.items():
        np.testing.assert_array_equal(rows[name][~lost & same], values[~lost & same], err_msg=name)


def test_the_footer_and_the_spectra_know(simulated: Simulated, tmp_path: Path) -> None:
    _, holed = with_gaps(simulated, "NRS_BRIGHTOBJ", tmp_path)
    lc = tsostream.open(holed)
    assert lc.metadata["missing_integrations"] == len(LOST)
    assert lc.metadata["rows"] == 30
    assert lc.metadata["gaps"] == [[9, 13], [21, 21]]
    assert not set(LOST.tolist()) & set(lc.metadata["scout"]["integrations"])
    spectra = lc.spectra
    assert spectra is not None
    assert spectra.table["integration"].to_pylist() == list(range(1, 31))
    empty = np.isnan(spectra.array("flux")).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(empty) + 1, LOST)
    assert not np.nan_to_num(spectra.array("npixels"))[empty].any()


def test_a_gap_between_slopes(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("MIR_IMAGE", ints=24, seed=3)
    paths = make_rateints(exposure, tmp_path / "rates", bounds=[10, 11, 24])
    rows = light_curve(reduce(exposure, tmp_path / "lc.arrow", [paths[2], paths[0]], allow_gaps=True))
    np.testing.assert_array_equal(rows["integration"], np.arange(1, 25))
    assert np.flatnonzero(~rows["present"]).tolist() == [10]


def test_blocks_and_workers_do_not_matter_beside_a_gap(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=30, bounds=BOUNDS, seed=6)
    kept = [exposure.segments[index] for index in (0, 2, 4)]
    one = reduce(exposure, tmp_path / "a.arrow", kept, allow_gaps=True, workers=1, block_bytes=1)
    other = reduce(exposure, tmp_path / "b.arrow", kept[::-1], allow_gaps=True, workers=4)
    assert differences(one, other) == []
