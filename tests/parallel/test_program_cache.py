"""Compiled programs between starts: found again, checked, private, and not without end.

What becomes of damaged ones is counted in tests/faults/test_side_by_side.py.
"""

import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import pytest

from rowrnn.parallel import program_cache
from rowrnn.parallel.program_cache import Programs

# Compiles one program, and prints how many jax has found in its cache.
PROCESS = """
import os, jax
from rowrnn.parallel import program_cache

hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: event == "/jax/compilation_cache/cache_hits" and hits.append(event)
)
program_cache.start(keep=True)
jax.jit(lambda x: x * 3 + 1).lower(1.0).compile()
print(len(hits), flush=True)
"""


def hits(home, then=""):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.run(
        [sys.executable, "-c", PROCESS + then],
        env=environment | {"XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.stderr == ""
    return int(process.stdout)


def program(seed=0, size=300):
    return zlib.compress(random.Random(seed).randbytes(size))


def put(programs, name, content):
    """As jax does after it has compiled."""
    (programs.own / name).write_bytes(content)


def kept_in(directory):
    return sorted(path.name.partition(".")[0] for path in directory.iterdir() if path.is_file())


@pytest.mark.slow
def test_a_process_finds_what_another_has_compiled_and_a_killed_one_has_not(tmp_path):
    assert hits(tmp_path, "os._exit(0)") == 0
    assert hits(tmp_path) == 0
    assert hits(tmp_path) == 1
    directory = tmp_path / "rowrnn" / "compilation"
    assert len(kept_in(directory)) == 1
    # What the killed one has left, for as long as it might still run.
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 1


@pytest.mark.slow
def test_a_program_shared_before_a_kill_is_kept(tmp_path):
    assert hits(tmp_path, "program_cache.share()\nos._exit(0)") == 0
    assert hits(tmp_path) == 1


def test_processes_at_once_take_over_from_each_other(tmp_path):
    one, other = Programs(tmp_path), Programs(tmp_path)
    put(one, "a", program(1))
    one.give()
    other.take()
    assert (other.own / "a").read_bytes() == program(1)
    # Both have compiled it: one of them is kept.
    put(one, "b", program(2))
    put(other, "b", program(3))
    for programs in (one, other):
        programs.take()
        programs.give()
    one.close()
    other.close()
    assert kept_in(tmp_path) == ["a", "b"]
    assert len([*tmp_path.iterdir()]) == 2


def test_a_running_process_takes_over_what_another_keeps():
    other = Programs(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    put(other, "of_another", program())
    other.close()
    program_cache.share()
    own = Path(jax.config.values["jax_compilation_cache_dir"])
    assert (own / "of_another").read_bytes() == program()


@pytest.mark.parametrize("content", [b"", program()[:-1], program()[:20], bytes(300)])
def test_a_program_that_is_not_whole_is_not_kept(tmp_path, content):
    programs = Programs(tmp_path)
    put(programs, "a", content)
    programs.give()
    assert kept_in(tmp_path) == []
    # Another thread was still writing it.
    put(programs, "a", program())
    programs.close()
    assert kept_in(tmp_path) == ["a"]


def test_the_oldest_are_removed_where_there_are_too_many(tmp_path):
    programs = Programs(tmp_path)
    for age in range(5):
        put(programs, f"age-{age}", program(age))
        programs.give()
        [path] = tmp_path.glob(f"age-{age}.*")
        os.utime(path, (1e9 - age, 1e9 - age))
    programs.close()
    Programs(tmp_path, most_bytes=3 * len(program())).close()
    assert kept_in(tmp_path) == ["age-0", "age-1", "age-2"]


def test_what_killed_processes_left_is_removed_in_time(tmp_path):
    left, running = Programs(tmp_path), Programs(tmp_path)
    os.utime(left.own, (0, time.time() - 8 * 24 * 3600))
    Programs(tmp_path).close()
    assert [*tmp_path.iterdir()] == [running.own]


def test_files_of_others_stay_and_are_not_used(tmp_path):
    """As where a directory that jax uses by itself is named."""
    content = {"jit_f-0123-cache": program(), "jit_f-0123-atime": b"12345678", ".lockfile": b""}
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    programs = Programs(tmp_path)
    assert not [*programs.own.iterdir()]
    programs.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_a_directory_that_is_a_link_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home" / "rowrnn").mkdir(parents=True)
    (tmp_path / "home" / "rowrnn" / "compilation").symlink_to(tmp_path / "elsewhere")
    assert hits(tmp_path / "home") == 0
    assert hits(tmp_path / "home") == 0
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_file_system_without_second_names_is_used_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    programs = Programs(tmp_path)
    put(programs, "a", program())
    programs.close()
    again = program_cache.Programs(tmp_path)
    assert (again.own / "a").read_bytes() == program()
