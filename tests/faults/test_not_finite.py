"""Losses, gradients and states that stop being finite, at an exact step and by themselves."""

import dataclasses
import json
import random
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import command, compiled_once, last_json, steps_in

from rowrnn import runs
from rowrnn.core import step
from rowrnn.errors import RunError
from rowrnn.lab import classifier
from rowrnn.store import checkpoint, log, weights

# 20 steps; sgd reads neither epsilon nor beta2, so that these say what goes wrong, and when.
STEPS, SAVE, EVALUATE = 20, 4, 5
SMALL = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
         "--train.display=none", "--data.validation-size=100", "--train.log-every-steps=7",
         f"--train.eval-every-steps={EVALUATE}",
         f"--checkpoint.every-steps={SAVE}"]  # fmt: skip
TRAIN = ["train", *SMALL, f"--train.examples={STEPS * 100 + 1}", "--checkpoint.keep=100"]
SGD = ["--optimizer.name=sgd", "--optimizer.learning-rate=0.1"]
KINDS = ("loss", "gradient", "params", "optimizer state", "huge params")
NEVER = 1.0


def at(kind, number):
    """The flags that make something go wrong at a step."""
    return [f"--optimizer.epsilon={number / 1000}", f"--optimizer.beta2={KINDS.index(kind) / 10}"]


def draw_step(draw, seed, kind, steps):
    """The step at which it goes wrong: any; the first time of each kind one that a save, or an
    evaluation, follows at once."""
    every = EVALUATE if kind == "huge params" else SAVE
    if seed >= len(KINDS):
        return draw.randrange(steps)
    return draw.choice([step - 1 for step in {*range(every, steps, every), steps}])


@pytest.fixture(scope="module", autouse=True)
def _compile_once_what_goes_wrong():
    with compiled_once(), pytest.MonkeyPatch.context() as patched:
        _break_the_step(patched)
        yield


def _break_the_step(patched):
    """Makes `train_step` go wrong in the way and at the step that the optimizer's numbers say."""
    make_train_step, make_grad_fn = step.make_train_step, step._make_grad_fn
    now = {}

    def broken_make_train_step(config, *arguments):
        train_step = make_train_step(config, *arguments)

        def broken(state, batch):
            # Numbers of the state, so that one compilation serves all kinds and all steps.
            number = jnp.round(state.hyperparams["optimizer.epsilon"] * 1000)
            kind = jnp.round(state.hyperparams["optimizer.beta2"] * 10)
            for place, name in enumerate(KINDS):
                now[name] = (state.step == number) & (kind == place)
            state, sums = train_step(state, batch)
            trace = _with(state.opt_state, now["optimizer state"], jnp.inf)
            params = _with(state.params, now["params"], -jnp.inf)
            # Finite, but no logit of it is.
            params = jax.tree.map(lambda p: jnp.where(now["huge params"], 3e38, p), params)
            return state._replace(params=params, opt_state=trace), sums

        return broken

    def broken_make_grad_fn(*arguments):
        grad_fn = make_grad_fn(*arguments)

        def broken(params, batch, keys):
            grads, sums = grad_fn(params, batch, keys)
            loss_sum = jnp.where(now["loss"], jnp.nan, sums.loss_sum)
            sums = dataclasses.replace(sums, loss_sum=loss_sum)
            return _with(grads, now["gradient"], jnp.inf), sums

        return broken

    patched.setattr(step, "make_train_step", broken_make_train_step)
    patched.setattr(step, "_make_grad_fn", broken_make_grad_fn)


def _with(tree, when, value):
    """A tree with one entry of one of its arrays replaced, `when` that is so."""
    leaves, form = jax.tree.flatten(tree)
    place = next(i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating))
    flat = leaves[place].ravel()
    flat = jnp.where(when, flat.at[0].set(value), flat)
    leaves[place] = flat.reshape(leaves[place].shape)
    return jax.tree.unflatten(form, leaves)


def assert_all_finite(checkpoints, make_abstract, seed):
    """Opens every checkpoint of a directory and looks at every number; gives their steps."""
    steps = steps_in(checkpoints)
    for number in steps:
        state, _ = checkpoint.restore(checkpoints, make_abstract, str(number))
        for name, array in checkpoint.to_arrays(state).items():
            assert np.isfinite(array).all(), (seed, number, name)
    return steps


def assert_finite_log(path, seed):
    """All is JSON, in which there is neither NaN nor Infinity."""
    texts = [file.read_text() for file in path.glob("*.json")]
    if (path / "metrics.jsonl").exists():
        texts += (path / "metrics.jsonl").read_text().splitlines()
    for text in texts:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{seed}: {name} in {path}"))


@pytest.mark.row(6, 3, 50)
def test_a_run_stops_before_anything_is_saved_that_is_not_finite(tmp_path, count, record):
    """Loss, gradient, parameters or optimizer state not finite at step n: exit 5 at the next check,
    every checkpoint is finite, the last one before n is kept and loads."""
    kinds, latest = Counter(), 0
    for seed in range(count):
        draw = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        number = draw_step(draw, seed, kind, STEPS)
        path = tmp_path / f"run-{seed}"
        code, _, err = command(*TRAIN, *SGD, *at(kind, number), "--run-dir", path)
        assert code == 5, (seed, kind, number, err)
        assert "not finite" in err, (seed, err)
        assert len(err.splitlines()) <= 2, (seed, err)
        steps = assert_all_finite(path / "checkpoints", weights.abstract_state, seed)
        # Parameters that are huge are finite, and may be saved before anything is computed.
        good = [save for save in range(SAVE, STEPS, SAVE) if save <= number]
        assert [save for save in steps if save <= number and save % SAVE == 0] == good, seed
        most = number + (kind == "huge params")
        assert max(steps, default=0) <= most, (seed, kind, number, steps)
        assert_finite_log(path, seed)
        assert max((e["step"] for e in log.read(path)), default=0) <= number + 1, seed
        assert not (path / "result.json").exists(), seed
        if steps:
            assert classifier.load(path).step == max(steps), seed
        else:
            with pytest.raises(RunError, match="holds no checkpoint yet"):
                classifier.load(path)
        kinds[kind] += 1
        latest = max(latest, number)
    record.update(kinds=dict(kinds), latest_step=latest)


@pytest.mark.row(6, 1, 20)
def test_a_run_that_diverges_by_itself_saves_nothing_that_is_not_finite(tmp_path, count, record):
    """Weight decay and learning rate so large that the parameters grow without bound."""
    steps_reached = []
    for seed in range(count):
        draw = random.Random(seed)
        rate, decay = 10 ** draw.uniform(0, 3), 10 ** draw.uniform(1, 3)
        path = tmp_path / f"run-{seed}"
        code, _, err = command(
            *TRAIN, "--optimizer.name=adamw", f"--optimizer.learning-rate={rate}",
            f"--optimizer.weight-decay={decay}", f"--checkpoint.every-steps={draw.choice([1, 2])}",
            "--train.eval-every-steps=1", "--run-dir", path,
        )  # fmt: skip
        assert code == 5, (seed, rate, decay, err)
        steps = assert_all_finite(path / "checkpoints", weights.abstract_state, seed)
        assert_finite_log(path, seed)
        assert "Try a lower" in err, (seed, err)
        (run,) = runs(path)
        assert run.state == "diverged", (seed, err)
        steps_reached.append(max(steps, default=0))
    record["last_saved_step"] = [min(steps_reached), max(steps_reached)]


SEEDS = (0, 1, 2)
SWEEP = ["sweep", *SMALL, *SGD, "--train.examples=801", "--seeds=0:3", "--chunk=2", "--keep=all",
         "--json"]  # fmt: skip


@pytest.mark.row(6, 2, 50, slow=True)
def test_in_a_sweep_only_the_member_that_diverges_is_lost(tmp_path, count, record, monkeypatch):
    """The others end with the parameters that they have without it; no stack and no state that is
    saved is anything but finite; exit 6."""
    saved = Counter()
    real = checkpoint.CheckpointWriter.save

    def save(writer, state, facts):
        real(writer, state, facts)
        for name, array in checkpoint.to_arrays(state).items():
            assert np.isfinite(array).all(), name
        saved["states"] += 1

    monkeypatch.setattr(checkpoint.CheckpointWriter, "save", save)
    code, _, err = command(*SWEEP, f"--optimizer.epsilon={NEVER}", f"--run-dir={tmp_path / 'good'}")
    assert code == 0, err
    expected = members_of(tmp_path / "good")
    kinds = Counter()
    for seed in range(count):
        draw = random.Random(seed)
        kind = KINDS[-1 - seed % len(KINDS)]
        number = draw_step(draw, seed, kind, 8)
        path = tmp_path / f"sweep-{seed}"
        code, out, err = command(
            *SWEEP, f"--grid=optimizer.epsilon={NEVER},{number / 1000}",
            f"--optimizer.beta2={KINDS.index(kind) / 10}", f"--run-dir={path}",
        )  # fmt: skip
        assert code == 6, (seed, kind, number, err)
        assert last_json(out)["failed"] == len(SEEDS), seed
        found = members_of(path)
        assert {s: sha for (s, epsilon), sha in found.items() if epsilon == NEVER} == {
            s: sha for (s, _), sha in expected.items()
        }, (seed, kind, number)
        assert {sha for (_, epsilon), sha in found.items() if epsilon != NEVER} == {None}, seed
        assert_finite_log(path, seed)
        assert len([*(path / "states").iterdir()]) == len(SEEDS), seed
        kinds[kind] += 1
    record.update(kinds=dict(kinds), states_saved=saved["states"])


def members_of(path):
    rows = json.loads((path / "results.json").read_text())["members"]
    return {(row["seed"], row.get("optimizer.epsilon")): row["params_sha256"] for row in rows}
