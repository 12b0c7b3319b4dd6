"""Processes of a job that watch each other: who is lost, who hangs, who has left.

A process that is gone does not make the collectives of the others fail, as a rule: they wait for it
for ever. So each process has a thread that publishes, twice a second, that it is alive and how far
it is, in the store that all processes share (that of `jax.distributed`), and looks at what the
others have published. Time is counted in looks: one that was stopped itself accuses nobody.
"""

import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rowrnn.errors import DivergedError, StoppedError

INTERVAL_S = 0.5
"""Between two looks."""

# 7 s without a sign of life.
_LOST_LOOKS = 14
_SILENT_LOOKS = 6
# For one that ends for a reason that all have, and so do the others.
_LEFT_LOOKS = 6

COMMON = frozenset({0, DivergedError.exit_code, StoppedError.exit_code})
"""Exit codes with which all processes leave at the same step."""


class Store(Protocol):
    """Texts that all processes see, by key."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Sets a text."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """All texts under a key."""
        ...


@dataclass(frozen=True)
class Status:
    """What a process says of itself.

    Attributes:
        host: its machine.
        pid: its number there.
        tick: of its looks; a process that is alive counts on.
        beat: how often it has come to a point at which all meet.
        busy: whether it does something that may take long.
        compiles: whether its main thread is in jax's compiler.
        place: the function that its main thread is in.
        waits: whether it waits there for jax or Orbax, and so perhaps for another process.
        left: with which exit code, None while it is there.
        reason: why it left.
    """

    host: str
    pid: int
    tick: int = 0
    beat: int = 0
    busy: bool = True
    place: str = ""
    waits: bool = False
    compiles: bool = False
    left: int | None = None
    reason: str = ""


class Watchdog:
    """Publishes the status of this process, and judges that of all.

    Args:
        store: where the processes meet.
        index: of this process.
        count: of processes.
        stall_s: seconds without progress of anyone, and nobody busy, after which one hangs.
        give_up: is called with a sentence, once, when one is lost, hangs or has left.
    """

    def __init__(
        self, store: Store, index: int, count: int, stall_s: float, give_up: Callable[[str], None]
    ):
        self._store, self._index, self._count = store, index, count
        self._stall_s = stall_s
        self._give_up = give_up
        self._own = Status(socket.gethostname(), os.getpid())
        self._lock = threading.Lock()
        self._last: dict[int, Status] = {}
        # Looks since the tick of each has changed and since one has left; seconds since any beat.
        self._silent = dict.fromkeys(range(count), 0)
        self._still_s = 0.0
        self._since_left = 0
        self._waits = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watches no more."""
        self._ended.set()
        self._thread.join()

    def beat(self) -> None:
        """This process has come to a point at which all meet."""
        self._change(beat=self._own.beat + 1, busy=False)

    def set_busy(self, busy: bool) -> bool:
        """Says whether this process does something that may take long; returns what it was."""
        was = self._own.busy
        self._change(busy=busy)
        return was

    def leave(self, code: int, reason: str) -> None:
        """This process ends with an exit code."""
        self._change(left=code, reason=reason[:2_000])
        self._publish()

    def wait_for_signs_of_life(self, most_s: float) -> None:
        """Returns when all others have been heard of again; gives up where one has not."""
        self._waits = True
        before = {index: status.tick for index, status in self._last.items()}
        for _ in range(round(most_s / INTERVAL_S)):
            others = [(i, s) for i, s in self._last.items() if i != self._index]
            # What was on its way when this began counts for nothing.
            if all(s.left is not None or s.tick > before.get(i, 0) + 1 for i, s in others):
                return
            time.sleep(INTERVAL_S)

    def _change(self, **values: object) -> None:
        with self._lock:
            self._own = dataclasses.replace(self._own, **values)  # type: ignore[arg-type]

    def _run(self) -> None:
        before = time.monotonic()
        while True:
            place, waits, compiles = _main_thread_is()
            waits = waits or self._waits
            self._change(tick=self._own.tick + 1, place=place, waits=waits, compiles=compiles)
            try:
                self._publish()
                statuses = self._read()
            except Exception as error:  # Whatever the store raises when it is gone.
                problem = f"the coordinator of the job does not answer ({type(error).__name__})"
            else:
                now = time.monotonic()
                problem = self.look(statuses, now - before)
                before = now
            if self._ended.is_set():
                return
            if problem:
                self._give_up(problem)
                return
            if self._ended.wait(INTERVAL_S):
                return

    def _publish(self) -> None:
        with self._lock:
            text = json.dumps(dataclasses.asdict(self._own))
            self._store.key_value_set(f"rowrnn/watch/{self._index}", text, allow_overwrite=True)

    def _read(self) -> dict[int, Status]:
        found = self._store.key_value_dir_get("rowrnn/watch/")
        return {int(key.rsplit("/", 1)[1]): Status(**json.loads(text)) for key, text in found}

    def look(self, statuses: Mapping[int, Status], elapsed_s: float) -> str | None:
        """Takes in what all have published; a sentence where the job cannot go on.

        Args:
            statuses: of all processes that have published one.
            elapsed_s: since the last look.
        """
        before, self._last = self._last, dict(statuses)
        present = {index: s for index, s in statuses.items() if s.left is None}
        self._since_left += any(_left_alone(status) for status in statuses.values())
        moved = any(index not in before or s.beat != before[index].beat
                    for index, s in present.items())  # fmt: skip
        busy = len(statuses) < self._count or any(s.busy or s.compiles for s in present.values())
        # A pause of this very process is no time that the others had.
        self._still_s = 0.0 if moved or busy else self._still_s + min(elapsed_s, 4 * INTERVAL_S)
        for index in range(self._count):
            status, last = statuses.get(index), before.get(index)
            heard = status is not None and (last is None or status.tick != last.tick)
            self._silent[index] = 0 if heard else self._silent[index] + 1
        return self._judge(present)

    def _judge(self, present: Mapping[int, Status]) -> str | None:
        if self._since_left >= _LEFT_LOOKS:
            index, status = next((i, s) for i, s in sorted(self._last.items()) if _left_alone(s))
            return f"{_name(index, status)} left with exit code {status.left}: {status.reason}"
        for index in range(self._count):
            status = self._last.get(index)
            # One that is done waits for the others, and is heard of until all are.
            expected = status is None or not status.left
            if index != self._index and expected and self._silent[index] >= _LOST_LOOKS:
                seconds = _LOST_LOOKS * INTERVAL_S
                return f"{_name(index, status)} was lost: no sign of life for {seconds:g} s"
        if present and self._still_s >= self._stall_s:
            hanging = [f"{_name(i, present[i])} hangs in {present[i].place}"
                       for i in self._behind(present)]  # fmt: skip
            return f"no progress for {self._stall_s:g} s: {', '.join(hanging)}"
        return None

    def _behind(self, present: Mapping[int, Status]) -> list[int]:
        """Of processes that come to nothing, those that the others wait for, as far as it shows."""
        least = min(status.beat for status in present.values())
        suspects = (
            [i for i in present if self._silent[i] >= _SILENT_LOOKS],
            [i for i, status in present.items() if status.beat == least and not status.waits],
            [i for i, status in present.items() if status.beat == least],
        )
        return sorted(next(filter(None, suspects)))


def _main_thread_is() -> tuple[str, bool, bool]:
    """The function of rowrnn, or of who called it, that the main thread is in; whether it waits
    there, and whether it compiles.

    It waits where that has called jax or Orbax, which are as patient as their peers are late.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    waits = compiles = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        compiles |= module == "jax._src.compiler"
        package = module.split(".")[0]
        if package in ("jax", "jaxlib", "orbax"):
            waits = True
        elif package not in sys.stdlib_module_names:
            return f"{module}.{frame.f_code.co_name}", waits, compiles
        frame = frame.f_back
    return "the interpreter", waits, compiles


def _left_alone(status: Status) -> bool:
    """Whether a process has left for a reason of its own, and the others cannot go on."""
    return status.left is not None and status.left not in COMMON


def _name(index: int, status: Status | None) -> str:
    if status is None:
        return f"process {index}"
    return f"process {index} (pid {status.pid} on {status.host})"
