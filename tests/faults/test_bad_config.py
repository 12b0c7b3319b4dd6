"""Bad config files and flags: named, with what would be right, before jax is imported."""

import contextlib
import io
import json
import logging
import os
import random
import re
import statistics
import subprocess
import sys
import time
import typing
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rowrnn import cli
from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.errors import ConfigError
from rowrnn.lab import sweep as sweep_runner
from rowrnn.lab import train as train_runner
from rowrnn.store import rundir

FIELDS = sorted(configs.fields())
FLAGS = {name: "--" + name.replace("_", "-") for name in FIELDS}
HUGE = "9" * 5000  # Python reads no decimal integer of more than 4,300 digits.
HEX = "0x" + "f" * 5000  # It reads this one, and then cannot show it.

# What is wrong with a value of each type: as TOML writes it, and as a flag does.
BAD_VALUES = {
    int: {
        "wrong type": ('"many"', "many"),
        "fraction": ("1.5", "1.5"),
        "nan": ("nan", "nan"),
        "inf": ("inf", "inf"),
        "negative": ("-1", "-1"),
        "huge": (str(10**30), str(10**30)),
        "thousands of digits": (HUGE, HUGE),
        "thousands of hex digits": (HEX, HEX),
        "empty": ('""', ""),
        "array": ("[1, 2]", "1,2 3"),
        "table": ("{ a = 1 }", "{}"),
        "date": ("1979-05-27", "1979-05-27"),
    },
    float: {
        "wrong type": ('"many"', "many"),
        "nan": ("nan", "nan"),
        "inf": ("inf", "inf"),
        "minus inf": ("-inf", "-inf"),
        "huge": ("1e400", "1e400"),
        "thousands of digits": (HUGE, HUGE),
        "thousands of hex digits": (HEX, HEX),
        "empty": ('""', ""),
        "boolean": ("true", "true"),
        "table": ("{ a = 1 }", "{}"),
    },
    bool: {"wrong type": ('"yes"', None), "number": ("1", None), "array": ("[true]", None)},
    str: {
        "wrong type": ("7", None),
        "NUL": (r'"a\u0000b"', "a\0b"),
        "not UTF-8": (None, os.fsdecode(b"caf\xe9")),
        "array": ('["a"]', None),
    },
    typing.Literal: {
        "wrong type": ("3", "3"),
        "thousands of digits": (HUGE, HUGE),
        "empty": ('""', ""),
        "NUL": (r'"\u0000"', "\0"),
        "array": ("[]", "[]"),
        "escapes": (r'"\u001b[31m"', "\x1b[31m"),
    },
}


def hint_of(name):
    """The type of a field, without None."""
    section, key = name.split(".")
    hint = typing.get_type_hints(type(getattr(Config(), section)))[key]
    if typing.get_origin(hint) is typing.Literal or isinstance(hint, type):
        return hint
    return typing.get_args(hint)[0]


def misspelt(word, rng, start=0):
    """A word with one slip of the finger."""
    place = rng.choice([i for i in range(start, len(word) - 1) if word[i] != word[i + 1]])
    return rng.choice(
        [
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
        ]
    )


def values(directory, rng):
    """Bad values of every kind for every field: in a file, as a flag, in a grid."""
    for name in FIELDS:
        hint = hint_of(name)
        kinds = dict(BAD_VALUES[typing.get_origin(hint) or hint])
        of = getattr(hint, "__name__", "choice")
        right = ""
        if typing.get_origin(hint):
            # The longest: no slip of the finger makes another choice of it.
            right = max(typing.get_args(hint), key=len)
            wrong = misspelt(right, rng)
            kinds["misspelt"] = (f'"{wrong}"', wrong)
        for kind, (in_toml, as_text) in kinds.items():
            says = [right] if kind == "misspelt" else []
            section, key = name.split(".")
            if in_toml is not None:
                path = directory / f"{name}-{kind.replace(' ', '-')}.toml"
                path.write_text(f"[{section}]\n{key} = {in_toml}\n")
                # What cannot be read has no name yet.
                named = [] if in_toml == HUGE else [name]
                yield f"file, {kind}, {of}", ["train", path], [path.name, *named, *says]
            if as_text is not None:
                either = f"({re.escape(FLAGS[name])}|{re.escape(name)})"
                flag = f"{FLAGS[name]}={as_text}"
                yield f"flag, {kind}, {of}", ["train", flag], [either, *says]
                arguments = ["sweep", "--seeds=0:2", "--grid", f"{name}={as_text}"]
                yield f"grid, {kind}", arguments, [name]


def names(directory, rng):
    """Slips of the finger in the names of everything that has one."""
    for name in FIELDS:
        section, key = name.split(".")
        wrong = misspelt(name, rng, start=len(section) + 1)
        path = directory / f"{name}-name.toml"
        path.write_text(f"[{section}]\n{wrong.split('.')[1]} = 1\n")
        yield "file, misspelt name", ["train", path], [path.name, wrong, f"did you mean {key}"]
        flag = "--" + wrong.replace("_", "-")
        yield "flag, misspelt name", ["train", f"{flag}=1"], [flag, f"did you mean {FLAGS[name]}"]
        grid = ["sweep", "--seeds=0", "--grid", f"{wrong}=1"]
        yield "grid, misspelt name", grid, [wrong, f"did you mean {name}"]
    for section in Config.__dataclass_fields__:
        path = directory / f"{section}-misspelt.toml"
        path.write_text(f"[{misspelt(section, rng)}]\n")
        yield "file, misspelt section", ["train", path], [f"did you mean {section}"]
    options = {
        "sweep": "seeds grid vary strategy chunk keep plan run-dir resume overwrite",
        "train": "run-dir resume overwrite json debug",
        "compare": "json",
        "eval": "checkpoint split data.dir",
        "predict": "checkpoint rows",
        "data prepare": "manual-dir data.dir",
        "bench": "quick out",
        "bench compare": "fail-above",
    }
    for command, words in options.items():
        for word in words.split():
            wrong = misspelt(f"--{word}", rng, start=2)
            arguments = [*command.split(), f"{wrong}=1"]
            yield "option, misspelt", arguments, [command, wrong, f"did you mean --{word}"]
        yield "option, unknown", [*command.split(), "--zzzzzz"], ["--zzzzzz", f"{command} --help"]
    for command in ("train", "sweep", "compare", "eval", "predict", "bench"):
        yield "command, misspelt", [misspelt(command, rng)], [f"did you mean {command}"]
    choices = [
        ("test", ["eval", "run", "--split"]),
        ("vmap", ["sweep", "--seeds=0", "--strategy"]),
        ("init", ["sweep", "--seeds=0", "--vary"]),
        ("best", ["sweep", "--seeds=0", "--keep"]),
        ("fashion_mnist", ["data", "prepare"]),
        ("startup", ["bench"]),
    ]
    for right, arguments in choices:
        wrong = misspelt(right, rng)
        yield "choice, misspelt", [*arguments, wrong], [wrong, right]


def files(directory, rng):
    """What is no config at all, for `train` and as the suite of `bench`."""
    contents = {
        "not TOML": b"hidden_size: 3\n",
        "half a table": b"[model",
        "a program": b"import os\nos.system('true')\n",
        "JSON": b'{"model": {"hidden_size": 3}}',
        "not UTF-8": b"# caf\xe9\n",
        "UTF-16": "[model]\n".encode("utf-16"),
        "two byte order marks": 2 * b"\xef\xbb\xbf" + b"[model]\n",
        "NUL bytes": bytes(100),
        "random bytes": rng.randbytes(300),
        "duplicate keys": b"[model]\nlayers = 1\nlayers = 2\n",
        "duplicate tables": b"[model]\n[train]\n[model]\n",
        "deep": b"a = " + b"[" * 5000,
        "deep keys": b"[model]\nlayers" + b".a" * 5000 + b" = 1\n",
        "deep tables": b"a = " + b"{a=" * 3000,
        "lone surrogate": b'[data]\ndir = "\\ud800"\n',
        "long name": b"x" * 100_000 + b" = 1\n",
        "long string": b'suite = "' + b"y" * 100_000 + b'"\n',
        "escapes": b'[data]\n"\\u001b[31m" = 1\n',
        "array for a table": b"model = [1, 2]\n",
        "number for a table": b"suite = 3\n",
        "array of tables": b"[[model]]\nlayers = 1\n",
        "markup": b"[data]\n'[red]x[/red]' = 1\n",
    }
    for kind, content in contents.items():
        path = directory / f"{kind.replace(' ', '-')}.toml"
        path.write_bytes(content)
        for command in ("train", "bench"):
            yield f"{kind}, {command}", [command, path], [path.name]
    (directory / "directory.toml").mkdir()
    os.mkfifo(directory / "pipe.toml")
    with (directory / "sparse.toml").open("wb") as file:
        file.truncate(10**11)
    (directory / "loop.toml").symlink_to("loop.toml")
    (directory / "zero.toml").symlink_to("/dev/zero")
    reasons = {
        "missing": "No such file",
        "directory": "Is a directory",
        "pipe": "Not a plain file",
        "sparse": "more than 1,048,576 bytes",
        "loop": "Too many levels",
        "zero": "Not a plain file",
    }
    for kind, reason in reasons.items():
        for command in ("train", "bench"):
            arguments = [command, directory / f"{kind}.toml"]
            yield f"{kind}, {command}", arguments, [f"{kind}.toml: {reason}"]
    strange = {
        "NUL in a name": "a\0.toml",
        "escapes in a name": "\x1b[31mred.toml",
        "name that is not UTF-8": os.fsdecode(b"caf\xe9.toml"),
        "long name of a file": "x" * 5000 + ".toml",
        "lines in a name": "a\nrowrnn: all is well\n.toml",
        "markup in a name": "[/red].toml",
    }
    for kind, name in strange.items():
        for command in ("train", "bench"):
            yield f"{kind}, {command}", [command, name], ["toml: "]
    yield "empty name", ["train", ""], ["config"]
    yield "empty name", ["bench", ""], ["unknown suite ''; rowrnn bench --list"]


def sweeps(directory, rng):
    """Seeds and grids that are none."""
    seeds = ["", " ", "1,,2", "a", "-1", "1.5", "0:4:2", "4:0", "4:4", HUGE, f"0:{HUGE}", "nan",
             "0:99999999", "5,5", "0:3,2", "4294967290:4294967300", "0:\0", "\x1b[31m", "0x10",
             "[0, 1]", "٣"]  # fmt: skip
    for text in seeds:
        yield "seeds", ["sweep", "--seeds", text], ["seed"]
    rate = "optimizer.learning_rate"
    grids = {
        "grid, no values": [[rate], [f"{rate}="], [f"{rate}=,"], ["=1"], [""], ["="]],
        "grid, same values": [[f"{rate}=1,1"], [f"{rate}=1,1.0"], ["optimizer.name=sgd,sgd"]],
        "grid, twice": [[f"{rate}=1", "--grid", "model.layers=1"]],
        "grid, same name": [[f"{rate}=1", f"{rate}=2"]],
        "grid, what cannot vary": [["train.seed=1"], ["train.init_seed=1"], ["data.dir=a"]],
        "grid, empty": [[]],
        "grid, too many": [
            [
                f"{rate}={','.join(f'{i}e-3' for i in range(1, 999))}",
                f"model.hidden_size={','.join(map(str, range(1, 999)))}",
                "model.projection_size=1,2,3,4",
            ]
        ],
    }
    for kind, several in grids.items():
        for axes in several:
            yield kind, ["sweep", "--seeds=0:2", "--grid", *axes], [""]
    for chunk in ("0", "-3", "many", "1.5", "", HUGE):
        yield f"chunk {chunk[:4]}", ["sweep", "--seeds=0:2", f"--chunk={chunk}"], ["--chunk"]
    yield "no seeds", ["sweep"], ["--seeds 0:64"]
    yield "contradiction", ["sweep", "--resume=a", "--run-dir=b"], ["--run-dir b and --resume a"]
    yield "contradiction", ["train", "--resume=a", "--run-dir=b"], ["--run-dir b and --resume a"]
    both = ["train", "--train.epochs=1", "--train.examples=1"]
    yield "contradiction", both, ["only one of the two"]


def commands(directory, rng):
    """Arguments that are missing or too many."""
    for command in (["eval"], ["predict"], ["bench"], ["compare"], ["bench", "compare"]):
        yield "argument missing", command, [" needs "]
    yield "argument missing", ["predict", "run"], ["(at least one picture|PICTURE)"]
    yield "argument missing", ["data"], ["rowrnn data prepare mnist"]
    yield "argument missing", ["data", "prepare"], ["NAME"]
    yield "argument missing", [], [""]
    yield "too many arguments", ["train", "a", "b"], ["b"]
    yield "too many arguments", ["compare", "a", "b", "c"], ["c"]
    for flag in ("--train.epochs", "--resume", "--run-dir", "--data.dir", "--optimizer.name"):
        yield "value missing", ["train", flag], [flag]
    for percent in ("nan", "inf", "-1", "ten", "", "1e400", HUGE, "%"):
        given = ["bench", "compare", "a", "b", f"--fail-above={percent}"]
        yield "percentage", given, ["--fail-above"]
    for name in ("\x1b[31m", "a\nb", "\0", os.fsdecode(b"\xff"), "x" * 5000, "[/red]", ""):
        yield "strange command", [name], ["unknown command"]


def suites(directory, rng):
    """Suites of the benchmarks, in TOML."""
    bad = {
        "no suite": "hidden = [1]\n",
        "suite, wrong type": "suite = ['lstm']\n",
        "suite, misspelt": "suite = 'lsmt'\n",
        "suite, misspelt name": "suite = 'lstm'\nhiden = [1]\n",
        "suite, number for a list": "suite = 'lstm'\nhidden = 128\n",
        "suite, list of strings": "suite = 'lstm'\nhidden = ['a']\n",
        "suite, zero": "suite = 'lstm'\nhidden = [0]\n",
        "suite, negative": "suite = 'train'\nrepeats = -5\n",
        "suite, nan": "suite = 'train'\nsample_s = nan\n",
        "suite, inf": "suite = 'train'\nlimit_s = inf\n",
        "suite, thousands of digits": f"suite = 'train'\nrepeats = {HUGE}\n",
        "suite, thousands of hex digits": f"suite = 'train'\nlimit_s = [{HEX}]\n",
        "suite, misspelt type": "suite = 'lstm'\ntypes = ['float32/hihgest']\n",
        "suite, table": "suite = 'startup'\n[config]\na = 1\n",
        "suite, shape": "suite = 'ceiling'\nproducts = [[1, 2]]\n",
    }
    right = {"suite, misspelt": "lstm", "suite, misspelt name": "hidden",
             "suite, misspelt type": "float32/highest"}  # fmt: skip
    for kind, text in bad.items():
        path = directory / f"{kind.replace(', ', '-').replace(' ', '-')}.toml"
        path.write_text(text)
        hint = [f"did you mean {right[kind]}"] if kind in right else []
        yield kind, ["bench", path], [path.name, *hint]


def choose(cases, count, rng):
    """So many cases, of every kind as evenly as there are."""
    by_kind = {}
    for case in cases:
        by_kind.setdefault(case[0], []).append(case)
    for group in by_kind.values():
        rng.shuffle(group)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    rounds = max(map(len, by_kind.values()))
    turns = [by_kind[kind][i] for i in range(rounds) for kind in kinds if i < len(by_kind[kind])]
    assert len(turns) >= count
    return turns[:count]


# Runs one command line after the other in a process in which jax cannot be imported.
CHILD = """
import contextlib, io, json, sys, time, traceback
from rowrnn import cli

for line in sys.stdin:
    out, err, began = io.StringIO(), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(json.loads(line))
        except SystemExit as left:
            code = left.code
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, out.getvalue(), err.getvalue(), time.perf_counter() - began]))
# Not `ru_maxrss`, which a process takes over from the one that started it.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.row(8, 200, 1000, slow=True)
def test_bad_configs_and_flags_are_named_before_jax_is_imported(
    tmp_path, without_jax, count, record
):
    """Exit 2 with the cause and the nearest valid name, before jax is imported."""
    seed = 8
    rng = random.Random(seed)
    makers = (values, names, files, sweeps, commands, suites)
    cases = choose([case for make in makers for case in make(tmp_path, rng)], count, rng)
    lines = [json.dumps(list(map(str, arguments))) for _, arguments, _ in cases]
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=without_jax,
        timeout=300,
    )
    *results, peak = done.stdout.splitlines()
    assert len(results) == count, done.stderr[-2000:]
    seconds = []
    for (kind, arguments, says), result in zip(cases, results, strict=True):
        code, out, err, took = json.loads(result)
        about = f"{kind}, seed {seed}: {[str(a)[:80] for a in arguments]}: {code}\n{err[:2000]}"
        assert code == 2, about
        assert out == "" or arguments == [], about
        assert "Traceback" not in err, about
        assert all(c.isprintable() or c == "\n" for c in err), about
        if err.startswith("rowrnn: "):
            assert err.count("\n") == 1, about
            assert len(err) < 500 or "long name of a file" in kind, about
        words = " ".join(err.split())
        for pattern in says:
            assert pattern in words or re.search(pattern, words), f"{pattern}: {about}"
        seconds.append(took)
    assert int(peak) < 300 * 1024
    record["kinds"] = len(Counter(kind for kind, _, _ in cases))
    record["largest MiB"] = round(int(peak) / 1024)
    record["seconds each, start-up not counted"] = {
        "median": round(statistics.median(seconds), 3),
        "largest": round(max(seconds), 3),
    }


@pytest.mark.row(8, 2, 20)
def test_a_mistake_is_told_at_once(tmp_path, without_jax, count, record):
    """Seconds of a whole process, from its start to its exit with 2."""
    rng = random.Random(3)
    makers = (values, names, files, sweeps, commands, suites)
    cases = [case for make in makers for case in make(tmp_path, rng)]
    seconds = []
    # No process can be given a NUL, or a name longer than the system's.
    possible = [c for c in cases if c[1] and not any("\0" in str(a) for a in c[1])]
    for kind, arguments, _ in choose(possible, count, rng):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "rowrnn.cli", *map(str, arguments)],
            capture_output=True,
            cwd=tmp_path,
            env=without_jax,
            timeout=60,
        )
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 2, f"{kind}: {arguments}: {done.stderr}"
        assert b"Traceback" not in done.stderr
    record["seconds"] = {
        "median": round(statistics.median(seconds), 2),
        "largest": round(max(seconds), 2),
    }


@pytest.mark.row(8, 60, 2000)
def test_a_damaged_config_is_a_config_or_a_config_error(tmp_path, count):
    """A written config with arbitrary bytes put into it reads, or raises ConfigError."""
    path = tmp_path / "damaged.toml"
    written = configs.dump(Config()).encode()

    @settings(max_examples=count, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, len(written)),
                st.integers(0, 8),
                st.binary(max_size=8) | st.text(max_size=8).map(lambda text: text.encode()),
            ),
            max_size=4,
        )
    )
    def check(changes):
        content = bytearray(written)
        for start, length, new in changes:
            content[start : start + length] = new
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            config = configs.load(path)
            assert configs.from_dict(configs.to_dict(config)) == config

    check()


@pytest.fixture
def accepted(monkeypatch):
    """The configs that `train` and `sweep` were called with; nothing is trained."""
    given = []

    def take(config, *_, **__):
        given.append(config)
        raise ConfigError("accepted")

    monkeypatch.setattr(train_runner, "train", take)
    monkeypatch.setattr(sweep_runner, "sweep", take)
    monkeypatch.setattr(rundir, "default_path", lambda name, take: Path(name))
    yield given
    # The command line silences logs for the whole of its process.
    logging.disable(logging.NOTSET)


@pytest.mark.row(8, 40, 1000)
def test_any_text_as_a_value_is_taken_or_refused(accepted, tmp_path, count, record):
    """Flags and grids with arbitrary text: a config that is written and read back, or exit 2."""
    texts = (
        st.text(max_size=20)
        | st.text("0123456789+-.e_xnaif,:/=", max_size=8)
        | st.sampled_from(["1", "2,3", "0.5", "1e-3", "adam", "kmnist", "a/b", "0:9"])
    )
    # As a process gets them: without NUL, and bytes that are not UTF-8 as surrogates.
    texts = texts.map(lambda text: os.fsdecode(text.encode().replace(b"\0", b"\xff")))

    @settings(max_examples=count, deadline=None)
    @given(st.sampled_from([*FIELDS, "seeds", "grid", "chunk", "zzz"]), texts, st.booleans())
    @example("optimizer.learning_rate", "1e-3", False)  # Chance may draw none that is taken.
    def check(name, text, in_grid):
        if name in ("seeds", "chunk"):
            arguments = ["sweep", "--seeds=0:2", f"--{name}={text}"]
        elif name == "grid":
            arguments = ["sweep", "--seeds=0:2", "--grid", text]
        elif in_grid:
            arguments = ["sweep", "--seeds=0:2", "--grid", f"{name}={text}"]
        else:
            arguments = ["train", f"--{name.replace('_', '-')}={text}"]
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = cli.run(arguments)
            except SystemExit as left:
                code = left.code
        assert code in (0, 2)  # 0: text can be --help.
        assert all(c.isprintable() or c == "\n" for c in err.getvalue())

    check()
    for config in accepted:
        path = tmp_path / "accepted.toml"
        path.write_text(configs.dump(config), encoding="utf-8")
        assert configs.load(path) == config
    assert accepted
    record["taken"] = len(accepted)
