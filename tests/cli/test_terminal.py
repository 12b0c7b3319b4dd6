"""In a terminal of 80 columns no line is longer, and none ends within a word."""

import importlib
import inspect
import io
import itertools
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from rowrnn import cli, data
from rowrnn.cli import terminal
from rowrnn.cli.report import report_at_end
from rowrnn.config import DataConfig
from rowrnn.errors import say

COMMANDS = ["train", "sweep", "extract", "compare", "runs", "eval", "predict", "read", "report",
            "export", "data prepare", "bench", "bench compare", "launch", "completion"]  # fmt: skip


def help_of(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        cli.run([*command.split(), "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(command, capsys, monkeypatch):
    lines = help_of(command, capsys, monkeypatch).splitlines()
    assert lines[0].startswith(f"usage: rowrnn {command}")
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(" ")]
    assert not re.search(r"\(default:\s+(None|''|)\)", "\n".join(lines)), "they say nothing"


def test_help_of_a_terminal_has_the_defaults_that_say_something(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    told = re.sub(r"\x1b\[[\d;]*m", "", help_of("train", capsys, monkeypatch))
    assert "(default: 128)" in told
    assert not re.search(r"\(default:[\s│]+(None|''|)\)", told)


@pytest.mark.parametrize("module", sorted({*cli._MODULES.values()} - {"completion"}))
def test_no_line_of_a_description_breaks_a_sentence(module):
    # tyro begins a new line where one in the source begins with no letter.
    for name, kind in vars(importlib.import_module(f"rowrnn.cli.{module}")).items():
        lines = inspect.cleandoc(kind.__doc__).split("\n") if name.endswith("Arguments") else []
        assert not [b for a, b in itertools.pairwise(lines) if a and b and not b[0].isalpha()]


MISTAKES = [
    ("eval", "eval needs RUN;"),
    ("extract", "extract needs SWEEP, MEMBER, --to DIR;"),
    ("bench compare old", "bench compare needs NEW.json;"),
    ("data prepare", "data prepare needs NAME;"),
    ("completion tcsh", "shell tcsh: must be one of bash, zsh, fish;"),
    ("eval run --split=tset", "--split tset: must be one of test, validation, train;"),
    ("compare a b --margin=x", "--margin x: must be a number;"),
    ("sweep --seeds=0:2 --chunk=x", "--chunk x: must be an integer;"),
    ("launch -n x -- train", "-n/--processes x: must be an integer;"),
    (f"launch -n {5000 * '9'} -- train", "-n/--processes: must be a smaller integer;"),
    (f"sweep --seeds=0:2 --chunk {5000 * '9'}", "--chunk: must be a smaller integer;"),
    ("eval run --checkpoint", "--checkpoint needs a value;"),
    ("runs a b", "unknown argument b;"),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES)
def test_wrong_arguments_are_told_in_a_sentence(line, says, capsys):
    assert cli.run(line.split()) == 2
    command = re.sub(r" (-|old|tcsh|run|a\b).*", "", line)
    told = f"rowrnn: {says} rowrnn {command} --help shows all\n"
    assert capsys.readouterr().err == told


def test_a_long_value_is_cut(capsys):
    assert cli.run(["launch", "-n", 500 * "x", "--", "train"]) == 2
    # tyro may have put a blank into it, at the end of a line.
    told = r"rowrnn: -n/--processes [x ]{59}…: must be an integer; rowrnn launch --help shows all\n"
    assert re.fullmatch(told, capsys.readouterr().err)


def test_help_says_all_words_of_the_description(capsys, monkeypatch):
    from rowrnn.cli.bench import BenchArguments

    told = help_of("bench", capsys, monkeypatch).split("positional arguments")[0]
    words = re.sub(r"\s+", " ", BenchArguments.__doc__ or "").strip()
    assert words in re.sub(r"\s+", " ", told)


def test_what_there_is_fits_a_terminal(capsys):
    assert cli.run(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_is_folded_between_words_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    line = "rowrnn: " + " ".join(["model.hidden-size", "is", "what", "was", "meant"] * 9)
    screen, file = Terminal(), io.StringIO()
    terminal.tell(line, screen)
    terminal.tell(line, file)
    assert file.getvalue() == line + "\n"
    lines = screen.getvalue().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    assert " ".join(lines) == line


def test_what_is_said_of_pictures_is_folded_too(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for kind, side in itertools.product(("ant", "bee"), (5, 6)):
        path = tmp_path / "pictures-of-small-things" / kind / f"{side}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((side, side), np.uint8)).save(path)
    monkeypatch.setattr("sys.stderr", Terminal())
    data.load(DataConfig("folder", "pictures-of-small-things"))
    said = sys.stderr.getvalue().rpartition("\x1b[?25h")[2]
    assert "resized from 1 other size" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80


def test_what_was_said_on_the_way_is_not_said_again_by_the_report(monkeypatch, capsys):
    def report(path):
        say("images are float64 from 0 to 1, and are taken times 255")
        return types.SimpleNamespace(path=path)

    monkeypatch.setattr("rowrnn.show.report.report", report)
    report_at_end("page.html")
    assert capsys.readouterr().err == "Look at it: page.html\n"
