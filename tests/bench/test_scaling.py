"""Bench of scaling: bytes read from programs, the cost model, layouts; one real run under soak."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from rich.console import Console

from rowrnn import bench, parallel
from rowrnn import config as configs
from rowrnn.bench import collectives, cost_model, flops, record, scaling, suites
from rowrnn.bench.cost_model import MACHINES, Point
from rowrnn.core import metrics
from rowrnn.errors import ConfigError
from rowrnn.lab import trainer


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("seed", "data"), (AxisType.Auto,) * 2)


def compiled_text(mesh, function, *arguments):
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def test_a_sum_in_a_loop_counts_as_often_as_the_loop_runs(mesh):
    def function(x, steps):
        def step(carried):
            k, x = carried
            # Three times in each of an unknown number of steps.
            x = jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.psum(jnp.sin(x), "data"), x)
            return k + 1, x

        _, x = jax.lax.while_loop(lambda carried: carried[0] < steps, step, (0, x))
        return jax.lax.psum(x[0].astype(jnp.bfloat16), "data")

    found = collectives.find(compiled_text(mesh, function, jnp.ones((5, 7)), 4))
    inside = [each for each in found if each.in_step]
    assert [(e.op, e.bytes, e.devices, e.times) for e in inside] == [("all-reduce", 140, 2, 3)]
    (outside,) = [each for each in found if not each.in_step]
    # The CPU sums bfloat16 in float32.
    assert outside.bytes in (14, 28)
    assert collectives.per_step(found) == {"collectives": 3, "bytes": 420, "wire_bytes": 420.0}


def test_other_collectives_are_found_with_what_a_device_sends(mesh):
    def function(x):
        gathered = jax.lax.all_gather(x, "data")
        scattered = jax.lax.psum_scatter(jnp.sin(gathered).reshape(2, -1), "data", tiled=True)
        moved = jax.lax.ppermute(jnp.cos(x), "data", [(0, 1), (1, 0)])
        return scattered.sum() + moved

    found = collectives.find(compiled_text(mesh, function, jnp.ones(64)))
    by_op = {each.op: (each.bytes, each.wire_bytes) for each in found}
    assert by_op["all-gather"] == (256, 256)
    assert by_op["collective-permute"] == (256, 256)
    # Some compilers scatter by summing everything and taking a part.
    assert by_op.get("reduce-scatter", by_op.get("all-reduce")) in [(512, 256), (512, 512)]


ASYNC = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p: f32[16,4]) -> f32[2,4] {
  %p = f32[16,4]{1,0} parameter(0)
  ROOT %rs = f32[2,4]{1,0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}
}

ENTRY %main (x: f32[16,4], y: bf16[3]) -> f32[16,4] {
  %x = f32[16,4]{1,0:T(8,128)} parameter(0)
  %y = bf16[3]{0} parameter(1)
  %s = (f32[16,4]{1,0}, /*index=1*/bf16[3]{0}) all-reduce-start(%x, /*index=1*/%y), replica_groups={}, to_apply=%add
  %d = (f32[16,4]{1,0}, bf16[3]{0}) all-reduce-done(%s)
  %g = (bf16[3]{0}, bf16[12]{0}) all-gather-start(bf16[3]{0} %y), replica_groups={{0,1,2,3},{4,5,6,7}}
  %h = bf16[12]{0} all-gather-done(%g)
  %r = ((f32[16,4]{1,0}), f32[2,4]{1,0}) async-start(%x), calls=%wrapped
  %t = f32[2,4]{1,0} async-done(%r)
  ROOT %o = f32[16,4]{1,0} get-tuple-element(%d), index=0
}
"""  # noqa: E501


def test_operations_that_run_beside_others_count_once():
    found = collectives.find(ASYNC)
    assert [(each.op, each.bytes, each.devices) for each in found] == [
        ("all-reduce", 16 * 4 * 4 + 3 * 2, 8),
        ("all-gather", 3 * 2, 4),
        ("reduce-scatter", 16 * 4 * 4, 8),
    ]
    assert [each.wire_bytes for each in found] == [262 * 2 * 7 / 8, 6 * 3, 256 * 7 / 8]
    assert collectives.per_step(found)["bytes"] == 0  # No loop over steps.


def test_a_program_without_collectives_has_none():
    text = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives.find(text) == []


def test_a_step_sums_its_gradients_and_what_it_counts(mesh):
    config = configs.Config(
        configs.ModelConfig(projection_size=5, hidden_size=6),
        train=configs.TrainConfig(batch_size=50, examples=1_000),
    )
    prepared = trainer.prepare(config)
    functions = trainer.functions_on(mesh, prepared)
    state = parallel.create_state(mesh, prepared.create_state, prepared.seeds)
    splits = trainer.put_splits(prepared.dataset, mesh)
    chunk = parallel.compile_replicated(
        mesh, functions.chunk, state, metrics.zeros(), prepared.values, splits.train,
        np.arange(4_000, dtype=np.int32), np.int32(0), dtype="float32",
    )  # fmt: skip
    learned = (28 * 5 + 5) + (5 + 6 + 1) * 4 * 6 + (6 * 10 + 10)
    assert learned == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert learned == cost_model.parameters(flops.Shape(projection=5, hidden=6))
    total = collectives.per_step(collectives.find(chunk.as_text()))["bytes"]
    # Loss and correct answers in each step; what is constant is summed before the first.
    assert 4 * (learned + 2) <= total <= 4 * (learned + 4)


COSTS = {"compute": 2e-11, "step": 5e-4, "bytes": 1e-9, "collective": 3e-5}


def simulated(costs, noise=0.0, seed=0):
    """Layouts of 1 to 16 devices and three sizes, with what each would take."""
    draw = np.random.default_rng(seed)
    found = []
    for size in (0.5e9, 1e9, 4e9):
        for devices in (1, 2, 4, 8, 16):
            together = devices > 1
            terms = {
                "compute": size / devices,
                "step": 1.0,
                "bytes": together * size / 1e3 * (devices - 1) / devices,
                "collective": 2.0 * together,
            }
            taken = cost_model.seconds(costs, terms) * math.exp(noise * draw.normal())
            found.append(Point(f"{size:g} n={devices}", devices, taken, terms))
    return found


def test_a_fit_finds_the_prices_that_were_paid():
    for name, cost in cost_model.fit(simulated(COSTS)).items():
        assert cost == pytest.approx(COSTS[name], rel=1e-6)


def test_layouts_that_were_held_out_are_predicted():
    found = cost_model.evaluate(simulated(COSTS, noise=0.02))
    assert sum(point["held_out"] for point in found["points"]) == 5
    for error in ("fitted_error", "held_out_error", "extrapolation_error"):
        median, largest = found[error]
        assert 0 < median < 0.04
        assert median <= largest < 0.1


def test_what_the_model_lacks_shows_where_it_was_not_fitted():
    points = simulated(COSTS)
    _, held_out = cost_model.split(points)
    slow = [dataclasses.replace(p, seconds=2 * p.seconds) if p in held_out else p for p in points]
    found = cost_model.evaluate(slow)
    assert found["fitted_error"][1] < 1e-6
    assert found["held_out_error"] == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_split_does_not_depend_on_the_order():
    points = simulated(COSTS)
    fitted, held_out = cost_model.split(points)
    assert cost_model.split(points[::-1]) == (fitted, held_out)
    assert sorted(p.name for p in fitted + held_out) == sorted(p.name for p in points)


def test_no_price_is_negative():
    # More bytes, less time: least squares alone would pay for bytes.
    points = [
        Point(str(x), 1, 3.0 - x, {"compute": 1.0, "bytes": x, "nowhere": 0.0})
        for x in (0.0, 1.0, 2.0)
    ]
    costs = cost_model.fit(points)
    assert costs["compute"] > 0
    assert costs["bytes"] == costs["nowhere"] == 0


def test_terms_that_one_layout_lacks_count_as_nothing():
    points = [Point("a", 1, 2.0, {"compute": 1.0}), Point("b", 2, 3.0, {"step": 1.0})]
    assert cost_model.fit(points) == {"compute": pytest.approx(2), "step": pytest.approx(3)}


WORK = cost_model.work(flops.Shape())


def test_the_work_of_a_step_is_that_of_the_issue():
    assert 128 * WORK.flops == pytest.approx(1.6e9, rel=0.02)
    assert WORK.gradient_bytes == pytest.approx(0.55e6, rel=0.01)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_predictions_by_hand(machine):
    one = machine.rest_s + 28 * machine.row_s
    moved = (128 * 4 * 28 * 2 * (28 + 128 + 1 + 9 * 128) + 8 * 546_344) / machine.memory_bytes_per_s
    one += max(128 * 12_623_360 / machine.peak_flops, moved) / machine.share
    assert cost_model.step_seconds(machine, WORK, 128, 1) == pytest.approx(one)
    both = 2 * machine.inner.hop_s + 546_344 / machine.inner.bytes_per_s
    assert cost_model.all_reduce_seconds(machine, WORK, 2) == pytest.approx(both)


def test_hosts_are_joined_by_the_outer_link():
    machine = next(m for m in MACHINES if m.devices == 64)
    within, across = (cost_model.all_reduce_seconds(machine, WORK, n) for n in (8, 16))
    hops = 2 * (3 * machine.inner.hop_s + machine.outer.hop_s)
    assert across == pytest.approx(2 * 15 / 16 * 546_344 / machine.outer.bytes_per_s + hops)
    assert across > within


def test_the_speed_up_has_its_peak_where_the_sum_costs_more_than_it_saves():
    machine = MACHINES[0]
    free = cost_model.Link(1e30, 0.0)
    found = cost_model.strong_scaling(dataclasses.replace(machine, inner=free), WORK, 128)
    # Every device saves something, but none a tenth of what is mostly rows.
    assert (found["best_devices"], found["worth_devices"]) == (8, 1)
    slow = dataclasses.replace(machine, inner=cost_model.Link(1e30, 1.0))
    found = cost_model.strong_scaling(slow, WORK, 128)
    assert (found["best_devices"], found["worth_devices"], found["speedup"]) == (1, 1, 1.0)
    # No device without an example.
    assert max(map(int, cost_model.strong_scaling(MACHINES[-1], WORK, 16)["step_s"])) == 16


def test_the_batch_for_half_efficiency_is_the_smallest():
    for machine in MACHINES:
        batch = cost_model.pays_from(machine, WORK, 0.5)
        for size, reached in ((batch, True), (batch // 2, False)):
            one, everyone = (
                cost_model.step_seconds(machine, WORK, size, n) for n in (1, machine.devices)
            )
            assert (one / everyone >= machine.devices / 2) == reached


def test_many_seeds_are_divided_evenly():
    machine = dataclasses.replace(MACHINES[0], devices=3)
    found = cost_model.many_seeds(machine, WORK, 128)
    assert found["per_device"] == 3_334
    stacks = [256] * 13 + [6]
    assert sum(stacks) == 3_334
    steps = [cost_model.step_seconds(machine, WORK, 128, 1, members=size) for size in stacks]
    assert found["wall_s"] == pytest.approx(781 * sum(steps))


def test_layouts_of_weak_and_strong_scaling():
    suite = suites.Scaling(devices=(2, 4), processes=(1, 2), batch=64, members=3, hidden=(8, 16))
    found = {group[-1].group: group for group in scaling.groups(suite)}
    assert list(found) == [
        "solo weak H=8", "solo strong H=8", "solo strong H=16",
        "sweep strong H=8", "sweep weak H=8", "sweep weak 2 a batch H=8",
    ]  # fmt: skip
    names = [layout.name for group in found.values() for layout in group]
    assert len(set(names)) == len(names)
    for group in found.values():
        places = [(layout.devices, layout.processes) for layout in group]
        assert places == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)]
        one, *others = group
        for layout in others:
            times = layout.devices if layout.scaling == "weak" else 1
            assert layout.examples == times * one.examples
    assert [layout.batch for layout in found["solo weak H=8"]] == [64, 128, 128, 256, 256]
    assert [layout.members for layout in found["sweep strong H=8"]] == [12] * 5
    assert [layout.data for layout in found["sweep weak 2 a batch H=8"]] == [1, 2, 2, 2, 2]


def test_members_divide_over_any_of_the_devices():
    suite = suites.Scaling(devices=(1, 2, 4, 6), processes=(1, 2), batch=96, shared=(1, 2))
    for group in scaling.groups(suite):
        for layout in group:
            assert layout.members % (layout.devices // layout.data) == 0, layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": (1,)}, "more than one"),
        ({"devices": (3,)}, "batch = 128: must be a multiple of 3"),
        ({"shared": (5,)}, "must be a multiple of 5"),
        ({"devices": (64,)}, "take 62 at most"),
    ],
)
def test_layouts_that_do_not_fit_are_refused_before_anything_starts(monkeypatch, changes, message):
    monkeypatch.setattr(scaling, "Child", None)
    with pytest.raises(ConfigError, match=message):
        scaling.run(suites.Scaling(**changes), quick=False)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"devices": []}, "more than one"),
        ({"devices": 2}, "a list"),
        ({"processes": [0]}, "from 1"),
        ({"member": 1}, "did you mean members"),
    ],
)
def test_a_suite_with_a_mistake_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        scaling.groups(suites.from_dict({"suite": "scaling"} | table))


def layout_of(devices, processes, **changes):
    values = {"mode": "solo", "scaling": "weak", "batch": 8, "members": 1, "shared": devices}
    return scaling.Layout(devices=devices, processes=processes, hidden=4, **values | changes)


def test_no_device_has_more_than_a_core():
    assert scaling.pinned(layout_of(1, 1), [3, 5]) == [[3]]
    assert scaling.pinned(layout_of(4, 1), [3, 5]) == [[3, 5]]
    assert scaling.pinned(layout_of(4, 2), [3, 5]) == [[3], [5]]
    assert scaling.pinned(layout_of(4, 4), [3, 5]) == [[3], [5], [3], [5]]
    assert scaling.pinned(layout_of(2, 2), [3, 5, 7, 9]) == [[3], [5]]
    assert scaling.pinned(layout_of(2, 2), [3]) == [[3], [3]]


def test_devices_that_share_a_core_do_their_work_in_turns():
    step = {"collectives": 6, "bytes": 300, "wire_bytes": 300.0}
    sweep = layout_of(8, 2, mode="sweep", members=12, shared=2)
    assert scaling.terms(sweep, step, flops_per_example=10, workers=2) == {
        "compute": 10 * 8 * 12 / 2,
        "step": 3 * 4,  # Four groups with three members each; four devices on a core.
        "collective between": 24,
        "bytes between": 1200.0,
    }


def test_an_accelerator_is_not_asked_for_what_it_has_not():
    group = [layout_of(1, 1), layout_of(2, 1), layout_of(2, 2), layout_of(4, 1)]
    possible, reasons = scaling._possible(group, {"platform": "gpu", "devices": 2})
    assert possible == group[:2]
    assert [reason.split(":")[0] for reason in reasons] == ["2 processes", "4 devices"]
    assert scaling._possible(group, {"platform": "cpu", "devices": 1}) == (group, [])


def make_document():
    """A document of layouts that were never run: n devices at n/(n+1) of their throughput."""
    suite = suites.Scaling()
    step = {"collectives": 2, "bytes": 546_352, "wire_bytes": 546_352.0}
    figures = []
    for group in scaling.groups(suite):
        for layout in group:
            facts = {"collectives": [], "per_step": step}
            taken = 0.01 * (layout.devices + 1) * np.array([1.0, 1.01, 0.99])
            figures.append(
                scaling._figure(
                    suite, layout, facts, taken.tolist(), [0.02] * 3, group[0], [1e-3] * 3, "cpu"
                )
            )
    return record.document(
        suite, quick=False, device={"platform": "cpu", "kind": "cpu", "devices": 1},
        figures=figures, sgemm_gflops=100.0, predictions=cost_model.predict(),
        cost_model=cost_model.evaluate(scaling.points(figures)), skipped=[], other_cores=0.0,
    )  # fmt: skip


def test_a_figure_tells_ratios_to_one_device():
    entry = next(e for e in make_document()["figures"] if e["name"] == "solo weak H=128 n=4 p=1")
    median, low, high = entry["throughput_ratio"]
    assert median == pytest.approx(4 * 0.02 / 0.05)
    assert low < median < high
    assert entry["efficiency"] == median / entry["workers"]
    assert entry["examples_per_s"] == pytest.approx(4 * 128 / 0.05)


def test_the_report_fits_a_terminal_and_says_what_fake_devices_mean(tmp_path):
    with (tmp_path / "table").open("w") as file:
        bench.show(make_document(), Console(width=80, file=file))
    text = (tmp_path / "table").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "absolute figures on fake devices mean little" in " ".join(text.split())
    for machine in MACHINES:
        assert machine.name in text


def check_real(document):
    by_name = {entry["name"]: entry for entry in document["figures"]}
    assert len(by_name) == len(document["figures"]) == 15
    learned = 4 * cost_model.parameters(flops.Shape(projection=4, hidden=8))
    for entry in document["figures"]:
        case = entry["case"]
        # All members of the one group that two devices make; alone, a device sums nothing.
        together = case["devices"] == case["shared"] == 2
        expected = case["members"] * learned if together else 0
        assert entry["bytes"] == pytest.approx(expected, abs=16 * case["members"])
        assert entry["wire_bytes"] == entry["bytes"]  # Of two devices each sends all once.
        assert len(entry["samples"]) == 3
        low, high = entry["throughput_ratio"][1:]
        assert 0 < low <= high
    assert document["cost_model"]["costs"]["compute"] > 0


@pytest.mark.soak
def test_scaling(tmp_path):
    path, out = tmp_path / "suite.toml", tmp_path / "out.json"
    path.write_text(
        'suite = "scaling"\nrepeats = 3\nsample_s = 0.01\ndevices = [1, 2]\nprocesses = [1, 2]\n'
        "batch = 32\nhidden = [8]\nprojection = 4\n"
    )
    document = bench.run(str(path), out=out)
    check_real(document)
    assert (tmp_path / "out-ratios.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "table").open("w") as file:
        bench.show(document, Console(width=80, file=file))
    assert max(map(len, (tmp_path / "table").read_text().splitlines())) <= 80
