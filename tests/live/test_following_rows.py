"""A follower sees every row once and says what becomes of the run."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from row_builders import batches, schemas

from tsostream.errors import InputError
from tsostream.live.follow import Follower
from tsostream.sinks import Journal, Output, is_being_written, journal_path
from tsostream.sinks import journal as journal_module

WRITER = Path(__file__).parents[1] / "sinks" / "writer.py"


def numbers(found):
    return [number for batch in found for number in batch["integration"].to_pylist()]


def start(out, first=1, last=6):
    return Output.create(out, *schemas(first_integration=first, last_integration=last))


def test_the_whole_life_of_a_run(out):
    follower = Follower(out)
    assert follower.poll() == []
    assert follower.state == "waiting"
    output = start(out)
    assert follower.poll() == []
    assert follower.state == "waiting"
    output.start()
    assert follower.poll() == []
    assert (follower.state, follower.total, follower.last) == ("growing", 6, 6)
    output.commit(*batches(1, 4))
    assert numbers(follower.poll()) == [1, 2, 3, 4]
    output.commit(*batches(5, 2))
    output.finish("complete", {"rows": 6})
    assert numbers(follower.poll()) == [5, 6]
    assert follower.poll() == []
    assert follower.state == "complete"
    assert follower.metadata["rows"] == 6


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_ends_that_are_not_complete(out, status):
    output = start(out)
    output.commit(*batches(1, 4))
    output.finish(status, {"error": "SinkError: full"})
    follower = Follower(out)
    assert numbers(follower.poll()) == [1, 2, 3, 4]
    assert follower.poll() == []
    assert (follower.state, follower.error) == (status, "SinkError: full")


def test_a_writer_that_died_and_one_that_takes_over(out):
    process = subprocess.Popen(
        [sys.executable, str(WRITER), out, "70", "--hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "70":
            break
    clock = iter(np.arange(0, 1e4, 10.0))
    follower = Follower(out, clock=lambda: float(next(clock)))
    assert numbers(follower.poll()) == list(range(1, 71))
    assert follower.poll() == []
    assert follower.state == "growing"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert follower.poll() == []
    assert follower.state == "died"
    again = subprocess.run(
        [sys.executable, str(WRITER), out, "75", "--resume"], capture_output=True, text=True, check=True
    )
    assert "begin 71" in again.stdout
    assert numbers(follower.poll()) == [71, 72, 73, 74, 75]
    assert follower.poll() == []
    assert follower.state == "complete"


def test_an_old_output_about_to_be_replaced_is_no_end(out):
    output = start(out)
    output.commit(*batches(1, 3))
    output.finish("complete")
    follower = Follower(out)
    assert numbers(follower.poll()) == [1, 2, 3]
    with Output.create(out, *schemas(last_integration=9), overwrite=True) as new:
        assert follower.poll() == []
        assert follower.state == "growing"
        new.commit(*batches(1, 2))
        assert numbers(follower.poll()) == [1, 2]
        assert (follower.runs, follower.total) == (2, 9)
        new.finish("complete")
    assert follower.poll() == []
    assert follower.state == "complete"


def test_looking_does_not_refuse_a_writer(out, monkeypatch):
    """Whoever looks holds the lock for an instant; a writer that comes just then must get it all the same."""
    path = journal_path(out)
    assert not is_being_written(path)
    path.touch()
    with path.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        # the instant is over when the writer tries again
        monkeypatch.setattr(journal_module.time, "sleep", lambda seconds: fcntl.flock(looker, fcntl.LOCK_UN))
        journal = Journal.acquire(path)
    assert is_being_written(path)
    journal.close()
    assert not is_being_written(path)


def test_spectra_are_refused(out):
    output = start(out)
    output.commit(*batches(1, 3))
    output.finish("complete")
    with pytest.raises(InputError, match="holds spectra"):
        Follower(out.with_name("lc.spectra.arrow")).poll()
