"""``rowrnn completion``: tyro's scripts, by which a shell completes commands and options."""

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args

import tyro
from tyro.conf import Positional, arg, subcommand

from rowrnn.cli.terminal import Flag, parse
from rowrnn.config import DataConfig

# Lines appended to tyro's script, by which the shell offers files where tyro offers nothing.
_FILES = {
    "bash": r"""
# Where it has nothing to offer, the function above offers an empty word.
_rowrnn_by_tyro=$(complete -p rowrnn)
_rowrnn_by_tyro=${_rowrnn_by_tyro#*-F }
_rowrnn() {
  ${_rowrnn_by_tyro% *} "$@"
  [[ ${COMPREPLY[*]} ]] || COMPREPLY=()
  [[ ${COMP_WORDS[COMP_CWORD-1]} != -* ]] || compopt -o filenames
}
complete -o default -F _rowrnn rowrnn""",
    "zsh": "(( compstate[nmatches] )) || _files",
    "fish": r"""
function __rowrnn_takes_files
    set -l words (commandline -opc)
    test (count $words) -gt 1; and not string match -q -- '-*' $words[-1]
end
complete --command rowrnn --force-files --condition __rowrnn_takes_files""",
}


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


def main(arguments: Sequence[str]) -> int:
    """Prints a script."""
    shell = parse("completion", CompletionArguments, arguments).shell
    with contextlib.suppress(SystemExit), _choices_alone():
        tyro.cli(_commands(), prog="rowrnn", args=["--tyro-write-completion", shell, "-"])
    print(_FILES[shell])
    return 0


@contextlib.contextmanager
def _choices_alone() -> Iterator[None]:
    """Within it, a dataset is one of those that have a name: no shell could complete others."""
    annotations = DataConfig.__annotations__
    whole = annotations["dataset"]
    annotations["dataset"] = get_args(whole)[0]
    try:
        yield
    finally:
        annotations["dataset"] = whole


def _commands() -> Any:
    """A type of which every command is a subcommand.

    The class ``BenchArguments`` of the module of ``bench`` is that command, and
    ``CompareArguments`` in it is ``bench compare``.
    """
    from rowrnn.cli import _MODULES

    commands = []
    for name, home in _MODULES.items():
        module = importlib.import_module(f"rowrnn.cli.{home}")
        kinds = {
            word.removesuffix("Arguments").lower(): kind
            for word, kind in vars(module).items()
            if word.endswith("Arguments") and kind.__module__ == module.__name__
        }
        kind = kinds.pop(name, object)
        if kinds:
            # tyro takes subcommands as a choice, which needs at least two; so --help is one more.
            below = [Annotated[kind, subcommand(word)] for word, kind in kinds.items()]
            choice = Union[*below, Annotated[None, subcommand("--help")]]
            field = ("below", Annotated[choice, arg(name="")], None)
            kind = dataclasses.make_dataclass(
                name, [field], bases=(kind,), frozen=True, kw_only=True
            )
        commands.append(Annotated[kind, subcommand(name)])
    return Union[tuple(commands)]  # noqa: UP007
