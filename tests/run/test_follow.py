"""Segments that arrive while the run goes on, in any order and with faults: the rows are those of the plain run."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from astropy.io import fits
from run_helpers import Simulated, differences, table_differences

import tsostream
from bench import kills
from tsostream.errors import ConfigError, IdleTimeoutError, InputError, ReadError
from tsostream.files import find_exposures
from tsostream.records import RowPair
from tsostream.replay.feed import feed as feed_segments
from tsostream.replay.schedule import make_schedule, total_seconds
from tsostream.run.following import follow_exposures
from tsostream.run.observer import Silent
from tsostream.run.prepared import Prepared
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import Journal, journal_path, open_output

SCOUT = "head:12"


class Told(Silent):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass
class Feeder:
    """Puts segments into a directory from a thread of its own, as downloads do, well or badly."""

    into: Path
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    complete: dict[str, float] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def at_once(self, source: Path) -> None:
        """Copy under a hidden name, then rename."""
        hidden = self.into / f".{source.name}"
        shutil.copyfile(source, hidden)
        self._done(source)
        hidden.rename(self.into / source.name)

    def growing(self, source: Path, steps: int = 5, pause: float = 0.05) -> None:
        """Write piece by piece under the final name."""
        whole = source.read_bytes()
        edges = [0, *sorted(self.dice.sample(range(1, len(whole)), steps - 1)), len(whole)]
        with (self.into / source.name).open("wb", buffering=0) as file:
            for low, high in itertools.pairwise(edges):
                file.write(whole[low:high])
                time.sleep(pause)
        self._done(source)

    def preallocated(self, source: Path, steps: int = 5, pause: float = 0.05) -> None:
        """Make the file as long as it will be, write its beginning, then the pieces in random order."""
        whole = source.read_bytes()
        edges = [0, *sorted(self.dice.sample(range(1, len(whole)), steps - 1)), len(whole)]
        pieces = list(itertools.pairwise(edges))
        first, *rest = pieces
        self.dice.shuffle(rest)
        with (self.into / source.name).open("wb", buffering=0) as file:
            file.truncate(len(whole))
            for low, high in (first, *rest):
                file.seek(low)
                file.write(whole[low:high])
                time.sleep(pause)
        self._done(source)

    def truncated_first(self, source: Path) -> None:
        """A download that breaks off, and is begun again a moment later."""
        whole = source.read_bytes()
        (self.into / source.name).write_bytes(whole[: self.dice.randrange(1, len(whole))])
        time.sleep(0.4)
        self.growing(source)

    def part(self, source: Path) -> None:
        """Download under another name; renamed when it is complete."""
        part = self.into / f"{source.name}.part"
        shutil.copyfile(source, part)
        time.sleep(0.1)
        self._done(source)
        part.rename(self.into / source.name)

    def twice(self, source: Path) -> None:
        """The same file again, under another name."""
        self.at_once(source)
        shutil.copyfile(source, self.into / f"zz_{source.name}")

    def _done(self, source: Path) -> None:
        self.complete[source.name] = time.monotonic()


WAYS = ("at_once", "growing", "preallocated", "truncated_first", "part", "twice")


@pytest.fixture(scope="session")
def exposure(simulated: Simulated) -> SimulatedExposure:
    return simulated("NRS_BRIGHTOBJ", ints=48, segments=6, seed=5, nx=96, groups=4)


def request(exposure: SimulatedExposure, into: Path, out: Path, **options: Any) -> Request:
    into.mkdir(exist_ok=True)
    options = {
        **NO_WINDOW,
        "scout": SCOUT,
        "follow": True,
        "idle_timeout": 20.0,
        "inputs": (into,),
        **options,
    }
    return Request(
        out=out, refs_dir=exposure.directory, wavelengths=exposure.references.get("wavelength"), **options
    )


def run(wanted: Request, told: Told | None = None, on_rows: Callable[[RowPair], None] | None = None) -> None:
    for prepared in prepare_all(wanted):
        asyncio.run(run_exposure(prepared, told, on_rows=on_rows))


#: windows hold rows back until the frames behind them are there
NO_WINDOW = {"skip_steps": ("outlier_detection",)}


@pytest.fixture(scope="session")
def plain(exposure: SimulatedExposure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes out when all segments are there at the beginning."""
    return reduced(exposure, tmp_path_factory, **NO_WINDOW)


@pytest.fixture(scope="session")
def plain_with_window(exposure: SimulatedExposure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every step."""
    return reduced(exposure, tmp_path_factory)


def reduced(exposure: SimulatedExposure, tmp_path_factory: pytest.TempPathFactory, **options: Any) -> Path:
    out = tmp_path_factory.mktemp("plain") / "lc.arrow"
    data = out.parent / "data"
    wanted = request(exposure, data, out, **{"skip_steps": (), **options})
    whole = {"follow": False, "idle_timeout": None, "inputs": tuple(exposure.segments)}
    run(replace(wanted, products=("rateints,rate,x1dints",), **whole))
    data.rmdir()
    return out


def feed(exposure: SimulatedExposure, into: Path, seed: int) -> Feeder:
    """Let the segments come in random order, some at the same time, each in a way of its own."""
    dice = random.Random(seed)
    feeder = Feeder(into, dice)
    order = list(exposure.segments)
    dice.shuffle(order)
    ways = [dice.choice(WAYS) for _ in order]

    def deliver() -> None:
        for way, source in zip(ways, order, strict=True):
            if dice.random() < 0.3:
                feeder.start(lambda way=way, source=source: getattr(feeder, way)(source))
            else:
                getattr(feeder, way)(source)

    feeder.start(deliver)
    return feeder


SEEDS = range(int(os.environ.get("TSOSTREAM_FOLLOW_SEEDS", "3")))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_and_faults(
    seed: int, exposure: SimulatedExposure, plain_with_window: Path, tmp_path: Path
) -> None:
    """``TSOSTREAM_FOLLOW_SEEDS=100`` does a hundred."""
    out, plain = tmp_path / "out" / "lc.arrow", plain_with_window
    out.parent.mkdir()
    wanted = request(exposure, tmp_path / "data", out, products=("rateints,rate,x1dints",), skip_steps=())
    feeder = feed(exposure, tmp_path / "data", seed)
    run(wanted)
    feeder.join()
    assert differences(out, plain) == []
    assert kills.differences(plain.parent, out.parent) == []
    metadata = open_output(out).metadata
    assert [one["intstart"] for one in metadata["segments"]] == [1, 9, 17, 25, 33, 41]
    assert len(metadata["inputs"]) == 6


@pytest.mark.parametrize("arrival", ["grow", "whole"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_replayed_downlink_with_faults(
    arrival: Literal["grow", "whole"],
    seed: int,
    exposure: SimulatedExposure,
    plain_with_window: Path,
    tmp_path: Path,
) -> None:
    """The feeder of ``tsostream replay``: growing files, late, out of order, twice, broken off, standing still."""
    out, data = tmp_path / "lc.arrow", tmp_path / "data"
    faults = ("late", "out-of-order", "duplicate", "truncate", "stall")
    transfers = make_schedule(find_exposures(exposure.segments), faults=faults, seed=seed, arrival=arrival)
    feeder = Feeder(data)
    feeder.start(lambda: feed_segments(transfers, data, speed=total_seconds(transfers) / 2.0))
    run(request(exposure, data, out, skip_steps=()))
    feeder.join()
    assert differences(out, plain_with_window) == []


@pytest.mark.parametrize(
    "options", [NO_WINDOW, {"skip_steps": (), "settings": ("outlier_detection.rolling_window_width=5",)}]
)
def test_rows_come_with_their_segments(
    options: dict[str, Any],
    exposure: SimulatedExposure,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    """Rows of a segment are there before the next one is; those at its end, which need frames behind them, wait.

    How soon they are is measured by ``python -m bench.latency``.
    """
    out = tmp_path / "lc.arrow"
    came: set[int] = set()
    seen: list[int] = []
    feeder = Feeder(tmp_path / "data")
    wanted = request(exposure, tmp_path / "data", out, **options)
    (prepared,) = _with_segments(wanted, feeder, exposure.segments[:2])
    # blocks are far longer than a segment
    assert prepared.plan.block_integrations >= 48

    def deliver() -> None:
        for number, source in enumerate(exposure.segments[2:], 3):
            first = 8 * (number - 2) + 1  # of the segment before
            while first not in came and not over.is_set():
                time.sleep(0.01)
            seen.append(first)
            feeder.growing(source, pause=0.02)

    over = threading.Event()
    feeder.start(deliver)
    try:
        asyncio.run(
            asyncio.wait_for(
                run_exposure(
                    prepared, on_rows=lambda pair: came.update(pair.light_curve["integration"].to_pylist())
                ),
                timeout=120,
            )
        )
    finally:
        over.set()
        feeder.join()
    assert seen == [9, 17, 25, 33]
    assert differences(out, reduced(exposure, tmp_path_factory, **options)) == []


def _with_segments(wanted: Request, feeder: Feeder, segments: list[Path]) -> list[Prepared]:
    """Prepare with some segments there."""
    for source in segments:
        feeder.at_once(source)
    return prepare_all(wanted)


def test_idle_timeout_ends_interrupted_and_is_resumed(
    exposure: SimulatedExposure, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "lc.arrow"
    out.parent.mkdir()
    wanted = request(exposure, tmp_path / "data", out, idle_timeout=0.8, products=("rateints,rate,x1dints",))
    feeder = Feeder(tmp_path / "data")
    for source in (*exposure.segments[:3], exposure.segments[4]):
        feeder.at_once(source)
    shutil.copy(exposure.segments[3], tmp_path / "data" / (exposure.segments[3].name + ".part"))
    with pytest.raises(
        IdleTimeoutError, match=r"nothing new came for 0.8 s, and the segment with integration 25 of"
    ) as error:
        run(wanted)
    assert "--resume --follow" in str(error.value)
    assert error.value.exit_code == 1
    assert open_output(out).status == "interrupted"
    rows = len(tsostream.open(out))
    assert 16 < rows <= 24
    for source in (exposure.segments[3], exposure.segments[5]):
        feeder.at_once(source)
    told = Told()
    run(replace(wanted, resume=True), told)
    assert f"holds integrations up to {rows}" in " ".join(told.messages)
    assert kills.differences(plain.parent, out.parent) == []


def test_an_interrupted_follower_is_resumed_without_following(
    exposure: SimulatedExposure, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lc.arrow"
    feeder = Feeder(tmp_path / "data")
    wanted = request(exposure, tmp_path / "data", out, idle_timeout=0.6)
    for source in exposure.segments[:3]:
        feeder.at_once(source)
    with pytest.raises(IdleTimeoutError):
        run(wanted)
    for source in exposure.segments[3:]:
        feeder.at_once(source)
    run(replace(wanted, follow=False, idle_timeout=None, resume=True))
    assert differences(out, plain) == []


def test_nothing_comes(exposure: SimulatedExposure, tmp_path: Path) -> None:
    wanted = request(exposure, tmp_path / "data", tmp_path / "lc.arrow", idle_timeout=0.4)
    with pytest.raises(InputError, match=r"nothing new came for 0.4 s: no segment is there; give a longer"):
        run(wanted)
    Feeder(tmp_path / "data").at_once(exposure.segments[0])
    with pytest.raises(InputError, match="the scout needs integrations 1-14, 1-8 are there"):
        run(wanted)
    broken = tmp_path / "data" / exposure.segments[0].name
    os.truncate(broken, 30000)
    with pytest.raises(InputError, match="the file ends after 30000 bytes"):
        run(wanted)
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_what_is_waited_for_is_said_when_it_changes(exposure: SimulatedExposure, tmp_path: Path) -> None:
    """Once each, not at every look; and what is left out meanwhile."""
    data, said = tmp_path / "data", []
    wanted = request(exposure, data, tmp_path / "lc.arrow")
    first, second = (data / source.name for source in exposure.segments[:2])

    def say(text: str) -> None:
        said.append(text)
        if text == "waiting: no segment is there yet":
            shutil.copy(exposure.segments[0], first)
        elif text.endswith("the scout needs integrations 1-14, 1-8 are there"):
            shutil.copy(exposure.segments[0], data / f"zz_{first.name}")
        elif text.startswith("left out"):
            second.write_bytes(exposure.segments[1].read_bytes()[:30000])
        elif "ends after 30000 bytes" in text:
            shutil.copy(exposure.segments[1], second)

    ((growing, _),) = follow_exposures(wanted, say=say)
    assert [one.source_path.name for one in growing.segments] == [first.name, second.name]
    assert len(said) == len(set(said)) == 4
    assert said[2].startswith(f"left out: zz_{first.name} holds integrations 1-8, the same")
    assert f"1-8 are there; not complete: {second.name}: the file ends after 30000 bytes" in said[3]


def test_a_segment_left_of_an_earlier_exposure_does_not_block(
    exposure: SimulatedExposure, tmp_path: Path
) -> None:
    data, told = tmp_path / "data", []
    data.mkdir()
    left = data / exposure.segments[2].name.replace("jw01366", "jw00366")
    shutil.copy(exposure.segments[2], left)
    with fits.open(left, mode="update") as hdus:
        hdus[0].header["VISIT_ID"] = "00366003001"
    for source in exposure.segments[:2]:
        shutil.copy(source, data)
    for path in data.iterdir():  # so that all are taken at the first look
        os.utime(path, (time.time() - 100, time.time() - 100))
    ((growing, arrivals),) = follow_exposures(request(exposure, data, tmp_path / "lc.arrow"))
    assert len(arrivals.folder.trains()) == 2
    assert arrivals.folder.trains()[0] != arrivals.key
    assert growing.exposure_id == arrivals.key[0]
    assert [one.first for one in growing.segments] == [1, 9]
    arrivals.report = told.append
    asyncio.run(arrivals.run(1))
    assert any("are not part of this output" in text for text in told)


def test_resuming_takes_the_exposure_of_the_output(exposure: SimulatedExposure, tmp_path: Path) -> None:
    """Another one, earlier in order, could begin by now as well."""
    data, out = tmp_path / "data", tmp_path / "lc.arrow"
    data.mkdir()
    for source in exposure.segments[:2]:
        shutil.copy(source, data)
        other = data / source.name.replace("jw01366", "jw00366")
        shutil.copy(source, other)
        with fits.open(other, mode="update") as hdus:
            hdus[0].header["VISIT_ID"] = "00366003001"
    for path in data.iterdir():
        os.utime(path, (time.time() - 100, time.time() - 100))
    wanted = request(exposure, data, out)
    ((first, _),) = follow_exposures(wanted)
    assert first.exposure_id.startswith("jw00366")
    journal = Journal.acquire(journal_path(out))
    journal.begin({"exposure": {"exposure_id": first.exposure_id.replace("jw00366", "jw01366")}})
    journal.close()
    ((second, _),) = follow_exposures(replace(wanted, resume=True))
    assert second.exposure_id.startswith("jw01366")


def test_strangers_and_other_versions_are_reported_not_mixed_in(
    exposure: SimulatedExposure, plain: Path, simulated: Simulated, tmp_path: Path
) -> None:
    other = simulated("NRC_TSIMAGE", ints=20, segments=2, seed=4)
    out, told, data = tmp_path / "lc.arrow", Told(), tmp_path / "data"
    wanted = request(exposure, data, out)
    feeder = Feeder(data)
    for source in exposure.segments[:2]:
        feeder.at_once(source)

    def deliver() -> None:
        feeder.at_once(other.segments[0])
        twin = data / exposure.segments[0].name.replace("_uncal", "_v2_uncal")
        shutil.copy(exposure.segments[0], twin.with_suffix(".part"))
        with fits.open(twin.with_suffix(".part"), mode="update") as hdus:
            hdus[0].header["CAL_VER"] = "9.9"
        twin.with_suffix(".part").rename(twin)
        time.sleep(0.6)
        for source in exposure.segments[2:]:
            feeder.at_once(source)

    (prepared,) = prepare_all(wanted)
    feeder.start(deliver)
    asyncio.run(run_exposure(prepared, told))
    feeder.join()
    assert differences(out, plain) == []
    said = "\n".join(told.messages)
    assert "_v2_uncal.fits holds integrations 1-8, another version of what" in said
    assert "another" in said
    assert any(
        "of this output" in line or "left out" in line for line in told.messages if "nrc" in line.lower()
    )
    assert open_output(out).metadata["follow_reports"]


def test_a_segment_that_is_replaced_before_it_is_read_ends_the_run(
    exposure: SimulatedExposure, tmp_path: Path
) -> None:
    out, data = tmp_path / "lc.arrow", tmp_path / "data"
    wanted = request(exposure, data, out)
    feeder = Feeder(data)
    for source in (*exposure.segments[:2], exposure.segments[4]):
        feeder.at_once(source)
    (prepared,) = prepare_all(wanted)
    victim = data / exposure.segments[4].name
    with fits.open(victim, mode="update") as hdus:
        hdus[0].header["CAL_VER"] = "9.9"
    feeder.at_once(exposure.segments[2])
    feeder.at_once(exposure.segments[3])
    with pytest.raises(
        ReadError, match=r"was replaced or changed since it was inspected; versions are not mixed"
    ):
        asyncio.run(run_exposure(prepared))
    assert open_output(out).status == "failed"


def test_two_detectors_in_one_directory(exposure: SimulatedExposure, plain: Path, tmp_path: Path) -> None:
    """Each has its own output; they run side by side."""
    data, out = tmp_path / "data", tmp_path / "lc.arrow"
    data.mkdir()
    second = tmp_path / "nrs2"
    second.mkdir()
    twins = []
    for source in exposure.segments:
        twin = second / source.name.replace("nrs1", "nrs2")
        shutil.copy(source, twin)
        with fits.open(twin, mode="update") as hdus:
            hdus[0].header["DETECTOR"] = "NRS2"
        twins.append(twin)
    refs = Path(shutil.copytree(exposure.directory, tmp_path / "refs"))
    for path in refs.glob("*.fits"):
        if "uncal" in path.name:
            path.unlink()
            continue
        with fits.open(path, mode="update") as hdus:
            if hdus[0].header.get("DETECTOR") == "NRS1":
                hdus[0].header["DETECTOR"] = "ANY"
    feeder = Feeder(data)

    def deliver() -> None:
        for one, other in zip(exposure.segments, twins, strict=True):
            feeder.growing(one, steps=2)
            feeder.at_once(other)

    feeder.start(deliver)
    outs = tsostream.process(
        data,
        out,
        refs_dir=refs,
        wavelengths=exposure.references["wavelength"],
        scout=SCOUT,
        follow=True,
        idle_timeout=20,
        **NO_WINDOW,
    )
    feeder.join()
    assert [path.name for path in outs] == ["lc.nrs1.arrow", "lc.nrs2.arrow"]
    assert differences(outs[0], plain) == []
    assert len(tsostream.open(outs[1])) == 48


def test_streaming_from_python(exposure: SimulatedExposure, plain: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    feeder = feed(exposure, data, 5)

    async def collect() -> list[pa.RecordBatch]:
        return [
            pair.light_curve
            async for pair in tsostream.stream(
                data,
                follow=True,
                idle_timeout=20,
                scout=SCOUT,
                skip_steps=NO_WINDOW["skip_steps"],
                refs_dir=exposure.directory,
                wavelengths=exposure.references["wavelength"],
            )
        ]

    batches = asyncio.run(collect())
    feeder.join()
    assert table_differences(pa.Table.from_batches(batches), tsostream.open(plain).table) == []


def test_waiting_can_be_given_up(exposure: SimulatedExposure, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    async def impatient() -> None:
        async with asyncio.timeout(0.3):
            async for _ in tsostream.stream(tmp_path / "data", follow=True, refs_dir=exposure.directory):
                pass

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scout": "spread:10"}, "the scout cannot be spread over an exposure that is still arriving"),
        ({"parity": "jwst"}, "--parity works on whole segments"),
        ({"allow_gaps": True}, "--allow-gaps cannot be told from segments that have not come yet"),
    ],
)
def test_what_does_not_go_with_following(
    options: dict[str, Any], said: str, exposure: SimulatedExposure, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(request(exposure, tmp_path / "data", tmp_path / "lc.arrow", **options))
    with pytest.raises(
        InputError, match="--follow takes the directory that segments arrive in; give one directory"
    ):
        run(request(exposure, tmp_path / "data", tmp_path / "lc.arrow", inputs=(exposure.segments[0],)))
