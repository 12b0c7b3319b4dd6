"""The figures of a run on the way: ``metrics.jsonl`` and the TensorBoard events beside it."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from rowrnn import files
from rowrnn.errors import RunError
from rowrnn.files import Count

Entry = dict[str, Any]
"""A line of ``metrics.jsonl``."""

_NAME = "metrics.jsonl"
_EVENTS = "events.out.tfevents."
# Bytes at the end of the log in which the last entry is looked for; an entry has some 200.
_END_BYTES = 2**16


class Log:
    """Appends to both files of a directory.

    What was appended is in the files when `append` returns. TensorBoard's own writer hands it to a
    thread, which ends on a full disk, and the run then waits for ever.

    Args:
        directory: where the files are.
        purge_step: what an earlier process has logged after this step is taken back; None keeps it.

    All methods raise `RunError` where a file cannot be written.
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        self._directory = directory
        # A process that follows in the same second has a file of its own.
        name = f"{_EVENTS}{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        events = [_event(file_version="brain.Event:2")]
        if purge_step is not None:
            events.append(_event(step=purge_step, session_log={"status": "START"}))
        try:
            # Unbuffered, so that nothing is left for `close` to write, and fail.
            self._lines = FileIO(directory / _NAME, "a")
            self._events = FileIO(directory / name, "a")
            _write(self._events, b"".join(events))
        except OSError as error:
            raise self._failed(error) from error

    def append(
        self, entries: Iterable[Mapping[str, Any]], scalars: Iterable[tuple[str, float, int]]
    ) -> None:
        """Appends a line of JSON for each entry, and an event for each (name, value, step)."""
        from tensorboardX.summary import scalar

        events = [_event(step=step, summary=scalar(name, value)) for name, value, step in scalars]
        try:
            _write(self._lines, _lines(entries).encode())
            _write(self._events, b"".join(events))
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Lets go of the files."""
        self._lines.close()
        self._events.close()

    def _failed(self, error: OSError) -> RunError:
        return RunError(
            f"{self._directory / _NAME} or the events beside it were not written: "
            f"{error.strerror}; make room, and go on with --resume {self._directory} "
            "(in Python resume=)"
        )


def read(directory: Path) -> Iterator[Entry]:
    """The entries of ``metrics.jsonl``; a line that a kill has torn is passed over."""
    return (entry for entry, _ in read_from(directory, 0))


def read_from(directory: Path, start: int) -> Iterator[tuple[Entry, int]]:
    """The entries from byte `start` on, each with the byte at which the next begins."""
    try:
        file = files.open_plain(directory / _NAME, follow=False)
    except FileNotFoundError:
        return
    with file:
        end = file.seek(start)
        # A last line without its end is being written, or torn.
        while (line := file.readline(files.MOST_BYTES)).endswith(b"\n"):
            end += len(line)
            entry = _parse(line)
            if entry is not None:
                yield entry, end


def last(directory: Path) -> Entry | None:
    """The last entry of ``metrics.jsonl``, of which the end alone is read; None without one."""
    try:
        size = (directory / _NAME).lstat().st_size
        found = list(read_from(directory, max(0, size - _END_BYTES)))
    except OSError:
        return None
    return found[-1][0] if found else None


def rewind(directory: Path, step: int) -> None:
    """Drops what was logged after `step` and a torn last line, so that no step comes twice.

    Raises `OSError`.
    """
    kept = _lines(entry for entry in read(directory) if entry["step"] <= step)
    files.write_whole(directory / _NAME, kept)


def remove(directory: Path) -> None:
    """Drops all that was logged; raises `OSError`."""
    for path in (directory / _NAME, *directory.glob(f"{_EVENTS}*")):
        path.unlink(missing_ok=True)


def _lines(entries: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _parse(line: bytes) -> Entry | None:
    """What a line says, None where it is torn or no entry."""
    try:
        entry = files.parse_json(line.decode())
        files.fit("step", entry["step"], Count)
    except (ValueError, TypeError, LookupError):
        return None
    return entry


def _write(file: FileIO, content: bytes) -> None:
    """Appends all of it; of a disk that is nearly full, a file takes a part first."""
    while content:
        content = content[file.write(content) :]


def _event(**values: Any) -> bytes:
    """An event of now as TensorBoard reads it: length and content, each with a checksum."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    messages: Any = event_pb2  # Its names are made when it is imported.
    content = messages.Event(wall_time=time.time(), **values).SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))
