"""Completion, by the shells themselves, against the help of the commands."""

import re
import shutil
import subprocess
import sys
import textwrap
from typing import get_args, get_type_hints

import pytest

from rowrnn import cli
from rowrnn.config import DataConfig, ModelConfig

COMMANDS = [name for name in cli._MODULES if name != "data"] + ["data prepare", "bench compare"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, made without jax."""
    directory = tmp_path_factory.mktemp("scripts")
    code = """
        import contextlib, sys
        from rowrnn import cli
        for shell in ("bash", "zsh", "fish"):
            with open(shell, "w") as file, contextlib.redirect_stdout(file):
                assert cli.run(["completion", shell]) == 0
        assert "jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=directory, check=True)
    return {path.name: path for path in directory.iterdir()}


def bash(script, lines, cwd):
    """What bash offers for each line, of which the last word is being typed."""
    ask = ["source " + str(script)]
    for line in lines:
        # As readline splits them.
        words = re.sub(r"=", " = ", line).split(" ")
        words = [word for word in words[:-1] if word] + words[-1:]
        quoted = " ".join(f"'{word}'" for word in words)
        ask += [
            f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1} COMPREPLY=()", "_rowrnn",
            "printf '%s\\t' \"${COMPREPLY[@]}\"; echo",
        ]  # fmt: skip
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(ask)],
        cwd=cwd, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [[word for word in line.split("\t") if word] for line in done.stdout.splitlines()]


def options_in_help(command, capsys):
    """The options that the help of a command has at the beginning of a line."""
    first, *rest = command.split()
    with pytest.raises(SystemExit):
        cli.run([first, *rest, "--help"])
    lines = re.findall(r"^[│ ] (-.*?)(?:  | │|$)", capsys.readouterr().out, re.MULTILINE)
    return set(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", " ".join(lines)))


def test_bash_completes_every_option_of_every_command(scripts, tmp_path, capsys):
    offered = bash(scripts["bash"], [f"rowrnn {command} -" for command in COMMANDS], tmp_path)
    for command, options in zip(COMMANDS, offered, strict=True):
        assert "--help" in options
        assert set(options) == options_in_help(command, capsys), command


def test_bash_completes_commands_values_and_files(scripts, tmp_path):
    for name in ("a.toml", "my config.toml", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    inits = list(get_args(get_type_hints(ModelConfig)["init"]))
    datasets = list(get_args(get_type_hints(DataConfig)["dataset"]))
    configs = ["a.toml", "my config.toml", "runs"]
    everything = ["a.toml", "my config.toml", "notes.txt", "runs"]
    expected = {
        "rowrnn ": [*cli._MODULES, "--help", "--version"],
        "rowrnn sw": ["sweep"],
        "rowrnn train --model.init ": inits,
        "rowrnn sweep --seeds 0:4 --model.init=": inits,
        "rowrnn train a.toml --model.init=n": [name for name in inits if name[0] == "n"],
        "rowrnn train --data.dataset m": [name for name in datasets if name[0] == "m"],
        "rowrnn train --model.init notebook --data.dataset idx --optimizer.na": [
            "--optimizer.name"
        ],
        "rowrnn train --train.seed ": [],
        "rowrnn train --json ": configs,
        "rowrnn train my": ["my config.toml"],
        "rowrnn train --resume ": everything,
        "rowrnn runs r": ["runs"],
        "rowrnn data ": ["prepare"],
        "rowrnn data prepare ": ["mnist", "fashion_mnist", "kmnist"],
        "rowrnn bench com": ["compare"],
        "rowrnn bench compare n": ["notes.txt"],
        "rowrnn completion ": ["bash", "zsh", "fish"],
        "rowrnn unheard-of --": [],
    }
    offered = bash(scripts["bash"], expected, tmp_path)
    for (line, words), found in zip(expected.items(), offered, strict=True):
        assert sorted(set(found)) == sorted(words), line


def test_fish_completes_options_and_values(scripts, tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")

    def offered(line):
        ask = f"source {scripts['fish']}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", ask],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert offered("rowrnn ") == set(cli._MODULES)
    assert offered("rowrnn train --model.init ") == set(
        get_args(get_type_hints(ModelConfig)["init"])
    )
    assert offered("rowrnn bench compare --fail") == {"--fail-above"}
    assert offered("rowrnn data prepare ") == {"mnist", "fashion_mnist", "kmnist"}


def test_zsh_takes_the_script(scripts):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    done = subprocess.run(["zsh", "-n", scripts["zsh"]], capture_output=True, text=True, check=True)
    assert done.stderr == ""
