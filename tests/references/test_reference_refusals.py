"""What is refused, and that each message says found, expected, where, and what to do."""

import numpy as np
import pytest

from tsostream.errors import ReferenceMismatchError
from tsostream.references import load_reference, load_references


class TestRefused:
    """What is refused, and that the message says found, expected, where, and what to do."""

    @pytest.mark.parametrize(
        ("keywords", "text"),
        [
            ({"REFTYPE": "GAIN"}, "REFTYPE is 'GAIN', expected 'SUPERBIAS'; give a superbias reference"),
            ({"INSTRUME": "MIRI"}, "INSTRUME is 'MIRI', the exposure's is 'NIRSPEC'; give a superbias"),
            ({"DETECTOR": "NRS2"}, "DETECTOR is 'NRS2', the exposure's is 'NRS1'; give a superbias"),
            ({"READPATT": "NRSIRS2"}, "READPATT is 'NRSIRS2', the exposure's is 'NRSRAPID'"),
        ],
    )
    def test_keywords(self, write, info, image, refused, keywords, text):
        path = write("superbias", {"SCI": image}, keywords)
        message = refused(load_reference, path, "superbias", info)
        assert text in message
        assert str(path) in message

    def test_all_reasons_at_once(self, write, info, image):
        path = write("superbias", {"SCI": image}, {"REFTYPE": "GAIN", "DETECTOR": "NRS2", "INSTRUME": "MIRI"})
        with pytest.raises(ReferenceMismatchError) as caught:
            load_reference(path, "superbias", info)
        assert [problem.code for problem in caught.value.problems] == ["reftype", "instrume", "detector"]
        assert str(caught.value).startswith("3 problems:")

    def test_all_files_at_once(self, write, info, image, refused, tmp_path):
        paths = {
            "gain": write("gain", {"SCI": image}, {"DETECTOR": "NRS2"}),
            "dark": tmp_path / "absent.fits",
        }
        text = refused(load_references, paths, info)
        assert "1. " in text
        assert "DETECTOR is 'NRS2'" in text
        assert "absent.fits: the reference file does not exist" in text

    def test_shape_that_does_not_contain_the_subarray(self, write, info, image, refused):
        text = refused(load_reference, write("gain", {"SCI": image}, {"SUBSTRT2": 960}), "gain", info)
        assert "covers columns 1025-1048, rows 960-965, expected all of subarray SUB512" in text
        assert (
            "(columns 1025-1048, rows 957-962); give a full-frame reference or one of this subarray" in text
        )

    def test_subsize_is_not_believed(self, write, info, image, refused):
        path = write("gain", {"SCI": image[:-1]})
        assert "covers columns 1025-1048, rows 957-961" in refused(load_reference, path, "gain", info)

    def test_no_place(self, write, info, refused):
        path = write("gain", {"SCI": np.ones((50, 60), "f4")}, {"SUBSTRT1": None, "SUBSTRT2": None})
        text = refused(load_reference, path, "gain", info)
        assert "50×60 pixels (y, x) and there is no SUBSTRT1/2 to place it" in text
        assert "the whole detector (2048×2048) or exactly subarray SUB512" in text

    def test_missing_extension(self, write, info, image, refused):
        text = refused(load_reference, write("linearity", {"SCI": image}), "linearity", info)
        assert "a linearity reference needs the extension COEFFS, found SCI 6×24" in text

    def test_missing_table(self, write, miri, refused):
        text = refused(load_reference, write("rscd", of=miri), "rscd", miri)
        assert "a rscd reference needs the extension RSCD_GROUP_SKIP, found no extension" in text

    def test_dimensions(self, write, info, image, miri, refused):
        text = refused(load_reference, write("dark", {"SCI": image}), "dark", info)
        assert "SCI has the shape (6, 24), expected a 3-D array [..., y, x] for NIRSPEC" in text
        path = write("dark", {"SCI": np.zeros((3, miri.ny, miri.nx), "f4")}, of=miri)
        assert "expected a 4-D array" in refused(load_reference, path, "dark", miri)

    def test_arrays_of_different_shape(self, write, info, image, refused):
        path = write("superbias", {"SCI": image, "DQ": image[:, :-1].astype("u1")})
        text = refused(load_reference, path, "superbias", info)
        assert "DQ covers (6, 23) pixels (y, x), the first array (6, 24); expected the same" in text

    @pytest.mark.parametrize("unit", ["electrons", "e-", "DN/s"])
    def test_units(self, write, info, image, refused, unit):
        text = refused(load_reference, write("readnoise", {"SCI": image}, bunit=unit), "readnoise", info)
        assert f"BUNIT is {unit!r}, a readnoise reference is in 'DN'" in text

    @pytest.mark.parametrize(
        ("contents", "found"),
        [
            (b"", "an empty file"),
            (b"#ASDF 1.0.0\n", "an ASDF file"),
            (b"<html>404", "a web page or XML"),
            (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
            (b"\x00\x01hello", "first bytes"),
        ],
    )
    def test_no_fits_file(self, tmp_path, info, refused, contents, found):
        path = tmp_path / "gain.fits"
        path.write_bytes(contents)
        text = refused(load_reference, path, "gain", info)
        assert f"this is no FITS file ({found}" in text
        assert "give the FITS or FITS.gz file itself" in text

    @pytest.mark.parametrize("name", ["gain.fits", "gain.fits.gz"])
    def test_truncated(self, write, info, refused, name):
        noise = np.random.default_rng(1).normal(size=(240, info.nx)).astype("f4")
        path = write("gain", {"SCI": noise}, {"SUBSTRT2": 900}, name=name)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * 0.8) // 2880 * 2880])
        text = refused(load_reference, path, "gain", info)
        assert "truncated" in text
        assert "download it again" in text
        if name == "gain.fits":
            assert "gain.fits[1, SCI]: the file is truncated: its headers promise" in text

    def test_a_directory(self, tmp_path, info, refused):
        assert "cannot be read (IsADirectoryError" in refused(load_reference, tmp_path, "gain", info)

    def test_no_room_to_unpack(self, write, info, image, refused, monkeypatch):
        import errno

        from tsostream.references import fits_arrays

        def full(*_args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(fits_arrays.shutil, "copyfileobj", full)
        text = refused(load_reference, write("gain", {"SCI": image}, name="g.fits.gz"), "gain", info)
        assert "no room in" in text
        assert "set TMPDIR to a larger directory" in text

    def test_flipped_bytes_never_escape(self, write, info, image, standard_bits):
        path = write("superbias", {"SCI": image, "DQ": image.astype("u4")}, dq_def=standard_bits)
        whole = bytearray(path.read_bytes())
        rng = np.random.default_rng(7)
        for _ in range(60):
            broken = whole.copy()
            for at in rng.integers(0, 3 * 2880, 3):
                broken[at] = rng.integers(0, 256)
            path.write_bytes(broken)
            try:
                ref = load_reference(path, "superbias", info, notes=[])
            except ReferenceMismatchError as exc:
                text = str(exc)
            else:
                text = str(path)
                assert ref.arrays["SCI"].shape == info.frame_shape
            assert str(path) in text
