"""Bits of reference files to standard bits."""

import numpy as np
import pytest

from tsostream.integration import dq
from tsostream.references.dq_def import remap_dq, to_uint32


def table(*rows, names=("name", "value")):
    return np.array(list(rows), dtype=[(names[0], "U40"), (names[1], "u4" if names[1] == "value" else "i4")])


def test_each_row_moves_its_bit():
    stored = np.array([[0, 1, 2], [3, 4, 7]], np.uint32)
    out, unknown = remap_dq(stored, table(("DO_NOT_USE", 1), ("HOT", 2), ("WARM", 4)))
    d, h, w = dq.DO_NOT_USE, dq.HOT, dq.WARM
    np.testing.assert_array_equal(out, [[0, d, h], [d | h, w, d | h | w]])
    assert unknown == []


def test_a_bit_that_is_another_standard_bit_is_not_kept():
    # bit 2 is SATURATED in the standard, but this file calls it REFERENCE_PIXEL
    out, _ = remap_dq(np.array([2], np.uint32), table(("REFERENCE_PIXEL", 2)))
    assert out[0] == dq.REFERENCE_PIXEL


def test_unknown_names_are_dropped_and_reported():
    out, unknown = remap_dq(np.array([3], np.uint32), table(("WEIRD", 1), ("HOT ", 2), ("GOOD", 0), ("", 0)))
    assert out[0] == dq.HOT
    assert unknown == ["WEIRD"]


def test_a_table_with_only_bit_numbers():
    out, _ = remap_dq(np.array([1 << 31], np.uint32), table(("DEAD", 31), names=("name", "bit")))
    assert out[0] == dq.DEAD


def test_a_table_without_names_is_refused():
    with pytest.raises(ValueError, match="columns what, value, expected NAME and VALUE"):
        remap_dq(np.zeros(1, np.uint32), table(("DEAD", 1), names=("what", "value")))


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "u4", "i8", "f4", "f8", ">i2", ">f4"])
def test_bits_in_any_number_type(kind):
    np.testing.assert_array_equal(to_uint32(np.array([0, 1, 100], kind)), np.array([0, 1, 100], np.uint32))


def test_bit_31_of_a_signed_integer():
    assert to_uint32(np.array([-(2**31)], np.int32))[0] == dq.REFERENCE_PIXEL


@pytest.mark.parametrize("value", [np.nan, 0.5, 2.0**32, -(2.0**32)])
def test_numbers_that_are_no_bits_are_refused(value):
    with pytest.raises(ValueError, match="1 values are no bits"):
        to_uint32(np.array([1.0, value]))
