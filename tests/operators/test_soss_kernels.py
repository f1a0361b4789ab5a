"""Kernels of the SOSS overlap: as their twins."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.operators.soss.kernels import apply_operator, column_sums, subtract_orders
from tsostream.testing.naive.soss import naive_apply, naive_column_sums, naive_subtract_orders


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(0.0, 0.4))
def test_kernels_against_naive(seed: int, lost: float) -> None:
    rng = np.random.default_rng(seed)
    n, ny, nx = 3, 5, 4
    data = rng.normal(10, 3, (n, ny, nx)).astype(np.float32)
    bits = (rng.random((n, ny, nx)) < lost).astype(np.uint32)
    data[rng.random(data.shape) < lost / 2] = np.nan
    share = np.where(rng.random((ny, nx)) < 0.7, rng.random((ny, nx)), 0.0).astype(np.float32)
    template = rng.normal(10, 2, (ny, nx)).astype(np.float32)
    x, y = np.nonzero(share.T)
    start = np.concatenate([[0], np.cumsum((share > 0).sum(axis=0))]).astype(np.int32)
    pixel = (y * nx + x).astype(np.int32)
    sums = np.empty((n, nx))
    column_sums(data.reshape(n, -1), bits.reshape(n, -1), start, pixel, share[y, x], template[y, x], sums)
    np.testing.assert_allclose(sums, naive_column_sums(data, bits, share, template), rtol=1e-6, atol=1e-6)
    operator = rng.normal(size=(3, 5)).astype(np.float32)
    source, target = np.array([0, 2, 3], np.int32), np.array([1, 2, 5, 6, 7], np.int32)
    out = rng.normal(size=(n, 8))
    before = out.copy()
    expected = naive_apply(operator, source, target, sums, before)
    apply_operator(operator, source, target, sums, np.empty(5), out)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(out[:, [0, 3, 4]], before[:, [0, 3, 4]])
    profiles = rng.random((2, ny, nx)).astype(np.float32)
    amplitudes = out.reshape(n, 2, nx)
    clean = np.empty_like(data)
    for keep in (-1, 0, 1):
        subtract_orders(data, profiles, amplitudes, keep, clean)
        np.testing.assert_allclose(
            clean, naive_subtract_orders(data, profiles, amplitudes, keep), rtol=1e-5, atol=1e-4
        )
