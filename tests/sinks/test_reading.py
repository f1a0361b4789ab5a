import os
import random

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from row_builders import batches, schemas

from tsostream.errors import InputError, TsoStreamError
from tsostream.sinks import Output, journal_path, open_output, spectra_path

#: rounds of random corruption; 5,000 took a minute and found nothing more
N_FUZZ = int(os.environ.get("TSOSTREAM_FUZZ", "300"))


def write(out, last=20, *, status="complete", size=4, **facts):
    with Output.create(out, *schemas(**facts), fingerprint={}) as output:
        for number in range(1, last + 1, size):
            output.commit(*batches(number, min(size, last + 1 - number)))
        if status:
            output.finish(status, {"config": {"b": 2}, "inputs": ["x"]})
    return out


@pytest.mark.parametrize("status", ["complete", "interrupted", "failed", None])
def test_finished_and_unfinished_files_open_alike(out, status):
    lc = open_output(write(out, status=status))
    assert lc.status == (status or "growing") == lc.metadata["status"]
    assert lc.table["integration"].to_pylist() == list(range(1, 21))
    assert lc.spectra.table.num_rows == len(lc) == 20
    assert lc.metadata["config"] == ({"a": 1, "b": 2} if status else {"a": 1})
    assert lc.units()["flux"] == "electron"
    assert lc.to_pandas()["flux"][0] == 1000001.1
    assert "growing" in repr(lc) or status


def test_a_growing_file_grows(out):
    output = Output.create(out, *schemas())
    output.start()
    assert open_output(out).table.num_rows == 0
    for number in range(1, 4):
        output.commit(*batches(number, 1))
        assert open_output(out).table.num_rows == number
    output.abort()


def test_other_programs_open_the_finished_files(out):
    write(out)
    flux = open_output(out).table["flux"].to_pylist()
    wide = open_output(out).spectra.array("flux")
    assert wide.shape == (20, 16)
    assert pd.read_feather(out)["flux"].tolist() == flux
    assert pl.read_ipc(out)["flux"].to_list() == flux
    assert (np.stack(pd.read_feather(spectra_path(out))["flux"].to_numpy()) == wide).all()
    assert (np.stack(pl.read_ipc(spectra_path(out))["flux"].to_list()) == wide).all()
    table = pa.ipc.open_file(out).read_all()
    relation = duckdb.from_arrow(table)
    assert [row[0] for row in relation.order("integration").project("flux").fetchall()] == flux
    spectra = duckdb.from_arrow(pa.ipc.open_file(spectra_path(out)).read_all())
    assert spectra.aggregate("sum(list_sum(flux::float[]))").fetchall()[0][0] == pytest.approx(
        wide.sum(), rel=1e-6
    )


def test_wavelengths_come_from_the_metadata(out):
    write(out, wavelength=[*np.linspace(1, 5, 15), np.nan], dt_eff_s={"1": [0.5] * 16, "2": [1.0] * 16})
    lc = open_output(out)
    np.testing.assert_array_equal(lc.wavelength(), [*np.linspace(1, 5, 15), np.nan])
    assert (lc.spectra.dt_eff(2) == 1).all()
    with pytest.raises(ValueError, match="differs between the orders 1, 2"):
        lc.spectra.dt_eff()


def test_unknown_wavelengths_are_nan(out):
    assert np.isnan(open_output(write(out)).wavelength()).tolist() == [True] * 16


def test_what_cannot_be_opened_is_said_clearly(out, tmp_path):
    def message(path):
        with pytest.raises(InputError) as caught:
            open_output(path)
        return str(caught.value)

    assert message(out) == f"{out}: is not there; check the name"
    assert "is a directory" in message(tmp_path)
    out.write_bytes(b"")
    assert "is empty" in message(out)
    out.write_bytes(b"SIMPLE  =                    T")
    assert "does not begin like an Arrow file" in message(out)
    with pa.ipc.new_file(out, pa.schema([("a", pa.int64())])):
        pass
    assert "tsostream did not write it" in message(out)
    out.unlink()
    write(out)
    assert "ask it for .spectra" in message(spectra_path(out))
    header = out.read_bytes()[:500]
    out.write_bytes(header)
    assert "its schema is not complete" in message(out)


def test_a_damaged_finished_file_is_not_passed_off_as_a_short_one(out):
    write(out)
    data = bytearray(out.read_bytes())
    data[len(data) // 2 :][:64] = b"\0" * 64
    with pa.ipc.open_file(out) as reader:
        schema_bytes = len(reader.schema.serialize())
    position = 8 + schema_bytes
    data[position : position + 4] = b"abcd"
    out.write_bytes(data)
    lc = open_output(out)
    with pytest.raises(InputError, match="damaged: 0 of 5 batches"):
        _ = lc.table


def test_a_zero_filled_tail_is_not_taken_for_rows(out):
    write(out, status=None)
    whole = out.read_bytes()
    start = open_output(out)._start
    last = (len(whole) - start) // 5
    for zeros in (1, 8, 700, last - 300, last, last + 500):
        out.write_bytes(whole[:-zeros] + b"\0" * zeros)
        found = open_output(out).table
        clean = found["integration"].to_pylist()
        assert clean == list(range(1, len(clean) + 1))
        rows = {tuple(row) for row in zip(clean, found["flux"].to_pylist(), strict=True)}
        assert rows <= {(n, 1e6 + n + 0.1) for n in range(1, 21)}
    journal_path(out).unlink()
    out.write_bytes(whole + b"\0" * 5000)
    assert open_output(out).table.num_rows == 20


def test_every_truncation_gives_whole_batches_or_a_clear_error(out):
    write(out, 6, size=2)
    whole = out.read_bytes()
    for cut in {*range(0, len(whole), 61), *range(len(whole) - 30, len(whole))}:
        out.write_bytes(whole[:cut])
        try:
            lc = open_output(out)
        except InputError:
            continue
        assert lc.status == "growing"
        found = lc.table["integration"].to_pylist()
        assert found == list(range(1, len(found) + 1))
        assert len(found) % 2 == 0


@pytest.mark.parametrize("status", ["complete", None])
def test_random_corruption_never_gives_anything_but_our_errors(out, status):
    write(out, 12, status=status)
    whole = {path: path.read_bytes() for path in (out, spectra_path(out), journal_path(out)) if path.exists()}
    dice = random.Random(7)
    for _ in range(N_FUZZ):
        for path, data in whole.items():
            spoiled = bytearray(data)
            for _ in range(dice.choice((0, 1, 1, 3, 20))):
                spoiled[dice.randrange(len(data))] = dice.randrange(256)
            if dice.random() < 0.2:
                del spoiled[dice.randrange(len(data)) :]
            path.write_bytes(spoiled)
        try:
            lc = open_output(out)
            assert lc.status in ("complete", "interrupted", "failed", "growing")
            assert lc.table.num_rows <= 12
            if lc.spectra is not None:
                assert lc.spectra.table.num_rows <= 12
        except TsoStreamError:
            pass


def test_a_file_replaced_after_opening_is_noticed(out):
    write(out)
    lc = open_output(out)
    with Output.create(out, *schemas(), overwrite=True) as output:
        output.finish("complete")
    with pytest.raises(InputError, match="another run has replaced it"):
        _ = lc.table
