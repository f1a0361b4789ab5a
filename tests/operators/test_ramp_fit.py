"""ramp_fit: spec section 21. Tolerance: 1e-5 of the value + 1e-5 of the error; DQ exact."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.payload import Ramp, Rate
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.dark_current import DarkCurrent
from tsostream.operators.firstframe import Firstframe
from tsostream.operators.flux import flux_scale
from tsostream.operators.ramp_fit import RampFit
from tsostream.operators.ramp_slopes import clean_weights
from tsostream.operators.tile import Tile, empty_rate, make_scratch, run_passes
from tsostream.testing.builders import make_binding, make_info, make_ramp, make_reference, make_times
from tsostream.testing.naive.slopes import fit_all, flux_ratio, poisson_and_error

JUMP, SAT, DNU, PERS = dq.JUMP_DET, dq.SATURATED, dq.DO_NOT_USE, dq.PERSISTENCE
FLOOR = dq.AD_FLOOR | DNU


def assert_close(got: np.ndarray, expected: np.ndarray, error: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    there = ~np.isnan(expected)
    limit = 1e-5 * np.abs(expected) + 1e-5 * np.nan_to_num(error)
    assert (np.abs(got - expected)[there] <= limit[there]).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    ngroups=st.integers(1, 12),
    nframes=st.sampled_from([1, 4]),
    suppress=st.booleans(),
    templates=st.booleans(),
    flags=st.sampled_from([0.0, 0.03, 0.2]),
    zeroframe=st.booleans(),
)
def test_agrees_with_its_twin(
    seed: int, ngroups: int, nframes: int, suppress: bool, templates: bool, flags: float, zeroframe: bool
) -> None:
    rng = np.random.default_rng(seed)
    info = dataclasses.replace(make_info(ny=5, nx=16, ngroups=ngroups, nframes=nframes), zeroframe=zeroframe)
    binding = make_binding(RampFit, info, rng, share=0.02)
    if not templates:
        binding = dataclasses.replace(binding, templates={})
    gain, read = (binding.references[name].arrays["SCI"] for name in ("gain", "readnoise"))
    ramp = make_ramp(info, rng, 2, bias=0.0, flags=flags, hits=0.0)
    jumped = (rng.random(ramp.groupdq.shape) < flags) & (ramp.groupdq & (SAT | DNU) == 0)
    ramp.groupdq[jumped] |= JUMP
    ramp.groupdq[rng.random(ramp.groupdq.shape) < flags / 4] |= FLOOR
    if zeroframe:
        ramp.zeroframe = rng.normal(300, 100, ramp.data[:, 0].shape).astype(np.float32)
        ramp.zeroframe[rng.random(ramp.zeroframe.shape) < 0.2] = 0

    unknown = ~(gain > 0)
    plane = binding.dq_plane | np.where(unknown, np.uint32(dq.NO_GAIN_VALUE | DNU), np.uint32(0))
    plane |= np.where(np.isnan(read), np.uint32(DNU), np.uint32(0))
    usable_gain = np.where(unknown, 1.0, gain)
    noise = np.nan_to_num(read * usable_gain / np.sqrt(2 * nframes))
    # without templates the weights follow the ramp; where the template is NaN no signal is expected
    image = binding.templates["image"] if templates else np.full(info.frame_shape, np.nan, np.float32)
    slope, unit, rnoise, bits = fit_all(
        ramp.data, ramp.groupdq, plane, usable_gain, noise, np.nan_to_num(image) if templates else image,
        tgroup=info.group_time, first_time=(nframes + 1) * info.frame_time / 2,
        suppress=suppress and ngroups > 1, zero=ramp.zeroframe, tframe=info.frame_time,
    )  # fmt: skip
    step = RampFit(suppress_one_group=suppress).bind(binding)
    (out,) = step.push(ramp)
    scale = np.ones(2)
    if templates:
        search = step.passes[1].run.keywords
        scale = flux_ratio(out.data, search["pixels"], search["levels"])
    poisson, error = poisson_and_error(slope, unit, rnoise, image, scale)
    np.testing.assert_array_equal(out.dq, bits)
    assert_close(out.data, slope, error)
    assert_close(out.var_rnoise, rnoise, rnoise)
    if templates:
        assert_close(out.var_poisson, poisson, error**2)
        assert_close(out.err, error, error)
    else:
        # the variance follows the slope itself, which is known to 1e-5 of the error only
        np.testing.assert_allclose(out.var_poisson, poisson, rtol=3e-5, atol=1e-5 * np.nanmax(error**2))
        np.testing.assert_allclose(out.err, error, rtol=3e-5)


def fit(
    ramps: Any,
    groupdq: Any = None,
    *,
    noise: float = 10.0,
    gain: float = 2.0,
    image: Any = None,
    nframes: int = 1,
    pixeldq: Any = None,
    **parameters: Any,
) -> Rate:
    """Fit one row of ramps [x, group] with a group time of 2 s."""
    data = np.asarray(ramps, np.float32)
    nx, ngroups = data.shape
    info = make_info(ny=1, nx=nx, ngroups=ngroups, nframes=nframes, frame_time=2.0 / nframes, group_time=2.0)
    rng = np.random.default_rng(0)
    references = {}
    for name, value in (("gain", gain), ("readnoise", noise)):
        plane = np.full((1, nx), value, np.float32)
        references[name] = dataclasses.replace(
            make_reference(name, info, rng, share=0.0), arrays={"SCI": plane}
        )
    templates = {} if image is None else {"image": np.asarray(image, np.float32)[None]}
    plane = None if pixeldq is None else np.asarray(pixeldq, np.uint32)[None]
    step = RampFit(**parameters).bind(Binding(info, references, plane, templates))
    flags = np.zeros(data.shape) if groupdq is None else np.asarray(groupdq)
    block = Ramp(
        1,
        np.ascontiguousarray(data.T[None, :, None]),
        np.ascontiguousarray(flags.T[None, :, None], np.uint8),
        np.zeros((1, nx), np.uint32),
        make_times(1),
    )
    (out,) = step.push(block)
    assert isinstance(out, Rate)
    return out


LINE = np.arange(5) * 100.0 + 7.0
HIT = np.array([0.0, 0.0, 900.0, 900.0, 900.0])


@pytest.mark.parametrize(
    ("ramp", "flags", "slope", "bits"),
    [
        pytest.param(LINE, [SAT] * 5, np.nan, DNU | SAT, id="all saturated"),
        pytest.param(LINE, [SAT, 0, 0, 0, 0], np.nan, DNU | SAT, id="first saturated"),
        pytest.param(LINE, [DNU] * 5, np.nan, DNU, id="all do-not-use"),
        pytest.param(LINE, [0, SAT, SAT, SAT, SAT], np.nan, DNU | SAT, id="one good, rest saturated"),
        pytest.param(LINE, [DNU, DNU, 0, DNU, DNU], np.nan, DNU, id="one good, rest do-not-use"),
        pytest.param(LINE, [DNU, JUMP, 0, DNU, DNU], np.nan, DNU | JUMP, id="one good after a jump"),
        pytest.param(LINE, [0, 0, SAT, SAT, SAT], 50.0, SAT, id="two good groups"),
        pytest.param(LINE, [0, 0, 0, SAT, SAT], 50.0, SAT, id="partly saturated"),
        pytest.param(LINE + HIT, [0, 0, JUMP, 0, 0], 50.0, JUMP, id="jump in the middle"),
        pytest.param(LINE + HIT, [0, 0, FLOOR, 0, 0], 50.0, 0, id="hole in the middle"),
        pytest.param(LINE, [0, 0, PERS, 0, 0], 50.0, PERS, id="persistence only"),
        pytest.param(LINE, [PERS] * 5, 50.0, PERS, id="persistence everywhere"),
        pytest.param(LINE, [0, 0, JUMP, JUMP, 0], 50.0, JUMP, id="two jumps in a row"),
        pytest.param(LINE, [JUMP | DNU] * 5, np.nan, DNU | JUMP, id="jump and do-not-use"),
    ],
)
def test_special_cases(ramp: np.ndarray, flags: list[int], slope: float, bits: int) -> None:
    """Spec 21.10, where streaming does the same."""
    out = fit([ramp], [flags])
    np.testing.assert_allclose(out.data[0, 0, 0], slope, rtol=1e-6)
    assert out.dq[0, 0, 0] == bits
    for variance in (out.err, out.var_poisson, out.var_rnoise):
        assert np.isnan(variance[0, 0, 0]) == np.isnan(slope)


def test_variances_of_special_cases() -> None:
    """Closed forms of 21.5 and 21.6: r = R G / sqrt 2, K differences; template of 50 DN/s everywhere."""
    flags = [[0] * 5, [0, 0, SAT, SAT, SAT], [0, 0, JUMP, 0, 0], [0, 0, 0, DNU, 0]]
    out = fit([LINE] * 4, flags, image=[50.0] * 4)
    r2, unit = (10.0 * 2.0) ** 2 / 2, (2.0 * 2.0) ** 2
    five, two, three = 12 * r2 / (125 - 5) / unit, 2 * r2 / unit, 12 * r2 / (27 - 3) / unit
    np.testing.assert_allclose(out.var_rnoise[0, 0], [five, two, 1 / (1 / two + 1 / three), three], rtol=1e-6)
    np.testing.assert_allclose(out.var_poisson[0, 0], 50.0 / (2.0 * 2.0) / np.array([4, 1, 3, 2]), rtol=1e-6)
    np.testing.assert_allclose(out.err**2, out.var_poisson + out.var_rnoise, rtol=1e-6)


def test_static_flags_take_the_slope_away() -> None:
    out = fit([LINE] * 3, pixeldq=[DNU, dq.HOT, 0])
    assert out.dq[0, 0].tolist() == [DNU, dq.HOT, 0]
    assert np.isnan(out.data[0, 0]).tolist() == [True, False, False]


@pytest.mark.parametrize(("gain", "noise"), [(0.0, 10.0), (-1.0, 10.0), (np.nan, 10.0), (2.0, np.nan)])
def test_unknown_gain_or_noise(gain: float, noise: float) -> None:
    out = fit([LINE], gain=gain, noise=noise)
    assert np.isnan(out.data).all()
    assert (out.dq & DNU).all()
    assert bool(out.dq[0, 0, 0] & dq.NO_GAIN_VALUE) == (not gain > 0)


def test_one_group() -> None:
    """A ramp of one group integrates from the reset: its time is the mean read time of the group."""
    out = fit([[300.0], [300.0], [300.0]], [[0], [SAT], [DNU]], nframes=4)
    assert out.data[0, 0, 0] == pytest.approx(300.0 / (5 * 0.5 / 2))
    assert np.isnan(out.data[0, 0, 1:]).all()
    assert out.dq[0, 0].tolist() == [0, DNU | SAT, DNU]


def test_two_groups() -> None:
    out = fit([[100.0, 180.0], [100.0, 180.0]], [[0, 0], [0, JUMP]])
    assert out.data[0, 0, 0] == pytest.approx(40.0)
    assert np.isnan(out.data[0, 0, 1])
    assert out.dq[0, 0, 1] == DNU | JUMP


def test_single_good_groups_when_they_are_not_suppressed() -> None:
    """The first group stands for the time since the reset (21.2), any other for a group time (21.5)."""
    ramp, flags = [300.0, 600.0, 900.0], [[0, SAT, SAT], [DNU, 0, DNU], [0, DNU, 0]]
    out = fit([ramp] * 3, flags, nframes=4, suppress_one_group=False)
    mean_read = 5 * 0.5 / 2
    np.testing.assert_allclose(out.data[0, 0], [300 / mean_read, 600 / 2.0, 300 / 2.0], rtol=1e-6)
    noise = 2 * (20.0**2 / 8) / (np.array([mean_read, 2.0, 2.0]) * 2.0) ** 2
    np.testing.assert_allclose(out.var_rnoise[0, 0], noise, rtol=1e-6)
    suppressed = fit([ramp] * 3, flags, nframes=4)
    assert np.isnan(suppressed.data[0, 0]).tolist() == [True, True, False]


def test_deliberate_differences_from_the_official_step() -> None:
    """Where the official step writes zeros, here stand honest values."""
    # no good group, not all DO_NOT_USE: there slope 0, no DO_NOT_USE
    out = fit([LINE], [[DNU, JUMP, JUMP, JUMP, JUMP]])
    assert np.isnan(out.data[0, 0, 0])
    assert out.dq[0, 0, 0] == DNU | JUMP
    # missing error bars are NaN, there 0
    assert np.isnan([out.err, out.var_poisson, out.var_rnoise]).all()
    # no read noise at all: there NaN, here the slope of an unweighted sum
    silent = fit([LINE] * 2, [[0] * 5, [0, 0, JUMP, 0, 0]], noise=0.0)
    np.testing.assert_allclose(silent.data[0, 0], 50.0, rtol=1e-6)
    assert (silent.var_rnoise == 0).all()
    assert (silent.err > 0).all()
    # a huge read-noise variance: there above 1e6 the slope becomes 0
    loud = fit([LINE], noise=5e4)
    assert loud.data[0, 0, 0] == pytest.approx(50.0)
    assert loud.var_rnoise[0, 0, 0] > 1e6


def test_weights_do_not_follow_the_signal() -> None:
    """P9: with a template the slope is linear in the data: nothing is decided by the flux."""
    rng = np.random.default_rng(3)
    one, two = rng.normal(0, 300, (2, 40, 9)).cumsum(axis=2)
    image = 10 ** rng.uniform(0, 4, 40)
    flags = np.where(rng.random((40, 9)) < 0.05, JUMP, 0)

    def slopes(data: np.ndarray, template: Any) -> np.ndarray:
        return fit(data, flags, image=template).data[0, 0].astype(float)

    both = slopes(0.7 * one + 1.9 * two, image)
    np.testing.assert_allclose(
        both, 0.7 * slopes(one, image) + 1.9 * slopes(two, image), rtol=2e-4, atol=1e-3
    )
    free = slopes(0.7 * one + 1.9 * two, None)
    parts = 0.7 * slopes(one, None) + 1.9 * slopes(two, None)
    assert np.nanmax(np.abs(free - parts)) > 1.0, "without a template the weights do follow it"


def test_poisson_variance_follows_the_integration_not_the_pixel() -> None:
    """var_poisson is the template's shape at this integration's level: half the flux, half the variance."""
    image = np.full(50, 80.0)
    ramps = np.arange(5)[None, :] * 2.0 * np.random.default_rng(0).normal(40.0, 3.0, (50, 1))
    out = fit(ramps, image=image)
    level = np.median(out.data / 80.0) * 80.0
    np.testing.assert_allclose(out.var_poisson, level / (2.0 * 2.0 * 4), rtol=1e-5)
    assert level == pytest.approx(40.0, rel=0.05)


def test_first_and_last_group() -> None:
    bent = np.array([0.0, 500.0, 600.0, 700.0, 5000.0])
    assert fit([bent], firstgroup=1, lastgroup=3).data[0, 0, 0] == pytest.approx(50.0)
    everything = fit([bent]).data[0, 0, 0]
    assert fit([bent], firstgroup=3, lastgroup=3).data[0, 0, 0] == everything, "an empty range is ignored"
    assert fit([bent], lastgroup=50).data[0, 0, 0] == everything


def test_nan_and_infinite_samples_stay_where_they_are() -> None:
    ramps = np.tile(LINE, (3, 1))
    ramps[0, 2], ramps[1, 3] = np.nan, np.inf
    out = fit(ramps, image=[50.0] * 3)
    assert not np.isfinite(out.data[0, 0, :2]).any()
    assert out.data[0, 0, 2] == pytest.approx(50.0)


@pytest.mark.parametrize("ngroups", [2, 3, 4, 10, 30])
def test_clean_weights_measure_a_slope(ngroups: int) -> None:
    weights = clean_weights(ngroups)
    np.testing.assert_allclose(weights.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(weights @ np.arange(ngroups), 1.0, rtol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.2, 1.0]))
def test_flux_scale_agrees_with_its_twin(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    slope = rng.normal(100, 5, (3, 6, 7)).astype(np.float32)
    slope[rng.random(slope.shape) < share] = rng.choice([np.nan, np.inf])
    pixels = np.sort(rng.choice(42, 9, replace=False)).astype(np.int32)
    template = rng.uniform(50, 150, 9).astype(np.float32)
    scale = np.empty(3)
    flux_scale(slope, pixels, template, scale)
    np.testing.assert_allclose(scale, flux_ratio(slope, pixels, template), rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"algorithm": "GLS"}, r"ramp_fit\.algorithm = 'GLS'"),
        ({"firstgroup": -1}, r"ramp_fit\.firstgroup = -1.*>= 0"),
        ({"supress_one_group": True}, r"did you mean suppress_one_group\?"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(RampFit, parameters)


def test_estimated_fluxes_are_marked_in_their_integration() -> None:
    """What firstframe keeps because of saturation shows in the slopes' DQ, of that integration only."""
    info = make_info("MIR_IMAGE", ny=4, nx=6, ngroups=6, nints=2)
    rng = np.random.default_rng(8)
    ramp = make_ramp(info, rng, 2, hits=0.0, saturated=0.0)
    ramp.groupdq[1, 2:, 1, 3] |= SAT
    steps = (Firstframe(skip=False).bind(Binding(info)), RampFit().bind(make_binding(RampFit, info, rng)))
    rate = empty_rate((2, 4, 6), 1, ramp.times)
    tile = Tile(1, None, ramp.data, ramp.groupdq, rate, make_scratch(steps, 2))
    run_passes(tile, [one for step in steps for one in step.passes], info.ny, 2)
    expected = np.zeros((2, 4, 6), bool)
    expected[1, 1, 3] = True
    np.testing.assert_array_equal((rate.dq & dq.FLUX_ESTIMATED) != 0, expected)


def test_average_dark_current_adds_photon_noise() -> None:
    """The dark's own average current, or the step's parameter, reaches the variance of the slopes."""
    info = make_info(ny=3, nx=5, ngroups=5)
    rng = np.random.default_rng(9)
    binding = make_binding(RampFit, info, rng, share=0.0)
    image = binding.templates["image"]
    dark = make_binding(DarkCurrent, info, rng, share=0.0)
    told = DarkCurrent(average_dark_current=7.5).bind(dark).templates
    np.testing.assert_array_equal(told["average_dark_current"], np.float32(7.5))
    plane = rng.uniform(1, 2, info.frame_shape).astype(np.float32)
    record = dark.references["dark"]
    with_plane = dataclasses.replace(record, arrays={**record.arrays, "AVDRKCUR": plane})
    bound = DarkCurrent().bind(dataclasses.replace(dark, references={"dark": with_plane}))
    np.testing.assert_array_equal(bound.templates["average_dark_current"], plane)
    ramp = make_ramp(info, rng, 1, hits=0.0, saturated=0.0)
    (out,) = RampFit().bind(binding).push(ramp)
    templates = {**binding.templates, "average_dark_current": plane}
    (other,) = RampFit().bind(dataclasses.replace(binding, templates=templates)).push(ramp)
    level = np.maximum(np.where(np.isnan(image), out.data[0], image), 0)
    there = np.isfinite(out.var_poisson[0]) & (out.var_poisson[0] > 0)
    ratio = other.var_poisson[0][there] / out.var_poisson[0][there]
    scale = 1 / (ratio - 1) * plane[there] / level[there]
    np.testing.assert_allclose(scale, np.median(scale), rtol=2e-3)
