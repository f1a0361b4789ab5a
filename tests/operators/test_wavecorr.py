"""wavecorr: the shift of a source beside the slit's centre, the reader, and the official formula (1e-5 µm)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import pytest

from tsostream.errors import ReferenceMismatchError
from tsostream.operators.base import Binding
from tsostream.operators.wavecorr import Wavecorr, corrected_wavelengths, zero_point_offset
from tsostream.references.loading import load_reference
from tsostream.testing.builders import make_info, make_rate
from tsostream.testing.oracle import official_python
from tsostream.testing.rate_oracle import run_official_rates

WAVES, PLACES = np.linspace(0.5e-6, 5.5e-6, 9), np.linspace(-0.6, 0.6, 7)
OFFSET = 0.5 * PLACES * (1 + 1e5 * WAVES[:, None])


def write(path: Path, aperture: str = "S1600A1", **changes: Any) -> Path:
    """Write a reference as the archive does, with the tag of an astropy table model."""
    table = {"points": [WAVES, PLACES], "lookup_table": OFFSET, **changes}
    tree = {
        "apertures": [{"aperture_name": aperture, "zero_point_offset": table, "width": 1.0, "variance": 0.0}],
        "meta": {
            "reftype": "wavecorr",
            "instrument": {"name": "NIRSPEC"},
            "exposure": {"type": "NRS_BRIGHTOBJ"},
        },
    }
    asdf.AsdfFile(tree).write_to(path)
    return path


def wave_image(ny: int = 20, nx: int = 48) -> np.ndarray:
    y, x = np.indices((ny, nx))
    wave = 0.6 + 4.5 * (x / nx) ** 1.3 + 0.003 * (y - 9)
    wave[:3], wave[:, :2] = np.nan, np.nan
    return wave


def bind(path: Path, templates: dict[str, Any], **header: Any) -> Any:
    info = make_info("NRS_BRIGHTOBJ", level="rateints", header=header)
    reference = load_reference(path, "wavecorr", info, notes=[])
    return Wavecorr().bind(Binding(info, {"wavecorr": reference}, None, templates))


def test_a_source_beside_the_centre_shifts_the_wavelengths(tmp_path: Path) -> None:
    path, wave = write(tmp_path / "w.asdf"), wave_image()
    step = bind(path, {"wavelength": {1: wave}, "slit": {"SRCXPOS": 0.25}})
    found = step.templates["wavelength"][1]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wave))
    pixels = 0.5 * 0.25 * (1 + 0.1 * wave)
    expected = wave + pixels * np.gradient(wave, axis=1)
    inner = np.isfinite(expected)
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3)
    assert abs(np.nanmedian(found - wave)) > 1e-3
    assert step.facts == {"SRCXPOS": 0.25}
    assert step.info.header["S_WAVCOR"] == "COMPLETE"


def test_a_centred_source_stays(tmp_path: Path) -> None:
    wave = wave_image()
    step = bind(write(tmp_path / "w.asdf"), {"wavelength": {1: wave}})
    np.testing.assert_allclose(step.templates["wavelength"][1], wave, rtol=1e-12)
    assert "taken as centred" in step.notes[0]


def test_linear_in_the_table_and_beyond() -> None:
    reference = load_dict()
    at = np.array([0.3, 1.234, 5.9])
    for place in (-0.9, 0.05, 0.61):
        expected = 0.5 * place * (1 + 0.1 * at)
        np.testing.assert_allclose(zero_point_offset(reference, at, place), expected, rtol=1e-12)


def load_dict() -> Any:
    from tsostream.integration.reference import Reference

    arrays = {"WAVE,S1600A1": WAVES * 1e6, "POSITION,S1600A1": PLACES, "OFFSET,S1600A1": OFFSET}
    return Reference("wavecorr", "w.asdf", arrays)


@pytest.mark.parametrize(
    ("templates", "header", "text"),
    [
        ({}, {}, "no wavelengths"),
        ({"wavelength": {1: wave_image()}}, {"SRCTYPE": "EXTENDED"}, "extended"),
        ({"wavelength": {1: wave_image()}, "slit": {"S_WAVCOR": "COMPLETE"}}, {}, "corrected already"),
        ({"wavelength": {1: wave_image()}}, {"S_WAVCOR": "COMPLETE"}, "corrected already"),
        ({"wavelength": {1: wave_image()[:, ::-1]}}, {}, "would not ascend"),
    ],
)
def test_skipped_with_a_reason(tmp_path: Path, templates: dict, header: dict, text: str) -> None:
    step = bind(write(tmp_path / "w.asdf"), templates, **header)
    assert text in step.skipped
    rate = make_rate(make_info("NRS_BRIGHTOBJ"), np.random.default_rng(0), 1)
    before = rate.data.copy()
    (out,) = step.push(rate)
    np.testing.assert_array_equal(out.data, before)


def test_another_slit(tmp_path: Path) -> None:
    step = bind(write(tmp_path / "w.asdf", "S200A1"), {"wavelength": {1: wave_image()}})
    assert "does not know the slit S1600A1" in step.skipped


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    info = make_info("NRS_BRIGHTOBJ")
    with pytest.raises(ReferenceMismatchError, match="no table of two axes"):
        load_reference(write(tmp_path / "a.asdf", points=[WAVES]), "wavecorr", info, notes=[])
    with pytest.raises(ReferenceMismatchError, match="has the shape"):
        load_reference(write(tmp_path / "b.asdf", lookup_table=OFFSET[:3]), "wavecorr", info, notes=[])


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not official_python(), reason="TSOSTREAM_JWST_PYTHON names no Python that has jwst")
def test_against_the_official_formula(tmp_path: Path) -> None:
    """Same wavelengths and dispersion in: the same corrected wavelengths out."""
    wave = wave_image()
    dispersion = np.gradient(wave, axis=1)
    case = {
        "step": "wavecorr", "points": [WAVES, PLACES], "table": OFFSET, "aperture": "S1600A1", "lam": wave * 1e-6,
        "dispersion": dispersion * 1e-6, "source_xpos": 0.25, "at": wave[10] * 1e-6,
    }  # fmt: skip
    (official,) = run_official_rates([case])
    assert "error" not in official, official
    found = corrected_wavelengths(wave, load_dict(), 0.25)
    assert not isinstance(found, str)
    known = np.isfinite(found[10])
    np.testing.assert_allclose(found[10][known], official["wave"][known] * 1e6, atol=1e-5)
    assert dataclasses.is_dataclass(load_dict())
