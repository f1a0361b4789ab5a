import dataclasses
import errno
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from row_builders import DETECTOR, EXPOSURE, batches, measurement, schemas

from tsostream.errors import InputError, OutputExistsError, SinkError
from tsostream.records import RowSchemas, bins_schema, encode_metadata, to_batches
from tsostream.sinks import (
    Journal,
    Output,
    bins_path,
    journal,
    journal_path,
    open_output,
    read_journal,
    spectra_path,
)
from tsostream.sinks.arrow_file import GrowingFile


def run(out, first, last, *, size=3, status="complete", output=None):
    output = output or Output.create(out, *schemas(), fingerprint={"config": "a"})
    with output:
        for number in range(first, last + 1, size):
            output.commit(*batches(number, min(size, last + 1 - number)))
        if status:
            output.finish(status, {"n": last})


def numbers(out):
    lc = open_output(out)
    found = lc.table["integration"].to_pylist()
    if lc.spectra is not None:
        assert lc.spectra.table["integration"].to_pylist() == found
    return found


def same_rows(one, other):
    for path in (lambda p: p, spectra_path):
        a, b = (
            pa.ipc.open_file(path(name)).read_all().combine_chunks().to_batches() for name in (one, other)
        )
        assert [part.serialize().to_pybytes() for part in a] == [part.serialize().to_pybytes() for part in b]


def test_names(out):
    assert spectra_path(out).name == "lc.spectra.arrow"
    assert journal_path(out).name == "lc.arrow.journal"
    assert spectra_path("a/lc.nrs1.arrow").name == "lc.nrs1.spectra.arrow"


def test_a_complete_run_leaves_two_files(out):
    run(out, 1, 10)
    assert sorted(path.name for path in out.parent.iterdir()) == ["lc.arrow", "lc.spectra.arrow"]
    assert numbers(out) == list(range(1, 11))
    for path in (out, spectra_path(out)):
        assert pa.ipc.open_file(path).num_record_batches == 4


def test_images_have_one_file(out):
    lc, _ = schemas(kind="imaging")
    rows = to_batches(measurement(1, 2, spectra=False), RowSchemas("e", "d", lc))
    with Output.create(out, lc) as output:
        output.commit(*rows)
        with pytest.raises(SinkError, match="spectra do not go with this output"):
            output.commit(rows[0], batches(3, 1)[1])
        output.finish("complete")
    assert [path.name for path in out.parent.iterdir()] == ["lc.arrow"]
    assert open_output(out).spectra is None


def with_bins(first, count):
    """The batches of three tables; the last holds the integration's number in each of five bins."""
    metadata = encode_metadata({"bin_edges": [[float(n), float(n + 1)] for n in range(5)]})
    schema = bins_schema(n_bins=5, flux_unit="electron", metadata=metadata)
    rows = measurement(first, count)
    flux = np.arange(first, first + count, dtype=float)[:, None, None] + np.zeros((1, 1, 5))
    rows = dataclasses.replace(rows, bins={"flux": flux})
    return to_batches(rows, RowSchemas(EXPOSURE, DETECTOR, *schemas(), schema)), (*schemas(), schema)


def test_a_third_table_keeps_step(out):
    """Bins are committed, cut by resume and read back like the others; a run without removes them."""
    with Output.create(out, *with_bins(1, 3)[1]) as output:
        output.commit(*with_bins(1, 3)[0])
        with pytest.raises(SinkError, match="bins do not go with this output"):
            output.commit(*batches(4, 1))
        output.finish("interrupted")
    bins_path(out).write_bytes(bins_path(out).read_bytes()[:-40] + b"torn")
    output, following = Output.resume(out, *with_bins(1, 3)[1])
    assert following == 4
    with output:
        output.commit(*with_bins(4, 2)[0])
        output.finish("complete")
    lc = open_output(out)
    assert lc.bins is not None
    assert lc.bins.table["integration"].to_pylist() == [1, 2, 3, 4, 5] == numbers(out)
    np.testing.assert_array_equal(lc.bins.array("flux")[:, 2], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(lc.bins.wavelength(), np.arange(5) + 0.5)
    assert np.isnan(lc.bins.array("flux_err")).all()
    run(out, 1, 4, output=Output.create(out, *schemas(), overwrite=True))
    assert not bins_path(out).exists()
    assert open_output(out).bins is None


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_unfinished_run_has_footers_and_keeps_its_journal(out, status):
    run(out, 1, 5, status=status)
    assert open_output(out).status == status
    header, entries = read_journal(journal_path(out))
    assert header["fingerprint"] == {"config": "a"}
    assert [entry.last_integration for entry in entries] == [3, 5]


def record(monkeypatch, calls, *places):
    """Let methods note that they were called."""
    for owner, name in places:
        method = getattr(owner, name)

        def noted(self, *args, _method=method, _name=f"{owner.__name__}.{name}", **options):
            calls.append(_name)
            return _method(self, *args, **options)

        monkeypatch.setattr(owner, name, noted)


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_ended_properly_loses_nothing_when_the_machine_is_switched_off(out, monkeypatch, status):
    calls = []
    output = Output.create(out, *schemas(), fingerprint={"config": "a"})
    output.before_sync = lambda: calls.append("products")
    output.commit(*batches(1, 30))
    record(monkeypatch, calls, (GrowingFile, "finish"), (GrowingFile, "sync"))
    record(monkeypatch, calls, (Journal, "synced"), (Journal, "sync"))
    output.finish(status)
    tables = ["GrowingFile.sync"] * 2
    assert calls == ["GrowingFile.finish"] * 2 + ["products", *tables, "Journal.synced", "Journal.sync"]
    monkeypatch.setattr(journal, "boot_id", lambda: "another start")
    output, following = Output.resume(out, *schemas(), fingerprint={"config": "a"})
    output.abort()
    assert following == 31


def test_a_flush_that_fails_at_the_end_is_told_and_marks_nothing(out, monkeypatch):
    output = Output.create(out, *schemas())
    output.commit(*batches(1, 3))

    def fails(self):
        raise SinkError("the disk reports an error")

    monkeypatch.setattr(GrowingFile, "sync", fails)
    with pytest.raises(SinkError, match="the disk reports an error"):
        output.finish("interrupted")
    assert read_journal(journal_path(out))[0]["synced"] is None
    assert numbers(out) == [1, 2, 3]


def test_nothing_has_its_name_before_it_is_on_the_medium(out, monkeypatch):
    """Else a power failure could leave a table whose journal does not say whose it is."""
    calls = []
    record(monkeypatch, calls, (GrowingFile, "sync"), (GrowingFile, "publish"))
    record(monkeypatch, calls, (Journal, "begin"), (Journal, "sync"))
    with Output.create(out, *schemas()) as output:
        output.start()
    tables = [["GrowingFile.sync"] * 2, ["GrowingFile.publish"] * 2]
    assert calls == [*tables[0], "Journal.begin", "Journal.sync", *tables[1]]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("oops"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_exception_ends_the_files(out, error, status):
    def fail():
        with Output.create(out, *schemas()) as output:
            output.commit(*batches(1, 2))
            raise error

    with pytest.raises(type(error)):
        fail()
    lc = open_output(out)
    assert (lc.status, lc.table.num_rows) == (status, 2)
    assert type(error).__name__ in lc.metadata["error"]


def test_leaving_without_finish_keeps_the_rows(out):
    run(out, 1, 5, status=None)
    assert open_output(out).status == "growing"
    assert numbers(out) == [1, 2, 3, 4, 5]


def test_nothing_is_touched_before_the_first_commit(out):
    run(out, 1, 4)
    before = out.read_bytes()
    with Output.create(out, *schemas(), overwrite=True) as output:
        assert not output.started
        assert out.read_bytes() == before
    with pytest.raises(RuntimeError), Output.create(out, *schemas(), overwrite=True) as output:
        raise RuntimeError
    with Output.create(out, *schemas(), overwrite=True) as output:
        output.finish("interrupted")
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["lc.arrow", "lc.spectra.arrow"]


def test_a_run_without_rows_is_a_file_without_rows(out):
    with Output.create(out, *schemas()) as output:
        output.finish("complete")
    assert numbers(out) == []
    assert pa.ipc.open_file(out).num_record_batches == 0


def test_overwrite_replaces_everything_of_the_old_run(out):
    run(out, 1, 9, status="interrupted")
    run(out, 1, 4, output=Output.create(out, *schemas(), overwrite=True))
    assert numbers(out) == [1, 2, 3, 4]
    lc, _ = schemas(kind="imaging")
    with Output.create(out, lc, overwrite=True) as output:
        output.finish("complete")
    assert not spectra_path(out).exists()


def test_existing_outputs_are_refused(out):
    run(out, 1, 2)
    with pytest.raises(OutputExistsError, match="already there"):
        Output.create(out, *schemas())
    out.unlink()
    with pytest.raises(OutputExistsError, match=r"lc\.spectra\.arrow: .*already there"):
        Output.create(out, *schemas())
    with pytest.raises(OutputExistsError, match="one of the inputs"):
        Output.create(out, *schemas(), overwrite=True, inputs=[spectra_path(out)])
    assert not journal_path(out).exists()


def test_a_failed_commit_leaves_all_files_in_step(out, monkeypatch):
    output = Output.create(out, *schemas())
    output.commit(*batches(1, 2))
    sizes = [path.stat().st_size for path in (out, spectra_path(out), journal_path(out))]
    pwrite = os.pwrite
    for allowed in (0, 1, 2):  # the disk is full at the light curve, the spectra, the journal
        calls = iter(range(allowed))

        def full(fd, data, offset, calls=calls):
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(SinkError, match="No space left"):
            output.commit(*batches(3, 2))
        assert [path.stat().st_size for path in (out, spectra_path(out), journal_path(out))] == sizes
    with pytest.raises(SinkError, match="footer cannot be written"):
        output.finish("failed")
    monkeypatch.undo()
    assert numbers(out) == [1, 2]
    output, following = Output.resume(out, *schemas())
    assert following == 3
    run(out, 3, 4, output=output)
    assert numbers(out) == [1, 2, 3, 4]


@pytest.mark.parametrize("status", ["interrupted", "failed", None])
def test_a_resumed_run_equals_an_uninterrupted_one(out, tmp_path, status):
    run(tmp_path / "whole.arrow", 1, 20)
    run(out, 1, 8, status=status)
    lc, spectra = schemas(started="another day")
    output, following = Output.resume(out, lc, spectra, fingerprint={"config": "a"})
    assert following == 9
    assert output.last_integration == 8
    run(out, 9, 20, output=output, size=5)
    same_rows(out, tmp_path / "whole.arrow")
    assert open_output(out).status == "complete"
    assert not journal_path(out).exists()


def test_a_footer_torn_by_a_kill_is_no_obstacle(out, tmp_path):
    run(tmp_path / "whole.arrow", 1, 8)
    run(out, 1, 6, status="interrupted")
    whole = out.read_bytes()
    end = read_journal(journal_path(out))[1][-1].files["light_curve"].end
    assert len(whole) > end + 1000
    for cut in range(end, len(whole), 397):
        for file in (out, spectra_path(out), journal_path(out)):
            shutil.copy(file, tmp_path / file.name.replace("lc", "torn"))
        torn_out = tmp_path / "torn.arrow"
        torn_out.write_bytes(whole[:cut])
        assert open_output(torn_out).status == "growing"
        assert numbers(torn_out) == [1, 2, 3, 4, 5, 6]
        output, following = Output.resume(torn_out, *schemas(), fingerprint={"config": "a"})
        run(torn_out, following, 8, output=output)
        same_rows(torn_out, tmp_path / "whole.arrow")


def test_resuming_with_other_parameters_names_them(out):
    fingerprint = {"config": {"jump": {"threshold": 5}}, "inputs": ["a", "b"], "same": (1, 2)}
    with Output.create(out, *schemas(), fingerprint=fingerprint) as output:
        output.commit(*batches(1, 2))
    before = out.read_bytes()
    other = {"config": {"jump": {"threshold": 4}}, "inputs": ["a"], "same": [1, 2]}
    with pytest.raises(InputError) as caught:
        Output.resume(out, *schemas(), fingerprint=other)
    assert len(caught.value.problems) == 2
    assert "config.jump.threshold was 5 and is 4 now" in str(caught.value)
    assert "inputs was ['a', 'b'] and is ['a'] now" in str(caught.value)
    assert out.read_bytes() == before
    Output.resume(out, *schemas(), fingerprint=fingerprint)[0].abort()


def test_there_must_be_something_to_resume(out):
    with pytest.raises(InputError, match="is not there, so there is nothing to resume"):
        Output.resume(out, *schemas())
    run(out, 1, 2)
    with pytest.raises(InputError, match="has no journal: the run that wrote it is complete"):
        Output.resume(out, *schemas())
    journal_path(out).write_bytes(b"")  # a run with --overwrite was killed before it began
    with pytest.raises(InputError, match="its journal has no header"):
        Output.resume(out, *schemas())
    assert numbers(out) == [1, 2]


def test_resume_does_not_start_over_when_the_rows_are_gone(out):
    run(out, 1, 6, status=None)
    out.rename(out.with_name("moved"))
    with pytest.raises(InputError, match="none of the 2 batches in the journal"):
        Output.resume(out, *schemas(), fingerprint={"config": "a"})


def test_a_run_killed_before_its_first_row_begins_again(out):
    output = Output.create(out, *schemas(), fingerprint={"config": "a"})
    output.start()
    output.abort()
    for cut in (None, 100, 0):
        if cut is not None:
            out.write_bytes(out.read_bytes()[:cut])
        output, following = Output.resume(out, *schemas(), fingerprint={"config": "a"})
        assert following is None
        output.abort()
    output, _ = Output.resume(out, *schemas(), fingerprint={"config": "a"})
    run(out, 1, 3, output=output)
    assert numbers(out) == [1, 2, 3]


def torn(out, copy, *, cut, role, zeros):
    """Copy a run and tear the end of one of its files."""
    copy.mkdir()
    for path in (out, spectra_path(out), journal_path(out)):
        shutil.copy(path, copy / path.name)
    name = {"light_curve": out, "spectra": spectra_path(out), "journal": journal_path(out)}[role].name
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:cut] + b"\0" * (len(whole) - cut if zeros else 0))
    return copy / out.name


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("role", ["light_curve", "spectra", "journal"])
def test_every_torn_write_can_be_resumed(out, tmp_path, role, zeros):
    run(tmp_path / "whole.arrow", 1, 6, size=2)
    run(out, 1, 6, size=2, status=None)
    entries = read_journal(journal_path(out))[1]
    whole = {"light_curve": out, "spectra": spectra_path(out), "journal": journal_path(out)}[
        role
    ].read_bytes()
    if role == "journal":
        lines = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
        ends = lines[2:] if len(lines) == 5 else lines[1:]
    else:
        ends = [entry.files[role].end for entry in entries]
    cuts = [*range(ends[0], len(whole), 97 if role != "journal" else 11), ends[1], ends[1] - 1, ends[2] - 1]
    for cut in cuts:
        copy = torn(out, tmp_path / f"cut{cut}", cut=cut, role=role, zeros=zeros)
        output, following = Output.resume(copy, *schemas(), fingerprint={"config": "a"})
        complete = sum(end <= cut for end in ends)
        if zeros and role != "journal":  # bytes that were zero anyway are not missing
            complete = max(complete, (following - 1) // 2)
        assert following == 2 * complete + 1, cut
        run(copy, following, 6, output=output, size=2)
        same_rows(copy, tmp_path / "whole.arrow")
        shutil.rmtree(copy.parent)
