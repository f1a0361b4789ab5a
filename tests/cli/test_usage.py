"""Mistakes in the command line: one line each, with the word that was meant."""

import subprocess
import sys

import click
import numpy as np
import pytest

import tsostream as package


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["proces", "x"], "tsostream: no such command proces; did you mean process? (tsostream --help)"),
        (
            ["refs", "lits"],
            "tsostream refs: no such command lits; did you mean list? (tsostream refs --help)",
        ),
        (
            ["process", "x", "--ouut", "y"],
            "tsostream process: no such option --ouut; did you mean --out? (tsostream process --help)",
        ),
        (["process", "x"], "tsostream process: missing option '--out' (tsostream process --help)"),
        (["simulate", "x", "--zzz"], "tsostream simulate: no such option --zzz (tsostream simulate --help)"),
    ],
)
def test_one_line(cli, given, said):
    result = cli(*given)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said + "\n")


def test_a_choice_is_guessed(cli):
    stderr = cli("export", "x", "--to", "cvs").stderr
    assert stderr.count("\n") == 1
    assert "; did you mean csv? (tsostream export --help)" in stderr


def test_what_is_not_guessed_is_told_as_it_is(cli):
    stderr = cli("tail", "x", "--interval", "often").stderr
    assert stderr == (
        "tsostream tail: invalid value for '--interval': 'often' is not a valid float range (tsostream tail --help)\n"
    )
    stderr = cli("replay", "x", "--into", "y", "--update").stderr
    assert stderr.startswith("tsostream replay: --into feeds segments; it does not go with")


def test_two_reference_directories_are_refused(cli, exposure, tmp_path):
    """Not: the last one taken, in silence."""
    out = tmp_path / "lc.arrow"
    twice = ("--refs", tmp_path, "--refs", exposure.directory)
    result = cli("process", exposure.directory, *twice, "--out", out)
    assert result.exit_code == 2
    assert "--refs: given 2 times: put the files into one directory, or name single ones with --override" in (
        result.stderr
    )
    assert cli("inspect", exposure.directory, *twice).exit_code == 2


def test_an_output_that_is_there_hides_nothing(cli, exposure, written):
    result = cli("process", exposure.directory, "--out", written, "--scout", "most", "--on-error", "stop")
    assert result.exit_code == 2
    for what in ("exists already", "reference files are missing", "--scout most"):
        assert what in result.stderr, what


def test_a_position_outside_is_found_before_the_scout(cli, tmp_path):
    sim = tmp_path / "sim"
    small = ("--ints", 4, "--groups", 3, "--nx", 32, "--ny", 32)
    made = cli("simulate", "NRC_TSIMAGE", *small, "--out", sim)
    assert made.exit_code == 0
    assert "simulating 4 integrations of NRC_TSIMAGE" in made.stderr
    result = cli("process", sim, "--refs", sim, "--out", tmp_path / "lc.arrow", "--position", "500,3")
    assert result.exit_code == 2
    assert "tso_photometry.position = [500, 3] lies outside the subarray of 32 x 32" in result.stderr
    assert "scout" not in result.stderr
    # nothing is simulated before it is refused
    result = cli("simulate", "NRC_TSIMAGE", *small, "--out", sim)
    assert (result.exit_code, "simulating" in result.stderr) == (2, False)


def test_the_plan_says_what_the_scout_reads(cli, arguments, tmp_path):
    """Progress counts readings; so does the plan."""
    for how in ("spread", "auto", "head:8"):
        stderr = cli(*arguments, "--out", tmp_path / "lc.arrow", "--overwrite", "--scout", how).stderr
        (planned,) = [line for line in stderr.splitlines() if line.strip().startswith("scout  ")]
        words = planned.split()
        count = int(words[1]) + int(words[words.index("twice") - 3])
        assert f"scout: {count} of {count} integrations" in stderr, how


def test_orders_and_apertures_of_an_export(cli, written, tmp_path):
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    assert cli("export", written, "--to", "csv", "--out", whole).exit_code == 0
    assert cli("export", written, "--to", "csv", "--order", 1, "--aperture", 0, "--out", part).exit_code == 0
    assert part.read_text() == whole.read_text()
    refused = cli("export", written, "--to", "csv", "--order", 2, "--out", tmp_path / "none.csv")
    assert refused.exit_code == 2
    assert "has no order 2 with aperture 0; it has order 1 aperture 0" in refused.stderr
    refused = cli("export", written, "--to", "whtlt", "--order", 1, "--out", tmp_path / "none.ecsv")
    assert "--order: whtlt holds all orders; leave it out" in refused.stderr


def test_the_scatter_is_that_of_the_picture(cli, written):
    """Of all rows, from point to point: a transit is none."""
    lc = package.open(written)
    flux = lc.table["flux"].to_numpy()
    steps = np.diff(flux)
    expected = 1.4826e6 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2) / np.median(flux)
    assert f"scatter {expected:.0f} ppm (own errors" in cli("inspect", written).stdout


def test_a_second_run_with_products_needs_a_folder(cli, arguments, tmp_path):
    assert cli(*arguments, "--out", tmp_path / "a.arrow", "--products", "rateints", "-q").exit_code == 0
    again = (*arguments, "--out", tmp_path / "b.arrow", "--products", "rateints", "-q")
    result = cli(*again)
    assert result.exit_code == 2
    assert "each run in a directory needs a --products-dir of its own" in result.stderr
    (tmp_path / "b").mkdir()
    assert cli(*again, "--products-dir", tmp_path / "b").exit_code == 0


def test_no_interpreter_is_taken_apart_at_the_end():
    """A thread that is still in C++ when the interpreter goes would end the process (exit code 134)."""
    code = (
        "import atexit, sys, threading, time\n"
        "class Late:\n"
        "    def __del__(self): print('taken apart')\n"
        "late = Late()\n"
        "atexit.register(print, 'cleaned up')\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "sys.argv = ['tsostream', 'tail', 'nothing.arrow']\n"
        "from tsostream.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == "cleaned up\n"
    assert "is not there; check the name" in done.stderr


def test_every_repeatable_option_says_so():
    from tsostream.cli.app import tsostream

    for name, command in tsostream.commands.items():
        for one in command.params:
            if isinstance(one, click.Option) and one.multiple and one.name != "refs_dir":
                assert "repeated" in (one.help or "") or one.help is None, (name, one.name)
