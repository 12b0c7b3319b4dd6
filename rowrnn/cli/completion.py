"""``rowrnn completion``: scripts by which a shell completes commands, options and their values.

They are made from the same dataclasses as the commands' help. Whoever presses the key runs the
shell alone, and waits for no Python.
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Flag, parse

_LONGEST_HELP = 80


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """Print a script with which a shell completes rowrnn's commands, options and values.

    Put it where the shell looks for it, and start the shell again:

    rowrnn completion bash > ~/.local/share/bash-completion/completions/rowrnn
    (or into a file that ~/.bashrc sources, where bash-completion is not installed)

    rowrnn completion zsh > DIR/_rowrnn, with DIR in $fpath before compinit runs

    rowrnn completion fish > ~/.config/fish/completions/rowrnn.fish
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL")]
    """bash, zsh or fish."""
    debug: Flag = False
    """Show a traceback with an error."""


@dataclass(frozen=True)
class _Option:
    """An option of a command.

    Attributes:
        flags: its spellings, such as --train.seed.
        help: what it does, in a line.
        takes: "nothing", a "choice" of `values`, a "path" or some other "text".
        values: to choose from.
    """

    flags: tuple[str, ...]
    help: str
    takes: Literal["nothing", "choice", "path", "text"]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Command:
    """A command as it is typed.

    Attributes:
        name: one word or two, such as "bench compare".
        help: what it does, in a line.
        options: that it has.
        values: words that may stand where it takes no option.
        files: the pattern of files that may stand there, "" where none may.
    """

    name: str
    help: str
    options: tuple[_Option, ...]
    values: tuple[str, ...]
    files: str


def main(arguments: Sequence[str]) -> int:
    """Prints a script."""
    given = parse("completion", CompletionArguments, arguments)
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[given.shell]
    print("\n".join([*write(list(_commands())), ""]), end="")
    return 0


def _commands() -> Iterator[_Command]:
    """All commands, from the classes of their arguments.

    The class ``BenchArguments`` of the module of ``bench`` is that command, and
    ``CompareArguments`` in it is ``bench compare``.
    """
    from rowrnn.cli import _MODULES

    for first, home in _MODULES.items():
        module = importlib.import_module(f"rowrnn.cli.{home}")
        kinds = {
            name.removesuffix("Arguments").lower(): kind
            for name, kind in vars(module).items()
            if name.endswith("Arguments") and kind.__module__ == module.__name__
        }
        seconds = tuple(word for word in kinds if word != first)
        for word, kind in kinds.items():
            own = word == first
            name = first if own else f"{first} {word}"
            values, files = _positional(kind)
            yield _Command(
                name,
                _line(inspect.getdoc(kind) or ""),
                tuple(map(_option, _tyro_options(kind))),
                values + (seconds if own else ()),
                files,
            )
        if first not in kinds:
            yield _Command(first, _line(inspect.getdoc(module.main) or ""), (), seconds, "")


def _tyro_options(kind: type) -> list[dict[str, Any]]:
    """The options of a command, which tyro puts into a script of its own as a Python literal."""
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(kind, prog="rowrnn", args=["--tyro-write-completion", "bash", "-"])
    found = re.search(r"^COMPLETION_SPEC = (.*)$", script.getvalue(), re.MULTILINE)
    assert found is not None, "this tyro writes other scripts"
    return ast.literal_eval(found[1])["options"]


def _option(spec: dict[str, Any]) -> _Option:
    takes: Any = {"flag": "nothing", "boolean": "nothing", "value": "text"}
    takes = takes.get(spec["type"], spec["type"])
    words = spec["description"].partition(" • ")
    values = tuple(map(str, spec.get("choices", ())))
    return _Option(tuple(spec["flags"]), _line(words[2] or words[0]), takes, values)


def _positional(kind: type) -> tuple[tuple[str, ...], str]:
    """What may stand where a command takes no option: words, and a pattern of files."""
    values: tuple[str, ...] = ()
    files = ""
    hints = typing.get_type_hints(kind, include_extras=True)
    for spec in dataclasses.fields(kind):
        marks = getattr(hints[spec.name], "__metadata__", ())
        if tyro.conf.Positional not in marks:
            continue
        bare = typing.get_args(hints[spec.name])[0]
        if typing.get_origin(bare) is Literal:
            values += typing.get_args(bare)
            continue
        names = [getattr(mark, "metavar", None) or "" for mark in marks]
        files = "*.toml" if any(".toml" in name for name in names) else "*"
    return values, files


def _line(text: str) -> str:
    """The first sentence or so of a help text."""
    line = " ".join(text.split("\n\n")[0].replace("%%", "%").split())
    return line if len(line) <= _LONGEST_HELP else line[: _LONGEST_HELP - 1].rstrip() + "…"


def _two_words(commands: Sequence[_Command]) -> str:
    """A pattern for those of two words, as all three shells take it."""
    return "|".join(f'"{command.name}"' for command in commands if " " in command.name)


def _firsts(commands: Sequence[_Command]) -> list[_Command]:
    return [command for command in commands if " " not in command.name]


def _bash(commands: Sequence[_Command]) -> Iterator[str]:
    firsts = " ".join(command.name for command in _firsts(commands))
    yield f"""\
# Completion of rowrnn for bash, made by: rowrnn completion bash
_rowrnn() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} option=${{COMP_WORDS[COMP_CWORD-1]}}
  local command=${{COMP_WORDS[1]}} takes="" values="" options="" files="" IFS=$' \\t\\n'
  # --option=value comes as three words.
  if [[ $cur == "=" ]]; then cur=""
  elif [[ $option == "=" ]]; then option=${{COMP_WORDS[COMP_CWORD-2]}}
  fi
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W "{firsts} --help --version" -- "$cur"))
    return
  fi
  case "$command ${{COMP_WORDS[2]}}" in
    {_two_words(commands)}) (( COMP_CWORD > 2 )) && command+=" ${{COMP_WORDS[2]}}" ;;
  esac
  case $command in"""
    for command in commands:
        yield f'    "{command.name}")'
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words = " ".join(command.values)
        yield f'      options="{flags}" values="{words}" files="{command.files}"'
        yield "      case $option in"
        for option in command.options:
            if option.takes != "nothing":
                chosen = f' values="{" ".join(option.values)}"' if option.values else ""
                yield f"        {'|'.join(option.flags)}) takes={option.takes}{chosen} ;;"
        yield "      esac ;;"
    yield """\
    *) return ;;
  esac
  case $takes in
    path) files="*" values="" ;;
    text) values="" files="" ;;
    choice) files="" ;;
    *) if [[ $cur == -* ]]; then values=$options files=""; fi ;;
  esac
  COMPREPLY=($(compgen -W "$values" -- "$cur"))
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null  # Which bash 3 does not have.
    IFS=$'\\n'
    COMPREPLY+=($(compgen -f -X "!$files" -- "$cur"; compgen -d -- "$cur"))
  fi
}
complete -F _rowrnn rowrnn"""


def _zsh(commands: Sequence[_Command]) -> Iterator[str]:
    yield """\
#compdef rowrnn
# Completion of rowrnn for zsh, made by: rowrnn completion zsh
_rowrnn() {
  local -a commands=("""
    for command in _firsts(commands):
        yield f"    {shlex.quote(f'{command.name}:{command.help}')}"
    yield f"""\
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  case "$words[2] $words[3]" in
    ({_two_words(commands)})
      if (( CURRENT > 3 )); then
        command="$words[2] $words[3]"
        shift words
        (( CURRENT-- ))
      fi ;;
  esac
  shift words
  (( CURRENT-- ))
  case $command in"""
    for command in commands:
        yield f'    ("{command.name}") _arguments \\'
        yield from (f"      {shlex.quote(spec)} \\" for spec in _zsh_options(command))
        actions = [f"compadd {' '.join(command.values)}"] if command.values else []
        actions += [f'_files -g "{command.files}"'] if command.files else []
        rest = f"*:argument:{{ {'; '.join(actions) or ':'} }}"
        yield f"      {shlex.quote(rest)} ;;"
    yield """\
  esac
}
if [[ $funcstack[1] == _rowrnn ]]; then _rowrnn "$@"; else compdef _rowrnn rowrnn; fi"""


def _zsh_options(command: _Command) -> Iterator[str]:
    """Options as ``_arguments`` takes them."""
    for option in command.options:
        text = re.sub(r"([\\\[\]:])", r"\\\1", option.help)
        action = {
            "nothing": "",
            "choice": f":value:({' '.join(option.values)})",
            "path": ":path:_files",
            "text": ":value: ",
        }[option.takes]
        for flag in option.flags:
            equals = "=" if action and flag.startswith("--") else ""
            yield f"{flag}{equals}[{text}]{action}"


def _fish(commands: Sequence[_Command]) -> Iterator[str]:
    two_words = _two_words(commands).replace("|", " ")
    yield f"""\
# Completion of rowrnn for fish, made by: rowrnn completion fish
function __rowrnn_is
    set -l words (commandline -opc)
    set -l command "$words[2]"
    contains -- "$words[2] $words[3]" {two_words}; and set command "$words[2] $words[3]"
    test "$command" = "$argv[1]"
end
complete -c rowrnn -f"""
    for command in _firsts(commands):
        text = _fish_quote(command.help)
        yield f"complete -c rowrnn -n __fish_use_subcommand -a {command.name} -d {text}"
    for command in commands:
        condition = f'__rowrnn_is "{command.name}"'
        start = f"complete -c rowrnn -n {_fish_quote(condition)}"
        for option in command.options:
            action = {
                "nothing": "",
                "choice": f" -x -a {_fish_quote(' '.join(option.values))}",
                "path": " -r -F",
                "text": " -x",
            }[option.takes]
            names = "".join(
                f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
                for flag in option.flags
            )
            yield f"{start}{names}{action} -d {_fish_quote(option.help)}"
        if command.values:
            yield f"{start} -a {_fish_quote(' '.join(command.values))}"
        if command.files == "*":
            yield f"{start} -F"
        elif command.files:
            yield f"{start} -k -a '(__fish_complete_suffix {command.files[1:]})'"


def _fish_quote(text: str) -> str:
    """A word as fish takes it, which knows a backslash in quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
