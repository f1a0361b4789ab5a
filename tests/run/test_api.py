"""The Python face: `stream` and `process` agree, and work where a loop is running already."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest
from run_helpers import Simulated, differences, reduce, table_differences

import tsostream
from tsostream.errors import InputError
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import journal_path


async def _collect(exposure: SimulatedExposure) -> list[tuple[pa.RecordBatch, pa.RecordBatch | None]]:
    options = (
        {"wavelengths": exposure.references["wavelength"]} if "wavelength" in exposure.references else {}
    )
    return [
        (pair.light_curve, pair.spectra)
        async for pair in tsostream.stream(exposure.segments, refs_dir=exposure.directory, **options)
    ]


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NRC_TSIMAGE"])
def test_stream_hands_out_the_rows_that_process_writes(
    exp_type: str, simulated: Simulated, tmp_path: Path
) -> None:
    exposure = simulated(exp_type, ints=90, segments=3, seed=2, cosmic_rays=3e-3)
    lc = tsostream.open(reduce(exposure, tmp_path / "lc.arrow"))
    batches = asyncio.run(_collect(exposure))
    assert len(batches) > 1
    light_curve = pa.Table.from_batches([pair[0] for pair in batches])
    assert table_differences(light_curve, lc.table) == []
    if exp_type == "NRC_TSIMAGE":
        assert lc.spectra is None
        assert {pair[1] for pair in batches} == {None}
    else:
        assert lc.spectra is not None
        spectra = pa.Table.from_batches([pair[1] for pair in batches])
        assert table_differences(spectra, lc.spectra.table) == []


def test_stream_writes_nothing_and_can_be_left(bots: SimulatedExposure) -> None:
    before = sorted(bots.directory.iterdir())

    async def first() -> int:
        rows = tsostream.stream(bots.segments, refs_dir=bots.directory, block_bytes=1)
        async for pair in rows:
            await rows.aclose()
            return pair.light_curve.num_rows
        return 0

    assert 0 < asyncio.run(first()) <= 64
    assert sorted(bots.directory.iterdir()) == before


def test_stream_takes_one_exposure(bots: SimulatedExposure, simulated: Simulated) -> None:
    other = simulated("NRC_TSIMAGE", ints=20, segments=3, seed=4)

    async def both() -> None:
        async for _ in tsostream.stream([*bots.segments, *other.segments], refs_dir=bots.directory):
            pass

    with pytest.raises(InputError):
        asyncio.run(both())


def test_process_inside_a_running_loop(bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    """As in a notebook."""

    async def cell() -> Path:
        asyncio.get_running_loop()
        return reduce(bots, tmp_path / "lc.arrow")

    assert differences(asyncio.run(cell()), bots_rows) == []


def test_errors_come_through_a_running_loop(bots: SimulatedExposure, tmp_path: Path) -> None:
    async def cell() -> Path:
        return reduce(bots, tmp_path / "no" / "lc.arrow")

    with pytest.raises(InputError, match="the directory does not exist"):
        asyncio.run(cell())


def test_a_single_path_and_strings_do(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=20, seed=4)
    (out,) = tsostream.process(
        str(exposure.segments[0]), str(tmp_path / "lc.arrow"), refs_dir=str(exposure.directory)
    )
    assert out == tmp_path / "lc.arrow"
    assert len(tsostream.open(str(out))) == 20
    assert not journal_path(out).exists()
