"""A run that was stopped, whatever stopped it, ends as if nothing had happened; another run is not taken for it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from run_helpers import SMALL, Simulated, bytes_per_integration, differences, light_curve, reduce

import tsostream
from bench import kills
from tsostream.errors import ConfigError, InputError, OutputExistsError, ReadError, SinkError
from tsostream.records import Quality, RowPair
from tsostream.run import resume as resume_module
from tsostream.run.observer import Silent
from tsostream.run.request import Request
from tsostream.run.setup import prepare_all
from tsostream.run.stream import run_exposure
from tsostream.simulate import SimulatedExposure
from tsostream.sinks import journal, journal_path, open_output, read_journal
from tsostream.sinks.products import part_path

RUNNER = Path(__file__).parent / "runner.py"


class StopError(Exception):
    """What a test stops a run with."""


class Told(Silent):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def line(self, beginning: str) -> str:
        (found,) = [text for text in self.messages if text.startswith(beginning)]
        return found


def request(exposure: SimulatedExposure, out: Path, **options: Any) -> Request:
    if "wavelength" in exposure.references:
        options.setdefault("wavelengths", exposure.references["wavelength"])
    options.setdefault("inputs", tuple(exposure.segments))
    return Request(out=out, refs_dir=exposure.directory, block_bytes=1, **options)


def run(wanted: Request, stop_at: int | None = None, told: Told | None = None) -> None:
    """Run until an integration is written, then raise."""

    def stop(pair: RowPair) -> None:
        if stop_at is not None and pair.last_integration >= stop_at:
            raise StopError

    for prepared in prepare_all(wanted):
        asyncio.run(run_exposure(prepared, told, on_rows=stop))


def stopped(exposure: SimulatedExposure, out: Path, at: int = 11, **options: Any) -> Request:
    """Stop a run; return what it was."""
    wanted = request(exposure, out, **options)
    with pytest.raises(StopError):
        run(wanted, at)
    return wanted


def again(wanted: Request, told: Told | None = None, **changes: Any) -> Request:
    wanted = replace(wanted, resume=True, overwrite=False, **changes)
    run(wanted, told=told)
    return wanted


@pytest.mark.parametrize("products", [(), ("rate,rateints,ramp",)])
def test_random_kills(products: tuple[str, ...], tmp_path: Path) -> None:
    """A handful here; ``python -m bench.kills`` does hundreds."""
    simulated = {
        **SMALL["NRS_BRIGHTOBJ"],
        "nx": 64,
        "ints": 24,
        "segments": 2,
        "seed": 3,
        "cosmic_rays": 2e-3,
    }
    case = kills.make_case(
        tmp_path,
        "NRS_BRIGHTOBJ",
        simulated=simulated,
        products=products,
        save_steps=("refpix",) if products else (),
    )
    dice = random.Random(11)
    for number in range(4):
        count, found = kills.kill_and_resume(case, tmp_path / f"run{number}", dice)
        assert found == [], (number, count)


def test_the_comparison_of_the_kills_can_fail(bots: SimulatedExposure, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(request(bots, tmp_path / name / "lc.arrow", products=("rateints",)))
    assert kills.differences(tmp_path / "a", tmp_path / "b") == []
    (product, *_) = (tmp_path / "b").glob("*_rateints.fits")
    with fits.open(product, mode="update") as hdus:
        hdus["ERR"].data[3, 2, 1] += 1
    assert [one for one in kills.differences(tmp_path / "a", tmp_path / "b") if "ERR" in one]
    other = tmp_path / "b" / "lc.arrow"
    run(
        request(bots, other, products=("rateints",), overwrite=True, settings=("jump.rejection_threshold=7",))
    )
    assert any(one.startswith("light_curve") for one in kills.differences(tmp_path / "a", tmp_path / "b"))


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NRC_TSIMAGE"])
def test_a_run_that_failed_goes_on_where_it_was(exp_type: str, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated(exp_type, ints=90, segments=2, seed=5)
    whole = tmp_path / "whole.arrow"
    run(request(exposure, whole))
    out, told = tmp_path / "lc.arrow", Told()
    wanted = stopped(exposure, out)
    assert open_output(out).status == "failed"
    scout_made = (tmp_path / "lc.scout.npz").stat().st_mtime_ns
    again(wanted, told)
    assert differences(out, whole) == []
    assert not journal_path(out).exists()
    assert (tmp_path / "lc.scout.npz").stat().st_mtime_ns == scout_made
    last = int(told.line("resumed").rpartition(" ")[2])
    assert told.line("resumed") == f"resumed: {out} holds integrations up to {last}"
    assert 11 <= last < 90
    metadata = open_output(out).metadata
    assert metadata["resumed_after"] == [last]
    expected = open_output(whole).metadata
    for key in kills.COUNTED:
        assert metadata[key] == expected[key]


def test_a_complete_output_says_so(bots: SimulatedExposure, tmp_path: Path) -> None:
    out, told = tmp_path / "lc.arrow", Told()
    wanted = request(bots, out, products=("rateints",))
    run(wanted)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again(wanted, told)
    assert told.messages == [f"{out} is complete already: nothing to resume"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match=r"jump\.rejection_threshold was \d\.0 and is 9.0 now"):
        again(wanted, settings=("jump.rejection_threshold=9",))


def test_nothing_to_resume_begins(bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    wanted = replace(request(bots, tmp_path / "lc.arrow"), resume=True)
    (prepared,) = prepare_all(wanted)
    assert any("nothing to resume, the run begins" in note for note in prepared.notes)
    run(wanted)
    assert differences(tmp_path / "lc.arrow", bots_rows) == []


def test_resume_and_overwrite_exclude_each_other(bots: SimulatedExposure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--overwrite begins it anew; give one of the two"):
        run(request(bots, tmp_path / "lc.arrow", resume=True, overwrite=True))


def test_an_unfinished_output_is_not_begun_anew_by_accident(bots: SimulatedExposure, tmp_path: Path) -> None:
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out)
    with pytest.raises(OutputExistsError, match=r"did not reach its end; go on with it \(--resume\)"):
        run(wanted)
    journal_path(out).unlink()
    with pytest.raises(
        InputError, match=r"it is not complete \(failed\), and its journal lc.arrow.journal is not"
    ):
        again(wanted)


def change_parameter(wanted: Request, folder: Path) -> Request:
    return replace(wanted, settings=("jump.rejection_threshold=9",))


def change_input(wanted: Request, folder: Path) -> Request:
    copy = Path(shutil.copy(wanted.inputs[0], folder))
    with fits.open(copy, mode="update") as hdus:
        hdus[0].header["TARGNAME"] = "somebody else"
    return replace(wanted, inputs=(copy, *wanted.inputs[1:]))


def change_reference(wanted: Request, folder: Path) -> Request:
    assert wanted.refs_dir is not None
    refs = Path(shutil.copytree(wanted.refs_dir, folder / "refs"))
    (dark,) = refs.glob("*dark*.fits")
    with fits.open(dark, mode="update") as hdus:
        hdus[1].data += 1
    return replace(wanted, refs_dir=refs)


def leave_an_input_out(wanted: Request, folder: Path) -> Request:
    return replace(wanted, inputs=wanted.inputs[:1])


def skip_a_step(wanted: Request, folder: Path) -> Request:
    return replace(wanted, skip_steps=("refpix",))


def other_products(wanted: Request, folder: Path) -> Request:
    return replace(wanted, products=("rateints",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_parameter, r"config\.jump\.rejection_threshold was \d\.0 and is 9\.0 now; resume with what"),
        (
            change_input,
            r"headers of the input jw\S+-seg001\S+ have changed since the run began; put it back as it was",
        ),
        (
            change_reference,
            r"reference dark is another file than when the run began \(sha256 \w{12}… then, \w{12}…",
        ),
        (leave_an_input_out, r"jw\S+-seg002\S+ was an input when the run began and is not there now"),
        (skip_a_step, r"steps\.skipped"),
        (other_products, r"products was \[\] and is \['rateints'\] now"),
    ],
)
def test_another_run_is_refused(
    change: Callable[[Request, Path], Request],
    said: str,
    bots: SimulatedExposure,
    bots_rows: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=said) as caught:
        again(change(wanted, tmp_path))
    assert caught.value.exit_code == 2
    rows = {path: path.read_bytes() for path in before if path != journal_path(out)}
    assert rows == {path: before[path] for path in rows}
    again(wanted)
    assert differences(out, bots_rows) == []


def test_another_version_is_refused(
    bots: SimulatedExposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out)
    real = resume_module.describe_prepared

    def newer(*given: Any, **options: Any) -> dict[str, Any]:
        start = real(*given, **options)
        return {**start, "versions": {**start["versions"], "numpy": "9.9"}}

    monkeypatch.setattr(resume_module, "describe_prepared", newer)
    with pytest.raises(
        InputError, match=rf"the version of numpy was {np.__version__} when the run began and is 9.9 now"
    ):
        again(wanted)


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_scout_that_is_gone_is_made_again(
    damage: str, bots: SimulatedExposure, bots_rows: Path, tmp_path: Path
) -> None:
    out, scout = tmp_path / "lc.arrow", tmp_path / "lc.scout.npz"
    wanted = stopped(bots, out)
    whole = scout.read_bytes()
    if damage == "gone":
        scout.unlink()
    else:
        scout.write_bytes(whole[: len(whole) // 2])
    again(wanted)
    assert differences(out, bots_rows) == []
    assert scout.read_bytes() == whole


def test_a_product_that_is_gone_is_missed(bots: SimulatedExposure, tmp_path: Path) -> None:
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out, products=("rateints",))
    (part, *_) = sorted(tmp_path.glob("*.part"))
    kept = part.rename(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"_rateints.fits.part: the product is not there any more; .*put it back"
    ):
        again(wanted)
    kept.rename(part)
    again(wanted)
    assert open_output(out).status == "complete"
    assert not list(tmp_path.glob("*.part"))


def test_a_product_of_somebody_else_is_not_replaced(bots: SimulatedExposure, tmp_path: Path) -> None:
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out, products=("rateints",))
    (part, *_) = sorted(tmp_path.glob("*.part"))
    foreign = part.with_name(part.name.removesuffix(".part"))
    foreign.write_text("precious")
    with pytest.raises(OutputExistsError, match="the product is already there"):
        again(wanted)
    assert foreign.read_text() == "precious"
    foreign.unlink()
    again(wanted)
    assert part_path(foreign) == part
    assert fits.getdata(foreign, "SCI").shape[0] == 20


@pytest.mark.parametrize("ints", [1, 2])
def test_very_short_exposures(ints: int, simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRC_TSIMAGE", ints=ints, seed=4)
    whole = tmp_path / "whole.arrow"
    run(request(exposure, whole))
    out = tmp_path / "lc.arrow"
    with pytest.raises(StopError):
        run(request(exposure, out), stop_at=1)
    again(request(exposure, out))
    assert differences(out, whole) == []


def test_a_gap_is_resumed_over(simulated: Simulated, tmp_path: Path) -> None:
    exposure = simulated("NRS_BRIGHTOBJ", ints=40, segments=4, seed=6)
    inputs = (exposure.segments[0], *exposure.segments[2:])
    whole = tmp_path / "whole.arrow"
    run(request(exposure, whole, inputs=inputs, allow_gaps=True))
    for at in (5, 12, 25):
        out = tmp_path / f"lc{at}.arrow"
        again(stopped(exposure, out, at, inputs=inputs, allow_gaps=True))
        assert differences(out, whole) == []
    assert light_curve(whole)["present"].sum() == 30


def test_a_machine_that_lost_power_goes_back_to_what_is_on_the_medium(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal tells that it was written before the machine was started anew."""
    out, told = tmp_path / "lc.arrow", Told()
    wanted = stopped(bots, out, at=30, products=("rateints",))
    assert read_journal(journal_path(out))[0] is not None
    with journal_path(out).open("ab") as file:
        file.write(journal._encode({"synced": read_journal(journal_path(out))[1][0].last_integration}))
    first = read_journal(journal_path(out))[1][0].last_integration
    monkeypatch.setattr(journal, "boot_id", lambda: "another start")
    again(wanted, told)
    assert told.line("resumed").endswith(f"holds integrations up to {first}")
    assert differences(out, bots_rows) == []


def test_an_interruption_followed_by_a_new_start_of_the_machine_loses_nothing(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "lc.arrow", Told()
    wanted = stopped(bots, out, at=30, products=("rateints",))
    last = open_output(out).table["integration"][-1].as_py()
    monkeypatch.setattr(journal, "boot_id", lambda: "another start")
    again(wanted, told)
    assert told.line("resumed").endswith(f"holds integrations up to {last}")
    assert differences(out, bots_rows) == []


def test_a_journal_that_lost_its_header_lets_the_same_run_begin_anew(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path
) -> None:
    """The table says which run it is of; another one, and a complete one, are not replaced."""
    out = tmp_path / "lc.arrow"
    wanted = stopped(bots, out, at=30, products=("rateints",))
    journal_path(out).write_bytes(b"")
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"jump\.rejection_threshold was \d\.0 and is 9.0 now"):
        again(wanted, settings=("jump.rejection_threshold=9",))
    assert out.read_bytes() == before
    again(wanted)
    assert differences(out, bots_rows) == []
    (note,) = [one for one in open_output(out).metadata["notes"] if "has lost its header" in one]
    assert note.endswith("the run begins anew")
    journal_path(out).write_bytes(b"")
    with pytest.raises(InputError, match="is complete and of an older run"):
        again(wanted)


def test_a_dead_lock_is_no_obstacle_and_a_living_one_is(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    out = tmp_path / "lc.arrow"
    block = bytes_per_integration(bots.segments[0])
    first = spawn(
        RUNNER, out, bots.directory, *bots.segments, "--block", block, "--hold", stdin=subprocess.PIPE
    )
    assert first.stdout is not None
    assert int(first.stdout.readline()) > 0
    wanted = replace(request(bots, out), wavelengths=None, resume=True)
    with pytest.raises(OutputExistsError, match=f"process {first.pid} on .* is writing this output; wait"):
        run(wanted)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    run(wanted)
    whole = tmp_path / "whole.arrow"
    run(replace(wanted, out=whole, resume=False))
    assert differences(out, whole) == []


def mount(*arguments: str) -> bool:
    """Whether the system did as it was told."""
    if not shutil.which("mount") or os.geteuid() != 0:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)):
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_file_system_that_is_read_only(
    small_disk: Path, bots: SimulatedExposure, bots_rows: Path, tmp_path: Path
) -> None:
    """Refused before the scout, new or resumed; what is there stays, and writable again it goes on."""
    out = small_disk / "lc.arrow"
    wanted = stopped(bots, out)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    assert mount("-o", "remount,ro", str(small_disk))
    for refused in (
        replace(wanted, resume=True),
        replace(wanted, overwrite=True),
        request(bots, out.with_name("b")),
    ):
        with pytest.raises(
            InputError, match="the directory cannot be written; choose another --out"
        ) as caught:
            prepare_all(refused)
        assert caught.value.exit_code == 2
    products = request(bots, tmp_path / "lc.arrow", products=("rateints",), products_dir=small_disk)
    with pytest.raises(InputError, match="choose another --products-dir"):
        prepare_all(products)
    # who only reads is not concerned
    assert open_output(out).status == "failed"
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
    assert mount("-o", "remount,rw", str(small_disk))
    again(wanted)
    assert differences(out, bots_rows) == []


def test_a_full_disk(small_disk: Path, simulated: Simulated, tmp_path: Path) -> None:
    """The disk fills up while the run goes on; with room again, it goes on."""
    # more than a batch holds: when the first one is on disk, others are still to be written
    exposure = simulated("NRS_BRIGHTOBJ", ints=90, segments=2, seed=5)
    out, ballast = small_disk / "lc.arrow", small_disk / "ballast"
    wanted, whole = request(exposure, out), tmp_path / "whole.arrow"

    def fill(pair: RowPair) -> None:
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    (prepared,) = prepare_all(wanted)
    with pytest.raises(
        SinkError, match=r"No space left on device; free some space, then go on with --resume"
    ) as caught:
        asyncio.run(run_exposure(prepared, on_rows=fill))
    assert caught.value.exit_code == 1
    assert 0 < len(tsostream.open(out)) < 90
    ballast.unlink()
    again(wanted)
    run(request(exposure, whole))
    assert differences(out, whole) == []


def test_an_input_that_vanished_and_came_back(simulated: Simulated, tmp_path: Path) -> None:
    # a batch holds 64 integrations at most, and what is read ahead of it is far from the last file's
    exposure = simulated("NRC_TSIMAGE", ints=180, segments=6, seed=4)
    inputs = [Path(shutil.copy(path, tmp_path)) for path in exposure.segments]
    out, whole = tmp_path / "lc.arrow", tmp_path / "whole.arrow"
    wanted = request(exposure, out, inputs=tuple(inputs), workers=1)
    away = tmp_path / "away"

    def remove(pair: RowPair) -> None:
        if inputs[5].exists():
            inputs[5].rename(away)

    (prepared,) = prepare_all(wanted)
    with pytest.raises(ReadError, match=r"cannot be opened any more .*; restore it and go on with --resume"):
        asyncio.run(run_exposure(prepared, on_rows=remove))
    with pytest.raises(InputError, match="was an input when the run began and is not there now"):
        again(replace(wanted, inputs=tuple(inputs[:5])))
    away.rename(inputs[5])
    again(wanted)
    run(replace(wanted, out=whole))
    assert differences(out, whole) == []


def test_unreadable_bytes(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk reports an error in integration 27: the run stops there, or flags its row and goes on."""
    scout = tmp_path / "scout.npz"
    shutil.copy(bots_rows.with_name("lc.scout.npz"), scout)
    real, frame = os.preadv, bytes_per_integration(bots.segments[0])
    victim = bots.segments[1].stat()

    def failing(descriptor: int, buffers: Any, offset: int) -> int:
        if os.fstat(descriptor).st_ino == victim.st_ino:
            start = 26 - 20
            header = victim.st_size - 20 * frame
            low = offset - header // 2
            size = sum(len(one) for one in buffers)
            if low < (start + 0.5) * frame < low + size:
                raise OSError(5, "Input/output error")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    out = tmp_path / "lc.arrow"
    wanted = replace(request(bots, out, scout=str(scout), products=("rate,rateints",)), block_bytes=8 * frame)
    with pytest.raises(
        ReadError, match=r"extension SCI: integration 2[678] cannot be read \(Input/output error"
    ):
        run(wanted)
    number = len(tsostream.open(out)) + 1 if out.exists() else 1
    told = Told()
    again(wanted, told, on_error="flag")
    lc, good = light_curve(out), light_curve(bots_rows)
    assert (~lc["present"]).sum() >= 1
    lost = np.flatnonzero(~lc["present"])
    bits = int(Quality.READ_FAILED | Quality.MISSING)
    assert all(int(value) & bits == bits for value in lc["quality"][lost])
    kept = lc["present"]
    assert lc["flux"][kept].tobytes() == good["flux"][kept].tobytes()
    assert number <= lost[0] + 1
    assert any("not readable (READ_FAILED)" in line for line in told.messages)
    (product,) = tmp_path.glob("*seg002*_rateints.fits")
    assert np.isnan(fits.getdata(product, "SCI")[lost[0] - 20]).all()
    assert (fits.getdata(product, "DQ")[lost[0] - 20] == 1).all()


def test_a_file_that_becomes_shorter_is_flagged(simulated: Simulated, tmp_path: Path) -> None:
    """Also under the scout, which leaves out what it cannot read."""
    exposure = simulated("NRC_TSIMAGE", ints=40, segments=2, seed=4)
    inputs = tuple(Path(shutil.copy(path, tmp_path)) for path in exposure.segments)
    out, told = tmp_path / "lc.arrow", Told()
    (prepared,) = prepare_all(request(exposure, out, inputs=inputs, on_error="flag"))
    os.truncate(inputs[1], inputs[1].stat().st_size // 2)
    asyncio.run(run_exposure(prepared, told))
    rows = light_curve(out)
    lost = np.flatnonzero(~rows["present"])
    assert 8 <= len(lost) <= 12
    assert lost[-1] == 39
    assert np.isfinite(rows["flux"][: lost[0]]).all()
    assert any("the scout leaves out integrations that cannot be read" in line for line in told.messages)


def test_the_python_interface(bots: SimulatedExposure, bots_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "lc.arrow"
    stopped(bots, out)
    assert reduce(bots, out, resume=True, block_bytes=1) == out
    assert differences(out, bots_rows) == []


def test_a_stored_scout_of_a_longer_exposure(
    bots: SimulatedExposure, bots_rows: Path, tmp_path: Path
) -> None:
    """Its integrations are not those at hand."""
    out = tmp_path / "lc.arrow"
    scout = str(bots_rows.with_name("lc.scout.npz"))
    run(request(bots, out, inputs=(bots.segments[1],), scout=scout))
    assert len(tsostream.open(out)) == 20
