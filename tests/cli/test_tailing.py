"""``tail``: rows for people and programs, whatever state the run is in."""

import csv
import io
import json
import math
import os
import pty
import shutil
import signal
import threading

import numpy as np
from click.testing import CliRunner
from rich.console import Console

import tsostream
from tsostream.cli.app import tsostream as command
from tsostream.cli.terminal import View, draw_light_curve
from tsostream.live.follow import Follower
from tsostream.live.overview import Overview
from tsostream.sinks import Journal, journal_path
from tsostream.sinks.messages import read_header


def test_json_is_one_object_per_row(cli, written):
    result = cli("tail", written, "--json")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    table = tsostream.open(written).table
    assert [row["integration"] for row in rows] == list(range(1, 41))
    assert list(rows[0]) == table.column_names
    np.testing.assert_array_equal([row["flux"] for row in rows], table["flux"].to_numpy())
    assert rows[0]["width_x"] is None  # NaN is no JSON
    assert "complete" in result.stderr


def test_csv_holds_every_digit(cli, written):
    result = cli("tail", written, "--csv", "--rows", 5)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    table = tsostream.open(written).table
    assert [int(row["integration"]) for row in rows] == [36, 37, 38, 39, 40]
    np.testing.assert_array_equal([float(row["flux"]) for row in rows], table["flux"].to_numpy()[-5:])
    assert math.isnan(float(rows[0]["width_x"]))


def test_plain_lines_elsewhere(cli, written):
    result = cli("tail", written)
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "integration",
        "time",
        "flux",
        "flux_err",
        "x",
        "y",
        "n_jump",
        "n_bad",
        "quality",
    ]
    assert len(lines) == 41
    assert lines[40].split()[0] == "40"
    assert cli("tail", written, "-n", 0).stdout == ""


def test_what_is_not_a_light_curve(cli, written, tmp_path):
    assert cli("tail", tmp_path / "nothing.arrow").exit_code == 2
    result = cli("tail", written.with_name("written.spectra.arrow"))
    assert (result.exit_code, "holds spectra" in result.stderr) == (2, True)
    (tmp_path / "text").write_text("hello, this is no Arrow file\n")
    assert "is not an Arrow file" in cli("tail", tmp_path / "text").stderr


def test_it_waits_follows_and_ends_with_the_run(spawn, arguments, tmp_path):
    """Started before the run; sees all rows while they come, and ends by itself."""
    out = tmp_path / "lc.arrow"
    tail = spawn("tail", out, "--wait", "--json", "--interval", "0.05")
    run = spawn(*arguments, "--out", out, "-q", "--workers", 1, slow="Chain.calibrate", seconds=0.05)
    first = json.loads(tail.stdout.readline())
    assert first["integration"] == 1
    assert run.poll() is None, "the first row is read while the run goes on"
    rest = tail.stdout.read()
    assert tail.wait(timeout=60) == 0, tail.stderr.read()
    numbers = [json.loads(line)["integration"] for line in rest.splitlines()]
    assert numbers == list(range(2, 41))
    assert run.wait(timeout=60) == 0


def test_it_says_that_the_writer_died(spawn, arguments, tmp_path):
    out = tmp_path / "lc.arrow"
    tail = spawn("tail", out, "--wait", "--csv", "--interval", "0.05")
    run = spawn(*arguments, "--out", out, "-q", "--workers", 1, slow="Chain.calibrate", seconds=0.3)
    assert tail.stdout.readline().startswith("exposure_id,")
    assert tail.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.wait()
    rest = tail.stdout.read()
    assert tail.wait(timeout=60) == 1
    assert "died" in tail.stderr.read()
    assert len(rest.splitlines()) < 39


def test_before_the_first_row(cli, spawn, arguments, tmp_path):
    """While the scout is measured, and when the run was killed in it: there is a run, it only has no rows."""
    out = tmp_path / "lc.arrow"
    run = spawn(*arguments, "--out", out, "--workers", 1, slow="RateChain.lend", seconds=60)
    for line in run.stderr:
        if line.startswith("scout: 0 of"):
            break
    assert journal_path(out).exists()
    for given in (("inspect", out), ("export", out, "--to", "csv")):
        result = cli(*given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{out}: no rows yet: the run has started, its scout is measured; wait" in result.stderr
    tail = spawn("tail", out, "--csv")
    assert "no rows yet: the run has started" in tail.stderr.readline()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert tail.wait(timeout=60) == 1
    assert tail.stderr.read() == f"tsostream: {out}: the run ended before its first row\n"
    for given in (("inspect", out), ("export", out, "--to", "csv"), ("tail", out)):
        result = cli(*given)
        assert result.exit_code == 2
        assert "no rows: the run ended before the first one; begin it again" in result.stderr
    # what it left behind is no obstacle
    assert cli(*arguments, "--out", out, "-q").exit_code == 0
    assert "is not there; check the name, or give --wait" in cli("tail", tmp_path / "no.arrow").stderr


def test_a_header_without_rows(cli, written, tmp_path):
    """A run that stopped between the scout and its first row."""
    out = tmp_path / "empty.arrow"
    with written.open("rb") as file:
        _, length = read_header(file.fileno(), written.stat().st_size)
        out.write_bytes(file.read(length))
    result = cli("export", out, "--to", "csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds no integration yet (growing); wait for the first rows" in result.stderr
    assert "0 of 40" in cli("inspect", out).stdout


def test_interrupted_by_the_watcher(spawn, written, tmp_path):
    """While the run goes on."""
    out = tmp_path / "growing.arrow"
    shutil.copy(written, out)
    journal = Journal.acquire(journal_path(out))
    tail = spawn("tail", out, "--csv", start_new_session=True)
    for _ in range(41):
        tail.stdout.readline()
    assert tail.poll() is None
    tail.send_signal(signal.SIGINT)
    assert tail.wait(timeout=90) == 130
    journal.close()


def test_in_a_terminal_it_is_drawn(spawn, written):
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read():
        try:
            while data := os.read(ours, 4096):
                seen.extend(data)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = spawn("tail", written, stdout=theirs, env=env)
    assert process.wait(timeout=60) == 0
    os.close(theirs)
    reader.join(timeout=10)
    os.close(ours)
    text = seen.decode()
    for what in ("white light", "40/40", "complete", "photon and read noise expect", "n_jump", "┤"):
        assert what in text, what


def test_the_picture_of_a_run_in_progress(written):
    follower = Follower(written)
    view = View(follower)
    view.add(follower.poll())
    follower.state = "growing"
    console = Console(file=io.StringIO(), width=90, height=24)
    console.print(view.render(90, 24))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 90
    assert "seconds since the first integration" in console.file.getvalue()
    waiting = View(Follower(written.with_name("not-there.arrow")))
    assert "waiting" in str(waiting.render(80, 24))


def test_a_point_far_off_does_not_hide_the_others():
    curve = Overview(1)
    flux = np.where(np.arange(200) < 100, 1.0, 0.99)
    flux[50] = 1e6
    curve.add(np.arange(200.0), flux[:, None])
    lines = draw_light_curve(curve, 60, 10)
    assert "1 points off the scale" in lines[0]
    dotted = [line for line in lines if any(0x2800 < ord(char) < 0x2900 for char in line)]
    assert len(dotted) >= 2


def test_a_reader_that_goes_away_ends_it(written):
    assert CliRunner().invoke(command, ["tail", str(written), "--json", "-n", "1"]).exit_code == 0
