"""FITS products: every byte at its place, whatever the order of the slabs; names only for what is complete."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tsostream.errors import OutputExistsError, ReadError, SinkError
from tsostream.integration.payload import Times
from tsostream.sinks.products import ProductFile, part_path
from tsostream.sinks.products import slabs as slabs_module
from tsostream.sinks.products.layout import (
    Image,
    Layout,
    Table,
    carry,
    make_layout,
    primary_header,
    read_headers,
)

FIRST, COUNT, SHAPE = 11, 23, (5, 7)
Planes = dict[str, np.ndarray]


def cube_layout() -> Layout:
    full = (COUNT, *SHAPE)
    return make_layout(
        primary_header([], {"DATE": "2026-01-01", "DATAMODL": "CubeModel"}, {}),
        [
            Image("SCI", "f4", full, "DN/s"),
            Image("DQ", "u4", full),
            Image("PIXELDQ", "u4", SHAPE, cube=False),
            Image("GROUPDQ", "u1", full),
            Table(COUNT),
        ],
    )


@pytest.fixture
def planes() -> Planes:
    rng = np.random.default_rng(1)
    full = (COUNT, *SHAPE)
    sci = rng.normal(size=full).astype(np.float32)
    sci[3, 2, 1] = np.nan
    return {
        "SCI": sci,
        "DQ": rng.integers(0, 1 << 32, full, np.uint32),
        "GROUPDQ": rng.integers(0, 256, full, np.uint8),
    }


STATIC = {"PIXELDQ": np.arange(35, dtype=np.uint32).reshape(SHAPE) | np.uint32(1 << 31)}


def row_values(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count)[:, None] + np.arange(6) / 7.0


def times(first: int, count: int) -> Times:
    return Times(row_values(first, count), np.zeros(count, np.uint32))


def cube(path: Path, **options: Any) -> ProductFile:
    return ProductFile(path, cube_layout, FIRST, COUNT, static=STATIC, times=times, **options)


def put(file: ProductFile, planes: Planes, low: int, high: int) -> None:
    file.write(FIRST + low, {name: array[low:high] for name, array in planes.items()})


def test_slabs_in_any_order_and_twice(planes: Planes, tmp_path: Path) -> None:
    whole = cube(tmp_path / "whole.fits")
    put(whole, planes, 0, COUNT)
    assert whole.complete
    whole.publish()
    slabs = [(low, min(low + 4, COUNT)) for low in range(0, COUNT, 4)]
    random.Random(3).shuffle(slabs)
    pieces = cube(tmp_path / "pieces.fits")
    for low, high in slabs:
        for _ in range(2 if low == 8 else 1):
            pieces.write(FIRST + low, {name: array[low:high] for name, array in planes.items()})
    pieces.publish()
    assert (tmp_path / "pieces.fits").read_bytes() == (tmp_path / "whole.fits").read_bytes()


def test_slabs_from_many_threads(planes: Planes, tmp_path: Path) -> None:
    whole, file = cube(tmp_path / "whole.fits"), cube(tmp_path / "threads.fits")
    put(whole, planes, 0, COUNT)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda low: put(file, planes, low, low + 1), range(COUNT)))
    assert file.complete
    assert part_path(file.path).read_bytes() == part_path(whole.path).read_bytes()


def test_what_astropy_reads(planes: Planes, tmp_path: Path) -> None:
    """Order of the extensions, types, all 32 bits of DQ, the table, blocks of 2880 bytes."""
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, COUNT)
    file.publish()
    assert file.path.stat().st_size % 2880 == 0
    with fits.open(file.path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "DQ", "PIXELDQ", "GROUPDQ", "INT_TIMES"]
        for name, array in {**planes, **STATIC}.items():
            np.testing.assert_array_equal(hdus[name].data, array)
            assert (
                hdus[name].data.dtype == array.dtype.newbyteorder(">")
                or array.dtype == np.uint8
                or name.endswith("DQ")
            )
        assert hdus["SCI"].header["BITPIX"] == -32
        assert (hdus["DQ"].header["BITPIX"], hdus["DQ"].header["BZERO"]) == (32, 1 << 31)
        assert hdus["GROUPDQ"].header["BITPIX"] == 8
        assert hdus["SCI"].header["BUNIT"] == "DN/s"
        table = hdus["INT_TIMES"].data
        np.testing.assert_array_equal(table["integration_number"], np.arange(FIRST, FIRST + COUNT))
        np.testing.assert_array_equal(table["int_mid_BJD_TDB"], row_values(FIRST, COUNT)[:, 4])
        assert table.dtype.itemsize == 52


def test_many_rows_of_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: Planes) -> None:
    """The table goes out in pieces."""
    monkeypatch.setattr(slabs_module, "_ROWS", 5)
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, COUNT)
    table = fits.getdata(part_path(file.path), "INT_TIMES")
    np.testing.assert_array_equal(table["int_start_MJD_UTC"], row_values(FIRST, COUNT)[:, 0])


def test_planes_larger_than_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: Planes
) -> None:
    monkeypatch.setattr(slabs_module, "CHUNK_BYTES", 52)
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, COUNT)
    np.testing.assert_array_equal(fits.getdata(part_path(file.path), "DQ"), planes["DQ"])


def test_a_name_only_when_complete(planes: Planes, tmp_path: Path) -> None:
    """Nothing on disk before the first slab; ``.part`` until it is published."""
    file = cube(tmp_path / "x.fits")
    assert list(tmp_path.iterdir()) == []
    put(file, planes, 0, COUNT - 1)
    assert not file.complete
    with pytest.raises(SinkError, match=r"x\.fits\.part: holds 22 of 23 integrations"):
        file.publish()
    assert list(tmp_path.iterdir()) == [tmp_path / "x.fits.part"]
    size = part_path(file.path).stat().st_size
    put(file, planes, COUNT - 1, COUNT)
    assert file.complete
    assert part_path(file.path).stat().st_size == size
    file.publish()
    file.publish()
    assert list(tmp_path.iterdir()) == [tmp_path / "x.fits"]


@pytest.mark.parametrize("name", ["x.fits", "x.fits.part"])
def test_what_is_there_stays(name: str, planes: Planes, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    file = cube(tmp_path / "x.fits")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        put(file, planes, 0, 1)
    assert (tmp_path / name).read_text() == "precious"
    other = cube(tmp_path / "x.fits", overwrite=True)
    put(other, planes, 0, COUNT)
    if name == "x.fits":  # the old one is there until the new one is whole
        assert (tmp_path / name).read_text() == "precious"
    other.publish()
    assert fits.getdata(tmp_path / "x.fits", "SCI").shape == (COUNT, *SHAPE)


def test_a_file_that_appeared_meanwhile(planes: Planes, tmp_path: Path) -> None:
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, COUNT)
    (tmp_path / "x.fits").write_text("somebody else's")
    with pytest.raises(OutputExistsError, match=r"x\.fits"):
        file.publish()
    assert (tmp_path / "x.fits").read_text() == "somebody else's"
    assert part_path(file.path).exists()


def test_an_older_run_does_not_write_into_a_newer_one(planes: Planes, tmp_path: Path) -> None:
    """It keeps what has no name any more."""
    old, new = cube(tmp_path / "x.fits"), cube(tmp_path / "x.fits", overwrite=True)
    put(old, planes, 0, 2)
    put(new, planes, 0, COUNT)
    before = part_path(new.path).read_bytes()
    put(old, {name: array * 0 for name, array in planes.items()}, 2, 9)
    assert part_path(new.path).read_bytes() == before
    old.close()


def failing(reason: int, after: int) -> Callable[..., int]:
    """Make a pwrite that works so many times."""
    calls = iter(range(1 << 30))
    write = os.pwrite

    def pwrite(*given: Any) -> int:
        if next(calls) >= after:
            raise OSError(reason, os.strerror(reason))
        return write(*given)

    return pwrite


def test_a_full_disk(planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, 4)
    monkeypatch.setattr(slabs_module.os, "pwrite", failing(errno.ENOSPC, 1))
    with pytest.raises(
        SinkError, match=r"x\.fits\.part: integrations 15-17 of DQ cannot be written: No space left"
    ):
        put(file, planes, 4, 7)
    monkeypatch.undo()
    put(file, planes, 4, COUNT)  # as after some files were removed
    np.testing.assert_array_equal(fits.getdata(part_path(file.path), "SCI"), planes["SCI"])


def test_a_full_disk_at_once(planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker is told the same, and nothing is left."""
    file = cube(tmp_path / "x.fits")
    monkeypatch.setattr(slabs_module.os, "pwrite", failing(errno.ENOSPC, 0))
    for _ in range(2):
        with pytest.raises(SinkError, match=r"its headers cannot be written: No space left.*free some space"):
            put(file, planes, 0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_gone(planes: Planes, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"gone/x\.fits\.part: cannot be created: No such file"):
        put(cube(tmp_path / "gone" / "x.fits"), planes, 0, 1)


def test_short_writes(planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may take less than it was given."""
    write = os.pwrite
    monkeypatch.setattr(slabs_module.os, "pwrite", lambda fd, data, at: write(fd, memoryview(data)[:97], at))
    file = cube(tmp_path / "x.fits")
    put(file, planes, 0, COUNT)
    monkeypatch.undo()
    with fits.open(part_path(file.path)) as hdus:
        for name, array in planes.items():
            np.testing.assert_array_equal(hdus[name].data, array)


def source_header() -> fits.Header:
    header = fits.Header()
    header["TARGPROP"] = ("SIM", "the target")
    header["NINTS"] = 40
    header["DATE"] = "2020-01-01"
    header["CAL_VER"] = "1.2.3"
    header["S_JUMP"] = "COMPLETE"
    header["R_GAIN"] = "crds://old.fits"
    header["TITLE"] = "a long title, " * 12
    header["HIERARCH a strange key"] = 7
    header.add_comment("said so")
    header["CHECKSUM"] = "x"
    return header


def test_what_is_carried_over() -> None:
    """Everything but structure, identity, and the history of another calibration; long strings, too."""
    header = primary_header(
        carry(source_header(), primary=True),
        {"DATE": "now", "NINTS": 41, "NEWKEY": "n"},
        {"Steps": {"S_RAMP": "COMPLETE", "S_JUMP": "SKIPPED"}},
    )
    again = fits.Header.fromstring(header.tostring())
    assert again["DATE"] == "now"
    assert (again["TARGPROP"], again.comments["TARGPROP"]) == ("SIM", "the target")
    assert again["NINTS"] == 41
    assert again["TITLE"] == ("a long title, " * 12).rstrip()
    assert again["a strange key"] == 7
    assert "said so" in again["COMMENT"]
    assert (again["S_JUMP"], again["S_RAMP"], again["NEWKEY"]) == ("SKIPPED", "COMPLETE", "n")
    assert not {"CAL_VER", "R_GAIN", "CHECKSUM"} & set(again)
    assert list(again)[:4] == ["SIMPLE", "BITPIX", "NAXIS", "EXTEND"]


def test_broken_cards_are_left_out() -> None:
    raw = (
        b"GOOD    = 3".ljust(80)
        + b"BAD     = 'no end".ljust(80)
        + b"WORSE   = 1.2.3".ljust(80)
        + b"END".ljust(80)
    )
    cards = carry(fits.Header.fromstring(raw), primary=True)
    assert "GOOD" in [card.keyword for card in cards]
    make_layout(primary_header(cards, {}, {}), [])


def test_an_input_without_headers(tmp_path: Path) -> None:
    (tmp_path / "x.fits").write_bytes(b"nothing")
    with pytest.raises(ReadError, match=r"x\.fits: its headers cannot be carried over"):
        read_headers(tmp_path / "x.fits")
