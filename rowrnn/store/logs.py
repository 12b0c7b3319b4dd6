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

_NAME = "metrics.jsonl"
_EVENTS = "events.out.tfevents."
# An entry has some 200.
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
            _write(self._lines, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
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
            f"{error.strerror}; make room, and go on with --resume {self._directory}"
        )


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


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """The entries of ``metrics.jsonl``; a line that a kill has torn is passed over."""
    try:
        with (directory / _NAME).open(encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(files.MOST_BYTES):
                entry = _entry(line)
                if entry is not None:
                    yield entry
    except FileNotFoundError:
        return


def last(directory: Path) -> dict[str, Any] | None:
    """The last entry of ``metrics.jsonl``, of which the end alone is read; None without one."""
    try:
        with files.open_plain(directory / _NAME, follow=False) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
            lines = file.read(_END_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((entry for entry in map(_entry, reversed(lines)) if entry is not None), None)


def _entry(line: str) -> dict[str, Any] | None:
    """What a line says, None where it is torn or no entry."""
    try:
        entry = files.parse_json(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def rewind(directory: Path, step: int) -> None:
    """Drops what was logged after `step` and a torn last line, so that no step comes twice.

    Raises `OSError`.
    """
    kept = [entry for entry in read(directory) if entry["step"] <= step]
    files.write_whole(directory / _NAME, "".join(json.dumps(entry) + "\n" for entry in kept))


def remove(directory: Path) -> None:
    """Drops all that was logged; raises `OSError`."""
    for path in (directory / _NAME, *directory.glob(f"{_EVENTS}*")):
        path.unlink(missing_ok=True)
