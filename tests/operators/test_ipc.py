"""ipc: agrees with its twin and the official step (stage 1, section 7). Tolerance: rounding of sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ReferenceMismatchError
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding
from tsostream.operators.ipc import Ipc, science_region
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive.corrections import convolve_frames
from tsostream.testing.oracle import Case, official_python, run_official


def kernel_of(
    info: ExposureInfo, rng: np.random.Generator, shape: tuple[int, int], *, planes: bool
) -> np.ndarray:
    weights = rng.normal(0, 0.02, (*shape, *info.frame_shape) if planes else shape)
    weights[shape[0] // 2, shape[1] // 2] += 1.0
    return weights.astype(np.float32)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(3, 3), (5, 3), (1, 3), (2, 4), (3, 5)]),
    planes=st.booleans(),
    corner=st.sampled_from([(1, 1), (2040, 2041), (900, 3)]),
    rows=st.integers(1, 8),
)
def test_agrees_with_its_twin(
    seed: int, shape: tuple[int, int], planes: bool, corner: tuple[int, int], rows: int
) -> None:
    rng = np.random.default_rng(seed)
    info = make_info("NRC_TSGRISM", ny=8, nx=9, ngroups=2, xstart=corner[0], ystart=corner[1])
    ramp = make_ramp(info, rng, 2)
    weights = kernel_of(info, rng, shape, planes=planes)
    expected = convolve_frames(ramp.data, weights, science_region(info))
    (out,) = Ipc().bind(Binding(info, {"ipc": Reference("ipc", "", {"SCI": weights})})).push(ramp)
    np.testing.assert_allclose(out.data, expected, rtol=1e-6, atol=1e-2)


def test_reference_pixels_are_left_alone_and_do_not_leak() -> None:
    info = make_info("NRC_TSGRISM", ny=8, nx=9, ngroups=1)
    ramp = make_ramp(info, np.random.default_rng(0), 1)
    ramp.data[...] = 0.0
    ramp.data[..., :4, :] = 100.0
    (out,) = (
        Ipc()
        .bind(Binding(info, {"ipc": Reference("ipc", "", {"SCI": np.full((3, 3), 0.1, "f4")})}))
        .push(ramp)
    )
    assert (out.data[..., :4, :] == 100).all()
    assert (out.data[..., 4:, 4:] == 0).all()


def test_region_without_reference_pixels_of_miri() -> None:
    assert science_region(make_info("MIR_LRS-SLITLESS", ny=20, nx=72)) == (0, 20, 4, 72)


def test_skipped_by_default_and_without_reference() -> None:
    assert Ipc().skip
    assert Ipc().bind(Binding(make_info())).skipped == "no ipc reference"


def test_a_kernel_of_three_axes_is_refused() -> None:
    reference = Reference("ipc", "k.fits", {"SCI": np.zeros((3, 3, 3), np.float32)})
    with pytest.raises(ReferenceMismatchError, match="3 axes"):
        Ipc().bind(Binding(make_info(), {"ipc": reference}))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_agrees_with_the_official_step() -> None:
    rng = np.random.default_rng(1)
    cases, ours = [], []
    exposures = (
        make_info("NRC_TSGRISM", ny=8, nx=9, ngroups=2, nints=2),
        make_info("NRC_TSGRISM", ny=8, nx=9, ngroups=2, nints=2, xstart=2040, ystart=2041),
        make_info("MIR_LRS-SLITLESS", ny=8, nx=12, ngroups=2, nints=2, xstart=1021, ystart=5),
    )
    for info in exposures:
        for shape, planes in (((3, 3), False), ((5, 3), False), ((3, 3), True)):
            weights, ramp = kernel_of(info, rng, shape, planes=planes), make_ramp(info, rng, 2)
            content = weights
            if planes:  # the official step cuts by absolute position
                full = (1024, 1032) if info.is_miri else (2048, 2048)
                content = np.zeros((*shape, *full), np.float32)
                y, x = info.ystart - 1, info.xstart - 1
                content[:, :, y : y + info.ny, x : x + info.nx] = weights
            cases.append(
                Case(
                    "ipc", info, ramp.data.copy(), ramp.groupdq.copy(), ramp.pixeldq,
                    references={"ipc": {"arrays": {"SCI": content}}},
                )
            )  # fmt: skip
            (out,) = Ipc().bind(Binding(info, {"ipc": Reference("ipc", "", {"SCI": weights})})).push(ramp)
            ours.append(out)
    for out, theirs in zip(ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        np.testing.assert_array_equal(out.data, theirs["data"])
