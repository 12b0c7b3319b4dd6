"""In a terminal of 80 columns no line is longer, and none ends within a word."""

import io
import re

import pytest

from rowrnn import cli
from rowrnn.cli import terminal

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
