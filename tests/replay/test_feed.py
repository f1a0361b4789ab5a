"""Segments arrive at the pace they were observed, with the faults that were asked for."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits

from tsostream.errors import InputError, OutputExistsError
from tsostream.files import find_exposures
from tsostream.replay.feed import check_target, feed
from tsostream.replay.schedule import FAULTS, make_schedule, parse_faults, total_seconds
from tsostream.simulate import simulate


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return simulate("NRS_BRIGHTOBJ", folder, ints=30, groups=3, segments=5, seed=3, nx=32, ny=16)


@pytest.fixture(scope="module")
def found(exposure):
    return find_exposures(exposure.segments)


class Clock:
    """Time that passes only while somebody sleeps, and what was there whenever somebody did."""

    def __init__(self, folder):
        self.now, self.folder, self.seen = 0.0, folder, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.seen.append((self.now, {path.name: path.stat().st_size for path in self.folder.iterdir()}))
        self.now += seconds


def fed(transfers, folder, speed=1.0):
    clock = Clock(folder)
    told = []
    feed(
        transfers,
        folder,
        speed=speed,
        clock=clock,
        sleep=clock.sleep,
        say=lambda at, text: told.append((at, text)),
    )
    return clock, told


def test_files_grow_with_their_integrations(exposure, found, tmp_path):
    transfers = make_schedule(found)
    table = np.concatenate([fits.getdata(path, "INT_TIMES") for path in exposure.segments])
    seconds = 86400 * (table["int_end_MJD_UTC"] - table["int_start_MJD_UTC"][0])
    assert total_seconds(transfers) == pytest.approx(seconds[-1], abs=1e-3)
    clock, told = fed(transfers, tmp_path)
    assert clock.now == pytest.approx(seconds[-1], abs=0.05)
    for path in exposure.segments:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    science = found[0].segments[0].extensions["SCI"]
    name = exposure.segments[0].name
    for now, sizes in clock.seen[1:]:
        if seconds[0] < now < seconds[4]:
            # whole integrations up to now, and a part of the next one
            done = (sizes[name] - science.offset) / science.bytes_per_integration
            assert np.count_nonzero(seconds <= now) <= done <= np.count_nonzero(seconds <= now) + 1
    assert [text for _, text in told] == [f"{path.name} is complete" for path in exposure.segments]


def test_speed_is_scaled(found, tmp_path):
    transfers = make_schedule(found)
    clock, _ = fed(transfers, tmp_path, speed=10.0)
    assert clock.now == pytest.approx(total_seconds(transfers) / 10, abs=0.1)
    instant, told = fed(transfers, tmp_path / "now", speed=float("inf"))
    assert instant.now == 0.0
    assert len(told) == 5


def test_a_download_is_part_until_it_is_whole(exposure, found, tmp_path):
    transfers = make_schedule(found, arrival="whole")
    clock, _ = fed(transfers, tmp_path)
    sizes = {path.name: path.stat().st_size for path in exposure.segments}
    parts = 0
    for _, there in clock.seen:
        parts += any(name.endswith(".part") for name in there)
        assert all(size == sizes[name] for name, size in there.items() if not name.endswith(".part"))
    assert parts > 0
    assert {path.name for path in tmp_path.iterdir()} == set(sizes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arrival", ["grow", "whole"])
@pytest.mark.parametrize("fault", [*FAULTS, "all"])
def test_whatever_goes_wrong_the_files_are_right_in_the_end(exposure, found, tmp_path, fault, arrival, seed):
    names = parse_faults(fault)
    transfers = make_schedule(found, faults=names, seed=seed, arrival=arrival)
    again = make_schedule(found, faults=names[::-1], seed=seed, arrival=arrival)
    assert [replace(one, times=0, sizes=0) for one in transfers] == [
        replace(one, times=0, sizes=0) for one in again
    ]
    assert all(np.array_equal(a.times, b.times) for a, b in zip(transfers, again, strict=True))
    plain = make_schedule(found, arrival=arrival)
    assert [(one.name, one.begin) for one in transfers] != [
        (one.name, one.begin) for one in plain
    ] or fault == "stall"
    for one in transfers:
        assert (np.diff(one.times) >= 0).all()
        assert (np.diff(one.sizes) >= 0).all()
    _, told = fed(transfers, tmp_path)
    wanted = {path.name: path.read_bytes() for path in exposure.segments}
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(wanted.keys() - written.keys()) == (fault == "missing")
    for name, data in written.items():
        original = wanted[name.removeprefix("again_")]
        if data != original:
            assert fault in ("replace", "all")
            assert len(data) == len(original)
            assert sum(a != b for a, b in zip(data, original, strict=True)) == 1
            assert (
                fits.getheader(tmp_path / name)["DATE"] != fits.getheader(exposure.directory / name)["DATE"]
            )
    if fault in ("truncate", "all"):
        assert sum("breaks off" in text for _, text in told) == 1
    if fault in ("duplicate", "all"):
        assert sum(name.startswith("again_") for name in written) == 1


def happened(transfers, plain):
    """What has really gone wrong, whatever the labels say."""
    length = np.median([one.end - one.begin for one in plain])
    firsts = {}
    for one in transfers:
        if one.name == one.source.name:
            firsts.setdefault(one.name, one)
    order = [one.name for one in plain]
    found = {"missing"} if len(firsts) < len(plain) else set()
    if sorted(one.begin for one in firsts.values()) != sorted(one.begin for one in plain):
        found.add("late")
    if [name for name in firsts if name in order] != [name for name in order if name in firsts]:
        found.add("out-of-order")
    for one in transfers:
        whole = one.size == one.source.stat().st_size
        others = [other for other in transfers if other.name == one.name and other is not one]
        if one.name.startswith("again_") and whole:
            found.add("duplicate")
        if not whole and any(other.whole_file and other.begin > one.end for other in others):
            found.add("truncate")
        if (np.diff(one.times)[np.diff(one.sizes) == 0] >= 0.99 * length).any():
            found.add("stall")
        if one.newer and whole and one.whole and any(other.whole_file for other in others):
            assert all(other.end < one.begin for other in others)
            found.add("replace")
    return found


@pytest.mark.parametrize("arrival", ["grow", "whole"])
def test_every_fault_that_is_named_happens(found, arrival):
    plain = make_schedule(found, arrival=arrival)
    assert happened(plain, plain) == set()
    everything = set(parse_faults("all"))
    for seed in range(100):
        transfers = make_schedule(found, faults=parse_faults("all"), seed=seed, arrival=arrival)
        assert happened(transfers, plain) == everything, seed
        for fault in FAULTS:
            transfers = make_schedule(found, faults=(fault,), seed=seed, arrival=arrival)
            assert fault in happened(transfers, plain), seed
            if fault not in ("missing",):
                assert any(fault in one.fault for one in transfers), seed


def test_segments_in_random_order_differ_by_seed(found):
    orders = set()
    for seed in range(8):
        transfers = make_schedule(found, faults=("out-of-order",), seed=seed)
        orders.add(tuple(one.name for one in transfers))
        assert all(a.begin <= b.begin for a, b in pairwise(transfers))
    assert len(orders) > 3


def test_two_detectors_come_side_by_side(found, tmp_path):
    both = make_schedule([*found, *found])
    assert len(both) == 10
    assert len({one.begin for one in both}) == 5


def test_nothing_is_written_over(exposure, found, tmp_path):
    transfers = make_schedule(found)
    with pytest.raises(InputError, match="the segments themselves are here"):
        check_target(transfers, exposure.directory, overwrite=True)
    check_target(transfers, tmp_path)
    (tmp_path / exposure.segments[2].name).touch()
    with pytest.raises(OutputExistsError, match="seg003"):
        check_target(transfers, tmp_path)
    check_target(transfers, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is not a directory"):
        check_target(transfers, exposure.segments[0])


def test_unknown_faults_are_named():
    assert parse_faults("late, truncate,") == ("late", "truncate")
    assert parse_faults("") == ()
    with pytest.raises(InputError, match=r"no fault 'slow'; choose from late, out-of-order"):
        parse_faults("slow")
