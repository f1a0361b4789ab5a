"""``inspect``: everything there is to know, and nothing that is not so."""

import re
import shutil

from astropy.io import fits

from tsostream.simulate import simulate


def test_shows_files_times_and_the_run(cli, exposure):
    """With references, what process would do."""
    result = cli("inspect", exposure.directory, "--refs", exposure.directory, "--skip-step", "linearity")
    assert result.exit_code == 0, result.stderr
    text = result.stdout
    for expected in (
        "NRS_BRIGHTOBJ",
        "1-40 of 40 in 2 files",
        "seg001_nrs1_uncal.fits",
        "21-40",
        "4 groups every",
        "2022-07-10",
        "BMJD (TDB)",
        "none: straight from INT_TIMES",
        "agrees with INT_TIMES",
        "left out: linearity",
        "jump.rejection_threshold = 6.0 (default 4.0)",
        "ramp_fit: the scout's image",
        "(--refs)",
        "MB at most",
        "! NO WAVELENGTHS",
    ):
        assert expected in text


def test_a_configuration_that_cannot_be_written(cli, exposure, tmp_path):
    place = tmp_path / "nowhere" / "c.yaml"
    result = cli("inspect", exposure.directory, "--refs", exposure.directory, "--save-config", place)
    assert result.exit_code != 0
    assert (
        f"{place}: the configuration cannot be written (No such file or directory); choose" in result.stderr
    )
    assert "internal error" not in result.stderr


def test_works_without_references(cli, exposure):
    """Says what is missing and how to give it; that is no failure."""
    result = cli("inspect", *exposure.segments)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"missing .*superbias", result.stdout, re.S)
    assert "--refs DIR" in result.stdout
    assert re.search(r"at least \d+ MB", result.stdout)


def test_findings_against_a_run(cli, exposure, tmp_path):
    """Exit code 2: in the files, in parameters, in the memory."""
    result = cli("inspect", exposure.directory, "--set", "jump.x=1")
    assert result.exit_code == 2
    assert "1-40 of 40" in result.stdout
    assert "jump has no parameter 'x'" in result.stderr
    result = cli("inspect", exposure.directory, "--refs", exposure.directory, "--max-memory", "10MB")
    assert result.exit_code == 2
    assert "more than the 10 MB allowed" in result.stderr
    half = tmp_path / exposure.segments[0].name
    half.write_bytes(exposure.segments[0].read_bytes()[:60000])
    result = cli("inspect", half)
    assert result.exit_code == 2
    assert half.name in result.stderr
    assert "Traceback" not in result.output


def test_header_times_that_disagree(cli, exposure, tmp_path):
    """BSTRTIME and its kind are measured against INT_TIMES, never used."""
    copy = tmp_path / exposure.segments[0].name
    shutil.copy(exposure.segments[0], copy)
    with fits.open(copy, mode="update") as hdus:
        header = next(hdu.header for hdu in hdus if "BSTRTIME" in hdu.header)
        header["BSTRTIME"] += 25.0 / 86400
    result = cli("inspect", copy)
    assert result.exit_code == 0
    assert re.search(r"differs from INT_TIMES .*BSTRTIME \+25\.0 s", result.stdout)


def test_slopes_and_images(cli, tmp_path):
    """An imaging exposure has no wavelengths to miss."""
    made = simulate("NRC_TSIMAGE", tmp_path, ints=4, groups=3, nx=32, ny=32)
    result = cli("inspect", made.directory, "--refs", made.directory)
    assert result.exit_code == 0, result.stderr
    assert "tso_photometry" in result.stdout
    assert "WAVELENGTHS" not in result.stdout


def test_a_written_light_curve(cli, written):
    """Status, rows, noise and where it came from."""
    result = cli("inspect", written)
    assert result.exit_code == 0, result.stderr
    for expected in (
        "complete",
        "40 of 40",
        "ppm",
        "nirspec_bots.yaml",
        "seg001",
        "written.spectra.arrow",
        "tsostream 0.",
    ):
        assert expected in result.stdout


def test_an_arrow_file_of_somebody_else(cli, exposure):
    """The simulator's truth is no light curve."""
    result = cli("inspect", exposure.truth)
    assert result.exit_code == 2
    assert "tsostream did not write it" in result.stderr
