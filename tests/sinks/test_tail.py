import pytest
from row_builders import batches, schemas

from tsostream.errors import InputError
from tsostream.sinks import Output, Tail


def numbers(found):
    return [number for batch in found for number in batch["integration"].to_pylist()]


def test_rows_come_once_and_in_order(out):
    tail = Tail(out)
    assert tail.poll() == []
    output = Output.create(out, *schemas())
    assert tail.poll() == []
    output.start()
    assert tail.poll() == []
    assert tail.schema.names == schemas()[0].names
    output.commit(*batches(1, 3))
    output.commit(*batches(4, 2))
    assert numbers(tail.poll()) == [1, 2, 3, 4, 5]
    assert tail.poll() == []
    assert not tail.finished
    output.commit(*batches(6, 1))
    output.finish("complete")
    assert numbers(tail.poll()) == [6]
    assert tail.finished
    assert tail.poll() == []
    assert tail.finished


def test_a_partial_message_is_not_there_yet(out, tmp_path):
    with Output.create(out, *schemas()) as output:
        output.start()
        header = out.stat().st_size
        output.commit(*batches(1, 2))
        end = out.stat().st_size
        output.finish("complete")
    whole = out.read_bytes()
    growing = tmp_path / "growing.arrow"
    growing.write_bytes(b"")
    tail = Tail(growing)
    seen = []
    with growing.open("ab", buffering=0) as file:
        for position, byte in enumerate(whole):
            file.write(bytes([byte]))
            seen += numbers(tail.poll())
            assert seen == ([1, 2] if position + 1 >= end else [])
            assert tail.finished == (position + 1 >= end + 8)
    assert header < end


def test_it_goes_on_behind_a_resumed_run(out):
    output = Output.create(out, *schemas())
    output.commit(*batches(1, 3))
    output.commit(*batches(4, 3))
    output.finish("interrupted")
    tail = Tail(out)
    assert numbers(tail.poll()) == [1, 2, 3, 4, 5, 6]
    assert tail.finished
    output, _ = Output.resume(out, *schemas())
    assert tail.poll() == []
    assert not tail.finished
    output.commit(*batches(7, 2))
    assert numbers(tail.poll()) == [7, 8]
    output.abort()
    # a batch that was not in the journal is written again, cut differently
    output, _ = Output.resume(out, *schemas())
    output.commit(*batches(9, 1))
    size = output._files["light_curve"].mark()
    output.commit(*batches(10, 4))
    assert numbers(tail.poll()) == [9, 10, 11, 12, 13]
    output._files["light_curve"].rollback(size)
    output._files["light_curve"].append(batches(10, 2)[0])
    output._files["light_curve"].append(batches(12, 3)[0])
    assert numbers(tail.poll()) == [14]
    output.abort()


def test_a_copied_file_is_read_on_and_a_new_run_from_its_beginning(out, tmp_path):
    output = Output.create(out, *schemas())
    output.commit(*batches(1, 3))
    tail = Tail(out)
    assert numbers(tail.poll()) == [1, 2, 3]
    copy = tmp_path / "copy"
    copy.write_bytes(out.read_bytes())
    copy.replace(out)
    assert tail.poll() == []
    assert tail.runs == 1
    output.abort()
    with Output.create(out, *schemas(started="later"), overwrite=True) as output:
        output.commit(*batches(1, 2))
    assert numbers(tail.poll()) == [1, 2]
    assert tail.runs == 2


def test_it_can_begin_later_and_in_small_bites(out):
    with Output.create(out, *schemas()) as output:
        for number in range(1, 10, 2):
            output.commit(*batches(number, 2))
        output.finish("complete")
    tail = Tail(out, after_integration=3)
    assert numbers(tail.poll(max_batches=2)) == [4, 5, 6]
    assert not tail.finished
    assert numbers(tail.poll()) == [7, 8, 9, 10]
    assert tail.finished
    assert tail.last_integration == 10


def test_zeros_that_will_be_rows_are_waited_for(out):
    with Output.create(out, *schemas()) as output:
        output.commit(*batches(1, 2))
    whole = out.read_bytes()
    tail = Tail(out)
    with out.open("ab") as file:
        file.write(b"\0" * 4000)
    assert numbers(tail.poll()) == [1, 2]
    assert tail.poll() == []
    assert not tail.finished
    out.write_bytes(whole)
    assert tail.poll() == []


def test_garbage_does_not_make_it_wait_for_ever(out):
    out.write_bytes(b"SIMPLE  = T")
    with pytest.raises(InputError, match="not an Arrow file"):
        Tail(out).poll()
    out.unlink()
    with Output.create(out, *schemas()) as output:
        output.commit(*batches(1, 2))
    with out.open("ab") as file:
        file.write(b"garbage!" * 10)
    tail = Tail(out)
    assert numbers(tail.poll()) == [1, 2]
    for _ in range(4):
        assert tail.poll() == []
    with pytest.raises(InputError, match="is damaged at byte"):
        tail.poll()
