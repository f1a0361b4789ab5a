"""Boxes of detector pixels."""

import pytest

from tsostream.references.geometry import Box, box_from_keywords, full_frame


def test_contains_and_slices():
    outer, inner = Box(11, 21, 30, 40), Box(15, 22, 5, 6)
    assert outer.contains(inner)
    assert outer.contains(outer)
    assert not inner.contains(outer)
    assert outer.slices_of(inner) == (slice(1, 7), slice(4, 9))
    assert str(inner) == "columns 15-19, rows 22-27"


@pytest.mark.parametrize("shift", [(-5, 0), (26, 0), (0, -2), (0, 34)])
def test_one_pixel_outside_is_outside(shift):
    outer, inner = Box(11, 21, 30, 40), Box(15, 22, 5, 6)
    assert not outer.contains(Box(inner.xstart + shift[0], inner.ystart + shift[1], inner.nx, inner.ny))


def test_miri_is_not_square():
    assert full_frame("MIRI") == Box(1, 1, 1032, 1024)
    assert full_frame("NIRSPEC") == Box(1, 1, 2048, 2048)


@pytest.mark.parametrize("broken", ["abc", 1.5, None, True])
def test_broken_keywords_never_raise(info, broken):
    keywords = {"SUBSTRT1": broken, "SUBSTRT2": 1, "SUBSIZE1": 10, "SUBSIZE2": 10}
    box = box_from_keywords(keywords, info)
    assert box is None or box.xstart == 1


def test_the_real_shape_wins(info):
    keywords = {"SUBSTRT1": 5, "SUBSTRT2": 6, "SUBSIZE1": 10, "SUBSIZE2": 10}
    assert box_from_keywords(keywords, info, (7, 8)) == Box(5, 6, 8, 7)
