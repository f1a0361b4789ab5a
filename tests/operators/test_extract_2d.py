"""extract_2d: the windows of the modes, what is cut with them, and that cutting in place loses nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import ConfigError
from tsostream.integration.reference import Reference
from tsostream.operators.base import Binding
from tsostream.operators.extract_2d import Extract2d, Window, box_window, grism_window
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.naive.calibration import naive_cut

NAMES = ("data", "err", "var_poisson", "var_rnoise", "dq", "var_flat")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), count=st.integers(1, 4))
def test_cut_in_place_agrees_with_its_twin(data: st.DataObject, count: int) -> None:
    info = make_info("NRS_BRIGHTOBJ", level="rateints", ny=9, nx=11)
    x0, y0 = data.draw(st.integers(0, 10)), data.draw(st.integers(0, 8))
    nx, ny = data.draw(st.integers(1, 11 - x0)), data.draw(st.integers(1, 9 - y0))
    rate = make_rate(info, np.random.default_rng(0), count)
    rate.var_flat = rate.err * 2
    expected = {name: naive_cut(getattr(rate, name), y0, x0, ny, nx) for name in NAMES}
    slit = {"SLTSTRT1": x0 + 1, "SLTSTRT2": y0 + 1, "SLTSIZE1": nx, "SLTSIZE2": ny}
    step = Extract2d().bind(Binding(info, templates={"slit": slit}))
    (out,) = step.push(rate)
    assert step.info.frame_shape == (ny, nx)
    assert (step.info.xstart, step.info.ystart) == (info.xstart + x0, info.ystart + y0)
    for name, values in expected.items():
        cut = getattr(out, name)
        assert cut.flags.c_contiguous
        np.testing.assert_array_equal(cut, values, err_msg=name)


@pytest.mark.parametrize(("height", "rows"), [(None, 64), (64, 64), (40, 40), (2, 2), (1, 35), (500, 256)])
def test_rows_of_a_grism(height: int | None, rows: int) -> None:
    info = make_info("NRC_TSGRISM", ny=256, nx=32, subarray="SUBGRISM256")
    assert grism_window(info, height) == Window(0, rows, 0, 32)


def test_edges_between_pixels_include_the_last_pixel() -> None:
    info = make_info("NRS_BRIGHTOBJ", ny=32, nx=512)
    assert box_window(((9.5, 400.5), (3.5, 27.5)), info) == Window(4, 28, 10, 401)
    assert box_window(((-10.5, 600.5), (-0.5, 31.5)), info) == Window(0, 32, 0, 512)


def test_everything_later_steps_look_at_is_cut() -> None:
    info = make_info("NRC_TSGRISM", level="rateints", ny=80, nx=20, ystart=5)
    image = np.arange(1600.0, dtype="f4").reshape(80, 20)[::-1]
    wave = {1: np.tile(np.linspace(2.4, 4, 20), (80, 1)), 2: np.linspace(1, 2, 20)}
    pixeldq = np.zeros((80, 20), "u4")
    pixeldq[3, 4] = 1
    step = Extract2d().bind(Binding(info, {}, pixeldq, {"wavelength": wave, "image": image}))
    assert step.pixeldq.shape == step.templates["wavelength"][1].shape == (64, 20)
    assert step.templates["wavelength"][2].shape == (20,)
    assert step.pixeldq[3, 4] == 1
    assert step.facts == {
        "SLTNAME": "NRC_TSGRISM",
        "SLTSTRT1": 1,
        "SLTSIZE1": 20,
        "SLTSTRT2": 1,
        "SLTSIZE2": 64,
    }
    assert not step.notes
    flat = Reference("flat", "f.fits", {"SCI": np.ones((80, 20), "f4")}, box=(info.xstart, 5, 20, 80))
    assert Binding(step.info, {"flat": flat}).references["flat"].arrays["SCI"].shape == (64, 20)


def test_a_source_outside_is_told() -> None:
    info = make_info("NRC_TSGRISM", level="rateints", ny=128, nx=20)
    image = np.zeros((128, 20), "f4")
    image[100] = 5
    step = Extract2d().bind(Binding(info, templates={"image": image}))
    assert "brightest row of the subarray is 100" in step.notes[0]
    assert "tsgrism_extract_height=130" in step.notes[0]


def test_not_cut_and_said_so() -> None:
    unknown = Extract2d().bind(Binding(make_info("NRS_BRIGHTOBJ")))
    assert "the whole subarray is kept" in unknown.skipped
    assert not unknown.quiet
    other = Extract2d().bind(Binding(make_info("MIR_LRS-SLITLESS")))
    assert "is not cut" in other.skipped
    assert other.quiet
    stripes = Extract2d().bind(Binding(make_info("NRC_TSGRISM", pupil="GDHS0")))
    assert "GDHS0 is not cut" in stripes.skipped


def test_the_window_of_the_header() -> None:
    slit = {"SLTSTRT1": 3, "SLTSTRT2": 2, "SLTSIZE1": 10, "SLTSIZE2": 6}
    info = make_info("NRS_BRIGHTOBJ", header={**slit, "SUBSTRT1": 1, "SUBSTRT2": 1})
    assert Extract2d().bind(Binding(info)).info.frame_shape == (6, 10)
    box = dataclasses.replace(info, header={})
    bound = Extract2d().bind(
        Binding(box, templates={"slit": {"bounding_box": ((1.5, 11.5), (0.5, 6.5)), "SRCXPOS": 0.1}})
    )
    assert bound.info.frame_shape == (6, 10)
    assert bound.facts["SRCXPOS"] == 0.1


def test_a_window_outside_is_refused() -> None:
    slit = {"SLTSTRT1": 3, "SLTSTRT2": 2, "SLTSIZE1": 1000, "SLTSIZE2": 6}
    with pytest.raises(
        ConfigError, match="columns 2-1001 and rows 1-6, is not inside the subarray of 48 x 20"
    ):
        Extract2d().bind(Binding(make_info("NRS_BRIGHTOBJ"), templates={"slit": slit}))
