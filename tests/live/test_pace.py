"""Watchers rest in proportion to what they have used, and read no more than they need."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tsostream.live import picture as picture_module
from tsostream.live.pace import LONGEST, SHARE, Pace
from tsostream.live.picture import Picture


class Used:
    """Processor seconds of a watcher."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_rest_grows_with_what_was_used():
    used = Used()
    pace = Pace(0.25, share=0.02, used=used)
    assert pace.rest() == 0.25
    used.seconds += 0.02
    assert pace.rest() == pytest.approx(1.0)
    assert pace.rest() == 0.25
    used.seconds += 10.0
    assert pace.rest() == LONGEST
    assert Pace(60.0, used=lambda: 0.0).rest() == 60.0


def test_what_is_read_at_the_beginning_does_not_count():
    """However long the file is, and however long its first row is waited for."""
    used = Used()
    pace = Pace(0.25, used=used)
    for _ in range(3):
        used.seconds += 0.1
        assert pace.rest(waiting=True) == 0.25
    used.seconds += 5.0
    assert pace.rest() == 0.25
    used.seconds += 0.1
    assert pace.rest() == pytest.approx(10.0)


@pytest.mark.parametrize("look", [0.002, 0.02, 0.1, 0.14, 0.2, 0.29])
def test_a_watcher_takes_less_than_two_hundredths(look):
    """Also when a look costs as much as two pages of 130,000 rows."""
    used = Used()
    pace = Pace(0.5, used=used)
    pace.rest()
    begin, slept = used.seconds, 0.0
    for _ in range(50):
        used.seconds += look
        slept += pace.rest()
    assert used.seconds - begin < 0.02 * slept
    if look <= SHARE * LONGEST:
        assert used.seconds - begin <= 1.001 * SHARE * slept


def test_watchers_let_others_go_first():
    if not hasattr(os, "SCHED_BATCH"):
        pytest.skip("no such priorities here")
    code = (
        "import os; from tsostream.live.pace import step_back; step_back();"
        "print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nice, batch = done.stdout.split()
    assert int(nice) >= min(19, os.nice(0) + 10)
    assert batch == "True"


def make_picture(tmp_path, monkeypatch, rows):
    """A picture of which nothing is on disk; counts how often it is read again."""
    asked = []

    def read_rows(path, first, last):
        asked.append((first, last))
        return []

    monkeypatch.setattr(picture_module, "read_rows", read_rows)
    picture = Picture(tmp_path / "none", (1, 0), np.arange(17.0), np.ones(16, bool))
    picture.add(np.arange(1.0, rows + 1), np.ones((rows, 16)))
    return picture, asked


def test_the_whole_run_is_drawn_without_reading_it_again(tmp_path, monkeypatch):
    """However long it is; only what is coarser than the screen is looked up."""
    picture, asked = make_picture(tmp_path, monkeypatch, 5000)
    assert picture.drawn(1, 5000, 900, residual=False)["columns"] > 400
    assert asked == []
    picture.drawn(1000, 1400, 900, residual=False)
    assert asked == [(1000, 1400)]


def test_a_part_is_read_once(tmp_path, monkeypatch):
    picture, asked = make_picture(tmp_path, monkeypatch, 5000)
    found = np.arange(1000.0, 1401.0), np.ones((401, 16))
    monkeypatch.setattr(Picture, "_read_part", lambda self, first, last: asked.append(first) or found)
    for _ in range(3):
        assert picture.drawn(1000, 1400, 900, residual=False)["columns"] == 401
    assert asked == [1000]
