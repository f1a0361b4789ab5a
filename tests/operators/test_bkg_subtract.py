"""bkg_subtract: exact percentiles, the step of the SOSS background, files, and the official step. Tolerance 1e-6."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError, ReferenceMismatchError
from tsostream.files.backgrounds import average_background
from tsostream.integration import dq
from tsostream.integration.payload import Rate
from tsostream.operators.base import Binding
from tsostream.operators.bkg_subtract import BkgSubtract
from tsostream.operators.soss_background import fit_templates, sides
from tsostream.references.loading import load_reference
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.naive.calibration import naive_brightness, naive_subtract
from tsostream.testing.oracle import official_python
from tsostream.testing.rate_oracle import RateCase, assert_parity, run_official_rates

NX = 1000


def templates(ny: int = 24, count: int = 3) -> np.ndarray:
    """Backgrounds with a step near column 700, more or less steep."""
    columns = np.arange(NX)
    step = 1 / (1 + np.exp(-(columns - 702) / 2.0))
    return np.stack(
        [np.tile(1 + k * 0.3 * columns / NX + (0.15 + 0.1 * k) * step, (ny, 1)) for k in range(count)]
    ).astype("f4")


def soss(level: float = 3.0, *, seed: int = 0, count: int = 4, **changes: Any) -> tuple[Any, Rate]:
    """Slopes of a trace on the second template, brighter right of the step."""
    info = make_info(
        "NIS_SOSS", level="rateints", ny=24, nx=NX, filter="CLEAR", pupil="GR700XD", tsovisit=True, **changes
    )
    rng = np.random.default_rng(seed)
    rate = make_rate(info, rng, count, bad=0.01)
    # without the level of the scene itself
    rate.data += (level * templates()[1] - 5).astype("f4")
    rate.dq[:, :2] |= np.uint32(dq.REFERENCE_PIXEL)
    return info, rate


def copy(rate: Rate) -> Rate:
    names = [one.name for one in dataclasses.fields(rate) if isinstance(getattr(rate, one.name), np.ndarray)]
    return dataclasses.replace(rate, **{name: getattr(rate, name).copy() for name in names})


def write(path: Path, planes: np.ndarray) -> Path:
    head = fits.PrimaryHDU()
    head.header.update(
        REFTYPE="BKG", INSTRUME="NIRISS", DETECTOR="NIS", DATAMODL="SossBkgModel", TELESCOP="JWST"
    )
    fits.HDUList([head, fits.ImageHDU(planes, name="SCI")]).writeto(path)
    return path


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), source=st.floats(5, 100), low=st.floats(0, 45), high=st.floats(50, 100)
)
def test_percentiles_are_exact_whatever_the_blocks(seed: int, source: float, low: float, high: float) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(0, 5, (3, 6, NX)).astype("f4")
    data[rng.random(data.shape) < 0.05] = np.nan
    data[0, 0, 0], data[0, 0, 1] = np.inf, -np.inf
    bits = np.where(rng.random(data.shape) < 0.05, dq.DO_NOT_USE, 0).astype("u4")
    template = templates(6)[1]
    scales, residuals = naive_brightness(
        data, bits, template, sides(template, fitting=True), source, [low, high]
    )
    for blocks in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
        fit = fit_templates(
            lambda blocks=blocks: [(data[k], bits[k]) for k in blocks],
            template[None],
            source=source,
            ground=(low, high),
        )
        if not np.isfinite([*scales, *residuals]).all():
            continue
        assert fit is not None
        np.testing.assert_allclose(fit.scales, scales, rtol=2e-7)
        np.testing.assert_allclose(fit.rms, sum(residuals), rtol=1e-6)


def test_the_step_and_the_right_template_are_found(tmp_path: Path) -> None:
    info, rate = soss()
    reference = load_reference(write(tmp_path / "b.fits", templates()), "bkg", info, notes=[])
    rate.data[...] = np.random.default_rng(1).normal(3.0 * templates()[1], 0.1, rate.data.shape)
    image = np.median(rate.data, axis=0)
    step = BkgSubtract(soss_source_percentile=95).bind(
        Binding(info, {"bkg": reference}, None, {"image": image})
    )
    assert "template 1" in step.notes[0]
    before = rate.data.copy()
    (out,) = step.push(rate)
    taken = np.nanmedian(before - out.data, axis=0)
    # the lower half of the ratios, by the official rule, stands below the level by some noise
    assert 0.95 < np.nanmedian(taken / (3.0 * templates()[1])) < 1.01
    side = sides(templates()[1], fitting=False)
    assert set(np.unique(side)) == {1, 2}
    assert (side[:, :690] == 1).all()
    assert (side[:, 715:] == 2).all()
    assert (sides(templates()[1], fitting=True)[:, 951:] == 0).all()


def test_bound_without_a_scout_it_waits(tmp_path: Path) -> None:
    info, rate = soss(count=1)
    reference = load_reference(write(tmp_path / "b.fits", templates()), "bkg", info, notes=[])
    step = BkgSubtract().bind(Binding(info, {"bkg": reference}))
    before = rate.data.copy()
    (out,) = step.push(rate)
    assert not step.skipped
    np.testing.assert_array_equal(out.data, before)


def test_backgrounds_of_other_exposures() -> None:
    info = make_info("MIR_LRS-SLITLESS", level="rateints")
    rng = np.random.default_rng(0)
    rate = make_rate(info, rng, 3)
    image, flags = (
        rng.normal(5, 1, info.frame_shape).astype("f4"),
        rng.choice([0, 4], info.frame_shape).astype("u4"),
    )
    data, bits = rate.data.copy(), rate.dq.copy()
    naive_subtract(data, bits, image[None], flags[None], np.zeros(3, int))
    (out,) = BkgSubtract().bind(Binding(info, templates={"background": (image, flags)})).push(rate)
    np.testing.assert_array_equal(out.data, data)
    np.testing.assert_array_equal(out.dq, bits)


def test_not_for_this_exposure() -> None:
    step = BkgSubtract().bind(Binding(make_info("NRS_BRIGHTOBJ")))
    assert step.quiet
    assert "no background exposures" in step.skipped
    assert BkgSubtract().wants(make_info("NRS_BRIGHTOBJ")) == ((), ())
    info, _ = soss(count=1)
    other = dataclasses.replace(info, filter="F277W")
    assert "CLEAR only" in BkgSubtract().bind(Binding(other)).skipped


def test_refusals(tmp_path: Path) -> None:
    info, _ = soss(count=1)
    reference = load_reference(write(tmp_path / "b.fits", templates(30)), "bkg", info, notes=[])
    with pytest.raises(
        ReferenceMismatchError, match=r"\(30, 1000\) pixels \(y, x\), the subarray \(24, 1000\)"
    ):
        BkgSubtract().bind(Binding(info, {"bkg": reference}))
    for wrong in ([50.0, 25.0], [25.0], [-1.0, 50.0]):
        with pytest.raises(ConfigError, match="no pair of ascending percentiles"):
            BkgSubtract(soss_bkg_percentile=wrong)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_against_the_official_step(tmp_path: Path) -> None:
    """Each segment by itself, as the official step sees one file."""
    path = write(tmp_path / "b.fits", templates())
    cases: list[RateCase] = []
    results: list[Rate] = []
    for seed, options in (
        (0, {}),
        (1, {"soss_source_percentile": 70.0}),
        (2, {"soss_bkg_percentile": [10.0, 60.0]}),
    ):
        info, rate = soss(seed=seed)
        reference = load_reference(path, "bkg", info, notes=[])
        parts = {(1, 2): slice(0, 2), (3, 4): slice(2, 4)}

        def rates(first: int, last: int, rate: Rate = rate, parts: dict = parts) -> list[Rate]:
            part = parts[first, last]
            return [dataclasses.replace(rate, first=first, data=rate.data[part], dq=rate.dq[part])]

        given = {"image": rate.data[0], "rates": rates}
        step = BkgSubtract(scope="segment", **options).bind(
            Binding(info, {"bkg": reference}, None, given, tuple(parts))
        )
        for part in parts.values():
            names = ("data", "err", "dq", "var_poisson", "var_rnoise")
            piece = dataclasses.replace(
                rate,
                first=part.start + 1,
                times=rate.times[part],
                **{n: getattr(rate, n)[part] for n in names},
            )
            cases.append(
                RateCase("bkg_subtract", info, copy(piece), parameters=options, references={"bkg": path})
            )
            results += step.push(copy(piece))
    for result, official in zip(results, run_official_rates(cases), strict=True):
        assert "error" not in official, official
        assert "COMPLETE" in official["status"].values(), official["status"]
        assert_parity(result, official)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_mean_of_background_exposures_against_the_official_step(tmp_path: Path) -> None:
    info = make_info("MIR_LRS-SLITLESS", level="rateints", tsovisit=True)
    rng = np.random.default_rng(3)
    paths = []
    for number in range(2):
        other = make_rate(info, rng, 6, bad=0.02)
        head = fits.PrimaryHDU()
        head.header.update(DETECTOR="MIRIMAGE", INSTRUME="MIRI", TELESCOP="JWST", DATAMODL="CubeModel")
        head.header.update(SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=info.nx, SUBSIZE2=info.ny)
        planes = {"SCI": other.data, "ERR": other.err, "DQ": other.dq, "VAR_POISSON": other.var_poisson}
        paths.append(tmp_path / f"{number}_rateints.fits")
        fits.HDUList([head, *(fits.ImageHDU(one, name=name) for name, one in planes.items())]).writeto(
            paths[-1]
        )
    rate = make_rate(info, rng, 3, bad=0.02)
    case = RateCase("bkg_subtract", info, copy(rate), positional=[",".join(map(str, paths))])
    background = average_background(paths, info)
    (out,) = BkgSubtract().bind(Binding(info, templates={"background": background})).push(rate)
    (official,) = run_official_rates([case])
    assert "error" not in official, official
    np.testing.assert_array_equal(out.dq, official["dq"])
    # the official mean is one of float32
    rounding = 3e-7 * float(np.abs(background[0]).max())
    np.testing.assert_allclose(out.data, official["data"], rtol=1e-6, atol=rounding)
