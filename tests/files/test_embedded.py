"""The ASDF extension: what products carry on of the one of their input."""

from __future__ import annotations

import io
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits

from tsostream.files import EMPTY_TREE, portable_tree, read_tree


def packed(tree: dict) -> bytes:
    buffer = io.BytesIO()
    asdf.AsdfFile(tree).write_to(buffer)
    return buffer.getvalue()


def opened(content: bytes) -> dict:
    with asdf.open(io.BytesIO(content), lazy_load=False, memmap=False) as file:
        return dict(file.tree)


@pytest.fixture
def content() -> bytes:
    table = np.arange(12.0).reshape(3, 4)
    meta = {"wcs": {"steps": [table, table * 2]}, "target": {"proposer_name": "Größe"}, "filename": "a.fits"}
    made = packed({"meta": meta, "_fits_hash": "0" * 64, "extra_fits": {"PRIMARY": {}}, "data": "there"})
    # as the official products link arrays of other extensions
    link = (
        b"data: !core/ndarray-1.1.0 {source: 'fits:SCI,1', datatype: float32, byteorder: big, shape: [2, 3]}"
    )
    assert b"data: there" in made
    return made.replace(b"data: there", link)


def test_meta_is_carried_with_its_arrays_and_nothing_else(content: bytes) -> None:
    tree = opened(portable_tree(content))
    assert {*tree} - {"asdf_library", "history"} == {"meta"}
    assert tree["meta"]["target"]["proposer_name"] == "Größe"
    first, second = tree["meta"]["wcs"]["steps"]
    np.testing.assert_array_equal(first, np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(second, 2 * np.arange(12.0).reshape(3, 4))


def test_an_array_of_another_extension_is_left_out_where_it_stands(content: bytes) -> None:
    link = b"filename: !core/ndarray-1.1.0 {source: 'fits:AREA,1', datatype: float32, byteorder: big, shape: [2]}"
    tree = opened(portable_tree(content.replace(b"filename: a.fits", link)))
    assert {*tree["meta"]} == {"wcs", "target"}


def test_entries_are_left_out_when_asked_for(content: bytes) -> None:
    assert {*opened(portable_tree(content, without=("wcs",)))["meta"]} == {"target", "filename"}


def test_twice_is_the_same(content: bytes) -> None:
    once = portable_tree(content)
    assert portable_tree(once) == once


@pytest.mark.parametrize(
    "broken", [b"", b"no tree", b"#ASDF 1.0.0\n--- {a: [\n...\n", b"#ASDF\n--- 3\n...\n"]
)
def test_what_is_no_tree_becomes_the_empty_one(broken: bytes) -> None:
    assert portable_tree(broken) == EMPTY_TREE
    assert opened(EMPTY_TREE) == {"meta": {"telescope": "JWST"}}


def test_read_from_a_product(tmp_path: Path, content: bytes) -> None:
    column = fits.Column("ASDF_METADATA", f"{len(content)}B", array=np.frombuffer(content, np.uint8)[None])
    table = fits.BinTableHDU.from_columns([column], name="ASDF")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "a.fits")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "b.fits")
    assert read_tree(tmp_path / "a.fits") == content
    assert read_tree(tmp_path / "b.fits") == b""
