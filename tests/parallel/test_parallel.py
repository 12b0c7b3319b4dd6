"""Devices of one process and what lies on them; the processes of a job as one alone sees them."""

import dataclasses
import json
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.cli.train import is_one_of_several
from rowrnn.config import Config, ParallelConfig
from rowrnn.core.step import Batch
from rowrnn.errors import ConfigError, RunError
from rowrnn.parallel import coordinator, processes, watchdog

TWO = ParallelConfig(devices=2)
JOB = ParallelConfig(coordinator="node0:1234", processes=4, process=3)


def checked(parallel):
    configs.check(Config(parallel=parallel))


@pytest.mark.parametrize(
    "given", [{}, {"processes": 1}, dataclasses.asdict(JOB), {**dataclasses.asdict(JOB), "seed": 2}]
)
def test_a_job_is_told_of_in_full_or_not_at_all(given):
    checked(ParallelConfig(**given))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"coordinator": "a:1"}, "'a:1', None, None"),
        ({"processes": 2}, "None, 2, None"),
        ({"process": 0}, "None, None, 0"),
        ({"coordinator": "a:1", "processes": 2}, "'a:1', 2, None"),
        ({"coordinator": "a:1", "process": 0}, "'a:1', None, 0"),
        ({"processes": 2, "process": 0}, "None, 2, 0"),
        ({"processes": 1, "process": 0}, "None, 1, 0"),
        ({"coordinator": "a:1", "processes": 1}, "'a:1', 1, None"),
    ],
)
def test_a_job_told_of_in_part_is_refused(given, shown):
    with pytest.raises(ConfigError) as raised:
        checked(ParallelConfig(**given))
    start = f"parallel.coordinator, processes, process = {shown}: a job needs all three, or none"
    assert str(raised.value).startswith(start)


@pytest.mark.parametrize(("processes", "process"), [(1, 1), (2, 2), (2, 7)])
def test_processes_count_from_0(processes, process):
    checked(ParallelConfig(coordinator="a:1", processes=processes, process=processes - 1))
    with pytest.raises(ConfigError) as raised:
        checked(ParallelConfig(coordinator="a:1", processes=processes, process=process))
    assert str(raised.value) == (
        f"parallel.process = {process}: must be less than parallel.processes = {processes}; "
        "they count from 0"
    )


@pytest.mark.parametrize("address", ["host:1", "10.0.0.1:12345", "[::1]:80", "a.b-c.d:65535"])
def test_an_address_has_a_host_and_a_port(address):
    checked(dataclasses.replace(JOB, coordinator=address))


@pytest.mark.parametrize(
    "address",
    ["", ":", ":1", "host", "host:", "host:0", "host:65536", "host:-1", "host:+1", "host: 1",
     "host:1.0", "host:port", "host:１", "host:²", "1234",
     "host:" + "1" * 5_000, " :1", "ho st:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError) as raised:
        checked(dataclasses.replace(JOB, coordinator=address))
    shown = configs.shown(address)
    assert str(raised.value).startswith(f"parallel.coordinator = {shown}: must be HOST:PORT")


def test_the_job_is_no_part_of_the_config_that_is_kept():
    config = Config(parallel=dataclasses.replace(JOB, devices=2, stall_seconds=5.0))
    kept = configs.without_job(config)
    assert kept == Config(parallel=ParallelConfig(devices=2, stall_seconds=5.0))
    assert "node0:1234" in configs.dump(config)
    lines = [line.split(" = ")[0] for line in configs.dump(kept).splitlines()]
    assert "stall_seconds" in lines
    assert not {"coordinator", "processes", "process"} & set(lines)


def test_how_a_run_is_spread_out_may_change():
    spread = {f"parallel.{field.name}" for field in dataclasses.fields(ParallelConfig)}
    assert spread <= configs.FREE
    assert configs.digest(Config(parallel=JOB)) == configs.digest(Config())


TOLD = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")


@pytest.fixture
def untold(monkeypatch):
    """A process of which no cluster tells anything."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "libtpu", None)


@pytest.mark.usefixtures("untold")
def test_a_process_that_nobody_tells_otherwise_is_alone():
    assert not is_one_of_several(Config())
    assert not is_one_of_several(Config(parallel=ParallelConfig(2, 2, processes=1)))
    assert is_one_of_several(Config(parallel=JOB))


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("name", TOLD)
def test_a_cluster_tells_a_process_that_it_is_one_of_several(monkeypatch, name):
    monkeypatch.setenv(name, "0")
    assert is_one_of_several(Config())


@pytest.mark.usefixtures("untold")
def test_the_host_of_a_tpu_may_be_one_of_several(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "libtpu")
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert is_one_of_several(Config())


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        # A single CPU device unless told otherwise.
        ({}, (1, 1)),
        ({"devices": 1}, (1, 1)),
        ({"devices": 2}, (1, 2)),
        ({"data": 2}, (1, 2)),
        ({"data": 1}, (1, 1)),
        ({"seed": 1, "data": 2}, (1, 2)),
        ({"seed": 1, "devices": 2}, (1, 2)),
    ],
)
def test_a_single_run_has_its_devices_on_data(given, shape):
    mesh = parallel.make_mesh(ParallelConfig(**given))
    assert dict(mesh.shape) == dict(zip(("seed", "data"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        # Every device unless told otherwise.
        ({}, (2, 1)),
        ({"devices": 1}, (1, 1)),
        ({"devices": 2}, (2, 1)),
        ({"seed": 2}, (2, 1)),
        ({"data": 1}, (2, 1)),
        ({"data": 2}, (1, 2)),
        ({"seed": 1, "data": 2}, (1, 2)),
        ({"seed": 2, "data": 1}, (2, 1)),
        ({"seed": 1, "data": 1, "devices": 1}, (1, 1)),
    ],
)
def test_a_sweep_has_its_devices_on_seed(given, shape):
    mesh = parallel.make_sweep_mesh(ParallelConfig(**given), vmap=False)
    assert dict(mesh.shape) == dict(zip(("seed", "data"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


def sweep_mesh(config):
    return parallel.make_sweep_mesh(config, vmap=False)


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (parallel.make_mesh, {"devices": 2, "data": 1}, "parallel.data = 1: .* devices, 2 in all"),
        (parallel.make_mesh, {"devices": 1, "data": 2}, "parallel.data = 2: .* devices, 1 in all"),
        (parallel.make_mesh, {"devices": 3}, "devices = 3: this process has 2 cpu device"),
        (parallel.make_mesh, {"data": 3}, "= 3: this process has 2 cpu device"),
        (parallel.make_mesh, {"seed": 2}, r"parallel\.seed = 2: a single run has one seed"),
        (sweep_mesh, {"seed": 1}, "parallel.seed = 1: .* devices, 2 in all"),
        (sweep_mesh, {"devices": 1, "seed": 2}, "parallel.seed = 2: .* devices, 1 in all"),
        (sweep_mesh, {"devices": 1, "data": 2}, "parallel.data = 2: .* devices, 1 in all"),
        (sweep_mesh, {"devices": 2, "seed": 2, "data": 2},
         "^parallel.seed = 2, parallel.data = 2: seed x data must be the number of devices, 2 in"),
        (sweep_mesh, {"devices": 3}, "devices = 3: this process has 2 cpu device"),
        (sweep_mesh, {"seed": 2, "data": 2}, "= 4: this process has 2 cpu device"),
    ],
)  # fmt: skip
def test_axes_that_do_not_fit_the_devices_are_refused(make, given, says):
    with pytest.raises(ConfigError, match=says):
        make(ParallelConfig(**given))


def test_a_batch_must_divide_over_the_axis_data():
    mesh = parallel.make_mesh(TWO)
    parallel.check_divides(mesh, 4)
    with pytest.raises(ConfigError, match=r"train\.batch_size = 3: must be a multiple of 2, the n"):
        parallel.check_divides(mesh, 3)
    parallel.check_divides(parallel.make_sweep_mesh(TWO, vmap=False), 3)


def test_a_mesh_is_described():
    found = parallel.describe(parallel.make_mesh(TWO))
    assert (found["platform"], found["devices"], found["processes"]) == ("cpu", 2, 1)


def everywhere(array):
    """What each device holds of an array, that must be the same on all and the whole."""
    copies = [np.asarray(shard.data) for shard in array.addressable_shards]
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0], copies[1])
    assert copies[0].shape == array.shape
    return copies[0]


def test_gradients_of_shares_add_up_to_those_of_the_batch():
    sizes = []

    def grad_fn(params, batch, keys):
        sizes.append((batch.images.shape[0], batch.labels.shape[0], keys.shape[0]))
        # A key of another example would show.
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, 100))(keys)
        weights = (batch.labels * drawn)[:, None, None]
        return {"w": params["w"] * (batch.images * weights).sum(0)}, drawn.sum()

    mesh = parallel.make_mesh(TWO)
    draw = np.random.default_rng(0)
    batch = Batch(draw.integers(0, 256, (6, 2, 3)), draw.integers(0, 10, 6))
    batch = jax.tree.map(lambda array: array.astype(np.int32), batch)
    arguments = {"w": np.full((2, 3), 3, np.int32)}, batch, jax.random.split(jax.random.key(0), 6)
    whole = jax.jit(grad_fn)(*arguments)
    divided = parallel.compile_replicated(
        mesh, parallel.divide_grads(mesh, grad_fn), *arguments, dtype="float32"
    )(*jax.device_put(arguments, parallel.replicated(mesh)))
    assert set(sizes[1:]) == {(3, 3, 3)}
    for left, right in zip(jax.tree.leaves(divided), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(everywhere(left), right)


@pytest.mark.parametrize(("examples", "share"), [(6, 3), (5, 5), (1, 1)])
def test_shares_of_a_batch_give_what_the_batch_gives(examples, share):
    sizes = []

    def function(batch):
        sizes.append(batch["images"].shape[0])
        return batch["images"].sum(axis=1) * batch["labels"]

    mesh = parallel.make_mesh(TWO)
    batch = {
        "images": np.arange(4 * examples, dtype=np.int32).reshape(examples, 4),
        "labels": np.arange(1, 1 + examples, dtype=np.int32),
    }
    divided = parallel.compile_replicated(
        mesh, parallel.divide_batches(mesh, function), batch, dtype="float32"
    )(parallel.put_replicated(mesh, batch))
    # Where it does not divide, each device does all of it.
    assert set(sizes) == {share}
    np.testing.assert_array_equal(everywhere(divided), function(batch))


def test_on_one_device_nothing_is_divided():
    for mesh in (parallel.make_mesh(ParallelConfig()), sweep_mesh(TWO)):
        assert parallel.divide_grads(mesh, checked) is checked
        assert parallel.divide_batches(mesh, checked) is checked


def lies(array, mesh, spec):
    """Whether an array lies on the devices of a mesh as it should."""
    return array.sharding.is_equivalent_to(NamedSharding(mesh, spec), array.ndim)


def test_what_is_put_lies_where_it_should():
    mesh = sweep_mesh(TWO)
    tree = {"a": np.arange(8).reshape(4, 2), "b": np.arange(4.0, dtype=np.float32)}
    for put, spec, rows in (
        (parallel.put_replicated, P(), 4),
        (parallel.put_state, P(), 4),
        (parallel.stack_on, P("seed"), 2),
        (parallel.put_stack, P("seed"), 2),
    ):
        found = put(mesh, tree)
        for name, array in found.items():
            assert lies(array, mesh, spec), (put, name)
            assert [shard.data.shape[0] for shard in array.addressable_shards] == [rows] * 2
            np.testing.assert_array_equal(array, tree[name])
    split = parallel.put_split(mesh, tree["a"], tree["b"])
    assert lies(split.images, mesh, P())
    assert lies(split.labels, mesh, P())


def test_over_the_axis_data_a_stack_is_copied():
    mesh = parallel.make_mesh(TWO)
    np.testing.assert_array_equal(everywhere(parallel.stack_on(mesh, np.arange(3))), np.arange(3))


def test_states_with_typed_keys_are_made_and_put():
    mesh = sweep_mesh(TWO)
    made = parallel.create_state(mesh, lambda seed: {"key": jax.random.key(seed)}, (np.uint32(7),))
    assert made["key"] == jax.random.key(7)
    assert lies(made["key"], mesh, P())
    keys = parallel.put_stack(mesh, {"key": jax.random.split(jax.random.key(0), 4)})["key"]
    assert (keys == jax.random.split(jax.random.key(0), 4)).all()
    assert lies(keys, mesh, P("seed"))


def test_what_is_fetched_is_of_numpy_and_keys_stay_keys():
    mesh = sweep_mesh(TWO)
    key = jax.random.key(3)
    tree = {"stack": parallel.stack_on(mesh, np.arange(4)), "key": key, "one": jnp.float32(2)}
    found = parallel.fetch(mesh, tree)
    assert type(found["stack"]) is type(found["one"]) is np.ndarray
    np.testing.assert_array_equal(found["stack"], np.arange(4))
    assert found["one"] == 2
    assert found["key"] is key


def test_one_that_is_alone_has_nobody_to_ask_or_to_tell(monkeypatch):
    monkeypatch.setattr(processes, "_gather", lambda _: pytest.fail("it asks"))
    assert (processes.index(), processes.count(), parallel.is_first()) == (0, 1, True)
    parallel.require_same(config="anything")
    assert parallel.largest(3, 0.1) == (3, 0.1)
    value = object()
    assert parallel.from_first(value) is value
    assert parallel.on_first(lambda: value) is value
    with parallel.busy():
        pass
    assert parallel.leave(4, "alone") is None


@pytest.mark.parametrize("guard", [parallel.waiting_for_others, parallel.busy])
def test_one_that_is_alone_gets_its_own_errors(guard):
    error = RunError("mine")

    def fail():
        raise error

    with pytest.raises(RunError) as raised, guard():
        fail()
    assert raised.value is error
    with pytest.raises(RunError) as raised:
        parallel.on_first(fail)
    assert raised.value is error
    assert not error.told


class Client:
    """That of jax, for processes that come one after the other."""

    def __init__(self):
        self.texts, self.barriers = {}, []

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.texts
        self.texts[key] = value

    def blocking_key_value_get(self, key, timeout_ms):
        return self.texts[key]

    def wait_at_barrier(self, name, timeout_ms):
        self.barriers.append(name)


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def as_process(monkeypatch, client):
    """Goes on as a process of a job of three; returns its watchdog, which does not watch."""

    def go_on(index):
        dog = watchdog.Watchdog(client, index, 3, 60.0, pytest.fail)
        monkeypatch.setattr(processes, "_job", processes._Job(index, 3, client, dog))
        return dog

    return go_on


def test_what_the_first_decides_all_hear_in_order(as_process):
    for index in range(3):
        as_process(index)
        assert parallel.is_first() is (index == 0)
        assert parallel.from_first([index, "a"]) == [0, "a"]
        # A function runs on the first alone.
        assert parallel.on_first(lambda index=index: index + 7) == (None if index else 7)
        assert parallel.from_first(index) == 0


def test_an_error_of_the_first_is_raised_by_all(as_process):
    def fail():
        raise RunError("run directory x is not empty")

    for index in range(3):
        as_process(index)
        with pytest.raises(RunError, match=r"^run directory x is not empty$") as raised:
            parallel.on_first(fail)
        assert raised.value.told is (index > 0)


def test_one_with_other_arguments_is_named(as_process, monkeypatch):
    as_process(1)
    monkeypatch.setattr(processes, "_gather", lambda own: np.stack([own, own, own]))
    parallel.require_same(config="a", seeds="0:3")
    monkeypatch.setattr(processes, "_gather", lambda own: np.stack([own, own, own + 1]))
    with pytest.raises(ConfigError, match=r"^config: process 2 of the job was given another than"):
        parallel.require_same(config="a")


def test_the_largest_of_each_value_is_what_all_go_by(as_process, monkeypatch):
    dog = as_process(1)
    monkeypatch.setattr(processes, "_gather", lambda own: np.stack([own, own[::-1], own]))
    assert parallel.largest(3, 0.5) == (3, 3)
    # All meet here: one that hangs does so before.
    assert dog._own.beat == 1


def test_one_is_busy_until_the_outermost_work_is_done(as_process):
    dog = as_process(0)
    dog.beat()

    def work():
        with parallel.busy():
            with parallel.busy():
                assert dog._own.busy
            assert dog._own.busy
            raise RunError

    with pytest.raises(RunError):
        work()
    assert not dog._own.busy


def test_where_something_fails_the_watchdog_is_asked_first(as_process, monkeypatch):
    dog, asked = as_process(0), []
    monkeypatch.setattr(dog, "wait_for_signs_of_life", asked.append)
    with parallel.waiting_for_others():
        pass
    assert asked == []
    with pytest.raises(RunError), parallel.waiting_for_others():
        raise RunError
    (most_s,) = asked
    # By then it has missed whoever is gone.
    assert most_s > watchdog._LOST_LOOKS * watchdog.INTERVAL_S


@pytest.mark.parametrize(
    ("code", "barriers"), [(4, []), (7, []), (75, ["rowrnn/left"]), (5, ["rowrnn/left"])]
)
def test_one_of_several_leaves_with_a_word(as_process, client, monkeypatch, code, barriers):
    ends = []
    monkeypatch.setattr(processes, "_exit", ends.append)
    as_process(1)
    parallel.leave(code, "why")
    left = json.loads(client.texts["rowrnn/watch/1"])
    assert (left["left"], left["reason"]) == (code, "why")
    # Those that leave together wait for each other.
    assert (client.barriers, ends) == (barriers, [code])


@pytest.fixture
def serve():
    """Starts the coordinator of one process at an address; kills it at the end."""
    started = []

    def start(address):
        command = [sys.executable, str(Path(coordinator.__file__)), address, "1"]
        pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        started.append(subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process):
    """The next line of a process, that comes in time."""
    assert select.select([process.stdout], [], [], 20)[0], "it says nothing"
    return process.stdout.readline()


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_the_coordinator_serves_until_it_is_told_to_end(serve, address):
    process = serve(address)
    assert says(process) == "serving\n"
    host, port = address.split(":")
    socket.create_connection((host, int(port)), timeout=10).close()
    # A cluster signals all processes; they save then, and still need this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    assert process.communicate("end\n", timeout=20) == ("", None)
    assert process.returncode == 0


def test_the_coordinator_outlives_who_has_started_it(serve, address):
    process = serve(address)
    assert says(process) == "serving\n"
    process.stdin.close()
    process.stdin = None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def test_an_address_in_use_is_not_served(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = serve(f"127.0.0.1:{other.getsockname()[1]}")
        assert process.communicate("end\n", timeout=20) == ("", None)
        assert process.returncode != 0


def test_the_address_of_another_job_is_not_served(serve, address):
    first = serve(address)
    assert says(first) == "serving\n"
    second = serve(address)
    assert second.communicate("end\n", timeout=20) == ("", None)
