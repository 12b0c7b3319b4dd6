"""The programs, compiled for devices that are not there; needs libtpu, or jax's CUDA plugin."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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
    """What `compiled` gives for a target, a backend and some programs, once."""
    found = {}

    def of(*case):
        if case not in found:
            target, backend, programs = case
            # On GPUs the kernels are for narrow operands.
            narrow = target == "h100" and backend == "pallas"
            more = '[model]\ndtype = "bfloat16"\n' if narrow else ""
            directory = tmp_path_factory.mktemp("aot")
            settings = {"backend": backend, "programs": programs, "more": more}
            found[case] = compiled(directory, target, **settings)
        return found[case]

    return of


EVERY, ONE = (), ("one run",)
# Every program of one backend, and of the other that for which there is a budget: all of both
# would take some minutes more.
IN_CI = [
    ("v5e:2x4", "split", EVERY),
    ("v5e:2x4", "pallas", ONE),
    ("h100", "split", ONE),
    ("h100", "pallas", EVERY),
]
WHOLE = [
    pytest.param(
        target, backend, EVERY, marks=pytest.mark.slow if programs == EVERY else pytest.mark.soak
    )
    for target, backend, programs in IN_CI
]


@pytest.mark.slow
@pytest.mark.parametrize("case", IN_CI, ids=str)
def test_a_step_costs_no_more_than_its_budget(figures, case):
    one_run = figures(*case)["one run"]
    for name, most in BUDGETS[case[0]][case[1]].items():
        assert most / 2 < one_run[name] <= most, name


@pytest.mark.parametrize(("target", "backend", "programs"), WHOLE)
def test_shares_of_a_batch_are_summed_once_and_members_exchange_nothing(
    figures, target, backend, programs
):
    found = figures(target, backend, programs)
    divided = found["one run on 8 devices"]
    assert divided["collectives_per_step"] == 1
    # All 136,586 parameters, and a few sums.
    assert 0 <= divided["collective_bytes"] - 4 * 136_586 < 100
    for name in ("8 members, map", "8 members, vmap"):
        assert found[name]["collectives_per_step"] == 0
    assert found["4 members on 8 devices"]["collectives_per_step"] == 1


@pytest.mark.parametrize(("target", "backend", "programs"), WHOLE)
def test_members_at_once_do_each_thing_once(figures, target, backend, programs):
    """No loop over the members: eight of them start about as many kernels as one."""
    found = figures(target, backend, programs)
    one, eight = found["one run"], found["8 members, vmap"]
    assert eight["kernels_per_step"] < 1.5 * one["kernels_per_step"]
    assert eight["members_that_fit"] > 100


@pytest.mark.parametrize(("target", "backend", "programs"), WHOLE)
def test_the_order_of_an_epoch_is_sorted_by_the_host_of_a_tpu(figures, target, backend, programs):
    found = figures(target, backend, programs)
    where = {part: found[f"one run, {part}"]["on"] for part in ("init", "order", "evaluation")}
    order = "host" if target == "v5e:2x4" else "target"
    assert where == {"init": "target", "order": order, "evaluation": "target"}


@pytest.mark.slow
def test_members_that_do_not_fit_are_out_of_memory(tmp_path):
    name = "8192 members, vmap"
    programs = compiled(tmp_path, "v5e:2x4", members=8192, programs=[name])
    assert programs[name] == {"name": f"v5e:2x4, {name}", "out_of_memory": True}
