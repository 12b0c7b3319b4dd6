"""rowrnn's commands in the process of the tests, so that what they compile is compiled once."""

import contextlib
import io
import json
import logging
import warnings

import pytest

from rowrnn import cli
from rowrnn.lab import trainer
from rowrnn.lab.sweep import outcome, plan
from rowrnn.store.members import structure


def command(*arguments):
    """Runs a command; gives exit code, stdout and stderr. Warnings are shown as to a user."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        try:
            code = cli.run([*map(str, arguments)])
        finally:
            logging.disable(logging.NOTSET)
    return code, out.getvalue(), err.getvalue()


def here(*arguments, cwd, code=0):
    """Runs a command in a directory, to the exit code that is expected; gives stdout and stderr."""
    with contextlib.chdir(cwd):
        found, out, err = command(*arguments)
    assert found == code, err
    return out, err


def last_json(out):
    """What a command prints with ``--json``."""
    return json.loads(out.splitlines()[-1])


def steps_in(checkpoints):
    """The steps of the finished checkpoints of a directory, in their order."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal())


@contextlib.contextmanager
def compiled_once():
    """Within it, configs that differ in seeds and hyperparameters alone share their programs.

    No pictures are drawn.
    """
    compiled, real = {}, trainer.compile_programs

    def compile_programs(experiment, mesh, members=1, *, vmap=False):
        key = (structure(experiment.config), mesh, members, vmap)
        if key not in compiled:
            compiled[key] = real(experiment, mesh, members, vmap=vmap)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "compile_programs", compile_programs)
        patched.setattr(outcome, "draw", lambda *_, **__: None)
        patched.setattr(plan, "_TIMED_SECONDS", 1e-3)
        yield real
