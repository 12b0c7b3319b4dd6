"""Every block of shell and Python in the README and the guides is run, in order, as pasted.

    python tests/test_guides.py --refresh [PAGE ...]

runs them too, and writes into the pages what they print. The fences mark the blocks of a page:

- ``sh`` and ``python`` are run, each page in a directory of its own that holds what a checkout
  does. All Python of a page is one session;
- ``sh exit: 0 1`` may end with one of these codes;
- ``sh needs: mnist`` is run where the original files of MNIST are at hand;
- ``sh not-run: …`` says what no test has; ``sh first`` is run by ``.ci/run``;
- ``text lines: :4 -2:`` is what the block before it printed: these slices of its lines.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_files import TEST_DATA

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    *sorted(f"experiments/guides/{p.name}" for p in ROOT.glob("experiments/guides/*.md")),
]
_MNIST = TEST_DATA / "mnist"
_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# A terminal has a bar in place of these lines.
_PROGRESS = re.compile(r" *\d+%  ")
_LEFT_OUT = "   ..."

# Reads a line of JSON, runs the code in it and says when it is done.
_SESSION = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    failed = 0
    try:
        exec(compile(json.loads(line), "<block>", "exec"), names)
    except BaseException:
        traceback.print_exc()
        failed = 1
    sys.stderr.flush()
    print(f"\\0{failed}", flush=True)
"""


@dataclass
class Block:
    """What stands between two fences.

    Attributes:
        language: "sh", "python" or "text"; "" for a drawing.
        marks: what the fence says beside it, by name.
        text: the lines.
        start, end: where the text lies in the page.
    """

    language: str
    marks: dict[str, str]
    text: str
    start: int
    end: int

    @property
    def is_run(self) -> bool:
        if self.language not in ("sh", "python") or self.marks.keys() & {"not-run", "first"}:
            return False
        return self.marks.get("needs") != "mnist" or _MNIST.is_dir()


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, _, rest = match[1].partition(" ")
        name, _, value = rest.partition(":")
        marks = {name: value.strip()} if name else {}
        found.append(Block(language, marks, match[2], *match.span(2)))
    return found


class Shell:
    """A new user's terminal, 80 columns wide, in a copy of what a checkout has to run."""

    def __init__(self, directory: Path):
        self._place = directory / "rowrnn"
        shutil.copytree(ROOT / "experiments", self._place / "experiments")
        programs = directory / "bin"
        programs.mkdir()
        _write_program(programs / "rowrnn", f'exec "{sys.executable}" -m rowrnn "$@"')
        _write_program(programs / "python", f'exec "{sys.executable}" "$@"')
        self._environment = os.environ | {
            "HOME": str(directory),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
            "MPLBACKEND": "agg",
            "TFDS_DATA_DIR": str(directory / "tensorflow_datasets"),
        }
        self._session: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            with self._session:
                self._session.kill()

    def run(self, block: Block) -> str:
        """What a block prints; fails where it does not end as its fence says."""
        if block.marks.get("needs") == "mnist":
            self._sh(f'rowrnn data prepare mnist --manual-dir "{_MNIST}"')
        code, printed = (self._python if block.language == "python" else self._sh)(block.text)
        allowed = [int(code) for code in block.marks.get("exit", "0").split()]
        assert code in allowed, f"exit code {code} of\n{block.text}\n{printed}"
        return printed

    def _sh(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            cwd=self._place, env=self._environment, text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _python(self, text: str) -> tuple[int, str]:
        if self._session is None:
            self._session = subprocess.Popen(
                [sys.executable, "-u", "-c", _SESSION],
                cwd=self._place, env=self._environment, text=True, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        assert self._session.stdin is not None
        assert self._session.stdout is not None
        self._session.stdin.write(json.dumps(text) + "\n")
        self._session.stdin.flush()
        printed = []
        for line in self._session.stdout:
            if line.startswith("\0"):
                return int(line[1:]), "".join(printed)
            printed.append(line)
        raise AssertionError("Python ended:\n" + "".join(printed))


def _write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rowrnn-guides-") as directory:
        yield Path(directory)


def chosen(printed: str, slices: str) -> str:
    """The lines of a text that slices such as ``:4 -2:`` choose; what is left out is marked.

    Lines are folded as a terminal of 80 columns does.
    """
    lines = [
        part
        for line in printed.rstrip("\n").split("\n")
        if not _PROGRESS.match(line)
        for part in ([line] if len(line) <= 80 else _fold(line))
    ]
    places: list[int] = []
    made, gaps = [], []
    for part in slices.split():
        wanted = range(len(lines))[slice(*(int(n) if n else None for n in part.split(":")))]
        gaps.append(bool(wanted) and wanted[0] > (places[-1] + 1 if places else 0))
        places += wanted
        made.append([lines[place].rstrip() for place in wanted])
    text = []
    for gap, part in zip(gaps, made, strict=True):
        text += [_LEFT_OUT] * gap + part
    if places and places[-1] < len(lines) - 1:
        text.append(_LEFT_OUT)
    return "".join(f"{line}\n" for line in text)


def _fold(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip(" ")))
    return textwrap.wrap(line, 80, subsequent_indent=indent, break_on_hyphens=False)


def refresh(page: str) -> None:
    """Runs a page and writes what it prints into it."""
    blocks, shown, printed = blocks_of(page), {}, None
    with _directory() as directory, Shell(directory) as shell:
        for number, block in enumerate(blocks):
            if block.is_run:
                print(f"{page}: {block.text.rstrip()}", file=sys.stderr, flush=True)
                printed = shell.run(block)
            elif block.language == "text" and printed is not None:
                shown[number] = chosen(printed, block.marks["lines"])
            else:
                printed = None
    text = (ROOT / page).read_text(encoding="utf-8")
    for number, block in reversed(list(enumerate(blocks))):
        if number in shown:
            text = text[: block.start] + shown[number] + text[block.end :]
    (ROOT / page).write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_as_pasted(page, tmp_path):
    with Shell(tmp_path) as shell:
        for block in blocks_of(page):
            if block.is_run:
                shell.run(block)
    # What the pages make is ignored by git, so that nobody commits it by mistake.
    made = {path.name for path in (tmp_path / "rowrnn").iterdir()} - {"experiments"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not [name for name in made if f"/{name}/" not in ignored]


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_says_what_it_is(page):
    previous = None
    for block in blocks_of(page):
        assert block.language in ("sh", "python", "text", ""), block
        assert block.marks.keys() <= {"first", "not-run", "needs", "exit", "lines"}, block
        assert block.marks.get("not-run") != "", "say what it needs"
        if block.language == "text":
            assert "lines" in block.marks, "shown output is refreshed, not written"
            assert previous is not None
            assert previous.language in ("sh", "python")
            assert block.text, "run python tests/test_guides.py --refresh"
            assert max(map(len, block.text.splitlines())) <= 80
        previous = block


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [to for to in _LINK.findall(text) if not ((ROOT / page).parent / to).exists()]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_public_name_is_told():
    import rowrnn

    text = (ROOT / "experiments/guides/python.md").read_text(encoding="utf-8")
    assert not [name for name in rowrnn.__all__ if not re.search(rf"`[^`]*\b{name}\b", text)]


def test_lines_are_chosen():
    assert chosen("a\nb\nc\nd\ne\n", ":1 2:4") == "a\n   ...\nc\nd\n   ...\n"
    assert chosen("a\nb\nc\nd\n", ":") == "a\nb\nc\nd\n"
    assert chosen("a\nb\nc\nd\n", "::2 -1:") == "a\nc\nd\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refresh", nargs="*", metavar="PAGE", required=True)
    for each in parser.parse_args().refresh or PAGES:
        refresh(each)
