"""Devices of one process and what lies on them; what a process is told of others."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.config import Config, ParallelConfig
from rowrnn.core import step
from rowrnn.core.step import Batch
from rowrnn.errors import ConfigError, RunError, shown

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
    begins = f"parallel.coordinator = {shown(address)}: must be HOST:PORT"
    assert str(raised.value).startswith(begins)


def test_the_job_is_no_part_of_the_config_that_is_kept():
    config = Config(parallel=dataclasses.replace(JOB, devices=2, heartbeat_seconds=5))
    kept = configs.without_job(config)
    assert kept == Config(parallel=ParallelConfig(devices=2, heartbeat_seconds=5))
    assert "node0:1234" in configs.dump(config)
    lines = [line.split(" = ")[0] for line in configs.dump(kept).splitlines()]
    assert "heartbeat_seconds" in lines
    assert not {"coordinator", "processes", "process"} & set(lines)


def test_how_a_run_is_spread_out_may_change():
    spread = {f"parallel.{field.name}" for field in dataclasses.fields(ParallelConfig)}
    assert spread <= configs.FREE
    assert configs.digest(Config(parallel=JOB)) == configs.digest(Config())


TOLD = ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX")


@pytest.fixture
def untold(monkeypatch):
    """A process of which no cluster tells anything, on a machine without the packages of one."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    for package in ("kubernetes", "libtpu"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Lets a package be there."""

    def install(name):
        monkeypatch.delitem(sys.modules, name)
        (tmp_path / f"{name}.py").touch()
        monkeypatch.syspath_prepend(tmp_path)

    return install


told = configs.told_processes


@pytest.mark.usefixtures("untold")
def test_a_process_that_nobody_tells_otherwise_is_alone(monkeypatch):
    assert told(ParallelConfig()) == 1
    assert told(ParallelConfig(2, 2, processes=1)) == 1
    assert told(JOB) == 4
    # A pod of which jax cannot ask whether it has others.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert told(ParallelConfig()) == 1


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("name", TOLD[:2])
def test_a_cluster_tells_how_many_there_are(monkeypatch, name):
    for count in (1, 8):
        monkeypatch.setenv(name, str(count))
        assert told(ParallelConfig()) == count
        assert told(JOB) == 4
        assert told(ParallelConfig(processes=1)) == 1


@pytest.mark.usefixtures("untold")
def test_open_mpi_counts_more_than_slurm_that_has_started_it(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    assert told(ParallelConfig()) == 8


@pytest.mark.usefixtures("untold")
def test_a_pod_and_the_host_of_a_tpu_may_be_one_of_several(monkeypatch, installed):
    installed("kubernetes")
    assert told(ParallelConfig()) == 1
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert told(ParallelConfig()) is None
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    installed("libtpu")
    assert told(ParallelConfig()) is None


@pytest.mark.usefixtures("untold")
def test_what_may_be_the_host_of_a_tpu_and_is_none_goes_on_alone(installed):
    installed("libtpu")
    parallel.start(ParallelConfig())
    assert parallel.process_count() == 1


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
    mesh = parallel.make_sweep_mesh(ParallelConfig(**given))
    assert dict(mesh.shape) == dict(zip(("seed", "data"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


sweep_mesh = parallel.make_sweep_mesh


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
    parallel.check_divides(parallel.make_sweep_mesh(TWO), 3)


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
    params, keys = {"w": np.full((2, 3), 3, np.int32)}, jax.random.split(jax.random.key(0), 6)
    whole = jax.jit(grad_fn)(params, batch, keys)
    divided = run_for_one(mesh, parallel.shard_grads(mesh, grad_fn), params, batch, keys)
    assert set(sizes[1:]) == {(3, 3, 3)}
    for left, right in zip(jax.tree.leaves(divided), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(left, right)


def run_for_one(mesh, function, member, *shared):
    """What a compiled function of one member, and of what all share, gives on every device."""
    members = jax.tree.map(lambda array: array[None], member)
    stacked = (True, *[False] * len(shared))
    program = parallel.compile_members(
        mesh, function, stacked, members, *shared, vmap=False, dtype="float32"
    )
    found = program(parallel.shard_members(mesh, members), *parallel.replicate(mesh, shared))
    return jax.tree.map(lambda array: everywhere(array)[0], found)


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
    sharded = parallel.shard_batches(mesh, function)
    divided = run_for_one(mesh, lambda _, batch: sharded(batch), np.int32(0), batch)
    # Where it does not divide, each device does all of it.
    assert set(sizes) == {share}
    np.testing.assert_array_equal(divided, function(batch))


def test_on_one_device_nothing_is_divided():
    for mesh in (parallel.make_mesh(ParallelConfig()), sweep_mesh(TWO)):
        assert parallel.shard_grads(mesh, checked) is checked
        assert parallel.shard_batches(mesh, checked) is checked


def lies(array, mesh, spec):
    """Whether an array lies on the devices of a mesh as it should."""
    return array.sharding.is_equivalent_to(NamedSharding(mesh, spec), array.ndim)


def test_what_is_put_lies_where_it_should():
    mesh = sweep_mesh(TWO)
    tree = {"a": np.arange(8).reshape(4, 2), "b": np.arange(4.0, dtype=np.float32)}
    for put, spec, rows in (
        (parallel.replicate, P(), 4),
        (parallel.shard_members, P("seed"), 2),
        (parallel.shard_state, P("seed"), 2),
    ):
        found = put(mesh, tree)
        for name, array in found.items():
            assert lies(array, mesh, spec), (put, name)
            assert [shard.data.shape[0] for shard in array.addressable_shards] == [rows] * 2
            np.testing.assert_array_equal(array, tree[name])


def test_over_the_axis_data_members_are_copied():
    members = parallel.shard_members(parallel.make_mesh(TWO), np.arange(3))
    np.testing.assert_array_equal(everywhere(members), np.arange(3))


def test_states_have_typed_keys():
    mesh, keys = sweep_mesh(TWO), jax.random.split(jax.random.key(0), 4)
    found = parallel.shard_state(mesh, {"key": keys})["key"]
    assert (found == keys).all()
    assert lies(found, mesh, P("seed"))


@pytest.mark.parametrize("config", [ParallelConfig(2), ParallelConfig(seed=2, data=1)])
def test_what_hosts_compute_has_the_bits_of_the_devices(config):
    """As for a TPU, whose devices are two of a CPU here: with one member, or half, on each."""
    make = sweep_mesh if config.seed else parallel.make_mesh
    mesh, size, epoch = make(config), 1_000, np.int32(3)

    def order(key, epoch):
        return step.epoch_order(key, epoch, size)

    keys = parallel.shard_state(mesh, jax.random.split(jax.random.key(0), 4))
    on_host = parallel.compile_on_host(mesh, order, jax.eval_shape(lambda: keys), epoch)
    found = on_host(keys, epoch)
    on_devices = parallel.compile_members(
        mesh, order, (True, False), keys, epoch, vmap=False, dtype="float32"
    )
    np.testing.assert_array_equal(found, on_devices(keys, epoch))
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(size), (4, 1)))
    assert lies(found, mesh, P("seed"))
    assert not parallel.sorts_on_host(mesh)


def test_what_is_fetched_is_of_numpy_and_keys_stay_keys():
    mesh, key = sweep_mesh(TWO), jax.random.key(3)
    members = parallel.shard_members(mesh, np.arange(4))
    found = parallel.fetch(mesh, {"members": members, "key": key, "one": jnp.float32(2)})
    assert type(found["members"]) is type(found["one"]) is np.ndarray
    np.testing.assert_array_equal(found["members"], np.arange(4))
    assert found["one"] == 2
    assert found["key"] == key


def test_one_that_is_alone_has_nobody_to_ask_or_to_tell():
    assert (parallel.process_count(), parallel.is_process_0()) == (1, True)
    parallel.require_same(config="anything")
    assert parallel.max_over_processes(3, 0.1) == (3, 0.1)
    value = object()
    assert parallel.broadcast(value) is value
    for run in (parallel.on_process_0, parallel.process_0_first):
        assert run(lambda: value) is value


@pytest.mark.parametrize("run", [parallel.on_process_0, parallel.process_0_first])
def test_one_that_is_alone_gets_its_own_errors(run):
    error = RunError("mine")

    def fail():
        raise error

    with pytest.raises(RunError) as raised:
        run(fail)
    assert raised.value is error
    assert not error.on_all
