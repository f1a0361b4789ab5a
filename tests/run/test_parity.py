"""``--parity jwst``: rows from slopes of the segment scope, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from run_helpers import light_curve

import tsostream
from tsostream.cli.app import tsostream as command
from tsostream.errors import ConfigError
from tsostream.integration import dq

pytestmark = pytest.mark.oracle

RADII = ("tso_photometry.radius=5", "tso_photometry.radius_inner=8", "tso_photometry.radius_outer=14")


#: where the source is: the simulated headers have no XREF_SCI, and the official photometry does not look for it
PLACES: dict[str, dict[str, Any]] = {
    "miri_sub64": {"position": (36.4, 31.7)},
    "nrc_sub64p": {"position": (32.4, 31.7)},
}


@pytest.mark.parametrize("name", ["nrs_sub512", "miri_sub64"])
def test_rows(name: str, shared: Path, tmp_path: Path) -> None:
    """The slopes give the rows of a plain run; measured the official way, with its box, the same light curve."""
    case, measurement = shared / "golden" / name, "extract_1d" if name == "nrs_sub512" else "tso_photometry"
    # the official outlier detection flags a part of the transit
    options = {"refs_dir": case, "parity": "jwst", "scratch": tmp_path, "skip_steps": ("outlier_detection",)}
    options |= PLACES.get(name, {})
    radii = () if name == "nrs_sub512" else RADII
    (plain,) = tsostream.process(
        case,
        tmp_path / "a.arrow",
        refs_dir=case,
        config="none",
        skip_steps=("ipc", "rscd", "lastframe", "outlier_detection"),
        settings=radii,
        **PLACES.get(name, {}),
    )
    streaming = (f"{measurement}.scope=streaming", *radii)
    (out,) = tsostream.process(case, tmp_path / "b.arrow", settings=streaming, **options)
    (official,) = tsostream.process(case, tmp_path / "c.arrow", **options)
    for path, scope in ((out, "streaming"), (official, "segment")):
        config = tsostream.open(path).metadata["config"]
        assert config["scope"] == "segment"
        assert config["steps"][measurement]["scope"] == scope
        assert config["steps"]["jump"]["rejection_threshold"] == 4.0
        assert not {"ipc", "lastframe", "rscd", "emicorr"} & set(config["order"])
        assert ("refpix" in config["order"]) == (name == "nrs_sub512")
    assert tsostream.open(plain).metadata["config"]["scope"] == "streaming"
    others, rows, boxes = (light_curve(path) for path in (plain, out, official))
    np.testing.assert_allclose(rows["flux"], others["flux"], rtol=0.01)
    assert (rows["flux"] != others["flux"]).any()
    # the official box fills no lost pixels and its annulus is another: only what changes in time is the same
    relative = [one["flux"] / np.median(one["flux"]) for one in (boxes, others)]
    np.testing.assert_allclose(*relative, rtol=0.01)
    for one in (rows, boxes):
        np.testing.assert_array_equal(one["integration"], others["integration"])
        assert (one["flux_err"] > 0).all()
    assert sorted(path.name for path in tmp_path.glob("*.slopes")) == []


@pytest.mark.parametrize("name", ["miri_sub64", "nrc_sub64p"])
def test_official_photometry_asks_where_the_source_is(name: str, shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / name
    with pytest.raises(ConfigError, match=r"no XREF_SCI and YREF_SCI.*--position"):
        tsostream.process(case, tmp_path / "lc.arrow", refs_dir=case, parity="jwst", scratch=tmp_path)


def test_rows_do_not_depend_on_workers_and_blocks(shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / "nrc_sub64p"
    options = {"refs_dir": case, "parity": "jwst", **PLACES["nrc_sub64p"]}
    (a,) = tsostream.process(case, tmp_path / "a.arrow", workers=1, **options)
    (b,) = tsostream.process(case, tmp_path / "b.arrow", workers=3, block_bytes=1, **options)
    one, other = light_curve(a), light_curve(b)
    assert np.isfinite(one["flux"]).any()
    for column in ("flux", "flux_err", "x", "n_jump"):
        np.testing.assert_array_equal(one[column], other[column])


@pytest.mark.parametrize("name", ["nrs_sub512", "miri_sub64"])
def test_ramps_are_the_official_ones(name: str, shared: Path, tmp_path: Path) -> None:
    """The products ramp and rate, and single steps: of a mode with jumps by two-point differences, and of MIRI."""
    case = shared / "golden" / name
    tsostream.process(
        case, tmp_path / "lc.arrow", refs_dir=case, parity="jwst", products=("ramp", "rate"), products_dir=tmp_path,
        save_steps=("saturation", "jump"), save_ints="2-3", **PLACES.get(name, {}),
    )  # fmt: skip
    official = sorted((case / "jwst").glob("*_ramp.fits*"))
    assert official
    for path in official:
        stem = path.name.partition("_ramp")[0]
        with fits.open(path) as theirs, fits.open(tmp_path / f"{stem}_ramp.fits") as ours:
            for plane in ("GROUPDQ", "PIXELDQ"):
                np.testing.assert_array_equal(ours[plane].data, theirs[plane].data)
            np.testing.assert_allclose(ours["SCI"].data, theirs["SCI"].data, rtol=2e-6, atol=2e-3)
            with fits.open(tmp_path / f"{stem}_jump.fits") as jump:
                np.testing.assert_array_equal(jump["GROUPDQ"].data, ours["GROUPDQ"].data[1:3])
        with fits.open(tmp_path / f"{stem}_saturation.fits") as early:
            assert not (early["GROUPDQ"].data & dq.JUMP_DET).any()
            assert early[0].header["S_SATURA"] == "COMPLETE"
    for path in sorted((case / "jwst").glob("*_rate.fits*")):
        name = path.name.partition(".")[0] + ".fits"
        with fits.open(path) as theirs, fits.open(tmp_path / name) as ours:
            np.testing.assert_array_equal(ours["DQ"].data, theirs["DQ"].data)
            for plane in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE"):
                np.testing.assert_allclose(ours[plane].data, theirs[plane].data, rtol=1e-4, err_msg=plane)


@pytest.mark.parametrize("parity", [None, "jwst"])
def test_picture_frame_is_refused_by_name(parity: str | None, shared: Path, tmp_path: Path) -> None:
    case, settings = shared / "golden" / "nrc_sub64p", ("picture_frame.skip=false",)
    with pytest.raises(
        ConfigError, match="picture_frame is not supported: it applies to full frames of NIRSpec only"
    ):
        tsostream.process(
            case,
            tmp_path / "lc.arrow",
            refs_dir=case,
            parity=parity,
            settings=settings,
            **PLACES.get("nrc_sub64p", {}),
        )


@pytest.mark.parametrize(("level", "steps"), [("rateints", 1), ("calints", 1), ("crfints", 0)])
def test_slopes_go_through_what_is_left_to_do(level: str, steps: int, shared: Path, tmp_path: Path) -> None:
    case = shared / "golden_stage2" / "nrs_sub512"
    options = {"refs_dir": case, "level": level, "config": "none"}
    (out,) = tsostream.process(case, tmp_path / "a.arrow", parity="jwst", **options)
    config = tsostream.open(out).metadata["config"]
    assert config["order"].count("outlier_detection") == steps
    if steps:
        assert config["steps"]["outlier_detection"]["scope"] == "segment"
        assert config["steps"]["outlier_detection"]["set_nan"]
    assert len(light_curve(out)["flux"]) == 40


def test_command_line_knows_it() -> None:
    result = CliRunner().invoke(command, ["process", "--help"])
    assert "--parity [jwst]" in result.output
    assert "--scratch DIR" in result.output
