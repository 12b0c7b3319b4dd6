"""The run directory: one writer at a time, and every file in it complete or absent."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

import rowrnn
from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Config
from rowrnn.errors import ConfigError, RunError, StoppedError, shown
from rowrnn.files import Size
from rowrnn.jax_settings import deciding_variables
from rowrnn.store import log
from rowrnn.store.log import Log
from rowrnn.store.services import Logger, Outcome

_Result = TypeVar("_Result")

_MARK = "config.toml"
SWEEP_MARK = "sweep.json"
_LOCK_FILES = {".lock", "lock.json"}
# Messages add this to --run-dir, for callers from Python.
_PYTHON = "(in Python run_dir=)"
# Every run has one of these beside its mark, also one that a sweep has kept.
_EVIDENCE = {".lock", "environment.json", "checkpoints"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
             "tensorflow-datasets")  # fmt: skip


@dataclass(frozen=True)
class _Holder:
    """Who writes to a run directory; ``lock.json`` says it while the lock is held."""

    host: str
    pid: Size
    since: str


class RunDir:
    """A run directory that this process alone writes to, until it is closed.

    Use `create` or `reopen`; as a context manager it lets go of the lock at the end. Without
    `writes` it is the directory of a run that another process of the same job writes to, and what
    would write does nothing.

    Attributes:
        path: the directory.
        machine: what it runs on now, as `machine_of` says; after `write_environment`.
        machines: likewise of all its sessions, each once.
    """

    machine = ""
    machines: Sequence[str] = ()

    def __init__(self, path: Path, *, writes: bool = True):
        """Takes the lock of an existing directory; raises `RunError` where another holds it."""
        files.require_plain(path)
        self.path = path
        self._writes = writes
        self._log: Log | None = None
        self._logger: Logger | None = None
        if not writes:
            return
        self._lock = _take_lock(path)
        # Orbax takes the absolute path too. While it is open, no other directory is taken for it.
        self._absolute, self._opened = path.absolute(), os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        holder = _Holder(socket.gethostname(), os.getpid(), _now())
        self.write("lock.json", json.dumps(dataclasses.asdict(holder)))

    @classmethod
    def create(cls, path: Path, config: Config, *, overwrite: bool = False) -> "RunDir":
        """Makes a new run directory and writes its config and environment.

        Raises `RunError` where the directory is not empty, unless `overwrite` is given and what
        lies there is a run.
        """
        _make(path, exist_ok=True)
        # The check comes before anything is put into it, and again when nobody else can.
        _check_may_begin(path, overwrite)
        run = cls(path)
        try:
            _check_may_begin(path, overwrite)
            run._clear()
            run.write(_MARK, configs.dump(config))
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunDir":
        """Opens an existing run directory to go on writing."""
        require_run(path)
        return cls(path)

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, StoppedError)
        try:
            self.finish_logger("stopped" if stopped else "failed")
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the directory."""
        if not self._writes:
            return
        try:
            if self._log is not None:
                self._log.close()
        finally:
            # A file that cannot be removed does no harm: the lock itself is free. Another directory
            # may lie at the path by now.
            with contextlib.suppress(OSError):
                os.unlink("lock.json", dir_fd=self._opened)
            os.close(self._opened)
            self._lock.release()

    def require_in_place(self) -> None:
        """Raises `RunError` where the directory does not lie at its path any more.

        Whoever writes to the path asks first: otherwise a directory that was moved is begun anew.
        """
        if not self._writes:
            return
        mine = os.fstat(self._opened)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._absolute), mine):
                return
        now = _path_of(self._opened)
        # Linux names what was removed like this; elsewhere the links tell.
        if mine.st_nlink == 0 or now.endswith(" (deleted)"):
            raise RunError(f"{self.path} was removed while it was written to; start a new run")
        raise RunError(
            f"{self.path} was moved to {now} while it was written to; what was saved before is "
            f"good and lies there: go on with --resume {now}"
        )

    def write(self, name: str, text: str) -> None:
        """Writes a whole file, which appears complete or not at all."""
        if not self._writes:
            return
        self.require_in_place()
        with files.writing(self.path / name):
            files.write_whole(self.path / name, text)

    def remove(self, *names: str) -> None:
        """Removes files that are not true any more, where they are there."""
        if not self._writes:
            return
        self.require_in_place()
        for name in names:
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{self.path / name} cannot be removed: {error.strerror}") from error

    def write_environment(self, devices: dict[str, object]) -> None:
        """Records what the run runs on: versions, git commit, devices, flags.

        The time stays that of the first session. Warns where an earlier one ran on another machine
        (`machine_of`): clusters are mixed, and a resumed run goes on.
        """
        found = environment() | devices
        self.machine = machine_of(found)
        earlier = _earlier(self.path)
        before = earlier.get("machines", [])
        self.machines = list(dict.fromkeys([*before, self.machine]))
        if self._writes and before and self.machine not in before:
            warnings.warn(
                f"machine {self.machine}: {self.path} was begun on {' and on '.join(before)}; it "
                "goes on, and its last digits may differ from those of a run on one machine",
                stacklevel=3,
            )
        found |= earlier | {"machines": self.machines}
        self.write("environment.json", json.dumps(found, indent=2))

    def log(self, place: dict[str, float], values: dict[str, float]) -> None:
        """Appends a line to ``metrics.jsonl`` and the same values to the TensorBoard events.

        Args:
            place: where in the run; "step" is what TensorBoard counts by.
            values: the figures.
        """
        if not self._writes:
            return
        self.require_in_place()
        # What an earlier process logged after this step has been taken back.
        log = self._log = self._log or Log(self.path, purge_step=int(place["step"]))
        log.append([place | values], [(name, v, int(place["step"])) for name, v in values.items()])
        self._check_logger()

    def start_logger(self, kind: str) -> None:
        """Lets a logger follow what is logged from now on; "none" does not."""
        if self._writes and kind != "none":
            self._logger = Logger(kind, self.path)

    def finish_logger(self, outcome: Outcome) -> None:
        """Tells the logger how the run has ended, and waits for it, but not for ever."""
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.finish(outcome)

    def log_member(self, member: str, curve: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Appends the whole curve of a member of a sweep, by name a list of (step, value)."""
        if not self._writes:
            return
        self.require_in_place()
        log = self._log = self._log or Log(self.path)
        points = [(name, step, value) for name, part in curve.items() for step, value in part]
        log.append(
            [{"member": member, "step": step, name: value} for name, step, value in points],
            [(f"{name}/{member}", value, step) for name, step, value in points],
        )
        self._check_logger()

    def _check_logger(self) -> None:
        if self._logger is not None:
            self._logger.check()

    def restart_log(self) -> None:
        """Drops all that was logged, by which the ledger of a sweep is told again."""
        self._change_log(log.remove)

    def rewind_log(self, step: int) -> None:
        """Drops what was logged after `step` and a torn last line, so that no step comes twice."""
        self._change_log(lambda path: log.rewind(path, step))

    def _change_log(self, change: Callable[[Path], None]) -> None:
        if not self._writes:
            return
        self.require_in_place()
        with files.writing(f"{self.path}: the log"):
            change(self.path)

    def _clear(self) -> None:
        """Empties the directory of everything but the lock that is held."""
        try:
            for entry in self.path.iterdir():
                if entry.name in _LOCK_FILES:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise RunError(f"{error.filename} cannot be removed: {error.strerror}") from error


def default_path(name: str, *, take: bool) -> Path:
    """``runs/<name>-<time>``, a name that is not taken.

    With `take` the directory is made, so that nobody else gets the same; raises `RunError` where it
    cannot be.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, numbers = Path("runs") / f"{name}-{stamp}", itertools.count(2)
    while os.path.lexists(path) or (take and not _make(path, exist_ok=False)):
        path = Path("runs") / f"{name}-{stamp}-{next(numbers)}"
    return path


def _make(path: Path, *, exist_ok: bool) -> bool:
    """Makes a directory for a run; gives whether it is there, and nobody else was faster."""
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
        return True
    except OSError as error:
        if not exist_ok and os.path.lexists(path):
            return False
        raise RunError(
            f"run directory {path}: {error.strerror}; choose another with --run-dir {_PYTHON}"
        ) from error


def require_run(path: Path, command: str = "rowrnn train") -> None:
    """Raises `RunError` where a directory is not a run, or holds links or special files.

    `command` is what makes such a directory.
    """
    try:
        marked = stat.S_ISREG(os.stat(path / _MARK).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        marked = False
    except OSError as error:  # A directory that may not be searched, a name that is too long.
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if not marked:
        what = "holds no run" if path.is_dir() else "is no directory"
        what = what if os.path.lexists(path) else "does not exist"
        if below := _run_below(path, sweeps=command == "rowrnn sweep"):
            raise RunError(
                f"{path} holds no run of its own, but some lie in it: give one of them, such as "
                f"{below} (rowrnn runs {path} lists them)"
            )
        raise RunError(
            f"{path} {what} (a run directory has a {_MARK}); give the directory that "
            f"`{command}` named at its end"
        )
    files.require_plain(path)


def _run_below(path: Path, *, sweeps: bool) -> Path | None:
    """The newest run, or sweep, that lies in a directory; None where there is none to be seen."""
    with contextlib.suppress(OSError):
        found = [each for each in path.iterdir() if is_marked(each) and is_sweep(each) == sweeps]
        return max(found, key=os.path.getmtime, default=None)
    return None


def require_free(path: Path) -> None:
    """Raises `RunError` where another process writes to a directory now.

    What is free here may be taken a moment later: `RunDir` decides. This only tells it before jax
    is loaded.
    """
    # A holder has written this file; two that only look would be in each other's way.
    if os.path.exists(path / "lock.json"):
        files.require_plain(path)
        _take_lock(path).release()


def is_marked(path: Path) -> bool:
    """Whether a directory has the files that mark a run or a sweep, sound or not."""
    if os.path.lexists(path / SWEEP_MARK):
        return True
    evidence = any(os.path.lexists(path / name) for name in _EVIDENCE)
    return evidence and os.path.lexists(path / _MARK)


def is_being_written(path: Path) -> bool:
    """Whether a process writes to a directory now; nothing is changed by asking."""
    try:
        holder = files.build(_Holder, files.read_json(path / "lock.json"))
        # Asking takes the lock for a moment, in which nobody else can; so a lock that a killed
        # process has left is not asked about.
        if holder.host == socket.gethostname() and not _is_alive(holder.pid):
            return False
        with files.open_plain(path / ".lock", follow=False) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):
        return False
    return False


def is_sweep(path: Path) -> bool:
    """Whether a run directory is that of a sweep."""
    return os.path.isfile(path / SWEEP_MARK)


def require_single(path: Path) -> None:
    """Raises `RunError` where a directory is not that of a single run."""
    require_run(path)
    if is_sweep(path):
        raise RunError(
            f"{path} is a sweep, not a single run; the runs that it kept the states of are in "
            f"{path / 'states'}, and rowrnn sweep --resume {path} goes on with it"
        )


def read_config(path: Path) -> Config:
    """The configuration that a run was started with."""
    require_run(path)
    return configs.load(path / _MARK)


def read_result(path: Path, kind: type[_Result]) -> _Result | None:
    """The figures that a dataclass names, of ``result.json`` or of the summary of a sweep.

    None where it is not finished; raises `RunError` where the file is no result.
    """
    sweep = is_sweep(path)
    file = path / ("results.json" if sweep else "result.json")
    try:
        document = files.read_json(file)
        return files.pick(kind, document["summary"] if sweep else document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is not a result ({error}); delete it, and --resume {path} (in Python resume=) "
            "makes it anew"
        ) from error


def environment() -> dict[str, Any]:
    """Versions, git commit, processor, flags and command of this process."""
    deciding = deciding_variables()
    return {
        "time": _now(),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        "versions": {"rowrnn": rowrnn.__version__} | {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "flags": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("XLA_", "JAX_")) or name == "NPROC" or name in deciding
        },
    }


def machine_of(environment: Mapping[str, Any]) -> str:
    """What last digits rest on, in words: versions of jax and jaxlib, the kind of processor, and
    how many threads compute on a CPU.

    >>> versions = {"jax": "0.10.2", "jaxlib": "0.10.2"}
    >>> cpu = {"platform": "cpu", "processor": "AMD EPYC", "threads": 2}
    >>> machine_of({"versions": versions} | cpu)
    'jax 0.10.2, jaxlib 0.10.2, AMD EPYC, threads: 2'
    >>> machine_of({"versions": versions, "platform": "gpu", "kind": "NVIDIA H100"})
    'jax 0.10.2, jaxlib 0.10.2, NVIDIA H100'
    """
    versions = environment["versions"]
    on_cpu = environment["platform"] == "cpu"
    processor = environment["processor"] if on_cpu else environment["kind"]
    found = f"jax {versions['jax']}, jaxlib {versions['jaxlib']}, "
    found += processor or "unknown processor"
    if on_cpu and "threads" in environment:
        found += f", threads: {environment['threads']}"
    return found


def _earlier(path: Path) -> dict[str, Any]:
    """The start and the machines of the earlier sessions of a run, as far as anybody can tell."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        environment = files.read_json(path / "environment.json")
        found["machines"] = files.fit("machines", environment["machines"], list[str])
        found["time"] = files.fit("time", environment["time"], str)
    return found


def require_same_variables(path: Path) -> None:
    """Raises `ConfigError` where `deciding_variables` are others than when a run or sweep, or one
    of its members, was started."""
    try:
        found = files.read_json(path / "environment.json")["flags"]
        then = deciding_variables(files.fit("flags", found, dict[str, str]))
    except (OSError, ValueError, TypeError, KeyError):
        return  # It has not begun, or nobody can tell any more.
    now = deciding_variables()
    for name in sorted(then.keys() | now.keys()):
        old, new = then.get(name, ""), now.get(name, "")
        if old != new:
            raise ConfigError(
                f"{name}={shown(new)}: {path} was started with {shown(old)}, and what goes on must "
                "compute the same; set the variable as it was, or start a new run or sweep"
            )


def _processor() -> str:
    """The model of the CPU; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that rowrnn runs from, marked where it has been changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()

    try:
        # An environment may lie in the checkout of something else.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _check_may_begin(path: Path, overwrite: bool) -> None:
    """Raises `RunError` where a run must not begin in a directory."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise RunError(
            f"run directory {path}: {error.strerror}; choose another with --run-dir {_PYTHON}"
        ) from error
    if names <= _LOCK_FILES:
        return
    # Many a project has a file of that name.
    if _MARK not in names or not names & _EVIDENCE:
        raise RunError(
            f"run directory {path} is not empty and holds no run, so that even --overwrite leaves "
            f"it alone; choose another --run-dir {_PYTHON}"
        )
    if not overwrite:
        raise RunError(
            f"run directory {path} is not empty; go on with --resume {path}, "
            "replace it with --overwrite, or choose another --run-dir (in Python resume=, "
            "overwrite=True, run_dir=)"
        )


def _take_lock(path: Path) -> FileLock:
    """Takes the lock of a directory; raises `RunError`, naming the holder, where it is held."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{path} is being written by {_read_holder(path)}; wait for it or stop it, "
            f"or choose another --run-dir {_PYTHON}"
        ) from error
    except OSError as error:
        raise RunError(f"{path} cannot be written to: {error.strerror}") from error
    return lock


def _path_of(descriptor: int) -> str:
    """Where an open directory lies now, as far as the system tells."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "another place"


def _read_holder(path: Path) -> str:
    """Who holds the lock, in words."""
    # A new holder may not have said so yet, and one that was killed may still be named.
    for _ in range(10):
        with contextlib.suppress(OSError, ValueError):
            holder = files.build(_Holder, files.read_json(path / "lock.json"))
            if holder.host != socket.gethostname() or _is_alive(holder.pid):
                return f"process {holder.pid} on {holder.host[:100]} since {holder.since[:40]}"
        time.sleep(0.05)
    return "another process"


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
