"""INT_TIMES in every state it has been seen in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from segment_makers import BJD_SHIFT, CADENCE, EXPSTART, make_segment, time_table, time_values

from tsostream.errors import ReadError
from tsostream.files import TIME_FLAGS, SegmentTimes, header_disagreement, header_times, open_segment
from tsostream.files import times as times_module
from tsostream.files.times import (
    ABSENT,
    BAD_ROW,
    DUPLICATE,
    FOREIGN,
    HEADER_TIMES,
    NO_BJD,
    NOT_MONOTONIC,
    NUMBER_REPAIRED,
)

COMPUTED = HEADER_TIMES | NO_BJD


def times_of(path: Path, table: fits.BinTableHDU | None, **keys) -> tuple:
    """All times of a segment with this table, and the notes; any block length gives the same."""
    segment = open_segment(make_segment(path / "a.fits", times=table, **keys))
    reader = SegmentTimes(segment)
    whole = reader.rows(segment.first, segment.count)
    assert whole.values.dtype == np.float64
    assert whole.flag.dtype == np.uint32
    for length in (1, 7):
        for first in range(segment.first, segment.last + 1, length):
            part = reader.rows(first, min(length, segment.last - first + 1))
            at = slice(first - segment.first, first - segment.first + len(part))
            np.testing.assert_array_equal(part.values, whole.values[at])
            np.testing.assert_array_equal(part.flag, whole.flag[at])
    return whole, reader.notes


def assert_good(times, numbers, flag=0):
    np.testing.assert_array_equal(times.values, time_values(numbers))
    assert set(times.flag.tolist()) == {flag}


def assert_computed(times, numbers, flag):
    np.testing.assert_allclose(times.values[:, :3], time_values(numbers)[:, :3], rtol=0, atol=1e-10)
    assert np.isnan(times.values[:, 3:]).all()
    assert set(times.flag.tolist()) == {COMPUTED | flag}


def test_flags_are_distinct_bits():
    bits = list(TIME_FLAGS.values())
    assert len(set(bits)) == len(bits)
    assert all(bit & (bit - 1) == 0 for bit in bits)


@pytest.mark.parametrize("number_format", ["I", "J", "K"])
def test_rows_of_the_segment(tmp_path, number_format):
    numbers = np.arange(4, 34)
    times, notes = times_of(tmp_path, time_table(numbers, number_format=number_format), first=4, count=30)
    assert_good(times, numbers)
    assert notes == []


def test_rows_of_the_whole_exposure(tmp_path):
    times, notes = times_of(tmp_path, time_table(np.arange(1, 101)), first=40, count=30)
    assert_good(times, np.arange(40, 70))
    assert "70 rows of other integrations" in notes[0]


def test_missing_rows(tmp_path):
    times, _ = times_of(tmp_path, time_table(np.array([1, 2, 3, 4, 9, 10])), count=12)
    assert_good(times[:4], np.arange(1, 5))
    assert_computed(times[4:8], np.arange(5, 9), ABSENT)
    assert_good(times[8:10], np.arange(9, 11))
    assert_computed(times[10:], np.arange(11, 13), ABSENT)


def test_absent_and_empty(tmp_path):
    for table in (None, time_table(np.arange(0))):
        times, _ = times_of(tmp_path, table, first=4)
        assert_computed(times, np.arange(4, 7), ABSENT)


def test_no_start_in_the_header(tmp_path):
    times, _ = times_of(tmp_path, None, primary={"EXPSTART": None})
    assert np.isnan(times.values).all()
    assert set(times.flag.tolist()) == {COMPUTED | ABSENT}


@pytest.mark.parametrize("bjd", [0.0, np.nan, np.inf, EXPSTART + 3])
def test_bad_bjd(tmp_path, bjd):
    values = time_values(np.arange(1, 31))
    values[7, 3:] = bjd
    times, _ = times_of(tmp_path, time_table(np.arange(1, 31), values), count=30)
    assert np.isnan(times.values[7, 3:]).all()
    np.testing.assert_array_equal(times.values[7, :3], values[7, :3])
    assert times.flag[7] == NO_BJD
    assert_good(times[8:], np.arange(9, 31))


@pytest.mark.parametrize("bad", [0.0, np.nan, -np.inf, 1e300])
def test_bad_mjd(tmp_path, bad):
    numbers = np.arange(1, 31)
    values = time_values(numbers)
    values[7, 1] = bad
    times, _ = times_of(tmp_path, time_table(numbers, values), count=30)
    assert_computed(times[7:8], np.array([8]), BAD_ROW)
    assert_good(times[:7], np.arange(1, 8))
    assert_good(times[8:], np.arange(9, 31))


@pytest.mark.parametrize("row", [0, 1, 7, 28, 29])
@pytest.mark.parametrize("shift", [-1.0, 1.0, -40.0, 500.0])
def test_a_row_out_of_step(tmp_path, row, shift):
    """A duplicated, backward or forward row is replaced; its neighbours stay."""
    numbers = np.arange(1, 31)
    values = time_values(numbers)
    values[row] += shift * CADENCE
    times, _ = times_of(tmp_path, time_table(numbers, values), count=30)
    assert_computed(times[row : row + 1], numbers[row : row + 1], NOT_MONOTONIC)
    rest = np.delete(np.arange(30), row)
    assert not times.flag[rest].any()


def test_a_pause_is_real(tmp_path):
    numbers = np.arange(1, 31)
    values = time_values(numbers)
    values[15:] += 20 * CADENCE
    times, _ = times_of(tmp_path, time_table(numbers, values), count=30)
    np.testing.assert_array_equal(times.values, values)


def test_frozen_clock(tmp_path):
    values = np.tile(time_values(np.array([1])), (30, 1))
    times, _ = times_of(tmp_path, time_table(np.arange(1, 31), values), count=30)
    assert_computed(times, np.arange(1, 31), NOT_MONOTONIC)


def test_a_header_that_misses_the_reset_does_not_matter(tmp_path):
    numbers = np.arange(1, 31)
    times, _ = times_of(tmp_path, time_table(numbers), count=30, primary={"NRESETS": 0})
    assert_good(times, numbers)


def test_duplicate_numbers(tmp_path):
    numbers = np.array([1, 2, 3, 3, 4, 5, 6])
    times, notes = times_of(tmp_path, time_table(numbers), count=6)
    np.testing.assert_array_equal(times.values, time_values(np.arange(1, 7)))
    assert times.flag.tolist() == [0, 0, DUPLICATE, 0, 0, 0]
    assert "repeated" in notes[0]


def wrapped(numbers: np.ndarray, kind: str) -> np.ndarray:
    raw = numbers.copy()
    if kind == "negative":
        raw[numbers > 32767] -= 65536
    elif kind == "from 0":
        raw[numbers > 32767] -= 32768
    elif kind == "from 1":
        raw[numbers > 32767] -= 32767
    return raw


@pytest.mark.parametrize("kind", ["negative", "from 0", "from 1"])
def test_rollover_inside_the_segment(tmp_path, kind):
    numbers = np.arange(32760, 32790)
    table = time_table(wrapped(numbers, kind), time_values(numbers), "I")
    times, _ = times_of(tmp_path, table, first=32760, count=30, nints=40000)
    np.testing.assert_array_equal(times.values, time_values(numbers))
    assert times.flag.tolist() == [NUMBER_REPAIRED if n > 32767 else 0 for n in numbers]


@pytest.mark.parametrize("kind", ["negative", "from 0", "from 1"])
@pytest.mark.parametrize("extra", [0, 5])
def test_rollover_before_the_segment(tmp_path, kind, extra):
    numbers = np.arange(40000 - extra, 40030 + extra)
    table = time_table(wrapped(numbers, kind), time_values(numbers), "I")
    times, notes = times_of(tmp_path, table, first=40000, count=30, nints=50000)
    assert_good(times, np.arange(40000, 40030), NUMBER_REPAIRED)
    assert "was added" in notes[0]


def test_rollover_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(times_module, "_CHUNK_ROWS", 8)
    numbers = np.arange(32740, 32790)
    table = time_table(wrapped(numbers, "negative"), time_values(numbers), "I")
    times, _ = times_of(tmp_path, table, first=32760, count=30, nints=40000)
    np.testing.assert_array_equal(times.values, time_values(numbers[20:]))
    plain, _ = times_of(tmp_path, time_table(np.arange(1, 51)), first=11, count=40)
    assert_good(plain, np.arange(11, 51))


def test_numbers_count_from_the_start_of_the_segment(tmp_path):
    table = time_table(np.arange(1, 31), time_values(np.arange(101, 131)))
    times, _ = times_of(tmp_path, table, first=101, count=30, nints=130)
    assert_good(times, np.arange(101, 131), NUMBER_REPAIRED)


def test_table_of_another_segment(tmp_path):
    """Numbers and times of the first segment in the second: not ours, whatever their number."""
    times, notes = times_of(tmp_path, time_table(np.arange(1, 31)), first=101, count=30, nints=130)
    assert_computed(times, np.arange(101, 131), ABSENT)
    assert "holds integrations 1-30, none of 101-130" in notes[0]


def test_distrusted_table(tmp_path):
    from dataclasses import replace

    segment = replace(open_segment(make_segment(tmp_path / "a.fits")), times_trusted=False)
    assert_computed(SegmentTimes(segment).rows(1, 3), np.arange(1, 4), ABSENT | FOREIGN)


def test_noise_for_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(times_module, "_MAX_RUNS", 10)
    numbers = np.random.default_rng(1).permutation(30) * 3
    times, notes = times_of(tmp_path, time_table(numbers), count=30)
    assert_computed(times, np.arange(1, 31), ABSENT)
    assert "make no sense" in notes[0]


def test_shuffled_rows(tmp_path):
    numbers = np.random.default_rng(1).permutation(np.arange(1, 31))
    times, _ = times_of(tmp_path, time_table(numbers), count=30)
    assert_good(times, np.arange(1, 31))


def test_table_that_became_shorter(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    segment = open_segment(path)
    reader = SegmentTimes(segment)
    os.truncate(path, segment.time_table.offset + 10)
    with pytest.raises(ReadError, match=r"INT_TIMES: row 1 is not there any more.*--resume"):
        reader.rows(1, 3)


def test_header_times_match_the_archive(shared):
    """EXPSTART + (i - 1) * cadence is what the golden tables say, to a microsecond."""
    for path in sorted((shared / "golden").glob("*/*_uncal.fits")):
        segment = open_segment(path)
        table = SegmentTimes(segment).rows(segment.first, segment.count)
        header = header_times(segment.info, np.arange(segment.first, segment.last + 1))
        assert not table.flag.any()
        np.testing.assert_allclose(header.values[:, :3], table.values[:, :3], rtol=0, atol=1e-6 / 86400)


def test_empty_table_of_a_community_simulation(shared):
    segment = open_segment(shared / "data/miri_lrs_ers_sim_seg041_rateints.fits")
    times = SegmentTimes(segment).rows(1847, 4)
    assert set(times.flag.tolist()) == {COMPUTED | ABSENT}
    assert (np.diff(times.values[:, 1]) > 0).all()
    assert header_disagreement(segment) == {}


def test_header_disagreement(tmp_path):
    keys = {"BSTRTIME": EXPSTART + BJD_SHIFT + 3 / 86400, "BARTDELT": 200.0}
    found = header_disagreement(open_segment(make_segment(tmp_path / "a.fits", first=4, primary=keys)))
    assert found == pytest.approx(
        {"EXPSTART": 0.0, "BSTRTIME": 3.0, "BARTDELT": 200 - BJD_SHIFT * 86400}, abs=1e-5
    )
