import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsostream.errors import InputError, OutputExistsError
from tsostream.sinks import Entry, Extent, Journal, last_valid, read_journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lc.arrow.journal"


def entries(count):
    return [
        Entry(10 * n, {"light_curve": Extent(100 * n, 100, n), "spectra": Extent(7, 8, 9)})
        for n in range(1, count + 1)
    ]


def write(path, count):
    journal = Journal.acquire(path)
    journal.begin({"config": "a"})
    for entry in entries(count):
        journal.commit(entry)
    journal.sync()
    journal.close()


def test_what_was_written_is_read(path):
    write(path, 3)
    header, found = read_journal(path)
    assert header["fingerprint"] == {"config": "a"}
    assert header["owner"]["pid"] > 0
    assert found == entries(3)


def test_torn_last_lines_are_ignored(path):
    write(path, 3)
    whole = path.read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        header, found = read_journal(path)
        complete = sum(end <= cut for end in ends)
        assert (header is None) == (complete == 0)
        assert found == entries(max(complete - 1, 0))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_lines_are_never_believed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, 3)
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] = data.draw(st.integers(0, 255))
    path.write_bytes(whole + data.draw(st.binary(max_size=40)))
    assert set(map(str, read_journal(path)[1])) <= set(map(str, entries(3)))


def test_a_line_after_a_torn_one_counts(path):
    write(path, 2)
    with path.open("ab") as file:
        file.write(b'0123abcd {"last":3')
    journal = Journal.acquire(path)
    journal.own()
    journal.commit(entries(3)[2])
    journal.close()
    assert read_journal(path)[1] == entries(3)


def test_a_second_writer_is_refused_and_told_who_holds_it(path):
    import os

    journal = Journal.acquire(path)
    journal.begin({})
    with pytest.raises(OutputExistsError, match=f"process {os.getpid()} on .* is writing this output"):
        Journal.acquire(path)
    journal.close()
    Journal.acquire(path).close()


def test_the_name_of_a_removed_journal_can_be_taken_again(path):
    journal = Journal.acquire(path)
    assert journal.is_new
    journal.close(remove=True)
    assert not path.exists()
    again = Journal.acquire(path)
    assert again.is_new
    again.close()
    assert not Journal.acquire(path).is_new


def test_a_missing_journal_is_an_input_error(path):
    with pytest.raises(InputError, match="journal cannot be read"):
        read_journal(path)


def test_last_valid_asks_the_files(path, tmp_path):
    import zlib

    data = tmp_path / "data"
    data.write_bytes(b"aaaabbbbcccc")
    journal = Journal.acquire(path)
    journal.begin({})
    for n, part in enumerate((b"aaaa", b"bbbb", b"cccc")):
        journal.commit(Entry(n + 1, {"light_curve": Extent(4 * n, 4, zlib.crc32(part))}))
    journal.close()
    files = {"light_curve": data}
    assert last_valid(path, files).last_integration == 3
    data.write_bytes(b"aaaabbbbccc")
    assert last_valid(path, files).last_integration == 2
    data.write_bytes(b"aaaa\0\0\0\0cccc")  # pages in the middle never arrived
    assert last_valid(path, files).last_integration == 1
    data.write_bytes(b"\0" * 12)
    assert last_valid(path, files) is None
    data.unlink()
    assert last_valid(path, files) is None
    assert last_valid(path, {**files, "spectra": data}) is None
