"""The mean of a segment's slopes: the official weights, and the same bits whatever comes first."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tsostream.integration import dq
from tsostream.integration.payload import Rate, Times
from tsostream.sinks.products import MeanRate, RateSums

N, SHAPE = 9, (4, 6)


@pytest.fixture
def rate() -> Rate:
    rng = np.random.default_rng(2)
    full = (N, *SHAPE)
    data = rng.normal(100, 10, full).astype(np.float32)
    poisson = rng.uniform(1, 4, full).astype(np.float32)
    rnoise = rng.uniform(0.5, 2, full).astype(np.float32)
    bits = np.zeros(full, np.uint32)
    bits[2, 0, 0] = dq.JUMP_DET
    bits[3, 0, 1] = dq.SATURATED | dq.DO_NOT_USE
    bits[:, 0, 2] = dq.DO_NOT_USE | dq.DEAD
    bits[:, 1, 1] = dq.HOT
    unusable = bits & np.uint32(dq.DO_NOT_USE) != 0
    for array in (data, poisson, rnoise):
        array[unusable] = np.nan
    poisson[:, 2, 2] = 0
    times = Times(np.zeros((N, 6)), np.zeros(N, np.uint32))
    return Rate(5, data, np.sqrt(poisson + rnoise), poisson, rnoise, bits, times)


def part(rate: Rate, low: int, high: int) -> Rate:
    cut = slice(low, high)
    return Rate(
        rate.first + low, rate.data[cut], rate.err[cut], rate.var_poisson[cut], rate.var_rnoise[cut],
        rate.dq[cut], rate.times[cut],
    )  # fmt: skip


def mean_of(rate: Rate) -> dict[str, np.ndarray]:
    sums = MeanRate(rate.first, N, SHAPE).add(rate)
    assert sums is not None
    return sums.planes()


def test_the_weighted_mean(rate: Rate) -> None:
    planes = mean_of(rate)
    with np.errstate(all="ignore"):
        weight = np.where(np.isfinite(rate.data), 1 / rate.var_rnoise.astype(float), 0)
        expected = np.nansum(weight * rate.data, axis=0) / weight.sum(axis=0)
        variance = 1 / np.nansum(1 / rate.var_poisson.astype(float), axis=0)
    good = np.ones(SHAPE, bool)
    good[0, 2] = good[2, 2] = False
    np.testing.assert_allclose(planes["SCI"][good], expected[good], rtol=1e-6)
    np.testing.assert_allclose(planes["VAR_POISSON"][good], variance[good], rtol=1e-6)
    np.testing.assert_allclose(planes["ERR"] ** 2, planes["VAR_POISSON"] + planes["VAR_RNOISE"], rtol=1e-6)
    assert planes["VAR_POISSON"][2, 2] == 0
    assert np.isfinite(planes["SCI"][2, 2])
    assert {array.dtype for name, array in planes.items() if name != "DQ"} == {np.dtype(np.float32)}


def test_flags(rate: Rate) -> None:
    """Jumps and saturation of any integration; the rest only when all have it."""
    flags = mean_of(rate)["DQ"]
    assert flags[0, 0] == dq.JUMP_DET
    assert flags[0, 1] == dq.SATURATED
    assert flags[0, 2] == dq.DO_NOT_USE | dq.DEAD
    assert flags[1, 1] == dq.HOT
    assert flags[3, 3] == 0


def test_pixels_without_any_slope(rate: Rate) -> None:
    planes = mean_of(rate)
    assert all(np.isnan(planes[name][0, 2]) for name in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE"))
    sums = MeanRate(rate.first, N, SHAPE).add(rate)
    assert sums is not None
    official = sums.planes(unusable=0.0)
    assert np.isnan(official["SCI"][0, 2])
    assert official["ERR"][0, 2] == official["VAR_RNOISE"][0, 2] == 0


def test_blocks_in_any_order(rate: Rate) -> None:
    """Bit for bit; the caller's arrays are used again at once, as in a worker."""
    whole = mean_of(rate)
    for order in itertools.permutations([(0, 2), (2, 3), (3, 7), (7, 9)]):
        mean = MeanRate(rate.first, N, SHAPE)
        results = []
        for low, high in order:
            lent = part(rate, low, high)
            lent = Rate(
                lent.first, lent.data.copy(), lent.err, lent.var_poisson.copy(), lent.var_rnoise.copy(),
                lent.dq.copy(), lent.times,
            )  # fmt: skip
            results.append(mean.add(lent))
            lent.data[:], lent.var_rnoise[:], lent.var_poisson[:], lent.dq[:] = -1, -1, -1, 1
        assert [one is not None for one in results] == [False, False, False, True]
        planes = results[-1].planes()  # type: ignore[union-attr]
        assert all(planes[name].tobytes() == whole[name].tobytes() for name in whole)


@pytest.mark.oracle
@pytest.mark.parametrize("case", ["nrs_sub512", "nis_substrip96", "miri_sub64", "nrc_sub64p"])
def test_official_products(case: str, shared: Path) -> None:
    """The official ``rate`` follows from the official ``rateints``."""
    (path,) = (shared / "golden" / case / "jwst").glob("*seg001*rateints.fits.gz")
    with fits.open(path) as cubes, fits.open(path.with_name(path.name.replace("rateints", "rate"))) as mean:
        names = ("SCI", "VAR_POISSON", "VAR_RNOISE", "DQ")
        arrays = [cubes[name].data.astype(cubes[name].data.dtype.newbyteorder("=")) for name in names]
        sums = RateSums(arrays[0].shape[1:])
        for one in zip(*arrays, strict=True):
            sums.add(*one)
        planes = sums.planes(unusable=0.0)
        differ = planes["DQ"] != mean["DQ"].data
        # a readout noise of zero: the official mean is NaN, but not flagged
        assert np.isnan(mean["ERR"].data[differ]).all()
        assert differ.sum() <= 4
        for name in ("SCI", "ERR", "VAR_RNOISE"):
            ours, theirs = planes[name][~differ], mean[name].data[~differ]
            error = np.nanmedian(mean["ERR"].data)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * error)
