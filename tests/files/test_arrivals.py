"""When a file counts as complete, and what is said about those that do not belong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from segment_makers import make_segment

from tsostream.errors import InputError
from tsostream.files import follow as module
from tsostream.files.follow import SETTLE, SETTLE_LONG, Following, follow, growing_exposure


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def make(folder: Path, first: int, count: int = 5, name: str = "", **keys) -> Path:
    return make_segment(
        folder / (name or f"s{first:03d}_uncal.fits"), first=first, count=count, nints=20, **keys
    )


def numbers(folder: Following) -> list[tuple[int, int]]:
    (key,) = folder.trains()
    return [(one.first, one.last) for one in folder.segments(key)]


def test_a_file_must_rest_first(incoming, clock):
    following = Following(incoming, clock=clock)
    make(incoming, 1)
    assert not following.look()
    clock.now += SETTLE / 2
    assert not following.look()
    assert following.trains() == []
    assert 0 < following.pause() <= SETTLE
    clock.now += SETTLE
    assert following.look()
    assert numbers(following) == [(1, 5)]
    assert not following.look()


def test_an_old_file_need_not(incoming, clock):
    path = make(incoming, 1)
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert Following(incoming, clock=clock).look()


def test_one_that_is_written_to_does_not_count(incoming, clock, tmp_path):
    """Whatever its size, as long as it changes."""
    whole = make(tmp_path, 1).read_bytes()
    path = incoming / "s001_uncal.fits"
    following = Following(incoming, clock=clock)
    for cut in (0, 100, 2880, 8000, len(whole) - 3000):
        path.write_bytes(whole[:cut])
        following.look()
        clock.now += SETTLE * 2
        assert not following.look()
        assert following.pending()[0].startswith("s001_uncal.fits: ")
    path.write_bytes(whole)
    for _ in range(4):
        os.utime(path, ns=(time.time_ns(), time.time_ns()))
        assert not following.look()
        clock.now += SETTLE * 0.9
    clock.now += SETTLE
    assert following.look()
    assert following.reports == []


def test_a_download_that_keeps_its_state_beside_the_file(incoming, clock):
    """It has its final name and length from the beginning, and every byte may be there or not."""
    following = Following(incoming, clock=clock)
    path = make(incoming, 1)
    os.utime(path, (time.time() - 100, time.time() - 100))
    control = path.with_name(path.name + ".aria2")
    control.write_bytes(b"which pieces are there")
    for _ in range(3):
        assert not following.look()
        clock.now += SETTLE_LONG * 2
    assert following.pending(judged=True) == [
        "s001_uncal.fits: still arrives as long as s001_uncal.fits.aria2 stands beside it"
    ]
    control.unlink()
    clock.now += SETTLE * 2
    assert following.look()
    control.touch()  # once taken it is taken
    make(incoming, 6)
    following.look()
    clock.now += SETTLE * 2
    assert following.look()
    assert numbers(following) == [(1, 5), (6, 10)]


def test_what_an_attempt_that_broke_off_left_behind_does_not_block(incoming, clock):
    following = Following(incoming, clock=clock)
    make(incoming, 1).with_name("s001_uncal.fits.part").write_bytes(b"half")
    following.look()
    clock.now += SETTLE * 2
    assert following.look()
    assert numbers(following) == [(1, 5)]


def test_a_copy_that_pauses_between_two_extensions(incoming, clock, tmp_path):
    """Without its times it looks whole; what others have is waited for."""
    whole = make(tmp_path, 1)
    without = make(tmp_path, 1, name="without_uncal.fits", times=None)
    following = Following(incoming, clock=clock)
    path = incoming / "s001_uncal.fits"
    path.write_bytes(without.read_bytes())
    following.look()
    clock.now += SETTLE * 2
    assert not following.look()
    path.write_bytes(whole.read_bytes())
    following.look()
    clock.now += SETTLE * 2
    assert following.look()
    assert following.segments(following.trains()[0])[0].time_table is not None
    other = make(incoming, 6, times=None)
    following.look()
    clock.now += SETTLE * 2
    assert not following.look()
    clock.now += SETTLE_LONG
    assert following.look(), "a file that never gets them is taken in the end"
    assert other.exists()


def test_a_file_made_at_its_full_length_and_filled_with_a_pause(incoming, clock, tmp_path):
    """Its headers are there and its size is right, but its pixels are holes."""
    whole = make(tmp_path, 1, 400).read_bytes()
    following = Following(incoming, clock=clock)
    path = incoming / "s001_uncal.fits"
    with path.open("wb") as file:
        file.truncate(len(whole))
        file.write(whole[:8640])
        file.seek(len(whole) - 80000)
        file.write(whole[-80000:])
    if not module.has_holes(path):
        pytest.skip("this file system does not tell of holes")
    following.look()
    clock.now += SETTLE_LONG * 0.9
    assert not following.look()
    path.write_bytes(whole)
    following.look()
    clock.now += SETTLE * 2
    assert following.look()


def test_a_file_that_ends_in_the_middle_of_a_block(incoming, clock, tmp_path):
    whole = make(tmp_path, 1).read_bytes()
    following = Following(incoming, clock=clock)
    (incoming / "s001_uncal.fits").write_bytes(whole[:-1])
    following.look()
    clock.now += SETTLE * 2
    assert not following.look()
    clock.now += SETTLE_LONG
    assert following.look()


def test_names_of_downloads_are_left_alone(incoming, clock):
    for name in (
        ".s001_uncal.fits",
        "s001_uncal.fits.part",
        "s001_uncal.fits.tmp",
        "readme.txt",
        "x_x1dints.fits",
    ):
        (incoming / name).write_bytes(b"x" * 3000)
    following = Following(incoming, clock=clock)
    following.look()
    clock.now += 10
    assert not following.look()
    assert following.pending() == []


def test_out_of_order(incoming, clock):
    following = Following(incoming, clock=clock)
    for first in (11, 1, 16):
        make(incoming, first)
    following.look()
    clock.now += 1
    following.look()
    (key,) = following.trains()
    assert numbers(following) == [(1, 5), (11, 15), (16, 20)]
    assert [one.first for one in following.run(key, 3)] == [1]
    assert following.run(key, 6) == []
    assert [one.first for one in following.run(key, 11)] == [11, 16]
    make(incoming, 6)
    following.look()
    clock.now += 1
    following.look()
    assert [one.first for one in following.run(key, 1)] == [1, 6, 11, 16]
    exposure = growing_exposure(following.segments(key))
    assert (exposure.first, exposure.last, exposure.count, exposure.growing) == (1, 20, 20, True)


def test_what_does_not_belong_is_said_once(incoming, clock):
    said = []
    following = Following(incoming, clock=clock)
    following.tell(said.append)
    make(incoming, 1)
    make(incoming, 1, name="t001_uncal.fits")
    make(incoming, 3, name="u003_uncal.fits", primary={"TARGNAME": "else"})
    make(incoming, 6, primary={"SUBSTRT1": 999})
    for _ in range(4):
        following.look()
        clock.now += 1
    assert numbers(following) == [(1, 5)]
    assert len(said) == 3 == len(following.reports)
    foreign, twin, version = said
    assert foreign.startswith("left out: s006_uncal.fits: SUBSTRT1 is 999, but 1 other segments")
    assert twin == "left out: t001_uncal.fits holds integrations 1-5, the same as s001_uncal.fits"
    assert version.startswith(
        "left out: u003_uncal.fits holds integrations 3-7, another version of what s001_uncal"
    )


def test_a_newer_version_is_reported_and_a_touched_file_is_not(incoming, clock):
    said = []
    following = Following(incoming, clock=clock)
    following.tell(said.append)
    path = make(incoming, 1)
    following.look()
    clock.now += 1
    assert following.look()
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        following.look()
        clock.now += 1
    assert said == []
    make(incoming, 1, primary={"CAL_VER": "9.9"})
    for _ in range(3):
        following.look()
        clock.now += 1
    assert len(said) == 1
    assert said[0].startswith("s001_uncal.fits was replaced by another version after it was taken")
    assert numbers(following) == [(1, 5)]


def test_a_directory_is_wanted(tmp_path):
    with pytest.raises(InputError, match="--follow takes the directory that segments arrive in"):
        follow([tmp_path / "no"], None)
    with pytest.raises(InputError, match="the directory cannot be read"):
        Following(tmp_path / "no").look()


@pytest.mark.parametrize("library", [True, False])
def test_with_and_without_notices_of_the_system(incoming, monkeypatch, library):
    if library:
        pytest.importorskip("watchfiles")
    else:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
    following = Following(incoming)
    try:
        assert following.pause() == pytest.approx(module.POLL)
        began = time.monotonic()
        make(incoming, 1)
        while not following.trains() and time.monotonic() < began + 60:
            following.look()
            following.wait(1.0)
        assert numbers(following) == [(1, 5)]
    finally:
        following.close()
