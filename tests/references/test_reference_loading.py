"""Loading one reference: values, cut, refusals, notes, memory."""

import hashlib
import tracemalloc
from dataclasses import replace

import asdf
import numpy as np
import pytest
from astropy.io import fits

from tsostream.integration import dq
from tsostream.operators.emi_clock import wave_settings
from tsostream.references import load_reference, load_references
from tsostream.testing.builders import make_info


def codes(notes):
    return [note.code for note in notes]


@pytest.mark.parametrize("name", ["gain.fits", "gain.fits.gz", "gain_in_disguise.fits"])
def test_values_and_layout(write, info, image, name):
    path = write("gain", {"SCI": image}, {"GAINFACT": 2.0}, name=name)
    if "disguise" in name:  # told by its contents, not by its name
        path.write_bytes(write("gain", {"SCI": image}, {"GAINFACT": 2.0}, name="x.fits.gz").read_bytes())
    notes = []
    ref = load_reference(path, "gain", info, notes=notes)
    sci = ref.arrays["SCI"]
    np.testing.assert_array_equal(sci, image)
    assert sci.dtype == np.float32
    assert sci.dtype.isnative
    assert sci.flags.c_contiguous
    assert not sci.flags.writeable
    assert ref.keywords["GAINFACT"] == 2.0
    assert (ref.reftype, ref.name, ref.path) == ("gain", name, str(path))
    assert ref.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert notes == []


@pytest.mark.parametrize("kind", ["i2", "u2", "f8", "scaled"])
def test_any_number_type_becomes_float32(write, info, image, kind):
    if kind == "scaled":
        hdu = fits.ImageHDU(image.astype("f4"), name="SCI")
        hdu.scale("int16", bscale=0.5, bzero=10.0)
        path = write("gain", extra=[hdu])
    else:
        path = write("gain", {"SCI": image.astype(kind)})
    ref = load_reference(path, "gain", info, notes=[])
    np.testing.assert_array_equal(ref.arrays["SCI"], image)


def test_a_tile_compressed_image(write, info):
    big = np.random.default_rng(1).integers(0, 2, (400, 64)).astype("i2")
    hdu = fits.CompImageHDU(big, name="SCI", compression_type="RICE_1")
    place = {"SUBSTRT1": info.xstart - 10, "SUBSTRT2": info.ystart - 20, "SUBSIZE1": 64, "SUBSIZE2": 400}
    ref = load_reference(write("gain", keywords=place, extra=[hdu]), "gain", info, notes=[])
    np.testing.assert_array_equal(ref.arrays["SCI"], big[20:26, 10:34])


def test_nan_stays(write, info, image):
    image[2, 3] = np.nan
    ref = load_reference(write("gain", {"SCI": image}), "gain", info, notes=[])
    assert np.isnan(ref.arrays["SCI"][2, 3])


class TestCut:
    """The full frame cut equals numpy slicing."""

    def test_full_frame(self, write, info):
        full = np.random.default_rng(2).normal(size=(2048, 2048)).astype("f4")
        mask = np.random.default_rng(3).integers(0, 2**32, (2048, 2048), dtype="u4")
        place = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048}
        notes = []
        ref = load_reference(
            write("superbias", {"SCI": full, "DQ": mask}, place), "superbias", info, notes=notes
        )
        cut = np.s_[956:962, 1024:1048]
        np.testing.assert_array_equal(ref.arrays["SCI"], full[cut])
        np.testing.assert_array_equal(ref.arrays["DQ"], mask[cut])
        assert notes == []

    def test_a_larger_subarray_with_groups(self, write, info):
        big = np.random.default_rng(2).normal(size=(5, 20, 40)).astype("f4")
        place = {"SUBSTRT1": 1020, "SUBSTRT2": 950, "SUBSIZE1": 40, "SUBSIZE2": 20, "SUBARRAY": "SUB512"}
        notes = []
        ref = load_reference(write("dark", {"SCI": big}, place), "dark", info, notes=notes)
        np.testing.assert_array_equal(ref.arrays["SCI"], big[:, 7:13, 5:29])
        assert codes(notes) == ["cut", "no_dq"]
        assert "the official pipeline only takes a dark made for the subarray itself" in str(notes[0])

    def test_miri_dark_4d(self, write, miri):
        full = np.random.default_rng(2).normal(size=(2, 3, 1024, 1032)).astype("f4")
        bits = np.random.default_rng(3).integers(0, 2, (2, 1, 1024, 1032), dtype="u4")
        place = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 1032, "SUBSIZE2": 1024}
        path = write("dark", {"SCI": full, "DQ": bits}, place, of=miri)
        ref = load_reference(path, "dark", miri, notes=[])
        np.testing.assert_array_equal(ref.arrays["SCI"], full[:, :, 528:536, :12])
        np.testing.assert_array_equal(ref.arrays["DQ"], bits[:, :, 528:536, :12])

    def test_ipc_kernel_stays_whole_and_4d_ipc_is_cut(self, write, info):
        kernel = np.arange(9, dtype="f4").reshape(3, 3)
        ref = load_reference(write("ipc", {"SCI": kernel}), "ipc", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["SCI"], kernel)
        per_pixel = np.random.default_rng(2).normal(size=(3, 3, 10, 30)).astype("f4")
        place = {"SUBSTRT1": 1024, "SUBSTRT2": 955, "SUBSIZE1": 30, "SUBSIZE2": 10}
        ref = load_reference(write("ipc", {"SCI": per_pixel}, place), "ipc", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["SCI"], per_pixel[:, :, 2:8, 1:25])

    def test_linearity_with_inverse(self, write, info):
        coeffs = np.random.default_rng(2).normal(size=(4, 10, 30)).astype("f4")
        place = {"SUBSTRT1": 1024, "SUBSTRT2": 955, "SUBSIZE1": 30, "SUBSIZE2": 10}
        arrays = {"COEFFS": coeffs, "INV_COEFFS": 2 * coeffs[:3], "DQ": np.zeros((10, 30), "u4")}
        ref = load_reference(write("linearity", arrays, place), "linearity", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["COEFFS"], coeffs[:, 2:8, 1:25])
        np.testing.assert_array_equal(ref.arrays["INV_COEFFS"], 2 * coeffs[:3, 2:8, 1:25])

    @pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
    def test_memory_of_a_4d_dark(self, write, make_info, packed):
        small = make_info(
            instrument="MIRI", detector="MIRIMAGE", subarray="SUB64", xstart=101, ystart=201, nx=64, ny=64
        )
        full = np.zeros((2, 20, 512, 512), "f4")
        full += np.arange(512, dtype="f4")
        place = {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 512, "SUBSIZE2": 512}
        path = write("dark", {"SCI": full}, place, of=small, name="d.fits.gz" if packed else "d.fits")
        expected = full[:, :, 200:264, 100:164].copy()
        del full
        tracemalloc.start()
        try:
            ref = load_reference(path, "dark", small, notes=[])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        np.testing.assert_array_equal(ref.arrays["SCI"], expected)
        plane = 512 * 512 * 4
        overhead = 4 * 1024**2  # headers, unpacking buffers, hashing
        assert peak < expected.nbytes + plane + overhead


class TestDQ:
    """Bits in files of all ages."""

    def test_remapped_to_the_standard(self, write, info):
        bits = np.zeros(info.frame_shape, "u4")
        bits[0, 0], bits[0, 1], bits[0, 2] = 1, 2, 4
        path = write("mask", {"DQ": bits}, dq_def=[(1, "DO_NOT_USE"), (2, "HOT"), (4, "NO_SUCH_NAME")])
        notes = []
        out = load_reference(path, "mask", info, notes=notes).arrays["DQ"]
        assert out[0, :4].tolist() == [dq.DO_NOT_USE, dq.HOT, 0, 0]
        assert out.dtype == np.uint32
        assert not out.flags.writeable
        assert codes(notes) == ["dq_def"]
        assert "DQ_DEF names NO_SUCH_NAME, no standard DQ name; the bits are dropped" in str(notes[0])

    def test_identity_table(self, write, info, standard_bits):
        bits = np.random.default_rng(1).integers(0, 2**32, info.frame_shape, dtype="u4")
        ref = load_reference(write("mask", {"DQ": bits}, dq_def=standard_bits), "mask", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["DQ"], bits)

    @pytest.mark.parametrize("dq_def", [None, []], ids=["no table", "empty table"])
    def test_without_definitions_the_bits_are_standard(self, write, info, dq_def):
        bits = np.full(info.frame_shape, 5, "u1")
        ref = load_reference(write("mask", {"DQ": bits}, dq_def=dq_def), "mask", info, notes=[])
        assert (ref.arrays["DQ"] == 5).all()

    def test_floats_that_are_no_bits(self, write, info, image, refused):
        path = write("mask", {"DQ": image + 0.5})
        text = refused(load_reference, path, "mask", info)
        assert "the DQ array cannot be read: 144 values are no bits" in text

    def test_no_dq_is_zero_dq(self, write, info, image):
        notes = []
        ref = load_reference(write("saturation", {"SCI": image}), "saturation", info, notes=notes)
        assert ref.arrays["DQ"].shape == info.frame_shape
        assert not ref.arrays["DQ"].any()
        assert codes(notes) == ["no_dq"]


class TestTolerated:
    """Odd, but clear: a note and no more."""

    @pytest.mark.parametrize(
        ("keywords", "code", "text"),
        [
            ({"SUBARRAY": "ALLSLITS"}, "subarray", "SUBARRAY is 'ALLSLITS', the exposure's is 'SUB512'"),
            ({"TFRAME": 0.3}, "tframe", "TFRAME is 0.3 s, the exposure's is 0.22616 s"),
            ({"FILTER": "F290LP"}, "filter", "FILTER is 'F290LP', the exposure's is 'CLEAR'"),
            ({"FASTAXIS": 1}, "fastaxis", "FASTAXIS is 1, the exposure's is 2"),
            ({"REFTYPE": None}, "no_reftype", "no REFTYPE; taken as a flat reference as asked"),
            (
                {"SUBSTRT1": None, "SUBSTRT2": None},
                "no_substrt",
                "by its shape it is taken to cover columns 1025-",
            ),
            ({"SUBSIZE1": 99}, "subsize", "SUBSIZE1/2 say 99×6, the array has 24×6 pixels (x, y)"),
        ],
    )
    def test_notes(self, write, info, image, keywords, code, text):
        notes = []
        path = write("flat", {"SCI": image, "DQ": image.astype("u1")}, keywords)
        ref = load_reference(path, "flat", info, notes=notes)
        np.testing.assert_array_equal(ref.arrays["SCI"], image)
        assert codes(notes) == [code]
        assert text in str(notes[0])
        assert str(path) in str(notes[0])

    def test_without_a_list_they_are_logged(self, write, info, image, caplog):
        load_reference(write("gain", {"SCI": image}, {"SUBARRAY": "ALLSLITS"}), "gain", info)
        assert "SUBARRAY is 'ALLSLITS'" in caplog.text

    @pytest.mark.parametrize("value", ["N/A", "GENERIC", "ANY", "*", ""])
    def test_wild_values_say_nothing(self, write, info, image, value):
        notes = []
        wild = dict.fromkeys(["SUBARRAY", "DETECTOR", "INSTRUME", "READPATT", "FILTER", "GRATING"], value)
        load_reference(write("gain", {"SCI": image}, wild), "gain", info, notes=notes)
        assert notes == []

    def test_full_frame_without_place(self, write, info):
        full = np.arange(2048**2, dtype="f4").reshape(2048, 2048)
        nowhere = dict.fromkeys(["SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "SUBARRAY"])
        ref = load_reference(write("gain", {"SCI": full}, nowhere), "gain", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["SCI"], full[956:962, 1024:1048])

    def test_asdf_as_an_image_extension(self, write, info, image):
        asdf = fits.ImageHDU(np.zeros(100, "u1"), name="ASDF")
        ref = load_reference(write("gain", {"SCI": image}, extra=[asdf]), "gain", info, notes=[])
        assert list(ref.arrays) == ["SCI"]

    def test_an_unknown_unit(self, write, info, image):
        notes = []
        load_reference(write("readnoise", {"SCI": image}, bunit="furlong"), "readnoise", info, notes=notes)
        assert "BUNIT 'furlong' is not known; taken as DN" in str(notes[0])


def test_tables(write, miri):
    rows = np.array(
        [("SLITLESSPRISM", "FASTR1", 4, 3), ("FULL", "SLOW", 2, 1)],
        dtype=[("SUBARRAY", "S17"), ("readpatt", "S12"), ("group_skip1", ">i4"), ("group_skip", ">i4")],
    )
    table = fits.BinTableHDU(rows, name="RSCD_GROUP_SKIP")
    ref = load_reference(write("rscd", of=miri, extra=[table]), "rscd", miri, notes=[])
    out = ref.tables["RSCD_GROUP_SKIP"]
    assert out.dtype.names == ("subarray", "readpatt", "group_skip1", "group_skip")
    assert out["subarray"].tolist() == ["SLITLESSPRISM", "FULL"]
    assert out["group_skip1"].dtype == np.dtype("i4")
    assert not out.flags.writeable


def test_extensions_of_the_same_name(write, info, image):
    orders = [fits.ImageHDU(image + order, name="ORDER", ver=order) for order in (1, 2)]
    ref = load_reference(write("wavemap", extra=orders), "wavemap", info, notes=[])
    assert list(ref.arrays) == ["ORDER", "ORDER,2"]
    assert ref.arrays["ORDER,2"][0, 0] == 2


def test_wavelength_image_under_either_name(write, info, image):
    for name in ("WAVELENGTH", "SCI"):
        ref = load_reference(write("wavelength", {name: image}), "wavelength", info, notes=[])
        np.testing.assert_array_equal(ref.arrays["WAVELENGTH"], image)


def test_average_dark_current(write, info, image):
    arrays = {"SCI": np.zeros((2, *image.shape), "f4"), "AVDRKCUR": image, "DQ": image.astype("u1")}
    ref = load_reference(write("dark", arrays, {"NGROUPS": 2}), "dark", info, notes=[])
    np.testing.assert_array_equal(ref.arrays["AVDRKCUR"], image)
    assert ref.keywords["NGROUPS"] == 2


def test_asdf_reference_is_checked_but_not_read(tmp_path, miri, refused):
    path = tmp_path / "sirskernel.asdf"
    head = "#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
    tree = "meta:\n  reftype: sirskernel\n  instrument: {name: MIRI, detector: MIRIMAGE}\nx: !core/n-1 [1]\n...\n"
    path.write_bytes((head + tree).encode() + b"\xd3BLK\x00binary")
    ref = load_reference(path, "sirskernel", miri)
    assert (ref.arrays, ref.keywords["INSTRUME"]) == ({}, "MIRI")
    assert len(ref.sha256) == 64
    path.write_bytes((head + tree.replace("name: MIRI", "name: NIRCAM")).encode())
    assert "INSTRUME is 'NIRCAM', the exposure's is 'MIRI'" in refused(
        load_reference, path, "sirskernel", miri
    )
    path.write_bytes(b"SIMPLE  = T")
    assert "does not begin with #ASDF" in refused(load_reference, path, "sirskernel", miri)


def write_waves(path, **more):
    """An EMICORR reference as the official tools write it: waveforms in binary blocks."""
    tree = {
        "meta": {"reftype": "emicorr", "instrument": {"name": "MIRI", "detector": "MIRIMAGE"}},
        "frequencies": {
            "Hz390": {
                "frequency": 390.625,
                "phase_amplitudes": np.sin(np.linspace(0, 6.28, 128)).astype("f4"),
            },
            "Hz10": {"frequency": 10.039, "phase_amplitudes": [0.0, 1.0, 0.0, -1.0]},
        },
        "subarray_cases": {
            "SLITLESSPRISM": {"rowclocks": 28, "frameclocks": 15904, "freqs": {"FAST": ["Hz390", "Hz10"]}}
        },
    }
    asdf.AsdfFile(tree | more).write_to(path)
    return path


def test_waves_of_an_emicorr_reference(tmp_path, miri, refused):
    path = write_waves(tmp_path / "emicorr.asdf")
    found = load_reference(path, "emicorr", miri).keywords
    wave = found["frequencies"]["Hz390"]
    assert (wave["frequency"], wave["phase_amplitudes"].dtype) == (390.625, np.float64)
    np.testing.assert_allclose(wave["phase_amplitudes"], np.sin(np.linspace(0, 6.28, 128)), atol=1e-6)
    np.testing.assert_array_equal(found["frequencies"]["Hz10"]["phase_amplitudes"], [0, 1, 0, -1])
    info = make_info("MIR_LRS-SLITLESS", ny=48, nx=40, ngroups=6)
    setting = wave_settings(found, replace(info, subarray="SLITLESSPRISM", readpatt="FAST"))
    assert setting
    assert (setting.row, setting.frame) == (28.0, 15904.0)
    assert setting.frequencies == (390.625, 10.039)
    write_waves(path, frequencies={})
    assert "it has no frequencies" in refused(load_reference, path, "emicorr", miri)
    write_waves(path, frequencies={"Hz390": {"frequency": 390.625, "phase_amplitudes": [1.0]}})
    assert "its wave Hz390 has no frequency" in refused(load_reference, path, "emicorr", miri)


def test_size_for_the_plan(write, info, image):
    loaded = load_references({"gain": write("gain", {"SCI": image})}, info)
    assert loaded.nbytes == image.nbytes
