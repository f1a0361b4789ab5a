"""``replay CASE``: the cases of the repository, and what happens when a column moves."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import tsostream
from tsostream.replay.baseline import machine, read_baseline, write_baseline
from tsostream.replay.case import find_cases

CASES = Path(__file__).parents[2] / "replay"
RUNS = [(case.name, run) for case in find_cases([CASES]) for run in case.runs]
#: one run per mode is quick enough for every day; each kind of run is among them
QUICK = {
    ("nirspec_bots", "uncal"), ("nircam_grism", "uncal"), ("niriss_soss", "uncal"),
    ("miri_lrs", "uncal"), ("nircam_imaging", "rateints"), ("miri_imaging", "uncal"),
}  # fmt: skip


def _marked(one):
    return pytest.param(*one, id="/".join(one), marks=() if one in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("case", "run"), list(map(_marked, RUNS)))
def test_nothing_has_moved(cli, tmp_path, case, run):
    """After a change that is meant, `tsostream replay replay/ --update` makes the baselines anew."""
    result = cli("replay", CASES / case, "--run", run, "--pictures", tmp_path)
    assert result.exit_code == 0, result.stdout


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A copy of a case, its baseline made here and now."""
    from click.testing import CliRunner

    from tsostream.cli.app import tsostream as command

    folder = tmp_path_factory.mktemp("cases") / "imaging"
    folder.mkdir()
    shutil.copy(CASES / "miri_imaging" / "case.yaml", folder)
    work = folder.parent / "work"
    result = CliRunner().invoke(
        command, ["replay", str(folder), "--run", "uncal", "--update", "--work", str(work)]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == "imaging/uncal: new, 12 rows\n"
    return folder


def test_a_second_run_is_the_same_in_every_bit(cli, spoilt, tmp_path):
    result = cli("replay", spoilt, "--run", "uncal", "--pictures", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "imaging/uncal: the same, every bit\n")
    assert list(tmp_path.iterdir()) == []
    again = cli("replay", spoilt, "--run", "uncal", "--update")
    assert again.stdout == "imaging/uncal: as it was\n"


@pytest.mark.parametrize("column", ["flux", "time_bmjd_tdb_mid", "background", "x", "psf_flux"])
def test_twenty_ppm_in_one_column_are_caught(cli, spoilt, tmp_path, column):
    folder = shutil.copytree(spoilt, tmp_path / "imaging")
    rows, made_on = read_baseline(folder / "uncal.arrow")
    assert made_on == machine()
    rows[column] = rows[column].copy()
    rows[column][6:] *= 1 + 20e-6
    write_baseline(folder / "uncal.arrow", rows)
    result = cli("replay", folder, "--run", "uncal", "--pictures", tmp_path)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.split()[:1] == [column]]
    assert line.split()[-1] == "moved"
    assert line.split()[-2] == "7", "from this integration on"
    assert (tmp_path / "replay-imaging-uncal.png").stat().st_size > 10_000
    updated = cli("replay", folder, "--run", "uncal", "--update")
    assert updated.exit_code == 0
    assert updated.stdout.startswith(f"imaging/uncal: {column} ")
    assert updated.stdout.endswith("ppm from integration 7\n")
    assert cli("replay", folder, "--run", "uncal").exit_code == 0


def test_a_run_from_a_lock(cli, exposure, written, tmp_path):
    """Archived files beside the recipe, a lock made elsewhere: its files are found in the references of the case."""
    folder = tmp_path / "locked"
    (folder / "refs").mkdir(parents=True)
    for path in exposure.directory.iterdir():
        shutil.copy(path, folder if path in exposure.segments else folder / "refs")
    made = cli("refs", "lock", "--from", written, "-o", folder / "run.lock")
    assert made.exit_code == 0, made.stderr
    lock = folder / "run.lock"
    lock.write_text(lock.read_text().replace(str(exposure.directory), str(tmp_path / "elsewhere")))
    recipe = "about: a lock\ninput: {files: ['*_uncal.fits'], refs: refs}\nruns: {uncal: {lock: run.lock}}\n"
    (folder / "case.yaml").write_text(recipe)
    result = cli("replay", folder, "--update", "--work", tmp_path / "work")
    assert result.exit_code == 0, result.stderr
    (out,) = (tmp_path / "work").rglob("lc.arrow")
    metadata = tsostream.open(out).metadata
    assert metadata["lock"] == str(lock)
    assert {one["source"] for one in metadata["references"].values()} == {"lock"}
    assert metadata["config"]["steps"] == tsostream.open(written).metadata["config"]["steps"]
    assert cli("replay", folder).stdout == "locked/uncal: the same, every bit\n"


def test_against_our_own_export(cli, written, tmp_path):
    """The official form of our own white light agrees with the light curve it was made from."""
    product = tmp_path / "a_whtlt.ecsv"
    made = cli("export", written, "--to", "whtlt", "--out", product)
    assert made.exit_code == 0, made.stderr
    result = cli("replay", written, "--against", product, "--pictures", tmp_path, "--tolerance", "0.01")
    assert result.exit_code == 0, result.stdout
    assert "40 integrations" in result.stdout
    assert (tmp_path / "replay-written-against.png").exists()
    text = product.read_text().splitlines()
    cells = text[-1].split()
    cells[2] = repr(float(cells[2]) * 1.001)
    product.write_text("\n".join([*text[:-1], " ".join(cells)]) + "\n")
    result = cli("replay", written, "--against", product, "--pictures", tmp_path, "--tolerance", "20")
    assert result.exit_code == 1
    assert "at integration 40" in result.stdout


def test_usage(cli, spoilt, tmp_path):
    assert cli("replay", spoilt, "--run", "nothing").exit_code == 2
    assert cli("replay", tmp_path).exit_code == 2
    assert cli("replay", spoilt, "--against", tmp_path / "nothing.fits").exit_code == 2
    assert cli("replay", spoilt, "--into", tmp_path, "--update").exit_code == 2
    folder = shutil.copytree(spoilt, tmp_path / "imaging")
    (folder / "uncal.arrow").unlink()
    result = cli("replay", folder, "--run", "uncal")
    assert (result.exit_code, "make it with --update" in result.stderr) == (2, True)


def test_where_bits_may_differ_tolerances_decide(cli, spoilt, tmp_path):
    folder = shutil.copytree(spoilt, tmp_path / "imaging")
    rows, _ = read_baseline(folder / "uncal.arrow")
    rows["flux"] = np.nextafter(rows["flux"], np.inf)
    write_baseline(folder / "uncal.arrow", rows)
    assert cli("replay", folder, "--run", "uncal", "--pictures", tmp_path).exit_code == 1
    result = cli("replay", folder, "--run", "uncal", "--tolerant")
    assert result.exit_code == 0
    assert "the same within the tolerances" in result.stdout
