"""tso_photometry: kernel and twin agree to 1e-5 of the value + 1e-5 of the error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration import dq
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Rate
from tsostream.operators.aperture.sums import measure_block
from tsostream.operators.base import Binding, build_operator
from tsostream.operators.tso_photometry import BoundTsoPhotometry, TsoPhotometry
from tsostream.testing.builders import SIGNAL, make_binding, make_info, make_rate, make_scene
from tsostream.testing.naive.aperture import measure_columns

#: where `make_scene` puts the star, and how wide it is
X, Y, SIGMA = 15.3, 15.8, 1.6


def star(info: ExposureInfo, x: float, y: float, sigma: float = SIGMA) -> np.ndarray:
    yy, xx = np.indices(info.frame_shape, dtype=float)
    return (
        np.exp(-0.5 * ((yy - y) ** 2 + (xx - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2) * SIGNAL[False]
        + 5.0
    )


def clean(mode: str = "NRC_TSIMAGE", **parameters: Any) -> tuple[ExposureInfo, BoundTsoPhotometry]:
    info = make_info(mode, level="calints")
    return info, TsoPhotometry(**parameters).bind(Binding(info, templates=clean_templates(info)))


def clean_templates(info: ExposureInfo) -> dict[str, Any]:
    variance = np.full(info.frame_shape, 4.0, np.float32)
    return {
        "image": make_scene(info).astype(np.float32),
        "scatter": np.sqrt(variance),
        "variance": variance,
        "covariance": np.zeros((3, 3)),
        "count": 64,
    }


def exact(info: ExposureInfo, images: list[np.ndarray]) -> Rate:
    block = make_rate(info, np.random.default_rng(0), len(images), noise=0.0, bad=0.0)
    block.data[...] = images
    return block


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["NRC_TSIMAGE", "MIR_IMAGE"]),
    bad=st.sampled_from([0.0, 0.03]),
    subtract=st.booleans(),
)
def test_agrees_with_its_twin(seed: int, mode: str, bad: float, subtract: bool) -> None:
    rng = np.random.default_rng(seed)
    info = make_info(mode)
    step = TsoPhotometry(subtract_background=subtract).bind(make_binding(TsoPhotometry, info, rng))
    block = make_rate(info, rng, 3, bad=bad, flux=np.array([1.0, 0.99, 1.2]))
    n = len(block.data)
    out = measure_block(block, step.aperture)._asdict()
    planes = (block.data, block.var_poisson, block.var_rnoise)
    twin = measure_columns(*(p.reshape(n, -1) for p in planes), None, block.dq.reshape(n, -1), step.aperture)
    for name, expected in twin.items():
        if name in ("dq", "counts"):
            np.testing.assert_array_equal(out[name], expected, err_msg=name)
            continue
        slack = {"flux": twin["error"], "fit": twin["fit_error"]}.get(name, np.zeros_like(expected))
        np.testing.assert_array_equal(np.isnan(out[name]), np.isnan(expected), err_msg=name)
        far = np.abs(out[name] - expected) > 1e-5 * np.abs(expected) + 1e-5 * np.nan_to_num(slack) + 1e-9
        assert not far.any(), name


@pytest.mark.parametrize("mode", ["NRC_TSIMAGE", "MIR_IMAGE"])
def test_source_is_found_and_measured(mode: str) -> None:
    info, step = clean(mode, radius=7.0)
    assert (step.x, step.y) == pytest.approx((X, Y), abs=0.02)
    assert (step.width_x, step.width_y) == pytest.approx((SIGMA, SIGMA), abs=0.1)
    dim = 5.0 + 0.5 * (star(info, X, Y) - 5.0)
    (out,) = step.push(exact(info, [star(info, X, Y), dim]))
    flux = out.columns["flux"][:, 0]
    assert flux[0] == pytest.approx(SIGNAL[False], rel=2e-3)
    assert flux[1] / flux[0] == pytest.approx(0.5, rel=1e-4)
    np.testing.assert_allclose(out.columns["background"][:, 0], 5.0, atol=0.5)
    np.testing.assert_allclose(out.columns["psf_flux"][1] / out.columns["psf_flux"][0], 0.5, rtol=1e-4)
    assert (out.columns["frac_filled"] == 0).all()
    assert (out.columns["n_bad"] == 0).all()


@pytest.mark.parametrize(("dx", "dy"), [(0.1, 0.0), (0.0, -0.1), (-0.07, 0.12)])
def test_position_and_width_of_each_integration(dx: float, dy: float) -> None:
    info, step = clean(radius=7.0)
    (out,) = step.push(exact(info, [star(info, X + dx, Y + dy), star(info, X, Y, 1.7)]))
    x, y, width = (out.columns[name][:, 0] for name in ("x", "y", "width_x"))
    assert (x[0] - step.x, y[0] - step.y) == pytest.approx((dx, dy), abs=0.01)
    assert width[1] - step.width_x == pytest.approx(0.1, abs=0.03)
    assert (out.columns["x_err"] > 0).all()


def test_lost_pixels_do_not_bias_the_flux() -> None:
    """Also where the source has moved: the profile moves with it."""
    info, step = clean(radius=5.0, max_lost=0.5, correct_shift=False)
    images = [star(info, X, Y), star(info, X + 0.15, Y - 0.1), 5.0 + 1.7 * (star(info, X, Y) - 5.0)]
    whole = step.push(exact(info, images))[0].columns["flux"][:, 0]
    for y, x in ((16, 15), (15, 16), (14, 13), (16, 18)):
        block = exact(info, images)
        block.dq[:, y, x] = dq.DO_NOT_USE
        block.data[:, y, x] = np.nan
        (out,) = step.push(block)
        np.testing.assert_allclose(out.columns["flux"][:, 0], whole, rtol=2e-3)
        assert (out.columns["frac_filled"] > 0).all()
        assert (out.columns["n_bad"] == 1).all()


def test_correct_shift_puts_lost_light_back() -> None:
    loss = {}
    for correct in (True, False):
        info, step = clean(radius=2.5, position=(X + 0.5, Y), correct_shift=correct)
        (out,) = step.push(exact(info, [star(info, X, Y), star(info, X - 0.1, Y)]))
        flux = out.columns["flux"][:, 0]
        loss[correct] = abs(flux[1] / flux[0] - 1)
    assert loss[True] < 0.3 * loss[False]


def test_too_much_lost_or_saturated_is_nan() -> None:
    info, step = clean(radius=5.0)
    block = exact(info, [star(info, X, Y)] * 4)
    block.dq[0, 15:17, 14:17] = dq.DO_NOT_USE
    block.dq[1, 12, 15] = dq.DO_NOT_USE | dq.SATURATED
    # had a slope from the groups before it was full
    block.dq[3, 12, 15] = dq.DO_NOT_USE | dq.SATURATED | dq.OUTLIER
    (out,) = step.push(block)
    assert np.isnan(out.columns["flux"][:, 0]).tolist() == [True, True, False, False]
    assert np.isnan(out.columns["flux_err"][:, 0]).tolist() == [True, True, False, False]
    assert out.columns["n_saturated"][:, 0].tolist() == [0, 1, 0, 1]


def test_a_cosmic_ray_in_the_annulus_is_clipped() -> None:
    info, step = clean(radius=5.0)
    clear = exact(info, [star(info, X, Y)])
    hit = exact(info, [star(info, X, Y)])
    pixel = step.aperture.ground[10]
    hit.data.reshape(1, -1)[0, pixel] += 5000.0
    a, b = (step.push(block)[0].columns["flux"][0, 0] for block in (clear, hit))
    assert b == pytest.approx(a, rel=1e-4)


def test_everything_unusable() -> None:
    info, step = clean(radius=5.0)
    block = exact(info, [star(info, X, Y)])
    block.dq[...] = dq.DO_NOT_USE
    (out,) = step.push(block)
    for name in ("flux", "flux_err", "x", "y", "width_x", "background", "psf_flux"):
        assert np.isnan(out.columns[name]).all(), name


def test_the_expected_position_chooses_among_stars() -> None:
    info = make_info("NRC_TSIMAGE", level="calints", header={"XREF_SCI": 9.0, "YREF_SCI": 8.0})
    variance = np.full(info.frame_shape, 4.0, np.float32)
    image = (0.3 * star(info, 8.4, 7.2) + star(info, 24.0, 24.0)).astype(np.float32)
    templates = {
        "image": image,
        "scatter": variance,
        "variance": variance,
        "covariance": np.zeros((1, 1)),
        "count": 9,
    }
    near = TsoPhotometry(search_box_width=9, radius=4.0).bind(Binding(info, templates=templates))
    assert (near.x, near.y) == pytest.approx((8.4, 7.2), abs=0.1)
    wide = TsoPhotometry(search_box_width=201, radius=4.0).bind(Binding(info, templates=templates))
    assert (wide.x, wide.y) == pytest.approx((24.0, 24.0), abs=0.1)
    told = TsoPhotometry(position=(8.0, 7.0), radius=4.0).bind(Binding(info, templates=templates))
    assert (told.x, told.y) == (8.0, 7.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"position": (99.0, 3.0)}, r"position = \[99, 3\] lies outside the subarray of 32 x 32"),
        ({"radius": 5.0, "radius_inner": 4.0}, r"radii must grow: tso_photometry\.radius = 5"),
        ({"radius": 5.0, "radius_inner": 6.0, "radius_outer": 6.01}, r"only \d usable background pixels"),
    ],
)
def test_impossible_geometry_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clean(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"radius": -1}, r"tso_photometry\.radius = -1.*> 0"),
        ({"radius_iner": 3}, r"did you mean radius_inner\?"),
        ({"position": [1.0]}, r"tso_photometry\.position = \[1\.0\]"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_operator(TsoPhotometry, parameters)


def test_photutils_sums_the_same() -> None:
    """What is in the circle, weighted exactly; the background is ours (clipped, whole pixels)."""
    from photutils.aperture import ApertureStats, CircularAperture

    info, step = clean(radius=(6.0, 3.0, 8.5), correct_shift=False)
    images = [star(info, X, Y), star(info, X + 0.3, Y - 0.2)]
    (out,) = step.push(exact(info, images))
    assert out.keys == ((0, 0), (0, 1), (0, 2))
    for place, radius in enumerate((6.0, 3.0, 8.5)):
        circle = CircularAperture((step.x, step.y), radius)
        for i, image in enumerate(images):
            theirs = ApertureStats(image.astype(np.float32), circle)
            ours = out.columns["flux"][i, place] + out.columns["background"][i, place] * circle.area
            assert ours == pytest.approx(theirs.sum, rel=1e-5)


def test_apertures_of_one_pass_are_those_of_many() -> None:
    radii = (5.0, 3.0, 7.0)
    info, step = clean(radius=radii, radius_inner=9.0, radius_outer=13.0)
    block = exact(info, [star(info, X, Y), star(info, X + 0.1, Y)])
    block.data[:, 15, 14] = np.nan
    (many,) = step.push(block)
    for place, radius in enumerate(radii):
        (one,) = clean(radius=radius, radius_inner=9.0, radius_outer=13.0)[1].push(block)
        for name in ("flux", "flux_err", "background", "n_bad", "frac_filled", "psf_flux"):
            np.testing.assert_array_equal(many.columns[name][:, place], one.columns[name][:, 0], err_msg=name)
    assert (many.columns["x"] == many.columns["x"][:, :1]).all(), "a source has one position"
    assert step.facts["aperture_radii"] == [5.0, 3.0, 7.0]


def test_growth_curve_of_a_gaussian() -> None:
    _, step = clean()
    curve = step.growth
    expected = 1 - np.exp(-0.5 * (curve.radius / SIGMA) ** 2)
    np.testing.assert_allclose(curve.flux, expected / expected[-1], atol=0.05)
    # photon noise does not follow the light here: the best radius is that of the matched circle, 1.585 sigma
    assert curve.best() == pytest.approx(1.585 * SIGMA, abs=0.6)
    assert step.radius == curve.best()


@pytest.mark.parametrize(
    ("pupil", "size", "radii"),
    [
        ("WLP8", 160, (70.0, 75.0, 100.0)), ("WLP4", 160, (50.0, 60.0, 70.0)), ("WLP4", 110, (50.0, 60.0, 70.0)),
        ("WLP8", 110, None), ("WLP8", 64, None),
    ],
)  # fmt: skip
def test_weak_lens_radii_where_they_fit(
    pupil: str, size: int, radii: tuple[float, float, float] | None
) -> None:
    info = make_info("NRC_TSIMAGE", level="calints", nx=size, ny=size, pupil=pupil)
    variance = np.full(info.frame_shape, 4.0, np.float32)
    yy, xx = np.indices(info.frame_shape)
    distance = np.hypot(xx - size / 2, yy - size / 2)
    image = np.where(distance < 0.3 * size, 500.0, 3.0).astype(np.float32)
    templates = {"image": image, "scatter": np.sqrt(variance), "variance": variance, "covariance": np.zeros((3, 3)),
                 "count": 64}  # fmt: skip
    step = TsoPhotometry(position=(size / 2, size / 2)).bind(Binding(info, templates=templates))
    assert isinstance(step, BoundTsoPhotometry)
    if radii is not None:
        assert (step.radius, step.radius_inner, step.radius_outer) == radii
        return
    # all of the frame, and nothing subtracted
    (out,) = step.push(exact(info, [image]))
    assert out.columns["flux"][0, 0] == pytest.approx(step.circles[0].template_flux)
    assert step.circles[0].area == image.size
    assert out.columns["background"][0, 0] == 0.0
    assert "no background subtracted" in step.notes[-1]


def test_parameters_of_the_other_scope_are_told() -> None:
    _, step = clean(moving_centroid=True, fit_box_width=9)
    assert [note.split(":")[0].split()[0] for note in step.notes] == [
        "tso_photometry.moving_centroid", "tso_photometry.fit_box_width",
    ]  # fmt: skip
    assert clean()[1].notes == ()


def test_without_centroiding_the_header_says_where() -> None:
    info = make_info("NRC_TSIMAGE", level="calints")
    info = replace(info, header={**info.header, "XREF_SCI": 15.0, "YREF_SCI": 18.0})
    binding = Binding(info, templates=clean_templates(info))
    found = TsoPhotometry(radius=5.0).bind(binding)
    fixed = TsoPhotometry(radius=5.0, centroid_source=False).bind(binding)
    assert (fixed.x, fixed.y) == (14.0, 17.0)
    assert (found.x, found.y) == pytest.approx((X, Y), abs=0.02)
