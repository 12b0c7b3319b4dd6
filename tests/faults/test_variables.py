"""Variables of the environment that jax and matplotlib read: none changes a run in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import here, last_json

import rowrnn
from rowrnn import data
from rowrnn.config import Config, ModelConfig, TrainConfig
from rowrnn.errors import ConfigError

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--model.dropout=0.1",
        "--train.batch-size=100", "--train.examples=1001", "--data.shift=1"]  # fmt: skip
# The network of other tests, for what is not about numbers.
SHARED = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
          "--train.examples=1001", "--data.validation-size=100",
          "--optimizer.name=adamw"]  # fmt: skip
# Each of these alone ended a run, or gave another network, before rowrnn set what it rests on.
CHANGING = {
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_DEBUG_NANS": "1",
    "JAX_DISABLE_JIT": "1",
    "MPLBACKEND": "bogus",
    "JAX_NUM_CPU_DEVICES": "9",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=9 {os.environ['XLA_FLAGS']}",
}
FAST_MATH = "--xla_cpu_enable_fast_math=true"


def rowrnn_in(cwd, *arguments, code=0, **variables):
    """Runs a command to its end; gives the JSON of its last line, or what it said."""
    environment = os.environ | {"PYTHONPATH": str(Path(rowrnn.__file__).parents[1])} | variables
    done = subprocess.run(
        [sys.executable, "-m", "rowrnn", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr if code else json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_no_setting_of_jax_changes_a_run(tmp_path):
    plain = last_json(here("train", *TINY, "--run-dir=plain", "--json", cwd=tmp_path)[0])
    other = rowrnn_in(tmp_path, "train", *TINY, "--run-dir=other", "--json", **CHANGING)
    assert other["params_sha256"] == plain["params_sha256"]
    assert other["test_loss"] == plain["test_loss"]
    assert (tmp_path / "other" / "report.html").exists()
    # More devices than cores would be more threads, and a larger network would have other bits.
    environment = json.loads((tmp_path / "other" / "environment.json").read_text())
    assert environment["threads"] == len(os.sched_getaffinity(0))
    evaluated = rowrnn_in(tmp_path, "eval", "plain", "--json", **CHANGING)
    assert evaluated["test_accuracy"] == plain["test_accuracy"]


@pytest.mark.slow
def test_contexts_of_a_caller_change_nothing():
    config = Config(
        ModelConfig(projection_size=0, hidden_size=8, dropout=0.1),
        train=TrainConfig(examples=300, batch_size=50),
    )
    images = data.load(config.data)

    def kernels(seeds):
        train = jax.jit(jax.vmap(rowrnn.make_train(config, images)))
        return np.asarray(train(seeds).state.params["lstm_0"].kernel)

    expected = kernels(jnp.arange(2))
    with (
        jax.enable_x64(True),
        jax.threefry_partitionable(False),
        jax.default_prng_impl("rbg"),
        jax.numpy_dtype_promotion("strict"),
    ):
        seeds = jnp.arange(2)
        found = kernels(seeds)
    assert seeds.dtype == np.int64, "the contexts are what this tests"
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_PLATFORMS", "bogus"),
        ("JAX_PLATFORMS", "cuda"),
        ("JAX_NUM_CPU_DEVICES", "abc"),
        ("JAX_ENABLE_X64", "maybe"),
        ("JAX_DEFAULT_DEVICE", "bogus"),
        ("XLA_FLAGS", "--bogus"),
    ],
)
def test_values_that_jax_does_not_start_with_are_refused_in_a_line(tmp_path, name, value):
    if value == "cuda" and jax.default_backend() == "gpu":
        pytest.skip("there is CUDA")
    said = rowrnn_in(tmp_path, "predict", "RUN", "PICTURE", code=2, **{name: value})
    assert said.startswith(f"rowrnn: {name}={value}: ")
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_flags_of_xla_are_part_of_what_decides_a_run(tmp_path, monkeypatch):
    config = Config(ModelConfig(0, 8), train=TrainConfig(examples=300, batch_size=50))
    monkeypatch.setenv("XLA_FLAGS", "")  # The tests' own is one that decides.
    rowrnn.train(config, tmp_path / "run")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path}")
    rowrnn.train(resume=tmp_path / "run")
    monkeypatch.setenv("XLA_FLAGS", FAST_MATH)
    with pytest.raises(ConfigError, match=f"XLA_FLAGS='{FAST_MATH}': .* was started with ''"):
        rowrnn.train(resume=tmp_path / "run")
    assert rowrnn_in(tmp_path, "train", "--resume=run", code=2, XLA_FLAGS=FAST_MATH).startswith(
        f"rowrnn: XLA_FLAGS='{FAST_MATH}': "
    )


def test_a_sweep_does_not_go_on_under_other_flags(tmp_path, monkeypatch):
    """Neither it nor what it kept of a member, there or taken out, which are runs of their own."""
    here("sweep", *SHARED, "--seeds=0:2", "--keep=all", "--run-dir=sweep", cwd=tmp_path)
    here("extract", "sweep", "seed=1", "--to=run", cwd=tmp_path)
    again = ["sweep", "--resume=sweep", "--seeds=0:2", "--json"]
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # As rowrnn sets it for itself.
    assert last_json(here(*again, cwd=tmp_path)[0])["reused"] == 2
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for words in (again, [*again, "--plan"], ["train", "--resume=sweep/states/seed=0"],
                  ["train", "--resume=run"]):  # fmt: skip
        said = here(*words, cwd=tmp_path, code=2)[1]
        path = words[1].removeprefix("--resume=")
        assert said.startswith(f"rowrnn: NVIDIA_TF32_OVERRIDE='0': {path} was started with ''")
        assert len(said.splitlines()) == 1
    # One that has ended is copied as it is; what it ran on goes with it.
    here("extract", "sweep", "seed=0", "--to=other", cwd=tmp_path)
    found = json.loads((tmp_path / "other" / "environment.json").read_text())
    assert "NVIDIA_TF32_OVERRIDE" not in found["flags"]
    assert len(found["machines"]) == 1
