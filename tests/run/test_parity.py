"""``--parity jwst``: rows from slopes of the segment scope, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from run_helpers import light_curve

import tsostream
from tsostream.cli.app import tsostream as command
from tsostream.errors import ConfigError

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", ["nrs_sub512", "miri_sub64"])
def test_rows(name: str, shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / name
    (plain,) = tsostream.process(
        case,
        tmp_path / "a.arrow",
        refs_dir=case,
        config="none",
        skip_steps=("ipc", "rscd", "lastframe", "outlier_detection"),
    )
    # the official outlier detection flags a part of the transit
    options = {"parity": "jwst", "scratch": tmp_path, "skip_steps": ("outlier_detection",)}
    (out,) = tsostream.process(case, tmp_path / "b.arrow", refs_dir=case, **options)
    config = tsostream.open(out).metadata["config"]
    assert config["scope"] == "segment"
    assert config["steps"]["jump"]["rejection_threshold"] == 4.0
    assert not {"ipc", "lastframe", "rscd", "emicorr"} & set(config["order"])
    assert ("refpix" in config["order"]) == (name == "nrs_sub512")
    assert tsostream.open(plain).metadata["config"]["scope"] == "streaming"
    rows, others = light_curve(out), light_curve(plain)
    np.testing.assert_array_equal(rows["integration"], others["integration"])
    np.testing.assert_allclose(rows["flux"], others["flux"], rtol=0.01)
    assert (rows["flux"] != others["flux"]).any()
    assert (rows["flux_err"] > 0).all()
    assert sorted(path.name for path in tmp_path.glob("*.slopes")) == []


def test_rows_do_not_depend_on_workers_and_blocks(shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / "nrc_sub64p"
    options = {"refs_dir": case, "parity": "jwst"}
    (a,) = tsostream.process(case, tmp_path / "a.arrow", workers=1, **options)
    (b,) = tsostream.process(case, tmp_path / "b.arrow", workers=3, block_bytes=1, **options)
    one, other = light_curve(a), light_curve(b)
    for column in ("flux", "flux_err", "x", "n_jump"):
        np.testing.assert_array_equal(one[column], other[column])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ("clean_flicker_noise.skip=false",)}, r"--parity jwst does not do clean_flicker_noise"),
        ({"save_steps": ("jump",)}, r"no --save-steps and no ramp product"),
    ],
)
def test_refused(options: dict, message: str, shared: Path, tmp_path: Path) -> None:
    case = shared / "golden" / "nrc_sub64p"
    with pytest.raises(ConfigError, match=message):
        tsostream.process(case, tmp_path / "lc.arrow", refs_dir=case, parity="jwst", **options)


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
