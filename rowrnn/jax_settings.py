"""What jax takes from variables of the environment, and what rowrnn makes of it.

Settings that results rest on rowrnn sets for itself (`pinned`), whatever ``JAX_ENABLE_X64`` and
others or `jax.config` say. What only the environment can say is part of what decides a run
(`deciding_variables`). A value that jax cannot start with is refused (`require_jax`). jax is
imported in functions alone, so that the command line can ask before it is loaded.
"""

import contextlib
import functools
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from rowrnn import files
from rowrnn.errors import ConfigError, cut

_P = ParamSpec("_P")
_Value = TypeVar("_Value")

_DECIDING = (
    "JAX_ACCURATE_ERF_INV",
    "JAX_ALLOW_F16_REDUCTIONS",
    "JAX_COMPILER_ENABLE_REMAT_PASS",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_MEMORY_FITTING_EFFORT",
    "JAX_MEMORY_FITTING_LEVEL",
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_RANDOM_SEED_OFFSET",
    "JAX_USE_DIRECT_LINEARIZE",
    "JAX_USE_HLO_LOGISTIC_LOWERING",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)
# Flags of XLA that change no result.
_DEVICES = "--xla_force_host_platform_device_count"
_HARMLESS = ("--xla_dump_", _DEVICES)

# Seconds in which a process that only starts jax has done so, also on a busy machine.
_START_S = 120


def pinned(function: Callable[_P, _Value]) -> Callable[_P, _Value]:
    """The function, run under the settings of jax that results rest on, whatever was set before.

    They are jax's own defaults, without its checks that would end a run: to find a loss that is not
    finite is rowrnn's own work. They hold in the calling thread until the function returns.
    """

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _Value:
        import jax

        with (
            jax.enable_x64(False),
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.numpy_dtype_promotion("standard"),
            jax.softmax_custom_jvp(False),
            jax.disable_jit(False),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.transfer_guard("allow"),
        ):
            return function(*args, **kwargs)

    return run


def deciding_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that may change a result and that rowrnn cannot set for itself.

    Args:
        environment: where to look; that of this process where not given.

    >>> deciding_variables({"XLA_FLAGS": "--xla_dump_to=d --xla_cpu_enable_fast_math=true"})
    {'XLA_FLAGS': '--xla_cpu_enable_fast_math=true'}
    """
    values = os.environ if environment is None else environment
    found = {name: values.get(name, "").strip() for name in _DECIDING}
    words = [word for word in found["XLA_FLAGS"].split() if not word.startswith(_HARMLESS)]
    found["XLA_FLAGS"] = " ".join(words)
    return {name: value for name, value in found.items() if value}


def forget_cpu_devices() -> None:
    """Unsets what asks for more CPU devices than a command does, before jax is imported.

    More devices than cores are more threads, with which results have other last bits. A value that
    is no number stays, for `require_jax` to refuse.
    """
    if os.environ.get("JAX_NUM_CPU_DEVICES", "").isdecimal():
        del os.environ["JAX_NUM_CPU_DEVICES"]
    words = os.environ.get("XLA_FLAGS", "").split()
    kept = [word for word in words if not re.fullmatch(rf"{_DEVICES}=\d+", word)]
    if kept != words:
        os.environ["XLA_FLAGS"] = " ".join(kept)


def require_jax() -> None:
    """Imports jax; raises `ConfigError` where a variable has a value that jax does not start with.

    XLA ends the process where it does not know a flag in ``XLA_FLAGS``. So another process tries.
    """
    try:
        with _late_ctrl_c():
            import jax  # noqa: F401
    except ValueError as error:
        text = str(error)
        # jax names some variables in lower case, as its own settings.
        named = re.search(r"jax_\w+|jax\.\w+", text, re.IGNORECASE)
        name = named[0].replace(".", "_").upper() if named else "a JAX_ variable"
        value = os.environ.get(name)
        given = f"{name}={cut(value)}" if value is not None else name
        raise ConfigError(
            f"{given}: jax does not take this value ({cut(text)}); correct or unset the variable"
        ) from error
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not (proof := _proof(flags)).exists():
        done = subprocess.run(
            [sys.executable, "-P", "-c", "import jax; jax.devices()"],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_START_S,
        )
        if done.returncode:
            told = re.search(r"\] (.+)", done.stderr)
            reason = cut(told[1]) if told else "no reason given"
            raise ConfigError(
                f"XLA_FLAGS={cut(flags)}: XLA does not start ({reason}); "
                "correct or unset the variable"
            )
        with contextlib.suppress(OSError):
            proof.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            proof.touch()


@contextlib.contextmanager
def _late_ctrl_c() -> Iterator[None]:
    """Ctrl-C within counts at the end: an extension that it meets on loading fails otherwise."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _proof(flags: str) -> Path:
    """A file that is there when this jax is known to start with some flags."""
    import jax

    digest = hashlib.sha256(f"{jax.__version__} {flags}".encode()).hexdigest()[:32]
    return (files.user_cache() or Path(os.devnull)) / "xla-flags" / digest


def require_devices() -> None:
    """Starts jax's backend; raises `ConfigError` where there is none of what it is told to use.

    Likewise within `jax.jit`, where no array has values yet.
    """
    import jax
    from jax.core import Tracer

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # The second of "cuda" without its plugin.
        names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
        given = [f"{name}={cut(os.environ[name])}" for name in names if os.environ.get(name)]
        reason = (str(error).splitlines() or ["not installed"])[0]
        raise ConfigError(
            f"{', '.join(given) or 'jax'}: jax finds no such device ({cut(reason)}); "
            "JAX_PLATFORMS=cpu runs on the CPU, and without the variable jax takes what is there"
        ) from error
    if isinstance(jax.device_put(0), Tracer):
        raise ConfigError(
            "within jax.jit no run can be trained, evaluated or taken out of a sweep; call this "
            "outside. rowrnn.make_train gives a whole training as a function for jit and vmap"
        )
