"""``replay``: exit codes and what is said."""

import pytest


def test_segments_are_fed(cli, exposure, tmp_path):
    into = tmp_path / "incoming"
    result = cli("replay", *exposure.segments, "--into", into, "--speed", "inf", "--faults", "truncate")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("is complete") == 2
    assert result.stderr.count("breaks off") == 1
    for path in exposure.segments:
        assert (into / path.name).read_bytes() == path.read_bytes()
    again = cli("replay", *exposure.segments, "--into", into)
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)
    quiet = cli("replay", *exposure.segments, "--into", into, "--speed", "inf", "--overwrite", "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")


@pytest.mark.parametrize("given", [["--speed", "0"], ["--speed", "fast"], ["--faults", "slow"], []])
def test_usage(cli, exposure, tmp_path, given):
    into = ["--into", str(tmp_path / "incoming")] if given else []
    result = cli("replay", exposure.directory, *given, *into)
    assert result.exit_code == 2
    assert not (tmp_path / "incoming").exists()
