"""emicorr: agrees with its twins and the official step (stage 1, section 5). Tolerance: rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration.reference import Reference
from tsostream.operators import emicorr
from tsostream.operators.base import Binding
from tsostream.operators.emicorr import PHASES, Emicorr, Wave, make_wave, wave_settings
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
    found = wave_settings(emi_tree(info), info)
    assert found
    waves = [make_wave(info, frequency, values, found[0]) for frequency, values in found[1]]
    for wave in waves:
        for i in range(count):
            start = 0.3137 + i * wave.step_integration
            emicorr.subtract_wave(ramp.data[i], wave.phases, wave.step, start, -amplitude, wave.knots)
    return ramp, waves


def correct_segment(data: np.ndarray, usable: np.ndarray, waves: list[Wave], *, separately: bool) -> None:
    """What the official step does with the integrations of a file, from our kernels."""
    n, ngroups = data.shape[:2]
    for wave in waves:
        size, step = wave.templates.shape[0], wave.step_integration
        scatter = np.empty((n, *data.shape[2:]), np.float32)
        for i in range(n):
            emicorr.group_scatter(data[i], scatter[i])
        limit = np.float32(2 * np.median(scatter))
        tables = np.empty((n, 2, PHASES))
        signal, number = np.empty((ngroups, size)), np.empty(size)
        for i in range(n):
            emicorr.accumulate(data[i], scatter[i], limit, usable, wave.bins, signal, number)
            emicorr.fit_coefficients(signal, number, wave.templates, tables[i, 0], tables[i, 1])
        groups = [[i] for i in range(n)] if separately else [list(range(n))]
        for members in groups:
            a, b = np.empty(PHASES), np.empty(PHASES)
            if separately:
                turned = [emicorr.template_index(m / PHASES + step * members[0]) for m in range(PHASES)]
                a, b = tables[members[0], 0][turned], tables[members[0], 1][turned]
            else:
                emicorr.combine_tables(tables, step, a, b)
            best = emicorr.best_phase(a, b)
            index = [emicorr.template_index(best + step * i) for i in members]
            total = [sum(tables[i, row, k] for i, k in zip(members, index, strict=True)) for row in (0, 1)]
            amplitude = emicorr._amplitude(total[0], total[1])
            for i in members:
                emicorr.subtract_wave(data[i], wave.phases, wave.step, best + step * i, amplitude, wave.knots)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), limit=st.sampled_from([20.0, 400.0, 1e5]))
def test_tables_agree_with_their_twins(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    ramp, waves = disturbed(INFO, rng, 10.0, 1)
    data, wave = ramp.data[0], waves[seed % 2]
    usable = rng.random(INFO.frame_shape) < 0.9
    scatter = np.empty(INFO.frame_shape, np.float32)
    emicorr.group_scatter(data, scatter)
    np.testing.assert_allclose(scatter, naive.scatter_of_groups(data), rtol=1e-4, atol=1e-2)
    size = wave.templates.shape[0]
    signal, number = np.empty((INFO.ngroups, size)), np.empty(size)
    emicorr.accumulate(data, scatter, np.float32(limit), usable, wave.bins, signal, number)
    twin = naive.sum_quiet(data, usable & (scatter < limit), wave.bins, size)
    np.testing.assert_array_equal(number, twin[1])
    np.testing.assert_allclose(signal, twin[0], rtol=1e-12)
    a, b = np.empty(PHASES), np.empty(PHASES)
    emicorr.fit_coefficients(signal, number, wave.templates, a, b)
    for m in (0, 13, 499):
        twin_a, twin_b = naive.straightness(signal, number, wave.templates[:, :, m])
        assert a[m] == pytest.approx(twin_a, rel=1e-9, abs=1e-9)
        assert b[m] == pytest.approx(twin_b, rel=1e-6, abs=1e-3)
    assert emicorr.best_phase(a, b) == pytest.approx(naive.vertex_phase(a, b), abs=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(phase=st.one_of(st.floats(-3, 30), st.integers(-500, 5000).map(lambda k: k / 500)))
def test_template_index_agrees_with_its_twin(phase: float) -> None:
    assert emicorr.template_index(phase) == naive.nearest_template(phase)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), step=st.floats(0, 4))
def test_combined_tables_agree_with_their_twin(seed: int, step: float) -> None:
    tables = np.random.default_rng(seed).normal(size=(3, 2, PHASES))
    a, b = np.empty(PHASES), np.empty(PHASES)
    emicorr.combine_tables(tables, step, a, b)
    np.testing.assert_allclose(np.stack([a, b]), naive.add_tables(tables, step), rtol=1e-12)


def test_subtraction_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(4)
    info = make_info("MIR_LRS-SLITLESS", ny=5, nx=10, ngroups=3)
    found = wave_settings(emi_tree(info), info)
    assert found
    frequency, values = found[1][0]
    wave = make_wave(info, frequency, values, found[0])
    data = rng.normal(100, 10, (3, 5, 10)).astype(np.float32)
    expected = naive.remove_wave(data, wave.phases, wave.step, 0.77, 12.5, values)
    emicorr.subtract_wave(data, wave.phases, wave.step, 0.77, 12.5, wave.knots)
    np.testing.assert_allclose(data, expected, rtol=1e-6)


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


def test_skipped_and_refused() -> None:
    reference = {"emicorr": Reference("emicorr", "", {}, emi_tree(INFO))}
    assert Emicorr().skip
    assert Emicorr().bind(Binding(make_info())).skipped == "only MIRI has the effect"
    assert "no emicorr reference" in Emicorr().bind(Binding(INFO)).skipped
    other = make_info("MIR_IMAGE")
    assert "SUB64" in Emicorr().bind(Binding(other, reference)).skipped
    assert "three groups" in Emicorr().bind(Binding(make_info("MIR_IMAGE", ngroups=2), reference)).skipped
    with pytest.raises(ConfigError, match="sequential"):
        Emicorr(algorithm="sequential").bind(Binding(INFO, reference))


@pytest.mark.oracle
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON does not name a Python with jwst")
def test_segment_scope_agrees_with_the_official_step() -> None:
    rng, cases, ours = np.random.default_rng(9), [], []
    for readpatt in ("FAST", "FASTR1"):
        for groups in (3, 6):
            for separately in (True, False):
                info = make_info("MIR_LRS-SLITLESS", ny=48, nx=40, ngroups=groups, nints=4, readpatt=readpatt)
                ramp, waves = disturbed(info, rng, 20.0)
                plane = np.where(rng.random(info.frame_shape) < 0.02, np.uint32(1), np.uint32(0))
                cases.append(
                    Case(
                        "emicorr", info, ramp.data.copy(), ramp.groupdq.copy(), plane,
                        parameters={"fit_ints_separately": separately},
                        references={"emicorr": {"tree": emi_tree(info)}},
                    )
                )  # fmt: skip
                data = ramp.data.copy()
                correct_segment(data, plane == 0, waves, separately=separately)
                ours.append(data)
    for case, data, theirs in zip(cases, ours, run_official(cases), strict=True):
        assert theirs["status"] == "COMPLETE"
        assert compare(data, theirs["data"]).largest < 0.01
        assert compare(case.data, theirs["data"]).largest > 5
