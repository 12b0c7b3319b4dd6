"""Every test runs on two CPU devices, with strict shapes; none needs an accelerator."""

import os
import tempfile

# Child processes have as many devices: a process with another number compiles all programs anew.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

# Most of what tests do is compiling. A program is compiled once for all workers of a session and
# for all processes that the tests start, and never one that another session has compiled.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="rowrnn-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name

import compiler
import in_process
import jax
import pytest

from rowrnn.lab import trainer
from rowrnn.parallel import program_cache

# Optimizing takes half of the time of compiling, and decides how fast a program is and its last
# bits. On the newest Python CI runs them with XLA_FLAGS=, on the programs that a user has.
os.environ.setdefault("XLA_FLAGS", compiler.FLAGS)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
program_cache.start(keep=True)


@pytest.fixture(autouse=True, scope="session")
def _compile_once():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "compile_programs", in_process.compile_once)
        yield


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield
