"""The command line: arguments to a config, a config to a runner, a result to the terminal.

The only room that knows tyro and ``sys.exit``. Each command has a module, imported when it is
called; and that imports its runner when its arguments are known to be good, so that help and
config errors come before jax is loaded.
"""

import importlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from rowrnn.cli.terminal import say
from rowrnn.config import nearest, shown
from rowrnn.errors import ConfigError, DivergedError, RowRNNError, StoppedError

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
  train [CONFIG.toml]      train one run, evaluate it and keep it in a directory
  sweep [CONFIG.toml] --seeds 0:64
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
  data prepare NAME        download or convert mnist, fashion_mnist or kmnist
  bench SUITE              how fast: the recurrence, the step, other libraries
  bench compare OLD NEW    is the new measurement slower?
  launch -n 4 -- COMMAND   one job in several processes on this machine
  completion SHELL         a script by which bash, zsh or fish completes all this

`rowrnn COMMAND --help` shows the arguments of a command. All take --debug (a
traceback with an error), and all but launch and completion --json (one JSON
value on the last line of stdout).

Start with: rowrnn train experiments/quickstart.toml
"""


def main() -> None:
    """Runs the command that the process was started with, and exits."""
    _open_streams()
    _keep_stdout_for_answers()
    try:
        try:
            code = run(sys.argv[1:])
        except SystemExit as left:  # tyro's, after it has printed the help or what is wrong.
            code = left.code
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read stdout has left, as `head` does; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _open_streams() -> None:
    """Lets stdout and stderr take every character, whatever the locale, and be there at all."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Closed by who started the process; a file of a run must not be it.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif name != "stdin":
            stream.reconfigure(errors="backslashreplace")


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
    sys.stdout = open(  # noqa: SIM115
        answers, "w", 1 - 2 * buffered, encoding=kind, errors="backslashreplace"
    )


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    if "--debug" not in arguments:
        # The logs of libraries concern developers; rowrnn itself does not log.
        logging.disable()
        warnings.showwarning = _show_warning
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_OVERVIEW, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"rowrnn {version('rowrnn')}")
        return 0
    try:
        return _command(arguments[0])(arguments[1:])
    except RowRNNError as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        elif not _another_says(error):
            say(str(error))
        return _leave_job(error.exit_code, str(error))
    except KeyboardInterrupt:
        say("left on Ctrl-C")
        return _leave_job(130, "left on Ctrl-C")
    except Exception as error:
        if _job() is not None:  # Which the interpreter will not come to.
            traceback.print_exception(error)
        _leave_job(1, f"{type(error).__name__}: {error}")
        raise


def _job() -> Any:
    """`rowrnn.parallel` where this process is one of several, otherwise None."""
    # Only a command that has come as far as to load it can have joined a job.
    parallel = sys.modules.get("rowrnn.parallel")
    return parallel if parallel is not None and parallel.process_count() > 1 else None


def _another_says(error: RowRNNError) -> bool:
    """Whether an error is one that all processes of a job have, and another tells."""
    job = _job()
    if job is None or job.is_first():
        return False
    return error.told or isinstance(error, ConfigError | DivergedError | StoppedError)


def _leave_job(code: int, reason: str) -> int:
    """Ends this process where it is one of several, which then know why; otherwise the code."""
    job = _job()
    if job is not None:
        job.leave(code, reason)
    return code


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in _MODULES:
        raise ConfigError(f"unknown command {shown(name)}{nearest(name, _MODULES)}")
    return importlib.import_module(f"rowrnn.cli.{_MODULES[name]}").main


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """One line for a warning of ours, nothing for those of libraries."""
    ours = ("checkpoint ", "record ", "logger ")
    if issubclass(category, UserWarning) and str(message).startswith(ours):
        say(f"warning: {message}")
