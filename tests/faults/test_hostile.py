"""Row 11: run directories, checkpoints, ledgers and results that a stranger has made."""

import contextlib
import copy
import hashlib
import json
import math
import os
import random
import shutil
import signal
import socket
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from forged import FILE, facts_text, forge_facts, metadata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rowrnn
from rowrnn import cli
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import RowRNNError, RunError
from rowrnn.lab.sweep import SweepSettings
from rowrnn.store import checkpoint, weights

CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw"),
    TrainConfig(batch_size=100, examples=501, log_every_steps=5, display="none"),
)

# What no field should be: other types, ranges, paths, escapes, markup, and a lot of it.
VALUES = [
    None, True, -1, 0, 3, 2**31, 2**63, 10**30, -0.5, 1e308, float("nan"), float("inf"), "",
    "../../outside", "/etc/passwd", "\x1b[31mred\x07", "<script>alert(1)</script>", "[bold]x[/]",
    "$\\frac{", "%s{0}", "\ud800", "x" * 100_000, [], {}, [[]], {"a": {"b": [1]}},
    [10**9, 10**9], [-1, 28], ["a"], {"\x1b]0;x\x07": 1},
]  # fmt: skip
QUIET = "--train.display=none"
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and a sweep, both intact."""
    directory = tmp_path_factory.mktemp("made")
    rowrnn.train(CONFIG, directory / "run")
    rowrnn.sweep(
        CONFIG, (0, 1), settings=SweepSettings("map", 1, "all"), run_dir=directory / "sweep"
    )
    return directory


def at_random(draw, value):
    """A JSON value with one of its parts, at any depth, replaced, removed or added."""
    value = copy.deepcopy(value)
    part, above = value, None
    while isinstance(part, dict | list) and part and draw.random() < 0.8:
        key = draw.choice(list(part) if isinstance(part, dict) else range(len(part)))
        above = (part, key)
        part = part[key]
    if above is None:
        return draw.choice(VALUES)
    container, key = above
    if draw.random() < 0.2:
        del container[key]
    elif isinstance(container, dict) and draw.random() < 0.1:
        container[draw.choice(["\x1b[2J", "../x", "<b>", "step", "__class__"])] = 1
    else:
        container[key] = draw.choice(VALUES)
    return value


def plain_files(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def checkpoints(work):
    return sorted(path.parents[1] for path in work.rglob(FILE.name))


def link(work, outside, draw):
    """A link out of the directory, in place of a file or beside one."""
    target = draw.choice([outside, outside / "file", Path("/etc/passwd"), outside / "none"])
    place = draw.choice(list(work.rglob("*")))
    if draw.random() < 0.5:
        place = place.with_name(f"{draw.randrange(100)}.json")
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    place.symlink_to(target)


def special(work, outside, draw):
    """A pipe, a socket or a device."""
    place = draw.choice(plain_files(work))
    place.unlink()
    kind = draw.choice(["pipe", "socket", "device"])
    if kind == "pipe" or (kind == "device" and os.geteuid() != 0):
        os.mkfifo(place)
    elif kind == "device":
        os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    else:
        here = os.open(".", os.O_RDONLY)
        os.chdir(place.parent)  # The path of a socket must be short.
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(place.name[:90])
        os.fchdir(here)
        os.close(here)


def other_facts(work, outside, draw):
    """Facts of a checkpoint that cannot be."""
    forge_facts(
        draw.choice(checkpoints(work)),
        lambda text: json.dumps(at_random(draw, json.loads(text))),
    )


def deep(work, outside, draw):
    """JSON of ten thousand levels, in a file or in the facts of a checkpoint."""
    if draw.random() < 0.3:
        forge_facts(draw.choice(checkpoints(work)), lambda _: DEEP)
    else:
        names = (".json", ".jsonl", "METADATA")
        files = [file for file in plain_files(work) if file.name.endswith(names)]
        draw.choice(files).write_text(DEEP)


def other_json(work, outside, draw):
    """One value, anywhere in any JSON file, replaced."""
    names = (".json", "METADATA")
    file = draw.choice([file for file in plain_files(work) if file.name.endswith(names)])
    document = json.loads(file.read_text())
    if file.parent.name == "members":
        text = json.dumps(at_random(draw, json.loads(document["record"])))
        document = {"record": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    else:
        document = at_random(draw, document)
    file.write_text(json.dumps(document))


def other_config(work, outside, draw):
    """A config with paths, escapes and sizes of its own."""
    file = draw.choice([file for file in plain_files(work) if file.name == "config.toml"])
    lines = file.read_text().splitlines()
    numbers = [number for number, line in enumerate(lines) if " = " in line]
    number = draw.choice(numbers)
    value = draw.choice(
        ["1e6", "999999999", '"../../outside"', '"\\u001b[31m"', "[[]]", "nan", "{}"]
    )
    lines[number] = lines[number].partition(" = ")[0] + f" = {value}"
    file.write_text("\n".join(lines))


def terabytes(work, outside, draw):
    """An array on disk that claims another shape or another type."""
    shape = draw.choice([[10**6, 10**6], [7, 16], [2**31, 2]])
    path = draw.choice(checkpoints(work))
    name = draw.choice(list(json.loads(facts_text(path))["sha256"]))
    claim(path, name, shape, draw.choice(["F32", "I8"]), there=draw.random() < 0.5)


def claim(path, name, shape, dtype, *, there):
    """Gives an array of a checkpoint another shape and type; `there`, with as many bytes, all zero
    and none of them on the disk."""
    arrays = safetensors.numpy.load_file(path / FILE)
    del arrays[name]
    content = safetensors.numpy.save(arrays, metadata(facts_text(path)))
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    size = math.prod(shape) * np.dtype({"F32": "f4", "I8": "i1"}[dtype]).itemsize
    offsets = [len(data), len(data) + size]
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    (path / FILE).write_bytes(len(text).to_bytes(8, "little") + text + data)
    if there:
        os.truncate(path / FILE, 8 + len(text) + len(data) + size)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (True, r"params.lstm_0.kernel is \(1000000, 1000000\), not \(1, 36, 32\)"),
        (False, "its metadata cannot be read"),
    ],
)
def test_claims_of_terabytes_are_refused_before_memory_is_taken(tmp_path, made, there, says):
    work = tmp_path / "run"
    shutil.copytree(made / "run", work)
    for path in checkpoints(work):
        claim(path, "params.lstm_0.kernel", [10**6, 10**6], "F32", there=there)
    forget_peak()
    before = high_water_mark()
    with warnings.catch_warnings(action="ignore"), pytest.raises(RunError, match=says):
        rowrnn.load(work)
    assert high_water_mark() < before + 100


def names(work, outside, draw):
    """Files and directories with escapes, markup and numbers of their own kind in their names."""
    place = draw.choice([work, *[path for path in work.rglob("*") if path.is_dir()]])
    name = draw.choice(
        ["\x1b[31mx", "<img src=x>", "99999999999999999999", "٣", "007", "-1", "x.json"]
    )
    with contextlib.suppress(FileExistsError):
        if draw.random() < 0.5:
            (place / name).mkdir()
        else:
            (place / name).write_text("{}")


ATTACKS = (link, special, other_facts, other_facts, deep, other_json, other_json, other_config,
           terabytes, names)  # fmt: skip


def commands(work, draw):
    """What a user might do with what they were sent."""
    if (work / "sweep.json").exists():
        kept = next(iter(sorted(work.glob("states/*"))), work)
        return draw.choice([
            ["sweep", f"--resume={work}", QUIET], ["compare", str(work), str(work)],
            ["sweep", f"--resume={work}", "--seeds=0:3", QUIET], ["eval", str(kept)],
            ["report", str(work)],
        ])  # fmt: skip
    return draw.choice([
        ["eval", str(work)], ["train", f"--resume={work}", QUIET],
        ["eval", str(work), "--checkpoint=best"],
        ["predict", str(work), "picture.png"], ["eval", str(work), "--split=validation"],
        ["report", str(work)],
    ])  # fmt: skip


def snapshot(directory):
    return {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(directory.rglob("*"))
    }


def high_water_mark():
    """The most memory, in MiB, that this process has held since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def time_limit(seconds, what):
    """Raises where something takes longer, as reading from a pipe would."""

    def late(*_):
        raise AssertionError(f"{what}: still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.row(11, 20, 500, slow=True)
def test_what_a_stranger_made_does_no_harm(tmp_path, made, count, record, capsys, monkeypatch):
    """Links, pipes, forged facts, claims of terabytes, deep JSON, escapes: refused or harmless."""
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not for you")
    before = snapshot(outside)
    attacked, codes, most = Counter(), Counter(), 0.0
    # What `run` turns off for the rest of the process.
    monkeypatch.setattr(cli.logging, "disable", lambda: None)
    for number in range(count):
        draw = random.Random(f"{count} {number}")
        work = tmp_path / draw.choice(["run", "sweep"])
        shutil.copytree(made / work.name, work)
        if work.name == "run" and draw.random() < 0.7:
            (work / "result.json").unlink()
        attack = draw.choice(ATTACKS)
        command = commands(work, draw)
        what = f"{count} {number}: {attack.__name__}, {command}"
        attack(work, outside, draw)
        attacked[attack.__name__] += 1
        forget_peak()
        began = high_water_mark()
        with time_limit(60, what), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                code = cli.run(command)
            except BaseException as error:
                raise AssertionError(f"{what}: {error!r}") from error
        most = max(most, high_water_mark() - began)
        out, err = capsys.readouterr()
        assert not any(ord(c) < 32 and c != "\n" for c in out + err), (what, out, err)
        assert "not for you" not in out + err, what
        assert code in (0, 1, 2, 3, 4), what
        # A run that a sweep kept is read alone.
        if attack in (link, special) and any(str(work) in (w, w[9:]) for w in command):
            assert code == 4, (what, err)
        codes[str(code)] += 1
        assert snapshot(outside) == before, what
        # Where links are followed, so are deletions.
        shutil.rmtree(work)
    assert most < 300, f"{most} MiB"
    record |= {"attacks": dict(attacked), "exit codes": dict(codes),
               "most MiB beyond the start": round(most)}  # fmt: skip


@pytest.mark.parametrize("attack", ["link", pytest.param("fifo", marks=pytest.mark.slow)])
def test_nothing_is_written_through_a_link(tmp_path, made, attack):
    """Where a file is to be written, a link of that name is not followed."""
    work, outside = tmp_path / "run", tmp_path / "outside"
    outside.write_text("mine")
    for name in (".lock", "lock.json", ".lock.json.partial", "metrics.jsonl", "eval-test.json",
                 ".eval-test.json.partial", "result.json", "eval-test.png"):  # fmt: skip
        shutil.copytree(made / "run", work)
        (work / name).unlink(missing_ok=True)
        if attack == "link":
            (work / name).symlink_to(outside)
        else:
            os.mkfifo(work / name)
        for command in (["eval", str(work)], ["train", f"--resume={work}"],
                        ["train", f"--run-dir={work}", "--overwrite"]):  # fmt: skip
            with time_limit(60, name):
                assert cli.run(command) == 4
        assert outside.read_text() == "mine"
        shutil.rmtree(work)


def test_evaluating_prepares_nothing(tmp_path, made, monkeypatch, capsys):
    """A config from elsewhere may name the original files and a place, and nothing goes there."""
    work, place = tmp_path / "run", tmp_path / "place"
    shutil.copytree(made / "run", work)

    def with_data(text):
        facts = json.loads(text) | {"dataset": "mnist"}
        facts["config"]["data"] |= {
            "dataset": "mnist", "dir": str(place), "manual_dir": str(tmp_path)
        }  # fmt: skip
        return json.dumps(facts)

    for path in checkpoints(work):
        forge_facts(path, with_data)
    assert cli.run(["eval", str(work)]) == 3
    assert "is not prepared" in capsys.readouterr().err
    assert not place.exists()


def test_the_name_of_a_member_is_no_path(tmp_path):
    """A value of a grid that is a path does not lead the kept states out of the sweep."""
    member = rowrnn.lab.sweep.members.Member(CONFIG, 1, {"data.dir": "../../../outside"})
    assert (tmp_path / member.directory).parent == tmp_path
    long = rowrnn.lab.sweep.members.Member(CONFIG, 1, {"data.dir": "x" * 300})
    (tmp_path / long.directory).mkdir()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_facts_raise_anything_but_our_own_errors(made, data):
    """Any JSON as the facts of a checkpoint gives shapes, or `ValueError`, which is damage."""
    newest = max((made / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    facts = json.loads(facts_text(newest))
    if data.draw(st.integers(0, 4)) == 0:
        facts = data.draw(JSON)
    else:
        tables = [facts, facts["config"], facts["progress"], *facts["config"].values()]
        places = [(table, name) for table in tables for name in table]
        table, name = data.draw(st.sampled_from(places))
        table[name] = data.draw(JSON)
    with contextlib.suppress(ValueError, RowRNNError):
        weights.abstract_state(checkpoint.Facts.of(facts))


@given(content=st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_no_bytes_of_metadata_raise_anything_but_damage(tmp_path_factory, made, content):
    """Any bytes as the file of a checkpoint are damage."""
    work = tmp_path_factory.mktemp("bytes") / "checkpoints"
    shutil.copytree(made / "run" / "checkpoints", work)
    for path in checkpoints(work):
        (path / FILE).write_bytes(content)
    with warnings.catch_warnings(), contextlib.suppress(RowRNNError):
        warnings.simplefilter("ignore")
        checkpoint.restore(work, weights.abstract_state)
    shutil.rmtree(work.parent)
