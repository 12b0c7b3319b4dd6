"""The log of a run, read back by other means."""

import struct

import pytest
from tensorboardX.proto import event_pb2

from rowrnn.errors import RunError
from rowrnn.store import logs
from rowrnn.store.logs import Log


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
    log = Log(tmp_path, purge_step=3)
    log.append([{"step": 4, "loss": 1.5}], [("loss", 1.5, 4)])
    log.append([{"step": 5, "loss": 1.0}, {"step": 5, "x": 2}], [("loss", 1.0, 5), ("x", 2.0, 5)])
    assert [entry["step"] for entry in logs.read(tmp_path)] == [4, 5, 5]
    first, start, *scalars = events_of(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, event_pb2.SessionLog.START)
    found = [(e.summary.value[0].tag, e.summary.value[0].simple_value, e.step) for e in scalars]
    assert found == [("loss", 1.5, 4), ("loss", 1.0, 5), ("x", 2.0, 5)]
    log.close()


def test_rewinding_drops_what_came_after_and_a_torn_line(tmp_path):
    log = Log(tmp_path)
    log.append([{"step": step} for step in range(5)], [])
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    logs.rewind(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 4
    logs.remove(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="were not written: Is a directory"):
        Log(tmp_path)
