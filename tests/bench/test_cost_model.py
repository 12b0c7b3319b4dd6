"""experiments/cost_model.py: a fit finds the prices that were paid, and predictions by hand."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rowrnn.bench import scaling, suites

SCRIPT = Path(__file__).parents[2] / "experiments" / "cost_model.py"


@pytest.fixture(scope="module")
def model():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("cost_model", SCRIPT)
    module = sys.modules["cost_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cost_model"]


def record_of(seconds_of, noise=0.0):
    """A record of layouts that were never run, each with the seconds that a function gives."""
    draw = np.random.default_rng(0)
    suite = suites.Scaling(projection=4)
    figures = []
    for group in scaling.groups(suite):
        for layout in group:
            found = [{"op": "all-reduce", "bytes": 40_000}] * (layout.data > 1)
            entry = scaling.figure(suite, layout, found, [0.1, 0.2], [1.0] * 2, [1.0] * 2, "tpu")
            seconds = seconds_of(entry) * np.exp(noise * draw.normal())
            figures.append(entry | {"quiet_s": seconds})
    return {"figures": figures, "sgemm_gflops": 100.0}


PRICES = np.array([2e-11, 5e-4, 3e-5, 7e-5, 1e-9, 4e-9])


def test_a_fit_finds_the_prices_that_were_paid(model):
    figures = record_of(lambda entry: PRICES @ model.terms(entry))["figures"]
    needs = np.array([model.terms(entry) for entry in figures])
    found = model.fit(needs, np.array([entry["quiet_s"] for entry in figures]))
    np.testing.assert_allclose(found, PRICES, rtol=1e-6)


def off_by(capsys, model, record):
    """Medians of the errors that are printed: fitted, held out, the most devices."""
    model.show_fit(record)
    lines = capsys.readouterr().out.splitlines()
    return [float(line.split("%")[0].split()[-1]) / 100 for line in lines if "off by" in line]


def test_layouts_that_were_held_out_are_predicted(model, capsys):
    record = record_of(lambda entry: PRICES @ model.terms(entry), noise=0.02)
    assert max(off_by(capsys, model, record)) <= 0.04


def test_what_the_model_lacks_shows_where_it_was_not_fitted(model, capsys):
    record = record_of(lambda entry: PRICES @ model.terms(entry))
    for entry in sorted(record["figures"], key=lambda entry: entry["name"])[1::3]:
        entry["quiet_s"] *= 2
    fitted, held_out, _ = off_by(capsys, model, record)
    assert (fitted, held_out) == (0, 0.5)


def test_no_price_is_negative(model):
    # More bytes, less time: least squares alone would pay for bytes.
    needs = np.array([[1.0, x, 0.0] for x in (0.0, 1.0, 2.0)])
    compute, of_bytes, nowhere = model.fit(needs, 3.0 - needs[:, 1])
    assert compute > 0
    assert of_bytes == nowhere == 0


def test_devices_that_share_a_core_do_their_work_in_turns(model):
    case = {"mode": "sweep", "devices": 8, "processes": 2, "members": 12, "shared": 2}
    entry = {
        "case": case, "workers": 2, "median": 0.5, "tflops": {"executed": 1920e-12},
        "collectives_per_step": 6, "wire_bytes": 300.0,
    }  # fmt: skip
    # Four groups with three members each; four devices on a core.
    assert model.terms(entry) == pytest.approx([960 / 2, 3 * 4, 0, 24, 0, 1200])


def test_the_record_that_is_kept_gives_the_result_that_is_told(model, capsys):
    told = (model.RECORD.parent / "scaling.md").read_text()
    model.show_fit(json.loads(model.RECORD.read_text()))
    assert capsys.readouterr().out.strip() in told
    for show in (model.show_predictions, model.show_measured):
        show()
        assert capsys.readouterr().out.strip() in told


def test_the_work_of_a_step_is_that_of_the_network(model):
    assert pytest.approx(1.6e9, rel=0.02) == 128 * model.FLOPS
    # All parameters, and two sums.
    assert 0 <= model.GRADIENT_BYTES - 546_344 < 16


@pytest.fixture(scope="module")
def compiled():
    """What `bench aot` counted: of one run, and of eight members at once, by target."""
    figures = json.loads((SCRIPT.parent / "results" / "aot.json").read_text())["figures"]
    by_name = {figure["name"]: figure for figure in figures}
    return lambda target, name: by_name[f"{target}, {name}"]


def computing(machine, entry, examples, members):
    """Seconds of products and traffic by hand, at 30 % of the peaks."""
    an_example = 2 * (entry["bytes_per_member"] - 3 * 546_348) / 128
    moved = examples * an_example + 8 * members * 546_348
    return max(examples * 12_623_360 / machine.peak_flops, moved / machine.memory_bytes_per_s) / 0.3


@pytest.mark.parametrize("index", range(3))
def test_predictions_of_gpus_by_hand(model, compiled, index):
    machine = model.MACHINES[index]
    one, eight = (compiled("h100", name) for name in ("one run", "8 members, vmap"))
    for batch, members, entry in ((128, 1, one), (4096, 1, one), (128, 16, eight)):
        seconds = 1.5e-6 * entry["kernels_per_step"]
        seconds += computing(machine, eight, members * batch, members)
        assert model.step_seconds(machine, batch, 1, members) == pytest.approx(seconds, rel=1e-4)
    bandwidth, hop_s = machine.inner
    both = 2 * hop_s + 546_348 / bandwidth
    assert model.all_reduce_seconds(machine, 2) == pytest.approx(both, rel=1e-4)


def test_a_step_on_a_tpu_takes_the_cycles_that_its_compiler_estimates(model, compiled):
    cycles = compiled("v5e:2x4", "one run")["estimated_cycles"]
    assert model.step_seconds(model.V5E, 128, 1) == pytest.approx(cycles / 1.5e9)
    eight = compiled("v5e:2x4", "8 members, vmap")
    more = computing(model.V5E, eight, 1024, 1) - computing(model.V5E, eight, 128, 1)
    found = model.step_seconds(model.V5E, 1024, 1)
    assert found == pytest.approx(cycles / 1.5e9 + more, rel=1e-4)


def test_hosts_are_joined_by_the_outer_link(model):
    machine = model.MACHINES[2]
    within, across = (model.all_reduce_seconds(machine, n) for n in (8, 16))
    hops = 2 * (3 * machine.inner[1] + machine.outer[1])
    bytes_ = model.GRADIENT_BYTES
    assert across == pytest.approx(2 * 15 / 16 * bytes_ / machine.outer[0] + hops)
    assert across > within


def test_the_speed_up_has_its_peak_where_the_sum_costs_more_than_it_saves(model):
    free = replace(model.MACHINES[1], inner=(1e30, 0.0))
    steps, worth = model.strong_scaling(free, 128)
    # Every device saves something, but none a tenth of what is mostly kernels that wait.
    assert (min(steps, key=steps.get), worth) == (8, 1)
    slow = replace(model.MACHINES[1], inner=(1e30, 1.0))
    steps, worth = model.strong_scaling(slow, 128)
    assert (min(steps, key=steps.get), worth) == (1, 1)
    # No device without an example.
    assert max(model.strong_scaling(model.V5E, 16)[0]) == 16
    # As scaling.md says of 64 GPUs at B=128.
    steps, _ = model.strong_scaling(model.MACHINES[2], 128)
    assert steps[1] / steps[64] == pytest.approx(0.94, abs=0.005)


@pytest.mark.parametrize("index", range(1, 4))
def test_the_batch_for_half_efficiency_is_the_smallest(model, index):
    machine = model.MACHINES[index]
    batch = model.half_efficiency_batch(machine)
    for size, reached in ((batch, True), (batch // 2, False)):
        one, everyone = (model.step_seconds(machine, size, n) for n in (1, machine.devices))
        assert (one / everyone >= machine.devices / 2) == reached


def test_many_seeds_are_divided_evenly(model):
    machine = replace(model.H100, devices=3)
    each, wall_s = model.many_seeds(machine)
    stacks = [256] * 13 + [6]
    assert each == sum(stacks) == 3_334
    steps = [model.step_seconds(machine, 128, 1, members=size) for size in stacks]
    assert wall_s == pytest.approx(781 * sum(steps))
