"""One training run: a stack of one member, its directory and its result."""

import dataclasses
import json
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh
from msgspec import Meta

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.config import Config, Seed
from rowrnn.core.dataset import Dataset
from rowrnn.core.experiment import Experiment
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.errors import ConfigError, DivergedError, RunError, StoppedError, count
from rowrnn.files import Count, Loss, PositiveSeconds, Rate, Seconds, Share, Size, as_path
from rowrnn.jax_settings import pinned
from rowrnn.lab import origin
from rowrnn.lab.display import Display, NotebookDisplay, make_display, run_facts
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.loop import Job, Loop, Progress, open_directory, restore
from rowrnn.lab.shown import Shown
from rowrnn.lab.trainer import Trainer, config_for, first256_accuracy, prepare, stack_members
from rowrnn.store import checkpoint, rundir, services
from rowrnn.store.checkpoint import CheckpointWriter, Facts
from rowrnn.store.rundir import RunDir


@dataclass(frozen=True, repr=False)
class TrainResult(Shown):
    """What a finished run says of itself; ``result.json`` holds the same.

    Accuracies and losses are means over examples, `train_loss` over those of the last log
    interval. `first256_accuracy` is the notebook's figure, on the first 256 test images; None of
    other protocols. Times are in seconds; `train_s` and `examples_per_s` leave compilation out.
    `epochs` is steps over the steps of an epoch, `params` the number of parameters,
    `params_sha256` in hex. `machines` are those that it was trained on, as
    `rundir.machine_of` says.
    """

    run_dir: str
    dataset: str
    fingerprint: str
    seed: Seed
    steps: Count
    examples: Count
    epochs: Annotated[float, Meta(ge=0.0, le=2.0**53)]
    train_loss: Loss
    validation_accuracy: Share | None
    test_accuracy: Share
    test_loss: Loss
    first256_accuracy: Share | None
    params: Count
    backend: str
    devices: Size
    compile_s: Seconds
    train_s: PositiveSeconds
    examples_per_s: Rate
    wall_s: Seconds
    params_sha256: str
    machines: list[str] = dataclasses.field(default_factory=list)

    def _facts(self) -> dict[str, Any]:
        names = ("run_dir", "dataset", "seed", "steps", "validation_accuracy", "test_accuracy")
        return {name: getattr(self, name) for name in names} | {"wall_s": round(self.wall_s)}


@pinned
def train(
    config: Config | None = None,
    run_dir: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    dataset: Dataset | None = None,
) -> TrainResult:
    """Trains one run to its end, evaluates it on the test part and keeps it in a directory.

    Args:
        config: the experiment; with `resume` it may be left out, and otherwise must agree with
            the run in everything that decides the result.
        run_dir: where the run is kept; ``runs/train-<time>`` where not given.
        resume: a run directory to go on with, instead of `run_dir`. A run that is finished
            already gives its result; with a greater length in `config` it goes on, where its
            schedule is constant.
        overwrite: whether a run in `run_dir` may be replaced.
        init_from: a run, or what `export` has made of one, that gives the first parameters; step,
            optimizer and the order of the data begin anew.
        dataset: what `Dataset.from_arrays` gave, instead of what `config.data` names; a run that
            is resumed needs the same.

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
    experiment, mesh, directory = _open(config, run_dir, resume, overwrite, init_from, dataset)
    with directory, StopRequest() as stop:
        finished = rundir.read_result(directory.path, TrainResult)
        if finished is not None and finished.steps == experiment.steps:
            return finished
        directory.write_environment(parallel.describe(mesh))
        state, progress = _restore(experiment, directory)
        _set_length(experiment, directory)
        directory.start_logger(experiment.config.train.logger)
        began -= progress.wall_s
        with (
            closing(_display(experiment, progress)) as display,
            closing(_writer(experiment, directory)) as writer,
        ):
            compiling = time.perf_counter()
            trainer = Trainer(experiment, mesh)
            compile_s = time.perf_counter() - compiling
            state = _begin(trainer, directory.path) if state is None else trainer.put(state)
            job = Run(experiment, trainer, directory, display)
            loop = Loop(trainer, job, writer, stop, began, keeps_best=True)
            state = loop.run(state, progress)
            loop.save(state, progress)
        result = _evaluate(job, state, progress, compile_s, began)
        directory.write("result.json", json.dumps(dataclasses.asdict(result), indent=2))
        directory.finish_logger("finished")
    if isinstance(display, NotebookDisplay):
        assert result.first256_accuracy is not None
        display.finish(result.first256_accuracy)
    return result


def _open(
    config: Config | None,
    run_dir: str | Path | None,
    resume: str | Path | None,
    overwrite: bool,
    init_from: str | Path | None,
    dataset: Dataset | None,
) -> tuple[Experiment, Mesh, RunDir]:
    """The experiment, its devices and its directory; all that can be refused is refused before a
    run is overwritten."""
    if dataset is not None:
        config = config_for(dataset, config, resume)
    if resume is not None:
        if init_from is not None:
            raise ConfigError(
                f"init_from = {str(init_from)!r}: a resumed run has parameters already; leave it "
                "out, or start a new run"
            )
        resume = as_path(resume, "resume")
        rundir.require_single(resume)
        config = _config_to_resume(resume, config)
        rundir.require_same_variables(resume)
    config = Config() if config is None else config
    configs.check(config)
    services.require(config.train.logger)
    parallel.start(config.parallel)
    config = configs.without_job(config)
    parallel.require_same(config=configs.dump(config))
    # Process 0 comes first, and prepares a dataset that is not there yet.
    experiment = parallel.process_0_first(lambda: prepare(config, dataset))
    mesh = parallel.process_0_first(lambda: _make_mesh(experiment))
    if resume is not None:
        return experiment, mesh, open_directory(resume)
    take = parallel.is_process_0()
    path = (
        as_path(run_dir, "run_dir")
        if run_dir is not None
        else rundir.default_path("train", take=take)
    )
    first = None if init_from is None else origin.find(init_from, experiment)
    directory = open_directory(path, config, overwrite=overwrite)
    if first is not None:
        origin.write(directory, first)
    return experiment, mesh, directory


@dataclass
class Run(Job):
    """A run that is trained: its log, and what is shown of it."""

    experiment: Experiment
    trainer: Trainer
    directory: RunDir
    display: Display

    def advanced(self, progress: Progress, sums: Metrics, steps: int, seconds: float) -> None:
        """Shows the means since the last log entry."""
        count = int(sums.count[0])
        facts = run_facts(
            examples_per_s=steps * self.experiment.config.train.batch_size / seconds,
            loss=float(sums.loss_sum[0]) / count,
            accuracy=int(sums.correct[0]) / count,
            validation=progress.last(0, "validation_accuracy"),
        )
        self.display.advance(progress.step, facts)

    def logged(self, progress: Progress, index: int, values: dict[str, float]) -> None:
        """Appends the figures to the log."""
        step = progress.step
        place = {
            "step": step,
            "examples": step * self.experiment.config.train.batch_size,
            "epoch": step / self.experiment.epoch_steps,
            "seconds": round(progress.train_s, 3),
        }
        self.directory.log(place, values)

    def interval_ended(self, progress: Progress, state: TrainState, order: jax.Array) -> None:
        """Prints the notebook's line, where it is asked for."""
        whole = progress.step % self.experiment.config.train.log_every_steps == 0
        if isinstance(self.display, NotebookDisplay) and whole:
            # Both figures are taken after the update, on the batch it was made from.
            after = self.trainer.fetch(self.trainer.last_batch(state, order))
            count = after.count[0]
            self.display.batch(progress.step, after.loss_sum[0] / count, after.correct[0] / count)

    def diverged(self, progress: Progress, what: str) -> None:
        """Raises `DivergedError`."""
        step = progress.diverged[0] or 0
        # The log says it too, for `rowrnn runs`; a log that fails must not hide what has happened.
        with suppress(RunError):
            self.directory.log({"step": step}, {"diverged": 1.0})
        rate = self.experiment.config.optimizer.learning_rate
        raise DivergedError(
            f"{what} was not finite at step {step} (learning rate {rate:g}); what was "
            f"saved in {self.directory.path / 'checkpoints'} before is good. Try a lower "
            "optimizer.learning_rate or optimizer.clip_norm = 1"
        )

    def stopped(self, progress: Progress, by: str) -> StoppedError:
        """See `Job.stopped`."""
        return StoppedError(
            f"stopped by {by} after step {progress.step:,} of {self.experiment.steps:,}, which is "
            f"saved; go on with: rowrnn train --resume {self.directory.path} (in Python resume=)"
        )


def _make_mesh(experiment: Experiment) -> Mesh:
    """The devices of a run; raises `ConfigError` where the config does not fit them."""
    mesh = parallel.make_mesh(experiment.config.parallel)
    parallel.check_divides(mesh, experiment.config.train.batch_size)
    # Traces the model, which finds out whether its backend can run here.
    jax.eval_shape(lambda: experiment.create_state(*experiment.seeds))
    return mesh


def _display(experiment: Experiment, progress: Progress) -> Display:
    if parallel.is_process_0():
        return make_display(experiment.config.train, experiment.steps, progress.step)
    return Display()


def _writer(experiment: Experiment, directory: RunDir) -> CheckpointWriter:
    return CheckpointWriter(
        directory.path / "checkpoints",
        experiment.config.checkpoint.keep,
        directory.require_in_place,
    )


def _restore(experiment: Experiment, directory: RunDir) -> tuple[TrainState | None, Progress]:
    """The newest intact checkpoint of a run, on the host; None before its first."""
    restored = restore(
        directory.path / "checkpoints",
        experiment,
        lambda facts: _check_same(experiment, facts, directory.path),
    )
    if restored is None:
        directory.rewind_log(0)
        return None, Progress.start(1)
    state, progress, _ = restored
    directory.rewind_log(progress.step)
    return state, progress


def _set_length(experiment: Experiment, directory: RunDir) -> None:
    """Lets a run, which may be finished, go on to the length that is asked for now."""
    saved = rundir.read_config(directory.path)
    lengths = {name: configs.value_of(experiment.config, name) for name in configs.LENGTHS}
    longer = configs.replace(saved, lengths)
    if longer != saved:
        # The order matters: a run that is cut off between the two has only to be evaluated again.
        directory.remove("result.json")
        directory.write("config.toml", configs.dump(longer))


def _begin(trainer: Trainer, path: Path) -> TrainState:
    """The state before the first step, drawn from the seeds or taken from another run."""
    state = trainer.init(*stack_members([trainer.experiment]))
    first = origin.read(path)
    if first is None:
        return state
    return trainer.put(origin.begin(trainer.fetch(state), first))


def _check_same(experiment: Experiment, saved: Facts, path: Path) -> None:
    """Raises `RunError` where a checkpoint belongs to other data or another config."""
    if saved.fingerprint != experiment.dataset.fingerprint:
        raise RunError(
            f"{path} was trained on {saved.dataset} with fingerprint "
            f"{saved.fingerprint[:12]}…, but the data found now has "
            f"{experiment.dataset.fingerprint[:12]}…; give the same data, or start a new run"
        )
    _check_resumable(configs.restore(saved.config), experiment.config, path)
    done = int(saved.progress["step"])
    if done > experiment.steps:
        raise RunError(
            f"{path} has done {count(done, 'step')}, and train.epochs or train.examples say "
            f"{experiment.steps:,} in all; give a greater length, or start a new run"
        )


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
        may_grow = name in configs.LENGTHS and saved.optimizer.schedule == "constant"
        if name in configs.FREE or may_grow:
            continue
        why = "a resumed run must compute the same; leave the value as it was, or start a new run"
        if name in configs.LENGTHS:
            why = (
                f"its learning rate falls to zero at its last step ({saved.optimizer.schedule}); "
                f"start a new run from its parameters: --init-from {path} (in Python init_from=)"
            )
        raise RunError(f"{name} = {new!r}: {path} was started with {old!r}, and {why}")


def _evaluate(
    job: Run, state: TrainState, progress: Progress, compile_s: float, began: float
) -> TrainResult:
    """Evaluates the last state on the test part and collects the result."""
    trainer, experiment = job.trainer, job.experiment
    config, dataset = experiment.config, experiment.dataset
    sums, predicted = trainer.fetch(trainer.test(state))
    if not np.isfinite(sums.loss_sum[0]):
        progress.diverged = [progress.step]
        job.diverged(progress, "the loss on the test part")
    params = jax.tree.map(lambda leaf: leaf[0], trainer.fetch(state.params))
    return make_result(
        experiment,
        job.directory.path,
        progress,
        test_accuracy=float(sums.correct[0] / sums.count[0]),
        test_loss=float(sums.loss_sum[0] / sums.count[0]),
        first256_accuracy=first256_accuracy(config, predicted[0] == dataset.test.labels),
        params=sum(leaf.size for leaf in jax.tree.leaves(params)),
        devices=trainer.mesh.devices.size,
        compile_s=compile_s,
        wall_s=time.perf_counter() - began,
        params_sha256=checkpoint.params_digest(params),
        machines=list(job.directory.machines),
    )


def make_result(
    experiment: Experiment, path: Path, progress: Progress, **figures: Any
) -> TrainResult:
    """The result of a run that has come to its end; `figures` are what neither the experiment nor
    its progress knows."""
    config, dataset = experiment.config, experiment.dataset
    examples = experiment.steps * config.train.batch_size
    train_loss = progress.last(0, "train_loss")
    assert train_loss is not None, "the last step is logged"
    return TrainResult(
        run_dir=str(path),
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        seed=config.train.seed,
        steps=experiment.steps,
        examples=examples,
        epochs=experiment.steps / experiment.epoch_steps,
        train_loss=train_loss,
        validation_accuracy=progress.last(0, "validation_accuracy"),
        backend=config.model.backend,
        train_s=progress.train_s,
        examples_per_s=examples / progress.train_s,
        **figures,
    )
