"""Stopping on a signal: the first asks for a stop at the next chunk, the second leaves at once."""

import os
import signal
import sys
import threading
from types import FrameType


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that a host loop reads between two chunks.

    A second SIGINT exits with 130 without saving. Outside the main thread, where Python accepts no
    signal handlers, nothing is ever requested.

    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.signal_name
    'SIGTERM'
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal_name is not None and number == signal.SIGINT:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            os.write(2, f"{show_cursor}\nrowrnn: left at once on a second Ctrl-C\n".encode())
            os._exit(130)
        self.signal_name = signal.Signals(number).name
        if number == signal.SIGINT:
            os.write(2, b"\nrowrnn: stopping after this chunk and saving; "
                        b"Ctrl-C again leaves at once\n")  # fmt: skip
