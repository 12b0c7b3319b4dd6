"""Eight runs at once that share a dataset and a compilation cache, and a cache that is damaged."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import compiler
import numpy as np
import pytest
from data_files import originals, random_arrays, registered, write_set

import rowrnn
from rowrnn.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from rowrnn.data import tfds_sets
from rowrnn.parallel import program_cache

RUNS = 8
TRAIN = ["train", "--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=20",
         "--train.examples=201", "--train.display=none", "--data.validation-size=0",
         "--json"]  # fmt: skip
DAMAGES = ("bit", "truncated", "emptied", "half written", "garbage", "zeroed block")


def start(*arguments, cwd, home):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    # What is kept is the same whatever the compiler has done to it, and it is done sooner.
    environment["XLA_FLAGS"] = compiler.FLAGS
    return subprocess.Popen(
        [sys.executable, "-m", "rowrnn.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"XDG_CACHE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digest_of(process):
    """The parameters that a run ends with, which must end well and say nothing of its troubles."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert not [line for line in err.splitlines() if "rror" in line or "arning" in line], err
    return json.loads(out.splitlines()[-1])["params_sha256"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small TFDS dataset that nobody has decoded yet; it goes by the name of kmnist."""
    directory = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patched:
        # Images that a network can learn something from: labels are read off one pixel.
        arrays = [*random_arrays(train=400, test=100)]
        for images, labels in (arrays[:2], arrays[2:]):
            images[:] //= 8
            images[np.arange(len(labels)), :, labels] = 255
        entries = registered(write_set(directory / "originals", arrays))
        patched.setattr(tfds_sets, "_originals", lambda name: entries)
        patched.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        tfds_sets.prepare("kmnist", str(directory / "data"), str(directory / "originals"))
    return directory / "data"


def undecoded(prepared, path):
    """A copy of a prepared dataset, without what was decoded of it."""
    shutil.copytree(prepared, path, ignore=shutil.ignore_patterns("rowrnn-*.arrays"))
    assert not [*path.rglob("*.arrays")]
    return path


@pytest.mark.soak
@pytest.mark.row(14, 1, 10)
def test_eight_runs_at_once_share_dataset_and_compilation_cache(tmp_path, prepared, count, record):
    """Started together on a dataset that is not decoded yet and an empty compilation cache, all end
    with the parameters of a run alone; the cache is private; a next run with every entry of it
    damaged compiles anew, says nothing and gives the same."""
    flags = ["--data.dataset=kmnist"]
    damages, found = Counter(), set()
    for attempt in range(count):
        home = tmp_path / f"home-{attempt}"
        data = [*flags, f"--data.dir={undecoded(prepared, tmp_path / f'data-{attempt}')}"]
        runs = [
            start(*TRAIN, *data, f"--run-dir=run-{attempt}-{number}", cwd=tmp_path, home=home)
            for number in range(RUNS)
        ]
        found |= {digest_of(run) for run in runs}
        assert len(found) == 1, attempt
        left = [path.name for path in (tmp_path / f"data-{attempt}").rglob("*.arrays*")]
        assert len(left) == 1, left
        cache = home / "rowrnn" / "compilation"
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700
        draw = random.Random(attempt)
        names, was = programs_in(cache), []
        for entry in sorted(cache.iterdir()):
            kind = draw.choice(DAMAGES)
            was.append(damaged(entry.read_bytes(), kind, draw))
            entry.write_bytes(was[-1])
            damages[kind] += 1
        assert len(was) >= 5
        run = start(*TRAIN, *data, f"--run-dir=run-{attempt}-next", cwd=tmp_path, home=home)
        # Alone, and compiled once more.
        assert {digest_of(run)} == found, attempt
        # Kept in place of what was damaged.
        assert programs_in(cache) == names, attempt
        assert not {entry.read_bytes() for entry in cache.iterdir()} & {*was}, attempt
    record.update(damages=dict(damages), runs_at_once=RUNS)


def programs_in(cache):
    """Which programs are kept, without their digests; nothing else lies there."""
    return {entry.name.rpartition(".")[0] for entry in cache.iterdir()}


@pytest.mark.row(14, 50, 2000)
def test_a_damaged_program_is_never_run_and_is_replaced(tmp_path, count, record):
    """Whatever jax packs its entries with: some of what it may use lets flipped bits pass."""
    kinds = Counter()
    for seed in range(count):
        draw, kept = random.Random(seed), tmp_path / f"kept-{seed}"
        kind, program = draw.choice(DAMAGES), zlib.compress(draw.randbytes(300))
        compile_and_keep(kept, program)
        [entry] = kept.iterdir()
        content = entry.read_bytes()
        assert content == program
        # A block that was zero is as it was.
        if (changed := damaged(content, kind, draw)) == content:
            continue
        entry.write_bytes(changed)
        assert compile_and_keep(kept, program) is None, (seed, kind)
        assert compile_and_keep(kept, program) == program, (seed, kind)
        kinds[kind] += 1
    record["damages"] = dict(kinds)


def compile_and_keep(kept, program):
    """What jax would find at the start of a process; and it keeps a program where there is none."""
    programs = program_cache.Programs(kept)
    entry = programs.own / "jit_program-cache"
    found = entry.read_bytes() if entry.exists() else None
    if found is None:
        entry.write_bytes(program)
    programs.close()
    return found


@pytest.mark.soak
def test_eight_runs_at_once_prepare_the_dataset_that_they_share(tmp_path):
    """MNIST from its original files, into a directory that is not there yet."""
    files = f"--data.manual-dir={originals('mnist')}"

    def run(name, data):
        where = [f"--data.dir={tmp_path / data}", f"--run-dir={name}"]
        return start(*TRAIN, "--data.dataset=mnist", files, *where, cwd=tmp_path, home=tmp_path)

    alone = digest_of(run("alone", "alone-data"))
    runs = [run(f"run-{number}", "data") for number in range(RUNS)]
    assert [digest_of(each) for each in runs] == [alone] * RUNS
    assert names_below(tmp_path / "data") == names_below(tmp_path / "alone-data")


def names_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def damaged(content, kind, draw):
    """An entry of the cache after something has happened to it."""
    place = draw.randrange(len(content))
    match kind:
        case "bit":
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case "truncated":
            return content[:place]
        case "emptied":
            return b""
        case "half written":
            # A file that has its size and not its content, as a crash of the machine leaves it.
            return content[:place] + bytes(len(content) - place)
        case "zeroed block":
            block = min(4096, len(content) - place)
            return content[:place] + bytes(block) + content[place + block :]
        case _:
            return draw.randbytes(len(content))


def test_threads_of_a_process_train_side_by_side(tmp_path):
    """Each with a directory of its own; Orbax's saves of several threads wait for each other."""
    config = Config(
        ModelConfig(0, 8),
        DataConfig("mnist_sample", validation_size=100),
        OptimizerConfig("adamw"),
        TrainConfig(batch_size=100, examples=1_001, display="none"),
        CheckpointConfig(every_steps=2),
    )

    def train(number):
        return rowrnn.train(config, tmp_path / f"run-{number}")

    with ThreadPoolExecutor(5) as pool:
        swept = pool.submit(rowrnn.sweep, config, (0, 1), run_dir=tmp_path / "sweep")
        results = list(pool.map(train, range(4)))
    assert len({result.params_sha256 for result in results}) == 1
    assert swept.result().members[0].params_sha256 == results[0].params_sha256
    assert [rowrnn.load(result.run_dir).step for result in results] == [10] * 4


FIRST_USES = """
import threading, rowrnn
calls = [lambda: rowrnn.load("x"), lambda: rowrnn.train(resume="x"), lambda: rowrnn.read("x", 1),
         lambda: rowrnn.sweep(resume="x"), lambda: rowrnn.evaluate("x"), lambda: rowrnn.report("x")]
def end(call):
    try: call()
    except Exception as error: print(type(error).__name__)
threads = [threading.Thread(target=end, args=(call,)) for call in calls]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_the_first_use_may_be_in_several_threads(tmp_path):
    """jax, which each of them imports, must not be seen in parts."""
    place = os.path.dirname(os.path.dirname(rowrnn.__file__))
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USES], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, env=os.environ | {"PYTHONPATH": place},
    )  # fmt: skip
    assert done.stdout.split() == ["RunError"] * 6, done.stdout + done.stderr
