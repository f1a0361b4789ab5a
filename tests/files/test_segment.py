"""One segment file: facts, and a message for everything that can be wrong with it."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from segment_makers import GROUPS, NX, NY, codes, make_segment, planes, time_table

from tsostream.errors import InputError
from tsostream.files import SUPPORTED_EXP_TYPES, open_segment


def refused(path: Path, code: str, words: str, todo: str = "") -> InputError:
    """Open must fail with that code, and say these words, where and what to do."""
    with pytest.raises(InputError) as caught:
        open_segment(path)
    problems = [problem for problem in caught.value.problems if problem.code == code]
    assert problems, codes(caught.value)
    text = str(problems[0])
    assert re.search(words, text), text
    assert str(path) in text
    assert problems[0].todo
    assert todo in problems[0].todo
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("level", ["uncal", "rateints", "calints", "crfints"])
def test_facts(tmp_path, level):
    path = make_segment(tmp_path / "any_name.fits", level=level, first=4)
    segment = open_segment(path)
    info = segment.info
    assert (info.level, info.exposure_id, info.detector) == (level, "jw01366003001_04101_00001", "NRS1")
    assert (segment.first, segment.last, segment.count, info.nints) == (4, 6, 3, 6)
    assert (info.nx, info.ny, info.ngroups, info.xstart) == (NX, NY, GROUPS, 523)
    assert (segment.segment_number, segment.segment_total, segment.size) == (1, 1, path.stat().st_size)
    assert segment.notes == ()
    if level == "uncal":
        assert segment.planes == ("SCI",)
    else:
        expected = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")
        assert segment.planes == expected[: 5 if level == "rateints" else 6]
        assert info.bunit == "DN/s"
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name in segment.extensions:
                assert segment.extensions[hdu.name].offset == hdu.fileinfo()["datLoc"]
                assert segment.extensions[hdu.name].shape == hdu.shape
        assert segment.time_table.offset == hdus["INT_TIMES"].fileinfo()["datLoc"]


def test_header_hash_covers_headers_only(tmp_path):
    same = [
        open_segment(make_segment(tmp_path / f"{n}.fits", level="rateints", first=1)).header_sha256
        for n in range(2)
    ]
    other = open_segment(make_segment(tmp_path / "2.fits", level="rateints", primary={"FILTER": "F290LP"}))
    assert same[0] == same[1] != other.header_sha256
    raw = bytearray((tmp_path / "0.fits").read_bytes())
    raw[open_segment(tmp_path / "0.fits").extensions["SCI"].offset] ^= 1
    (tmp_path / "3.fits").write_bytes(raw)
    assert open_segment(tmp_path / "3.fits").header_sha256 == same[0]


def test_absent_segment_keywords(tmp_path):
    absent = dict.fromkeys(("EXSEGNUM", "EXSEGTOT", "INTSTART", "INTEND"))
    segment = open_segment(make_segment(tmp_path / "a.fits", count=6, primary=absent))
    assert (segment.first, segment.last) == (1, 6)
    assert (segment.segment_number, segment.segment_total) == (1, None)
    half = open_segment(make_segment(tmp_path / "b.fits", first=4, primary={"INTSTART": None}))
    assert (half.first, half.last) == (4, 6)
    assert "only one of INTSTART and INTEND" in half.notes[0]


def test_visit_id_falls_back(tmp_path):
    assert open_segment(make_segment(tmp_path / "a.fits", primary={"VISIT_ID": None})).info.exposure_id == (
        "jw01366003001_04101_00001"
    )


def test_one_integration_is_enough(tmp_path):
    segment = open_segment(make_segment(tmp_path / "a.fits", count=1, nints=1))
    assert any("one integration" in note for note in segment.notes)


def test_numbers_may_exceed_nints(tmp_path):
    assert open_segment(make_segment(tmp_path / "a.fits", first=1847, count=4, nints=4)).last == 1850


# -------------------- not a file we can read


def test_not_found(tmp_path):
    refused(tmp_path / "no.fits", "not_found", "there is no such file", "check the path")


def test_directory(tmp_path):
    refused(tmp_path, "directory", "this is a directory, expected a file")


def test_empty(tmp_path):
    path = tmp_path / "a.fits"
    path.touch()
    refused(path, "empty", "the file is empty", "fetch the file again")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    path.chmod(0)
    refused(path, "no_permission", "permission denied")


def test_permission_error_is_told(tmp_path, monkeypatch):
    path = make_segment(tmp_path / "a.fits")

    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "no_permission", "may not be read", "permissions")


def test_not_fits(tmp_path):
    path = tmp_path / "a.fits"
    path.write_text("<html>404 not found</html>")
    refused(path, "not_fits", "not a FITS file .*begins with b'<html>40'")


def test_corrupt_header_without_end(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"END     ")] = ord("X")
    # an uncal primary header that runs on into SCI's: the first END found is SCI's, and SCI is lost
    path.write_bytes(raw)
    with pytest.raises(InputError):
        open_segment(path)


@pytest.mark.parametrize("value", ["-5", "99999999999999999999", "T", "'abc'", "1e5"])
def test_absurd_axis(tmp_path, value):
    path = make_segment(tmp_path / "a.fits")
    raw = path.read_bytes()
    sci = raw.index(b"XTENSION")
    at = raw.index(b"NAXIS4  =", sci)
    path.write_bytes(raw[:at] + f"NAXIS4  = {value:>20}".ljust(80).encode() + raw[at + 80 :])
    refused(path, "corrupt_header", "the header of extension SCI is corrupt: NAXIS4 is")


def test_huge_axis_is_truncation(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    raw = path.read_bytes()
    at = raw.index(b"NAXIS4  =", raw.index(b"XTENSION"))
    path.write_bytes(raw[:at] + f"NAXIS4  = {10**12:>20}".ljust(80).encode() + raw[at + 80 :])
    error = refused(path, "truncated", "extension SCI breaks off in integration \\d+ of 1-1000000000000")
    assert "integration_range" in codes(error)


# -------------------- truncated


@pytest.mark.parametrize(("keep", "number"), [(0, 4), (1, 4), (1.0, 5), (2.5, 6)])
def test_truncated_ramp_names_the_integration(tmp_path, keep, number):
    path = make_segment(tmp_path / "a.fits", first=4)
    sci = open_segment(path).extensions["SCI"]
    size = sci.offset + (keep if isinstance(keep, int) else int(keep * sci.bytes_per_integration))
    os.truncate(path, size)
    refused(
        path, "truncated", f"ends after {size} bytes.*extension SCI breaks off in integration {number} of 4-6"
    )


def test_truncated_plane(tmp_path):
    path = make_segment(tmp_path / "a.fits", level="rateints")
    dq = open_segment(path).extensions["DQ"]
    os.truncate(path, dq.offset + dq.bytes_per_integration + 4)
    refused(path, "truncated", "extension DQ breaks off in integration 2 of 1-3", "fetch")


def test_truncated_table_and_header(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    offset = open_segment(path).time_table.offset
    os.truncate(path, offset + 60)
    refused(path, "truncated", "extension INT_TIMES holds 60 of 156 bytes")
    os.truncate(path, offset - 100)
    refused(path, "truncated", "inside the header behind extension SCI")


def test_cut_between_extensions(tmp_path):
    path = make_segment(tmp_path / "a.fits", level="rateints")
    with fits.open(path) as hdus:
        cut = hdus["ERR"].fileinfo()["hdrLoc"]
    os.truncate(path, cut)
    refused(path, "missing_extension", r"no ERR and no DQ extension \(found: PRIMARY, SCI\)")


def test_missing_padding_is_fine(tmp_path):
    path = make_segment(tmp_path / "a.fits", level="rateints", times=None)
    ext = open_segment(path).extensions["VAR_RNOISE"]
    os.truncate(path, ext.offset + 3 * ext.bytes_per_integration)
    assert open_segment(path).count == 3


# -------------------- content is not ours


def test_missing_keywords_are_listed(tmp_path):
    path = make_segment(
        tmp_path / "a.fits", primary=dict.fromkeys(("NGROUPS", "TFRAME", "FASTAXIS", "EXPOSURE"))
    )
    refused(path, "missing_keywords", "lack NGROUPS|TFRAME")
    with pytest.raises(InputError, match="TFRAME") as caught:
        open_segment(path)
    for key in ("NGROUPS", "FASTAXIS", "EXPOSURE"):
        assert key in str(caught.value)


def test_bad_keyword(tmp_path):
    path = make_segment(tmp_path / "a.fits", primary={"NINTS": "many", "TFRAME": -1.0})
    refused(path, "bad_keyword", "TFRAME is -1.0, expected a number above zero; NINTS is 'many'")


def test_identity_cannot_escape_into_paths(tmp_path):
    refused(
        make_segment(tmp_path / "a.fits", primary={"EXPOSURE": "../x"}), "bad_keyword", "EXPOSURE is '.*x'"
    )


def test_integration_range(tmp_path):
    path = make_segment(tmp_path / "a.fits", primary={"INTEND": 7})
    refused(path, "integration_range", "INTSTART 1 and INTEND 7 promise 7 integrations, but SCI holds 3")


def test_groups_disagree(tmp_path):
    refused(
        make_segment(tmp_path / "a.fits", primary={"NGROUPS": 9}), "axes", "NGROUPS is 9, but SCI holds 4"
    )


def test_subarray_size_disagrees(tmp_path):
    refused(make_segment(tmp_path / "a.fits", primary={"SUBSIZE1": 9}), "axes", "SUBSIZE1 is 9, .* 8 columns")
    cut = open_segment(make_segment(tmp_path / "b.fits", level="calints", primary={"SUBSIZE1": 9}))
    assert any("cut-out" in note for note in cut.notes)


@pytest.mark.parametrize(
    "exp_type", ["NRS_WATA", "NIS_TACQ", "NRC_TACQ", "MIR_TACQ", "MIR_TACONFIRM", "NRS_BOTA"]
)
def test_target_acquisition(tmp_path, exp_type):
    path = make_segment(tmp_path / "a.fits", primary={"EXP_TYPE": exp_type})
    refused(path, "target_acquisition", f"target acquisition exposure .EXP_TYPE {exp_type}", "leave it out")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"EXP_TYPE": "NRC_TSGRISM", "SUBARRAY": "SUB164STRIPE4_DHS"}, "NIRCam DHS"),
        ({"EXP_TYPE": "NRC_TSGRISM", "PUPIL": "GDHS60"}, "NIRCam DHS"),
        ({"EXP_TYPE": "NIS_SOSS", "SUBARRAY": "SUB17STRIPE_SOSS"}, "SOSS superstripe"),
        ({"EXP_TYPE": "NIS_SOSS", "SSTR_NST": 4}, "SOSS superstripe"),
        ({"EXP_TYPE": "NIS_SOSS", "MSTR_RD1": 2}, "multistripe readout"),
        ({"EXP_TYPE": "MIR_MRS"}, "MIRI MRS"),
        (
            {"EXP_TYPE": "NRS_FIXEDSLIT"},
            "NRS_FIXEDSLIT is not supported; supported are " + ", ".join(SUPPORTED_EXP_TYPES),
        ),
    ],
)
def test_unsupported_modes_by_name(tmp_path, keys, words):
    refused(make_segment(tmp_path / "a.fits", primary=keys), "unsupported_mode", words)


def test_not_tso(tmp_path):
    keys = {"EXP_TYPE": "NIS_SOSS", "TSOVISIT": False}
    refused(
        make_segment(tmp_path / "a.fits", primary=keys), "not_tso", "not a time series: TSOVISIT is False"
    )
    keys = {"EXP_TYPE": "NRC_TSIMAGE", "TSOVISIT": None}
    assert open_segment(make_segment(tmp_path / "b.fits", primary=keys)).count == 3


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((NY, NX), np.float32, "2-D SCI .*a rate or cal image"),
        ((3, GROUPS, NY, NX), np.float32, "4-D SCI .*a ramp product"),
        ((3, NY, NX), np.float64, "BITPIX -64"),
        ((3, GROUPS, NY, NX), np.int16, "BITPIX 16 and BZERO 0"),
    ],
)
def test_unsupported_products(tmp_path, shape, dtype, words):
    sci = fits.ImageHDU(np.zeros(shape, dtype), name="SCI")
    path = make_segment(tmp_path / "a.fits", drop=("SCI",))
    with fits.open(path) as hdus:
        fits.HDUList([hdus[0].copy(), sci]).writeto(tmp_path / "b.fits")
    refused(tmp_path / "b.fits", "unsupported_product", words, "give the uncal")


def test_spectra_references_tables(tmp_path):
    spectra = fits.BinTableHDU.from_columns([fits.Column("FLUX", "D", array=[1.0])], name="EXTRACT1D")
    path = make_segment(tmp_path / "a.fits", extra=(spectra,), drop=("SCI",))
    refused(path, "unsupported_product", "extracted spectra")
    path = make_segment(tmp_path / "b.fits", primary={"REFTYPE": "DARK"})
    refused(path, "unsupported_product", "DARK reference file", "--refs")
    packed = fits.CompImageHDU(planes(1, 3, ("SCI",))["SCI"], name="SCI")
    with fits.open(path) as hdus:
        header = hdus[0].header.copy()
    del header["REFTYPE"]
    path = tmp_path / "c.fits"
    fits.HDUList([fits.PrimaryHDU(header=header), packed]).writeto(path)
    refused(path, "unsupported_product", "tile-compressed", "funpack")


def test_no_sci_and_two_sci(tmp_path):
    refused(
        make_segment(tmp_path / "a.fits", drop=("SCI",)),
        "missing_extension",
        "no SCI .*found: PRIMARY, INT_TIMES",
    )
    second = fits.ImageHDU(planes(1, 3, ("SCI",))["SCI"], name="SCI", ver=2)
    path = make_segment(tmp_path / "b.fits", level="rateints", extra=(second,))
    refused(path, "unsupported_product", "2 SCI extensions")


def test_planes_are_checked(tmp_path):
    bad = fits.ImageHDU(np.zeros((3, NY, NX), np.uint8), name="DQ")
    path = make_segment(tmp_path / "a.fits", level="rateints", drop=("DQ",))
    with fits.open(path) as hdus:
        fits.HDUList([*[hdu.copy() for hdu in hdus], bad]).writeto(tmp_path / "b.fits")
    refused(tmp_path / "b.fits", "bad_extension", "DQ has BITPIX 8, .* expected 32, 1, 2.14748e")
    short = fits.ImageHDU(np.zeros((2, NY, NX), np.float32), name="ERR")
    path = make_segment(tmp_path / "c.fits", level="rateints", drop=("ERR",))
    with fits.open(path) as hdus:
        fits.HDUList([*[hdu.copy() for hdu in hdus], short]).writeto(tmp_path / "d.fits")
    refused(tmp_path / "d.fits", "bad_extension", r"ERR has the shape \(2, 6, 8\), but SCI has \(3, 6, 8\)")


def test_absent_variances_are_a_note(tmp_path):
    segment = open_segment(
        make_segment(tmp_path / "a.fits", level="rateints", drop=("VAR_POISSON", "VAR_RNOISE"))
    )
    assert segment.planes == ("SCI", "ERR", "DQ")
    assert any("VAR_POISSON" in note for note in segment.notes)


def test_all_problems_of_a_file_at_once(tmp_path):
    path = make_segment(
        tmp_path / "a.fits", primary={"NGROUPS": 9, "INTEND": 7, "TFRAME": None, "NINTS": "x"}
    )
    with pytest.raises(InputError) as caught:
        open_segment(path)
    assert {"axes", "integration_range", "missing_keywords", "bad_keyword"} <= set(codes(caught.value))


def test_trailing_bytes_are_a_note(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    with path.open("ab") as file:
        file.write(bytes(2880))
    assert "2880 bytes behind INT_TIMES" in open_segment(path).notes[0]


def test_time_table_notes(tmp_path):
    assert "no INT_TIMES" in open_segment(make_segment(tmp_path / "a.fits", times=None)).notes[0]
    empty = time_table(np.arange(0))
    assert "no rows" in open_segment(make_segment(tmp_path / "b.fits", times=empty)).notes[0]
    other = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=[1.0])], name="INT_TIMES")
    assert "lacks its columns" in open_segment(make_segment(tmp_path / "c.fits", times=other)).notes[0]


# -------------------- packed


def test_gzip(tmp_path):
    path = make_segment(tmp_path / "a.fits")
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    scratch = tmp_path / "scratch"
    segment = open_segment(packed, scratch=scratch)
    assert segment.path.parent == scratch
    assert segment.path.read_bytes() == path.read_bytes()
    assert segment.source_path == packed
    assert segment.size == packed.stat().st_size
    stamp = segment.path.stat().st_mtime_ns
    assert open_segment(packed, scratch=scratch).path.stat().st_mtime_ns == stamp  # unpacked once
    assert [each.name for each in scratch.iterdir()] == [segment.path.name]


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(make_segment(tmp_path / "a.fits").read_bytes())
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(whole[: len(whole) // 2])
    refused(packed, "truncated", "packed file ends too early")
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    packed.write_bytes(broken)
    refused(packed, "corrupt_gzip", "packed file is damaged")


def test_problems_of_packed_files_name_the_packed_file(tmp_path):
    raw = make_segment(tmp_path / "a.fits", primary={"EXP_TYPE": "MIR_MRS"}).read_bytes()
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(raw))
    refused(packed, "unsupported_mode", "MIRI MRS")


def test_scratch_that_cannot_be_written(tmp_path):
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(make_segment(tmp_path / "a.fits").read_bytes()))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not be unpacked") as caught:
        open_segment(packed, scratch=tmp_path / "file")
    assert codes(caught.value) == ["scratch"]
