"""Whole runs of SOSS with several orders and their overlap modelled; the files beside its extraction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import bytes_per_integration, differences, reduce

import tsostream
from tsostream.errors import ConfigError
from tsostream.operators.extract_1d import Extract1d
from tsostream.run.soss_files import grid_problems, soss_templates, write_grid
from tsostream.simulate import simulate


def config_of(**parameters: Any) -> Any:
    step = Extract1d(**parameters)
    return SimpleNamespace(operator=lambda name: step if name == "extract_1d" else None)


def write_estimate(path: Path, wave: np.ndarray, flux: np.ndarray) -> None:
    columns = [fits.Column("WAVELENGTH", "D", array=wave), fits.Column("FLUX", "D", array=flux)]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="EXTRACT1D")]).writeto(path)


def test_wavelength_grid_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, grid = tmp_path / "grid.fits", np.linspace(0.8, 2.8, 57) ** 1.1
    prepared: Any = SimpleNamespace(config=config_of(soss_wave_grid_out=str(path)))
    assert write_grid(prepared, SimpleNamespace(wave_grid=grid)) == ""
    with fits.open(path) as hdus:
        assert hdus[0].header["DATAMODL"] == "SossWaveGridModel"
        np.testing.assert_array_equal(hdus["WAVEGRID"].data, grid)
    found = soss_templates(config_of(soss_wave_grid_in=str(path)))
    np.testing.assert_array_equal(found["soss_grid"], grid)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.fits"]
    assert "not written" in write_grid(prepared, SimpleNamespace(wave_grid=None))
    request: Any = SimpleNamespace(overwrite=False, resume=False)
    (problem,) = grid_problems(request, prepared.config)
    assert problem.code == "output_exists"


def test_estimate_is_read_where_it_is_finite(tmp_path: Path) -> None:
    path, wave = tmp_path / "spec.fits", np.linspace(2.8, 0.8, 30)
    flux = np.where(np.arange(30) == 4, np.nan, 100.0 * wave)
    write_estimate(path, wave, flux)
    found = soss_templates(config_of(soss_estimate=str(path)))["soss_estimate"]
    assert found.shape == (2, 29)
    assert (np.diff(found[0]) > 0).all()
    np.testing.assert_allclose(found[1], 100.0 * found[0])


def test_files_that_cannot_be_used_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "other.fits"
    fits.PrimaryHDU().writeto(path)
    with pytest.raises(ConfigError) as caught:
        soss_templates(config_of(soss_wave_grid_in=str(path), soss_estimate=str(tmp_path / "none.fits")))
    text = str(caught.value)
    assert "soss_wave_grid_in cannot be read: it has no extension WAVEGRID" in text
    assert "soss_estimate cannot be read" in text


def test_model_images_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="soss_modelname"):
        Extract1d(soss_modelname="models")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rows_of_all_orders_do_not_depend_on_files_blocks_or_workers(tmp_path: Path) -> None:
    """Overlap modelled; a run with the grid that the first one wrote has its rows, too."""
    cut = {
        files: simulate(
            "NIS_SOSS", tmp_path / f"{files}", ints=9, groups=3, segments=files, subarray="SUBSTRIP96", seed=2,
            cosmic_rays=1e-3,
        )
        for files in (1, 3)
    }  # fmt: skip
    each, grid = bytes_per_integration(cut[1].segments[0]), tmp_path / "grid.fits"
    reference = reduce(
        cut[1], tmp_path / "a.arrow", workers=1, block_bytes=each,
        settings=(f"extract_1d.soss_wave_grid_out={grid}",),
    )  # fmt: skip
    apertures = tsostream.open(reference).metadata["apertures"]
    assert [(one["order"], one["overlap"]) for one in apertures] == [(1, "modelled"), (2, "modelled")]
    given = (f"extract_1d.soss_wave_grid_in={grid}",)
    for files, block, workers, settings in ((3, 4, 2, ()), (1, 2, 2, given)):
        out = tmp_path / f"{files}_{block}.arrow"
        reduce(
            cut[1], out, list(cut[files].segments)[::-1], workers=workers, block_bytes=each * block,
            settings=settings,
        )  # fmt: skip
        assert differences(reference, out) == []
