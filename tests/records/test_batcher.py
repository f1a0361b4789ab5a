import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_builders import DETECTOR, EXPOSURE, measurement, schemas

from tsostream.errors import OperatorError
from tsostream.records import Batcher, RowSchemas


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def batcher(clock=None, **options):
    lc, spectra = schemas()
    return Batcher(RowSchemas(EXPOSURE, DETECTOR, lc, spectra), clock=clock or Clock(), **options)


def sizes(pairs):
    return [pair.light_curve.num_rows for pair in pairs]


def test_a_batch_closes_at_64_rows():
    collected = batcher()
    collected.push(measurement(1, 1))
    assert collected.push(measurement(2, 63)) == []
    assert collected.pending_rows == 63
    (pair,) = collected.push(measurement(65, 1))
    assert sizes([pair]) == [64]
    assert pair.last_integration == 65
    assert collected.due() is None
    assert sizes(collected.push(measurement(66, 200))) == [64, 64, 64]
    assert sizes(collected.flush()) == [8]
    assert collected.flush() == []


def test_a_batch_closes_a_quarter_second_after_the_one_before():
    """So rows that come after a silence, the first one too, do not wait for others."""
    clock = Clock()
    collected = batcher(clock)
    assert collected.due() is None
    assert sizes(collected.push(measurement(1, 1))) == [1]
    clock.now += 0.1
    assert collected.push(measurement(2, 1)) == []
    assert collected.due() == pytest.approx(0.15)
    clock.now += 0.1
    assert collected.push(measurement(3, 1)) == []
    assert collected.due() == pytest.approx(0.05)
    clock.now += 0.1
    assert collected.due() == 0
    assert sizes(collected.push(measurement(4, 1))) == [3]
    assert collected.due() is None
    clock.now += 60.0
    assert sizes(collected.push(measurement(5, 2))) == [2]


def test_the_idle_timer_flushes_what_waits():
    clock = Clock()
    collected = batcher(clock)
    collected.push(measurement(1, 1))
    assert collected.push(measurement(2, 2)) == []
    clock.now += collected.due()
    assert collected.due() == 0
    assert sizes(collected.flush()) == [2]


def test_batches_hold_whole_integrations():
    keys = ((1, 0), (1, 1), (2, 0))
    pairs = batcher().push(measurement(1, 50, keys=keys))
    assert sizes(pairs) == [63, 63]
    assert [pair.last_integration for pair in pairs] == [21, 42]
    many = tuple((1, aperture) for aperture in range(70))
    assert sizes(batcher().push(measurement(1, 2, keys=many))) == [70, 70]


def test_integrations_out_of_order_are_refused():
    collected = batcher()
    collected.push(measurement(5, 2))
    for first in (5, 6, 8):
        with pytest.raises(OperatorError, match=f"integration {first} came after 6, expected 7"):
            collected.push(measurement(first, 1))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 20),
    st.lists(st.floats(0, 0.3), min_size=8, max_size=8),
)
def test_whatever_the_blocks_the_rows_are_the_same(blocks, n_keys, max_rows, pauses):
    keys = tuple((1, aperture) for aperture in range(n_keys))
    clock = Clock()
    collected = batcher(clock, max_rows=max_rows)
    pairs = []
    first = 1
    for count, pause in zip(blocks, pauses, strict=False):
        clock.now += pause
        pairs += collected.push(measurement(first, count, keys=keys))
        assert collected.pending_rows <= max(max_rows, n_keys)
        first += count
    pairs += collected.flush()
    for pair in pairs:
        assert 0 < pair.light_curve.num_rows <= max(max_rows, n_keys)
        assert pair.light_curve["integration"] == pair.spectra["integration"]
    lc, spectra = schemas()
    whole = Batcher(RowSchemas(EXPOSURE, DETECTOR, lc, spectra), max_rows=2000)
    expected = [*whole.push(measurement(1, first - 1, keys=keys)), *whole.flush()]
    for index, schema in enumerate((lc, spectra)):
        one = pa.Table.from_batches([pair[index] for pair in pairs], schema=schema).combine_chunks()
        other = pa.Table.from_batches([pair[index] for pair in expected], schema=schema).combine_chunks()
        assert one.num_rows == (first - 1) * n_keys
        assert _same(one, other)


def _same(one, other):
    # byte by byte: pyarrow says that NaN differs from NaN
    return all(
        pa.RecordBatch.from_arrays([a.combine_chunks()], ["c"])
        .serialize()
        .equals(pa.RecordBatch.from_arrays([b.combine_chunks()], ["c"]).serialize())
        for a, b in zip(one.columns, other.columns, strict=True)
    )
