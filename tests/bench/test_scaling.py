"""Bench of scaling: what a step exchanges, layouts; one real run under soak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from rich.console import Console

from rowrnn import bench
from rowrnn import config as configs
from rowrnn.bench import record, scaling, suites, timing
from rowrnn.errors import ConfigError
from rowrnn.lab import trainer


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("seed", "data"), (AxisType.Auto,) * 2)


def compiled_text(mesh, function, *arguments):
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def test_what_is_summed_in_a_step_is_told_from_what_is_summed_once(mesh):
    def function(x, steps):
        def step(carried):
            k, x = carried
            # A loop of known length is none over steps.
            x = jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x), x)
            return k + 1, jax.lax.psum(x, "data")

        _, x = jax.lax.while_loop(lambda carried: carried[0] < steps, step, (0, x))
        return jax.lax.psum(x[0], "data")

    text = compiled_text(mesh, function, jnp.ones((5, 7)), 4)
    assert text.count(" all-reduce(") == 2
    assert timing.collectives(text) == [{"op": "all-reduce", "bytes": 140}]


def test_other_collectives_are_found_and_a_step_without_any_has_none(mesh):
    def gathers(x, steps):
        def step(carried):
            k, x = carried
            x = jax.lax.all_gather(x, "data").sum(0)
            return k + 1, jax.lax.ppermute(jnp.cos(x), "data", [(0, 1), (1, 0)])

        return jax.lax.while_loop(lambda carried: carried[0] < steps, step, (0, x))[1]

    found = timing.collectives(compiled_text(mesh, gathers, jnp.ones(64), 4))
    assert {each["op"]: each["bytes"] for each in found}["collective-permute"] == 256
    assert {each["op"]: each["bytes"] for each in found}["all-gather"] == 512

    def alone(x, steps):
        return jax.lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, c[1] @ c[1]), (0, x))

    text = jax.jit(alone).lower(jnp.ones((4, 4)), 4).compile().as_text()
    assert timing.collectives(text) == []


# As accelerators and jax from 0.11.2 on print it.
CHUNK = """\
HloModule jit_chunk, is_scheduled=true, num_partitions=8

%step.1 (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %x = f32[16,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = bf16[3]{0} fusion(%x), kind=kLoop, calls=%fused
  %s = (f32[16,4]{1,0:T(8,128)}, /*index=1*/bf16[3]{0}) all-reduce-start(%x, /*index=1*/%y), replica_groups=mesh['seed'=4,'data'=2] {'data'}, to_apply=%add
  %d = (f32[16,4]{1,0}, bf16[3]{0}) all-reduce-done(%s)
  %l = (s32[], f32[16,4]{1,0}) while(%t), condition=%short, body=%rows, backend_config={"known_trip_count":{"n":"28"}}
  ROOT %o = (s32[], f32[16,4]{1,0}) tuple(%k, %g)
}

%rows (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  ROOT %r = (s32[], f32[16,4]{1,0}) tuple(%i, %h)
}

ENTRY %main (x: f32[16,4]) -> f32[16,4] {
  %c = f32[] all-reduce(%one), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %w = (s32[], f32[16,4]{1,0}) while(%init), condition=%more, body=%step.1
  ROOT %z = f32[16,4]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501


def test_operations_that_run_beside_others_count_once():
    assert timing.collectives(CHUNK) == [{"op": "all-reduce", "bytes": 16 * 4 * 4 + 3 * 2}]


def test_a_step_sums_its_gradients_and_what_it_counts(mesh):
    config = configs.Config(
        configs.ModelConfig(0, 8),
        configs.DataConfig("mnist_sample", validation_size=100),
        configs.OptimizerConfig("adamw"),
        configs.TrainConfig(batch_size=100, examples=6_001),
    )
    experiment = trainer.prepare(config)
    learned = (28 + 8 + 1) * 4 * 8 + (8 * 10 + 10)
    params = trainer.abstract_state(experiment, 1).params
    assert learned == sum(leaf.size for leaf in jax.tree.leaves(params))
    chunk = trainer.compile_programs(experiment, mesh).chunk
    (found,) = timing.collectives(chunk.as_text())
    # Loss and correct answers in each step; what is constant is summed before the first.
    assert 4 * (learned + 2) <= found["bytes"] <= 4 * (learned + 4)


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


def test_an_accelerator_is_not_asked_for_what_it_has_not():
    group = [layout_of(1, 1), layout_of(2, 1), layout_of(2, 2), layout_of(4, 1)]
    reasons = [scaling.why_not(layout, {"platform": "gpu", "devices": 2}) for layout in group]
    assert [reason.split(":")[0] for reason in reasons] == ["", "", "2 processes", "4 devices"]
    assert not any(scaling.why_not(each, {"platform": "cpu", "devices": 1}) for each in group)


def make_document():
    """A document of layouts that were never run: n devices at n/(n+1) of their throughput."""
    suite = suites.Scaling()
    found = [{"op": "all-reduce", "bytes": 546_352}]
    figures = []
    for group in scaling.groups(suite):
        alone_s = [0.02 / group[0].examples] * 3
        for layout in group:
            taken = 0.01 * (layout.devices + 1) * np.array([1.0, 1.01, 0.99])
            figures.append(
                scaling.figure(suite, layout, found, taken.tolist(), alone_s, [1e-3] * 3, "cpu")
            )
    return record.document(
        suite, quick=False, device={"platform": "cpu", "kind": "cpu", "devices": 1},
        figures=figures, sgemm_gflops=100.0, skipped=[], other_cores=0.0,
    )  # fmt: skip


def test_a_figure_tells_ratios_to_one_device():
    entry = next(e for e in make_document()["figures"] if e["name"] == "solo weak H=128 n=4 p=1")
    median, low, high = entry["throughput_ratio"]
    assert median == pytest.approx(4 * 0.02 / 0.05)
    assert low < median < high
    assert entry["efficiency"] == median / entry["workers"]
    assert entry["examples_per_s"] == pytest.approx(4 * 128 / 0.05)


def test_a_figure_counts_what_a_step_exchanges():
    entries = {entry["name"]: entry for entry in make_document()["figures"]}
    # In a ring each of four devices sends three quarters of the bytes twice.
    solo = entries["solo weak H=128 n=4 p=1"]
    assert (solo["collectives_per_step"], solo["bytes"]) == (1, 546_352)
    assert solo["wire_bytes"] == 546_352 * 2 * 3 / 4
    # Two devices share a batch and have two members: each has a sum of its own.
    sweep = entries["sweep weak 2 a batch H=128 n=4 p=2"]
    assert (sweep["collectives_per_step"], sweep["bytes"]) == (2, 2 * 546_352)
    assert sweep["wire_bytes"] == 2 * 546_352


def test_the_report_fits_a_terminal_and_says_what_fake_devices_mean(tmp_path):
    with (tmp_path / "table").open("w") as file:
        bench.show(make_document(), Console(width=80, file=file))
    text = (tmp_path / "table").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "absolute figures on fake devices mean little" in " ".join(text.split())


def check_real(document):
    by_name = {entry["name"]: entry for entry in document["figures"]}
    assert len(by_name) == len(document["figures"]) == 15
    learned = 4 * ((28 * 4 + 4) + (4 + 8 + 1) * 4 * 8 + (8 * 10 + 10))
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
