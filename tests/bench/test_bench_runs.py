"""Bench, run for real on tiny grids: what a file holds, and that what is wrong is not timed."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import here
from rich.console import Console

from rowrnn import bench
from rowrnn.bench import (
    ceiling,
    oracle,
    peers,
    record,
    startup,
    suites,
    timing,
    train,
)
from rowrnn.bench.child import Child, ChildError, NotInstalledError
from rowrnn.bench.lstm import MODES
from rowrnn.bench.peers.task import RATE, make_task
from rowrnn.config import TrainConfig
from rowrnn.core import lstm
from rowrnn.errors import ConfigError

TINY_LSTM = """
suite = "lstm"
repeats = 3
sample_s = 0.001
backends = ["scan"]
hidden = [4, 8]
batch = [2, 3]
length = [5]
seeds = [2]
types = ["float32/highest"]
projection = 6
shapes = [[8, 2, 3]]
"""

TINY_CEILING = """
suite = "ceiling"
repeats = 3
sample_s = 0.001
limit_s = 5
products = [[16, 32, 64], [8, 8, 8]]
types = ["float32/highest"]
copy_mib = [1]
one_core = false
"""

PROVENANCE = {"format", "suite", "quick", "date", "command", "git_commit", "platform", "devices",
              "device_kind", "processor", "cores", "python", "versions", "flags", "settings",
              "warnings", "noisy", "wrong", "other_cores", "figures"}  # fmt: skip


def run_tiny(tmp_path, text):
    """Runs a suite and returns its document as the file has it."""
    path, out = tmp_path / "suite.toml", tmp_path / "results" / "out.json"
    path.write_text(text)
    document = bench.run(str(path), out=out)
    assert json.loads(out.read_text()) == json.loads(json.dumps(document))
    with (tmp_path / "table").open("w") as file:
        bench.show(document, Console(width=80, file=file))
    text = (tmp_path / "table").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert " \n" not in text
    return document, out.parent


def check_statistics(entry):
    assert entry["repeats"] == len(entry["samples"]) >= 3
    assert entry["median"] == pytest.approx(np.median(entry["samples"]))
    assert entry["min"] == min(entry["samples"]) > 0


@pytest.fixture
def _short_ceiling(monkeypatch):
    """Products small enough for a test; the shares mean nothing then."""
    monkeypatch.setattr(suites.Ceiling, "products", ((16, 16, 16),), raising=True)
    original = suites.Ceiling.__init__

    def init(self, **values):
        original(self, **{"products": ((16, 16, 16),)} | values | {"copy_mib": (1,)})

    monkeypatch.setattr(suites.Ceiling, "__init__", init)


def test_ceiling(tmp_path):
    document, results = run_tiny(tmp_path, TINY_CEILING)
    assert document.keys() >= PROVENANCE | {"sgemm_gflops", "gemm_gflops", "copy_gb_per_s"}
    products = [entry for entry in document["figures"] if "gflops" in entry]
    assert len(products) == 2
    for entry in document["figures"]:
        check_statistics(entry)
    flops = {2 * 16 * 32 * 64, 2 * 8**3}
    assert {round(e["gflops"] * e["median"] * 1e9) for e in products} == flops
    assert document["sgemm_gflops"] == max(entry["gflops"] for entry in products)
    assert (results / "out-products.png").read_bytes().startswith(b"\x89PNG")
    # Ctrl-C may come before the first copy.
    stopped = document | ceiling.summary(products)
    with (tmp_path / "stopped").open("w") as file:
        bench.show(stopped | {"figures": products}, Console(width=80, file=file))
    assert "copy" not in (tmp_path / "stopped").read_text()


@pytest.mark.usefixtures("_short_ceiling")
def test_lstm(tmp_path):
    document, results = run_tiny(tmp_path, TINY_LSTM)
    assert document.keys() >= PROVENANCE | {"sgemm_gflops", "skipped"}
    assert len(document["figures"]) == (2 * 2 + 1) * len(MODES)
    for entry in document["figures"]:
        check_statistics(entry)
        assert entry["error"] <= entry["tolerance"]
        assert entry["compile"].keys() == {"trace_s", "lower_s", "backend_s"}
        assert all(seconds > 0 for seconds in entry["compile"].values())
        assert entry["memory"]["peak"] > 0
        examples = entry["case"]["batch"] * entry["case"]["seeds"]
        assert entry["examples_per_s"] == pytest.approx(examples / entry["median"])
        share = entry["tflops"]["executed"] * 1e3 / document["sgemm_gflops"]
        assert entry["share_of_ceiling"] == pytest.approx(share)
    assert {path.name for path in results.glob("*.png")} == {
        "out-batch.png",
        "out-hidden.png",
        "out-roofline.png",
    }


def forgets_the_bias(*arguments, **options):
    return lstm.reference.lstm(*arguments, **options | {"forget_bias": 0.0})


def wrong_gradient_only(cell, *arguments, **options):
    cell = cell._replace(bias=jax.lax.stop_gradient(cell.bias))
    return lstm.reference.lstm(cell, *arguments, **options)


def not_a_number(*arguments, **options):
    h, carry = lstm.reference.lstm(*arguments, **options)
    return jnp.where(jnp.arange(h.size).reshape(h.shape) == 0, jnp.nan, h), carry


@pytest.mark.usefixtures("_short_ceiling")
@pytest.mark.parametrize(
    ("backend", "wrong"),
    [
        pytest.param(forgets_the_bias, MODES, marks=pytest.mark.slow),
        (wrong_gradient_only, ("training",)),
        (not_a_number, MODES),
    ],
)
def test_a_wrong_backend_is_reported_as_wrong_and_not_timed(tmp_path, monkeypatch, backend, wrong):
    monkeypatch.setitem(lstm.BACKENDS, "suspect", backend)
    text = TINY_LSTM.replace('"scan"', '"suspect"').replace("seeds = [2]", "seeds = [1]")
    document, _ = run_tiny(tmp_path, text.replace("[4, 8]", "[4]").replace("[2, 3]", "[2]"))
    for entry in document["figures"]:
        if entry["name"].split()[1] in wrong:
            assert "error" in entry["wrong"]
            assert not entry.keys() & {"samples", "median", "examples_per_s"}
            assert entry["name"] in document["wrong"]
        else:
            assert "median" in entry


def test_compile_times_are_of_programs_compiled_within():
    with timing.without_compilation_cache(), timing.compile_times() as programs:
        jax.jit(lambda x: jnp.sin(x) + 1, inline=False).lower(1.0).compile()
    jax.jit(jnp.cos).lower(1.0).compile()
    assert list(programs) == ["<lambda>"]
    assert all(seconds > 0 for seconds in programs["<lambda>"].values())


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """A role with ways to go wrong."""
    (tmp_path / "helper.py").write_text(
        "import os, time\n"
        "class Served:\n"
        "    facts = {'pid': os.getpid()}\n"
        "    def echo(self, x): print('noise'); return x\n"
        "    def fail(self): raise ValueError('on purpose')\n"
        "    def sleep(self): time.sleep(60)\n"
        "    def compute(self, seconds):\n"
        "        began = time.time()\n"
        "        while time.time() < began + seconds: pass\n"
        "    def die(self): os._exit(3)\n"
        "    def affinity(self): return sorted(os.sched_getaffinity(0))\n"
        "def start(): return Served()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "helper"


def test_a_child_answers_fails_and_ends(helper):
    with Child(helper, {}) as child:
        pid = child.facts["pid"]
        assert child.ask("echo", {"x": [1, 2.5]}) == {"x": [1, 2.5]}
        with pytest.raises(ChildError, match="ValueError: on purpose"):
            child.ask("fail")
        assert child.ask("echo", "still there") == "still there"
        with pytest.raises(ChildError, match="status 3"):
            child.ask("die")
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_ends_with_its_parent(helper):
    with Child(helper, {}) as child:
        pid = child.facts["pid"]
        child.send("sleep")
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_hangs_is_killed(helper):
    with Child(helper, {}) as child, pytest.raises(ChildError, match=r"nothing for 0\.2 s"):
        child.ask("sleep", patience=0.2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process does")
def test_a_child_that_computes_may_take_its_time(helper):
    with Child(helper, {}) as child:
        assert child.ask("compute", 2, patience=0.4) is None


@pytest.mark.skipif(not hasattr(timing.time, "sleep") or sys.platform != "linux", reason="Linux")
def test_a_child_stays_on_its_cores(helper):
    with Child(helper, {}, cpus=[0]) as child:
        assert child.ask("affinity") == [0]


def test_a_library_that_is_not_installed_is_named(helper, tmp_path):
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    with Child("needy", {}) as child, pytest.raises(NotInstalledError, match="no_such_library"):
        assert child.facts


LIBRARIES = {"pytorch": "torch", "keras3": "keras", "equinox": "equinox"}


# rowrnn itself and flax_linen: in the next test.
@pytest.mark.parametrize("peer", [pytest.param("flax_nnx", marks=pytest.mark.soak), *LIBRARIES])
def test_a_peer_computes_what_the_oracle_computes(peer):
    library = LIBRARIES.get(peer, "jax")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed (extra `peers`)")
    options = {"batch": 64, "hidden": 16, "projection": 12}
    task = make_task(**options)
    images, labels = task.images[task.order], task.labels[task.order]
    truth = oracle.training(task.weights, images, labels, 64, 5, RATE)
    with Child(f"rowrnn.bench.peers.{peer}", options) as child:
        peers.prove(child, truth)
        child.ask("train", 3)
        assert 0 < child.ask("evaluate", 4) <= 4_000
        with pytest.raises(peers.WrongError, match="logits"):
            peers.prove(child, truth)  # its weights have moved on


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        (suites.Train(config="none.toml"), "config none.toml: No such file"),
        (suites.Startup(config="none.toml"), "config none.toml: No such file"),
        (suites.Peers(projection=0), "projection = 0: the peers have one"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(monkeypatch, suite, says):
    def measured(*_, **__):
        raise AssertionError("a process was started")

    for module in (train, peers, startup):
        monkeypatch.setattr(module, "Child", measured)
    monkeypatch.setattr(startup, "run_program", measured)
    run = {suites.Train: train, suites.Startup: startup, suites.Peers: peers}[type(suite)].run
    with pytest.raises(ConfigError, match=says):
        run(suite, quick=False)


@pytest.mark.slow
def test_peers(tmp_path, monkeypatch):
    # For the processes that are started: they compile in less time, and no time is looked at here.
    monkeypatch.setenv("XLA_FLAGS", compiler.FLAGS)
    document, results = run_tiny(
        tmp_path,
        'suite = "peers"\npeers = ["flax_linen", "pytorch"]\nrepeats = 3\nsample_s = 0.01\n'
        "batch = [64]\nhidden = 8\nprojection = 4\ndevices = [1]\n",
    )
    assert document.keys() >= PROVENANCE | {"ratios", "skipped", "sgemm_gflops"}
    if importlib.util.find_spec("torch") is None:
        assert document["skipped"] == {"pytorch": "torch is not installed"}
    for batch in ("64", "eval1000"):
        median, low, high = document["ratios"]["flax_linen"][batch]
        assert 0 < low <= median <= high
        pairs = next(e for e in document["figures"] if e["name"] == f"rowrnn / flax_linen, {batch}")
        assert median == pytest.approx(np.median(pairs["samples"]))
    for entry in document["figures"]:
        check_statistics(entry)
    assert (results / "out-ratios.png").exists()


@pytest.mark.parametrize("change", [{"losses": 2e-4}, {"losses": np.nan}, {"logits": 1e-4}])
def test_a_peer_that_computes_something_else_is_wrong(change):
    logits, losses = np.ones((2, 3)), [2.0] * 6

    class Peer:
        role = "suspect"

        def ask(self, do, *_):
            if do == "first_logits":
                return (logits + change.get("logits", 0)).tolist()
            return [*losses[:-1], losses[-1] * (1 + change.get("losses", 0))]

    with pytest.raises(peers.WrongError, match="off by"):
        peers.prove(Peer(), (logits, losses))  # pyright: ignore[reportArgumentType]


def test_settings_of_train_suit_the_platform():
    suite = suites.Train(devices=(1, 2))
    cores = train.cores()
    names = [setting.name for setting in train.settings(suite, "cpu")]
    assert names[:2] == ["one run", "one run on 2 devices"]
    assert ("one core" in names) == (len(cores) > 1)
    whole, by_default = train.settings(suite, "gpu")
    assert (whole.precision, by_default.precision) == ("highest", TrainConfig().precision)
    for setting in (whole, by_default):
        assert setting.devices == 0
        assert not setting.pinned


WATCHED = """
import json, sys, jax
from rowrnn import bench
from rowrnn.bench import peers, side_by_side, turns
started = []

class Child(turns.Child):
    def __init__(self, *arguments, within=None, **named):
        super().__init__(*arguments, within=within, **named)
        started.append(within is None)
        self.facts["platform"] = "gpu"

turns.Child = peers.Child = side_by_side.Child = Child
document = bench.run(sys.argv[1])
# Refused where a backend runs.
jax.config.update("jax_num_cpu_devices", 3)
print(json.dumps([started, jax.device_count(), document]))
"""
SMALL = "repeats = 3\nsample_s = 0.01\nbatch = [64]\nhidden = 8\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "more", "count"),
    [
        ("train", "program = false\n", 4),
        ("peers", 'peers = ["flax_linen"]\nprojection = 4\nevaluation = false\n', 3),
    ],
)
def test_an_accelerator_is_held_by_one_process(tmp_path, suite, more, count):
    """Told that the CPU is none, the first process does it all; who has it done starts no jax."""
    (tmp_path / "suite.toml").write_text(f'suite = "{suite}"\n{SMALL}{more}')
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, tmp_path / "suite.toml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    started, devices, document = json.loads(done.stdout.splitlines()[-1])
    assert started == [True] + [False] * (count - 1)
    assert devices == 3
    assert not document["wrong"]
    if suite == "train":
        found = {entry["case"]["precision"] for entry in document["figures"]}
        assert found == {"highest", TrainConfig().precision}


@pytest.mark.soak
def test_train(tmp_path):
    config = Path(__file__).parents[2] / "experiments" / "quickstart.toml"
    document, results = run_tiny(
        tmp_path,
        f'suite = "train"\nrepeats = 3\nsample_s = 0.05\nbatch = [64]\nhidden = 16\n'
        f'target = 0.3\nslope_s = 1.0\nconfig = "{config}"\n',
    )
    assert document.keys() >= PROVENANCE | {"examples_per_s", "share_of_ceiling", "sgemm_gflops"}
    for entry in document["figures"]:
        check_statistics(entry)
        low, high = entry["share_interval"]
        assert 0 < low <= entry["share_of_ceiling"] <= high
        assert entry["memory"]["peak"] > 0
        assert entry["compile"]["backend_s"] > 0
    assert document["program"]["reached"]
    assert document["program"]["slope_examples_per_s"] > 0
    assert (results / "out-throughput.png").exists()


@pytest.mark.soak
def test_startup(tmp_path):
    config = Path(__file__).parents[2] / "experiments" / "quickstart.toml"
    document, _ = run_tiny(tmp_path, f'suite = "startup"\nrepeats = 3\nconfig = "{config}"\n')
    assert document["compile"].keys() >= {"chunk", "evaluate"}
    medians = {entry["name"]: entry["median"] for entry in document["figures"]}
    assert medians["first step, cold"] > medians["first step, warm compilation cache"] > 0


@pytest.mark.usefixtures("_short_ceiling")
@pytest.mark.parametrize("cases", [1, 2])
def test_ctrl_c_keeps_what_is_finished(tmp_path, monkeypatch, cases):
    """It comes while the first case is measured, after which there is nothing, or the second."""
    (tmp_path / "suite.toml").write_text(TINY_LSTM.replace("batch = [2, 3]", "batch = [2]"))
    begun, measure = 0, timing.measure

    def progress(text):
        nonlocal begun
        begun += text.startswith("H")

    def interrupted(call, suite):
        def call_and_press():
            if begun == cases:
                signal.raise_signal(signal.SIGINT)
            return call()

        return measure(call_and_press, suite)

    monkeypatch.setattr(timing, "progress", progress)
    monkeypatch.setattr(timing, "measure", interrupted)
    # Where the tests run in the background of a shell, SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        here("bench", "suite.toml", "--out", "out.json", cwd=tmp_path, code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    out = tmp_path / "out.json"
    assert out.exists() == (cases > 1)
    if cases > 1:
        document = record.read(out)
        assert document["stopped"]
        assert {entry["case"]["hidden"] for entry in document["figures"]} == {4}
        assert "stopped by Ctrl-C" in " ".join(document["warnings"])
