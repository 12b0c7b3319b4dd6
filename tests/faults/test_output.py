"""Output that cannot be written, a working directory that is gone, and errors nobody expected."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from in_process import command, last_json

import rowrnn

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--train.display=none", "--data.validation-size=100",
        "--optimizer.name=adamw"]  # fmt: skip
# Commands, and their exit codes where all can be written; the first three are the fast ones.
COMMANDS = [
    (["--help"], 0), (["runs", "--json"], 0), (["eval", "none", "--json"], 4),
    (["--version"], 0), (["compare", "sweep", "sweep", "--json"], 0), (["train", "--help"], 0),
    (["train", "--model.hidden-size=x"], 2), (["eval", "run", "--json"], 0),
    (["train", *TINY, "--run-dir=NEW", "--json"], 0), (["train", *TINY, "--run-dir=NEW"], 0),
    (["sweep", *TINY, "--seeds=0:2", "--run-dir=NEW", "--json"], 0), (["report", "run"], 0),
    (["completion", "bash"], 0), (["bench", "--list"], 0),
]  # fmt: skip
LOST = "was not written: No space left on device"


def rowrnn_in(cwd, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
    path = str(Path(rowrnn.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "rowrnn", *map(str, arguments)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": path} | variables,
        stdout=stdout, stderr=stderr, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout or "", done.stderr or ""


class PanicError(BaseException):
    """As those of Rust, which are no `Exception`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    assert command("train", *TINY, f"--run-dir={directory / 'run'}")[0] == 0
    assert command("sweep", *TINY, "--seeds=0:2", f"--run-dir={directory / 'sweep'}")[0] == 0
    return directory


@pytest.mark.row(19, 2, 28)
def test_output_that_cannot_be_written_is_told_and_the_result_is_kept(made, count, record):
    """stdout or stderr is `/dev/full`: exit code 4 (or that of the command's own error), a line on
    the other one, no traceback; and what the command makes is there."""
    kept = 0
    for number in range(count):
        words, code = COMMANDS[number % len(COMMANDS)]
        words = [word.replace("NEW", f"new-{number}") for word in words]
        # Each with one stream, and at the full count with the other one too.
        lost = ("stdout", "stderr")[(number + number // len(COMMANDS)) % 2]
        with open("/dev/full", "w") as full:
            found, out, err = rowrnn_in(made, *words, **{lost: full})
        about = (words, lost, found, out[-300:], err[-2000:])
        # What writes nothing there loses nothing.
        whole = [word.replace(f"new-{number}", f"whole-{number}") for word in words]
        silent = not rowrnn_in(made, *whole)[("stdout", "stderr").index(lost) + 1]
        assert found == (code or (0 if silent else 4)), about
        said = out + err
        assert "Traceback" not in said, about
        if lost == "stdout":
            # An error that is told on stderr alone has lost nothing.
            assert (f"rowrnn: stdout {LOST}" in err) == (
                not silent and (code == 0 or "--json" in words)
            ), about
        elif "--json" in words:
            json.loads(out.splitlines()[-1])
        made_now = made / f"new-{number}"
        if any(str(made_now.name) in word for word in words):
            kept += 1
            assert (made_now / ("results.json" if words[0] == "sweep" else "result.json")).exists()
    record.update(results_kept=kept)


@pytest.mark.parametrize("words", [["train", *TINY], ["eval", "run"], ["sweep", "--seeds=0:2"]])
def test_a_working_directory_that_is_gone_is_told_in_a_line(tmp_path, monkeypatch, words):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        code, _, err = command(*words)
    finally:
        os.chdir(tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"rowrnn: {words[0]}: the working directory cannot be found" in err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("a\nb"), "an error that nobody expected: RuntimeError: a b"),
        (MemoryError(), "there was not enough memory"),
        (PanicError(), "nobody expected: PanicError"),
    ],
)
def test_an_error_that_nobody_expected_is_a_line(made, tmp_path, monkeypatch, error, says):
    def fail(*_):
        raise error

    # What `export` calls first.
    monkeypatch.setattr("rowrnn.show.export.require_unused", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(made)
    code, out, err = command("export", "run", "--to=out", "--json")
    assert (code, len(err.splitlines())) == (70, 1), err
    assert says in err
    assert err.startswith("rowrnn: export: ")
    (path,) = re.findall(rf"its traceback is in ({tmp_path}/rowrnn-\S+\.txt);", err)
    assert "Traceback (most recent call last)" in Path(path).read_text()
    assert last_json(out)["exit"] == 70
    shown = command("export", "run", "--to=out", "--debug")
    assert shown[0] == 70
    assert "Traceback (most recent call last)" in shown[2]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["eval", "none"], 4, "none does not exist"),
        (["trian"], 2, "did you mean train?"),
        (["train", "--bogus=1"], 2, "train has no option --bogus"),
        (["eval", "run", "--split=bogus"], 2, "bogus"),
        (["eval"], 2, "RUN"),
        (["train", "--data.dataset=idx", "--data.dir=none"], 3, "no such directory"),
        (["compare", "run"], 4, "is a single run"),
        (["bench", "compare", "none.json", "none.json"], 2, "No such file"),
        (["sweep"], 2, "needs seeds"),
        (["report", "none"], 4, "none"),
    ],
)
def test_with_json_an_error_is_json(made, monkeypatch, words, code, says):
    monkeypatch.chdir(made)
    found, out, err = command(*words, "--json")
    assert found == code
    answer = last_json(out)
    assert answer["exit"] == code
    assert answer.keys() == {"error", "exit"}
    assert says in answer["error"]
    assert err
    assert command(*words)[1] == ""


@pytest.mark.parametrize(
    "line",
    [
        "eval run --json",
        pytest.param("runs .", marks=pytest.mark.slow),
        pytest.param("--help", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_open(made, line):
    code, _, err = rowrnn_in(made, *line.split(), PYTHONWARNINGS="error")
    assert (code, err) == (0, "")


def test_what_is_no_directory_is_not_said_to_be_missing(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    assert "/dev/null is no directory" in command("eval", "/dev/null")[2]
    assert "none does not exist" in command("eval", "none")[2]
    started = json.loads((made / "sweep" / "sweep.json").read_text())
    assert started["seeds"] == [0, 1]
    whole = (made / "sweep" / "results.json").read_text()
    try:
        empty = json.dumps(json.loads(whole) | {"members": []})
        (made / "sweep" / "results.json").write_text(empty)
        assert "results.json has no members" in command("compare", "sweep", "sweep")[2]
    finally:
        (made / "sweep" / "results.json").write_text(whole)
    grid = ["--grid", "data.validation_size=0,500,None", "--seeds=0:1", "--plan", "--json"]
    code, out, err = command("sweep", *TINY[:4], "--train.display=none", *grid)
    assert code == 0, err
    assert last_json(out)["points"] == 3
