"""rowrnn's commands in the process of the tests, so that what they compile is compiled once."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import warnings

import pytest

from rowrnn import cli
from rowrnn.config import CheckpointConfig, ParallelConfig
from rowrnn.core import step
from rowrnn.lab import trainer
from rowrnn.lab.sweep import outcome, plan
from rowrnn.parallel import programs
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


_compile_anew, _compiled = trainer.compile_programs, {}


def compile_once(experiment, mesh, members=1, *, vmap=False):
    """`trainer.compile_programs`, for each structure of an experiment once in a process."""
    config, dataset = experiment.config, experiment.dataset
    config = dataclasses.replace(
        config,
        # Where data lies, when a run is saved and who shares the devices decides no program.
        data=dataclasses.replace(config.data, dir="", manual_dir=""),
        checkpoint=CheckpointConfig(),
        parallel=ParallelConfig(),
    )
    splits = (dataset.train, dataset.validation, dataset.test)
    key = (
        structure(config), experiment.steps, dataset.classes,
        *(split.images.shape for split in splits), mesh, members, vmap,
        # A test may have put another in its place.
        step.make_train_step, repr(programs._CPU_OPTIONS),
    )  # fmt: skip
    if key not in _compiled:
        _compiled[key] = _compile_anew(experiment, mesh, members, vmap=vmap)
    return _compiled[key]


@contextlib.contextmanager
def newer_emitters():
    """Within it rowrnn's programs are compiled without the older emitters of XLA (see `compiler`).

    With these, other operations are fused in a stack of members than in one alone, and the last
    bits differ.
    """
    older, options = "--xla_cpu_use_fusion_emitters=false", programs._CPU_OPTIONS["float32"]
    with pytest.MonkeyPatch.context() as patched:
        if older in os.environ["XLA_FLAGS"]:
            # What is named there is not told to the compiler for each program.
            patched.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace(older, ""))
            options = options | {"xla_cpu_use_fusion_emitters": True}
            patched.setitem(programs._CPU_OPTIONS, "float32", options)
        yield


@contextlib.contextmanager
def compiled_once():
    """Within it no pictures are drawn, and estimates are short; gives what compiles anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outcome, "draw", lambda *_, **__: None)
        patched.setattr(plan, "_TIMED_SECONDS", 1e-3)
        yield _compile_anew
