"""A sweep from Python: its members are solo runs, and what is recorded is not run again."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import compiled_once, newer_emitters
from stopping import stop_at

import rowrnn
from rowrnn import config as configs
from rowrnn.bench import timing
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.core import state as states
from rowrnn.core import step
from rowrnn.core.experiment import make_functions
from rowrnn.core.step import Batch
from rowrnn.errors import ConfigError, DataError, RunError, StoppedError
from rowrnn.lab import stats, trainer
from rowrnn.lab import sweep as runner
from rowrnn.lab.evaluate import evaluate_rows
from rowrnn.lab.loop import Loop
from rowrnn.lab.sweep import SweepSettings, outcome
from rowrnn.lab.sweep.stack import Stack
from rowrnn.store import checkpoint, ledger, log, members, rundir
from rowrnn.store.members import Spec

RATE, EPSILON = "optimizer.learning_rate", "optimizer.epsilon"

# 20 steps; every part of a step that a config can switch on.
RICH = Config(
    ModelConfig(8, 16, dropout=0.1),
    DataConfig("mnist_sample", validation_size=100, shift=1),
    OptimizerConfig(
        "adamw", 3e-3, "cosine", warmup_steps=5, clip_norm=0.5, ema_decay=0.9
    ),
    TrainConfig(
        batch_size=100, examples=2001, display="none", log_every_steps=7, eval_every_steps=10,
        label_smoothing=0.1,
    ),
)  # fmt: skip
# 10 steps of little.
SMALL = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw", 3e-3),
    TrainConfig(batch_size=100, examples=1001, display="none", log_every_steps=5),
)
MAP = SweepSettings("map", 1, "none")
FIGURES = ("params_sha256", "train_loss", "test_loss", "test_accuracy", "first256_accuracy",
           "validation_accuracy")  # fmt: skip


def figures_of(result):
    """What must be the same to the bit of a record and of the result of a solo run."""
    return {name: getattr(result, name) for name in FIGURES}


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
    """What `rowrnn.train` gives for a config with other values, each trained once."""
    directory = tmp_path_factory.mktemp("solo")

    found = {}

    def train(config, *values):
        config = configs.replace(config, dict(values))
        key = configs.digest(config)
        if key not in found:
            found[key] = figures_of(rowrnn.train(config, directory / key[:20]))
        return found[key]

    return train


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No pictures and short estimates."""
    # Before a sweep can ask for fewer than the two that conftest.py asks for.
    assert len(jax.devices()) == 2
    with compiled_once() as real:
        yield real


def with_devices(config, devices):
    return configs.replace(config, {"parallel.devices": devices})


# The same experiment.


@pytest.mark.parametrize(
    ("config", "chunk", "devices", "seeds", "rates"),
    [
        (SMALL, 1, 1, (0, 1), (3e-3,)),
        # One more than a stack takes; two on each of two devices.
        pytest.param(SMALL, 2, 1, (1, 0, 2), (3e-3,), marks=pytest.mark.slow),
    ],
)
def test_members_are_solo_runs_to_the_bit(tmp_path, solo, config, chunk, devices, seeds, rates):
    check_members(tmp_path, solo, config, chunk, devices, seeds, rates)


@pytest.mark.slow
@newer_emitters()
def test_members_with_all_that_a_config_can_have_are_solo_runs_to_the_bit(tmp_path, solo):
    check_members(tmp_path, solo, RICH, 2, 2, (0, 1), (3e-3, 1e-2))


def check_members(tmp_path, solo, config, chunk, devices, seeds, rates):
    result = rowrnn.sweep(
        with_devices(config, devices),
        seeds,
        grid={RATE: rates},
        settings=SweepSettings("map", chunk, "none"),
        run_dir=tmp_path / "sweep",
    )
    assert [(r.seed, r.varied[RATE]) for r in result.members] == [
        (seed, rate) for seed in seeds for rate in rates
    ]
    for record in result.members:
        expected = solo(config, ("train.seed", record.seed), (RATE, record.varied[RATE]))
        assert figures_of(record) == expected, record.name
    assert result.summary["compilations"] == 1


@pytest.mark.parametrize("vary", ["init", "data"])
def test_what_a_seed_decides_and_what_members_share(tmp_path, solo, vary):
    config = configs.replace(SMALL, {"train.seed": 7})
    result = rowrnn.sweep(config, (1, 2), vary=vary, settings=MAP, run_dir=tmp_path / "sweep")
    assert len({record.params_sha256 for record in result.members}) == 2
    for record in result.members:
        seeds = (7, record.seed) if vary == "init" else (record.seed, 7)
        expected = solo(SMALL, ("train.seed", seeds[0]), ("train.init_seed", seeds[1]))
        assert figures_of(record) == expected
    # Before the first step: parameters of one, data order of the other are the same.
    prepared = [
        trainer.prepare(member.config)
        for member in members.make_members(Spec(config, (1, 2), vary=vary))
    ]
    first, second = (jax.jit(each.create_state)(*each.seeds) for each in prepared)
    same_params = checkpoint.params_digest(first.params) == checkpoint.params_digest(second.params)
    order = jax.jit(step.epoch_order, static_argnums=2)
    orders = [np.asarray(order(each.key, 0, 4000)) for each in (first, second)]
    assert same_params == (vary == "data")
    assert np.array_equal(*orders) == (vary == "init")


def test_a_seed_that_decides_all_is_a_seed_for_both(tmp_path, solo):
    config = configs.replace(SMALL, {"train.init_seed": 3})
    result = rowrnn.sweep(config, (5,), settings=MAP, run_dir=tmp_path / "sweep")
    assert figures_of(result.members[0]) == solo(SMALL, ("train.seed", 5))


def test_the_first_epoch_goes_in_the_order_of_the_data_where_it_is_asked_to(solo):
    in_order = (("train.init_seed", 7), ("data.first_epoch", "file"))
    first, second = (solo(SMALL, ("train.seed", seed), *in_order) for seed in (1, 2))
    assert first == second != solo(SMALL, ("train.seed", 1), ("train.init_seed", 7))


def test_the_epochs_that_follow_the_order_of_the_data_are_shuffled_as_ever():
    def orders(config):
        order = make_functions(trainer.prepare(config)).order
        return [np.asarray(order(jax.random.key(3), epoch)) for epoch in (0, 1)]

    (data, later), (_, shuffled) = (
        orders(configs.replace(SMALL, {"data.first_epoch": "file"})),
        orders(SMALL),
    )
    assert np.array_equal(data, np.arange(len(data)))
    assert np.array_equal(later, shuffled)


# Numbers that all matter: gradients are clipped, and epsilon is not lost in what it is added to.
TRACED = configs.replace(
    RICH,
    {
        "model.projection_size": 0, "model.hidden_size": 4, "train.batch_size": 10,
        "optimizer.warmup_steps": 0, EPSILON: 1e-3, "optimizer.clip_norm": 0.05,
        "optimizer.weight_decay": 0.1,
    },
)  # fmt: skip
VALUES = configs.traced(TRACED)


def params_after(values):
    """A jitted function of traced numbers, with others as constants: parameters after two steps."""
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 6), np.uint8)
    batch = Batch(jnp.asarray(images), jnp.asarray(np.arange(20, dtype=np.int32) % 4))

    state = jax.jit(lambda: states.create(TRACED, 10, (3, 6), 4, 0))()

    # Nothing here depends on how fast the program is, only on what it computes.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(traced):
        train_step = step.make_train_step(configs.replace(TRACED, values), 10, 4)
        start = state._replace(hyperparams=traced)
        end = step.run_chunk(train_step, start, batch, jnp.arange(20), 2, 10)
        return end.params, end.ema

    return run


@pytest.fixture(scope="module")
def all_traced():
    return params_after({})


def difference(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def as_traced(values):
    return {name: np.float32(value) for name, value in values.items()}


@pytest.mark.slow
def test_traced_numbers_are_the_same_as_constants(all_traced):
    # Not the values of the config, so that a constant left behind shows.
    changed = {name: 0.7 * value for name, value in VALUES.items()}
    assert difference(all_traced(as_traced(changed)), params_after(changed)({})) < 2e-6


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_traced_number_is_not_the_constant_of_the_config(all_traced, name):
    changed = VALUES | {name: 0.7 * VALUES[name]}
    found, unchanged = all_traced(as_traced(changed)), all_traced(as_traced(VALUES))
    assert difference(found, unchanged) > 1e-5


# Programs and devices.


@contextlib.contextmanager
def compilations(program):
    """Counts how often XLA is asked to compile a program of this name, be it kept or not."""
    found = []

    def listen(event, duration_secs, **facts):
        if timing._STAGES.get(event) == "backend_s" and program in str(facts.get("fun_name")):
            found.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("grid", "times"),
    [
        ({RATE: (1e-3, 3e-3, 1e-2)}, 1),
        pytest.param({"model.hidden_size": (4, 8)}, 2, marks=pytest.mark.slow),
    ],
)
def test_one_compilation_for_each_structure(tmp_path, monkeypatch, quick, grid, times):
    monkeypatch.setattr(trainer, "compile_programs", quick)
    config = configs.replace(SMALL, {"train.examples": 201})
    with compilations("chunk") as found:
        result = rowrnn.sweep(config, range(2), grid=grid, settings=MAP, run_dir=tmp_path / "sweep")
    assert len(found) == times
    assert result.summary["compilations"] == times
    assert result.summary["completed"] == 2 * len(next(iter(grid.values())))


def test_vmap_is_the_same_but_for_rounding(tmp_path, solo):
    for strategy in ("map", "vmap"):
        rowrnn.sweep(
            SMALL, (0, 1), settings=SweepSettings(strategy, 1, "all"), run_dir=tmp_path / strategy
        )
    for seed in (0, 1):
        one, many = (
            jax.tree.leaves(rowrnn.load(tmp_path / strategy / "states" / f"seed={seed}").params)
            for strategy in ("map", "vmap")
        )
        for ours, theirs in zip(many, one, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    (record, _) = rowrnn.sweep(resume=tmp_path / "vmap").members
    expected = solo(SMALL, ("train.seed", record.seed))
    assert record.train_loss == pytest.approx(expected["train_loss"], rel=1e-4)
    assert record.test_accuracy == pytest.approx(expected["test_accuracy"], abs=0.01)


class OutOfMemoryOnce:
    """A program that fails for want of memory at its n-th call, once."""

    def __init__(self, program, call):
        self.program, self.left = program, call

    def __call__(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory on a test")
        return self.program(*arguments)

    def __getattr__(self, name):
        return getattr(self.program, name)


# On two devices, where the half is a stack that another test has compiled. The first call is that
# of the estimate, the fourth the first chunk of the sweep.
@pytest.mark.parametrize(
    ("chunk", "call"),
    [
        pytest.param(4, 4, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.soak),
        pytest.param(None, 1, marks=pytest.mark.soak),
        pytest.param(None, 4, marks=pytest.mark.soak),
    ],
)
def test_out_of_memory_halves_the_stack(tmp_path, monkeypatch, solo, chunk, call):
    sizes, real = [], trainer.compile_programs

    def compile_programs(experiment, mesh, members=1, *, vmap=False):
        programs = real(experiment, mesh, members, vmap=vmap)
        if not vmap:
            return programs
        sizes.append(members)
        if len(sizes) > 1:
            return programs
        return programs._replace(chunk=OutOfMemoryOnce(programs.chunk, call))

    monkeypatch.setattr(trainer, "compile_programs", compile_programs)
    result = rowrnn.sweep(
        SMALL,
        range(4),
        settings=SweepSettings("vmap", chunk, "none"),
        run_dir=tmp_path / "sweep",
    )
    assert sizes[:2] == [4, 2]
    assert result.summary["completed"] == 4
    assert result.members[3].train_loss == pytest.approx(
        solo(SMALL, ("train.seed", 3))["train_loss"], rel=1e-4
    )


def test_out_of_memory_with_a_single_member_is_an_error(tmp_path, monkeypatch):
    def train(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory on a test")

    monkeypatch.setattr(Stack, "train", train)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        rowrnn.sweep(SMALL, (0, 1), settings=MAP, run_dir=tmp_path / "sweep")


# The ledger.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that was never cut: its directory and its result."""
    path = tmp_path_factory.mktemp("whole") / "sweep"
    settings = SweepSettings("map", 1, "all")
    return path, rowrnn.sweep(SMALL, range(4), settings=settings, run_dir=path)


@pytest.fixture
def trained(monkeypatch):
    """Names of the members that are trained from here on."""
    names, real = [], Stack.train

    def train(stack, stop):
        names.extend(member.name for member in stack.members)
        return real(stack, stop)

    monkeypatch.setattr(Stack, "train", train)
    return names


def without_seconds(records):
    return [dataclasses.replace(record, wall_s=0) for record in records]


def assert_same(result, whole):
    """The same bits, curves too, as the sweep that was never cut."""
    count = len(result.members)
    assert without_seconds(result.members) == without_seconds(whole[1].members[:count])


def fail_after(monkeypatch, stacks):
    """Makes a sweep fail, as by a kill, when it has recorded some stacks."""
    real, calls = Stack.train, []

    def train(*arguments):
        calls.append(1)
        if len(calls) > stacks:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(Stack, "train", train)


def test_resuming_runs_what_is_missing_and_more_seeds(tmp_path, monkeypatch, whole, trained):
    path = tmp_path / "sweep"
    with monkeypatch.context() as patched:
        fail_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            rowrnn.sweep(SMALL, range(3), settings=MAP, run_dir=path)
    assert trained == ["seed=0", "seed=1"]
    environment = json.loads((path / "environment.json").read_text())
    began = "2020-02-03T04:05:06+00:00"
    (path / "environment.json").write_text(json.dumps(environment | {"time": began}))
    result = rowrnn.sweep(resume=path)
    assert trained == ["seed=0", "seed=1", "seed=2"]
    assert result.summary["reused"] == 2
    assert_same(result, whole)
    # All sessions count.
    assert result.summary["wall_s"] > sum(record.wall_s for record in result.members)
    before, result = result, rowrnn.sweep(resume=path, seeds=range(4))
    assert trained[3:] == ["seed=3"]
    assert result.summary["reused"] == 3
    assert_same(result, whole)
    more = result.summary["wall_s"] - before.summary["wall_s"]
    assert more > result.members[3].wall_s
    # Again, with nothing to do.
    before, result = result, rowrnn.sweep(resume=path)
    assert len(trained) == 4
    assert (result.summary["reused"], result.summary["compilations"]) == (4, 0)
    assert_same(result, whole)
    for name in ("wall_s", "examples_per_s"):
        assert result.summary[name] == before.summary[name] > 0
    (listed,) = rowrnn.runs(path)
    assert listed.started.isoformat() == began


def test_other_code_reuses_nothing(tmp_path, monkeypatch, whole, trained):
    path = tmp_path / "sweep"
    rowrnn.sweep(SMALL, range(2), settings=MAP, run_dir=path)
    monkeypatch.setattr(ledger, "code_version", lambda: "0" * 64)
    result = rowrnn.sweep(resume=path)
    assert result.summary["reused"] == 0
    assert trained == ["seed=0", "seed=1"] * 2
    assert [r.params_sha256 for r in result.members] == [
        r.params_sha256 for r in whole[1].members[:2]
    ]


def test_a_damaged_record_is_run_again(tmp_path, whole, trained):
    path = tmp_path / "sweep"
    rowrnn.sweep(SMALL, range(2), settings=MAP, run_dir=path)
    (record,) = (path / "members").glob("seed-1-*.json")
    content = record.read_bytes()
    record.write_bytes(content.replace(b"completed", b"completee"))
    with pytest.warns(UserWarning, match=r"seed-1-\w+\.json is damaged"):
        result = rowrnn.sweep(resume=path)
    assert trained == ["seed=0", "seed=1", "seed=1"]
    assert record.with_suffix(".damaged").exists()
    assert_same(result, whole)


def noted_starts(monkeypatch):
    """Where each loop begins from here on: members, step, devices on the axis of seeds."""
    starts, real = [], Loop.run

    def run(loop, state, progress):
        starts.append((progress.members, progress.step, loop.trainer.mesh.shape["seed"]))
        return real(loop, state, progress)

    monkeypatch.setattr(Loop, "run", run)
    return starts


# Without a save before, and just after one.
@pytest.mark.parametrize("cut", [3, 4])
def test_a_stack_goes_on_where_a_signal_stopped_it(tmp_path, monkeypatch, whole, cut):
    path = tmp_path / "sweep"
    config = configs.replace(SMALL, {"checkpoint.every_steps": 4})
    with monkeypatch.context() as patched:
        stop_at(patched, cut)
        with pytest.raises(
            StoppedError,
            match=f"SIGTERM with 0 of 4 members done and 2 at step {cut} of 10, which is saved; "
            f"go on with: rowrnn sweep --resume {path}",
        ) as stopped:
            rowrnn.sweep(config, range(4), settings=MAP, run_dir=path)
    assert stopped.value.exit_code == 75
    assert not (path / "members").exists()
    starts = noted_starts(monkeypatch)
    result = rowrnn.sweep(resume=path)
    assert [step for _, step, _ in starts] == [cut, 0]
    assert_same(result, whole)
    assert not (path / "partial").exists()


# Both members on one device; one on each; one, with an idle place beside it.
@pytest.mark.parametrize(
    ("before", "after", "count", "chunk"),
    [
        pytest.param(2, 1, 2, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, 2, 2, marks=pytest.mark.slow),
        (1, 2, 1, 1),
    ],
)
def test_a_stack_goes_on_on_another_number_of_devices(
    tmp_path, monkeypatch, whole, before, after, count, chunk
):
    path, settings = tmp_path / "sweep", SweepSettings("map", chunk, "none")
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(StoppedError):
            rowrnn.sweep(with_devices(SMALL, before), range(count), settings=settings, run_dir=path)
    starts = noted_starts(monkeypatch)
    result = rowrnn.sweep(with_devices(SMALL, after), resume=path)
    assert starts == [(count, 3, after)]
    assert_same(result, whole)


@pytest.mark.slow
@newer_emitters()
def test_a_member_is_taken_out_and_ends_as_a_run_of_its_own(tmp_path, monkeypatch, solo):
    path, run = tmp_path / "sweep", tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 7)
        # A stack that another test has compiled.
        settings = SweepSettings("map", 2, "none")
        with pytest.raises(StoppedError):
            rowrnn.sweep(RICH, range(4), settings=settings, run_dir=path)
    with pytest.raises(ConfigError, match=r"^within jax\.jit .* taken out of a sweep"):
        jax.eval_shape(lambda: rowrnn.extract(path, "seed=1", run))
    assert rowrnn.extract(path, "seed=1", run) == run
    of_run, of_sweep = (json.loads((at / "environment.json").read_text()) for at in (run, path))
    assert of_run == of_sweep
    assert max(entry["step"] for entry in log.read(run)) == 7
    result = rowrnn.train(resume=run)
    assert figures_of(result) == solo(RICH, ("train.seed", 1))
    # As a run of its own logs: no step is missing, or there twice.
    steps = [(entry["step"], *sorted(entry.keys() & {"train_loss", "validation_loss"}))
             for entry in log.read(run)]  # fmt: skip
    assert steps == [(7, "train_loss"), (10, "validation_loss"), (14, "train_loss"),
                     (20, "train_loss"), (20, "validation_loss")]  # fmt: skip


def test_a_member_that_was_kept_is_taken_out(tmp_path):
    path = tmp_path / "sweep"
    result = rowrnn.sweep(SMALL, (0, 1), settings=SweepSettings("map", 1, "best"), run_dir=path)
    (kept,) = result.states
    other = {"seed=0": "seed=1", "seed=1": "seed=0"}[kept]
    rowrnn.extract(path, kept, tmp_path / "run")
    assert rowrnn.load(tmp_path / "run").step == 10
    (listed,), record = rowrnn.runs(tmp_path / "run"), result.members[int(kept[-1])]
    assert (listed.state, listed.test_accuracy) == ("done", record.test_accuracy)
    # What the sweep says of it is what the run itself gives, but for devices and times.
    told = dataclasses.asdict(rowrnn.train(resume=tmp_path / "run"))
    (tmp_path / "run" / "result.json").unlink()
    given = dataclasses.asdict(rowrnn.train(resume=tmp_path / "run"))
    free = {"devices", "compile_s", "wall_s"}
    assert {n: told[n] for n in told.keys() - free} == {n: given[n] for n in told.keys() - free}
    with pytest.raises(RunError, match=f"holds no state of {other}: .*--keep all.*--train.seed"):
        rowrnn.extract(path, other, tmp_path / "other")
    with pytest.raises(ConfigError, match="no member 'seed=11'; did you mean seed=1"):
        rowrnn.extract(path, "seed=11", tmp_path / "other")
    with pytest.raises(RunError, match="not empty"):
        rowrnn.extract(path, kept, tmp_path / "run")
    assert not (tmp_path / "other").exists()


def test_what_was_kept_of_another_config_is_nobodys_state(tmp_path):
    path = tmp_path / "sweep"
    rowrnn.sweep(SMALL, (0, 1), settings=SweepSettings("map", 1, "all"), run_dir=path)
    other = configs.replace(SMALL, {"optimizer.learning_rate": 2e-3})
    result = rowrnn.sweep(other, (0, 1), settings=MAP, resume=path)
    assert result.summary["completed"] == 2
    assert result.states == {}
    with pytest.raises(RunError, match="holds no state of seed=0"):
        rowrnn.extract(path, "seed=0", tmp_path / "run")
    with pytest.raises(RunError, match="kept the state of no member"):
        evaluate_rows(path)


def test_the_stack_in_progress_goes_on_also_among_other_members(
    tmp_path, monkeypatch, whole, trained
):
    path = tmp_path / "sweep"
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(StoppedError):
            rowrnn.sweep(SMALL, (2, 3), settings=MAP, run_dir=path)
    trained.clear()
    result = rowrnn.sweep(resume=path, seeds=range(4))
    assert trained == ["seed=2", "seed=3", "seed=0", "seed=1"]
    assert_same(result, whole)


@pytest.mark.slow
def test_the_group_of_what_is_in_progress_comes_first(tmp_path, monkeypatch, trained):
    path, sizes = tmp_path / "sweep", {"model.hidden_size": (8, 4)}
    with monkeypatch.context() as patched:
        fail_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            rowrnn.sweep(SMALL, (0,), grid=sizes, settings=MAP, run_dir=path)
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(StoppedError):
            rowrnn.sweep(resume=path)
    trained.clear()
    rowrnn.sweep(resume=path, seeds=(0, 1))
    assert trained[0] == "hidden_size=4,seed=0"
    assert sorted(trained[1:]) == ["hidden_size=4,seed=1", "hidden_size=8,seed=1"]


def test_results_are_there_when_all_that_is_asked_for_is_trained(tmp_path, monkeypatch, whole):
    path = tmp_path / "sweep"
    shutil.copytree(whole[0], path)
    with monkeypatch.context() as patched:
        fail_after(patched, 0)
        with pytest.raises(KeyboardInterrupt):
            rowrnn.sweep(resume=path, seeds=(4, 5, 6, 7))
    (found,) = rowrnn.runs(path)
    assert (found.state, found.test_accuracy) == ("stopped", None)
    with pytest.raises(RunError, match="is not finished"):
        rowrnn.compare(whole[0], path)
    # The ledger has lost nothing.
    assert_same(rowrnn.sweep(resume=path, seeds=range(4)), whole)
    assert (path / "results.csv").read_text() == (whole[0] / "results.csv").read_text()


def test_a_damaged_save_of_a_stack_costs_one_interval(tmp_path, monkeypatch, whole):
    path = tmp_path / "sweep"
    config = configs.replace(SMALL, {"checkpoint.every_steps": 4})
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        with pytest.raises(StoppedError):
            rowrnn.sweep(config, range(2), settings=MAP, run_dir=path)
    for file in (path / "partial" / "6" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, 500)
    with pytest.warns(UserWarning, match="6 is damaged"):
        result = rowrnn.sweep(resume=path)
    assert_same(result, whole)


def test_where_all_saves_of_a_stack_are_damaged_it_starts_again(tmp_path, monkeypatch, whole):
    path = tmp_path / "sweep"
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(StoppedError):
            rowrnn.sweep(SMALL, range(2), settings=MAP, run_dir=path)
    for file in (path / "partial").glob("*/state/**/*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, 500)
    with (
        pytest.warns(UserWarning, match="3 is damaged"),
        pytest.warns(UserWarning, match="no intact.*; what was in progress starts again"),
    ):
        result = rowrnn.sweep(resume=path)
    assert_same(result, whole)


# What a sweep leaves.


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_the_log_has_each_curve_once_also_after_a_resume(tmp_path, whole):
    path = tmp_path / "sweep"
    for seeds in (range(2), range(4)):
        result = rowrnn.sweep(
            SMALL, seeds, settings=MAP, run_dir=path
        ) if len(seeds) == 2 else rowrnn.sweep(resume=path, seeds=seeds)  # fmt: skip
    for directory, records in ((whole[0], whole[1].members), (path, result.members)):
        entries = lines_of(directory)
        keys = [
            (entry["member"], entry["step"], *(entry.keys() - {"member", "step"}))
            for entry in entries
        ]
        assert len(keys) == len(set(keys))
        curves = {}
        for entry in entries:
            member, at = entry.pop("member"), entry.pop("step")
            ((name, value),) = entry.items()
            curves.setdefault(member, {}).setdefault(name, []).append((at, value))
        assert curves == {record.name: record.curve for record in records}
    curve = result.members[0].curve
    assert set(curve) == {
        "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
    }  # fmt: skip
    assert [at for at, _ in curve["train_loss"]] == [5, 10]
    assert curve["train_loss"][-1][1] == result.members[0].train_loss


def test_the_curve_is_that_of_the_solo_run(tmp_path, whole):
    rowrnn.train(SMALL, tmp_path / "run")
    found = {}
    for entry in log.read(tmp_path / "run"):
        for name in whole[1].members[0].curve:
            if name in entry:
                found.setdefault(name, []).append((entry["step"], entry[name]))
    for name, curve in whole[1].members[0].curve.items():
        assert [at for at, _ in curve] == [at for at, _ in found[name]]
        np.testing.assert_allclose(
            [v for _, v in curve], [v for _, v in found[name]], rtol=1e-6
        )  # fmt: skip


def not_json(constant):
    raise AssertionError(f"{constant} is not JSON")


def results_of(path):
    return json.loads((path / "results.json").read_text(), parse_constant=not_json)


COLUMNS = ["status", "steps", "train_loss", "validation_accuracy", "test_accuracy",
           "params_sha256", "wall_s"]  # fmt: skip
STATISTICS = {"members", "completed", "failed", "reused", "mean", "sd", "median", "iqm",
              "interval"}  # fmt: skip


def test_seeds_that_failed_are_counted_beside_the_interquartile_mean(whole):
    members = whole[1].members * 4
    low = [dataclasses.replace(members[0], test_accuracy=0.1)]
    gone = [dataclasses.replace(members[0], status="diverged", test_accuracy=None)]
    accuracies = np.linspace(0.95, 0.96, 16)
    good = [
        dataclasses.replace(member, test_accuracy=accuracy)
        for member, accuracy in zip(members, accuracies, strict=True)
    ]
    found = outcome.summarize(good + low + gone, 1000)
    assert (found["failed"], found["far_below"], found["failure_rate"]) == (1, 1, 2 / 18)
    assert found["failure_rate_interval"] == stats.wilson_interval(2, 18)
    assert 0.95 < found["iqm_interval"][0] < found["iqm"] < found["iqm_interval"][1] < 0.96
    assert outcome.summarize(good, 1000)["failure_rate"] == 0
    assert outcome.summarize(gone)["failure_rate"] == 1


def test_other_images_and_their_groups_are_in_the_results(tmp_path, whole, trained):
    path = tmp_path / "sweep"
    shutil.copytree(whole[0], path)
    groups = np.arange(1000) % 25
    np.save(tmp_path / "writers.npy", groups)
    result = rowrnn.sweep(resume=path, groups=tmp_path / "writers.npy")
    assert not trained
    test = rowrnn.load(path / "states" / "seed=0").load_split("test")
    right = np.array([
        rowrnn.load(path / "states" / f"seed={seed}").logits(test.images).argmax(axis=1)
        == test.labels
        for seed in range(4)
    ])  # fmt: skip
    summary = results_of(path)["summary"]
    assert summary == json.loads(json.dumps(result.summary))
    (of_point,) = summary["groups"]
    names = ["interval_over_images", "interval_by_group", "design_effect", "effective_images"]
    assert [of_point[name] for name in names] == [summary[name] for name in names]
    low, high = summary["interval_over_images"]
    assert low < summary["interval"][0] < summary["mean"] < summary["interval"][1] < high
    of_group = [right[:, groups == group].mean() for group in range(25)]
    assert [part["accuracy"] for part in summary["by_group"]] == pytest.approx(of_group)
    # Groups of one size: their accuracies are a sample, of which the seeds' own share is left.
    a, b = right.mean(axis=1).var(ddof=1) / 4, np.var(of_group, ddof=1) / 25
    shares = np.array([[right[s, groups == group].mean() for group in range(25)] for s in range(4)])
    rest = shares - shares.mean(axis=0) - shares.mean(axis=1, keepdims=True) + shares.mean()
    c = (rest**2).sum() / 3 / 24 / 100
    assert summary["standard_error_by_group"] ** 2 == pytest.approx(a + b - c)
    parts = of_point["variance"]
    assert parts["finite_share"] == pytest.approx(parts["finite_test"] / parts["total"])
    # Without the file it is as it was.
    assert "by_group" not in rowrnn.sweep(resume=path).summary


def test_groups_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path, whole, trained):
    (tmp_path / "writers.csv").write_text("1\n2\n")
    reason = r"writers.csv has 2 entries for 1,000 images; it must hold one integer an image"
    with pytest.raises(DataError, match=reason):
        rowrnn.sweep(SMALL, [0, 1], run_dir=tmp_path / "new", groups=tmp_path / "writers.csv")
    assert not (tmp_path / "new").exists()
    before = (whole[0] / "results.json").read_bytes()
    with pytest.raises(DataError, match=reason):
        rowrnn.sweep(resume=whole[0], groups=tmp_path / "writers.csv")
    assert (whole[0] / "results.json").read_bytes() == before
    assert not trained


def test_the_table_and_the_document_say_the_same(tmp_path, whole):
    path, result = whole
    document = results_of(path)
    with (path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["seed", *COLUMNS]
    assert list(document["members"][0]) == ["seed", *COLUMNS]
    assert rows == [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in document["members"]
    ]
    assert document["members"] == result.table
    assert [row["seed"] for row in document["members"]] == [0, 1, 2, 3]
    summary = document["summary"]
    assert set(summary) >= STATISTICS | {
        "run_dir", "strategy", "compilations", "examples_per_s", "wall_s", "groups",
    }  # fmt: skip
    accuracies = np.array([float(row["test_accuracy"]) for row in rows])
    assert summary["run_dir"] == str(path)
    assert (summary["members"], summary["completed"], summary["failed"]) == (4, 4, 0)
    assert (summary["reused"], summary["strategy"]) == (0, "map")
    assert summary["mean"] == pytest.approx(accuracies.mean())
    assert summary["sd"] == pytest.approx(accuracies.std(ddof=1))
    assert summary["median"] == pytest.approx(np.median(accuracies))
    assert summary["interval"][0] < summary["mean"] < summary["interval"][1]
    assert summary["examples_per_s"] > 0
    assert summary["wall_s"] > 0
    (group,) = summary["groups"]
    assert {name: group[name] for name in STATISTICS} == {
        name: summary[name] for name in STATISTICS
    }
    np.testing.assert_array_equal(result.accuracy, accuracies)


def test_a_member_that_diverges_is_marked_and_counted_apart(tmp_path, monkeypatch, solo):
    path, saved = tmp_path / "sweep", []
    real = checkpoint.CheckpointWriter.save

    def save(writer, state, facts):
        # Not those of the solo runs.
        if facts["keys"]:
            saved.append(checkpoint.to_arrays(state))
        real(writer, state, facts)

    monkeypatch.setattr(checkpoint.CheckpointWriter, "save", save)
    # Pixels at the border are always zero, and so is their gradient: 0 / (sqrt(0) + 0).
    result = rowrnn.sweep(
        configs.replace(SMALL, {"checkpoint.every_steps": 4}),
        (0, 1),
        grid={EPSILON: (1e-8, 0.0)},
        settings=MAP,
        run_dir=path,
    )
    good = [record for record in result.members if record.varied[EPSILON] > 0]
    bad = [record for record in result.members if record.varied[EPSILON] == 0]
    assert [record.status for record in good] == ["completed"] * 2
    assert [(record.status, record.steps) for record in bad] == [("diverged", 1)] * 2
    assert result.failed == bad
    for record in good:
        assert figures_of(record) == solo(SMALL, ("train.seed", record.seed))
    # Both kinds were in the stacks that were saved.
    assert len(saved) >= 4
    for arrays in saved:
        assert arrays["step"].shape == (2,)
        for array in arrays.values():
            if np.issubdtype(array.dtype, np.floating):
                assert np.isfinite(array).all()
    summary = result.summary
    assert (summary["members"], summary["completed"], summary["failed"]) == (4, 2, 2)
    assert summary["mean"] is None, "nothing is averaged over two settings"
    of_good = next(group for group in summary["groups"] if group[EPSILON] > 0)
    assert of_good["mean"] == pytest.approx(np.mean([r.test_accuracy for r in good]))
    document = results_of(path)
    assert [row["test_accuracy"] is None for row in document["members"]] == [False, True] * 2
    assert document["members"][1]["params_sha256"] is None
    empty = next(group for group in document["summary"]["groups"] if group[EPSILON] == 0)
    assert (empty["completed"], empty["failed"], empty["mean"]) == (0, 2, None)
    assert np.isnan(result.accuracy).tolist() == [False, True] * 2
    # What has failed is known, too.
    assert rowrnn.sweep(resume=path).summary["reused"] == 4


def test_all_states_are_kept_and_load_as_runs(whole, solo):
    path, result = whole
    assert sorted(result.states) == [f"seed={seed}" for seed in range(4)]
    for record in result.members:
        classifier = rowrnn.load(path / "states" / record.name)
        assert checkpoint.params_digest(classifier.params) == record.params_sha256
        assert classifier.config.train.seed == record.seed
        assert classifier.step == record.steps
    evaluation = rowrnn.evaluate(path / "states" / "seed=2")
    assert evaluation.accuracy == pytest.approx(result.members[2].test_accuracy, abs=1e-7)


@pytest.mark.parametrize("validation", [100, pytest.param(0, marks=pytest.mark.slow)])
def test_the_best_state_is_that_of_the_best_on_validation(tmp_path, validation):
    path = tmp_path / "sweep"
    config = configs.replace(SMALL, {"data.validation_size": validation, RATE: 3e-2})

    def best(result):
        def merit(record):
            return record.validation_accuracy if validation else -record.train_loss

        return max(result.members, key=merit)

    settings = SweepSettings("map", 1, "best")
    result = rowrnn.sweep(config, range(4), settings=settings, run_dir=path)
    assert list(result.states) == [best(result).name]
    digest = checkpoint.params_digest(result.states[best(result).name].params)
    assert digest == best(result).params_sha256
    result = rowrnn.sweep(resume=path, seeds=range(8))
    assert list(result.states) == [best(result).name]


def test_no_state_is_kept_where_none_is_asked_for(tmp_path):
    result = rowrnn.sweep(SMALL, range(2), settings=MAP, run_dir=tmp_path / "sweep")
    assert result.states == {}
    assert not (tmp_path / "sweep" / "states").exists()


# What is refused.


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SweepSettings("pmap"), "strategy = 'pmap': must be one of auto, map, vmap"),
        (SweepSettings(keep="some"), "keep = 'some': must be one of best, all, none"),
        (SweepSettings(chunk=0), "chunk = 0: must be an integer from 1"),
    ],
)
def test_bad_settings_leave_what_they_would_overwrite(whole, settings, says):
    with pytest.raises(ConfigError, match=says):
        rowrnn.sweep(SMALL, (0,), settings=settings, run_dir=whole[0], overwrite=True)
    assert (whole[0] / "results.json").exists()


def test_cudnn_is_not_run_for_several_members_at_once(tmp_path):
    config = configs.replace(SMALL, {"model.backend": "cudnn"})
    with pytest.raises(ConfigError, match="cannot run several members at once; --strategy map"):
        rowrnn.sweep(config, (0,), settings=SweepSettings("vmap"), run_dir=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_what_varies_stays_as_it_was(tmp_path, whole):
    with pytest.raises(ConfigError, match="vary = 'init': a resumed sweep varies what it was"):
        rowrnn.sweep(resume=whole[0], vary="init")


def test_no_seeds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="seeds: must be given"):
        rowrnn.sweep(SMALL, run_dir=tmp_path / "sweep")


def test_a_sweep_is_no_run_and_a_run_no_sweep(tmp_path, whole):
    with pytest.raises(RunError, match="is not empty; go on with --resume"):
        rowrnn.sweep(SMALL, (0,), run_dir=whole[0])
    with pytest.raises(RunError, match=r"is a sweep, not a single run.*rowrnn sweep --resume"):
        rowrnn.train(resume=whole[0])
    with pytest.raises(RunError, match="is a sweep, not a single run"):
        rowrnn.load(whole[0])
    with rundir.RunDir.create(tmp_path / "run", SMALL):
        pass
    with pytest.raises(RunError, match=r"is a single run, not a sweep.*rowrnn train --resume"):
        rowrnn.sweep(resume=tmp_path / "run")


def test_a_sweep_file_that_says_nothing_is_refused(tmp_path):
    with rundir.RunDir.create(tmp_path / "sweep", SMALL) as run:
        for text in ("{}", "{", '{"seeds": [0], "grid": {}, "vary": "both", "settings": 1}'):
            run.write("sweep.json", text)
            with pytest.raises(RunError, match=r"sweep\.json"):
                runner.reopen(tmp_path / "sweep")


@pytest.mark.slow
def test_groups_with_other_data_are_trained_on_their_own(tmp_path, solo):
    # The third of four groups has the data of the first again.
    sizes = {"model.hidden_size": (8, 4), "data.validation_size": (100, 0)}
    result = rowrnn.sweep(SMALL, (0,), grid=sizes, settings=MAP, run_dir=tmp_path / "sweep")
    third = result.members[2]
    assert figures_of(third) == solo(SMALL, *third.varied.items())


def test_the_strategy_that_was_chosen_stays(tmp_path):
    path = tmp_path / "sweep"
    rowrnn.sweep(SMALL, (0,), run_dir=path)
    assert json.loads((path / "sweep.json").read_text())["settings"]["strategy"] == "map"
