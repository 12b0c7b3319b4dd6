"""The run directory: one writer at a time, and every file in it complete or absent."""

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.errors import RunError

_MARK = "config.toml"
_SWEEP_MARK = "sweep.json"
_PACKAGES = ("rowrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
             "tensorflow-datasets")  # fmt: skip


class RunDir:
    """A run directory that this process alone writes to, until it is closed.

    Use `create` or `reopen`; as a context manager it lets go of the lock at the end.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path):
        """Takes the lock of an existing directory; raises `RunError` where another holds it."""
        self.path = path
        self._lock = FileLock(path / ".lock")
        self._log = None
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{path} is being written by {_read_holder(path)}; wait for it or stop it, "
                "or choose another --run-dir"
            ) from error
        except OSError as error:
            raise RunError(f"{path} cannot be written to: {error.strerror}") from error
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        self.write("lock.json", json.dumps(holder))

    @classmethod
    def create(cls, path: Path, config: Config, *, overwrite: bool = False) -> "RunDir":
        """Makes a new run directory and writes its config and environment.

        Raises `RunError` where the directory is not empty, unless `overwrite` is given and what
        lies there is a run.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise RunError(
                f"run directory {path}: {error.strerror}; choose another with --run-dir"
            ) from error
        if names and not overwrite:
            raise RunError(
                f"run directory {path} is not empty; go on with --resume {path}, "
                "replace it with --overwrite, or choose another --run-dir"
            )
        if names and _MARK not in names:
            raise RunError(
                f"run directory {path} holds no run (there is no {_MARK} in it), so --overwrite "
                "leaves it alone; choose another --run-dir"
            )
        run = cls(path)
        run._clear()
        run.write(_MARK, configs.dump(config))
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunDir":
        """Opens an existing run directory to go on writing."""
        require_run(path)
        return cls(path)

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the directory."""
        if self._log is not None:
            self._log.close()
            self._events.close()
        (self.path / "lock.json").unlink(missing_ok=True)
        self._lock.release()

    def write(self, name: str, text: str) -> None:
        """Writes a whole file, which appears complete or not at all."""
        temporary = self.path / f".{name}.partial"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)
        except OSError as error:
            raise RunError(f"{self.path / name} was not written: {error.strerror}") from error

    def write_environment(self, devices: dict[str, object]) -> None:
        """Records what the run ran on: versions, git commit, devices, flags."""
        self.write("environment.json", json.dumps(environment() | devices, indent=2))

    def log(self, place: dict[str, float], values: dict[str, float]) -> None:
        """Appends a line to ``metrics.jsonl`` and the same values to the TensorBoard events.

        Args:
            place: where in the run; "step" is what TensorBoard counts by.
            values: the figures.
        """
        # What an earlier process logged after this step has been taken back.
        self._open_log(purge_step=int(place["step"]))
        self._append([place | values])
        for name, value in values.items():
            self._events.add_scalar(name, value, int(place["step"]))

    def log_member(self, member: str, curve: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Appends the whole curve of a member of a sweep, by name a list of (step, value)."""
        self._open_log(purge_step=None)
        self._append(
            [
                {"member": member, "step": step, name: value}
                for name, points in curve.items()
                for step, value in points
            ]
        )
        for name, points in curve.items():
            for step, value in points:
                self._events.add_scalar(f"{name}/{member}", value, step)

    def _open_log(self, purge_step: int | None) -> None:
        if self._log is None:
            from tensorboardX import SummaryWriter

            self._log = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
            self._events = SummaryWriter(str(self.path), purge_step=purge_step)

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        assert self._log is not None
        try:
            self._log.write("".join(json.dumps(entry) + "\n" for entry in entries))
            self._log.flush()
        except OSError as error:
            raise RunError(f"{self._log.name} was not written: {error.strerror}") from error

    def restart_log(self) -> None:
        """Drops all that was logged, by which the ledger of a sweep is told again."""
        for path in (self.path / "metrics.jsonl", *self.path.glob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)

    def rewind_log(self, step: int) -> None:
        """Drops what was logged after `step` and a torn last line, so that no step comes twice."""
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step]
        self.write("metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))

    def _clear(self) -> None:
        """Empties the directory of everything but the lock that is held."""
        for entry in self.path.iterdir():
            if entry.name in (".lock", "lock.json"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def default_path(name: str) -> Path:
    """``runs/<name>-<time>``, a name that is not taken."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{name}-{stamp}"
    suffix = 2
    while path.exists():
        path = Path("runs") / f"{name}-{stamp}-{suffix}"
        suffix += 1
    return path


def require_run(path: Path) -> None:
    """Raises `RunError` where a directory is not a run."""
    if not (path / _MARK).is_file():
        what = "holds no run" if path.is_dir() else "does not exist"
        raise RunError(
            f"{path} {what} (a run directory has a {_MARK}); give the directory that "
            "`rowrnn train` named at its end"
        )


def is_sweep(path: Path) -> bool:
    """Whether a run directory is that of a sweep."""
    return (path / _SWEEP_MARK).is_file()


def require_single(path: Path) -> None:
    """Raises `RunError` where a directory is not that of a single run."""
    require_run(path)
    if is_sweep(path):
        raise RunError(
            f"{path} is a sweep, not a single run; the runs that it kept the states of are in "
            f"{path / 'states'}, and rowrnn sweep --resume {path} goes on with it"
        )


def read_sweep(path: Path) -> dict[str, Any]:
    """``sweep.json`` of a sweep: what it was started with."""
    require_run(path)
    try:
        return json.loads((path / _SWEEP_MARK).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is a single run, not a sweep; go on with it by rowrnn train --resume {path}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path / _SWEEP_MARK} cannot be read: {error}") from error


def read_config(path: Path) -> Config:
    """The configuration that a run was started with."""
    require_run(path)
    return configs.load(path / _MARK)


def read_result(path: Path) -> dict[str, Any] | None:
    """``result.json`` of a finished run, None of one that is not finished."""
    try:
        return json.loads((path / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path / 'result.json'} cannot be read: {error}") from error


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of ``metrics.jsonl``; a line that a kill has torn is passed over."""
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            yield entry


def environment() -> dict[str, Any]:
    """Versions, git commit, flags and command of this process."""
    return {
        "time": _now(),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "flags": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("XLA_", "JAX_")) or name == "NPROC"
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that rowrnn runs from, marked where it has been changed."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _read_holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        holder = json.loads((path / "lock.json").read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
