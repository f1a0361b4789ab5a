"""Real processes: killed, out of space, without permission, two at a time."""

import os
import random
import signal
import time

import pyarrow as pa
import pytest
from row_builders import batches

from tsostream.sinks import Tail, journal_path, open_output, read_journal, spectra_path


def expected_flux(numbers):
    return [1e6 + number + 0.1 for number in numbers]


def check_rows(out):
    """Every journalled batch is readable in both files, and every row is right; how many rows those are."""
    entries = read_journal(journal_path(out))[1] if journal_path(out).exists() else []
    lc = open_output(out)
    numbers = lc.table["integration"].to_pylist()
    assert numbers == list(range(1, len(numbers) + 1))
    assert lc.table["flux"].to_pylist() == expected_flux(numbers)
    journalled = entries[-1].last_integration if entries else 0
    assert len(numbers) >= journalled
    spectra = lc.spectra.table
    assert spectra.num_rows >= journalled
    assert spectra["integration"].to_pylist() == list(range(1, spectra.num_rows + 1))
    return journalled


def test_kill_9_loses_at_most_the_batch_being_written(out, spawn):
    dice = random.Random(3)
    options = ("--rows", 5, "--wave", 700)
    reached = 0
    for attempt in range(6):
        process = spawn(out, 10**6, *options, *(["--resume"] if attempt else []))
        words = process.stdout.readline().split()
        assert words[0] == "begin", words
        assert int(words[1]) > reached or not attempt
        process.stdout.readline()
        time.sleep(dice.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        told = [line for line in process.communicate()[0].splitlines() if line]
        reported = int(told[-1]) if told and told[-1].isdigit() else reached
        reached = check_rows(out)
        assert reached >= reported - 5  # the last printed number itself may be torn
    assert reached > 20
    process = spawn(out, reached + 50, *options, "--resume")
    assert process.wait(30) == 0, process.communicate()
    whole = open_output(out)
    assert whole.status == "complete"
    assert whole.table.num_rows == reached + 50
    # bit for bit what one uninterrupted pass would have written
    last = reached + 50
    for path, reference in zip((out, spectra_path(out)), batches(1, last, n_wave=700), strict=True):
        (found,) = pa.ipc.open_file(path).read_all().combine_chunks().to_batches()
        assert found.serialize().equals(reference.serialize())


def test_another_process_sees_rows_in_order_never_partial(out, spawn):
    # a batch is begun when the one before has been seen: reading and writing go on at the same time
    process = spawn(out, 600, "--rows", 3, "--wave", 2048, "--step")
    tails = [Tail(out), Tail(spectra_path(out))]
    seen = [0, 0]
    polls_with_rows = 0
    deadline = time.monotonic() + 120
    begun = 0
    while not all(tail.finished for tail in tails):
        assert time.monotonic() < deadline
        assert process.poll() in (None, 0), process.communicate()
        if begun < 600 and min(seen) >= begun:
            begun += 3
            process.stdin.write("\n")
            process.stdin.flush()
        for index, tail in enumerate(tails):
            found = tail.poll()
            polls_with_rows += bool(found)
            for batch in found:
                numbers = batch["integration"].to_pylist()
                assert numbers == list(range(seen[index] + 1, seen[index] + len(numbers) + 1))
                reference = batches(numbers[0], len(numbers), n_wave=2048)[index]
                assert batch.serialize().equals(reference.serialize())
                seen[index] = numbers[-1]
    assert seen == [600, 600]
    assert polls_with_rows >= 200  # it really was read while it grew


def test_a_full_disk_fails_and_keeps_what_was_written(out, spawn):
    process = spawn(out, 10**5, "--wave", 512, "--limit", 400_000)
    told = process.communicate(timeout=30)[0].splitlines()
    assert process.returncode == 1
    assert told[-1].startswith(f"SinkError: {spectra_path(out)}: a batch cannot be written: File too large")
    assert "write to another file system" in told[-1]
    reached = check_rows(out)
    assert reached == int(told[-2])
    assert open_output(out).status == "failed"
    process = spawn(out, reached + 10, "--wave", 512, "--resume")
    assert process.wait(30) == 0
    assert open_output(out).table.num_rows == reached + 10


def test_two_processes_on_one_output(out, spawn):
    first = spawn(out, 10, "--hold")
    assert first.stdout.readline().startswith("begin")
    for option in ("--overwrite", "--resume"):
        second = spawn(out, 10, option)
        told = second.communicate(timeout=30)[0]
        assert second.returncode == 2
        assert told.startswith("OutputExistsError") and f"process {first.pid} on" in told  # noqa: PT018
    first.kill()
    first.wait()
    third = spawn(out, 12, "--resume")  # a dead process is no obstacle
    assert third.wait(30) == 0
    assert open_output(out).table.num_rows == 12


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_without_permission(out, spawn, tmp_path):
    for path in (tmp_path, *tmp_path.parents[:3]):
        if path.owner() == "root" and path.name.startswith(("pytest", "test")):
            path.chmod(0o755)
    process = spawn(out, 10, "--user", 65534)
    told, errors = process.communicate(timeout=30)
    if "ModuleNotFoundError" in errors or "Permission denied" in errors:
        pytest.skip("another user cannot read the package here")
    assert process.returncode == 2, errors
    assert "Permission denied; check the permissions" in told
    assert list(tmp_path.iterdir()) == []
