"""The programs, compiled for devices that are not there; needs libtpu, or jax's CUDA plugin."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BUDGETS = tomllib.loads(Path(__file__).with_name("budgets.toml").read_text(encoding="utf-8"))
NEEDS = {"v5e:2x4": ("libtpu", "tpu"), "h100": ("jax_cuda13_plugin", "cuda13-local")}
CONFIG = '[optimizer]\nname = "adamw"\nschedule = "cosine"\n'


def compiled(directory, target, **settings):
    """The figures of `rowrnn bench aot`, by program, in a process that compiles as users do."""
    package, extra = NEEDS[target]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'rowrnn[{extra}]'")
    config, suite = directory / "config.toml", directory / "aot.toml"
    config.write_text(CONFIG + settings.pop("more", ""))
    settings |= {"suite": "aot", "targets": [target], "config": str(config)}
    suite.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    done = subprocess.run(
        [sys.executable, "-m", "rowrnn", "bench", suite, "--json"],
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    return {figure["name"].removeprefix(f"{target}, "): figure for figure in figures}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """What `compiled` gives for a target and a backend, once."""
    found = {}

    def of(target, backend):
        if (target, backend) not in found:
            # On GPUs the kernels are for narrow operands.
            narrow = target == "h100" and backend == "pallas"
            more = '[model]\ndtype = "bfloat16"\n' if narrow else ""
            directory = tmp_path_factory.mktemp("aot")
            found[target, backend] = compiled(directory, target, backend=backend, more=more)
        return found[target, backend]

    return of


CASES = [
    # Compiling for a GPU takes minutes.
    pytest.param(target, backend, marks=[pytest.mark.soak] if target == "h100" else [])
    for target in BUDGETS
    for backend in BUDGETS[target]
]


@pytest.mark.parametrize(("target", "backend"), CASES)
def test_a_step_costs_no_more_than_its_budget(figures, target, backend):
    one_run = figures(target, backend)["one run"]
    for name, most in BUDGETS[target][backend].items():
        assert most / 2 < one_run[name] <= most, name


@pytest.mark.parametrize(("target", "backend"), CASES)
def test_shares_of_a_batch_are_summed_once_and_members_exchange_nothing(figures, target, backend):
    programs = figures(target, backend)
    divided = programs["one run on 8 devices"]
    assert divided["collectives_per_step"] == 1
    # All 136,586 parameters, and a few sums.
    assert 0 <= divided["collective_bytes"] - 4 * 136_586 < 100
    for name in ("8 members, map", "8 members, vmap"):
        assert programs[name]["collectives_per_step"] == 0
    assert programs["4 members on 8 devices"]["collectives_per_step"] == 1


@pytest.mark.parametrize(("target", "backend"), CASES)
def test_members_at_once_do_each_thing_once(figures, target, backend):
    """No loop over the members: eight of them start about as many kernels as one."""
    programs = figures(target, backend)
    one, eight = programs["one run"], programs["8 members, vmap"]
    assert eight["kernels_per_step"] < 1.5 * one["kernels_per_step"]
    assert eight["members_that_fit"] > 100


def test_members_that_do_not_fit_are_out_of_memory(tmp_path):
    programs = compiled(tmp_path, "v5e:2x4", members=8192)
    assert programs["8192 members, vmap"] == {
        "name": "v5e:2x4, 8192 members, vmap",
        "out_of_memory": True,
    }
