"""A directory that is moved or removed while it is written to: an error, and nothing is lost."""

import contextlib
import random
import shutil
import threading
import time

import pytest
from in_process import compiled_once, steps_in

import rowrnn
from rowrnn.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from rowrnn.errors import RunError
from rowrnn.lab.sweep import SweepSettings

CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw"),
    TrainConfig(batch_size=100, examples=10_000, log_every_steps=5, display="none"),
    CheckpointConfig(every_steps=5, keep=2),
)
SEEDS = range(40)


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    with compiled_once():
        yield


def start(kind, path):
    if kind == "run":
        return rowrnn.train(CONFIG, path)
    config = Config(*(CONFIG.model, CONFIG.data, CONFIG.optimizer, CONFIG.train))
    return rowrnn.sweep(config, SEEDS, settings=SweepSettings("map", 1, "all"), run_dir=path)


def has_begun(kind, path):
    """Whether something is there that must not be lost."""
    if kind == "run":
        return len(steps_in(path / "checkpoints")) > 1
    return len(list(path.glob("members/*.json"))) > 1


@contextlib.contextmanager
def meanwhile(action):
    """Does something in a thread while the body runs."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


@pytest.mark.row(15, 2, 40, slow=True)
def test_a_directory_that_is_moved_stops_the_run_and_lies_whole_where_it_is(
    tmp_path, count, record
):
    """Moved, or a directory above it, or replaced by another: exit code 4 names both places, at the
    old one is nothing new, and `--resume` goes on from the new one."""
    late = 0
    for seed in range(count):
        draw = random.Random(seed)
        kind, how = ("run", "sweep")[seed % 2], ("itself", "above", "replaced")[seed // 2 % 3]
        top = tmp_path / f"top-{seed}"
        old = top / "a"
        new = tmp_path / f"moved-{seed}"
        top.mkdir()

        def move(kind=kind, how=how, old=old, new=new, top=top, draw=draw):
            deadline = time.monotonic() + 100
            while not has_begun(kind, old) and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.3))
            if how == "above":
                top.rename(new)
                return
            old.rename(new)
            if how == "replaced":
                old.mkdir()

        with meanwhile(move), pytest.raises(RunError) as raised:
            start(kind, old)
        here = new / "a" if how == "above" else new
        assert f"{old} was moved to {here} " in str(raised.value), (seed, str(raised.value))
        left = sorted(path.name for path in old.rglob("*")) if old.exists() else []
        # The move may come while Orbax writes, after the look before it; that is told as well.
        late += bool(left)
        assert "config.toml" not in left, seed
        kept = steps_in(here / "checkpoints") or list(here.glob("members/*.json"))
        assert kept, seed
        if seed == 0:
            rowrnn.train(resume=here)
        if seed == 1:
            rowrnn.sweep(resume=here, seeds=range(3))
    record.update(moved_within_a_write=late)


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_directory_that_is_removed_is_not_made_again(tmp_path, kind):
    path = tmp_path / "a"

    def remove():
        while not has_begun(kind, path):
            time.sleep(0.005)
        path.rename(tmp_path / "b")
        # The run takes its lock and half-written files away itself, perhaps at the same moment.
        shutil.rmtree(tmp_path / "b", ignore_errors=True)

    with (
        meanwhile(remove),
        pytest.raises(RunError, match=r"was (removed|moved to .*/b) while it was written"),
    ):
        start(kind, path)
    assert not (path / "config.toml").exists()
