import dataclasses
import functools
import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import compiled_once
from stopping import stop_at

import rowrnn
from rowrnn import config as configs
from rowrnn import data
from rowrnn.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from rowrnn.core import state as states
from rowrnn.core import step
from rowrnn.errors import ConfigError, DivergedError, RunError, StoppedError
from rowrnn.lab import loop, trainer
from rowrnn.lab.train import TrainResult
from rowrnn.store import checkpoint, log, rundir

# 3,900 training images, so 39 steps an epoch; two epochs and a bit.
CONFIG = Config(
    ModelConfig(8, 16, dropout=0.1),
    DataConfig("mnist_sample", validation_size=100, shift=1),
    OptimizerConfig("adamw", 3e-3, "cosine", ema_decay=0.9),
    TrainConfig(
        batch_size=100, examples=10_001, display="none", log_every_steps=20, eval_every_steps=30
    ),
    CheckpointConfig(every_epoch=True, keep=3),
)
# As long, and compiled in half the time.
LITTLE = configs.replace(
    CONFIG,
    {"model.projection_size": 0, "model.hidden_size": 4, "model.dropout": 0.0, "data.shift": 0},
)


def log_of(path):
    return list(log.read(path))


def final_digests(path):
    """SHA-256 of every array of the last checkpoint."""
    return checkpoint.newest_facts(path / "checkpoints").sha256


@pytest.fixture(scope="module", autouse=True)
def compile_programs():
    """Programs of the same network are compiled once for all tests; gives what does so anew."""
    with compiled_once() as real:
        yield real


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never cut: its directory and its result."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, rowrnn.train(CONFIG, path)


def test_a_run_leaves_what_the_contract_says(whole):
    path, result = whole
    assert result.steps == 100
    assert result.examples == 10_000
    assert result.dataset == "mnist_sample"
    assert 0.2 < result.test_accuracy <= 1
    assert 0 < result.test_loss < 2.3
    assert result.examples_per_s == pytest.approx(10_000 / result.train_s)
    assert json.loads((path / "result.json").read_text()) == dataclasses.asdict(result)
    assert configs.load(path / "config.toml") == CONFIG
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert any(entry.name.startswith("events.out") for entry in path.iterdir())
    steps = sorted(int(entry.name) for entry in (path / "checkpoints").iterdir())
    # The latest three, and the best where it is none of them.
    assert steps[-1] == 100
    assert len(steps) in (3, 4)


def test_the_log_has_every_entry_once(whole):
    log = log_of(whole[0])
    assert [e["step"] for e in log if "train_loss" in e] == [20, 40, 60, 80, 100]
    assert [e["step"] for e in log if "validation_loss" in e] == [30, 60, 90, 100]
    assert log[-1]["validation_accuracy"] == whole[1].validation_accuracy
    losses = [e["train_loss"] for e in log if "train_loss" in e]
    assert losses[-1] < losses[0]
    assert whole[1].train_loss == losses[-1]


def test_the_saved_config_repeats_the_run_to_the_bit(whole, tmp_path):
    again = rowrnn.train(configs.load(whole[0] / "config.toml"), tmp_path / "again")
    assert again.params_sha256 == whole[1].params_sha256
    assert again.test_loss == whole[1].test_loss


def assert_same_log(path, other):
    """Every entry once and with the same figures, but for the seconds and the order of sums."""
    ours, theirs = ([e | {"seconds": 0} for e in log_of(run)] for run in (path, other))
    assert [sorted(entry) for entry in ours] == [sorted(entry) for entry in theirs]
    for entry, expected in zip(ours, theirs, strict=True):
        assert entry == pytest.approx(expected, rel=1e-6)


# Inside an epoch, on its edge, and just after an evaluation.
@pytest.mark.parametrize("cut", [17, 39, 60])
def test_a_run_that_was_cut_ends_with_the_same_bits(whole, tmp_path, monkeypatch, cut):
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, cut)
        with pytest.raises(StoppedError, match=f"SIGTERM after step {cut} of 100"):
            rowrnn.train(CONFIG, path)
    assert (path / "checkpoints" / str(cut)).is_dir()
    result = rowrnn.train(resume=path)
    assert final_digests(path) == final_digests(whole[0])
    assert result.params_sha256 == whole[1].params_sha256
    assert result.test_accuracy == whole[1].test_accuracy
    assert_same_log(path, whole[0])


def test_a_run_killed_before_its_first_save_starts_again(whole, tmp_path):
    path = tmp_path / "run"
    with rundir.RunDir.create(path, CONFIG) as run:
        run.log({"step": 20}, {"train_loss": 1.0})
    result = rowrnn.train(resume=path)
    assert result.params_sha256 == whole[1].params_sha256
    assert [e["step"] for e in log_of(path) if "train_loss" in e] == [20, 40, 60, 80, 100]


def test_a_finished_run_gives_its_result(whole):
    assert rowrnn.train(resume=whole[0]) == whole[1]


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """A finished run whose schedule does not know its end: directory, config and result."""
    path = tmp_path_factory.mktemp("steady") / "run"
    config = configs.replace(
        LITTLE,
        {
            "optimizer.schedule": "constant",
            "optimizer.ema_decay": 0.0,
            "train.examples": None,
            "train.epochs": 2,
        },
    )
    return path, config, rowrnn.train(config, path)


def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_start(steady, tmp_path):
    _, config, whole = steady
    short = configs.override(config, {"train.examples": 5_001})
    assert rowrnn.train(short, tmp_path / "run").steps == 50
    result = rowrnn.train(config, resume=tmp_path / "run")
    assert (result.steps, result.params_sha256) == (whole.steps, whole.params_sha256)
    assert configs.load(tmp_path / "run" / "config.toml") == config
    assert rowrnn.train(resume=tmp_path / "run") == result
    with pytest.raises(RunError, match=r"has done 78 steps, and .* say 50 in all"):
        rowrnn.train(short, resume=tmp_path / "run")


def test_a_schedule_that_knows_its_end_is_not_made_longer(whole):
    longer = configs.override(CONFIG, {"train.examples": 20_001})
    with pytest.raises(RunError, match=r"falls to zero at its last step .*--init-from"):
        rowrnn.train(longer, resume=whole[0])


@pytest.mark.parametrize("source", ["a run", "an export"])
def test_a_run_begins_with_the_parameters_of_another(steady, tmp_path, source):
    path, config, trained = steady
    if source == "an export":
        rowrnn.export(path, tmp_path / "export")
        path = tmp_path / "export"
    # Without a learning rate they stay as they are.
    still = configs.override(config, {"optimizer.learning_rate": 0.0, "train.examples": 101})
    result = rowrnn.train(still, tmp_path / "run", init_from=path)
    assert result.steps == 1
    assert result.params_sha256 == trained.params_sha256
    # Had it been killed before its first save, it would begin so again.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "result.json").unlink()
    assert rowrnn.train(resume=tmp_path / "run").params_sha256 == trained.params_sha256


@pytest.mark.slow
def test_the_moving_average_begins_with_those_parameters_too(steady, tmp_path):
    path, config, trained = steady
    still = {"optimizer.learning_rate": 0.0, "optimizer.ema_decay": 0.5, "train.examples": 101}
    rowrnn.train(configs.override(config, still), tmp_path / "run", init_from=path)
    assert rowrnn.evaluate(tmp_path / "run").accuracy == trained.test_accuracy


def test_parameters_that_do_not_fit_or_have_changed_are_refused(steady, tmp_path):
    path, config, _ = steady
    with pytest.raises(ConfigError, match=r"lstm_0.kernel is \(32, 16\) there and \(36, 32\) in"):
        rowrnn.train(configs.replace(config, {"model.hidden_size": 8}), tmp_path, init_from=path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="a resumed run has parameters already"):
        rowrnn.train(resume=path, init_from=path)
    source = tmp_path / "source"
    shutil.copytree(path, source)
    rowrnn.train(config, tmp_path / "run", init_from=source)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "result.json").unlink()
    rowrnn.train(configs.override(config, {"train.epochs": 3}), resume=source)
    with pytest.raises(RunError, match="has other parameters than when this run was begun"):
        rowrnn.train(resume=tmp_path / "run")


def changed(section, **values):
    return dataclasses.replace(
        CONFIG, **{section: dataclasses.replace(getattr(CONFIG, section), **values)}
    )


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("train", "seed", 1), ("train", "batch_size", 50), ("optimizer", "learning_rate", 0.1)],
)
def test_resuming_as_another_experiment_is_refused(whole, section, name, value):
    with pytest.raises(RunError, match=f"{section}.{name} = .*was started with"):
        rowrnn.train(changed(section, **{name: value}), resume=whole[0])


def test_resuming_on_other_data_is_refused(whole, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        with pytest.raises(StoppedError):
            rowrnn.train(CONFIG, path)
    real = data.load(CONFIG.data)
    monkeypatch.setattr(data, "load", lambda _: dataclasses.replace(real, fingerprint="0" * 64))
    with pytest.raises(RunError, match="but the data found now has 000000000000"):
        rowrnn.train(resume=path)


def test_a_damaged_last_checkpoint_costs_one_interval(whole, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 50)
        with pytest.raises(StoppedError):
            rowrnn.train(CONFIG, path)
    for file in (path / "checkpoints" / "50" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, 500)
    with pytest.warns(UserWarning, match="50 is damaged"):
        result = rowrnn.train(resume=path)
    assert result.params_sha256 == whole[1].params_sha256
    assert (path / "damaged" / "50").is_dir()
    assert_same_log(path, whole[0])


def test_divergence_stops_the_run_before_anything_bad_is_saved(tmp_path):
    # Pixels at the border are always zero, and so is their gradient: 0 / (sqrt(0) + 0).
    config = changed("optimizer", epsilon=0.0)
    with pytest.raises(DivergedError, match="not finite at step 1 "):
        rowrnn.train(config, tmp_path / "run")
    with pytest.raises(RunError, match="holds no checkpoint yet"):
        rowrnn.load(tmp_path / "run")
    (listed,) = rowrnn.runs(tmp_path)
    assert (listed.state, listed.step) == ("diverged", 1)


def test_divergence_later_keeps_the_last_good_state(tmp_path, monkeypatch, compile_programs):
    monkeypatch.setattr(trainer, "compile_programs", compile_programs)
    real = step.make_train_step

    def make_train_step(*arguments):
        train_step = real(*arguments)

        def broken(state, batch):
            factor = jnp.where(state.step == 60, jnp.nan, 1.0)
            params = jax.tree.map(lambda leaf: leaf * factor, state.params)
            return train_step(state._replace(params=params), batch)

        return broken

    monkeypatch.setattr(step, "make_train_step", make_train_step)
    with pytest.raises(DivergedError, match="not finite at step"):
        rowrnn.train(configs.replace(LITTLE, {"checkpoint.every_steps": 25}), tmp_path / "run")
    classifier = rowrnn.load(tmp_path / "run")
    assert classifier.step == 50
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(classifier.params))


@pytest.mark.slow
def test_divergence_that_shows_when_it_is_saved_is_noted(tmp_path, monkeypatch, compile_programs):
    monkeypatch.setattr(trainer, "compile_programs", compile_programs)
    real = step.make_train_step

    def make_train_step(*arguments):
        train_step = real(*arguments)

        def broken(state, batch):
            # An update that is finite can take a parameter beyond what float32 holds.
            state, sums = train_step(state, batch)
            factor = jnp.where(state.step == 50, jnp.inf, 1.0)
            return state._replace(params=jax.tree.map(lambda x: x * factor, state.params)), sums

        return broken

    monkeypatch.setattr(step, "make_train_step", make_train_step)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    with pytest.raises(DivergedError, match=r"state was not finite at step 50 .*Try a lower"):
        rowrnn.train(configs.replace(LITTLE, {"checkpoint.every_steps": 25}), tmp_path / "run")
    assert 25 <= rowrnn.load(tmp_path / "run").step < 50
    (run,) = rowrnn.runs(tmp_path / "run")
    assert (run.state, run.step) == ("diverged", 50)


# On eight, and in processes: tests/jobs.
@pytest.mark.soak
def test_two_devices_compute_what_one_does(whole, tmp_path):
    config = changed("train", display="none")
    config = dataclasses.replace(config, parallel=ParallelConfig(devices=2))
    result = rowrnn.train(config, tmp_path / "run")
    assert result.devices == 2
    one, two = (rowrnn.load(path).params for path in (whole[0], tmp_path / "run"))
    for ours, theirs in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def test_what_cannot_run_leaves_the_run_that_it_would_overwrite(whole):
    config = dataclasses.replace(
        changed("train", batch_size=101), parallel=ParallelConfig(devices=2)
    )
    with pytest.raises(ConfigError, match="multiple of 2"):
        rowrnn.train(config, whole[0], overwrite=True)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        rowrnn.train(changed("model", backend="cudnn"), whole[0], overwrite=True)
    assert rundir.read_result(whole[0], TrainResult) is not None


def test_the_largest_seed_is_a_seed_and_small_ones_mean_the_same_in_every_type(tmp_path):
    # As long as the others, whose programs it runs.
    config = changed("train", seed=2**32 - 1)
    assert rowrnn.train(config, tmp_path / "run").seed == 2**32 - 1
    small = Config(ModelConfig(0, 2, init="glorot"))
    kernels = [
        states.create(small, 10, (2, 2), 2, seed).params["lstm_0"].kernel
        for seed in (5, np.uint32(5), jnp.asarray(5))
    ]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 1


def test_the_best_on_validation_is_kept_between_two_saves(tmp_path):
    config = changed("checkpoint", every_steps=1000, keep=1)
    rowrnn.train(config, tmp_path / "run")
    scores = {
        entry["step"]: entry["validation_accuracy"]
        for entry in log_of(tmp_path / "run")
        if "validation_accuracy" in entry
    }
    best = rowrnn.load(tmp_path / "run", "best")
    assert scores[best.step] == max(scores.values())


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    config = dataclasses.replace(
        changed("train", batch_size=101), parallel=ParallelConfig(devices=2)
    )
    with pytest.raises(ConfigError, match=r"train\.batch_size = 101: must be a multiple of 2"):
        rowrnn.train(config, tmp_path / "run")


def test_more_devices_than_there_are_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"parallel\.devices = 64: this process has 2 cpu"):
        rowrnn.train(
            dataclasses.replace(CONFIG, parallel=ParallelConfig(devices=64)), tmp_path / "run"
        )


def test_a_directory_in_use_or_not_empty_is_refused(whole, tmp_path):
    path = whole[0]
    with pytest.raises(RunError, match=f"{path} is not empty; go on with --resume"):
        rowrnn.train(CONFIG, path)
    (tmp_path / "letters.txt").write_text("not a run")
    with pytest.raises(RunError, match="holds no run"):
        rowrnn.train(CONFIG, tmp_path, overwrite=True)
    # A file of this name is in many a project.
    (tmp_path / "config.toml").write_text(configs.dump(CONFIG))
    with pytest.raises(RunError, match="holds no run"):
        rowrnn.train(CONFIG, tmp_path, overwrite=True)
    assert (tmp_path / "letters.txt").exists()
    with rundir.RunDir.create(tmp_path / "run", CONFIG):
        holder = f"is being written by process {os.getpid()} on "
        raised = []

        def second():
            try:
                rundir.RunDir.reopen(tmp_path / "run")
            except RunError as error:
                raised.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert holder in raised[0]
    rundir.RunDir.reopen(tmp_path / "run").close()


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    path = tmp_path / "run"
    with rundir.RunDir.create(path, CONFIG) as run:
        run.write("result.json", "{}")
    with rundir.RunDir.create(path, CONFIG, overwrite=True):
        assert rundir.read_result(path, TrainResult) is None


def test_a_torn_line_of_the_log_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe{"st\n{"step": 2}\n{"ste')
    assert [entry["step"] for entry in log.read(tmp_path)] == [1, 2]


def test_make_train_is_the_same_experiment(whole):
    dataset = data.load(CONFIG.data)
    trained = jax.jit(rowrnn.make_train(CONFIG, dataset))(CONFIG.train.seed)
    params = rowrnn.load(whole[0]).params
    for ours, theirs in zip(
        jax.tree.leaves(trained.state.ema), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert int(trained.test.correct) / 1000 == pytest.approx(whole[1].test_accuracy, abs=0.002)
    np.testing.assert_array_equal(trained.curve.count, [3900, 3900, 2200])


@pytest.mark.slow
def test_make_train_stays_where_it_has_diverged():
    dataset = data.load(CONFIG.data)
    few = {name: data.Split(part.images[:300], part.labels[:300])
           for name, part in (("train", dataset.train), ("test", dataset.test))}  # fmt: skip
    config = configs.replace(LITTLE, {"optimizer.epsilon": 0.0, "train.examples": 901})
    train = rowrnn.make_train(config, dataclasses.replace(dataset, **few))
    trained = jax.jit(train, compiler_options={"xla_backend_optimization_level": 0})(0)
    assert int(trained.state.step) == 1
    np.testing.assert_array_equal(trained.curve.nonfinite, [1, 1, 1])
    np.testing.assert_array_equal(trained.curve.count, [100, 0, 0])


@pytest.mark.slow
def test_make_train_runs_under_vmap():
    dataset = data.load(CONFIG.data)
    few = {name: data.Split(part.images[:300], part.labels[:300])
           for name, part in (("train", dataset.train), ("test", dataset.test))}  # fmt: skip
    config = configs.replace(LITTLE, {"train.examples": 201, "optimizer.ema_decay": 0.0})
    train = rowrnn.make_train(config, dataclasses.replace(dataset, **few))
    # Nothing here depends on how fast the program is, only on what it computes.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    both = jit(jax.vmap(train))(np.arange(2))
    alone = jit(train)(1)
    for ours, theirs in zip(
        jax.tree.leaves(both.state.params), jax.tree.leaves(alone.state.params), strict=True
    ):
        np.testing.assert_allclose(ours[1], theirs, atol=1e-5)


def test_evaluation_matches_the_result_of_the_run(whole):
    path, result = whole
    evaluation = rowrnn.evaluate(path)
    assert evaluation.accuracy == pytest.approx(result.test_accuracy, abs=1e-7)
    assert evaluation.loss == pytest.approx(result.test_loss, rel=1e-5)
    assert evaluation.confusion.sum() == 1000
    assert evaluation.confusion.trace() == round(1000 * evaluation.accuracy)
    np.testing.assert_allclose(evaluation.per_class, evaluation.confusion.diagonal() / 100)
    low, high = evaluation.interval
    assert low < evaluation.accuracy < high
    validation = rowrnn.evaluate(path, split="validation")
    assert validation.accuracy == pytest.approx(result.validation_accuracy, abs=1e-7)


def test_the_probabilities_after_the_last_row_are_those_of_the_logits(whole):
    classifier = rowrnn.load(whole[0])
    images = data.load(CONFIG.data).test.images[:5]
    probabilities, logits = classifier.probabilities(images), classifier.logits(images)
    assert probabilities.shape == (28, 5, 10)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities[-1], jax.nn.softmax(logits), atol=1e-6)
