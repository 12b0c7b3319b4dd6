"""The command line: arguments to a config, a config to a runner, a result to the terminal.

The only room that knows tyro and ``sys.exit``. Each command has a module, imported when it is
called; and that imports its runner when its arguments are known to be good, so that help and
config errors come before jax is loaded.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import rowrnn
from rowrnn.cli.terminal import say
from rowrnn.errors import (
    UNEXPECTED,
    ConfigError,
    JobError,
    RowRNNError,
    RunError,
    nearest,
    shown,
)
from rowrnn.jax_settings import forget_cpu_devices

_MODULES = {
    "train": "train",
    "sweep": "sweep",
    "compare": "compare",
    "runs": "runs",
    "extract": "extract",
    "eval": "evaluate",
    "predict": "predict",
    "read": "read",
    "report": "report",
    "export": "export",
    "data": "data",
    "bench": "bench",
    "launch": "launch",
    "completion": "completion",
}

_OVERVIEW = """\
usage: rowrnn COMMAND [arguments]

Row-wise recurrent networks for images, in JAX.

commands:
  train [CONFIG]           train one run, test it and keep it in a directory;
                           rowrnn train --list shows what can be trained
  sweep [CONFIG] --seeds 0:64
                           train many seeds, and say how their accuracy spreads
  extract SWEEP MEMBER --to DIR
                           a member of a sweep as a run of its own
  compare SWEEP [SWEEP]    is the second better, and by how much?
  runs [DIR]               runs and sweeps, what they gave and how they differ
  eval RUN                 loss, accuracy by class and confusion matrix of a run
  predict RUN PICTURE ...  what a run sees in pictures
  read RUN PICTURE|INDEX   watch it read: probabilities, hidden state and gates
  report RUN|SWEEP|FILE    a page that shows a run, a sweep or a bench record
  export RUN --to DIR      weights, a program without rowrnn, a model card
  export RUN --web FILE.html
                           a page in which it reads what you draw
  data prepare NAME        fetch mnist, fashion_mnist, kmnist or emnist/NAME
  bench SUITE              how fast: the recurrence, the step, other libraries
  bench compare OLD NEW    is the new measurement slower?
  launch -n 4 -- COMMAND   one job in several processes on this machine
  completion SHELL         lets Tab complete all this in bash, zsh or fish

`rowrnn COMMAND --help` shows the arguments of a command. All take --debug (a
traceback with an error), and all but launch and completion --json (one JSON
value on the last line of stdout).

Start with: rowrnn train quickstart
"""


# Seconds for which a process of a job that has failed waits for the others to end with it: after an
# error of its own, and after one that may come of the loss of another, which jax then finds out.
_ALONE_S = 5.0
_CRASHED_S = 120.0


def main() -> None:
    """Runs the command that the process was started with, and exits."""
    # Figures are drawn into files; another value may be none that matplotlib can load.
    os.environ["MPLBACKEND"] = "agg"
    forget_cpu_devices()
    launcher = os.environ.pop("ROWRNN_LAUNCHER", None)
    if launcher is not None:
        threading.Thread(target=_end_without, args=(int(launcher),), daemon=True).start()
    _open_streams()
    _keep_stdout_for_answers()
    try:
        try:
            code = run(sys.argv[1:])
        except SystemExit as left:  # tyro's, after it has printed the help or what is wrong.
            code = left.code
        code = _flush(code)
    except BrokenPipeError:
        # The reader of stdout has left, as `head` does; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _end_without(launcher: int) -> None:
    """Ends this process when the one that `rowrnn launch` runs in has gone."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(JobError.exit_code)


def _open_streams() -> None:
    """Lets stdout and stderr take every character, whatever the locale, and be there at all."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Closed by who started the process; a file of a run must not be it.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # Closed by who started the process.
        sys.stderr = _Output(os.dup(2), sys.stderr.encoding, line_buffering=True)


class _Output(io.TextIOWrapper):
    """A stream of this process; what cannot be written to it is lost, and the command goes on.

    Attributes:
        problem: why something was lost; empty where nothing was.
    """

    problem = ""

    def __init__(self, descriptor: int, encoding: str, *, line_buffering: bool):
        super().__init__(
            # It stays open to the end, of which Python would warn otherwise.
            open(descriptor, "wb", closefd=False),  # noqa: SIM115
            encoding,
            "backslashreplace",
            line_buffering=line_buffering,
        )

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.problem = error.strerror or "cannot be written"
        # The rest goes nowhere, also at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _flush(code: Any) -> Any:
    """The exit code: 4 where what was to be said could not be, and is told on the other stream."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    for name, stream in streams.items():
        stream.flush()
        problem = getattr(stream, "problem", "")
        if problem:
            # The last line of stdout may be JSON, which the exit code then tells of alone.
            if name == "stdout" or "--json" not in sys.argv:
                other = streams["stderr" if name == "stdout" else "stdout"]
                print(
                    f"rowrnn: {name} was not written: {problem}; what was kept is good", file=other
                )
                other.flush()
            code = code or RunError.exit_code
    return code


def _keep_stdout_for_answers() -> None:
    """Lets what Python prints go to stdout, and what C++ below it prints nowhere.

    Gloo, through which processes without accelerators talk, tells there how many have connected.
    """
    try:
        answers = os.dup(1)
    except OSError:  # Closed by who started the process.
        return
    kind, buffered = sys.stdout.encoding, not sys.stdout.line_buffering
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = _Output(answers, kind, line_buffering=not buffered)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    if "--debug" in arguments:
        return _run(arguments)
    # The logs of libraries concern developers; rowrnn itself does not log. This stays until the
    # process ends, since some libraries log even then.
    logging.disable()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_OVERVIEW, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"rowrnn {rowrnn.__version__}")
        return 0
    try:
        _require_directory(arguments[0])
        return _command(arguments[0])(arguments[1:])
    except RowRNNError as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        if not error.on_all or _job() is None or _job().is_process_0():
            _tell_error(arguments, str(error), error.exit_code, told="--debug" in arguments)
        if not error.on_all:
            _end_within(_ALONE_S, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        _tell_error(arguments, "stopped by Ctrl-C", 130)
        _end_within(_ALONE_S, 130)
        return 130
    except (SystemExit, GeneratorExit, BrokenPipeError):
        raise
    except BaseException as error:  # Those of Rust are no `Exception`.
        if _job() is not None:
            say("where this comes of the loss of another process of the job, start all again with "
                "--resume: what was saved before is good")  # fmt: skip
        text = f"{arguments[0]}: {_in_words(error)}; {_keep_traceback(error, arguments)}"
        _tell_error(arguments, text, UNEXPECTED)
        _end_within(_CRASHED_S, UNEXPECTED)
        return UNEXPECTED


# Commands that can do without a working directory.
_ANYWHERE = {"runs", "compare", "completion"}


def _require_directory(command: str) -> None:
    """Raises `ConfigError` where the working directory is gone, on which most names rest."""
    try:
        os.getcwd()
    except OSError as error:
        if command not in _ANYWHERE:
            raise ConfigError(
                f"{command}: the working directory cannot be found ({error.strerror}); "
                "change into one that exists"
            ) from error


def _tell_error(arguments: Sequence[str], text: str, code: int, *, told: bool = False) -> None:
    """Says what is wrong on stderr, unless it was told there, and answers with it as JSON."""
    if not told:
        say(text)
    if "--json" in arguments and arguments[0] not in ("launch", "completion"):
        print(json.dumps({"error": text, "exit": code}))


def _in_words(error: BaseException) -> str:
    """What happened that nobody expected, in a line."""
    told = " ".join(str(error).split())[:300]
    parallel = sys.modules.get("rowrnn.parallel")
    if isinstance(error, MemoryError) or (
        parallel is not None and isinstance(error, Exception) and parallel.is_out_of_memory(error)
    ):
        return f"there was not enough memory{told and f' ({told})'}"
    return f"an error that nobody expected: {type(error).__name__}{told and f': {told}'}"


def _keep_traceback(error: BaseException, arguments: Sequence[str]) -> str:
    """Writes where an error came from into a file, or shows it; gives where, in words."""
    if "--debug" in arguments:
        traceback.print_exception(error)
        return "see above"
    try:
        kept, path = tempfile.mkstemp(prefix="rowrnn-", suffix=".txt")
        with open(kept, "w", encoding="utf-8", errors="backslashreplace") as file:
            print(f"rowrnn {rowrnn.__version__}", *map(shown, arguments), file=file)
            traceback.print_exception(error, file=file)
    except OSError as refused:
        return f"its traceback was not written ({refused.strerror}); --debug shows it"
    return f"its traceback is in {path}; what was saved before is good"


def _job() -> Any:
    """`rowrnn.parallel` where this process is one of several, otherwise None."""
    # Only a command that has come as far as to load it can have joined a job.
    parallel = sys.modules.get("rowrnn.parallel")
    return parallel if parallel is not None and parallel.process_count() > 1 else None


def _end_within(seconds: float, code: int) -> None:
    """Ends this process after a while where it is one of several: at the interpreter's end jax
    waits for the others, which may not come."""
    if _job() is not None:
        timer = threading.Timer(seconds, os._exit, (code,))
        timer.daemon = True
        timer.start()


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in _MODULES:
        raise ConfigError(f"unknown command {shown(name)}{nearest(name, _MODULES)}")
    return importlib.import_module(f"rowrnn.cli.{_MODULES[name]}").main


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """One line for a warning of ours, nothing for those of libraries."""
    ours = ("checkpoint ", "record ", "logger ", "machine ", "data ")
    if issubclass(category, UserWarning) and str(message).startswith(ours):
        say(f"warning: {message}")
