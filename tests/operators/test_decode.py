"""decode: words of a file become the numbers astropy reads, bit for bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

from tsostream.integration.payload import Rate
from tsostream.operators.decode import decode_bits, decode_floats, decode_pass, decode_plane, decode_samples
from tsostream.operators.tile import Tile
from tsostream.testing.builders import make_times
from tsostream.testing.naive.ramps import decode_words


def file_words(array: np.ndarray, word: type) -> tuple[np.ndarray, np.ndarray]:
    """Write an array as FITS; give the file's words as the reader hands them over, and what astropy reads."""
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(array, name="SCI")]).writeto(file)
    with fits.open(io.BytesIO(file.getvalue())) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
        read = np.array(hdus[1].data)
    words = np.frombuffer(file.getvalue(), word, array.size, start).reshape(array.shape)
    return words, read


def test_samples_agree_with_astropy_for_every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(2, 4, 64, 128)
    words, read = file_words(values, np.uint16)
    data, groupdq = np.full(values.shape, np.nan, np.float32), np.full(values.shape, 255, np.uint8)
    decode_samples(words, data, groupdq, 0, 64)
    np.testing.assert_array_equal(data, read)
    np.testing.assert_array_equal(data[0, 0, :2], decode_words(words[0, 0, :2]))
    assert not groupdq.any()
    planes = np.full(values.shape[1:], np.nan, np.float32)
    decode_plane(words[0], planes, 0, 64)
    np.testing.assert_array_equal(planes, read[0])


def test_samples_outside_the_band_are_left_alone() -> None:
    words = np.zeros((1, 1, 6, 3), np.uint16)
    data, groupdq = np.full(words.shape, np.nan, np.float32), np.full(words.shape, 7, np.uint8)
    decode_samples(words, data, groupdq, 2, 4)
    assert (~np.isnan(data[0, 0, :, 0])).tolist() == [False, False, True, True, False, False]
    assert groupdq[0, 0, :, 0].tolist() == [7, 7, 0, 0, 7, 7]


def test_floats_agree_with_astropy() -> None:
    values = np.array([[0.0, -0.0, 1.5, np.pi, np.inf, -np.inf, np.nan, 1e-42]], np.float32)
    words, read = file_words(values, np.uint32)
    out = decode_floats(words)
    np.testing.assert_array_equal(out, read)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(values))
    assert out.dtype == np.dtype("=f4")
    assert out.flags.writeable
    assert not np.shares_memory(out, words)


def test_bits_agree_with_astropy() -> None:
    values = np.array([[0, 1, 2**31, 2**32 - 1, 1 << 30, 12345]], np.uint32)
    words, read = file_words(values, np.uint32)
    out = decode_bits(words)
    np.testing.assert_array_equal(out, read)
    assert out.dtype == np.dtype("=u4")


@pytest.mark.parametrize("raw", [None, np.zeros((1, 1, 2, 2), np.uint16)])
def test_pass_does_nothing_to_decoded_ramps(raw: np.ndarray | None) -> None:
    data, flags = np.full((1, 1, 2, 2), 5.0, np.float32), np.zeros((1, 1, 2, 2), np.uint8)
    rate = Rate(
        1, *(np.zeros((1, 2, 2), np.float32) for _ in range(4)), np.zeros((1, 2, 2), np.uint32), make_times(1)
    )
    decode_pass.run(Tile(1, raw, data, flags, rate), 0, 2)
    assert (data == (5.0 if raw is None else 32768.0)).all()
