"""Which file is used: matching in a directory, overrides, ambiguity, what is missing."""

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest

from tsostream.errors import ConfigError
from tsostream.references import find_references, parse_overrides

FULL = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048}


@pytest.fixture
def find(tmp_path, info):
    def call(*wanted, of=info, **kwargs):
        return find_references(of, refs_dir=tmp_path, wanted=wanted, **kwargs)

    return call


def test_by_its_own_reftype_not_by_its_name(write, find):
    path = write("gain", name="looks_like_a_dark.fits")
    selection = find("gain", "dark")
    assert selection.paths == {"gain": path}
    assert selection.source == {"gain": "refs"}
    assert selection.missing == {"dark": ()}
    assert selection.notes == ()


def test_compressed_files_and_upper_case_suffixes(write, find):
    gain = write("gain", name="a.fits.gz")
    mask = write("mask", name="mask.FITS")
    assert find("mask", "gain").paths == {"mask": mask, "gain": gain}


def test_files_without_reftype_and_other_types_are_ignored(write, find, tmp_path):
    write("gain", keywords={"REFTYPE": None}, name="jw01366_uncal.fits")
    write("pars-jumpstep", name="pars.fits")
    (tmp_path / "manifest.json").write_text('{"name": "x"}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "readme.txt").write_text("REFTYPE = 'GAIN'")
    (tmp_path / "folder.fits").mkdir()
    write("gain", name=".hidden.fits")
    selection = find("gain")
    assert selection.missing == {"gain": ()}
    assert selection.notes == ()


def test_an_unreadable_file_is_a_note(write, find, tmp_path):
    gain = write("gain")
    (tmp_path / "torn.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 50)
    (tmp_path / "page.fits").write_bytes(b"<html>")
    (tmp_path / "torn.fits.gz").write_bytes(gzip.compress(gain.read_bytes())[:60])
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "torn.asdf").write_text("#ASDF 1.0.0\n--- {a: [\n...\n")
    selection = find("gain")
    assert selection.paths == {"gain": gain}
    assert {Path(note.where).name for note in selection.notes} == {
        "page.fits",
        "torn.asdf",
        "torn.fits",
        "torn.fits.gz",
        "torn.json",
    }
    assert all("ignored: it cannot be read" in str(note) for note in selection.notes)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("INSTRUME", "MIRI"),
        ("DETECTOR", "NRS2"),
        ("EXP_TYPE", "NRS_FIXEDSLIT"),
        ("READPATT", "NRS"),
        ("FILTER", "F100LP"),
        ("GRATING", "G395H"),
        ("P_EXP_TY", "NRS_FIXEDSLIT|NRS_IFU|"),
        ("P_READPA", "NRS|NRSIRS2|"),
    ],
)
def test_a_selector_that_differs_excludes(write, find, keyword, value):
    write("flat", keywords={keyword: value})
    selection = find("flat")
    assert selection.paths == {}
    compared = {"P_EXP_TY": "EXP_TYPE", "P_READPA": "READPATT"}.get(keyword, keyword)
    assert f"flat.fits has {compared} {value!r} instead of" in selection.missing["flat"][0]


def test_pupil(write, find, make_info):
    nircam = make_info(
        instrument="NIRCAM", detector="NRCALONG", pupil="GRISMR", exp_type="NRC_TSGRISM", grating=""
    )
    write("flat", keywords={"PUPIL": "CLEAR"}, of=nircam, name="a.fits")
    right = write("flat", keywords={"PUPIL": "GRISMR"}, of=nircam, name="b.fits")
    assert find("flat", of=nircam).paths == {"flat": right}


@pytest.mark.parametrize("value", ["N/A", "GENERIC", "ANY", "*", ""])
@pytest.mark.parametrize("keyword", ["EXP_TYPE", "READPATT", "FILTER", "GRATING", "SUBARRAY", "DETECTOR"])
def test_wild_values(write, find, keyword, value):
    path = write("flat", keywords={keyword: value})
    assert find("flat").paths == {"flat": path}


@pytest.mark.parametrize(
    "keywords",
    [
        {"EXP_TYPE": "NRS_FIXEDSLIT", "P_EXP_TY": "NRS_BRIGHTOBJ|NRS_FIXEDSLIT|"},
        {"EXP_TYPE": "NRS_BRIGHTOBJ|NRS_FIXEDSLIT|"},
        {"READPATT": "NRS", "P_READPA": "nrsrapid | ANY |"},
        {"P_EXP_TY": "ANY"},
        {"PUPIL": "CLEAR"},  # NIRSpec has no pupil wheel: nothing to compare with
    ],
)
def test_patterns(write, find, keywords):
    path = write("flat", keywords=keywords)
    assert find("flat").paths == {"flat": path}


def test_nircam_long_detectors_have_two_names(write, find, make_info):
    nircam = make_info(instrument="NIRCAM", detector="NRCALONG", exp_type="NRC_TSGRISM", grating="")
    path = write("gain", keywords={"DETECTOR": "NRCA5"}, of=nircam)
    assert find("gain", of=nircam).paths == {"gain": path}


class TestSubarray:
    def test_full_frame_is_always_allowed(self, write, find):
        path = write("gain", keywords=FULL)
        assert find("gain").paths == {"gain": path}

    def test_full_frame_by_name_only(self, write, find):
        path = write("gain", keywords=dict.fromkeys(FULL) | {"SUBARRAY": "FULL"})
        assert find("gain").paths == {"gain": path}

    def test_full_frame_by_geometry_only(self, write, find):
        path = write("gain", keywords=FULL | {"SUBARRAY": "ALLSLITS"})
        assert find("gain").paths == {"gain": path}

    def test_another_subarray_is_excluded(self, write, find):
        place = {"SUBARRAY": "SUB2048", "SUBSTRT1": 1, "SUBSIZE1": 2048}
        write("gain", keywords=place)
        assert find("gain").missing == {"gain": ("gain.fits has SUBARRAY 'SUB2048' instead of 'SUB512'",)}

    def test_the_right_name_at_another_place_is_excluded(self, write, find):
        write("gain", keywords={"SUBSTRT2": 1})
        reason = find("gain").missing["gain"][0]
        assert "SUBARRAY 'SUB512 columns 1025-1048, rows 1-6' instead of 'SUB512 columns" in reason

    def test_another_name_at_the_same_place_is_taken(self, write, find):
        path = write("gain", keywords={"SUBARRAY": "SUB512S"})
        assert find("gain").paths == {"gain": path}

    def test_the_exact_one_wins_over_full_frame(self, write, find):
        write("gain", keywords=FULL, name="a.fits")
        exact = write("gain", name="b.fits")
        write("gain", keywords={"SUBARRAY": "SUB512S"}, name="c.fits")
        assert find("gain").paths == {"gain": exact}

    def test_the_exact_name_wins_without_geometry(self, write, find):
        nowhere = dict.fromkeys(FULL)
        write("gain", keywords=FULL, name="a.fits")
        exact = write("gain", keywords=nowhere | {"SUBARRAY": "SUB512"}, name="b.fits")
        assert find("gain").paths == {"gain": exact}

    def test_tables_go_by_name(self, write, find):
        write("spectrace", keywords={"SUBARRAY": "SUBSTRIP96"}, name="a.fits")
        right = write("spectrace", keywords={"SUBARRAY": "SUB512"}, name="b.fits")
        assert find("spectrace").paths == {"spectrace": right}


def test_two_that_fit_are_an_error_naming_both(write, tmp_path, info, refused):
    for reftype in ("gain", "mask"):
        for name in "ab":
            write(reftype, name=f"{reftype}_{name}.fits")
    text = refused(find_references, info, refs_dir=tmp_path, wanted=["gain", "mask", "dark"])
    assert text.startswith("2 problems:")
    assert (
        f"2 gain references fit NIRSPEC NRS1 SUB512: {tmp_path}/gain_a.fits, {tmp_path}/gain_b.fits" in text
    )
    assert "keep one of them, or choose with --override gain=FILE" in text
    assert "mask_a.fits" in text


def test_two_full_frames_are_an_error(write, tmp_path, info, refused):
    write("gain", keywords=FULL, name="a.fits")
    write("gain", keywords=FULL, name="b.fits")
    assert "2 gain references fit" in refused(find_references, info, refs_dir=tmp_path, wanted=["gain"])


class TestOverrides:
    def test_beat_everything(self, write, find, tmp_path):
        write("gain", name="a.fits")
        write("gain", name="b.fits")
        other = tmp_path / "elsewhere"
        other.mkdir()
        mine = write("gain", keywords={"FILTER": "OTHER"}, name="elsewhere/mine.fits")
        selection = find("gain", overrides={"gain": mine})
        assert selection.paths == {"gain": mine}
        assert selection.source == {"gain": "override"}

    def test_aliases(self, write, find):
        path = write("dark", name="x.fits")
        assert find("dark_current", overrides={"dark_current": path}).source == {"dark": "override"}

    def test_without_a_directory(self, write, info):
        path = write("gain")
        selection = find_references(info, overrides={"gain": path}, wanted=["gain", "mask"])
        assert selection.paths == {"gain": path}
        assert selection.missing == {"mask": ()}

    def test_that_do_not_exist(self, tmp_path, info, refused):
        overrides = {"gain": tmp_path / "no.fits", "mask": tmp_path}
        text = refused(find_references, info, overrides=overrides, wanted=["gain"])
        assert f"{tmp_path}/no.fits: the gain override does not exist; correct the path" in text
        assert f"{tmp_path}: the mask override is no file" in text

    def test_that_nobody_wants(self, write, find):
        selection = find("gain", overrides={"flat": write("flat")})
        assert "the flat override is not used: no step of this run wants it" in str(selection.notes[0])
        assert selection.paths == {}

    def test_parse(self):
        texts = ["superbias=a.fits", "override_dark = ~/b=c.fits", "READNOISE=/r.fits"]
        parsed = parse_overrides(texts)
        assert parsed == {
            "superbias": Path("a.fits"),
            "dark": Path("~/b=c.fits").expanduser(),
            "readnoise": Path("/r.fits"),
        }

    def test_parse_collects_problems(self):
        with pytest.raises(ConfigError) as caught:
            parse_overrides(["superbais=a.fits", "gain", "=x", "flat=", "mask=a", "mask=b", "zzzzzz=q"])
        text = str(caught.value)
        assert len(caught.value.problems) == 6
        assert "--override superbais=a.fits: unknown reference type 'superbais'" in text
        assert "did you mean 'superbias'?" in text
        assert "--override gain: expected TYPE=FILE; write for example --override superbias=my_super" in text
        assert "--override mask=b: mask is overridden twice, already by a; give it once" in text


def test_refs_dir_that_is_none(tmp_path, info, refused):
    text = refused(find_references, info, refs_dir=tmp_path / "no", wanted=["gain"])
    assert f"{tmp_path}/no: the --refs directory does not exist; give a directory of reference files" in text
    (tmp_path / "f").write_text("")
    assert "--refs is no directory" in refused(
        find_references, info, refs_dir=tmp_path / "f", wanted=["gain"]
    )


def test_a_wanted_type_that_does_not_exist(find):
    with pytest.raises(ConfigError, match="unknown reference type 'gian'"):
        find("gian")


def test_order_is_the_order_asked_for(write, find):
    for reftype in ("dark", "gain", "mask"):
        write(reftype)
    assert list(find("mask", "dark", "gain", "dark_current").paths) == ["mask", "dark", "gain"]


def test_asdf_and_json(find, tmp_path, miri):
    meta = "meta:\n  reftype: {}\n  instrument: {{name: {}}}\n"
    tree = "#ASDF 1.0.0\n%YAML 1.1\n--- !core/asdf-1.1.0\n" + meta + "...\n"
    (tmp_path / "a.asdf").write_bytes(tree.format("emicorr", "MIRI").encode() + b"\xd3BLK\x00")
    (tmp_path / "b.asdf").write_text(tree.format("specwcs", "NIRCAM"))
    (tmp_path / "c.asdf").write_text(tree.format("pars-jumpstep", "MIRI"))
    extract = {"REFTYPE": "EXTRACT1D", "INSTRUME": "MIRI", "EXP_TYPE": "ANY"}
    (tmp_path / "d.json").write_text(json.dumps(extract))
    (tmp_path / "e.json").write_text(json.dumps({"meta": {"reftype": "photom"}, "apertures": []}))
    selection = find("emicorr", "specwcs", "extract1d", of=miri)
    assert selection.paths == {"emicorr": tmp_path / "a.asdf", "extract1d": tmp_path / "d.json"}
    assert selection.missing == {"specwcs": ("b.asdf has INSTRUME 'NIRCAM' instead of 'MIRI'",)}


def test_only_primary_headers_are_read(write, find, tmp_path):
    path = write("dark", {"SCI": np.zeros((40, 6, 24), "f4")})
    with path.open("r+b") as stream:  # 16 GB of pixels, none of them there
        stream.truncate(2**34)
    start = time.process_time()
    assert find("dark").paths == {"dark": path}
    assert time.process_time() - start < 2
