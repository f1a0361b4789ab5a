"""What products must not be: other files, inputs, nonsense, or too large; all found before the run."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from run_helpers import Simulated, reduce

from tsostream.errors import InputError, OutputExistsError
from tsostream.run.product_plan import product_path
from tsostream.simulate import SimulatedExposure


@pytest.fixture(scope="module")
def cut(simulated: Simulated) -> dict[int, SimulatedExposure]:
    """The same exposure as one and as three files."""
    return {
        files: simulated("NRS_BRIGHTOBJ", ints=30, segments=files, seed=2, nx=96, cosmic_rays=3e-3)
        for files in (1, 3)
    }


def test_what_is_there_already(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    path = product_path(tmp_path, cut[3].segments[1], "rateints")
    path.write_text("precious")
    with pytest.raises(
        OutputExistsError, match=rf"{path.name}: the product is there already; products have the names"
    ) as caught:
        reduce(cut[3], tmp_path / "lc.arrow", products="rateints")
    assert caught.value.exit_code == 2
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    reduce(cut[3], tmp_path / "lc.arrow", products="rateints", overwrite=True)
    assert fits.getdata(path, "SCI").shape[0] == 10


def test_an_input_is_never_replaced(cut: dict[int, SimulatedExposure], tmp_path: Path) -> None:
    """Whatever it is called, and also with --overwrite."""
    copy = Path(shutil.copy(cut[1].segments[0], tmp_path / "x_uncal.fits"))
    (tmp_path / "x_rateints.fits").hardlink_to(copy)
    with pytest.raises(OutputExistsError, match="the product is an input"):
        reduce(cut[1], tmp_path / "lc.arrow", [copy], products="rateints", overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"products": "ratints"}, "there is no product 'ratints'; did you mean rateints"),
        ({"products": ("qqq",)}, "choose from rateints, rate, "),
        ({"save_steps": "refpics"}, "no step 'refpics' here; did you mean refpix"),
        ({"save_steps": "extract_1d"}, "extract_1d makes no images"),
        ({"save_steps": "jump", "skip_steps": ["jump"]}, "the step jump is skipped.*--set jump.skip=false"),
        ({"save_steps": "jump", "save_ints": "3-"}, "expected integrations; write for example 1-10"),
        ({"save_steps": "jump", "save_ints": "5-3"}, "expected integrations"),
        ({"save_steps": "jump", "save_ints": "31"}, "none of these: the input holds integrations 1-30"),
        ({"save_ints": "1-3"}, "give --save-steps"),
        ({"products": "rate", "products_dir": "no/such/place"}, "the directory does not exist"),
    ],
)
def test_refusals(
    options: dict[str, Any], message: str, cut: dict[int, SimulatedExposure], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        reduce(cut[1], tmp_path / "lc.arrow", **options)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small(
    cut: dict[int, SimulatedExposure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(InputError, match=r"the products take 1\.\d MB, but only 1\.0 MB are free"):
        reduce(cut[1], tmp_path / "lc.arrow", products="ramp")
    reduce(cut[1], tmp_path / "lc.arrow", products="rate")
