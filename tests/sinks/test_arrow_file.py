import errno
import io
import os

import pyarrow as pa
import pytest
from row_builders import batches, schemas

from tsostream.errors import InputError, OperatorError, OutputExistsError, SinkError
from tsostream.sinks import GrowingFile


def as_pyarrow_writes(schema, parts, metadata):
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, schema, metadata=metadata) as writer:
        for part in parts:
            writer.write_batch(part)
    return buffer.getvalue()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("counts", [[], [1], [64, 64, 3], [1] * 30, [0, 5]])
def test_the_bytes_are_those_of_pyarrows_writer(out, index, counts):
    schema = schemas()[index]
    parts, first = [], 1
    for count in counts:
        parts.append(batches(first, count)[index])
        first += count
    with GrowingFile.create(out, schema) as file:
        extents = [file.append(part) for part in parts]
        file.finish({"a": "b"})
    assert out.read_bytes() == as_pyarrow_writes(schema, parts, {"a": "b"})
    assert [extent.offset for extent in extents[1:]] == [extent.end for extent in extents[:-1]]
    with pa.ipc.open_file(out) as reader:
        assert reader.num_record_batches == len(counts)
        assert reader.metadata == {b"a": b"b"}


def test_slices_are_written_like_whole_batches(out):
    # a slice must not carry the bytes of the rows it leaves out
    whole = batches(1, 40)[0]
    with GrowingFile.create(out, whole.schema) as file:
        sliced = file.append(whole.slice(13, 7))
        copied = file.append(batches(14, 7)[0])
    assert (sliced.length, sliced.crc32) == (copied.length, copied.crc32)


def test_before_the_footer_it_is_a_stream_of_whole_batches(out):
    with GrowingFile.create(out, schemas()[0]) as file:
        file.append(batches(1, 3)[0])
        with out.open("rb") as stream:
            stream.seek(8)
            assert pa.ipc.open_stream(stream).read_next_batch().num_rows == 3


def test_a_finished_file_goes_on_where_its_batches_end(out):
    schema = schemas()[0]
    with GrowingFile.create(out, schema) as file:
        extents = [file.append(batches(n, 1)[0]) for n in (1, 2, 3)]
        file.finish({"status": "interrupted"})
    with GrowingFile.resume(out, schema, extents[:2]) as file:
        assert out.stat().st_size == extents[1].end
        file.append(batches(3, 5)[0])
        file.finish({"x": "y"})
    expected = [batches(1, 1)[0], batches(2, 1)[0], batches(3, 5)[0]]
    assert out.read_bytes() == as_pyarrow_writes(schema, expected, {"x": "y"})


@pytest.mark.parametrize("taken", [0, 1, 100])
def test_a_full_disk_leaves_whole_batches(out, monkeypatch, taken):
    pwrite = os.pwrite
    with GrowingFile.create(out, schemas()[0]) as file:
        good = file.append(batches(1, 2)[0])

        def full(fd, data, offset):
            if offset > good.end or not taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwrite(fd, data[:taken], offset)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(
            SinkError, match=r"a batch cannot be written: No space left.*free some space"
        ) as caught:
            file.append(batches(3, 2)[0])
        assert caught.value.errno == errno.ENOSPC
        assert str(out) in str(caught.value)
        assert out.stat().st_size == file.end == good.end
        monkeypatch.undo()
        file.append(batches(3, 2)[0])
        file.finish()
    assert pa.ipc.open_file(out).read_all()["integration"].to_pylist() == [1, 2, 3, 4]


def test_a_short_write_is_continued(out, monkeypatch):
    pwrite = os.pwrite
    with GrowingFile.create(out, schemas()[0]) as file:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:700], offset))
        file.append(batches(1, 4)[0])
        file.finish()
    assert out.read_bytes() == as_pyarrow_writes(schemas()[0], [batches(1, 4)[0]], {})


def test_no_footer_over_bytes_another_program_has_changed(out):
    with GrowingFile.create(out, schemas()[0]) as file:
        extent = file.append(batches(1, 4)[0])
        with out.open("r+b") as other:
            other.seek(extent.end - 64)
            other.write(b"\x01")
        with pytest.raises(SinkError, match="no footer written"):
            file.finish()
        assert out.stat().st_size == extent.end


def test_existing_files_are_kept_unless_told_otherwise(out):
    out.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match=r"choose another --out.*--overwrite"):
        GrowingFile.create(out, schemas()[0])
    with pytest.raises(OutputExistsError, match="one of the inputs"):
        GrowingFile.create(out, schemas()[0], overwrite=True, inputs=[out])
    assert out.read_bytes() == b"precious"
    file = GrowingFile.create(out, schemas()[0], overwrite=True, publish=False)
    assert out.read_bytes() == b"precious"
    file.close()
    assert list(out.parent.iterdir()) == [out]
    GrowingFile.create(out, schemas()[0], overwrite=True).close()
    assert out.read_bytes().startswith(b"ARROW1")


def test_a_link_to_an_input_is_an_input(out, tmp_path):
    source = tmp_path / "in_uncal.fits"
    source.write_bytes(b"x")
    out.symlink_to(source)
    with pytest.raises(OutputExistsError, match="one of the inputs"):
        GrowingFile.create(out, schemas()[0], overwrite=True, inputs=[source])


def test_an_overwritten_file_stays_whole_for_its_readers(out):
    with GrowingFile.create(out, schemas()[0]) as file:
        file.append(batches(1, 3)[0])
        file.finish()
    with out.open("rb") as reader:
        GrowingFile.create(out, schemas()[0], overwrite=True).close()
        assert pa.ipc.open_file(reader).read_all().num_rows == 3


def test_places_where_nothing_can_be_written(out, tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        GrowingFile.create(tmp_path, schemas()[0])
    with pytest.raises(InputError, match="directory of the output is not there"):
        GrowingFile.create(tmp_path / "no" / "lc.arrow", schemas()[0])


def test_other_columns_are_refused(out):
    with GrowingFile.create(out, schemas()[0]) as file:
        with pytest.raises(OperatorError, match="other columns"):
            file.append(batches(1, 1)[1])
        extent = file.append(batches(1, 1)[0])
    with pytest.raises(InputError, match="other columns"):
        GrowingFile.resume(out, schemas(kind="imaging")[0], [extent])
    out.write_bytes(b"not arrow at all")
    with pytest.raises(InputError, match="does not begin like an Arrow file"):
        GrowingFile.resume(out, schemas()[0], [extent])
