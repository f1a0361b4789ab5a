"""emicorr: agrees with its twins and the official step (stage 1, section 5). Tolerance: rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration.payload import Ramp
from tsostream.integration.reference import Reference
from tsostream.operators import emi_joint, emi_sequential
from tsostream.operators.base import Binding
from tsostream.operators.emi_clock import wave_settings
from tsostream.operators.emi_joint import PHASES, Wave, make_wave
from tsostream.operators.emi_segment import SegmentInterference
from tsostream.operators.emi_sequential import Clock
from tsostream.operators.emicorr import Emicorr
from tsostream.testing.builders import make_info, make_ramp
from tsostream.testing.naive import interference as naive
from tsostream.testing.oracle import Case, compare, official_python, run_official
from tsostream.testing.recipes import emi_tree

INFO = make_info("MIR_LRS-SLITLESS", ny=48, nx=40, ngroups=6, nints=4)


def disturbed(
    info: Any, rng: np.random.Generator, amplitude: float, count: int = 4
) -> tuple[Any, list[Wave]]:
    """Ramps with both waves of the reference on top."""
    ramp = make_ramp(info, rng, count, hits=0.0)
    setting = wave_settings(emi_tree(info), info)
    assert setting
    waves = [make_wave(info, setting, *one) for one in zip(setting.frequencies, setting.shapes, strict=True)]
    for wave in waves:
        for i in range(count):
            start = 0.3137 + i * wave.step_integration
            window = (0, 0, 0, info.ny)
            emi_joint.subtract_wave(
                ramp.data[i], wave.phases, wave.step, start, -amplitude, wave.knots, window
            )
    return ramp, waves


def correct_segment(
    info: Any, data: np.ndarray, plane: np.ndarray, tree: Any = None, **parameters: Any
) -> None:
    """What the segment scope does with the integrations of a file, in place."""
    references = {} if tree is None else {"emicorr": Reference("emicorr", "", {}, tree)}
    step = Emicorr(scope="segment", **parameters).bind_segment(Binding(info, references, plane))
    assert isinstance(step, SegmentInterference)

    def scan(visit: Any, count: int) -> None:
        for index in reversed(range(count)):  # in no order
            visit(index, data[index].copy())

    found = step.find(scan, len(data), 11, lambda count: np.empty(count, np.float32)).found
    half = info.ny // 2
    for i, one in enumerate(data):
        for correction in found:
            # as two windows that cut through the four outputs
            for top, left in ((0, 0), (half, 0), (0, 18), (half, 18)):
                window = np.ascontiguousarray(
                    one[:, top : top + half, left : (left + 18 if left == 0 else None)]
                )
                correction.subtract(window, i, (top, left, 0, half))
                one[:, top : top + half, left : (left + 18 if left == 0 else None)] = window


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), limit=st.sampled_from([20.0, 400.0, 1e5]))
def test_tables_agree_with_their_twins(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    ramp, waves = disturbed(INFO, rng, 10.0, 1)
    data, wave = ramp.data[0], waves[seed % 2]
    usable = rng.random(INFO.frame_shape) < 0.9
    scatter = np.empty(INFO.frame_shape, np.float32)
    emi_joint.group_scatter(data, scatter)
    np.testing.assert_allclose(scatter, naive.scatter_of_groups(data), rtol=1e-4, atol=1e-2)
    size = wave.templates.shape[0]
    signal, number = np.empty((INFO.ngroups, size)), np.empty(size)
    emi_joint.accumulate(data, scatter, np.float32(limit), usable, wave.bins, signal, number)
    twin = naive.sum_quiet(data, usable & (scatter < limit), wave.bins, size)
    np.testing.assert_array_equal(number, twin[1])
    np.testing.assert_allclose(signal, twin[0], rtol=1e-12)
    a, b = np.empty(PHASES), np.empty(PHASES)
    emi_joint.fit_coefficients(signal, number, wave.templates, a, b)
    for m in (0, 13, 499):
        twin_a, twin_b = naive.straightness(signal, number, wave.templates[:, :, m])
        assert a[m] == pytest.approx(twin_a, rel=1e-9, abs=1e-9)
        assert b[m] == pytest.approx(twin_b, rel=1e-6, abs=1e-3)
    assert emi_joint.best_phase(a, b) == pytest.approx(naive.vertex_phase(a, b), abs=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(phase=st.one_of(st.floats(-3, 30), st.integers(-500, 5000).map(lambda k: k / 500)))
def test_template_index_agrees_with_its_twin(phase: float) -> None:
    assert emi_joint.template_index(phase) == naive.nearest_template(phase)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), step=st.floats(0, 4))
def test_combined_tables_agree_with_their_twin(seed: int, step: float) -> None:
    tables = np.random.default_rng(seed).normal(size=(3, 2, PHASES))
    a, b = np.empty(PHASES), np.empty(PHASES)
    emi_joint.combine_tables(tables, step, a, b)
    np.testing.assert_allclose(np.stack([a, b]), naive.add_tables(tables, step), rtol=1e-12)


def test_subtraction_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(4)
    info = make_info("MIR_LRS-SLITLESS", ny=5, nx=10, ngroups=3)
    setting = wave_settings(emi_tree(info), info)
    assert setting
    values = setting.shapes[0]
    wave = make_wave(info, setting, setting.frequencies[0], values)
    data = rng.normal(100, 10, (3, 5, 10)).astype(np.float32)
    expected = naive.remove_wave(data, wave.phases, wave.step, 0.77, 12.5, values)
    emi_joint.subtract_wave(data, wave.phases, wave.step, 0.77, 12.5, wave.knots, (0, 0, 0, 5))
    np.testing.assert_allclose(data, expected, rtol=1e-6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(4, 9),
    number=st.integers(0, 5),
    wave=st.sampled_from([0, 1]),
    whole=st.booleans(),
    scale=st.booleans(),
    fly=st.booleans(),
)
def test_sequential_algorithm_agrees_with_its_twin(
    seed: int, groups: int, number: int, wave: int, whole: bool, scale: bool, fly: bool
) -> None:
    """From the ramps to the table, and off the ramps again."""
    rng = np.random.default_rng(seed)
    info = make_info("MIR_LRS-SLITLESS", ny=12, nx=24, ngroups=groups, readpatt="FASTR1")
    # the last of whole frames' columns is read late
    info = replace(info, xstart=253 if whole else 1)
    setting = wave_settings(emi_tree(info), info)
    assert setting
    setting = replace(setting, shapes=()) if fly else setting
    clock = Clock.make(info, setting, wave, 16)
    assert (clock.numbers[3] == 5) == whole
    data = make_ramp(info, rng, 1, hits=0.0).data[0]
    shape = (groups, 12, 6)
    rest = np.empty(shape, np.float32)
    emi_sequential.leave_waves(data, rest, np.empty(groups, np.float32), np.empty(72, np.float32))
    np.testing.assert_allclose(rest, naive.leftover(data), rtol=1e-3, atol=0.05)
    start = number * clock.integration
    phases = naive.sample_phases(shape, start, clock.numbers)
    counts = np.empty(16, np.int64)
    emi_sequential.count_samples(shape, start, clock.numbers, counts)
    places = np.cumsum(counts) - counts
    values = np.empty(int(counts.sum()), np.float32)
    emi_sequential.put_samples(rest, start, clock.numbers, places.copy(), values)
    means = emi_sequential.bin_means(values, counts)
    np.testing.assert_allclose(means, naive.phased_means(rest, phases, 16), rtol=1e-6, atol=1e-6)
    if np.isnan(means).any():
        means = rng.normal(0, 1, 16)
    table = emi_sequential.find_table(means, clock, scale=scale)
    expected = naive.wave_table(means, clock.period, clock.shape, scale=scale)
    np.testing.assert_allclose(table, expected, rtol=1e-6, atol=1e-9)
    cleaned = naive.remove_table(data, phases, table, clock.period)
    emi_sequential.subtract_table(data, start, clock.numbers, table, (0, 0, 0, 12))
    np.testing.assert_allclose(data, cleaned, rtol=1e-6)


def test_takes_the_wave_out() -> None:
    rng = np.random.default_rng(7)
    ramp, _ = disturbed(INFO, rng, 0.0)
    clean = ramp.data.copy()
    ramp, _ = disturbed(INFO, np.random.default_rng(7), 40.0)
    before = np.std(ramp.data - clean)
    binding = Binding(INFO, {"emicorr": Reference("emicorr", "", {}, emi_tree(INFO))})
    (out,) = Emicorr().bind(binding).push(ramp)
    # a wave that is nearly a straight line over the ramp cannot be told from signal
    assert np.std(np.diff(out.data - clean, n=2, axis=1)) < 0.25 * before


@pytest.mark.parametrize(
    ("parameters", "left"),
    [({}, 0.1), ({"algorithm": "sequential"}, 0.5), ({"onthefly_corr_freq": (390.625, 10.039)}, 0.4)],
)
def test_both_algorithms_clean_a_quiet_scene(parameters: dict[str, Any], left: float) -> None:
    """With twelve groups; the sequential one cannot use a wave that is nearly straight over a frame."""
    info, rng = make_info("MIR_LRS-SLITLESS", ny=96, nx=72, ngroups=12, nints=1), np.random.default_rng(7)
    ramp, setting = make_ramp(info, rng, 1), wave_settings(emi_tree(info), info)
    assert setting
    scene = rng.uniform(5, 40, info.frame_shape) * np.arange(12)[:, None, None]
    ramp.data[0] = clean = (scene + rng.normal(0, 5, ramp.data[0].shape)).astype(np.float32)
    for frequency, shape in zip(setting.frequencies, setting.shapes, strict=True):
        wave = make_wave(info, setting, frequency, shape)
        emi_joint.subtract_wave(ramp.data[0], wave.phases, wave.step, 0.31, -10.0, wave.knots, (0, 0, 0, 96))
    before = np.std(np.diff(ramp.data[0] - clean, n=2, axis=0))
    binding = Binding(info, {"emicorr": Reference("emicorr", "", {}, emi_tree(info))})
    (out,) = Emicorr(**parameters).bind(binding).push(ramp)
    assert np.std(np.diff(out.data[0] - clean, n=2, axis=0)) < left * before


def test_skipped() -> None:
    reference = {"emicorr": Reference("emicorr", "", {}, emi_tree(INFO))}
    assert Emicorr().skip
    assert Emicorr().bind(Binding(make_info())).skipped == "only MIRI has the effect"
    assert "no emicorr reference" in Emicorr().bind(Binding(INFO)).skipped
    other = make_info("MIR_IMAGE")
    assert "SUB64" in Emicorr().bind(Binding(other, reference)).skipped
    assert "three groups" in Emicorr().bind(Binding(make_info("MIR_IMAGE", ngroups=2), reference)).skipped
    unknown = replace(INFO, subarray="SUBPRISM")
    assert "clocks of SUBPRISM" in Emicorr(onthefly_corr_freq=(10.0,)).bind(Binding(unknown)).skipped
    assert Emicorr(onthefly_corr_freq=(10.0,)).wants(INFO) == ((), ())


def test_an_integration_is_corrected_the_same_wherever_it_stands() -> None:
    """The streaming scope counts phases from the integration's own start, for both algorithms."""
    reference = {"emicorr": Reference("emicorr", "", {}, emi_tree(INFO))}
    ramp, _ = disturbed(INFO, np.random.default_rng(7), 40.0, 2)
    for algorithm in ("joint", "sequential"):
        step = Emicorr(algorithm=algorithm).bind(Binding(INFO, reference))
        both = Ramp(1, ramp.data.copy(), ramp.groupdq, ramp.pixeldq, ramp.times)
        alone = Ramp(77, ramp.data[1:].copy(), ramp.groupdq[1:], ramp.pixeldq, ramp.times[1:])
        np.testing.assert_array_equal(step.push(both)[0].data[1], step.push(alone)[0].data[0])


@pytest.mark.parametrize("size", [49, 50, 51, 64])
def test_reference_waves_of_any_length(size: int) -> None:
    """For some lengths rounding gives one value too many."""
    setting = wave_settings(emi_tree(INFO), INFO)
    assert setting
    shape = np.cos(2 * np.pi * np.arange(size) / size)
    clock = Clock.make(INFO, replace(setting, frequencies=(390.625,), shapes=(shape,)), 0, None)
    table = emi_sequential.find_table(
        np.cos(2 * np.pi * (np.arange(clock.bins) / clock.bins - 0.3)), clock, scale=True
    )
    assert len(table) >= clock.period
    assert np.argmax(table) / clock.period == pytest.approx(0.3, abs=0.03)


def test_median_of_the_scatter_is_exact() -> None:
    """Counted by leading and trailing bits, not sorted."""
    for count in (1, 2, 3):
        info = make_info("MIR_LRS-SLITLESS", ny=5, nx=8, ngroups=4)
        data = np.random.default_rng(count).normal(0, 50, (count, 4, 5, 8)).astype(np.float32)
        step = Emicorr(scope="segment").bind_segment(
            Binding(info, {"emicorr": Reference("emicorr", "", {}, emi_tree(info))})
        )
        assert isinstance(step, SegmentInterference)

        def scan(visit: Any, stop: int, data: np.ndarray = data) -> None:
            for index in range(stop):
                visit(index, data[index])

        scatter = np.empty((count, 5, 8), np.float32)
        for i in range(count):
            emi_joint.group_scatter(data[i], scatter[i])
        assert step._quiet_limit(scan, count) == 2 * np.median(scatter)


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_segment_scope_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(9), [], []
    sequential = {"algorithm": "sequential"}
    variants: list[tuple[str, int, dict[str, Any]]] = [
        (readpatt, groups, {"fit_ints_separately": separately})
        for readpatt in ("FAST", "FASTR1")
        for groups in (3, 6)
        for separately in (True, False)
    ]
    variants += [
        ("FAST", 12, sequential),
        ("FASTR1", 6, {**sequential, "scale_reference": False}),
        ("FASTR1", 11, {**sequential, "nints_to_phase": 3, "nbins": 40}),
        ("FASTR1", 10, {**sequential, "use_n_cycles": None}),
        ("FAST", 5, {"onthefly_corr_freq": [390.625, 10.039]}),
        ("FASTR1", 4, {"onthefly_corr_freq": [218.52055], "nbins": 700}),
    ]
    for readpatt, groups, parameters in variants:
        info = make_info("MIR_LRS-SLITLESS", ny=48, nx=40, ngroups=groups, nints=4, readpatt=readpatt)
        ramp, _ = disturbed(info, rng, 20.0)
        plane = np.where(rng.random(info.frame_shape) < 0.02, np.uint32(1), np.uint32(0))
        tree = None if "onthefly_corr_freq" in parameters else emi_tree(info)
        cases.append(
            Case(
                "emicorr", info, ramp.data.copy(), ramp.groupdq.copy(), plane, parameters=parameters,
                references={} if tree is None else {"emicorr": {"tree": tree}},
            )
        )  # fmt: skip
        data = ramp.data.copy()
        own = {key: tuple(one) if isinstance(one, list) else one for key, one in parameters.items()}
        correct_segment(info, data, plane, tree, **own)
        ours.append(data)
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE", case.parameters
        assert compare(data, theirs["data"]).largest < 0.01, case.parameters
        assert compare(case.data, theirs["data"]).largest > 1, case.parameters
