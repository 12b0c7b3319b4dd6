"""rowrnn's commands in the process of the tests, so that what they compile is compiled once."""

import contextlib
import dataclasses
import io
import json
import logging
import warnings

import pytest

from rowrnn import cli, parallel
from rowrnn.core import experiment
from rowrnn.lab import stack, trainer
from rowrnn.lab.sweep import outcome, plan
from rowrnn.store import members


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


def last_json(out):
    """What a command prints with ``--json``."""
    return json.loads(out.splitlines()[-1])


def steps_in(checkpoints):
    """The steps of the finished checkpoints of a directory, in their order."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal())


@contextlib.contextmanager
def compiled_once():
    """Within it, configs that differ in seeds and traced numbers alone share their programs.

    No pictures are drawn.
    """
    programs, stacks = {}, {}
    real_programs, real_stack = trainer.compile_programs, stack.compile_stack

    def compile_programs(prepared, mesh, splits, state):
        key = (members.structure(prepared.config), mesh)
        if key not in programs:
            programs[key] = real_programs(prepared, mesh, splits, state)
        values = parallel.put_replicated(mesh, prepared.values)
        return dataclasses.replace(programs[key], values=values)

    def compile_stack(prepared, mesh, splits, size, *, vmap):
        key = (members.structure(prepared.config), mesh, size, vmap)
        if key not in stacks:
            stacks[key] = real_stack(prepared, mesh, splits, size, vmap=vmap)
        return stacks[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiment, "compile_programs", compile_programs)
        patched.setattr(stack, "compile_stack", compile_stack)
        patched.setattr(outcome, "draw", lambda *_, **__: None)
        patched.setattr(plan, "_TIMED_SECONDS", 1e-3)
        yield
