"""Completion, by the shells themselves, against the help of the commands."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import textwrap
import time
from typing import get_args, get_type_hints

import pytest

from rowrnn import cli
from rowrnn.config import DataConfig, ModelConfig

COMMANDS = [name for name in cli._MODULES if name != "data"] + ["data prepare", "bench compare"]
INITS = set(get_args(get_type_hints(ModelConfig)["init"]))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, made without jax."""
    directory = tmp_path_factory.mktemp("scripts")
    code = """
        import contextlib, sys
        from rowrnn import cli
        for shell, name in {"bash": "rowrnn.bash", "zsh": "_rowrnn", "fish": "rowrnn.fish"}.items():
            with open(name, "w") as file, contextlib.redirect_stdout(file):
                assert cli.run(["completion", shell]) == 0
        assert "jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=directory, check=True)
    return directory


@pytest.fixture
def place(tmp_path):
    """A directory with something to complete."""
    for name in ("a.toml", "my config.toml"):
        (tmp_path / name).touch()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return tmp_path


def bash(scripts, lines):
    """What the function in bash offers for each line, of which the last word is being typed."""
    # The real one wants a key that was pressed.
    ask = ["compopt() { :; }", f"source {scripts / 'rowrnn.bash'}"]
    for line in lines:
        quoted = " ".join(f"'{word}'" for word in line.split(" "))
        ask += [
            f"COMP_WORDS=({quoted}) COMP_CWORD={line.count(' ')} COMPREPLY=()", "_rowrnn",
            "printf '%s\\t' \"${COMPREPLY[@]}\"; echo",
        ]  # fmt: skip
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(ask)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [{word for word in line.split("\t") if word} for line in done.stdout.splitlines()]


def options_in_help(command, capsys):
    """The options that the help of a command has at the beginning of a line."""
    first, *rest = command.split()
    with pytest.raises(SystemExit):
        cli.run([first, *rest, "--help"])
    lines = re.findall(r"^[│ ] (-.*?)(?:  | │|$)", capsys.readouterr().out, re.MULTILINE)
    return set(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", " ".join(lines)))


@pytest.mark.parametrize(
    "commands",
    [("train", "bench compare"), pytest.param(COMMANDS, marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def test_bash_completes_every_option_of_every_command(scripts, capsys, commands):
    offered = bash(scripts, [f"rowrnn {command} -" for command in commands])
    for command, options in zip(commands, offered, strict=True):
        assert "--help" in options
        # tyro has no short options but -h.
        expected = options_in_help(command, capsys)
        assert options == expected, command


def test_bash_completes_commands_options_and_values(scripts):
    datasets = set(get_args(get_args(get_type_hints(DataConfig)["dataset"])[0]))
    expected = {
        "rowrnn ": {*cli._MODULES, "--help", "-h"},
        "rowrnn sw": {"sweep"},
        "rowrnn train --model.init ": INITS,
        "rowrnn sweep --seeds 0:4 --model.init n": {"notebook"},
        "rowrnn train --data.dataset m": {name for name in datasets if name[0] == "m"},
        "rowrnn train --model.init notebook --data.dataset idx --optimizer.na": {
            "--optimizer.name"
        },
        "rowrnn train --train.seed ": set(),
        "rowrnn train a": set(),
        "rowrnn data ": {"prepare", "--help", "-h"},
        "rowrnn bench com": {"compare"},
        "rowrnn bench compare --fail": {"--fail-above"},
    }
    for (line, words), found in zip(expected.items(), bash(scripts, expected), strict=True):
        assert found == words, line


def typed(command, setup, line, expected, cwd, home):
    """Types a line and Tab into an interactive shell, until it shows what is expected."""
    terminal, other_end = pty.openpty()
    shell = subprocess.Popen(
        # The first of a session that opens a terminal is controlled by it, as a shell wants to be.
        ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(other_end), *command],
        cwd=cwd,
        env=os.environ | {"HOME": str(home), "TERM": "dumb", "COLUMNS": "200"},
        start_new_session=True,
    )
    shown, deadline = "", time.monotonic() + 60
    try:
        os.write(terminal, f"{setup}; PS1='ready''> '\n".encode())
        for wanted, keys in (("ready> ", f"{line}\t"), (expected, "")):
            while wanted not in shown and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 65_536).decode(errors="replace")
            assert wanted in shown, shown
            os.write(terminal, keys.encode())
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
        os.close(other_end)


LINES = {
    "rowrnn sw": "rowrnn sweep ",
    "rowrnn train --model.in": "rowrnn train --model.init ",
    "rowrnn train my": r"rowrnn train my\ config.toml",
    "rowrnn eval runs/o": "rowrnn eval runs/one/",
    "rowrnn train --resume ru": "rowrnn train --resume runs/",
}


@pytest.mark.parametrize("line", LINES)
def test_bash_completes_what_is_typed(scripts, place, tmp_path, line):
    command = ["bash", "--norc", "--noprofile", "-i"]
    setup = f"bind 'set enable-bracketed-paste off'; source {scripts / 'rowrnn.bash'}"
    typed(command, setup, line, LINES[line], place, tmp_path)


@pytest.mark.parametrize("line", LINES)
def test_zsh_completes_what_is_typed(scripts, place, tmp_path, line):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    setup = (
        f"unsetopt zle_bracketed_paste; fpath=({scripts} $fpath); autoload -Uz compinit; "
        f"compinit -u -d {tmp_path / 'dump'}"
    )
    typed(["zsh", "-f", "-i"], setup, line, LINES[line], place, tmp_path)


def test_fish_completes_commands_options_values_and_files(scripts, place):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")

    def offered(line):
        ask = f"source {scripts / 'rowrnn.fish'}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", ask],
            cwd=place, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert offered("rowrnn ") == {*cli._MODULES, "--help", "-h"}
    assert offered("rowrnn train --model.init ") == INITS
    assert offered("rowrnn bench compare --fail") == {"--fail-above"}
    assert offered("rowrnn data pre") == {"prepare"}
    assert offered("rowrnn train my") == {"my config.toml"}
    assert offered("rowrnn train --resume ru") == {"runs/"}
