"""Read variance of ramps that lost groups to charge migration (section 21.8). Tolerance: rounding; DQ exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.operators.ramp_fit_segment import SegmentFit
from tsostream.operators.rate_planes import RatePlanes
from tsostream.testing.builders import make_info
from tsostream.testing.naive.segments import charge_loss_variance
from tsostream.testing.oracle import Case, official_python, run_official

DNU, SAT, JUMP, LOSS = dq.DO_NOT_USE, dq.SATURATED, dq.JUMP_DET, dq.CHARGELOSS | dq.DO_NOT_USE


def exposure(rng: np.random.Generator, ngroups: int, count: int, share: float):
    """Ramps of which some lose groups, with other flags in between."""
    info = make_info(
        "NRC_TSIMAGE", ny=4, nx=9, ngroups=ngroups, nints=count, nframes=2, group_time=0.4, frame_time=0.2
    )
    shape = (count, ngroups, 4, 9)
    data = (300 + rng.normal(200, 5, shape).cumsum(axis=1)).astype(np.float32)
    groupdq = np.where(rng.random(shape) < share, rng.choice([JUMP, DNU], shape), 0)
    groupdq |= np.where(np.maximum.accumulate(rng.random(shape) < share / 3, axis=1), SAT, 0)
    groupdq |= np.where(np.maximum.accumulate(rng.random(shape) < share, axis=1), LOSS, 0)
    groupdq[:, :, 0] = 0  # a row without
    return info, data, groupdq.astype(np.uint8)


def fit(
    info, data, groupdq, gain, read, *, suppress: bool, charge_loss: bool
) -> tuple[RatePlanes, RatePlanes]:
    fitting = SegmentFit(info, gain, read, np.zeros(info.frame_shape, np.float32), suppress, charge_loss)
    out, mean = RatePlanes.empty((len(data), *info.frame_shape)), RatePlanes.empty(info.frame_shape)
    bits = np.zeros(info.frame_shape, np.uint32)
    fitting.run(data.copy(), groupdq.copy(), bits, out, mean, (0, 2, 0, info.nx))
    fitting.run(data.copy(), groupdq.copy(), bits, out, mean, (2, info.ny, 0, info.nx))
    return out, mean


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(3, 9),
    count=st.integers(1, 5),
    suppress=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_agrees_with_its_twin(seed: int, ngroups: int, count: int, suppress: bool, share: float) -> None:
    rng = np.random.default_rng(seed)
    info, data, groupdq = exposure(rng, ngroups, count, share)
    gain = rng.uniform(0.5, 3, info.frame_shape).astype(np.float32)
    read = rng.uniform(3, 20, info.frame_shape).astype(np.float32)
    read[0, 0] = read[2, 3] = 0
    plain, plain_mean = fit(info, data, groupdq, gain, read, suppress=suppress, charge_loss=False)
    out, mean = fit(info, data, groupdq, gain, read, suppress=suppress, charge_loss=True)
    for name in ("data", "err", "var_poisson", "dq"):
        np.testing.assert_array_equal(getattr(out, name), getattr(plain, name))
        np.testing.assert_array_equal(getattr(mean, name), getattr(plain_mean, name))
    noise = (read * (gain.astype(np.float64) / np.sqrt(2.0 * info.nframes))).astype(np.float32)
    tgroup, tframe = float(np.float32(info.group_time)), float(np.float32(info.frame_time))
    for y, x in np.ndindex(info.frame_shape):
        variances, of_mean = charge_loss_variance(
            groupdq[:, :, y, x], plain.var_rnoise[:, y, x], float(gain[y, x]), float(noise[y, x]),
            tgroup=tgroup, first_time=(info.nframes + 1) * tframe / 2, suppress=suppress,
        )  # fmt: skip
        np.testing.assert_allclose(out.var_rnoise[:, y, x], variances, rtol=1e-6)
        expected = plain_mean.var_rnoise[y, x] if of_mean is None else of_mean
        np.testing.assert_allclose(mean.var_rnoise[y, x], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
@pytest.mark.parametrize("suppress", [True, False])
def test_agrees_with_the_official_fit(suppress: bool) -> None:
    rng = np.random.default_rng(3)
    info, data, groupdq = exposure(rng, 7, 4, 0.2)
    planes = {
        "gain": np.full(info.frame_shape, 2, np.float32),
        "readnoise": np.full(info.frame_shape, 9, np.float32),
    }
    content = {name: {"arrays": {"SCI": plane}} for name, plane in planes.items()}
    case = Case(
        "ramp_fit", info, data, groupdq, np.zeros(info.frame_shape, np.uint32),
        {"suppress_one_group": suppress}, content,
    )  # fmt: skip
    (theirs,) = run_official([case])
    out, mean = fit(info, data, groupdq, *planes.values(), suppress=suppress, charge_loss=True)
    plain, _ = fit(info, data, groupdq, *planes.values(), suppress=suppress, charge_loss=False)
    assert (out.var_rnoise != plain.var_rnoise).sum() > 20
    for product, ours in (("rateints", out), ("rate", mean)):
        np.testing.assert_array_equal(ours.dq, theirs[f"{product}.dq"])
        for name in ("data", "err", "var_poisson", "var_rnoise"):
            np.testing.assert_allclose(
                getattr(ours, name), theirs[f"{product}.{name}"], rtol=2e-6, err_msg=f"{product} {name}"
            )
