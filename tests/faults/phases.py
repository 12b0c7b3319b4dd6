"""rowrnn as a process that says what it is doing: ``python phases.py FILE train …``.

FILE holds the name of the phase, at any moment, so that a test can send its signal in a phase or
see which one a kill has hit. Nothing of what rowrnn does is changed.
"""

import itertools
import mmap
import sys
from pathlib import Path

PHASES = ("start", "compile", "warm-up", "train", "evaluate", "save", "between", "end")
_SIZE = 64


def read(path):
    """The phase that a process is in, or was in when it died."""
    try:
        return path.read_bytes().rstrip(b"\0 ").decode() or "start"
    except FileNotFoundError:
        return "start"


def main():
    path = Path(sys.argv[1])
    path.write_bytes(b"start".ljust(_SIZE))
    with path.open("r+b") as file:
        page = mmap.mmap(file.fileno(), _SIZE)

    def within(name, function, then=None):
        """The function, with the phase named on entry, and the next one on return."""

        def wrapped(*arguments, **keywords):
            page[:] = name.encode().ljust(_SIZE)
            result = function(*arguments, **keywords)
            if then:
                page[:] = then.encode().ljust(_SIZE)
            return result

        return wrapped

    _watch(within)
    from rowrnn import cli

    sys.exit(cli.run(sys.argv[2:]))


class _Chunk:
    """A compiled chunk whose first call is a phase of its own."""

    def __init__(self, chunk, within):
        self._first, self._others = within("warm-up", chunk), within("train", chunk)
        self._calls = itertools.count()
        self.memory_analysis = chunk.memory_analysis

    def __call__(self, *given):
        return (self._others if next(self._calls) else self._first)(*given)


def _watch(within):
    """Names the phases of what the host loop calls."""
    from rowrnn.lab import sweep, trainer
    from rowrnn.store.checkpoint import CheckpointWriter

    real = within("compile", trainer.compile_programs)

    def compile_programs(*given, **named):
        programs = real(*given, **named)
        return programs._replace(
            chunk=_Chunk(programs.chunk, within),
            validation=programs.validation and within("evaluate", programs.validation),
            test=within("end", programs.test),
        )

    trainer.compile_programs = compile_programs
    CheckpointWriter.save = within("save", CheckpointWriter.save, then="train")
    sweep.Keeper.take = within("between", sweep.Keeper.take)


if __name__ == "__main__":
    main()
