import zlib

from hypothesis import given
from hypothesis import strategies as st

from tsostream.sinks.messages import join_crcs


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 2**32 - 1))
def test_crcs_of_two_parts_give_that_of_both(first, second, start):
    crc = zlib.crc32(first, start)
    assert join_crcs(crc, zlib.crc32(second), len(second)) == zlib.crc32(second, crc)


def test_crcs_of_long_parts():
    first, second = bytes(range(256)) * 5000, b"\1" * 3_000_001
    assert join_crcs(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)
