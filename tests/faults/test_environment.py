"""Places that lack something: a home, a network, permissions, a terminal, a locale."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import compiler
import pytest
from in_process import here
from PIL import Image, ImageDraw

import rowrnn

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--data.validation-size=100",
        "--optimizer.name=adamw"]  # fmt: skip
SWEEP = ["sweep", *TINY, "--seeds=0:2", "--grid"]
RATES = "optimizer.learning_rate=0.001234,0.002345"
# What the environment of the tests may say of the places that are tested.
OWN = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "TMPDIR", "TFDS_DATA_DIR", "COLUMNS",
       "LINES", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING", "TERM", "NO_COLOR",
       "FORCE_COLOR", "MPLCONFIGDIR")  # fmt: skip
# Those of all other tests, for what is not about the place where they are kept.
PROGRAMS = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
# Compiles in less time, where nothing is kept of what is compiled.
UNOPTIMIZED = {"XLA_FLAGS": compiler.FLAGS}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOBODY, NAMELESS = 65534, 54321


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    return kept | {"PYTHONPATH": str(Path(rowrnn.__file__).parents[1])} | changes


def rowrnn_in(cwd, *arguments, code=0, prefix=(), **changes):
    """Runs a command to its end; gives stdout and stderr, as bytes."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "rowrnn.cli", *arguments],
        cwd=cwd, env=environment(**changes), capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done.stdout, done.stderr


def as_user(uid):
    """A prefix that makes a process another user's, who may read everything and write nothing."""
    if os.getuid() != 0:
        return []  # What belongs to root cannot be written to anyway.
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *caps]


def works(prefix):
    """Whether a command can run another one here."""
    return not prefix or (
        shutil.which(prefix[0]) is not None
        and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    )


class Place:
    """A trained run, and an empty directory for each situation."""

    def __init__(self, path):
        self._path, self._count = path, 0
        self.run = path / "run"

    def empty(self, owner=None):
        self._count += 1
        path = self._path / str(self._count)
        path.mkdir()
        if owner is not None and os.getuid() == 0:
            os.chown(path, owner, owner)
        return path

    def read_only(self, owner=None):
        path = self.empty(owner)
        path.chmod(0o555)
        return path

    def picture(self, cwd, name="seven.png"):
        sheet = Image.new("L", (140, 140), "white")
        ImageDraw.Draw(sheet).line([(45, 25), (100, 25), (60, 112)], fill="black", width=9)
        sheet.save(cwd / "picture.png")
        os.rename(cwd / "picture.png", os.path.join(os.fsencode(cwd), os.fsencode(name)))
        return name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("place")
    here("train", *TINY, "--run-dir=run", cwd=path)
    return Place(path)


def go_through(situations, place, count, record):
    """Tries the first situations, each with what its first line says."""
    record["seconds"] = {}
    assert len(situations) >= count
    for situation in situations[:count]:
        began = time.perf_counter()
        situation(place)
        record["seconds"][situation.__doc__.splitlines()[0]] = round(time.perf_counter() - began, 1)


# Another user's process: as root nothing would be read-only.


def read_only_home(place):
    """A home that cannot be written to: trains, and leaves nothing behind."""
    home, cwd = place.read_only(), place.empty(NOBODY)
    there = {"HOME": str(home), **UNOPTIMIZED}
    rowrnn_in(cwd, "train", *TINY, "--run-dir=run", prefix=as_user(NOBODY), **there)
    assert (cwd / "run" / "result.json").exists()
    assert not list(home.iterdir())


def read_only_directory(place):
    """No permission where the run would be kept: exit 4, with what to do."""
    cwd = place.read_only()
    _, err = rowrnn_in(cwd, "train", *TINY, code=4, prefix=as_user(NOBODY))
    assert b"Permission denied; choose another with --run-dir" in err
    assert len(err.splitlines()) == 1


def nobody_at_all(place):
    """A user without a name and without HOME: trains, and takes no ~ for a name."""
    cwd = place.empty(NAMELESS)
    rowrnn_in(cwd, "train", *TINY, "--run-dir=run", prefix=as_user(NAMELESS))
    assert os.listdir(cwd) == ["run"]


def missing_home(place):
    """A home that does not exist: trains."""
    cwd = place.empty(NOBODY)
    rowrnn_in(cwd, "train", *TINY, "--run-dir=run", prefix=as_user(NOBODY), HOME="/nonexistent")


def no_home_for_data(place):
    """Without a home, a data set that lies there: exit 3, and which flag names another place."""
    arguments = ["train", "--data.dataset=mnist"]
    _, err = rowrnn_in(place.empty(), *arguments, code=3, prefix=as_user(NAMELESS))
    if os.getuid() == 0:
        assert b"--data.dir, or in TFDS_DATA_DIR" in err


def missing_tmpdir(place):
    """TMPDIR that does not exist: trains."""
    cwd = place.empty(NOBODY)
    arguments = ["train", *TINY, "--run-dir=run"]
    rowrnn_in(cwd, *arguments, prefix=as_user(NOBODY), TMPDIR="/nonexistent", HOME=str(cwd))


def predict_in_a_read_only_run(place):
    """A run that cannot be written to: predicts, evaluation says that it cannot be kept."""
    cwd = place.empty()
    picture = place.picture(cwd)
    prefix = as_user(NOBODY)
    out, _ = rowrnn_in(cwd, "predict", str(place.run), picture, prefix=prefix)
    assert out.startswith(picture.encode())
    _, err = rowrnn_in(cwd, "eval", str(place.run), code=4, prefix=prefix)
    assert b"the evaluation was not written: Permission denied" in err
    _, err = rowrnn_in(cwd, "train", f"--resume={place.run}", code=4, prefix=prefix)
    assert b"Permission denied" in err


def sweep_in_a_read_only_directory(place):
    """No permission where the sweep would be kept: exit 4, with what to do."""
    arguments = ["sweep", *TINY, "--seeds=0:2"]
    _, err = rowrnn_in(place.read_only(), *arguments, code=4, prefix=as_user(NOBODY))
    assert b"Permission denied; choose another with --run-dir" in err


@pytest.mark.row(12, 1, 8, slow=True)
@pytest.mark.skipif(not works(as_user(NOBODY)), reason="setpriv cannot make another user's process")
def test_homes_and_permissions(place, count, record):
    """No home, a read-only one, none at all, no write permission, no TMPDIR: works, or says."""
    situations = [read_only_home, read_only_directory, nobody_at_all, no_home_for_data,
                  missing_tmpdir, predict_in_a_read_only_run, missing_home,
                  sweep_in_a_read_only_directory]  # fmt: skip
    go_through(situations, place, count, record)


# Terminals and locales.


def on_terminal(cwd, *arguments, columns, code=0, **changes):
    """Runs a command on a terminal; gives the lines that were on it, without colours."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    process = subprocess.Popen(
        [sys.executable, "-m", "rowrnn.cli", *arguments],
        cwd=cwd, env=environment(**{"TERM": "xterm"} | changes),
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 2**16)
        except OSError:  # The last process that had the terminal is gone.
            break
        if not block:
            break
        shown += block
    os.close(master)
    text = shown.decode()
    assert process.wait(timeout=60) == code, text
    assert "Traceback" not in text
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


def fits(lines, columns):
    long = [line for line in lines if len(line.rstrip()) > columns]
    return not long or pytest.fail(f"longer than {columns} columns: {long}")


def ascii_locale(place):
    """A locale without Unicode: pictures of rows, figures and help, in other characters."""
    cwd = place.empty()
    name = place.picture(cwd, "sieben-ünö.png")
    out, err = rowrnn_in(
        cwd, "predict", str(place.run), name, "fehlt-×.png", "--rows", code=3, **ASCII, **PROGRAMS
    )
    assert out.isascii()
    assert err.isascii()
    rows = out.splitlines()[1:]
    assert len(rows) == 28
    assert re.search(rb"[.:*#]{3}", b"".join(rows))
    out, _ = rowrnn_in(cwd, "train", "--help", **ASCII)
    assert out.isascii()
    assert b"--data.dir" in out


def terminal_of_80_columns(place):
    """A terminal of 80 columns: no line of train and eval is longer."""
    cwd = place.empty()
    arguments = ["train", *TINY, "--run-dir=run"]
    lines = on_terminal(cwd, *arguments, columns=80, HOME=str(cwd))
    assert fits(lines, 80)
    assert any("examples/s" in line for line in lines)
    lines = on_terminal(cwd, "eval", "run", columns=80, HOME=str(cwd))
    assert fits(lines, 80)


def names_that_are_not_utf8(place):
    """Names of files that are no text in any locale: read, and shown without harm."""
    cwd = place.empty()
    name = place.picture(cwd, os.fsdecode(b"caf\xe9.png"))
    for locale in ({}, ASCII, {"PYTHONIOENCODING": "latin-1"}):
        missing = os.fsdecode(b"\xff.png")
        out, err = rowrnn_in(
            cwd, "predict", str(place.run), name, missing, "--json", code=3, **locale
        )
        assert rb"caf\udce9.png: " in out
        assert rb"\udcff.png: No such file" in err
        assert json.loads(out.splitlines()[-1])[0]["path"] == name
    _, err = rowrnn_in(cwd, "train", os.fsdecode(b"caf\xe9.toml"), code=2)
    assert rb"config caf\udce9.toml: No such file" in err


def run_directory_that_is_not_utf8(place):
    """A run directory that is no text: refused, since its name stands in its files."""
    cwd, name = place.empty(), os.fsdecode(b"caf\xe9")
    for arguments in (["train", *TINY, f"--run-dir={name}"], ["eval", name],
                      ["sweep", "--seeds=0", f"--run-dir={name}"],
                      ["predict", name, "a.png"]):  # fmt: skip
        _, err = rowrnn_in(cwd, *arguments, code=2)
        assert rb"caf\udce9" in err
    assert not os.listdir(cwd)


def sweep_at_80_columns(place):
    """A sweep over a grid, on a terminal and without one: no line is longer than 80 columns."""
    cwd = place.empty()
    grid = [RATES, "model.hidden_size=8,16"]
    arguments = [*SWEEP, *grid, "--run-dir=sweep"]
    lines = on_terminal(cwd, *arguments, columns=80, HOME=str(cwd))
    assert fits(lines, 80)
    assert any("learning_rate" in line and "95 % interval" in line for line in lines)
    _, err = rowrnn_in(cwd, *arguments, "--overwrite", HOME=str(cwd))
    assert fits(err.decode().splitlines(), 80)
    assert b"0.002345" in err


def narrow_terminal(place):
    """Forty columns: no figure of a sweep or an evaluation is cut."""
    cwd = place.empty()
    lines = on_terminal(cwd, *SWEEP, RATES, "--run-dir=sweep", columns=40, HOME=str(cwd))
    table = lines[lines.index("Test accuracy over seeds") + 1 : -2]
    assert fits(table[:-1], 40)
    words = " ".join(" ".join(table).split())
    figure = r"\d\.\d{4}"
    pattern = rf"learning_rate 0.00\d+, seeds 2, mean {figure}, 95 % interval {figure} to {figure}"
    assert len(re.findall(pattern, words)) == 2, lines
    lines = on_terminal(cwd, "eval", str(place.run), columns=40, HOME=str(cwd))
    assert not any("…" in line for line in lines), lines


def other_encodings(place):
    """stdout in ASCII or Latin-1: what it has no character for is escaped."""
    cwd = place.empty()
    names = [place.picture(cwd, "sieben-×-…-░.png")]
    for encoding, shown in (("ascii", rb"sieben-\xd7-\u2026-\u2591.png"),
                            ("latin-1", b"sieben-\xd7-\\u2026-\\u2591.png"),
                            ("utf-8:strict", names[0].encode())):  # fmt: skip
        out, _ = rowrnn_in(
            cwd, "predict", str(place.run), *names, "--rows", PYTHONIOENCODING=encoding
        )
        assert out.startswith(shown + b": ")


def closed_streams(place):
    """Streams that were closed by who started it: trains, and writes into no file of the run."""
    cwd = place.empty()
    command = [sys.executable, "-m", "rowrnn.cli", "train", *TINY, "--run-dir=run", "--json"]
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command]
    subprocess.run(shell, cwd=cwd, env=environment(HOME=str(cwd)), check=True, timeout=120)
    for line in (cwd / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert json.loads((cwd / "run" / "result.json").read_text())["steps"] == 10


def reader_that_leaves(place):
    """Whoever reads stdout leaves after a line: no traceback."""
    cwd = place.empty()
    names = [place.picture(cwd)] * 200
    command = [sys.executable, "-m", "rowrnn.cli", "predict", str(place.run), *names, "--rows"]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith(b"seven.png: ")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.row(12, 1, 9)
def test_terminals_and_locales(place, count, record):
    """80 columns, 40, no terminal, no stream, no Unicode, names that are no text."""
    situations = [ascii_locale, terminal_of_80_columns, names_that_are_not_utf8,
                  run_directory_that_is_not_utf8, sweep_at_80_columns, narrow_terminal,
                  other_encodings, closed_streams, reader_that_leaves]  # fmt: skip
    go_through(situations, place, count, record)


# No network.

OFFLINE = ["unshare", "--net"]


def train_offline(place):
    """What ships with rowrnn needs no network: trains."""
    cwd = place.empty()
    rowrnn_in(cwd, "train", *TINY, "--run-dir=run", prefix=OFFLINE, HOME=str(cwd))


def prepare_offline(place):
    """A data set to download: exit 3 at once, and how to do without."""
    cwd = place.empty()
    arguments = ["data", "prepare", "mnist", "--data.dir=tfds"]
    _, err = rowrnn_in(cwd, *arguments, code=3, prefix=OFFLINE, HOME=str(cwd))
    assert b"download failed" in err
    assert b"rowrnn data prepare mnist --manual-dir DIR" in err
    assert not (cwd / "tfds").exists()


def unprepared_offline(place):
    """A data set that is not prepared: exit 3, without asking the network."""
    cwd = place.empty()
    arguments = ["train", "--data.dataset=mnist", "--data.dir=tfds"]
    _, err = rowrnn_in(cwd, *arguments, code=3, prefix=OFFLINE, HOME=str(cwd))
    assert b"without a network: --manual-dir DIR" in err


@pytest.mark.row(12, 1, 3)
@pytest.mark.skipif(not works(OFFLINE), reason="unshare cannot take the network away")
def test_without_a_network(place, count, record):
    """No network: trains on the digits that ship with rowrnn; a download says how to do without."""
    go_through([prepare_offline, train_offline, unprepared_offline], place, count, record)
