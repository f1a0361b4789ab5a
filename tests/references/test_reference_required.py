"""Missing references: an error that says how to go on, or a step that is SKIPPED."""

from pathlib import Path

import pytest

from tsostream.references import Selection, is_required, judge_missing, missing_problem


@pytest.mark.parametrize("name", ["mask", "saturation", "linearity", "dark", "gain", "readnoise"])
def test_required_everywhere(name):
    assert is_required(name)
    assert is_required(name, "MIRI")


def test_superbias_only_in_the_near_infrared():
    assert is_required("superbias", "NIRISS")
    assert not is_required("superbias", "MIRI")


@pytest.mark.parametrize(
    "name", ["emicorr", "flat", "photom", "apcorr", "reset", "rscd", "ipc", "wavelength"]
)
def test_the_others_are_not(name):
    assert not is_required(name, "MIRI")


def test_an_error_says_how_to_go_on():
    problem = missing_problem(
        "superbias", "superbias", rejected=["x.fits has DETECTOR 'NRS2' instead of 'NRS1'"]
    )
    assert problem.code == "missing_reference"
    assert str(problem) == (
        "the step superbias needs a superbias reference and none was found "
        "(x.fits has DETECTOR 'NRS2' instead of 'NRS1'); put a file with REFTYPE SUPERBIAS into --refs DIR, "
        "give --override superbias=FILE, or let CRDS choose (set CRDS_PATH and CRDS_SERVER_URL), "
        "or leave the step out with --skip-step superbias"
    )


def test_ramp_fit_cannot_be_left_out():
    assert "--skip-step" not in str(missing_problem("readnoise", "ramp_fit"))


def test_an_optional_one_skips_its_step():
    problem = missing_problem("emicorr", "emicorr")
    assert problem.code == "step_skipped"
    assert "no emicorr reference was found: the step emicorr is SKIPPED; to run it, put a file with" in str(
        problem
    )


def test_each_is_said_once():
    selection = Selection(
        {"mask": Path("m.fits")},
        {"mask": "refs"},
        missing={"gain": (), "emicorr": (), "flat": ("f.fits has X",)},
    )
    steps = {
        "dq_init": ["mask"],
        "emicorr": ["emicorr"],
        "jump": ["gain"],
        "ramp_fit": ["gain"],
        "flat_field": ["flat"],
    }
    missing = judge_missing(selection, steps, "MIRI")
    assert [problem.what for problem in missing.errors] == [
        "the step jump needs a gain reference and none was found"
    ]
    assert list(missing.skipped) == ["emicorr", "flat_field"]
    assert "(f.fits has X)" in str(missing.skipped["flat_field"])
