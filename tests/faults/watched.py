"""rowrnn as a process that is watched: ``python watched.py FILE train … -- sweep …``.

After each save and stack a line of FILE says which of the commands is at work, how many updates,
saves and stacks there have been, and what the process holds: KiB of memory, open files, threads.
"""

import ctypes
import gc
import os
import sys
from pathlib import Path


def main():
    file = Path(sys.argv[1]).open("w", buffering=1)  # noqa: SIM115
    libc = ctypes.CDLL("libc.so.6")
    done = {"command": 0, "steps": 0, "saves": 0, "stacks": 0}

    def note():
        # What Python and the allocator only keep for later is given back first.
        gc.collect()
        libc.malloc_trim(0)
        status = Path("/proc/self/status").read_text()
        held = {name: int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads")}
        files = len(os.listdir("/proc/self/fd"))
        print(*done.values(), held["VmRSS"], files, held["Threads"], file=file)

    _watch(done, note)
    from rowrnn import cli

    commands = [[]]
    for word in sys.argv[2:]:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    for command in commands:
        done["command"] += 1
        code = cli.run(command)
        if code:
            sys.exit(code)


def _watch(done, note):
    """Counts what the host loop does."""
    from rowrnn.lab import sweep, train
    from rowrnn.store.checkpoint import CheckpointWriter

    advanced, save, keep = train.Run.advanced, CheckpointWriter.save, sweep.Keeper.take

    def counted_steps(run, progress, sums, steps, seconds):
        advanced(run, progress, sums, steps, seconds)
        done["steps"] += steps

    def noted_save(writer, *arguments):
        save(writer, *arguments)
        done["saves"] += 1
        note()

    def noted_keep(keeper, experiment, members, outcomes):
        keep(keeper, experiment, members, outcomes)
        done["stacks"] += 1
        done["steps"] += experiment.steps * len(members)
        note()

    train.Run.advanced, CheckpointWriter.save = counted_steps, noted_save
    sweep.Keeper.take = noted_keep


if __name__ == "__main__":
    main()
