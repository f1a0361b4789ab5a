"""Kernels of the SOSS overlap: as their twins."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tsostream.operators.soss.kernels import (
    column_sums,
    factor_band,
    solve_band,
    sparse_product,
    subtract_orders,
)
from tsostream.testing.naive.soss import (
    naive_band_factor,
    naive_band_solve,
    naive_column_sums,
    naive_product,
    naive_subtract_orders,
)


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
    profiles = rng.random((2, ny, nx)).astype(np.float32)
    amplitudes = rng.normal(size=(n, 2, nx))
    clean = np.empty_like(data)
    for keep in (-1, 0, 1):
        subtract_orders(data, profiles, amplitudes, keep, clean)
        np.testing.assert_allclose(
            clean, naive_subtract_orders(data, profiles, amplitudes, keep), rtol=1e-5, atol=1e-4
        )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 9))
def test_banded_solutions_against_naive(seed: int, count: int, below: int) -> None:
    rng = np.random.default_rng(seed)
    band = rng.normal(size=(count, below))
    band[:, 0] = 2.0 * below + rng.random(count)
    values = rng.normal(size=(3, count))
    found = values.copy()
    solve_band(band, found)
    np.testing.assert_allclose(found, naive_band_solve(band, values), rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0))
def test_sparse_products_against_naive(seed: int, filled: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((6, 9)) < filled, rng.normal(size=(6, 9)), 0.0)
    rows = sparse.csr_matrix(matrix)
    vectors = rng.normal(size=(2, 9))
    out = np.empty((2, 6))
    sparse_product(rows.indptr, rows.indices, rows.data, vectors, out)
    np.testing.assert_allclose(out, naive_product(matrix, vectors), rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 11))
def test_band_factors_against_naive(seed: int, count: int, below: int) -> None:
    rng = np.random.default_rng(seed)
    band = rng.normal(size=(count, below))
    band[:, 0] = 2.0 * below + rng.random(count)
    # elements below the last row are none
    band[np.arange(count)[:, None] + np.arange(below) >= count] = 0.0
    found = band.copy()
    assert factor_band(found)
    np.testing.assert_allclose(found, naive_band_factor(band), rtol=1e-9, atol=1e-12)
    band[rng.integers(count), 0] = -1.0
    assert not factor_band(band)
