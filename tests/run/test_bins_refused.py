"""Bins of wavelength need wavelengths; messages of --bins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsostream.errors import InputError
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.simulate import simulate


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (
            "R=100",
            "--bins R=100: wavelengths are not known for this exposure; give --wavelengths FILE, or N=20",
        ),
        ("100", "give R=100 (resolving power), N=20 (number of bins) or a file"),
    ],
)
def test_what_cannot_be_binned(tmp_path: Path, bins: str, expected: str) -> None:
    exposure = simulate("NRS_BRIGHTOBJ", tmp_path, ints=2, groups=3, seed=3, nx=64, ny=16)
    with pytest.raises(InputError) as caught:
        prepare_all(Request(inputs=tuple(exposure.segments), refs_dir=exposure.directory, bins=bins))
    assert expected in str(caught.value)


def test_pixels_can_be_binned_by_number(tmp_path: Path) -> None:
    exposure = simulate("NRS_BRIGHTOBJ", tmp_path, ints=2, groups=3, seed=3, nx=64, ny=16)
    (run,) = prepare_all(Request(inputs=tuple(exposure.segments), refs_dir=exposure.directory, bins="N=4"))
    assert run.config.operator("bin_spectra").bins == "N=4"
