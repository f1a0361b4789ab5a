"""What clean_flicker_noise and emicorr keep besides their results, as files."""

from __future__ import annotations

from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, reduce

from tsostream.errors import ConfigError

CLEAN = ("clean_flicker_noise.skip=false", "clean_flicker_noise.background_method=median")


@pytest.mark.parametrize("parity", [None, "jwst"])
def test_mask_background_and_noise(parity: str | None, simulated: Simulated, tmp_path: Path) -> None:
    """Under the official suffixes; the noise is what the step changed."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=6, segments=2, **SMALL["NRS_BRIGHTOBJ"])
    keep = tuple(f"clean_flicker_noise.save_{name}=true" for name in ("mask", "background", "noise"))
    reduce(
        exposure,
        tmp_path / "lc.arrow",
        settings=(*CLEAN, *keep),
        save_steps=("jump,clean_flicker_noise",),
        parity=parity,
    )
    stems = [path.name.removesuffix("_uncal.fits") for path in exposure.segments]
    for stem in stems:
        jump, clean, noise, background, mask = (
            fits.getdata(tmp_path / f"{stem}_{suffix}.fits", "SCI")
            for suffix in ("jump", "clean_flicker_noise", "flicker_noise", "flicker_bkg", "mask")
        )
        assert noise.shape == jump.shape == background.shape
        np.testing.assert_array_equal(noise, clean - jump)
        assert np.abs(noise).max() > 1
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert (background[:, 0] == 0).all()
        assert np.abs(background[:, 1:]).max() > 0


def test_mask_alone_and_a_file_that_is_not_cleaned(simulated: Simulated, tmp_path: Path) -> None:
    """A file of one integration has no median: nothing is taken out of it, and that is what is kept."""
    exposure = simulated("NRS_BRIGHTOBJ", ints=1, **SMALL["NRS_BRIGHTOBJ"])
    settings = (CLEAN[0], "clean_flicker_noise.save_mask=true")
    reduce(exposure, tmp_path / "a.arrow", settings=settings, parity="jwst")
    (path,) = tmp_path.glob("*_mask.fits")
    assert set(np.unique(fits.getdata(path, "SCI"))) == {0.0, 1.0}
    path.unlink()
    median = ("clean_flicker_noise.background_method=median_image", "clean_flicker_noise.save_noise=true")
    reduce(exposure, tmp_path / "b.arrow", settings=(*settings, *median), parity="jwst")
    for path in (*tmp_path.glob("*_mask.fits"), *tmp_path.glob("*_flicker_noise.fits")):
        assert not fits.getdata(path, "SCI").any()


def test_scope_segment_is_refused_in_a_stream(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=6, segments=2, **SMALL["NRS_BRIGHTOBJ"])
    with pytest.raises(ConfigError, match="scope segment looks at all integrations of a file"):
        reduce(exposure, tmp_path / "lc.arrow", settings=(CLEAN[0], "clean_flicker_noise.scope=segment"))


def test_waves_found_on_the_fly(simulated: Simulated, tmp_path: Path) -> None:
    """They are written as a reference, which can be used for the next run."""
    exposure = simulated("MIR_LRS-SLITLESS", ints=4, ny=48, groups=6)
    fly = (
        "emicorr.skip=false",
        "emicorr.onthefly_corr_freq=[390.625]",
        "emicorr.save_intermediate_results=true",
    )
    skip = ("outlier_detection",)
    reduce(exposure, tmp_path / "a.arrow", settings=fly, parity="jwst", scratch=tmp_path, skip_steps=skip)
    (path,) = tmp_path.glob("*_emi_ref_waves.asdf")
    with asdf.open(path) as file:
        (wave,) = file["frequencies"].values()
        assert wave["frequency"] == 390.625
        assert np.ptp(wave["phase_amplitudes"]) > 0
    again = ("emicorr.skip=false", f"emicorr.user_supplied_reffile={path}", "emicorr.algorithm=sequential")
    out = reduce(
        exposure, tmp_path / "b.arrow", settings=again, parity="jwst", scratch=tmp_path, skip_steps=skip
    )
    assert out.exists()
