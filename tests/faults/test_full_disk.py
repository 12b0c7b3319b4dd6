"""A disk that is full, a file that may not grow, a directory that turns read-only."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from in_process import command, compiled_once, last_json, steps_in

import rowrnn
from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.lab.train import Run
from rowrnn.store import log, rundir
from rowrnn.store.checkpoint import CheckpointWriter

SAVE = 6
SMALL = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
         "--train.display=none", "--train.log-every-steps=4", "--data.validation-size=100",
         "--train.eval-every-steps=12", f"--checkpoint.every-steps={SAVE}"]  # fmt: skip
# 24 steps, 4 saves.
TRAIN = ["train", *SMALL, "--train.examples=2401", "--json"]
# Two stacks of 10 steps, each saved twice.
SWEEP = ["sweep", *SMALL, "--train.examples=1001", "--seeds=0:4", "--keep=all", "--json"]
# What the run directory is called when no room is left, by the file that did not fit.
PLACES = {
    "save": r"step \d+ was not saved|/(partial|check|states/.*)/",
    "log": r"metrics\.jsonl|events\.out",
    "record": r"/members/",
    "result": r"result\.json|results\.(json|csv)",
}
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of its own, of a few MiB; None where none can be mounted."""
    path = tmp_path_factory.mktemp("disk")
    arguments = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(arguments, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    yield path if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextlib.contextmanager
def little_room(disk, kind, room):
    """A disk with so many bytes left, or files that may not be larger than that."""
    if kind == "disk":
        found = os.statvfs(disk)
        with (disk / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - room)
        yield
        (disk / "ballast").unlink()
    else:
        # Python ignores the signal that comes with it; writing fails.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sizes_of(path):
    """Bytes that a directory takes on a disk of 4 KiB pages, and those of its largest file."""
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    pages = sum((size + 4095) // 4096 * 4096 for size in sizes)
    return {"disk": pages, "file size": max(sizes)}


def assert_says_what_was_not_written(path, code, err, seed):
    """Exit 4 and one or two lines that name a file of the run; gives which kind of file."""
    # A sweep has told its plan by then.
    said = err[err.find("rowrnn: ") :]
    assert code == 4, (seed, code, err)
    assert len(said.splitlines()) <= 2, (seed, err)
    assert len(said) < 600, (seed, err)
    assert str(path) in said, (seed, err)
    return next((name for name, words in PLACES.items() if re.search(words, said)), "start")


def left_over(path):
    """What is neither a checkpoint nor a file that a run has."""
    checkpoints = path / "checkpoints"
    entries = [*path.glob(".*"), *(checkpoints.iterdir() if checkpoints.is_dir() else [])]
    return [e.name for e in entries if not e.name.isdecimal() and e.name != ".lock"]


@contextlib.contextmanager
def watched():
    """Within it: the step that training has reached, the steps whose save returned, the phase."""
    seen = {"step": 0, "saved": [], "phase": "start"}
    advanced, save = Run.advanced, CheckpointWriter.save

    def watched_advanced(run, progress, *arguments):
        advanced(run, progress, *arguments)
        seen["step"], seen["phase"] = progress.step, "train"

    def watched_save(writer, state, facts):
        seen["phase"] = "save"
        save(writer, state, facts)
        seen["saved"].append(int(state.step[0]))
        seen["phase"] = "train"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "advanced", watched_advanced)
        patched.setattr(CheckpointWriter, "save", watched_save)
        yield seen


def assert_nothing_is_lost(path, seen, seed):
    """What was saved is there and intact, and training stopped within one save interval."""
    newest = max(seen["saved"], default=0)
    assert seen["step"] - newest <= SAVE, (seed, seen)
    assert len(left_over(path)) <= 1, (seed, left_over(path))
    steps = steps_in(path / "checkpoints")
    # A directory that turned read-only after a save was durable made that save fail all the same.
    assert newest <= max(steps, default=0) <= newest + SAVE, (seed, steps, seen)
    for step in steps:
        assert rowrnn.load(path, str(step)).step == step, seed
    if steps:
        assert rowrnn.load(path).step == max(steps), seed


def assert_goes_on(path, seed, expected):
    """With room again, the run ends as if nothing had been."""
    how = [f"--resume={path}"] if (path / "config.toml").exists() else [f"--run-dir={path}"]
    code, out, err = command(*TRAIN, *how)
    assert code == 0, (seed, err)
    assert last_json(out)["params_sha256"] == expected, seed
    assert left_over(path) == [], seed
    entries = [(entry["step"], *entry) for entry in log.read(path)]
    assert len(entries) == len(set(entries)), seed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The parameters of a run that had room, and the bytes that it takes."""
    path = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = command(*TRAIN, "--run-dir", path)
    assert code == 0, err
    return last_json(out)["params_sha256"], sizes_of(path)


@pytest.mark.row(3, 4, 20, slow=True)
def test_a_run_that_has_no_room_keeps_what_was_saved(disk, tmp_path, whole, count, record, capfd):
    """Disk full, or a file not allowed to grow: exit 4 and the file named, within one save
    interval; the last durable step restores, and with room again the run ends with the same bits.
    """
    expected, sizes = whole
    kinds, places, leftovers, seed = Counter(), Counter(), 0, 0
    while kinds.total() < count:
        seed += 1
        draw = random.Random(seed)
        kind = draw.choice(["disk", "file size"]) if disk else "file size"
        path = (disk if kind == "disk" else tmp_path) / f"run-{seed}"
        with watched() as seen, little_room(disk, kind, draw.randrange(sizes[kind])):
            code, _, err = command(*TRAIN, "--run-dir", path)
        if code == 0:
            # Just enough.
            continue
        places[assert_says_what_was_not_written(path, code, err, seed)] += 1
        kinds[kind] += 1
        leftovers = max(leftovers, len(left_over(path)))
        assert_nothing_is_lost(path, seen, seed)
        assert_goes_on(path, seed, expected)
        shutil.rmtree(path)
    # Nothing else has reached the terminal, from whatever thread or library.
    assert capfd.readouterr().err == ""
    assert places["save"] >= count / 10
    record.update(kinds=dict(kinds), what_failed=dict(places), most_left_over=leftovers)


@pytest.mark.row(3, 1, 20)
def test_a_sweep_that_has_no_room_keeps_what_was_recorded(disk, tmp_path, count, record, capfd):
    """The same of a sweep: exit 4 and the file named; what is recorded is not run again."""
    code, _, err = command(*SWEEP, f"--run-dir={tmp_path / 'whole'}")
    assert code == 0, err
    expected, sizes = members_of(tmp_path / "whole"), sizes_of(tmp_path / "whole")
    kinds, places, seed = Counter(), Counter(), 0
    while kinds.total() < count:
        seed += 1
        draw = random.Random(1000 + seed)
        kind = draw.choice(["disk", "file size"]) if disk else "file size"
        path = (disk if kind == "disk" else tmp_path) / f"sweep-{seed}"
        with little_room(disk, kind, draw.randrange(sizes[kind])):
            code, _, err = command(*SWEEP, f"--run-dir={path}")
        if code == 0:
            continue
        places[assert_says_what_was_not_written(path, code, err, seed)] += 1
        kinds[kind] += 1
        recorded = len([*(path / "members").glob("*.json")])
        started = (path / "sweep.json").exists()
        how = f"--resume={path}" if started else f"--run-dir={path}"
        code, out, err = command(*SWEEP, how, *(["--overwrite"] if not started else []))
        assert code == 0, (seed, err)
        assert last_json(out)["reused"] == recorded, seed
        assert members_of(path) == expected, seed
        assert left_over(path) == [], seed
        assert names_in(path / "states") == names_in(tmp_path / "whole" / "states")
        shutil.rmtree(path)
    assert capfd.readouterr().err == ""
    record.update(kinds=dict(kinds), what_failed=dict(places))


def names_in(directory):
    return {entry.name for entry in directory.iterdir()}


def members_of(path):
    rows = json.loads((path / "results.json").read_text())["members"]
    return {row["seed"]: row["params_sha256"] for row in rows}


@pytest.mark.row(3, 5, 100)
def test_a_log_that_has_no_room_says_so_and_nobody_waits_for_it(disk, count, record):
    """Metrics log and TensorBoard events: whichever does not fit, the next entry is refused."""
    if disk is None:
        pytest.skip("no small disk can be mounted here")
    longest = 0
    for seed in range(count):
        path, raised = disk / "log", []

        def fill(path=path, raised=raised):
            try:
                with rundir.RunDir.create(path, Config()) as run:
                    for step in range(1000):
                        run.log({"step": step}, {"train_loss": 1.0})
            except RunError as error:
                raised.append(str(error))

        with little_room(disk, "disk", random.Random(seed).randrange(4096 * 5, 4096 * 16)):
            thread = threading.Thread(target=fill)
            thread.start()
            thread.join(timeout=60)
            assert not thread.is_alive(), seed
        assert raised, seed
        assert "not written: No space left on device" in raised[0], (seed, raised)
        # The last line alone may be torn.
        steps = [entry["step"] for entry in log.read(path)]
        assert steps == [*range(len(steps))], seed
        longest = max(longest, len(steps))
        shutil.rmtree(path)
    record["most_entries_written"] = longest


@pytest.mark.soak
@pytest.mark.row(3, 1, 20)
def test_a_directory_that_turns_read_only_keeps_what_was_saved(tmp_path, count, record):
    """The run directory or its checkpoints read-only from a random moment on: the same promise,
    tried as a user without privileges."""
    prefix = []
    if os.getuid() == 0:
        if shutil.which(UNPRIVILEGED[0]) is None:
            pytest.skip("needs setpriv to try this without the privileges of root")
        os.chown(tmp_path, 65534, 65534)
        for parent in (tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o011)
        prefix = UNPRIVILEGED
    here = Path(__file__).parent
    program = f"import test_full_disk as t; t.turn_read_only({count})"
    process = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ
        | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
           "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])},
        capture_output=True,
        text=True,
        timeout=3600,
    )  # fmt: skip
    # What a command says is checked there; Orbax logs between two of them, which no command shows.
    assert process.returncode == 0, process.stderr
    seen = last_json(process.stdout)
    assert seen["phases"].get("save", 0) >= count // 10
    record.update(seen)


def turn_read_only(count):
    """The attempts of the test above, in a process of their own; prints what it has seen."""
    assert os.geteuid() != 0
    with compiled_once():
        command(*TRAIN, "--run-dir=compiled")
        began = time.monotonic()
        code, out, err = command(*TRAIN, "--run-dir=whole")
        assert code == 0, err
        expected, seconds = last_json(out)["params_sha256"], time.monotonic() - began
        phases, targets, seed = Counter(), Counter(), 0
        while phases.total() < count:
            seed += 1
            draw = random.Random(seed)
            path, delay = Path(f"run-{seed}"), draw.uniform(0, seconds)
            target = draw.choice([path, path / "checkpoints"])
            hit = []
            with watched() as seen:

                def turn(delay=delay, target=target, seen=seen, hit=hit):
                    time.sleep(delay)
                    with contextlib.suppress(FileNotFoundError):
                        target.chmod(0o555)
                        hit.append(seen["phase"])

                thread = threading.Thread(target=turn)
                thread.start()
                code, _, err = command(*TRAIN, "--run-dir", path)
                thread.join()
            if hit:
                target.chmod(0o755)
            if code == 0:
                # It came too early or too late.
                continue
            assert_says_what_was_not_written(path, code, err, seed)
            phases[hit[0]] += 1
            targets[target.name if target != path else "run directory"] += 1
            assert_nothing_is_lost(path, seen, seed)
            assert_goes_on(path, seed, expected)
    print(json.dumps({"phases": phases, "targets": targets}))
