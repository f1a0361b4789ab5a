"""Blocks: the file's bytes, in order, in bounded buffers, without leaks."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from segment_makers import make_segment, planes, ramps, time_values

from tsostream.errors import ReadError
from tsostream.files import block_length, blocks, buffer_bytes, find_exposures, read_blocks, read_sync, times


def cut(folder: Path, cuts, level="uncal", **keys):
    nints = max(first + count - 1 for first, count in cuts)
    return [
        make_segment(
            folder / f"{first}_{level}.fits", level=level, first=first, count=count, nints=nints, **keys
        )
        for first, count in cuts
    ]


def collect(exposure, **keys):
    """Read all, copy, release; returns blocks as (first, count, arrays, times, present)."""

    async def run():
        found = []
        async for raw in read_blocks(exposure, **keys):
            arrays = {name: array.copy() for name, array in raw.arrays.items()}
            found.append((raw.first, raw.count, arrays, raw.times, raw.present))
            raw.release()
        return found

    return asyncio.run(run())


def joined(blocks):
    names = blocks[0][2]
    return {name: np.concatenate([block[2][name] for block in blocks]) for name in names}


def decoded_ramp(words):
    return words.byteswap() ^ np.uint16(0x8000)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("cuts", [[(1, 24)], [(1, 9), (10, 15)], [(k, 1) for k in range(1, 25)]])
@pytest.mark.parametrize("max_ints", [1, 7, 80])
def test_ramps_however_cut(tmp_path, cuts, max_ints):
    (exposure,) = find_exposures(cut(tmp_path, cuts))
    blocks = collect(exposure, max_ints=max_ints)
    words = joined(blocks)["SCI"]
    assert words.dtype == np.uint16
    np.testing.assert_array_equal(decoded_ramp(words), ramps(1, 24))
    numbers = np.concatenate([np.arange(first, first + count) for first, count, *_ in blocks])
    np.testing.assert_array_equal(numbers, np.arange(1, 25))
    np.testing.assert_array_equal(np.concatenate([b[3].values for b in blocks]), time_values(numbers))
    assert max(count for _, count, *_ in blocks) == min(max_ints, max(count for _, count in cuts))
    assert all(present for *_, present in blocks)


@pytest.mark.parametrize("level", ["rateints", "calints", "crfints"])
def test_planes(tmp_path, level):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 5), (6, 8)], level))
    found = joined(collect(exposure, max_ints=3))
    names = exposure.segments[0].planes
    assert tuple(found) == names
    for name, expected in planes(1, 13, names).items():
        assert found[name].dtype == np.uint32
        native = found[name].byteswap()
        decoded = native ^ np.uint32(0x80000000) if name == "DQ" else native.view(np.float32)
        np.testing.assert_array_equal(decoded, expected)


def test_chosen_extensions(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 5)], "rateints"))
    assert tuple(joined(collect(exposure, names=("DQ",)))) == ("DQ",)


def test_packed(tmp_path):
    (path,) = cut(tmp_path, [(1, 5)])
    packed = tmp_path / "p.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    (exposure,) = find_exposures([packed])
    np.testing.assert_array_equal(decoded_ramp(joined(collect(exposure))["SCI"]), ramps(1, 5))


def test_ranges(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 9), (10, 15)]))
    blocks = collect(exposure, ranges=[(2, 1), (8, 4), (24, 1)])
    assert [(first, count) for first, count, *_ in blocks] == [(2, 1), (8, 2), (10, 2), (24, 1)]
    for first, count, arrays, *_ in blocks:
        np.testing.assert_array_equal(decoded_ramp(arrays["SCI"]), ramps(first, count))
    for wrong in ([(0, 1)], [(3, 0)], [(5, 2), (6, 1)], [(5, 1), (4, 1)], [(24, 2)]):
        with pytest.raises(ValueError, match="must lie within"):
            collect(exposure, ranges=wrong)


def test_gap_blocks(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 3), (14, 3)]), allow_gaps=True)
    blocks = collect(exposure, max_ints=7)
    assert [(first, count, present) for first, count, _, _, present in blocks] == [
        (1, 3, True), (4, 7, False), (11, 3, False), (14, 3, True),
    ]  # fmt: skip
    missing = blocks[1]
    assert missing[2] == {}
    np.testing.assert_allclose(
        missing[3].values[:, :3], time_values(np.arange(4, 11))[:, :3], rtol=0, atol=1e-10
    )
    assert set(missing[3].flag.tolist()) == {times.HEADER_TIMES | times.NO_BJD | times.ABSENT}


def test_block_bytes(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 30)], "rateints"))
    each = exposure.segments[0].bytes_per_integration()
    assert each == 5 * 4 * 48
    assert block_length(exposure, block_bytes=each * 7) == 7
    assert block_length(exposure, block_bytes=1) == 1
    assert block_length(exposure, max_ints=4) == 4
    assert [count for _, count, *_ in collect(exposure, block_bytes=each * 13)] == [13, 13, 4]


@pytest.mark.parametrize("read_ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("hold", [0, 2])
def test_buffers_are_bounded(tmp_path, monkeypatch, read_ahead, hold):
    """At most the read-ahead and what the consumer holds, and no more bytes than planned."""
    (exposure,) = find_exposures(cut(tmp_path, [(1, 40), (41, 20)]))
    pools = []
    original = blocks.Pool.__init__
    monkeypatch.setattr(blocks.Pool, "__init__", lambda self: (original(self), pools.append(self))[0])

    async def run():
        held = []
        async for raw in read_blocks(exposure, max_ints=3, read_ahead=read_ahead):
            held.append(raw)
            await asyncio.sleep(0.001)
            if len(held) > hold:
                # released in another thread, twice: only the first counts
                oldest = held.pop(0)
                await asyncio.to_thread(oldest.release)
                oldest.release()

    asyncio.run(run())
    (pool,) = pools
    assert pool.allocated <= max(1, read_ahead) + hold + 1
    planned = buffer_bytes(exposure, max_ints=3, read_ahead=read_ahead, in_use=hold + 1)
    assert pool.allocated * 3 * exposure.segments[0].bytes_per_integration() <= planned


def test_a_held_block_stays_as_it_is(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 12)]))

    async def run():
        held = [raw async for raw in read_blocks(exposure, max_ints=2)]
        for raw in held:
            np.testing.assert_array_equal(decoded_ramp(raw.arrays["SCI"]), ramps(raw.first, raw.count))

    asyncio.run(run())


def test_sync_reads_the_same(tmp_path):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 9), (10, 15)], "rateints"))
    expected = joined(collect(exposure, max_ints=4))
    found: dict[str, list] = {}
    for raw in read_sync(exposure, max_ints=4):
        for name, array in raw.arrays.items():
            found.setdefault(name, []).append(array.copy())
        raw.release()
    for name, arrays in found.items():
        np.testing.assert_array_equal(np.concatenate(arrays), expected[name])


# -------------------- failures, leaks


def test_file_that_changed(tmp_path):
    paths = cut(tmp_path, [(1, 9), (10, 15)])
    (exposure,) = find_exposures(paths)
    os.truncate(paths[1], 9000)
    before = open_descriptors()
    with pytest.raises(ReadError, match=r"10_uncal.fits: the file changed since it was inspected .*9000 now"):
        collect(exposure)
    assert open_descriptors() == before
    paths[1].unlink()
    with pytest.raises(ReadError, match="cannot be opened any more"):
        collect(exposure)


def test_file_that_shrinks_during_the_run(tmp_path):
    (path,) = cut(tmp_path, [(1, 30)], times=None)
    (exposure,) = find_exposures([path])
    sci = exposure.segments[0].extensions["SCI"]

    async def run():
        async for raw in read_blocks(exposure, max_ints=1, read_ahead=1):
            if raw.first == 5:
                os.truncate(path, sci.offset + 10 * sci.bytes_per_integration + 100)
            raw.release()

    with pytest.raises(ReadError, match=r"extension SCI: integration 11 is not there any more.*--resume"):
        asyncio.run(run())


def test_io_error(tmp_path, monkeypatch):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 9)]))

    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(
        ReadError, match=r"extension SCI: integration 1 cannot be read \(Input/output error\)"
    ):
        collect(exposure)


def test_short_reads_are_completed(tmp_path, monkeypatch):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 9)]))
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:100]], at))
    np.testing.assert_array_equal(decoded_ramp(joined(collect(exposure))["SCI"]), ramps(1, 9))


@pytest.mark.parametrize("way", ["break", "cancel", "error"])
def test_stopping_leaves_nothing_behind(tmp_path, monkeypatch, way):
    (exposure,) = find_exposures(cut(tmp_path, [(1, 20), (21, 20)]))
    real = os.preadv

    def slow(*args):
        time.sleep(0.01)
        return real(*args)

    monkeypatch.setattr(os, "preadv", slow)
    before = open_descriptors()

    async def consume(seen):
        async for raw in read_blocks(exposure, max_ints=2, read_ahead=4):
            seen.append(raw.first)
            if way == "break" and raw.first == 5:
                break
            if way == "error" and raw.first == 5:
                raise KeyError("mine")
            await asyncio.sleep(0.005)

    async def run():
        seen = []
        task = asyncio.create_task(consume(seen))
        if way == "cancel":
            await asyncio.sleep(0.05)
            task.cancel()
        expected = {"cancel": pytest.raises(asyncio.CancelledError), "error": pytest.raises(KeyError)}
        with expected.get(way, contextlib.nullcontext()):
            await task

    asyncio.run(run(), debug=True)
    deadline = time.monotonic() + 60
    while open_descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert open_descriptors() == before


def test_segments_are_opened_once_and_closed_when_past(tmp_path, monkeypatch):
    (exposure,) = find_exposures(cut(tmp_path, [(k, 2) for k in range(1, 41, 2)]))
    opened, lock = [], threading.Lock()
    original = blocks._OpenFile.__init__

    def counted(self, *args):
        with lock:
            opened.append(self)
        original(self, *args)

    monkeypatch.setattr(blocks._OpenFile, "__init__", counted)

    async def run():
        async for raw in read_blocks(exposure, max_ints=1, read_ahead=2):
            raw.release()
            assert sum(file.descriptor >= 0 for file in opened) <= 4

    asyncio.run(run())
    assert len(opened) == 20
    assert all(file.descriptor < 0 for file in opened)


def test_golden_bytes(shared):
    """Every word of every plane, in all golden exposures, as astropy reads it."""
    for case in sorted((shared / "golden").iterdir()):
        for folder in (case, case / "jwst"):
            (exposure,) = find_exposures([folder])
            found = joined(collect(exposure, max_ints=7))
            for name, words in found.items():
                expected = b""
                for segment in exposure.segments:
                    with fits.open(segment.source_path, do_not_scale_image_data=True) as hdus:
                        expected += hdus[name].data.tobytes()
                assert words.tobytes() == expected, (folder, name)


@pytest.mark.parametrize("max_ints", [1, 7, 80])
def test_integrations_that_cannot_be_read(tmp_path, monkeypatch, max_ints):
    """Each is handed out as failed, for itself; its neighbours in the block are whole, and all buffers come back."""
    (exposure,) = find_exposures(cut(tmp_path, [(1, 9), (10, 15)], "rateints"))
    bad = {3, 9, 10, 17}
    real, pools = os.preadv, []
    spans = [
        (ext.offset + (number - segment.first) * ext.bytes_per_integration + 5, segment)
        for segment in exposure.segments
        for number in bad
        if segment.first <= number <= segment.last
        for ext in (segment.extensions["ERR" if number == 17 else "SCI"],)
    ]

    def failing(descriptor, buffers, offset):
        size = sum(len(one) for one in buffers)
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if any(name == str(segment.path) and offset <= at < offset + size for at, segment in spans):
            raise OSError(5, "Input/output error")
        return real(descriptor, buffers, offset)

    original = blocks.Pool.__init__
    monkeypatch.setattr(blocks.Pool, "__init__", lambda self: (original(self), pools.append(self))[0])
    monkeypatch.setattr(os, "preadv", failing)
    parts = collect(exposure, max_ints=max_ints, on_error="flag")
    numbers = np.concatenate([np.arange(first, first + count) for first, count, *_ in parts])
    np.testing.assert_array_equal(numbers, np.arange(1, 25))
    assert {first + k for first, count, _, _, present in parts if not present for k in range(count)} == bad
    expected = planes(1, 24, exposure.segments[0].planes)["SCI"]
    for first, count, arrays, _, present in parts:
        if present:
            found = arrays["SCI"].byteswap().view(np.float32)
            np.testing.assert_array_equal(found, expected[first - 1 : first - 1 + count])
    assert all(len(pool._free) == pool.allocated for pool in pools)
    with pytest.raises(
        ReadError, match=r"extension SCI: integration 3 cannot be read \(Input/output error\)"
    ):
        collect(exposure, max_ints=max_ints)


def test_a_file_that_became_shorter(tmp_path):
    """What is behind its end is failed; its times come from the header."""
    (exposure,) = find_exposures(cut(tmp_path, [(1, 10)]))
    ext = exposure.segments[0].extensions["SCI"]
    os.truncate(exposure.segments[0].path, ext.offset + 6 * ext.bytes_per_integration + 3)
    parts = collect(exposure, max_ints=4, on_error="flag")
    assert [(first, count, present) for first, count, _, _, present in parts] == [
        (1, 4, True), (5, 2, True), (7, 2, False), (9, 2, False),
    ]  # fmt: skip
    assert all(times.HEADER_TIMES & int(flag) for part in parts for flag in part[3].flag)
    for raw in read_sync(exposure, max_ints=4, on_error="flag"):
        assert raw.failed != raw.present
        raw.release()
    with pytest.raises(ReadError, match="changed since it was inspected"):
        collect(exposure)
    exposure.segments[0].path.write_bytes(bytes(exposure.segments[0].data_size + 2880))
    with pytest.raises(ReadError, match="changed since it was inspected"):
        collect(exposure, on_error="flag")
