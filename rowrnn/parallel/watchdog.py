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
_SILENT_LOOKS = 3
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
        busy: whether it does something that may take long, such as compiling.
        left: with which exit code, None while it is there.
        reason: why it left.
    """

    host: str
    pid: int
    tick: int = 0
    beat: int = 0
    busy: bool = True
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
        self._stall_looks = max(1, round(stall_s / INTERVAL_S))
        self._give_up = give_up
        self._own = Status(socket.gethostname(), os.getpid())
        self._lock = threading.Lock()
        self._last: dict[int, Status] = {}
        # Looks since the tick of each has changed, since any beat has, since one has left.
        self._silent = dict.fromkeys(range(count), 0)
        self._still = 0
        self._since_left = 0
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
        while not self._ended.wait(INTERVAL_S):
            try:
                self._change(tick=self._own.tick + 1)
                self._publish()
                problem = self.look(self._read())
            except Exception as error:  # Whatever the store raises when it is gone.
                problem = f"the coordinator of the job does not answer ({type(error).__name__})"
            if problem and not self._ended.is_set():
                self._give_up(problem)
                return

    def _publish(self) -> None:
        with self._lock:
            text = json.dumps(dataclasses.asdict(self._own))
            self._store.key_value_set(f"rowrnn/watch/{self._index}", text, allow_overwrite=True)

    def _read(self) -> dict[int, Status]:
        found = self._store.key_value_dir_get("rowrnn/watch/")
        return {int(key.rsplit("/", 1)[1]): Status(**json.loads(text)) for key, text in found}

    def look(self, statuses: Mapping[int, Status]) -> str | None:
        """Takes in what all have published; a sentence where the job cannot go on."""
        before, self._last = self._last, dict(statuses)
        present = {index: s for index, s in statuses.items() if s.left is None}
        self._since_left += any(_left_alone(status) for status in statuses.values())
        moved = any(index not in before or s.beat != before[index].beat
                    for index, s in present.items())  # fmt: skip
        busy = len(statuses) < self._count or any(s.busy for s in present.values())
        self._still = 0 if moved or busy else self._still + 1
        for index, status in present.items():
            changed = index not in before or status.tick != before[index].tick
            self._silent[index] = 0 if changed else self._silent[index] + 1
        return self._judge(present)

    def _judge(self, present: Mapping[int, Status]) -> str | None:
        if self._since_left >= _LEFT_LOOKS:
            index, status = next((i, s) for i, s in sorted(self._last.items()) if _left_alone(s))
            return f"{_name(index, status)} left with exit code {status.left}: {status.reason}"
        for index, status in present.items():
            if index != self._index and self._silent[index] >= _LOST_LOOKS:
                seconds = _LOST_LOOKS * INTERVAL_S
                return f"{_name(index, status)} was lost: no sign of life for {seconds:g} s"
        if self._still >= self._stall_looks:
            least = min(status.beat for status in present.values())
            silent = [i for i in present if self._silent[i] >= _SILENT_LOOKS]
            behind = [_name(i, s) for i, s in sorted(present.items())
                      if (i in silent if silent else s.beat == least)]  # fmt: skip
            seconds = self._stall_looks * INTERVAL_S
            verb = "hangs" if len(behind) == 1 else "hang"
            return f"no progress for {seconds:g} s: {', '.join(behind)} {verb}"
        return None


def _left_alone(status: Status) -> bool:
    """Whether a process has left for a reason of its own, and the others cannot go on."""
    return status.left is not None and status.left not in COMMON


def _name(index: int, status: Status) -> str:
    return f"process {index} (pid {status.pid} on {status.host})"
