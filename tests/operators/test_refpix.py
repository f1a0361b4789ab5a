"""refpix: agrees with its twin and the official step (stage 1, section 9). Tolerance: rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.operators.base import Binding
from tsostream.operators.refpix import Refpix
from tsostream.operators.refpix_levels import clipped_mean, single_mean
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import clip_mean, subtract_reference_pixels
from tsostream.testing.oracle import Case, compare, official_python, run_official

#: one unit in the last place of the largest samples [DN]
ROUNDING = 2.5e-4


def mask_of(info: ExposureInfo, rng: np.random.Generator, bad: float = 0.03) -> np.ndarray:
    """Reference pixels on the detector's border, and a few bad pixels."""
    x, y = np.arange(info.nx) + info.xstart - 1, np.arange(info.ny) + info.ystart - 1
    border = ((x < 4) | (x >= 2044))[None, :] | ((y < 4) | (y >= 2044))[:, None]
    plane = np.where(border, np.uint32(dq.REFERENCE_PIXEL), np.uint32(0))
    plane[rng.random(plane.shape) < bad] |= np.uint32(dq.DO_NOT_USE)
    return plane


def ramps_of(info: ExposureInfo, rng: np.random.Generator, count: int = 2) -> Any:
    ramp = make_ramp(info, rng, count)
    shape = ramp.data.shape
    ramp.data[...] = rng.normal(100, 8, shape) + rng.normal(0, 30, (*shape[:2], 1, 1))
    ramp.data[rng.random(shape) < 0.01] += 2000
    return ramp


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 70), limit=st.sampled_from([1.0, 2.0, 3.0]))
def test_clipped_mean_agrees_with_its_twin(seed: int, count: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 5, count).astype(np.float32)
    values[rng.random(count) < 0.1] = rng.choice([0.0, 60000.0, np.nan, np.inf])
    ours = clipped_mean(np.concatenate([[9e9], values]).astype(np.float32), 1, count + 1, limit)
    assert ours == pytest.approx(clip_mean(values.astype(np.float64).tolist(), limit), rel=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 5, 7, 8, 9, 31, 128, 129, 300, 2048]),
    limit=st.sampled_from([1.5, 3.0]),
)
def test_single_precision_is_rounded_like_the_official_step(seed: int, count: int, limit: float) -> None:
    """The official step clips with scipy on float32; here not even the last bit differs."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1000, 5, count).astype(np.float32)
    values[rng.random(count) < 0.05] += 300
    given = np.concatenate([[9e9], values]).astype(np.float32)
    ours = single_mean(given, 1, count + 1, limit, np.empty_like(given))
    kept = scipy.stats.sigmaclip(values, low=limit, high=limit)[0] if values.std() else values
    assert np.float32(ours) == kept.mean()


def test_clipped_mean_of_equal_values_is_their_value() -> None:
    values = np.full(37, 0.1, np.float32)
    assert clipped_mean(values, 0, 37, 3.0) == np.float64(np.float32(0.1))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    axes=st.sampled_from([(1, 2), (-1, 2), (1, -2), (-1, -2), (2, 1), (-2, 1), (2, -1), (-2, -1)]),
    corner=st.tuples(st.sampled_from([1, 506, 2036, 1000]), st.sampled_from([1, 506, 2039, 1000])),
    outputs=st.sampled_from([1, 4]),
    odd_even=st.booleans(),
    length=st.sampled_from([1, 4, 11]),
)
def test_agrees_with_its_twin(
    seed: int,
    axes: tuple[int, int],
    corner: tuple[int, int],
    outputs: int,
    odd_even: bool,
    length: int,
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(
        "NRC_TSGRISM", nx=13, ny=10, ngroups=2, xstart=corner[0], ystart=corner[1],
        fastaxis=axes[0], slowaxis=axes[1], noutputs=outputs,
        subarray="SUB32" if seed % 5 == 0 else "SUBGRISM64",
    )  # fmt: skip
    plane, ramp = mask_of(info, rng, bad=0.05), ramps_of(info, rng)
    operator = Refpix(odd_even_columns=odd_even, side_smoothing_length=length, side_gain=0.7)
    bound = operator.bind(Binding(info, {}, plane))
    if bound.skipped:
        reference = (plane & dq.REFERENCE_PIXEL) != 0
        assert outputs == 4 or not reference.any() or odd_even
        return
    expected = subtract_reference_pixels(ramp.data, plane, info, odd_even=odd_even, length=length, gain=0.7)
    (out,) = bound.push(ramp)
    np.testing.assert_allclose(out.data, expected, rtol=0, atol=ROUNDING)


def test_edgeless_subarrays_use_their_outermost_columns() -> None:
    info = make_info(xstart=1025, ystart=957)
    ramp = ramps_of(info, np.random.default_rng(0))
    ramp.data[...] = 5.0
    ramp.data[..., 4:-4] = 1000.0
    (out,) = Refpix().bind(Binding(info)).push(ramp)
    assert (out.data[..., :4] == 0).all()
    assert (out.data[..., 4:-4] == 995).all()
    assert not out.pixeldq.any(), "only the work copy calls them reference pixels"


def test_without_reference_pixels_nothing_is_done() -> None:
    info = make_info("NRC_TSIMAGE", xstart=900, ystart=900)
    assert Refpix().bind(Binding(info)).skipped == "no usable reference pixels"


def test_miri_is_left_alone() -> None:
    assert "MIRI" in Refpix().bind(Binding(make_info("MIR_IMAGE"))).skipped


def test_a_subarray_off_the_detector_is_left_alone() -> None:
    assert "detector" in Refpix().bind(Binding(make_info(xstart=2040))).skipped


def test_unsupported_readouts_are_refused() -> None:
    with pytest.raises(ConfigError, match="multistripe"):
        Refpix().bind(Binding(make_info(header={"MSTR_RD1": 2})))
    with pytest.raises(ConfigError, match="sirs"):
        Refpix(refpix_algorithm="sirs").bind(Binding(make_info(subarray="FULL")))


#: instrument, detector, subarray, xstart, ystart, nx, ny, fastaxis, slowaxis, outputs
SUBARRAYS = (
    ("NIRISS", "NIS", "SUBSTRIP256", 1, 1793, 2048, 256, -2, -1, 1),
    ("NIRISS", "NIS", "SUBSTRIP96", 1, 1803, 2048, 96, -2, -1, 1),
    ("NIRSPEC", "NRS1", "SUB512", 1025, 957, 512, 32, 2, 1, 1),
    ("NIRSPEC", "NRS2", "SUB2048", 1, 957, 2048, 32, -2, -1, 1),
    ("NIRCAM", "NRCB4", "SUB64P", 1, 1985, 64, 64, -1, 2, 1),
    ("NIRCAM", "NRCALONG", "SUBGRISM64", 1, 1, 2048, 64, -1, 2, 4),
    ("NIRCAM", "NRCB1", "SUBGRISM256", 1, 1800, 2048, 249, 1, -2, 4),
    ("NIRCAM", "NRCB1", "OTHER", 101, 1, 1948, 40, 1, -2, 4),
)


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng = np.random.default_rng(3)
    cases, ours = [], []
    for facts in SUBARRAYS:
        instrument, detector, subarray, xstart, ystart, nx, ny, fast, slow, outputs = facts
        info = make_info(
            "NRC_TSGRISM", instrument=instrument, detector=detector, subarray=subarray, xstart=xstart,
            ystart=ystart, nx=nx, ny=ny, fastaxis=fast, slowaxis=slow, noutputs=outputs, ngroups=2, nints=2,
        )  # fmt: skip
        for parameters in ({}, {"odd_even_columns": False, "side_smoothing_length": 4, "siglimit": 2.0}):
            plane, ramp = mask_of(info, rng), ramps_of(info, rng)
            cases.append(
                Case("refpix", info, ramp.data.copy(), ramp.groupdq.copy(), plane, parameters=parameters)
            )
            (out,) = Refpix(**parameters).bind(Binding(info, {}, plane)).push(ramp)
            ours.append(out)
    for case, out, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert compare(out.data, theirs["data"]).largest <= ROUNDING, case.info.subarray
        assert compare(case.data, theirs["data"]).largest > 10
        np.testing.assert_array_equal(out.pixeldq, theirs["pixeldq"])
