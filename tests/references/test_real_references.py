"""The golden references and real CRDS files load, or are refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tsostream.references import find_references, load_reference, load_references

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = sorted(path for path in SHARED.glob("golden/*") if path.is_dir())

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not GOLDEN, reason="the shared golden exposures are not here"),
]

ALWAYS = ["mask", "saturation", "linearity", "dark", "gain", "readnoise", "flat"]


@pytest.fixture
def info_of(make_info):
    """Give the exposure a header belongs to."""
    names = {
        "instrument": "INSTRUME",
        "detector": "DETECTOR",
        "exp_type": "EXP_TYPE",
        "subarray": "SUBARRAY",
        "xstart": "SUBSTRT1",
        "ystart": "SUBSTRT2",
        "nx": "SUBSIZE1",
        "ny": "SUBSIZE2",
        "fastaxis": "FASTAXIS",
        "slowaxis": "SLOWAXIS",
        "readpatt": "READPATT",
        "filter": "FILTER",
        "pupil": "PUPIL",
        "grating": "GRATING",
        "frame_time": "TFRAME",
    }

    def make(path, **changes):
        header = fits.getheader(path)
        defaults = {"pupil": "", "grating": "", "filter": "", "frame_time": 0.0, "exp_type": ""}
        facts = {key: header.get(word, defaults.get(key)) for key, word in names.items()}
        return make_info(**(facts | changes))

    return make


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name)
def test_golden(case, info_of):
    info = info_of(min(case.glob("*_uncal.fits")))
    wanted = [*ALWAYS, *(["reset", "rscd"] if info.is_miri else ["superbias"])]
    selection = find_references(info, refs_dir=case, wanted=wanted)
    assert selection.missing == {}
    loaded = load_references(selection.paths, info)
    assert [*loaded.notes, *selection.notes] == []
    for reftype, ref in loaded.references.items():
        for name, array in ref.arrays.items():
            np.testing.assert_array_equal(array, fits.getdata(selection.paths[reftype], name))
            assert array.shape[-2:] == info.frame_shape
    if info.is_miri:
        row = loaded.references["rscd"].tables["RSCD_GROUP_SKIP"][0]
        assert (row["subarray"], row["group_skip1"]) == (info.subarray, 4)


class TestArchive:
    """Files as CRDS serves them, some in old formats."""

    @pytest.fixture
    def prism(self, info_of):
        path = SHARED / "data/nirspec_dark_0046.fits"
        return info_of(path, exp_type="NRS_BRIGHTOBJ", filter="CLEAR", grating="PRISM")

    @pytest.fixture
    def soss(self, info_of):
        return info_of(min((SHARED / "golden/nis_substrip96").glob("*_uncal.fits")))

    def test_dark_with_dq_as_bytes(self, prism):
        notes = []
        ref = load_reference(SHARED / "data/nirspec_dark_0046.fits", "dark", prism, notes=notes)
        assert {name: array.shape for name, array in ref.arrays.items()} == {
            "SCI": (10, 32, 512),
            "DQ": (32, 512),
        }
        assert notes == []

    def test_superbias_with_asdf_as_an_image(self, prism):
        notes = []
        ref = load_reference(SHARED / "data/nirspec_superbias_0075.fits", "superbias", prism, notes=notes)
        assert ref.arrays["SCI"].shape == (32, 512)
        assert [note.code for note in notes] == ["fastaxis", "slowaxis"]

    def test_superbias_of_another_place(self, info_of, refused):
        info = info_of(min((SHARED / "golden/nrs_sub512").glob("*_uncal.fits")))
        text = refused(load_reference, SHARED / "data/nirspec_superbias_0075.fits", "superbias", info)
        assert "covers columns 1025-1536, rows 957-988, expected all of subarray SUB512 (columns 523-" in text

    def test_flats_of_the_spectrograph(self, prism, refused):
        ref = load_reference(SHARED / "data/nirspec_fflat_0017.fits", "fflat", prism, notes=[])
        assert len(ref.tables["FAST_VARIATION"]) == 5
        text = refused(load_reference, SHARED / "data/nirspec_dflat_PRISM_32x512.fits", "flat", prism)
        assert "a flat reference needs the extension SCI, found FLAT1 32×512" in text

    def test_photom_of_the_other_detector(self, prism):
        # CRDS chooses NIRSpec's photom by EXP_TYPE alone: both detectors share it
        photom = load_reference(SHARED / "data/nirspec_photom_0014.fits", "photom", prism, notes=[])
        assert photom.keywords["DETECTOR"] == "NRS2"
        assert prism.detector == "NRS1"

    def test_soss(self, soss):
        data = SHARED / "data"
        photom = load_reference(data / "jwst_niriss_photom_rev2.fits", "photom", soss, notes=[])
        assert photom.tables["PHOTOM"]["order"].tolist()[0] == 1
        trace = load_reference(data / "jwst_niriss_spectrace_0022.fits", "spectrace", soss, notes=[])
        assert list(trace.tables) == ["ORDER", "ORDER,2", "ORDER,3"]
        waves = load_reference(data / "jwst_niriss_wavemap_0020.fits", "wavemap", soss, notes=[])
        assert waves.arrays["ORDER"].shape == (136, 2088)

    def test_in_a_directory(self, prism, soss):
        wanted = ["dark", "superbias", "photom", "spectrace", "wavemap"]
        selection = find_references(prism, refs_dir=SHARED / "data", wanted=wanted)
        assert set(selection.paths) == {"dark", "superbias", "photom"}
        selection = find_references(soss, refs_dir=SHARED / "data", wanted=wanted)
        assert set(selection.paths) == {"photom", "spectrace", "wavemap"}
