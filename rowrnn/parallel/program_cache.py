"""Compiled programs, kept on disk between starts: privately, and checked before they are run.

jax runs what it finds in its cache directory, and does not check it: where zstd is installed, with
which it then packs programs, three of four flipped bits give another program. Therefore jax gets a
directory of its own in each process. It begins with the kept programs that still have their
SHA-256, and what jax adds to it is kept in turn::

    compilation/
        jit_chunk-5f3a…-cache.91c0…     a program that is kept, and its SHA-256
        process-x3k2…/
            jit_chunk-5f3a…-cache       the same file, where jax looks for it

Only the process that has compiled a program keeps it, and only when it is whole: what a kill leaves
half written lies where no other process looks.
"""

import atexit
import contextlib
import hashlib
import importlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import jax

from rowrnn import files

# Bytes of programs that are kept, unless jax's configuration says another number. The oldest go
# first. A start reads them all, about 1 ms for each MiB.
_MOST_BYTES = 64 * 2**20

# Seconds after which the directory of a process that was killed is removed.
_STALE = 7 * 24 * 3600

_OWN = "process-"
_KEPT = re.compile(r".+\.[0-9a-f]{64}")

# Modules that jax packs programs with, whichever there is.
_PACKERS = ("zlib", "compression.zstd", "zstandard")

_started: "Programs | None" = None


def start(*, keep: bool) -> None:
    """Lets jax keep the programs that it compiles, or not; before it compiles the first.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory than that of the user. Where it is a URL,
    jax uses it by itself, and nothing is checked.
    """
    if not keep or not (_started or _open()):
        jax.config.update("jax_enable_compilation_cache", False)
        return
    # Everything: a start compiles dozens of programs that each take a moment.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    share()


def share() -> None:
    """Keeps the programs that were compiled so far, and takes over those of other processes."""
    if _started:
        _started.take()
        _started.give()


def _open() -> bool:
    """Gives jax a directory of this process; False where none can be made."""
    global _started
    named = jax.config.values["jax_compilation_cache_dir"]
    if named and "://" in named:
        return True
    directory = Path(named) if named else _private_directory()
    if directory is None:
        return False
    most = jax.config.values["jax_compilation_cache_max_size"]
    try:
        _started = Programs(directory, _MOST_BYTES if most < 0 else most)
    except OSError:
        return False
    atexit.register(_started.close)
    jax.config.update("jax_compilation_cache_dir", str(_started.own))
    jax.config.update("jax_compilation_cache_max_size", -1)
    # XLA's caches are further files, which nothing checks. And with them jax 0.10 counts the
    # directory among the options of a program, so that no other process would find it.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return True


def _private_directory() -> Path | None:
    """A directory for compiled programs that nobody else can write to, or None.

    What lies in it is run as code.
    """
    cache = files.user_cache()
    if cache is None:
        return None
    directory = cache / "compilation"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not where a link leads to, which may be anybody's.
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            return None
        directory.chmod(0o700)
    except OSError:
        return None
    return directory


class Programs:
    """The programs in a directory, and those of this process; see the module.

    Args:
        kept: the directory; it is made where it is missing.
        most_bytes: how much of it stays; the oldest programs are removed.

    Attributes:
        own: the directory that jax reads and writes in this process.

    Raises `OSError` where nothing can be written there.
    """

    def __init__(self, kept: Path, most_bytes: int = _MOST_BYTES):
        kept.mkdir(parents=True, exist_ok=True)
        self.own = Path(tempfile.mkdtemp(prefix=_OWN, dir=kept))
        self._kept, self._most_bytes = kept, most_bytes
        self._known: set[str] = set()
        for left in kept.glob(f"{_OWN}*"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < time.time() - _STALE:
                    shutil.rmtree(left)
        self.take()

    def take(self) -> None:
        """Gives jax the kept programs that it does not have yet; removes what is damaged."""
        room = self._most_bytes
        for entry in _newest_first(self._kept):
            name, digest = entry.name.rsplit(".", 1)
            with contextlib.suppress(OSError):
                room -= entry.stat().st_size
                if room < 0:
                    os.unlink(entry)
                elif name not in self._known:
                    if _sha256(Path(entry).read_bytes()) != digest:
                        os.unlink(entry)
                        continue
                    self._known.add(name)
                    _link(Path(entry), self.own / name)

    def give(self) -> None:
        """Keeps the programs that jax has added."""
        with contextlib.suppress(OSError):
            for path in self.own.iterdir():
                if path.name not in self._known and _is_whole(program := path.read_bytes()):
                    self._known.add(path.name)
                    _link(path, self._kept / f"{path.name}.{_sha256(program)}")

    def close(self) -> None:
        """Keeps what jax has added, and removes the directory of this process."""
        self.give()
        shutil.rmtree(self.own, ignore_errors=True)


def _newest_first(kept: Path) -> list[os.DirEntry[str]]:
    """The kept programs; other files may lie beside them."""
    found = []
    with os.scandir(kept) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # Another process may have removed it.
                if _KEPT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat().st_mtime_ns, entry.name, entry))
    return [entry for *_, entry in sorted(found, reverse=True)]


def _sha256(program: bytes) -> str:
    return hashlib.sha256(program).hexdigest()


def _is_whole(program: bytes) -> bool:
    """Whether jax has written a program to its end, which what it is packed with can tell.

    Another thread may be writing it, or the disk may have been full.
    """
    for packer in _PACKERS:
        with contextlib.suppress(Exception):
            importlib.import_module(packer).decompress(program)
            return True
    return False


def _link(source: Path, target: Path) -> None:
    """A file under a second name, or a copy where a file can have one name only."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copyfile(source, target)
