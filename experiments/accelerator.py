"""What an accelerator does with rowrnn, in one command of about six minutes, without a network.

    python experiments/accelerator.py --out DIR [--data DIR] [--seconds 360]

Needs rowrnn on the path, a jax that knows the device, and no tensorflow-datasets. DIR of --data has
the four IDX files of MNIST; without it the digits that ship with rowrnn are used. `python
experiments/accelerator.py --wheels DIR` fetches, on a machine with a network, the packages that a
machine with jax, flax, optax and orbax-checkpoint may still lack.

Shows, in the order of worth, each part in a process of its own and written when it ends. A part
gets its share of the time that is left, so that a slow one takes none from the others; what it had
by then stands:

    device      devices, versions, memory
    backends    values and gradients of each backend against float64, with and without TF32
    steps       seconds of a training step of each backend at B = 128, 512, 2,048
    peers       the same step in PyTorch (cuDNN), Flax and Equinox, in turns with rowrnn's
    runs        quickstart and notebook, from the shell to the result
    sweeps      1, 16, 128 and 1,024 members under vmap: seed·examples/s and bytes a member
    memory      a stack that does not fit, and what becomes of it
    resume      a run that is stopped by a signal, resumed, and compared with a whole one
    fast        seconds to 99.0 % from a cold and from a warm start
    bench_suites  `rowrnn bench lstm` and `rowrnn bench train`, quick
    profile     a trace of some steps

It leaves DIR/accelerator.json and DIR/accelerator.tar.gz (all that the parts printed, and the
trace). On a CPU everything is smaller, which is how it is tested.
Last result: see RESULTS.md (one NVIDIA H200, 2026-11-26).
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Packages that rowrnn needs beside jax, flax, optax, orbax-checkpoint, matplotlib and rich.
WHEELS = (
    "tyro", "tensorboardX", "typeguard", "docstring_parser", "tomli_w", "msgspec", "filelock",
    "jinja2", "markupsafe", "safetensors",
)  # fmt: skip
# Flags with which XLA compiles in half the time, for a CPU, where nothing is worth timing.
CHEAPLY = "--xla_backend_optimization_level=0"
PARTS = {}
"""The parts by name: a function of the settings, and its share of the time."""


def part(share):
    """Registers a part."""

    def register(function):
        PARTS[function.__name__] = (function, share)
        return function

    return register


class Settings:
    """What the parts are told.

    Attributes:
        data: directory of the IDX files, or "".
        small: on a CPU, less of everything.
        out: where a part may leave files.
    """

    def __init__(self, data, small, out):
        self.data, self.small, self.out = data, small, out

    @property
    def data_flags(self):
        """The data as flags of the command line."""
        return ["--data.dataset", "idx", "--data.dir", self.data] if self.data else [
            "--data.dataset", "mnist_sample", "--data.validation-size", "500"]  # fmt: skip

    def config(self, name, **values):
        """A config of experiments/ with the data and other values, by dotted name."""
        from rowrnn import config

        values = {name.replace("__", "."): value for name, value in values.items()}
        data = {"data.dataset": "idx", "data.dir": self.data} if self.data else {
            "data.dataset": "mnist_sample", "data.validation_size": 500}  # fmt: skip
        return config.replace(config.load(ROOT / f"experiments/{name}.toml"), data | values)


def main():
    """Runs all parts, each in a process of its own."""
    parser = argparse.ArgumentParser(description="rowrnn on an accelerator.")
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    parser.add_argument("--data", default="")
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--small", action="store_true", help="as on a CPU")
    parser.add_argument("--wheels", type=Path, metavar="DIR")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.wheels:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        return subprocess.run([*command, "-d", given.wheels, *WHEELS]).returncode
    settings = Settings(given.data and os.path.abspath(given.data), given.small, given.out)
    if given.part:
        print(json.dumps(PARTS[given.part][0](settings)))
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + given.seconds
    document = {"command": sys.argv, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    document["parts"] = {}
    waiting = given.parts
    # Parts that took too long get what the others have left.
    while waiting and (waiting is given.parts or ends - time.monotonic() > 10):
        slow = []
        for index, name in enumerate(waiting):
            shares = [PARTS[each][1] for each in waiting[index:]]
            limit = (ends - time.monotonic()) * shares[0] / sum(shares)
            document["parts"][name] = found = run_part(name, settings, limit)
            # Everything that follows is smaller where jax finds CPUs alone.
            settings.small |= all(
                one.startswith("cpu") for one in found.get("devices", ["unknown"])
            )
            slow += [name] * str(found.get("error")).startswith("took too long")
            print(f"{name}: {found.get('error') or 'done'}", flush=True)
            write(document, given.out)
        waiting = slow
    return 0


def write(document, out):
    """The JSON, and the archive of all that the parts have left."""
    text = json.dumps(document, indent=1)
    (out / "accelerator.json").write_text(text + "\n", encoding="utf-8")
    with tarfile.open(out / "accelerator.tar.gz", "w:gz") as archive:
        for path in sorted(out.iterdir()):
            if not path.name.startswith("accelerator."):
                archive.add(path, path.name)


def run_part(name, settings, limit):
    """What a part gives, with the seconds it took; an error where it failed or took too long."""
    command = [sys.executable, __file__, "--part", name, "--out", str(settings.out)]
    command += ["--data", settings.data] if settings.data else []
    command += ["--small"] if settings.small else []
    # Parts follow each other, and some have children: none may take all of the memory.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    if settings.small:  # Nearly all of it is compiling.
        environment.setdefault("XLA_FLAGS", CHEAPLY)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (
        str(ROOT), os.environ.get("PYTHONPATH"))))  # fmt: skip
    began = time.monotonic()
    log = settings.out / f"{name}.log"
    with open(log, "w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            stdout, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, _ = process.communicate()
    seconds = {"seconds": round(time.monotonic() - began, 1)}
    partial = settings.out / f"{name}.json"
    lines = stdout.strip().splitlines()
    if process.returncode == 0 and lines:
        return json.loads(lines[-1]) | seconds
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or [""]
    reason = "took too long" if process.returncode == -signal.SIGKILL else last[0][:300]
    found = json.loads(partial.read_text(encoding="utf-8")) if partial.exists() else {}
    return found | seconds | {"error": f"{reason} (status {process.returncode})"}


def keep(settings, name, found):
    """Writes what a part has so far, which stands where it does not come to its end."""
    (settings.out / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def rowrnn(*arguments, env=None, check=True):
    """Runs a command of rowrnn; the JSON on its last line, its exit code and its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rowrnn.cli", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE, text=True, env=os.environ | (env or {}),
    )  # fmt: skip
    seconds = time.monotonic() - began
    lines = done.stdout.strip().splitlines()
    if check and done.returncode:
        raise RuntimeError(f"rowrnn {' '.join(map(str, arguments))}: status {done.returncode}")
    answer = json.loads(lines[-1]) if lines else {}
    return {"answer": answer, "status": done.returncode, "process_s": round(seconds, 2)}


@part(10)
def device(settings):
    """What there is."""
    import flax
    import jax
    import numpy as np
    import optax

    from rowrnn.store import rundir

    found = {
        "devices": [f"{one.platform} {one.device_kind}" for one in jax.devices()],
        "memory": jax.local_devices()[0].memory_stats(),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, np)},
        "environment": rundir.environment(),
    }
    del found["environment"]["command"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found["nvidia-smi"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm",
             "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    return found


def is_accelerator():
    """Whether jax has found something better than CPUs."""
    import jax

    return jax.default_backend() != "cpu"


def backends_here():
    """The backends that can run on this device."""
    import jax

    names = ["scan", "fast", "split", "pallas"]
    return [*names, "cudnn"] if jax.default_backend() == "gpu" else names


@part(35)
def backends(settings):
    """Errors of values and gradients, norm-wise, against the oracle in float64."""
    import jax

    from rowrnn.bench import lstm as suite

    types = ("float32/highest", "float32/default", "bfloat16/default")
    shapes = [(128, 128, 28), (100, 37, 5)] if not settings.small else [(16, 20, 4)]
    found = {"errors": []}

    def judge(one):
        case, name = one
        inputs, truth = suite.make_inputs(case)
        entry = {"backend": name, "type": case.type, "hidden": case.hidden, "batch": case.batch,
                 "rows": case.length}  # fmt: skip
        with jax.default_matmul_precision(case.type.split("/")[1]):
            program = jax.jit(suite.make_program(case, name, "training"))
            h, grads = jax.device_get(program(jax.device_put(inputs)))
        entry["h"] = suite.worst_error(h, truth["training"][0])
        entry["gradients"] = suite.worst_error(grads, truth["training"][1])
        entry["right"] = max(entry["h"], entry["gradients"]) <= case.tolerance
        return entry

    for hidden, batch, length in shapes:
        for kind in types:
            case = suite.Case(hidden, batch, length, 1, kind, 28, 128)
            found["errors"] += in_parallel(judge, [(case, name) for name in backends_here()])
            keep(settings, "backends", found)
    return found


def in_parallel(make, each):
    """What a function gives for each, or its error; compiling takes a core for each at once."""

    def attempt(one):
        try:
            return make(one)
        except Exception as error:
            return {"what": str(one), "error": f"{type(error).__name__}: {error}"[:300]}

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(attempt, each))


def time_steps(program, sample_s, repeats=5):
    """Microseconds of a step of a run, as samples."""
    import jax

    state, trainer = program.state, program.trainer
    order = trainer.order(state, 0)
    steps = 50 if is_accelerator() else 2

    def run(steps):
        nonlocal state
        began = time.perf_counter()
        state = jax.block_until_ready(trainer.run(state, order, steps))
        return time.perf_counter() - began

    run(steps)
    steps = max(steps, int(steps * sample_s / run(steps)))
    samples = [run(steps) / steps * 1e6 for _ in range(repeats)]
    return {"us": samples, "median_us": statistics.median(samples), "steps": steps,
            "memory": program.facts["memory"]["chunk"]}  # fmt: skip


@part(50)
def steps(settings):
    """A training step of each backend, whole: data, gradients, AdamW."""
    from rowrnn.bench.program import Program

    sizes = (128, 2048, 512) if not settings.small else (64,)
    hidden = 128 if not settings.small else 16
    types = (("float32", "highest"), ("float32", "default"), ("bfloat16", "default"))
    found = {"steps": []}
    for batch in sizes:
        wanted = [
            (dtype, precision, batch, name)
            for dtype, precision in (types if not settings.small else types[:1])
            for name in (backends_here() if not settings.small else ["split"])
            if name not in ("fast", "scan") and not (name == "cudnn" and dtype != "float32")
        ]
        wanted += [("float32", "highest", batch, "scan")]

        def compiled(one):
            dtype, precision, batch, name = one
            return Program(settings.config(
                "lstm128", model__hidden_size=hidden, model__projection_size=hidden,
                model__backend=name, model__dtype=dtype, train__precision=precision,
                train__batch_size=batch, parallel__compilation_cache=False,
            ))  # fmt: skip

        # Nothing is compiled while a step is timed.
        for one, program in zip(wanted, in_parallel(compiled, wanted), strict=True):
            dtype, precision, batch, name = one
            entry = {"backend": name, "type": f"{dtype}/{precision}", "batch": batch}
            if isinstance(program, dict):
                entry["error"] = program["error"]
            else:
                entry |= time_steps(program, 0.1)
            found["steps"].append(entry)
            keep(settings, "steps", found)
    return found


@part(45)
def peers(settings):
    """Other libraries that are installed, by a suite of `rowrnn bench`, one batch at a time."""
    suite = {"suite": "peers", "peers": ["pytorch", "flax_linen", "equinox"], "evaluation": False,
             "repeats": 5, "sample_s": 0.2, "devices": [1]}  # fmt: skip
    if settings.small:
        suite |= {"peers": ["flax_linen", "equinox"], "hidden": 16, "projection": 16,
                  "sample_s": 0.02, "repeats": 3}  # fmt: skip
    found = {}
    for size in (128, 2048, 512) if not settings.small else (64,):
        found[size] = bench(settings, suite | {"batch": [size]})
        keep(settings, "peers", found)
    return found


def bench(settings, suite):
    """A suite of `rowrnn bench`, given as a table."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in suite.items()]
    path = settings.out / f"bench_{suite['suite']}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rowrnn("bench", path)["answer"]


@part(55)
def runs(settings):
    """Whole runs."""
    small = ["--train.examples", 1280, "--model.hidden-size", 16] if settings.small else []
    common = [*small, "--train.display", "none", "--parallel.no-compilation-cache"]
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, flags in (
            ("quickstart", []),
            ("notebook_2015", settings.data_flags),
        ):
            config = ROOT / f"experiments/{name}.toml"
            found[name] = rowrnn(
                "train", config, *flags, *common, "--run-dir", f"{directory}/{name}"
            )
            keep(settings, "runs", found)
    return found


@part(45)
def sweeps(settings):
    """Members of the notebook's network, at once on an accelerator."""
    sizes = (1, 16, 128, 1024) if not settings.small else (2, 4)
    hidden = 128 if not settings.small else 8
    found = {"sweeps": []}
    for backend in ("fast", "pallas") if not settings.small else ("fast",):
        config = settings.config(
            "notebook_2015", model__hidden_size=hidden, model__projection_size=hidden,
            model__backend=backend, train__display="none",
        )  # fmt: skip
        for members in sizes:
            entry = {"members": members, "backend": backend}
            try:
                entry |= time_members(config, members)
            except Exception as error:
                entry["error"] = f"{type(error).__name__}: {error}"[:300]
            found["sweeps"].append(entry)
            keep(settings, "sweeps", found)
    return found


def time_members(config, members):
    """Throughput of members that are trained together, and their memory beside what was planned."""
    import jax
    import numpy as np

    from rowrnn import parallel
    from rowrnn.lab.trainer import Trainer, prepare, stack_members

    vmap = is_accelerator()
    parallel.start_sweep(config.parallel)
    mesh = parallel.make_sweep_mesh(config.parallel)
    experiment, began = prepare(config), time.monotonic()
    trainer = Trainer(experiment, mesh, members, vmap=vmap)
    found = {"compile_s": round(time.monotonic() - began, 2)}
    found["planned_bytes"] = parallel.device_bytes(trainer.programs.chunk)
    seeds, init_seeds, hyperparams = stack_members([experiment] * members)
    others = np.arange(members, dtype=np.uint32)
    state = trainer.init(seeds + others, init_seeds + others, hyperparams)
    order, steps, samples = trainer.order(state, 0), 20 if vmap else 2, []
    for _ in range(4):
        began = time.perf_counter()
        state = jax.block_until_ready(trainer.run(state, order, steps))
        samples.append((time.perf_counter() - began) / steps * 1e6)
    found["step_us"] = samples[1:]  # The first warms up.
    batch = config.train.batch_size
    rate = members * batch / statistics.median(samples[1:]) * 1e6
    stats = jax.local_devices()[0].memory_stats() or {}
    return found | {
        "seed_examples_per_s": rate,
        "seeds_per_s": rate / (experiment.steps * batch),
        # The most since the process began, with what compiling tried.
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


@part(25)
def memory(settings):
    """Members that do not fit at once: a smaller stack is tried, or the sweep says what lacks."""
    if settings.small:
        count, flags = 4, ["--model.hidden-size", 8, "--model.projection-size", 0]
    else:
        # About 3 GB a member, nearly all of it residuals of a step.
        count, flags = 60, ["--model.hidden-size", 1024, "--train.batch-size", 2048]
    strategy = "vmap" if not settings.small else "map"
    return rowrnn(
        "sweep", ROOT / "experiments/notebook_2015.toml", *settings.data_flags, *flags,
        "--seeds", f"0:{count}", "--strategy", strategy, "--chunk", count, "--train.examples", 4096,
        "--train.display", "none", "--keep", "none", "--overwrite",
        "--run-dir", settings.out / "memory-run",
        check=False,
    )  # fmt: skip


@part(60)
def resume(settings):
    """Stops a run by SIGTERM, resumes it, and compares its parameters with those of a whole run."""
    steps = 3000 if not settings.small else 400
    flags = ["--train.batch-size", 64, "--train.examples", steps * 64, "--train.display", "none"]
    flags += ["--model.hidden-size", 16] if settings.small else []
    config = ROOT / "experiments/quickstart.toml"
    with tempfile.TemporaryDirectory() as directory:
        whole = rowrnn("train", config, *flags, "--run-dir", f"{directory}/whole")["answer"]
        command = [sys.executable, "-m", "rowrnn.cli", "train", config, *map(str, flags)]
        process = subprocess.Popen([*command, "--run-dir", f"{directory}/cut"])
        metrics = Path(directory, "cut/metrics.jsonl")
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        lines = metrics.read_text(encoding="utf-8").splitlines()
        rest = rowrnn("train", "--resume", f"{directory}/cut")["answer"]
    return {
        "stopped_with": status,
        "stopped_at": json.loads(lines[-1])["step"] if lines else None,
        "of": steps,
        "same_bits": rest["params_sha256"] == whole["params_sha256"],
        "whole": whole,
    }


@part(45)
def fast(settings):
    """Seconds from the shell to the end of the speedrun, compiling and with compiled programs."""
    flags = [] if not settings.small else ["--train.examples", 2560, "--model.hidden-size", 16]
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{directory}/programs"}
        for name in ("cold", "warm"):
            found[name] = rowrnn(
                "train", ROOT / "experiments/speedrun.toml", *settings.data_flags, *flags,
                "--parallel.devices", 0 if not settings.small else 1,
                "--parallel.compilation-cache", "--train.display", "none",
                "--run-dir", f"{directory}/{name}", env=cache,
            )  # fmt: skip
            keep(settings, "fast", found)
    return found


@part(35)
def bench_suites(settings):
    """`rowrnn bench train` and `rowrnn bench lstm`; no jax here, which would hold the device."""
    train = {"suite": "train", "batch": [128], "program": False, "sample_s": 0.3, "repeats": 5}
    suite = {"suite": "lstm", "hidden": [128, 512], "batch": [128, 512], "seeds": [1, 16],
             "types": ["float32/highest", "float32/default", "bfloat16/default"],
             "shapes": [[1024, 64, 25]], "sample_s": 0.02, "repeats": 5,
             "limit_s": 1.0}  # fmt: skip
    if settings.small:  # On a CPU `train` measures a sweep too, and each core.
        suite |= {"hidden": [16], "batch": [8], "backends": ["fast"], "shapes": [], "seeds": [1],
                  "types": ["float32/highest"]}  # fmt: skip
        return {"lstm": bench(settings, suite)}
    found = {"train": bench(settings, train)}
    keep(settings, "bench_suites", found)
    return found | {"lstm": bench(settings, suite)}


@part(20)
def profile(settings):
    """A trace of some steps of a run, in the archive."""
    import jax

    from rowrnn.bench.program import Program

    hidden = 128 if not settings.small else 8
    found = {}
    for name in ("fast", "pallas") if not settings.small else ("fast",):
        program = Program(settings.config(
            "lstm128", model__backend=name, model__hidden_size=hidden,
            model__projection_size=hidden,
        ))  # fmt: skip
        program.train(5)
        with jax.profiler.trace(str(settings.out / f"trace-{name}")):
            program.train(5)
        files = [path for path in (settings.out / f"trace-{name}").rglob("*") if path.is_file()]
        found[name] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found


if __name__ == "__main__":
    sys.exit(main())
