"""Segments put in order; everything that may be wrong with a list of files."""

from __future__ import annotations

import gzip
import random
import time

import numpy as np
import pytest
from segment_makers import CADENCE, codes, make_segment, time_table, time_values

from tsostream.errors import InputError
from tsostream.files import SegmentTimes, find_exposures


def segments(folder, cuts, level="uncal", nints=None, **keys):
    """One file per ``(first, count)``, named against their order."""
    total = nints or max(a + n - 1 for a, n in cuts)
    return [
        make_segment(
            folder / f"z{len(cuts) - k}_{level}.fits",
            level=level,
            first=first,
            count=count,
            nints=total,
            **keys,
        )
        for k, (first, count) in enumerate(cuts)
    ]


def refused(paths, code, words, **keys):
    with pytest.raises(InputError, match=words) as caught:
        find_exposures(paths, **keys)
    assert code in codes(caught.value)
    assert all(problem.todo for problem in caught.value.problems)
    return caught.value


def total(n):
    return {"EXSEGTOT": n}


def test_order_comes_from_the_keywords(tmp_path):
    paths = segments(tmp_path, [(1, 2), (3, 3), (6, 1)], primary=total(3))
    random.Random(2).shuffle(paths)
    (exposure,) = find_exposures(paths)
    assert [(s.first, s.last) for s in exposure.segments] == [(1, 2), (3, 5), (6, 6)]
    assert (exposure.first, exposure.last, exposure.count, exposure.gaps) == (1, 6, 6, ())
    assert exposure.exposure_id == "jw01366003001_04101_00001"
    assert exposure.label == "jw01366003001_04101_00001_nrs1"
    # all files say EXSEGNUM 1: INTSTART decides
    assert list(exposure.notes) == ["EXSEGNUM does not count up with INTSTART (1, 1, 1); INTSTART decided"]


def test_directory(tmp_path):
    segments(tmp_path, [(1, 3), (4, 3)], primary=total(2))
    make_segment(tmp_path / "dark.fits", primary={"REFTYPE": "DARK"})
    make_segment(tmp_path / "a_rate.fits")
    (tmp_path / "b_uncal.fits.part").write_bytes(b"half")
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "deeper").mkdir()
    make_segment(tmp_path / "deeper" / "c_uncal.fits")
    (exposure,) = find_exposures([tmp_path])
    assert exposure.count == 6
    assert "2 other FITS files" in exposure.notes[0]


def test_directory_packed(tmp_path):
    for path in segments(tmp_path, [(1, 3), (4, 3)]):
        path.with_suffix(".fits.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert find_exposures([tmp_path], scratch=tmp_path / "s")[0].count == 6


def test_directory_without_segments(tmp_path):
    make_segment(tmp_path / "a_rate.fits")
    refused([tmp_path], "no_segments", r"no uncal, rateints.*\(1 other FITS files\)")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused([empty], "no_segments", "0 other FITS files")


def test_nothing_given():
    refused([], "no_input", "nothing to read; name segment files")


def test_levels(tmp_path):
    segments(tmp_path, [(1, 3), (4, 3)])
    segments(tmp_path, [(1, 6)], level="rateints")
    refused([tmp_path], "several_levels", "1 rateints, 2 uncal; choose one with --level")
    explicit = sorted(tmp_path.iterdir())
    refused(
        explicit, "several_levels", "several product levels: 1 rateints, 2 uncal; choose one with --level"
    )
    for given in ([tmp_path], explicit):
        assert find_exposures(given, level="uncal")[0].info.level == "uncal"
        assert find_exposures(given, level="rateints")[0].count == 6
        refused(given, "level", "no.* crfints.*1 rateints, 2 uncal", level="crfints")
    refused(explicit, "bad_level", "no level 'ramp'; choose one of uncal", level="ramp")


def test_level_is_not_the_name(tmp_path):
    make_segment(tmp_path / "x_uncal.fits", level="rateints", count=6)
    assert find_exposures([tmp_path / "x_uncal.fits"])[0].info.level == "rateints"


def test_gap(tmp_path):
    paths = segments(tmp_path, [(1, 2), (5, 1), (7, 2)])
    error = refused(
        paths, "gap", r"integrations 3-4 are missing between z3_uncal.fits and z2_uncal.fits; .*--allow-gaps"
    )
    assert "integration 6 is missing" in str(error)
    assert codes(error) == ["gap", "gap"]
    (exposure,) = find_exposures(paths, allow_gaps=True)
    assert exposure.gaps == ((3, 4), (6, 6))
    assert (exposure.first, exposure.last, exposure.count) == (1, 8, 5)
    assert "integrations 3-4 are missing (gap)" in exposure.notes


def test_overlap(tmp_path):
    paths = segments(tmp_path, [(1, 4), (3, 4)])
    refused(
        paths,
        "overlap",
        r"holds integrations 3-6; .*z2_uncal.fits holds 1-4, so 3-4 are there twice; leave one",
    )


def test_contained(tmp_path):
    error = refused(segments(tmp_path, [(1, 6), (2, 2), (7, 1)]), "overlap", "so 2-3 are there twice")
    assert codes(error) == ["overlap"]


def test_duplicates(tmp_path):
    (path,) = segments(tmp_path, [(1, 6)])
    copy = tmp_path / "copy.fits"
    copy.write_bytes(path.read_bytes())
    refused(
        [path, copy], "duplicate", "holds integrations 1-6 of jw01366003001_04101_00001, which .* holds, too"
    )
    refused([path, path], "duplicate", "this is the same file as .*; name it once")
    link = tmp_path / "link.fits"
    link.symlink_to(path)
    refused([path, link], "duplicate", "same file")
    hard = tmp_path / "hard.fits"
    hard.hardlink_to(path)
    refused([path, hard], "duplicate", "same file")


@pytest.mark.parametrize(
    ("key", "value"),
    [("SUBARRAY", "SUB1024A"), ("READPATT", "NRS"), ("GRATING", "G395H"), ("SUBSTRT2", 1), ("TFRAME", 0.5)],
)
def test_mixed(tmp_path, key, value):
    paths = segments(tmp_path, [(1, 2), (3, 2)])
    foreign = make_segment(tmp_path / "foreign.fits", first=5, count=2, primary={key: value})
    error = refused(
        [*paths, foreign], "mixed", f"foreign.fits: {key} is {value!r}, but 2 other segments of jw01366"
    )
    assert codes(error) == ["mixed"]


def test_mixed_planes(tmp_path):
    first = make_segment(tmp_path / "a.fits", level="rateints")
    second = make_segment(tmp_path / "b.fits", level="rateints", first=4, drop=("VAR_POISSON",))
    refused(
        [first, second],
        "mixed",
        "it has SCI, ERR, DQ, VAR_RNOISE, but other segments have SCI, ERR, DQ, VAR_P",
    )


def test_several_exposures_and_detectors(tmp_path):
    for k, keys in enumerate(
        [
            {"EXPOSURE": "00002"},
            {"DETECTOR": "NRS2"},
            {"DETECTOR": "NRS1"},
            {"DETECTOR": "NRS2", "EXPOSURE": "00002"},
        ]
    ):
        make_segment(tmp_path / f"{k}_uncal.fits", count=6, primary=keys)
    found = find_exposures([tmp_path])
    assert [exposure.label[-10:] for exposure in found] == [
        "00001_nrs1",
        "00001_nrs2",
        "00002_nrs1",
        "00002_nrs2",
    ]


def test_all_findings_at_once(tmp_path):
    """Every finding of every file, in one report."""
    paths = segments(tmp_path, [(1, 2), (5, 1)])
    text = tmp_path / "text.fits"
    text.write_text("no")
    acquisition = make_segment(tmp_path / "ta.fits", primary={"EXP_TYPE": "NRS_WATA"})
    error = refused([*paths, text, acquisition, tmp_path / "none.fits"], "gap", "4 problems:\n  1. ")
    assert sorted(codes(error)) == ["gap", "not_fits", "not_found", "target_acquisition"]


def test_notes(tmp_path):
    (exposure,) = find_exposures(segments(tmp_path, [(3, 3)], nints=9))
    assert "the files begin with integration 3; 1-2 are not there" in exposure.notes
    assert "the files end with integration 5 of 9 (NINTS)" in exposure.notes
    (exposure,) = find_exposures(segments(tmp_path, [(1847, 4)], nints=4))
    assert "NINTS says 4 integrations, but the files go on to 1850" in exposure.notes
    (exposure,) = find_exposures(segments(tmp_path, [(1, 4)], primary=total(7)))
    assert exposure.notes == ("EXSEGTOT says 7 segments, but 1 files hold the whole exposure",)
    a = make_segment(tmp_path / "a.fits", nints=6, primary=total(2))
    b = make_segment(tmp_path / "b.fits", first=4, nints=7, primary=total(3))
    notes = find_exposures([a, b])[0].notes
    assert "NINTS differs between the segments: 6, 7" in notes
    assert "EXSEGTOT differs between the segments: 2, 3" in notes


@pytest.mark.parametrize("wrong", [0, 1])
def test_times_of_another_segment(tmp_path, wrong):
    """A table with the right numbers and another segment's times is found by comparing the segments."""
    paths = []
    for k in range(2):
        numbers = np.arange(1 + 10 * k, 11 + 10 * k)
        shift = (10 if wrong == 0 else -10) * CADENCE if k == wrong else 0.0
        values = time_values(numbers) + shift
        table = time_table(numbers, values)
        paths.append(make_segment(tmp_path / f"{k}.fits", first=1 + 10 * k, count=10, nints=20, times=table))
    (exposure,) = find_exposures(paths)
    assert [segment.times_trusted for segment in exposure.segments] == [wrong != 0, wrong != 1]
    assert any("INT_TIMES overlaps the times of" in note for note in exposure.notes)
    mid = np.concatenate([SegmentTimes(s).rows(s.first, s.count).values[:, 1] for s in exposure.segments])
    np.testing.assert_allclose(mid, time_values(np.arange(1, 21))[:, 1], rtol=0, atol=1e-9)


def test_a_long_exposure_is_audited_quickly(tmp_path):
    """130,000 rows of INT_TIMES: scanned in chunks, found by number."""
    numbers = np.arange(1, 130_001)
    raw = ((numbers + 32768) % 65536) - 32768
    table = time_table(raw, time_values(numbers), "I")
    path = make_segment(tmp_path / "a.fits", first=129_990, count=11, nints=130_000, times=table)
    start = time.process_time()
    (exposure,) = find_exposures([path])
    rows = SegmentTimes(exposure.segments[0]).rows(129_990, 11)
    assert time.process_time() - start < 2
    np.testing.assert_array_equal(rows.values, time_values(np.arange(129_990, 130_001)))


def test_golden(shared):
    for case in sorted((shared / "golden").iterdir()):
        (exposure,) = find_exposures([case])
        assert exposure.info.level == "uncal"
        assert exposure.count == exposure.info.nints
        assert len(exposure.notes) == 1  # the references beside it
    for case in sorted((shared / "golden_stage2").iterdir()):
        with pytest.raises(InputError, match="1 calints, 1 crfints, 1 rateints"):
            find_exposures([case])
        for level in ("rateints", "calints", "crfints"):
            assert find_exposures([case], level=level)[0].info.level == level
    for name in ("rateints", "calints"):
        (exposure,) = find_exposures([shared / "data" / f"miri_lrs_ers_sim_seg041_{name}.fits"])
        assert (exposure.first, exposure.last, exposure.info.level) == (1847, 1850, name)
