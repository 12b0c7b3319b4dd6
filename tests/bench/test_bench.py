"""Bench: counts, statistics, comparisons, suites and tables; nothing here is timed."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import command
from jax.extend.core import jaxprs_in_params
from rich.console import Console

from rowrnn import bench
from rowrnn.bench import flops, oracle, record, suites, timing, turns
from rowrnn.bench.flops import Shape
from rowrnn.config import ModelConfig
from rowrnn.core.lstm import Affine
from rowrnn.core.model import RowRNN
from rowrnn.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def count_products(jaxpr):
    """Operations of all matrix products in a jaxpr, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * count_products(inner)
    return total


def products_per_example(logits_of, shape, *, training):
    """Operations that one more example adds, of ``logits_of(params, images)`` and its gradient."""
    hidden, width = shape.hidden, shape.projection or shape.features

    def affine(inputs, outputs):
        return Affine(jnp.ones((inputs, outputs)), jnp.ones(outputs))

    params = {"lstm_0": affine(width + hidden, 4 * hidden)}
    params["readout"] = affine(hidden, shape.classes)
    if shape.projection:
        params["projection"] = affine(shape.features, shape.projection)

    def count(batch):
        images = np.ones((batch, shape.rows, shape.features), np.uint8)

        def loss(params):
            return jax.nn.log_softmax(logits_of(params, images))[:, 0].sum()

        return count_products(jax.make_jaxpr(jax.grad(loss) if training else loss)(params).jaxpr)

    return count(3) - count(2)


def logits_in_a_loop(params, images):
    """The network written out row by row, input and hidden state each with a product of its own."""
    cell, readout = params["lstm_0"], params["readout"]
    # Not a constant, so that the first row counts like the others.
    h = jnp.zeros((len(images), readout.kernel.shape[0])) * readout.kernel[0, 0]
    for x in images.transpose(1, 0, 2).astype(np.float32):
        if "projection" in params:
            x = x @ params["projection"].kernel
        z = x @ cell.kernel[: x.shape[1]] + h @ cell.kernel[x.shape[1] :]
        h = sum(jnp.split(jnp.tanh(z), 4, axis=1))
    return h @ readout.kernel


SHAPES = [Shape(), Shape(7, 5, 0, 12, 3), Shape(3, 9, 4, 6, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_the_formulas_count_what_a_loop_multiplies(shape, training):
    formula = flops.training(shape) if training else flops.forward(shape)
    folded = dataclasses.replace(shape, projection=0)
    assert formula.model == products_per_example(logits_in_a_loop, shape, training=training)
    assert formula.executed == products_per_example(logits_in_a_loop, folded, training=training)


@pytest.mark.parametrize("training", [False, True])
def test_the_formulas_count_what_the_reference_multiplies(training):
    shape = Shape()

    def logits(params, images):
        model = RowRNN(ModelConfig(backend="scan"), shape.classes)
        return model.apply({"params": params}, images)[0]

    formula = flops.training(shape) if training else flops.forward(shape)
    assert formula.model == products_per_example(logits, shape, training=training)


def test_oracle_gradients_are_those_of_jax_in_float64():
    weights = oracle.random_weights(0, features=5, projection=4, hidden=6, classes=0)
    rows = np.random.default_rng(0).normal(size=(7, 3, 5))
    dh = np.random.default_rng(1).normal(size=(3, 6))
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(value, jnp.float64) for name, value in weights.items()}

        def h_last(weights):
            c = h = jnp.zeros((3, 6))
            for x in rows:
                x = x @ weights["projection_kernel"] + weights["projection_bias"][None]
                z = jnp.concatenate([x, h], 1) @ weights["cell_kernel"] + weights["cell_bias"][None]
                i, j, f, o = jnp.split(z, 4, axis=1)
                c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(j)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return h

        h, pull = jax.vjp(h_last, wide)
        expected = jax.device_get(pull(jnp.asarray(dh))[0])
    h_oracle, tape = oracle.lstm(weights, rows)
    grads = oracle.lstm_gradients(weights, rows, tape, dh)
    assert oracle.distance(h, h_oracle) < 1e-14
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert oracle.distance(expected[name], grad) < 1e-13


def test_distance_of_what_is_not_finite_is_infinite():
    assert oracle.distance(np.array([1.0, np.nan]), np.ones(2)) == np.inf


def test_summary_against_numpy():
    samples = np.random.default_rng(0).lognormal(size=11).tolist()
    facts = timing.summary(samples)
    low, median, high = np.percentile(samples, [25, 50, 75])
    assert facts["median"] == pytest.approx(median)
    assert facts["iqr"] == pytest.approx(high - low)
    assert facts["min"] == min(samples)
    assert facts["samples"] == samples
    assert facts["noisy"]
    assert not timing.summary([1.0, 1.01, 1.02, 1.03])["noisy"]


@pytest.mark.parametrize("n", [5, 7, 10, 15])
def test_the_interval_of_ratios_covers_the_median(n):
    draws = np.random.default_rng(n).lognormal(np.log(1.4), 0.3, (2_000, n))
    intervals = [turns.ratio_interval(row) for row in draws]
    covered = np.mean([low <= 1.4 <= high for _, low, high in intervals])
    assert covered > 0.89
    assert all(low <= median <= high for median, low, high in intervals)


def make_document(samples, **changes):
    """A document of the suite lstm with these samples by name."""
    facts = {"platform": "cpu", "kind": "cpu", "devices": 1}
    entries = [record.figure(name, {"name": name}, times) for name, times in samples.items()]
    return record.document(suites.Lstm(), quick=False, device=facts, figures=entries) | changes


def write(path, document):
    path.write_text(json.dumps(document))
    return path


def simulated(tmp_path, slowdown, sigma, seed, *, figures=12, samples=7):
    """Compares two runs with log-normal noise, in which some figures are slower in the second."""
    draw = np.random.default_rng(seed)

    def run(factor):
        noise = draw.lognormal(0, sigma, (figures, samples))
        # Now and then another program gets in the way.
        noise *= np.where(draw.random(noise.shape) < 0.05, draw.uniform(1.2, 2, noise.shape), 1)
        times = 1e-3 * noise
        times[0] *= factor
        return make_document({f"figure {k}": row.tolist() for k, row in enumerate(times)})

    old, new = write(tmp_path / "old.json", run(1)), write(tmp_path / "new.json", run(slowdown))
    return bench.compare(old, new, fail_above=0.10)


def test_compare_finds_a_regression(tmp_path):
    found = [simulated(tmp_path, 1.3, 0.03, seed) for seed in range(60)]
    slower = [[change.name for change in result.changes if change.regressed] for result in found]
    assert np.mean([names == ["figure 0"] for names in slower]) > 0.9
    assert np.mean([result.regressed for result in found]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_compare_does_not_take_noise_for_a_regression(tmp_path, sigma):
    found = [simulated(tmp_path, 1.0, sigma, seed) for seed in range(100)]
    assert np.mean([result.regressed for result in found]) < 0.05


def test_compare_allows_what_it_was_told_to_allow(tmp_path):
    found = simulated(tmp_path, 1.06, 0.001, 0)
    assert not found.regressed
    assert found.changes[0].low > 0


def test_compare_takes_ratios_the_other_way_round(tmp_path):
    def document(ratio):
        entry = record.figure("r", {}, (ratio * np.array([0.99, 1.0, 1.0, 1.01])).tolist())
        return make_document({}, figures=[entry | {"unit": "ratio"}])

    old, new = write(tmp_path / "a", document(1.5)), write(tmp_path / "b", document(1.2))
    assert bench.compare(old, new, 0.1).regressed
    assert not bench.compare(new, old, 0.1).regressed


def test_compare_small_losses_everywhere_add_up(tmp_path):
    draw = np.random.default_rng(0)

    def document(factor):
        rows = factor * draw.lognormal(0, 0.25, (40, 5))
        return make_document({str(k): row.tolist() for k, row in enumerate(rows)})

    old, new = write(tmp_path / "a", document(1)), write(tmp_path / "b", document(1.2))
    found = bench.compare(old, new, 0.1)
    assert found.overall.regressed
    assert not any(change.regressed for change in found.changes)
    assert found.regressed


def test_the_oracle_begins_anew_where_no_whole_batch_is_left():
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (7, 4, 3), np.uint8), draw.integers(0, 5, 7)
    weights = oracle.random_weights(0, 3, 2, 4, 5)
    _, losses = oracle.training(weights, images, labels, 3, 5, 1e-2)
    # The seventh is never taken.
    twice = (np.concatenate([part[:6]] * 3) for part in (images, labels))
    assert losses == oracle.training(weights, *twice, 3, 5, 1e-2)[1]
    assert len(losses) == 6


def test_compare_notices_what_became_wrong(tmp_path):
    samples = {"a": [1.0, 1.0, 1.0], "b, 128": [1.0, 1.1, 1.0]}
    old = write(tmp_path / "a", make_document(samples))
    # Of a grid that has grown.
    new = write(tmp_path / "b", make_document({"a": [1.0, 1.0, 1.0]}, wrong=["b", "c"]))
    found = bench.compare(old, new, 0.1)
    assert found.regressed
    assert found.newly_wrong == ["b"]
    assert any("c: wrong now, and not measured before" in note for note in found.notes)
    assert not bench.compare(old, old, 0.1).regressed
    grown = write(tmp_path / "c", make_document(samples, wrong=["c"]))
    assert not bench.compare(old, grown, 0.1).regressed


def test_the_whole_of_a_single_figure_is_that_figure(tmp_path):
    old = write(tmp_path / "a", make_document({"a": [1.0, 1.01, 0.99]}))
    new = write(tmp_path / "b", make_document({"a": [2.0, 2.01, 1.99]}))
    found = bench.compare(old, new, 0.1)
    assert dataclasses.replace(found.overall, name="a") == found.changes[0]
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize("key", ["hidden", "projection", "config"])
def test_compare_refuses_other_work(tmp_path, key):
    samples = {"a": [1.0, 1.1, 1.0]}
    old = write(tmp_path / "a", make_document(samples, settings={key: 128}))
    new = write(tmp_path / "b", make_document(samples, settings={key: 256}))
    with pytest.raises(ConfigError, match=f"{key} is 128 in .* and 256 in"):
        bench.compare(old, new, 0.1)
    # A list is of cases, of which some may be in both.
    old = write(tmp_path / "a", make_document(samples, settings={key: [64, 128]}))
    new = write(tmp_path / "b", make_document(samples, settings={key: [128]}))
    assert not bench.compare(old, new, 0.1).regressed


@pytest.mark.parametrize("key", ["device_kind", "cores", "processor", "suite", "platform"])
def test_compare_refuses_another_machine(tmp_path, key):
    samples = {"a": [1.0, 1.1, 1.0]}
    old = write(tmp_path / "a", make_document(samples))
    new = write(tmp_path / "b", make_document(samples, **{key: "another"}))
    with pytest.raises(ConfigError, match=f"{key} is .* and 'another'"):
        bench.compare(old, new, 0.1)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0}', "{" * 50_000])
def test_compare_refuses_what_is_no_result(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.json: not"):
        bench.compare(path, path, 0.1)
    with pytest.raises(ConfigError, match="No such file"):
        bench.compare(tmp_path / "none", path, 0.1)


GOOD = {"name": "step", "case": {}, "unit": "s", "samples": [1.0, 1.1, 1.2]}
# Each of them ended in a traceback and exit code 1, which means a regression, or passed for none.
MALFORMED = {
    **{f"no {key}": [{k: v for k, v in GOOD.items() if k != key}] for key in ("name", "case")},
    "no unit": [{k: v for k, v in GOOD.items() if k != "unit"}],
    **{f"{key} of a number": [GOOD | {key: 3}] for key in ("name", "case", "unit", "samples")},
    **{f"samples {samples}": [GOOD | {"samples": samples}]
       for samples in ([], [1.0], "abc", ["a", "b"], [-1.0, 1.0], [0.0, 0.0], [float("nan")] * 3,
                       [float("inf")] * 3, [True, True], None)},
    "another unit": [GOOD | {"unit": "bananas"}],
    "a name twice": [GOOD, GOOD],
    "a name that moves the cursor": [GOOD | {"name": "\x1b[2J"}],
    "a figure that is a number": [1],
    "a table of figures": {},
}  # fmt: skip


@pytest.mark.parametrize("figures", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("place", ["old", "new"])
def test_a_record_that_is_malformed_is_refused_in_a_line(tmp_path, figures, place):
    document = {"format": 1, "suite": "lstm", "settings": {}, "wrong": [], "figures": [GOOD]}
    good = write(tmp_path / "good.json", document)
    bad = write(tmp_path / "bad.json", document | {"figures": figures})
    pair = (bad, good) if place == "old" else (good, bad)
    code, out, err = command("bench", "compare", *pair)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert f"{bad}: not a whole result of `rowrnn bench` (" in err


def test_samples_that_are_orders_apart_give_an_interval_all_the_same(tmp_path):
    path = write(tmp_path / "a.json", make_document({"[/]": [1e-12, 1e12]}, wrong=["[/]"]))
    right = write(tmp_path / "b.json", make_document({"[/]": [1e-12, 1e12]}))
    code, out, _ = command("bench", "compare", right, path, "--json")
    assert code == 1
    (change,) = json.loads(out, parse_constant=pytest.fail)["changes"]
    assert change["low"] < -0.99
    assert change["high"] == pytest.approx(1e6 - 1)


@pytest.mark.parametrize("name", suites.SUITES)
def test_the_experiments_are_the_suites(name):
    assert suites.load(str(EXPERIMENTS / f"bench_{name}.toml")) == suites.SUITES[name]()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"suite": "lstn"}, "did you mean lstm"),
        ({"suite": "lstm", "hiden": [1]}, "did you mean hidden"),
        ({"suite": "lstm", "hidden": 128}, "a list, each entry an integer from 1"),
        ({"suite": "lstm", "hidden": [128, "a"]}, "each entry an integer"),
        ({"suite": "lstm", "hidden": [True]}, "each entry an integer"),
        ({"suite": "lstm", "batch": [0]}, "from 1"),
        ({"suite": "lstm", "shapes": [[1, 2]]}, "list of 3 entries, each an integer from 1"),
        ({"suite": "lstm", "repeats": 2}, "from 3"),
        ({"suite": "lstm", "types": ["float32"]}, "did you mean float32/"),
        ({"suite": "train", "sample_s": 0}, "positive"),
        ({"suite": "train", "sample_s": float("nan")}, "positive"),
        ({"suite": "train", "program": 1}, "true or false"),
    ],
)
def test_a_suite_with_a_mistake_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        suites.from_dict(table)


def test_an_unknown_suite_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean ceiling"):
        bench.run("celing")
    with pytest.raises(ConfigError, match="No such file"):
        bench.run(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b"suite = \xff")
    with pytest.raises(ConfigError, match="byte 8 is not UTF-8"):
        bench.run(str(tmp_path / "bad.toml"))


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs /proc")
def test_a_file_that_cannot_be_written_is_found_out_first():
    with pytest.raises(ConfigError, match="--out"):
        bench.run("ceiling", out="/proc/none/result.json")


def test_tables_fit_a_terminal(tmp_path):
    draw = np.random.default_rng(0)

    def document(factor):
        names = [f"fast training H128 B128 T28 S{k} float32/highest, rows" for k in (1, 2, 3)]
        return make_document({n: (factor * draw.lognormal(0, 0.02, 7)).tolist() for n in names})

    old, new = write(tmp_path / "a", document(1)), write(tmp_path / "b", document(1.5))
    with (tmp_path / "out").open("w") as file:
        bench.show_comparison(bench.compare(old, new, 0.1), Console(width=80, file=file))
    text = (tmp_path / "out").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert " \n" not in text
    assert text.count("regression") == 4
    assert "slower than allowed" in text


def test_quick_suites_are_smaller():
    for suite in suites.SUITES.values():
        assert suite().quick().repeats <= suite().repeats
        assert dataclasses.asdict(suite().quick()) != dataclasses.asdict(suite())
