"""``process`` from the outside: what it prints, writes, refuses, and how it ends."""

import os
import pty
import re
import shutil
import signal
import time

import numpy as np
import pytest

import tsostream as package
from tsostream.cli.processing import process
from tsostream.run.request import Request


def test_the_whole_way(spawn, arguments, tmp_path):
    """Rows for every integration, the plan before, a summary after, the path alone on stdout."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out)
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    assert stdout == f"{out}\n"
    for text in (
        "1-40 of 40 in 2 files",
        "dq_init → saturation",
        "superbias",
        "(--refs)",
        "MB at most",
        "nirspec_bots.yaml",
    ):
        assert text in stderr
    assert re.search(
        r"^stream: 40 of 40 integrations, .*integrations/s, .*MB memory, scatter \d+ ppm", stderr, re.M
    )
    assert re.search(
        r"^done: 40 integrations in .*; scatter \d+ ppm from point to point \(own errors \d+\); .*peak memory",
        stderr,
        re.M,
    )
    assert "\x1b" not in stderr
    assert all(line == line.rstrip() for line in stderr.splitlines())
    lc = package.open(out)
    assert lc.status == "complete"
    np.testing.assert_array_equal(lc.table.column("integration"), np.arange(1, 41))


def test_every_field_of_a_request_is_an_option():
    """What the Python interface can do, the command line can."""
    options = {parameter.name for parameter in process.params}
    assert set(Request.__dataclass_fields__) - {"block_bytes"} <= options


def test_options_reach_the_run(cli, arguments, tmp_path):
    """Parameters, skipped steps and code defaults show in the output's own record."""
    out = tmp_path / "lc.arrow"
    result = cli(
        *arguments,
        "--out",
        out,
        "--config",
        "none",
        "--set",
        "jump.rejection_threshold=7.5",
        "--skip-step",
        "linearity",
        "--scout",
        "head:10",
        "--workers",
        1,
        "--hash-inputs",
        "--max-memory",
        "2GB",
    )
    assert result.exit_code == 0, result.stderr
    assert "jump.rejection_threshold = 7.5 (default 4.0)" in result.stderr
    assert "left out: linearity" in result.stderr
    facts = package.open(out).metadata
    assert facts["config"]["steps"]["jump"]["rejection_threshold"] == 7.5
    assert "linearity" in facts["config"]["skipped"]
    assert facts["config"]["source"] == "code defaults"
    assert len(facts["scout"]["integrations"]) == 10
    assert len(facts["inputs"][0]["sha256"]) == 64


def test_notes_are_said_once_and_the_important_one_aloud(cli, arguments, tmp_path):
    """Spectra by pixel must not go unnoticed."""
    given = arguments[: arguments.index("--wavelengths")]
    result = cli(*given, "--out", tmp_path / "lc.arrow")
    assert result.exit_code == 0
    assert result.stderr.count("! NO WAVELENGTHS") == 1


def test_quiet_leaves_nothing_but_the_path(cli, arguments, tmp_path):
    """For scripts."""
    out = tmp_path / "lc.arrow"
    result = cli(*arguments, "--out", out, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{out}\n", "")


def test_the_log_file_tells_steps_parameters_counts_and_seconds(cli, arguments, tmp_path):
    """Whatever the terminal was told."""
    log = tmp_path / "run.log"
    result = cli(*arguments, "--out", tmp_path / "lc.arrow", "--quiet", "--log-file", log)
    assert result.exit_code == 0
    text = log.read_text()
    for pattern in (
        r"step jump: rejection_threshold=6\.0",
        r"n_jump=\d+, n_saturated=\d+",
        r"seconds: scout \d+\.\d+, stream \d",
        r"plan: \d+ MB at most",
        r"time extract_1d: [\d.]+ s",
        r"INFO +done: 40 integrations",
        r"tsostream \d+\.\d+.* process|tsostream \d+\.\d+",
    ):
        assert re.search(pattern, text), pattern


def test_a_failure_is_in_the_log_file(cli, arguments, tmp_path):
    """Found before the start, told on the terminal and kept."""
    log = tmp_path / "run.log"
    result = cli(*arguments, "--out", tmp_path / "no" / "lc.arrow", "--log-file", log)
    assert result.exit_code == 2
    assert "the directory does not exist" in log.read_text()
    assert result.stderr.count("the directory does not exist") == 1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "jmp.x=1"], "--set jmp.x=1: there is no step 'jmp'; did you mean jump?"),
        (
            ["--set", "jump.rejection_treshold=8"],
            (
                "--set jump.rejection_treshold=8: jump has no parameter 'rejection_treshold'; did you mean "
                "rejection_threshold?"
            ),
        ),
        (
            ["--set", "jump.rejection_threshold=high"],
            "--set jump.rejection_threshold=high: jump.rejection_threshold = ",
        ),
        (["--set", "jump"], "expected STEP.PARAMETER=VALUE"),
        (["--skip-step", "darkcurrent"], "did you mean dark_current?"),
        (["--skip-step", "ramp_fit"], "ramp_fit cannot be skipped"),
        (["--override", "superbias=missing.fits"], "missing.fits: the superbias override does not exist"),
        (["--scout", "most"], "--scout most: is neither"),
        (["--max-memory", "lots"], "--max-memory lots: expected an amount of memory"),
        (["--max-memory", "50MB"], "more than the 50 MB allowed"),
        (["--level", "calints"], "no calints files"),
        (["--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--wavelengths", "none.fits"], "none.fits"),
    ],
)
def test_mistakes_are_named_before_the_start(cli, exposure, tmp_path, more, expected):
    """One message, exit code 2, no traceback, nothing written."""
    out = tmp_path / "lc.arrow"
    result = cli("process", exposure.directory, "--refs", exposure.directory, "--out", out, *more)
    assert result.exit_code == 2
    assert result.stderr.startswith("tsostream: ")
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_all_mistakes_at_once(cli, exposure, tmp_path):
    """A numbered list, so that the second try is the last."""
    result = cli(
        "process",
        exposure.directory,
        "--out",
        tmp_path / "no" / "lc.arrow",
        "--set",
        "jmp.x=1",
        "--override",
        "a=b",
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("tsostream: 3 problems:\n  1. ")
    assert "\n  3. " in result.stderr


def test_missing_files_and_references(cli, exposure, tmp_path):
    """Says how to go on."""
    out = tmp_path / "lc.arrow"
    result = cli("process", tmp_path / "none.fits", "--out", out)
    assert result.exit_code == 2
    assert "none.fits: there is no such file" in result.stderr
    result = cli("process", exposure.directory, "--out", out)
    assert result.exit_code == 2
    assert re.search(r"reference.* superbias|superbias reference", result.stderr)
    assert "--refs DIR" in result.stderr
    assert "--override" in result.stderr


def test_an_output_is_replaced_only_on_demand(cli, arguments, written):
    """And never an input."""
    before = written.read_bytes()
    result = cli(*arguments, "--out", written)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert written.read_bytes() == before
    assert cli(*arguments, "--out", written, "--overwrite", "-q").exit_code == 0
    first_input = arguments[1]
    result = cli(*arguments, "--out", first_input, "--overwrite")
    assert result.exit_code == 2
    assert "is an input" in result.stderr


def test_a_gap_is_refused_and_allowed(cli, exposure, tmp_path):
    """Rows of missing integrations say so."""
    from tsostream.simulate import simulate

    made = simulate("NRS_BRIGHTOBJ", tmp_path / "sim", ints=12, groups=3, segments=3, nx=64, ny=16)
    made.segments[1].unlink()
    out = tmp_path / "lc.arrow"
    given = ("process", made.directory, "--refs", made.directory, "--out", out)
    result = cli(*given)
    assert result.exit_code == 2
    assert "integrations 5-8 are missing" in result.stderr
    result = cli(*given, "--allow-gaps")
    assert result.exit_code == 0, result.stderr
    present = package.open(out).table.column("present").to_pylist()
    assert present == [True] * 4 + [False] * 4 + [True] * 4


def test_usage_errors(cli):
    """Those of click keep its form and exit code."""
    assert cli("process").exit_code == 2
    result = cli("proces")
    assert result.exit_code == 2
    assert "process" in result.stderr


def _rows(out):
    try:
        return package.open(out).table.num_rows
    except (ValueError, OSError):
        return 0


def _wait_for_rows(out, run):
    deadline = time.monotonic() + 60
    while _rows(out) < 2:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_closes_the_output(spawn, arguments, tmp_path, number):
    """Exit code 130, status interrupted, and a line that says how far it got."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out, "--workers", 1, slow="Chain.calibrate", seconds=0.1)
    _wait_for_rows(out, run)
    run.send_signal(number)
    stdout, stderr = run.communicate(timeout=30)
    assert run.returncode == 130, stderr
    assert stdout == ""
    lc = package.open(out)
    assert lc.status == "interrupted"
    rows = lc.table.num_rows
    assert 2 <= rows < 40
    assert f"tsostream: interrupted: {out} holds {rows} of 40 integrations" in stderr
    assert "the same command with --resume goes on" in stderr
    assert "Traceback" not in stderr
    if number == signal.SIGTERM:
        run = spawn(*arguments, "--out", out, "--resume")
        stdout, stderr = run.communicate(timeout=60)
        assert run.returncode == 0, stderr
        assert f"resumed: {out} holds integrations up to {rows}" in stderr
        assert f"done: 40 integrations, {rows} of them there before, the others in" in stderr
        flags = package.open(out).table["n_jump"].to_numpy().sum()
        assert (f"n_jump {flags}" in stderr) == bool(flags)
        assert package.open(out).status == "complete"
        assert package.open(out).table["integration"].to_pylist() == list(range(1, 41))
        run = spawn(*arguments, "--out", out, "--resume")
        stdout, stderr = run.communicate(timeout=60)
        assert run.returncode == 0, stderr
        assert f"{out} is complete already: nothing to resume" in stderr
        assert stdout == f"{out}\n"


def test_following_a_directory(spawn, exposure, arguments, tmp_path):
    """Interrupted while it waits for the beginning, given up, and at last complete."""
    data, out = tmp_path / "data", tmp_path / "lc.arrow"
    data.mkdir()
    rest = [*arguments[1 + len(exposure.segments) :], "--out", out, "--scout", "head:8"]
    follow = ("process", data, *rest, "--follow")
    run = spawn(*follow)
    assert "waiting: no segment is there yet" in run.stderr.readline()
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("lc*"))
    shutil.copy(exposure.segments[0], data)
    run = spawn(*follow, "--idle-timeout", "0.5")
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 1, stderr
    assert "nothing new came for 0.5 s, and the segment with integration 21 of" in stderr
    assert "go on with --resume --follow when it comes" in stderr
    assert package.open(out).status == "interrupted"
    run = spawn(*follow, "--resume")
    time.sleep(1)
    shutil.copy(exposure.segments[1], data)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 0, stderr
    assert package.open(out).table["integration"].to_pylist() == list(range(1, 41))


def test_a_signal_during_the_scout_leaves_nothing(spawn, arguments, tmp_path):
    """The output does not exist yet, and does not come to exist."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out, "--workers", 1, slow="RateChain.lend", seconds=0.3)
    for line in run.stderr:
        if line.startswith("scout: 1 of"):
            break
        if line.startswith("scout: 0 of"):
            time.sleep(0.5)
            break
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "nothing was written yet" in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_a_second_signal_ends_the_process_on_the_spot(spawn, arguments, tmp_path):
    """Nobody should have to look up how to kill a process."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out, "--workers", 1, slow="RateChain.lend", seconds=3600)
    for line in run.stderr:
        if line.startswith("scout: 0 of"):
            break
    run.send_signal(signal.SIGINT)
    for line in run.stderr:
        if line.startswith("interrupted: putting the output in order"):
            break
    # the block that is worked on takes an hour
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=90)
    assert run.returncode == 130


def test_ignored_signals_stay_ignored(spawn, arguments, tmp_path):
    """A run started with nohup survives the end of its terminal."""
    out = tmp_path / "lc.arrow"

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = spawn(*arguments, "--out", out, slow="Chain.calibrate", seconds=0.03, preexec_fn=ignore)
    _wait_for_rows(out, run)
    run.send_signal(signal.SIGHUP)
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert package.open(out).status == "complete"


def test_a_reader_that_goes_away_does_not_end_the_run(spawn, arguments, tmp_path):
    """Stderr closes in the middle (``2>&1 | head``): the light curve is made all the same."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out, slow="Chain.calibrate", seconds=0.03)
    run.stderr.readline()
    run.stderr.close()
    stdout = run.stdout.read()
    run.wait(timeout=60)
    assert stdout == f"{out}\n"
    assert run.returncode == 0
    assert package.open(out).status == "complete"


def test_a_failure_on_the_way_keeps_the_rows(spawn, arguments, tmp_path):
    """Exit code 1, the cause, and what is there."""
    out = tmp_path / "lc.arrow"
    program = (
        "import tsostream.run.plan, tsostream.run.chain as chain\n"
        "from tsostream.errors import ReadError\n"
        "import time\n"
        "tsostream.run.plan.BLOCK_BYTES = 1\n"
        "work = chain.Chain.finish\n"
        "def fail(self, block, ring, start):\n"
        "    time.sleep(0.05)\n"
        "    if block.first == 30:\n"
        "        raise {error}('the disk is gone')\n"
        "    return work(self, block, ring, start)\n"
        "chain.Chain.finish = fail\n"
        "from tsostream.__main__ import main\n"
        "main()\n"
    )
    import subprocess
    import sys

    def run(error, *more):
        command = [
            sys.executable,
            "-c",
            program.format(error=error),
            *arguments,
            "--out",
            str(out),
            "--overwrite",
            *more,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = run("ReadError")
    assert done.returncode == 1
    assert "tsostream: the disk is gone\n" in done.stderr
    assert "Traceback" not in done.stderr
    lc = package.open(out)
    assert lc.status == "failed"
    assert 0 < lc.table.num_rows < 30
    assert f"holds {lc.table.num_rows} of 40 integrations" in done.stderr
    log = tmp_path / "run.log"
    done = run("ZeroDivisionError", "--log-file", str(log))
    assert done.returncode == 1
    assert re.search(
        r"^tsostream: internal error: ZeroDivisionError: the disk is gone .*please report", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert "Traceback" in log.read_text()
    done = run("MemoryError")
    assert done.returncode == 1
    assert "tsostream: the memory is used up" in done.stderr


def test_a_terminal_gets_a_bar(spawn, arguments, tmp_path):
    """With figures that move."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    environment.pop("NO_COLOR", None)
    run = spawn(
        *arguments,
        "--out",
        tmp_path / "lc.arrow",
        slow="Chain.calibrate",
        seconds=0.02,
        stderr=end,
        env=environment,
    )
    os.close(end)
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(terminal)
    assert run.wait(timeout=60) == 0
    text = b"".join(pieces).decode()
    assert "\x1b[" in text
    assert "━" in text
    assert re.search(r"integrations/s, .* MB/s", text)
    assert "40/40" in text
    assert "scatter" in text
