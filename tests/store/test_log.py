"""The log of a run, read back by other means."""

import struct

import pytest
from tensorboardX.proto import event_pb2

from rowrnn.errors import RunError
from rowrnn.store import log
from rowrnn.store.log import Log


def crc32c(content):
    """Castagnoli's polynomial bit by bit, masked as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(directory):
    """The events of all files, as the format says: length, checksum, content, checksum."""
    for path in sorted(directory.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            length = content[:8]
            end = 12 + struct.unpack("<Q", length)[0]
            assert struct.unpack("<I", content[8:12])[0] == crc32c(length)
            assert struct.unpack("<I", content[end : end + 4])[0] == crc32c(content[12:end])
            yield event_pb2.Event.FromString(content[12:end])
            content = content[end + 4 :]


def test_both_files_have_all_that_was_appended_before_it_is_closed(tmp_path):
    written = Log(tmp_path, purge_step=3)
    written.append([{"step": 4, "loss": 1.5}], [("loss", 1.5, 4)])
    written.append(
        [{"step": 5, "loss": 1.0}, {"step": 5, "x": 2}], [("loss", 1.0, 5), ("x", 2.0, 5)]
    )
    assert [entry["step"] for entry in log.read(tmp_path)] == [4, 5, 5]
    assert log.last(tmp_path) == {"step": 5, "x": 2}
    first, start, *scalars = events_of(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, event_pb2.SessionLog.START)
    found = [(e.summary.value[0].tag, e.summary.value[0].simple_value, e.step) for e in scalars]
    assert found == [("loss", 1.5, 4), ("loss", 1.0, 5), ("x", 2.0, 5)]
    written.close()


def test_rewinding_drops_what_came_after_and_a_torn_line(tmp_path):
    written = Log(tmp_path)
    written.append([{"step": step} for step in range(5)], [])
    written.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert log.last(tmp_path) == {"step": 4}
    log.rewind(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 4
    log.remove(tmp_path)
    assert not list(tmp_path.iterdir())
    assert log.last(tmp_path) is None


def test_what_was_appended_since_is_read_from_where_the_last_look_ended(tmp_path):
    assert list(log.read_from(tmp_path, 0)) == []
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1}\nnothing\n{"step": "2"}\n{"step": -1}\n{"step": 1e400}\n'
        f'{{"step": {2**70}}}\n{{"step": 3}}\n{{"step": 4'
    )
    (first, _), (third, end) = log.read_from(tmp_path, 0)
    assert (first, third) == ({"step": 1}, {"step": 3})
    # The last line is still being written.
    assert list(log.read_from(tmp_path, end)) == []
    with path.open("a") as file:
        file.write("0}\n")
    assert list(log.read_from(tmp_path, end)) == [({"step": 40}, path.stat().st_size)]


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="were not written: Is a directory"):
        Log(tmp_path)
