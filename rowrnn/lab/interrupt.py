"""Stopping on a signal: the first asks for a stop at the next chunk, the second leaves at once."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that a host loop reads between two chunks.

    A SIGINT after it exits with 130 without saving, also while the compiler or a chunk is at work:
    Python calls its handlers only between two of its own instructions, so that a thread of ours
    listens, to which Python writes the number of each signal as it comes. Outside the main thread,
    where Python accepts no signal handlers, nothing is ever requested.

    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     signal.Signals(stop.number).name
    'SIGTERM'

    Attributes:
        number: of the signal that has asked for a stop, 0 while none has.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            source, self._sink = os.pipe()
            os.set_blocking(self._sink, False)
            self._wakeup_before = signal.set_wakeup_fd(self._sink, warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
            threading.Thread(target=_listen, args=(source,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._sink)  # Which ends the thread.

    def _request(self, number: int, _: FrameType | None) -> None:
        self.number = number


def _listen(source: int) -> None:
    """Answers signals until the other end is closed."""
    stopping = False
    with open(source, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if number[0] == signal.SIGINT and stopping:
                show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
                _tell(f"{show_cursor}{_start()}rowrnn: left at once on a second Ctrl-C\n")
                os._exit(130)
            if number[0] == signal.SIGINT:
                _tell(f"{_start()}rowrnn: stopping after this chunk and saving; "
                      "Ctrl-C again leaves at once\n")  # fmt: skip
            stopping = True


def _start() -> str:
    """A line of its own, on a terminal, where something stands in this one."""
    return "\n" if sys.stderr.isatty() else ""


def _tell(text: str) -> None:
    """Writes to stderr at once; where nothing can be written, the signal counts all the same."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
