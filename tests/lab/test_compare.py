"""`rowrnn compare`, on the files that a sweep leaves."""

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

import rowrnn
from rowrnn import cli, config
from rowrnn.errors import RunError

RATE = "optimizer.learning_rate"


def make_sweep(path, *rows, rates=()):
    """A finished sweep of rows (rate, seed, accuracy); without rates one of a single point."""
    path.mkdir()
    (path / "config.toml").write_text(config.dump(config.Config()))
    grid = {RATE: list(rates)} if rates else {}
    seeds = sorted({seed for _, seed, _ in rows})
    start = {"seeds": seeds, "grid": grid, "vary": "both", "settings": {}}
    (path / "sweep.json").write_text(json.dumps(start))
    members = [
        {"seed": seed, "test_accuracy": accuracy} | ({RATE: rate} if rates else {})
        for rate, seed, accuracy in rows
    ]
    (path / "results.json").write_text(json.dumps({"summary": {}, "members": members}))
    return path


def of_point(rate, accuracies):
    return [(rate, seed, accuracy) for seed, accuracy in enumerate(accuracies)]


def pairs_of(found):
    return [(pair.a.split()[-1], pair.b.split()[-1], pair.verdict) for pair in found.pairs]


# Of eight pairs, all better, p is 0.008: below 0.05 also when it is corrected for two comparisons.
LOW = (0.90, 0.93, 0.91, 0.92, 0.90, 0.94, 0.89, 0.95)
HIGH = (0.95, 0.97, 0.965, 0.96, 0.93, 0.96, 0.955, 0.99)


def test_seeds_are_compared_in_pairs_whatever_their_order(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    # Seed 8 is in one of them alone.
    b = make_sweep(tmp_path / "b", (None, 8, 0.1), *reversed(of_point(None, HIGH)))
    (pair,) = rowrnn.compare(a, b).pairs
    differences = np.subtract(HIGH, LOW)
    assert (pair.a, pair.b, pair.verdict) == (str(a), str(b), "better")
    assert pair.mean_b - pair.mean_a == pytest.approx(differences.mean())
    assert pair.comparison.difference == pytest.approx(differences.mean())
    assert pair.adjusted_p == pytest.approx(scipy_stats.wilcoxon(differences).pvalue)


def test_sweeps_that_share_no_seeds_are_compared_unpaired(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    b = make_sweep(tmp_path / "b", *((None, seed + 9, x) for _, seed, x in of_point(None, HIGH)))
    (pair,) = rowrnn.compare(b, a).pairs
    assert pair.verdict == "worse"
    expected = scipy_stats.mannwhitneyu(LOW, HIGH).pvalue
    assert pair.adjusted_p == pytest.approx(expected)


def test_the_first_point_is_what_the_others_are_compared_with(tmp_path):
    rows = [*of_point(0.1, HIGH), *of_point(0.2, LOW), *of_point(0.3, HIGH[::-1])]
    found = rowrnn.compare(make_sweep(tmp_path / "a", *rows, rates=(0.1, 0.2, 0.3)))
    assert pairs_of(found) == [
        ("learning_rate=0.1", "learning_rate=0.2", "worse"),
        ("learning_rate=0.1", "learning_rate=0.3", "no clear difference"),
    ]
    assert found.regressed


def test_it_stays_the_first_where_its_first_seed_has_diverged(tmp_path):
    rows = [(0.1, 0, None), *of_point(0.2, LOW), *of_point(0.1, HIGH)[1:]]
    found = rowrnn.compare(make_sweep(tmp_path / "a", *rows, rates=(0.1, 0.2)))
    assert pairs_of(found) == [("learning_rate=0.1", "learning_rate=0.2", "worse")]
    assert found.left_out == [f"{tmp_path / 'a'} learning_rate=0.1 seed=0"]


def test_a_point_of_which_all_have_diverged_takes_no_part(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(0.1, LOW), *of_point(0.2, LOW), rates=(0.1, 0.2))
    nothing = of_point(0.2, [None] * 8)
    b = make_sweep(tmp_path / "b", *of_point(0.1, HIGH), *nothing, rates=(0.1, 0.2))
    found = rowrnn.compare(a, b)
    assert pairs_of(found) == [("learning_rate=0.1", "learning_rate=0.1", "better")]
    assert len(found.left_out) == 8
    with pytest.raises(RunError, match="all members of one have diverged"):
        rowrnn.compare(b)


def test_a_single_point_is_compared_with_each_of_the_others(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    b = make_sweep(tmp_path / "b", *of_point(0.1, HIGH), *of_point(0.2, LOW), rates=(0.1, 0.2))
    assert [pair.verdict for pair in rowrnn.compare(a, b).pairs] == [
        "better",
        "no clear difference",
    ]
    assert [pair.verdict for pair in rowrnn.compare(b, a).pairs] == [
        "worse",
        "no clear difference",
    ]


def test_what_cannot_be_compared_says_why(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(0.1, LOW), *of_point(0.2, LOW), rates=(0.1, 0.2))
    b = make_sweep(tmp_path / "b", *of_point(0.3, LOW), *of_point(0.4, LOW), rates=(0.3, 0.4))
    one = make_sweep(tmp_path / "one", *of_point(None, LOW))
    with pytest.raises(RunError, match="have different points"):
        rowrnn.compare(a, b)
    with pytest.raises(RunError, match="has a single point; give a second"):
        rowrnn.compare(one)
    few = make_sweep(tmp_path / "few", *of_point(None, LOW[:1]))
    with pytest.raises(RunError, match=r"few has 1 finished seed\(s\)"):
        rowrnn.compare(few, few)
    none = make_sweep(tmp_path / "none", *of_point(None, [None, None]))
    with pytest.raises(RunError, match="all members have diverged"):
        rowrnn.compare(one, none)
    (one / "results.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        rowrnn.compare(a, one)
    (one / "results.json").write_text('{"members": [{"seed": 0, "test_accuracy": 3}]}')
    with pytest.raises(RunError, match="cannot be read"):
        rowrnn.compare(a, one)


def test_the_command_says_it_and_leaves_with_1_where_it_is_worse(tmp_path, capsys):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    b = make_sweep(tmp_path / "b", *of_point(None, HIGH))
    assert cli.run(["compare", str(a), str(b)]) == 0
    assert f"{b} against {a}: better" in capsys.readouterr().out
    assert cli.run(["compare", str(b), str(a), "--json"]) == 1
    said = capsys.readouterr().out
    assert f"{a} against {b}: worse" in said
    assert "in pairs" in said
