"""Compiled programs, kept on disk between starts: privately, and checked before they are run."""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax


def start(*, keep: bool) -> None:
    """Lets jax keep the programs that it compiles, or not; before it compiles the first.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory than that of the user.
    """
    if not keep or not _check_kept_programs():
        jax.config.update("jax_enable_compilation_cache", False)
        return
    # Everything: a start compiles dozens of programs that each take a moment.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        directory = _private_cache_directory()
        if directory is not None:
            jax.config.update("jax_compilation_cache_dir", str(directory))


@functools.cache
def _check_kept_programs() -> bool:
    """Lets every program that jax keeps be checked; False where this jax does not allow it."""
    try:
        from jax._src import compilation_cache

        open_cache = compilation_cache.get_file_cache
    except (ImportError, AttributeError):
        return False

    def open_checked(path: str) -> Any:
        opened = open_cache(path)
        return opened and (CheckedCache(opened[0]), *opened[1:])

    compilation_cache.get_file_cache = open_checked
    return True


class CheckedCache:
    """jax's cache of compiled programs, each kept with its SHA-256.

    What is found there is run as code, and jax does not look at it: where zstd is installed, with
    which it then packs its entries, three of four flipped bits give another program. An entry that
    is damaged, or that a kill has left half written, is removed, since jax never replaces one, and
    the program is compiled again.
    """

    def __init__(self, cache: Any):
        self._cache, self._path = cache, cache._path

    def get(self, key: str) -> bytes | None:
        """The program of a key, None where there is none that is intact."""
        entry = self._cache.get(_name_of(key))
        if entry is None:
            return None
        digest, program = entry[:32], entry[32:]
        if hashlib.sha256(program).digest() == digest:
            return program
        for path in Path(self._path).glob(f"{_name_of(key)}*"):
            path.unlink(missing_ok=True)
        return None

    def put(self, key: str, program: bytes) -> None:
        """Keeps a program, unless one is kept already."""
        self._cache.put(_name_of(key), hashlib.sha256(program).digest() + program)


def _name_of(key: str) -> str:
    """Another than jax would use: other programs may share the directory, and do not check."""
    return f"{key}-checked"


def _private_cache_directory() -> Path | None:
    """A directory for compiled programs that nobody else can write to, or None.

    What lies in it is run as code.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not home.is_absolute():  # There is no home directory.
        return None
    directory = home / "rowrnn" / "compilation"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not where a link leads to, which may be anybody's.
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            return None
        directory.chmod(0o700)
    except OSError:
        return None
    return directory
