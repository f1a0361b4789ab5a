"""The files a simulated exposure consists of: format, cutting, refusing."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from tsostream.errors import ConfigError, OutputExistsError, SinkError
from tsostream.simulate import EXP_TYPES, simulate
from tsostream.simulate.modes import find_mode

SMALL = {
    "NRS_BRIGHTOBJ": {"nx": 32, "ny": 16},
    "NRC_TSGRISM": {"nx": 32, "ny": 16},
    "NIS_SOSS": {"nx": 24, "ny": 48},
    "MIR_LRS-SLITLESS": {"nx": 24, "ny": 24},
    "NRC_TSIMAGE": {"nx": 24, "ny": 24},
    "MIR_IMAGE": {"nx": 24, "ny": 24},
}


def pixels(exposure):
    return np.concatenate([fits.getdata(path, "SCI") for path in exposure.segments])


def truth(exposure):
    with pa.ipc.open_file(str(exposure.truth)) as file:
        return file.read_all()


@pytest.mark.parametrize("exp_type", EXP_TYPES)
def test_segments_have_the_archive_s_format(exp_type, tmp_path):
    """Names, keywords, array and tables of every mode agree with each other."""
    exposure = simulate(exp_type, tmp_path, ints=5, groups=3, segments=2, **SMALL[exp_type])
    seen = 0
    for k, path in enumerate(exposure.segments, 1):
        with fits.open(path) as hdus:
            assert not hdus[0].verify("exception")
            assert len(path.read_bytes()) % 2880 == 0
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "GROUP", "INT_TIMES", "ASDF"]
            head, sci, table = hdus[0].header, hdus["SCI"], hdus["INT_TIMES"].data
            root = (
                f"jw{head['VISIT_ID']}_{head['VISITGRP']}{head['SEQ_ID']}{head['ACT_ID']}_{head['EXPOSURE']}"
            )
            assert path.name == f"{root}-seg{k:03d}_{head['DETECTOR'].lower()}_uncal.fits" == head["FILENAME"]
            assert (head["EXP_TYPE"], head["DATAMODL"], head["TSOVISIT"]) == (exp_type, "Level1bModel", True)
            assert (head["EXSEGNUM"], head["EXSEGTOT"], head["NINTS"]) == (k, 2, 5)
            assert sci.data.dtype == np.uint16
            assert sci.header["BZERO"] == 32768
            ints = head["INTEND"] - head["INTSTART"] + 1
            assert sci.data.shape == (ints, 3, head["SUBSIZE2"], head["SUBSIZE1"])
            assert head["INTSTART"] == seen + 1
            seen = head["INTEND"]
            numbers = np.arange(head["INTSTART"], head["INTEND"] + 1)
            np.testing.assert_array_equal(table["integration_number"], numbers)
            assert hdus["INT_TIMES"].header["NAXIS1"] == 52
            span = (table["int_end_MJD_UTC"] - table["int_start_MJD_UTC"]) * 86400
            np.testing.assert_allclose(span, head["EFFINTTM"], atol=2e-6)
            start = head["EXPSTART"] + (numbers - 1) * (head["EFFINTTM"] + head["TFRAME"]) / 86400
            np.testing.assert_allclose(table["int_start_MJD_UTC"], start, rtol=0, atol=2e-11)
            middle = (table["int_start_BJD_TDB"] + table["int_end_BJD_TDB"]) / 2
            np.testing.assert_allclose(table["int_mid_BJD_TDB"], middle, rtol=0, atol=2e-11)
            group = hdus["GROUP"].data
            assert len(group) == ints * 3
            assert list(group["group_number"][:4]) == [1, 2, 3, 1]
            assert group["group_end_time"][0][:19] >= f"{head['DATE-OBS']}T{head['TIME-OBS']}"[:19]
            if exp_type in ("NRC_TSIMAGE", "MIR_IMAGE"):
                gained = sci.data[0, -1].astype(int) - sci.data[0, 0]
                gained[fits.getdata(exposure.references["mask"]) > 0] = 0
                y, x = np.unravel_index(np.argmax(gained), gained.shape)
                assert abs(sci.header["XREF_SCI"] - 1 - x) < 1
                assert abs(sci.header["YREF_SCI"] - 1 - y) < 1
    assert seen == 5


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "MIR_IMAGE"])
def test_pixels_do_not_depend_on_the_cut(exp_type, tmp_path):
    """1, 3 and oddly cut segments hold the same integrations, bit for bit, and the same truth."""
    cuts = {"one": {}, "three": {"segments": 3}, "odd": {"bounds": [1, 2, 7]}}
    made = {
        name: simulate(
            exp_type, tmp_path / name, ints=7, groups=3, cosmic_rays=1e-2, tilt=4, **cut, **SMALL[exp_type]
        )
        for name, cut in cuts.items()
    }
    assert [len(made[name].segments) for name in cuts] == [1, 3, 3]
    assert [fits.getval(p, "INTEND") for p in made["odd"].segments] == [1, 2, 7]
    reference = pixels(made["one"])
    for name in ("three", "odd"):
        np.testing.assert_array_equal(pixels(made[name]), reference)
        assert truth(made[name]).equals(truth(made["one"]))


def test_the_seed_decides(tmp_path):
    """Same seed, same exposure and references; another seed, another detector and other photons."""
    small = {"ints": 2, "groups": 2, **SMALL["NRS_BRIGHTOBJ"]}
    a, b, c = (
        simulate("NRS_BRIGHTOBJ", tmp_path / n, seed=s, **small) for n, s in (("a", 5), ("b", 5), ("c", 6))
    )
    for path in ("segments", "references"):
        for one, two in zip(sorted(getattr(a, path)), sorted(getattr(b, path)), strict=True):
            if path == "references":
                one, two = a.references[one], b.references[two]
            assert one.read_bytes() == two.read_bytes()
    assert (pixels(a) != pixels(c)).mean() > 0.9
    assert (fits.getdata(a.references["gain"]) != fits.getdata(c.references["gain"])).all()


@pytest.mark.parametrize("exp_type", EXP_TYPES)
def test_references_fit_the_exposure(exp_type, tmp_path):
    """Every reference names the detector and subarray of the exposure and has its shape."""
    exposure = simulate(exp_type, tmp_path, ints=1, groups=3, **SMALL[exp_type])
    head = fits.getheader(exposure.segments[0])
    shape = (head["SUBSIZE2"], head["SUBSIZE1"])
    assert {"mask", "saturation", "linearity", "dark", "gain", "readnoise", "flat"} <= set(
        exposure.references
    )
    assert (
        ("reset" in exposure.references)
        == (head["INSTRUME"] == "MIRI")
        != ("superbias" in exposure.references)
    )
    assert ("wavelength" in exposure.references) == (exp_type not in ("NRC_TSIMAGE", "MIR_IMAGE"))
    # traces, profiles and kernels of SOSS describe the whole subarray, whatever was cut out of it
    whole = {"pastasoss", "specprofile", "speckernel"}
    assert (whole & set(exposure.references)) == (whole if exp_type == "NIS_SOSS" else set())
    spectra = {"NRS_BRIGHTOBJ": {"extract1d", "apcorr"}, "MIR_LRS-SLITLESS": {"extract1d", "apcorr"}}
    apertures = {**spectra, "NRC_TSGRISM": {"extract1d"}}.get(exp_type, set())
    assert ({"extract1d", "apcorr"} & set(exposure.references)) == apertures
    for kind, path in exposure.references.items():
        if kind in whole:
            continue
        if kind == "extract1d":
            content = json.loads(path.read_text())
            assert content["reftype"] == "EXTRACT1D"
            assert len(content["apertures"]) == 1
            continue
        with fits.open(path) as hdus:
            own = hdus[0].header
            assert own["REFTYPE"] == kind.upper()
            for key in ("TELESCOP", "INSTRUME", "DETECTOR"):
                assert own[key] == head[key]
            if kind in ("rscd", "photom", "fflat"):
                continue
            if kind == "apcorr":
                (row,) = hdus["APCORR"].data
                assert (row["apcorr"] > 1).all()
                continue
            for key in ("SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "FASTAXIS", "SLOWAXIS"):
                assert own[key] == head[key], (kind, key)
            for hdu in hdus[1:]:
                if isinstance(hdu, fits.ImageHDU):
                    assert hdu.shape[-2:] == shape, (kind, hdu.name)
                    assert np.isfinite(hdu.data).all(), (kind, hdu.name)
            assert ("DQ_DEF" in hdus) == ("DQ" in hdus)
            if kind == "dark":
                assert hdus["SCI"].data.ndim == (4 if head["INSTRUME"] == "MIRI" else 3)
            if kind == "wavelength":
                assert [h.header["EXTVER"] for h in hdus[1:]] == (
                    [1, 2, 3] if exp_type == "NIS_SOSS" else [1]
                )
                assert 0.4 < hdus["WAVELENGTH"].data.min() < hdus["WAVELENGTH"].data.max() < 15


def test_truth_says_what_was_injected(tmp_path):
    """Spectra, noise levels and events stand in the file; the white depth is the one asked for."""
    exposure = simulate("NIS_SOSS", tmp_path, ints=12, groups=2, transit_depth=0.02, tilt=(9, 0.1, 0.2, 0.05),
                        drift=0.0, jitter=0.0, cosmic_rays=0.05, nx=128, ny=160)  # fmt: skip
    table = truth(exposure)
    meta = json.loads(table.schema.metadata[b"tsostream.simulate"])
    flux = table["flux_model"].to_numpy()
    assert flux[0] == flux[-1] == 1
    assert np.isclose(flux.min(), 0.98, atol=1e-9)
    np.testing.assert_array_equal(table["integration"], np.arange(1, 13))
    np.testing.assert_allclose(table["dx"], [0.0] * 8 + [0.1] * 4)
    np.testing.assert_allclose(table["dwidth"], [0.0] * 8 + [0.05] * 4)
    assert table["tilt_event"].to_pylist() == [k == 9 for k in range(1, 13)]
    expected = 0.05 * 128 * 160 * 2 * meta["frame_time_s"] * 12
    assert abs(table["n_cosmic"].to_numpy().sum() - expected) < 5 * expected**0.5
    assert set(meta["orders"]) == {"1", "2", "3"}
    white = flux_sum = 0.0
    for order in meta["orders"].values():
        weight, depth = np.array(order["electron_per_s"]), np.array(order["depth"])
        assert weight.size == depth.size == len(order["wavelength_um"]) == 128
        white, flux_sum = white + (weight * depth).sum(), flux_sum + weight.sum()
    assert np.isclose(white / flux_sum, 0.02, rtol=1e-5)
    table_mid = fits.getdata(exposure.segments[0], "INT_TIMES")["int_mid_MJD_UTC"]
    np.testing.assert_array_equal(table["time_mjd_utc_mid"], table_mid)


def test_memory_does_not_grow_with_the_exposure(tmp_path):
    """More integrations, the same peak memory (the tables too are written in runs)."""
    peaks = []
    simulate("NRS_BRIGHTOBJ", tmp_path, ints=2, groups=2, nx=16, ny=8)  # imports and caches
    for ints in (600, 1500):
        tracemalloc.start()
        simulate("NRS_BRIGHTOBJ", tmp_path, ints=ints, groups=2, nx=16, ny=8, oof=0, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = sum(p.stat().st_size for p in tmp_path.glob("*uncal.fits"))
    assert peaks[1] - peaks[0] < 0.1 * size, (peaks, size)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exp_type": "NRS_BRIGHTOBJECT"}, "did you mean NRS_BRIGHTOBJ?"),
        ({"subarray": "SUB512X"}, "did you mean SUB512?"),
        ({"ints": 0}, "at least one integration"),
        ({"groups": 0}, "at least one group"),
        ({"ints": 3, "segments": 4}, "segments=4 does not fit 3 integrations"),
        ({"ints": 3, "bounds": [2, 2]}, r"bounds=\[2, 2\] must rise and end at ints=3"),
        ({"noise": "some"}, "neither 'full' nor 'none'"),
        ({"oof": -1.0}, "oof=-1.0 is negative"),
        ({"transit_depth": 1.5}, "transit_depth=1.5"),
        ({"tilt": 99}, "tilt=99"),
        ({"nx": 2000}, "nx=2000 is outside"),
        ({"scene": "nothing.fits"}, "not a readable FITS file"),
    ],
)
def test_mistakes_are_explained(given, message, tmp_path):
    """Each mistake has its own sentence; nothing is written."""
    arguments = {"exp_type": "NRS_BRIGHTOBJ", "ints": 2, **given}
    with pytest.raises(ConfigError, match=message):
        simulate(out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_several_mistakes_come_together(tmp_path):
    with pytest.raises(ConfigError) as caught:
        simulate("NIS_SOSS", tmp_path, ints=0, groups=0, jitter=-1)
    assert len(caught.value.problems) == 3


def test_files_are_not_overwritten_unasked(tmp_path):
    """A second run is refused; with ``overwrite`` no segment of the first, finer cut run survives."""
    small = {"ints": 4, "groups": 2, **SMALL["NRC_TSIMAGE"]}
    first = simulate("NRC_TSIMAGE", tmp_path, segments=4, **small)
    before = first.segments[0].read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        simulate("NRC_TSIMAGE", tmp_path, seed=2, **small)
    assert first.segments[0].read_bytes() == before
    simulate("NRC_TSIMAGE", tmp_path, segments=2, overwrite=True, **small)
    assert len(list(tmp_path.glob("*uncal*"))) == 2
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SinkError, match="cannot be written"):
        simulate("NRC_TSIMAGE", tmp_path / "file" / "out", ints=2, nx=16, ny=16)


def test_a_failure_leaves_no_half_written_segment(tmp_path):
    """What a crash leaves behind must not look like an exposure."""

    def stop(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate("NRC_TSIMAGE", tmp_path, ints=4, groups=2, progress=stop, **SMALL["NRC_TSIMAGE"])
    assert not list(tmp_path.glob("*uncal*"))
    assert not (tmp_path / "truth.arrow").exists()


def test_default_subarrays_are_the_usual_ones():
    shapes = {e: (find_mode(e).subarray, find_mode(e).ny, find_mode(e).nx) for e in EXP_TYPES}
    assert shapes == {
        "NRS_BRIGHTOBJ": ("SUB512", 32, 512), "NRC_TSGRISM": ("SUBGRISM64", 64, 2048),
        "NIS_SOSS": ("SUBSTRIP256", 256, 2048), "MIR_LRS-SLITLESS": ("SLITLESSPRISM", 416, 72),
        "NRC_TSIMAGE": ("SUB64P", 64, 64), "MIR_IMAGE": ("SUB64", 64, 72),
    }  # fmt: skip
