"""The host loop of one training run: chunks on the device, events between them, files, clocks."""

import contextlib
import dataclasses
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import files, parallel
from rowrnn.config import Config
from rowrnn.core import state as states
from rowrnn.core.experiment import Events, Experiment
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.errors import DivergedError, RunError, StoppedError
from rowrnn.lab import trainer
from rowrnn.lab.display import Display, NotebookDisplay, make_display
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.trainer import Programs, Splits
from rowrnn.store import checkpoint, loggers, rundir
from rowrnn.store.checkpoint import CheckpointWriter, Facts, RunFacts
from rowrnn.store.rundir import RunDir, WatchedRunDir

# Between two looks at the signals and the display; chunks are cut to about this length.
CHUNK_SECONDS = 0.5


@dataclass(frozen=True)
class TrainResult:
    """What a finished run says of itself; ``result.json`` holds the same.

    Accuracies and losses are means over examples, `train_loss` over those of the last log
    interval. `first256_accuracy` is the notebook's figure, on the first 256 test images. Times
    are in seconds; `train_s` and `examples_per_s` leave compilation out. `epochs` is steps over
    the steps of an epoch, `params` the number of parameters, `params_sha256` in hex.
    """

    run_dir: str
    dataset: str
    fingerprint: str
    seed: int
    steps: int
    examples: int
    epochs: float
    train_loss: float
    validation_accuracy: float | None
    test_accuracy: float
    test_loss: float
    first256_accuracy: float
    params: int
    backend: str
    devices: int
    compile_s: float
    train_s: float
    examples_per_s: float
    wall_s: float
    params_sha256: str


def train(
    config: Config | None = None,
    run_dir: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Trains one run to its end, evaluates it on the test part and keeps it in a directory.

    Args:
        config: the experiment; with `resume` it may be left out, and otherwise must agree with
            the run in everything that decides the result.
        run_dir: where the run is kept; ``runs/train-<time>`` where not given.
        resume: a run directory to go on with, instead of `run_dir`. A run that is finished
            already gives its result.
        overwrite: whether a run in `run_dir` may be replaced.

    Raises:
        ConfigError: a value is out of range or does not fit the data.
        DataError: the data is missing or damaged.
        RunError: the run directory or its checkpoints cannot be used.
        DivergedError: the loss or a gradient was not finite.
        StoppedError: a signal came; the state is saved.
        JobError: the processes of a job do not find each other.

    Where the config or the cluster tells of several processes, this is called in each of them:
    process 0 writes the directory, which all must see, and all get the result.
    """
    began = time.perf_counter()
    if resume is not None:
        rundir.require_single(Path(resume))
        config = _config_to_resume(Path(resume), config)
    config = config or Config()
    configs.check(config)
    loggers.require(config.train.logger)
    parallel.start(config.parallel)
    config = configs.without_job(config)
    with parallel.waiting_for_others():
        parallel.require_same(config=configs.dump(config))
        # Process 0 comes first, and prepares a dataset that is not there yet.
        prepared = parallel.first_then_others(lambda: trainer.prepare(config))
        # All that can be refused is refused before a run is overwritten.
        mesh = _make_mesh(prepared)
        if resume is None:
            path = Path(run_dir) if run_dir is not None else rundir.default_path("train")
            path = Path(parallel.from_first(str(path)))
            run = parallel.on_first(lambda: RunDir.create(path, config, overwrite=overwrite))
        else:
            path = Path(resume)
            run = parallel.on_first(lambda: RunDir.reopen(path))
        with run or WatchedRunDir(path) as run, StopRequest() as stop:
            finished = rundir.read_result(path, TrainResult)
            return finished or _run(prepared, mesh, run, stop, began)


def _make_mesh(prepared: Experiment) -> Mesh:
    """The devices of a run; raises `ConfigError` where the config does not fit them."""
    mesh = parallel.make_mesh(prepared.config.parallel)
    parallel.check_divides(mesh, prepared.config.train.batch_size)
    # Traces the model, which finds out whether its backend can run here.
    jax.eval_shape(lambda: prepared.create_state(*prepared.seeds))
    return mesh


@dataclass
class _Progress:
    """Where a run stands, on the host; a checkpoint keeps all of it.

    Attributes:
        step: updates done.
        loss_sum: of the training batches since the last log entry, likewise `correct`, `count`.
        train_loss: of the last log entry.
        validation_accuracy: of the last evaluation, which was at `validation_step`.
        best_accuracy: the highest so far; -1 before the first evaluation.
        train_s: seconds spent in chunks, over all sessions of the run.
        wall_s: seconds from the start to the last save, over all sessions.
    """

    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    train_loss: float = 0.0
    validation_accuracy: float | None = None
    validation_step: int | None = None
    best_accuracy: float = -1.0
    train_s: float = 0.0
    wall_s: float = 0.0

    @property
    def sums(self) -> Metrics:
        """The metrics since the last log entry, to which a chunk adds its own."""
        return Metrics(
            loss_sum=jnp.float32(self.loss_sum),
            correct=jnp.int32(self.correct),
            count=jnp.int32(self.count),
            nonfinite=jnp.int32(0),
        )

    def take(self, sums: Metrics, steps: int, seconds: float) -> None:
        """Takes in what a chunk has made of `sums`."""
        self.step += steps
        self.loss_sum = float(sums.loss_sum)
        self.correct = int(sums.correct)
        self.count = int(sums.count)
        self.train_s += seconds

    def end_interval(self) -> dict[str, float]:
        """The means since the last log entry, from where the sums begin anew."""
        self.train_loss = self.loss_sum / self.count
        accuracy = self.correct / self.count
        self.loss_sum, self.correct, self.count = 0.0, 0, 0
        return {"train_loss": self.train_loss, "train_accuracy": accuracy}


@dataclass(frozen=True)
class _Loop:
    """What the loop works with and does not change."""

    prepared: Experiment
    run: RunDir
    splits: Splits
    programs: Programs
    writer: CheckpointWriter
    display: Display
    stop: StopRequest
    began: float


def _run(
    prepared: Experiment, mesh: Mesh, run: RunDir, stop: StopRequest, began: float
) -> TrainResult:
    """Trains from the newest intact checkpoint, or from the start, and evaluates."""
    config = prepared.config
    run.write_environment(parallel.describe(mesh))
    state, progress = _first_state(prepared, run, mesh)
    run.start_logger(config.train.logger)
    splits = trainer.put_splits(prepared.dataset, mesh)
    display = Display()
    if parallel.is_first():
        display = make_display(config.train, prepared.steps, progress.step)
    writer = CheckpointWriter(run.path / "checkpoints", config.checkpoint.keep)
    try:
        programs = trainer.compile_programs(prepared, mesh, splits, state)
        began -= progress.wall_s
        loop = _Loop(prepared, run, splits, programs, writer, display, stop, began)
        state = _train_steps(loop, state, progress)
    finally:
        display.close()
        writer.close()
    result = _finish(loop, mesh, state, progress)
    run.write("result.json", json.dumps(dataclasses.asdict(result), indent=2))
    with parallel.busy():
        run.finish_logger("finished")
    if isinstance(display, NotebookDisplay):
        display.finish(result.first256_accuracy)
    return result


def _train_steps(loop: _Loop, state: TrainState, progress: _Progress) -> TrainState:
    """Runs chunk after chunk to the last step; keeps `progress` up to date."""
    events = Events.of(loop.prepared)
    order, steps_at_once = None, 1
    (stopped_by,) = parallel.largest(loop.stop.number)
    _leave_if_stopped(loop, state, progress, stopped_by)
    while progress.step < events.total:
        began = time.perf_counter()
        if order is None or progress.step % events.epoch == 0:
            order = loop.programs.order(state.key, np.int32(progress.step // events.epoch))
        steps = min(events.after(progress.step) - progress.step, steps_at_once)
        state, sums = loop.programs.chunk(
            state, progress.sums, loop.programs.values, loop.splits.train, order, np.int32(steps)
        )
        sums = jax.device_get(sums)
        seconds = time.perf_counter() - began
        _stop_if_diverged(loop, sums, int(state.step))
        progress.take(sums, steps, seconds)
        loop.display.advance(
            progress.step,
            loss=progress.loss_sum / progress.count,
            accuracy=progress.correct / progress.count,
            examples_per_s=steps * loop.prepared.config.train.batch_size / seconds,
        )
        _handle_events(loop, events, state, order, progress)
        longest, stopped_by = parallel.largest(seconds, loop.stop.number)
        steps_at_once = max(1, int(CHUNK_SECONDS / longest * steps))
        _leave_if_stopped(loop, state, progress, stopped_by)
    return state


def _handle_events(
    loop: _Loop, events: Events, state: TrainState, order: jax.Array, progress: _Progress
) -> None:
    """Logs, evaluates and saves, as is due after this step."""
    if events.due(progress.step, events.log):
        _log(loop, progress, progress.end_interval())
        if isinstance(loop.display, NotebookDisplay) and progress.step % events.log == 0:
            # Both figures are taken after the update, on the batch it was made from.
            after = jax.device_get(
                loop.programs.last_batch(state, loop.programs.values, loop.splits.train, order)
            )
            loop.display.batch(
                progress.step, after.loss_sum / after.count, after.correct / after.count
            )
    improved = False
    if loop.programs.validation is not None and events.due(progress.step, events.evaluate):
        params = states.evaluation_params(state)
        sums, _ = loop.programs.validation(params, loop.programs.values, loop.splits.validation)
        loss, accuracy = float(sums.loss_sum / sums.count), int(sums.correct) / int(sums.count)
        if not np.isfinite(loss):
            raise _diverged(loop, "the loss on the validation part", progress.step)
        progress.validation_accuracy, progress.validation_step = accuracy, progress.step
        _log(loop, progress, {"validation_loss": loss, "validation_accuracy": accuracy})
        loop.display.validation(accuracy)
        improved = accuracy > progress.best_accuracy
        progress.best_accuracy = max(accuracy, progress.best_accuracy)
    if improved or events.due(progress.step, events.save):
        _save(loop, state, progress)


def _log(loop: _Loop, progress: _Progress, values: dict[str, float]) -> None:
    config = loop.prepared.config
    place = {
        "step": progress.step,
        "examples": progress.step * config.train.batch_size,
        "epoch": progress.step / loop.prepared.epoch_steps,
        "seconds": round(progress.train_s, 3),
    }
    loop.run.log(place, values)


def _save(loop: _Loop, state: TrainState, progress: _Progress) -> None:
    """Saves the state; returns when it is durable."""
    progress.wall_s = time.perf_counter() - loop.began
    prepared = loop.prepared
    evaluated_now = progress.validation_step == progress.step
    accuracy = progress.validation_accuracy if evaluated_now else None
    facts = prepared.facts | {
        "progress": dataclasses.asdict(progress),
        "validation_accuracy": accuracy,
    }
    try:
        loop.writer.save(state, facts, accuracy)
    except DivergedError as error:
        raise _diverged(loop, "the state", progress.step) from error


def _stop_if_diverged(loop: _Loop, sums: Metrics, step: int) -> None:
    if int(sums.nonfinite):
        raise _diverged(loop, "the loss or an update", step)


def _diverged(loop: _Loop, what: str, step: int) -> DivergedError:
    """The error, which is noted in the log too, so that `rowrnn runs` can tell."""
    with contextlib.suppress(RunError):  # What has happened matters more than that it is kept.
        loop.run.log({"step": step}, {"diverged": 1.0})
    rate = loop.prepared.config.optimizer.learning_rate
    return DivergedError(
        f"{what} was not finite at step {step} (learning rate {rate:g}); what was "
        f"saved in {loop.run.path / 'checkpoints'} before is good. Try a lower "
        "optimizer.learning_rate or optimizer.clip_norm = 1"
    )


def _leave_if_stopped(
    loop: _Loop, state: TrainState, progress: _Progress, stopped_by: float
) -> None:
    """Saves and raises `StoppedError` where a signal has asked for it, in whatever process."""
    if not stopped_by:
        return
    _save(loop, state, progress)
    raise StoppedError(
        f"stopped by {signal.Signals(int(stopped_by)).name} after step {progress.step} of "
        f"{loop.prepared.steps}, which is saved; go on with: rowrnn train --resume {loop.run.path}"
    )


def _first_state(prepared: Experiment, run: RunDir, mesh: Mesh) -> tuple[TrainState, _Progress]:
    """The newest intact checkpoint of a run, or its state before the first step."""

    def make_abstract(facts: Facts) -> TrainState:
        saved = RunFacts.of(facts)
        files.build(_Progress, saved.progress)
        _check_same(prepared, saved, run.path)
        return jax.eval_shape(lambda: prepared.create_state(*prepared.seeds))

    directory = run.path / "checkpoints"
    restored = checkpoint.restore(directory, make_abstract)
    if restored is None:
        run.rewind_log(0)
        state = parallel.create_state(mesh, prepared.create_state, prepared.seeds)
        return state, _Progress()
    state, facts = restored
    progress = files.build(_Progress, facts["progress"])
    progress.step = int(state.step)
    parallel.on_first(lambda: checkpoint.set_aside_newer(directory, progress.step))
    run.rewind_log(progress.step)
    return parallel.put_state(mesh, state), progress


def _check_same(prepared: Experiment, saved: RunFacts, path: Path) -> None:
    """Raises `RunError` where a checkpoint belongs to other data or another config."""
    if saved.fingerprint != prepared.dataset.fingerprint:
        raise RunError(
            f"{path} was trained on {saved.dataset} with fingerprint "
            f"{saved.fingerprint[:12]}…, but the data found now has "
            f"{prepared.dataset.fingerprint[:12]}…; give the same data, or start a new run"
        )
    _check_resumable(configs.restore(saved.config), prepared.config, path)


def _config_to_resume(path: Path, asked: Config | None) -> Config:
    """The config of a run, or the one asked for where it computes the same."""
    saved = rundir.read_config(path)
    if asked is None:
        return saved
    configs.check(asked)
    _check_resumable(saved, asked, path)
    return asked


def _check_resumable(saved: Config, asked: Config, path: Path) -> None:
    for name, old, new in configs.differences(saved, asked):
        if name not in configs.FREE:
            raise RunError(
                f"{name} = {new!r}: {path} was started with {old!r}, and a resumed run must "
                "compute the same; leave the value as it was, or start a new run"
            )


def _finish(loop: _Loop, mesh: Mesh, state: TrainState, progress: _Progress) -> TrainResult:
    """Evaluates the last state on the test part and collects the result."""
    prepared, config = loop.prepared, loop.prepared.config
    params = states.evaluation_params(state)
    test, logits = jax.device_get(
        loop.programs.test(params, loop.programs.values, loop.splits.test)
    )
    if not np.isfinite(test.loss_sum):
        raise _diverged(loop, "the loss on the test part", progress.step)
    right = logits.argmax(axis=-1) == prepared.dataset.test.labels
    examples = prepared.steps * config.train.batch_size
    return TrainResult(
        run_dir=str(loop.run.path),
        dataset=prepared.dataset.name,
        fingerprint=prepared.dataset.fingerprint,
        seed=config.train.seed,
        steps=prepared.steps,
        examples=examples,
        epochs=prepared.steps / prepared.epoch_steps,
        train_loss=progress.train_loss,
        validation_accuracy=progress.validation_accuracy,
        test_accuracy=float(test.correct / test.count),
        test_loss=float(test.loss_sum / test.count),
        first256_accuracy=float(right[:256].mean()),
        params=sum(leaf.size for leaf in jax.tree.leaves(params)),
        backend=config.model.backend,
        devices=mesh.devices.size,
        compile_s=loop.programs.compile_s,
        train_s=progress.train_s,
        examples_per_s=examples / progress.train_s,
        wall_s=time.perf_counter() - loop.began,
        params_sha256=checkpoint.params_digest(jax.device_get(state.params)),
    )
