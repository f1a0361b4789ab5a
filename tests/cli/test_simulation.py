"""``simulate`` and ``demo``."""

import re
import shlex

import numpy as np
import pytest

import tsostream as package
from tsostream.cli.app import tsostream
from tsostream.simulate import EXP_TYPES, Settings

SMALL = ("--ints", 4, "--groups", 3, "--nx", 32, "--ny", 32)


def test_simulate_prints_files_and_how_to_reduce_them(cli, tmp_path):
    """And that command works as it stands."""
    out = tmp_path / "a simulation"
    result = cli(
        "simulate",
        "nrs_brightobj",
        "--ints",
        8,
        "--groups",
        3,
        "--nx",
        96,
        "--ny",
        16,
        "--segments",
        2,
        "--out",
        out,
    )
    assert result.exit_code == 0, result.stderr
    files = result.stdout.splitlines()
    assert [name.endswith(".fits") for name in files] == [True, True, False]
    assert files[-1] == str(out / "truth.arrow")
    command = re.search(r"reduce it with: tsostream (.*)", result.stderr).group(1)
    assert cli(*shlex.split(command)).exit_code == 0
    assert package.open(out / "lc.arrow").table.num_rows == 8


def test_simulate_refuses_what_makes_no_sense(cli, tmp_path):
    """Exit code 2 and a hint."""
    result = cli("simulate", "NRS_BRIGHTOB", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "did you mean NRS_BRIGHTOBJ?" in result.stderr
    result = cli(
        "simulate", "NRC_TSIMAGE", *SMALL, "--transit-depth", 2, "--oof", -1, "--out", tmp_path / "a"
    )
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    assert cli("simulate", "NRC_TSIMAGE", *SMALL, "--out", tmp_path / "a").exit_code == 0
    result = cli("simulate", "NRC_TSIMAGE", *SMALL, "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert cli("simulate", "NRC_TSIMAGE", *SMALL, "--out", tmp_path / "a", "--overwrite").exit_code == 0


def test_defaults_are_those_of_the_simulator():
    """The command line shows them without loading it."""
    options = {one.name: one.default for one in tsostream.commands["simulate"].params}
    for name, value in vars(Settings()).items():
        if name not in ("level", "bounds"):
            assert options[name] == value, name


def test_the_help_lists_all_modes(cli):
    """As the simulator knows them."""
    text = cli("simulate", "--help").stdout
    assert all(name in text for name in EXP_TYPES)


@pytest.fixture
def shown(cli, tmp_path):
    """A short demo."""
    result = cli("demo", "--ints", 30, "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.stderr
    return result, tmp_path / "demo"


def test_demo(shown, cli):
    """A drawing, a picture, and the injected depth again."""
    result, folder = shown
    picture = folder / "demo.png"
    assert result.stdout.splitlines()[-1] == str(picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 50_000
    assert any("\u2800" < mark <= "\u28ff" for mark in result.stderr)
    assert "minutes from mid-transit" in result.stderr
    measured, error, injected = map(
        float, re.search(r"measured (\d+) ± (\d+) ppm, injected (\d+) ppm", result.stderr).groups()
    )
    assert 14_500 < injected < 15_500
    assert abs(measured - injected) < 4 * error
    assert error < 1500
    flux = package.open(folder / "lc.arrow").table.column("flux").to_numpy()
    assert np.isfinite(flux).all()
    # a named directory is not replaced without being asked
    assert cli("demo", "--ints", 30, "--out", folder).exit_code == 2
