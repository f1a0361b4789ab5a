"""Optimal extraction and the joint fit: as their twin, unbiased, as precise as noise allows, several at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.aperture.sums import measure_spectrum
from tsostream.operators.base import Binding
from tsostream.operators.extract_1d import BoundExtract1d, Extract1d
from tsostream.operators.spectral.fitting import fit_block
from tsostream.operators.spectral.series import Series
from tsostream.testing.builders import make_binding, make_info, make_rate, make_scene
from tsostream.testing.naive.extraction import fit_column, is_lost

FITS = ["optimal", "profile"]
MODES = ["NRS_BRIGHTOBJ", "MIR_LRS-SLITLESS"]


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def columns_of(block: Rate, one: Series, box: Any, i: int, c: int) -> dict[str, Any]:
    """What the fit of one column is given, pixel by pixel."""
    a, p = one.aperture, one.fit
    ratio = np.where(np.isfinite(box.fit[i]) & (box.fit[i, 0] > 0), box.fit[i] / box.fit[i, 0], np.eye(5)[0])
    if not box.fit[i, 0] > 0:
        ratio = np.eye(5)[0]
    rows, lost, whole, moved = [], 0, 0.0, 0.0
    for k in range(a.start[c], a.start[c + 1]):
        q = a.pixel[k]
        shape, scale = float(ratio @ a.shape[k].astype(float)), float(a.scale[q])
        whole += a.weight[k] * shape
        moved += a.weight[k] * float(ratio[1]) * float(a.shape[k, 1])
        variance = float(flat(block.var_poisson)[i, q] + flat(block.var_rnoise)[i, q])
        if a.lost_always[k] or is_lost(flat(block.data)[i, q], variance, int(flat(block.dq)[i, q])):
            lost += 1
            continue
        level = box.ground[i, c] if p.terms == 0 else p.level[c] * scale
        terms = [float(p.place[k]) ** j for j in range(p.terms)]
        value = float(flat(block.data)[i, q]) * scale - level
        rows.append((value, p.inverse[k], variance * scale**2, [shape, *terms], a.shape_error[k], k))
    inside = len(rows)
    if p.terms:
        for k in range(a.ground_start[c], a.ground_start[c + 1]):
            q = a.ground[k]
            scale = float(a.scale[q])
            variance = float(flat(block.var_poisson)[i, q] + flat(block.var_rnoise)[i, q])
            if is_lost(flat(block.data)[i, q], variance, int(flat(block.dq)[i, q])):
                continue
            terms = [float(p.ground_place[k]) ** j for j in range(p.terms)]
            value = float(flat(block.data)[i, q] - a.ground_template[k]) * scale
            rows.append((value, p.ground_inverse[k], variance * scale**2, [0.0, *terms], 0.0, k))
    names = ("value", "inverse", "spread", "basis", "error")
    columns = zip(*(row[:5] for row in rows), strict=True) if rows else [[]] * 5
    given = {name: np.array(column, float) for name, column in zip(names, columns, strict=True)}
    nominal = float((a.weight[a.start[c] : a.start[c + 1]] * a.shape[a.start[c] : a.start[c + 1], 0]).sum())
    # what the profile holds, over what the shift across has put into the aperture
    held = whole / (1 + np.clip(moved / nominal, -0.05, 0.05)) if nominal > 0 else 1.0
    return {**given, "inside": inside, "lost": lost, "held": held, "k": [row[5] for row in rows]}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(MODES),
    method=st.sampled_from(FITS),
    order=st.integers(0, 2),
    bad=st.sampled_from([0.0, 0.05]),
)
def test_agrees_with_its_twin(seed: int, mode: str, method: str, order: int, bad: float) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(mode, level="calints")
    more = {"bkg_order": order} if method == "profile" else {}
    binding = make_binding(Extract1d, info, rng)
    step = Extract1d(extraction_type=method, extract_width=7.3, **more).bind(binding)
    one = step.series[0]
    block = make_rate(info, rng, 2, bad=bad, flux=np.array([1.0, 0.8]))
    hit = rng.random(block.data.shape) < 0.01
    block.data[hit] += 3e3
    box = measure_spectrum(block, one.strips)
    out = fit_block(block, one.aperture, one.fit, box)
    a = one.aperture
    compared = 0
    for i in range(2):
        for c in range(0, a.start.size - 1, 5):
            given_ = columns_of(block, one, box, i, c)
            args = [given_[name] for name in ("value", "inverse", "spread", "basis", "error")]
            twin = fit_column(*args, one.fit.clip) if len(args[0]) else None
            if twin is None or np.isnan(out.flux[i, c]):
                continue
            solution, kept, weights = twin
            error = out.error[i, c]
            assert out.flux[i, c] == pytest.approx(solution[0] * given_["held"], rel=1e-5, abs=1e-4 * error)
            assert out.counts[i, c, 3] == given_["lost"] + int((~kept[: given_["inside"]]).sum())
            poisson = 0.0
            for m, h in enumerate(weights):
                q = a.pixel[given_["k"][m]] if m < given_["inside"] else a.ground[given_["k"][m]]
                poisson += (h * float(a.scale[q])) ** 2 * float(flat(block.var_poisson)[i, q])
            assert out.var_poisson[i, c] == pytest.approx(poisson * given_["held"] ** 2, rel=1e-4)
            compared += 1
    assert compared > 5


def templates_of(info: ExposureInfo, image: np.ndarray, variance: np.ndarray | float = 4.0) -> dict[str, Any]:
    variance = np.broadcast_to(np.asarray(variance, np.float32), info.frame_shape).copy()
    return {
        "image": np.asarray(image, np.float32), "scatter": np.sqrt(variance), "variance": variance,
        "covariance": np.zeros((3, 3)), "count": 4096,
    }  # fmt: skip


def noisy(
    info: ExposureInfo, level: np.ndarray, variance: np.ndarray, rng: np.random.Generator, offset: Any = 0.0
) -> Rate:
    """Source at some level on the scene's background, with noise of the given variance."""
    block = make_rate(info, rng, len(level), noise=0.0, bad=0.0)
    mean = 5.0 + level[:, None, None] * (make_scene(info) - 5.0)
    block.data[...] = mean + offset + rng.normal(size=mean.shape) * np.sqrt(variance)
    block.var_poisson[...] = 0.7 * variance
    block.var_rnoise[...] = 0.3 * variance
    block.dq[...] = 0
    return block


def bound(info: ExposureInfo, variance: Any, **parameters: Any) -> BoundExtract1d:
    return Extract1d(**parameters).bind(
        Binding(info, templates=templates_of(info, make_scene(info), variance))
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", FITS)
def test_levels_come_out_as_they_went_in(mode: str, method: str) -> None:
    """Without noise the flux is that of the box, at any level, with lost pixels or without (P9)."""
    info = make_info(mode, level="calints")
    step = bound(info, 4.0, extraction_type=["box", method], extract_width=9.0, max_lost=0.6)
    level = np.array([1.0, 0.99, 0.5, 1.7])
    block = noisy(info, level, np.full(info.frame_shape, 4.0), np.random.default_rng(0))
    block.data[...] = 5.0 + level[:, None, None] * (make_scene(info) - 5.0)
    whole = step.push(block)[0].spectra["flux"]
    np.testing.assert_allclose(whole[:, 1], whole[:, 0], rtol=3e-4)
    np.testing.assert_allclose(
        whole[:, 1] / whole[0, 1], np.broadcast_to(level[:, None], whole[:, 1].shape), rtol=3e-4
    )
    a = step.aperture
    for c in range(0, a.start.size - 1, 3):
        part = slice(a.start[c], a.start[c + 1])
        brightest = a.pixel[part][np.argmax(a.shape[part, 0])]
        flat(block.dq)[1, brightest] |= np.uint32(dq.DO_NOT_USE)
        flat(block.data)[1, brightest] = np.nan
    lost = step.push(block)[0].spectra
    np.testing.assert_allclose(lost["flux"][1, 1], whole[1, 1], rtol=1e-3)
    assert (lost["flux_err"][1, 1, ::3] > lost["flux_err"][0, 1, ::3]).all()


@pytest.mark.parametrize("method", ["box", *FITS])
def test_depths_that_differ_by_wavelength_come_out(method: str) -> None:
    """A spectrum that changes colour looks as if it had moved along the dispersion: no flux may follow that (P9)."""
    info = make_info("NRS_BRIGHTOBJ", level="calints", nx=120)
    along = np.arange(info.nx)
    # rises over the columns, and falls steeply at the end
    light = np.where(along < 90, 1.0 + along / 30.0, 4.0 * np.exp(-(((along - 90) / 8.0) ** 2)))
    scene = 5.0 + (make_scene(info).astype(float) - 5.0) * light
    depth = 0.01 * (1 + 0.5 * np.cos(along / 12.0))
    step = Extract1d(extraction_type=method, extract_width=9.0).bind(
        Binding(info, templates=templates_of(info, scene, 4.0))
    )
    block = make_rate(info, np.random.default_rng(0), 2, noise=0.0, bad=0.0)
    block.dq[...] = 0
    for i, level in enumerate([np.ones(info.nx), 1 - depth]):
        block.data[i] = 5.0 + (scene - 5.0) * level
    flux = step.push(block)[0].spectra["flux"][:, 0]
    bright = flux[0] > 0.05 * flux[0].max()
    assert bright.sum() > 90
    np.testing.assert_allclose(1 - flux[1, bright] / flux[0, bright], depth[bright], atol=1e-5)


@pytest.mark.parametrize("method", FITS)
def test_a_cosmic_ray_that_nobody_flagged_is_left_out(method: str) -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    step = bound(info, 4.0, extraction_type=method, extract_width=9.0)
    # one hit in each integration, next to the brightest pixel of its column
    block = noisy(info, np.ones(12), np.full(info.frame_shape, 4.0), np.random.default_rng(1))
    block.data[...] = block.data[:1]
    a = step.aperture
    clean = step.push(block)[0].spectra
    columns = np.arange(2, 2 + 12 * 3, 3)
    hits = [int(a.pixel[a.start[c] + 2]) for c in columns]
    flat(block.data)[np.arange(12), hits] += 600.0
    hit = step.push(block)[0].spectra
    moved = np.abs(hit["flux"] - clean["flux"]) / hit["flux_err"]
    assert moved.max() < 1.0
    assert (hit["counts"][np.arange(12), 0, columns, 2] == 1).all()
    assert ((hit["dq"][np.arange(12), 0, columns] & dq.OUTLIER) != 0).all()
    box = bound(info, 4.0, extract_width=9.0).push(block)[0].spectra["flux"]
    assert (np.abs(box - clean["flux"]) / hit["flux_err"]).max() > 50


def test_fits_are_as_precise_as_the_noise_allows() -> None:
    """Scatter of a faint spectrum: below the box's, and within 5 % of the bound for a free background."""
    info = make_info("NRS_BRIGHTOBJ", level="calints", ny=32)
    variance = 0.02 * make_scene(info) + 30.0
    step = bound(info, variance, extraction_type=["box", "optimal", "profile"], extract_width=11.0)
    block = noisy(info, np.ones(400), variance, np.random.default_rng(3))
    spectra = step.push(block)[0].spectra
    scatter = spectra["flux"].std(axis=0)
    assert (scatter[1] < scatter[0]).mean() > 0.95
    assert (scatter[2] < scatter[0]).mean() > 0.95
    a, p = step.series[2].aperture, step.series[2].fit
    limit = []
    for c in range(a.start.size - 1):
        source, ground = slice(a.start[c], a.start[c + 1]), slice(a.ground_start[c], a.ground_start[c + 1])
        profile, weight = a.shape[source, 0].astype(float), p.inverse[source].astype(float)
        total = weight.sum() + p.ground_inverse[ground].sum()
        information = (weight * profile**2).sum() - (weight * profile).sum() ** 2 / total
        limit.append(1 / np.sqrt(information))
    assert np.median(scatter[1] / np.array(limit)) < 1.05
    assert np.median(scatter[2] / np.array(limit)) < 1.05
    for k in (1, 2):
        assert np.median(scatter[k] / spectra["own_err"][0, k]) == pytest.approx(1.0, abs=0.05)
        assert np.abs(spectra["flux"].mean(axis=0)[k] / spectra["flux"].mean(axis=0)[0] - 1).mean() < 0.005


def test_the_joint_fit_takes_out_what_a_column_shares() -> None:
    """An offset per column and integration does not reach the flux, nor does a slope with bkg_order = 1."""
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    rng = np.random.default_rng(4)
    variance = np.full(info.frame_shape, 4.0)
    offset = rng.normal(0, 40.0, (50, 1, info.nx))
    tilt = rng.normal(0, 0.5, (50, 1, info.nx)) * (np.arange(info.ny) - 9.5)[None, :, None]
    block = noisy(info, np.ones(50), variance, np.random.default_rng(5))
    plain = bound(info, 4.0, extraction_type="profile").push(block)[0].spectra["flux"]
    block.data += offset.astype(np.float32)
    moved = bound(info, 4.0, extraction_type="profile").push(block)[0].spectra
    np.testing.assert_allclose(moved["flux"], plain, atol=0.02 * np.median(moved["flux_err"]))
    block.data += tilt.astype(np.float32)
    sloped = bound(info, 4.0, extraction_type="profile", bkg_order=1).push(block)[0].spectra
    assert np.median(sloped["flux"].std(axis=0) / sloped["own_err"][0]) < 1.15


def test_several_apertures_are_what_each_is_alone() -> None:
    """Rows of a pass over several widths and methods equal those of passes of their own, bit for bit."""
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    binding = make_binding(Extract1d, info, np.random.default_rng(1))
    block = make_rate(info, np.random.default_rng(2), 3)
    together = Extract1d(extraction_type=["box", "optimal", "profile"], extract_width=[6.0, 8.5]).bind(
        binding
    )
    (out,) = together.push(block)
    assert out.keys == tuple((1, n) for n in range(6))
    for place, one in enumerate(together.describe()):
        alone = Extract1d(extraction_type=one["extraction_type"], extract_width=one["extract_width"]).bind(
            binding
        )
        (single,) = alone.push(block)
        assert one["aperture"] == place
        for name, array in single.spectra.items():
            assert array[:, 0].tobytes() == np.ascontiguousarray(out.spectra[name][:, place]).tobytes(), (
                place,
                name,
            )
        for name, array in single.columns.items():
            assert array[:, 0].tobytes() == np.ascontiguousarray(out.columns[name][:, place]).tobytes(), (
                place,
                name,
            )


@pytest.mark.parametrize("method", FITS)
def test_rows_do_not_depend_on_the_block(method: str) -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    step = Extract1d(extraction_type=method).bind(make_binding(Extract1d, info, np.random.default_rng(1)))
    block = make_rate(info, np.random.default_rng(2), 5, broken=0.01)
    whole = step.push(block)[0].spectra
    names = ("data", "err", "var_poisson", "var_rnoise", "dq")
    for i in range(5):
        part = Rate(
            i + 1, *(getattr(block, name)[i : i + 1].copy() for name in names), block.times[i : i + 1]
        )
        for name, array in step.push(part)[0].spectra.items():
            assert array.tobytes() == np.ascontiguousarray(whole[name][i : i + 1]).tobytes(), name


def test_the_aperture_of_a_reference_is_used_when_asked_for() -> None:
    info = make_info("NRS_BRIGHTOBJ", level="calints")
    binding = make_binding(Extract1d, info, np.random.default_rng(1), share=0.0)
    step = Extract1d(aperture="reference", apply_apcorr=False).bind(binding)
    middle = (info.ny - 1) / 2
    expected = np.flatnonzero(np.abs(np.arange(info.ny) - middle) < 6)
    rows = np.unique(step.aperture.pixel // info.nx)
    assert set(rows) <= set(expected)
    assert step.series[0].weight[:, 0].sum() == 0
    assert step.describe()[0]["extract_width"] is None
    assert "extract_1d.width" not in str(step.notes)


def test_width_is_another_name() -> None:
    from tsostream.operators.base import build_operator

    assert build_operator(Extract1d, {"width": [6, 8, 10]}).widths == (6.0, 8.0, 10.0)
