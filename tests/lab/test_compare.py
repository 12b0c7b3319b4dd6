"""`rowrnn compare`, on the files that a sweep leaves."""

import io
import json
import shutil

import numpy as np
import pytest
from scipy import stats as scipy_stats

import rowrnn
from rowrnn import cli, config
from rowrnn.errors import DataError, RunError
from rowrnn.store import ledger

RATE = "optimizer.learning_rate"


def make_sweep(path, *rows, rates=(), data="a" * 64, images=1000):
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
    points = [f"learning_rate={rate}" for rate in rates] or [""]
    groups = [{"point": point, "data": data, "test_images": images} for point in points]
    document = {"summary": {"groups": groups}, "members": members}
    (path / "results.json").write_text(json.dumps(document))
    return path


def of_point(rate, accuracies):
    return [(rate, seed, accuracy) for seed, accuracy in enumerate(accuracies)]


def pairs_of(found):
    return [(pair.a.split()[-1], pair.b.split()[-1], pair.verdict) for pair in found.pairs]


# Of eight pairs, all better, p is 0.008: below 0.05 also when it is corrected for two comparisons.
LOW = (0.90, 0.93, 0.91, 0.92, 0.90, 0.94, 0.89, 0.95)
HIGH = (0.95, 0.97, 0.965, 0.96, 0.93, 0.96, 0.955, 0.99)


def with_answers(path, answers):
    """A finished sweep, and the ledger of who answered what, [S, 1000]."""
    make_sweep(path, *of_point(None, answers.mean(axis=1).tolist()))
    for seed, right in enumerate(answers):
        record = ledger.Record(
            key={"seed": seed}, name=f"seed={seed}", seed=seed, varied={}, status="completed",
            steps=1, train_loss=0.1, validation_accuracy=None, test_accuracy=right.mean(),
            test_loss=0.1, first256_accuracy=None, params_sha256="", correct=ledger.pack(right),
            curve={}, wall_s=1.0,
        )  # fmt: skip
        ledger.Ledger(path / "members").write(record)
    return path


def test_a_difference_on_other_images_and_by_their_groups(tmp_path, capsys):
    rng = np.random.default_rng(1)
    writers = np.repeat(np.arange(50), 20)
    # Whoever reads better does so of some writers.
    hands = rng.normal(0, 0.05, 50)[writers]
    low, high = (
        rng.random((8, 1000)) < 0.8 + shift + gain * hands
        for shift, gain in ((0.0, 0.0), (0.05, 1.0))
    )
    a, b = with_answers(tmp_path / "a", low), with_answers(tmp_path / "b", high)
    np.save(tmp_path / "writers.npy", writers)
    (pair,) = rowrnn.compare(a, b, groups=tmp_path / "writers.npy").pairs
    interval = pair.comparison.interval
    found = pair.grouped.interval_by_group
    assert found[0] < pair.over_images[0] < interval[0] < interval[1] < pair.over_images[1]
    assert found[1] > pair.over_images[1]
    of_writer = (high.mean(axis=0) - low.mean(axis=0)).reshape(50, 20).mean(axis=1)
    assert pair.grouped.accuracy == pytest.approx(of_writer.tolist())
    assert (pair.grouped.design_effect or 0) > 2
    # Nothing else is known without the file, and nothing without the ledger.
    (other,) = rowrnn.compare(a, b).pairs
    assert (other.over_images, other.grouped) == (pair.over_images, None)
    assert other.comparison == pair.comparison
    writers = f"--groups={tmp_path / 'writers.npy'}"
    assert cli.run(["compare", str(a), str(b), writers, "--json"]) == 0
    out = capsys.readouterr().out
    assert "By 50 groups of images: 95 % interval +0." in out
    assert "another seed, these images; on other images too +0." in out
    (told,) = json.loads(out.splitlines()[-1])["pairs"]
    assert told["grouped"]["design_effect"] == pair.grouped.design_effect
    (tmp_path / "short.csv").write_text("1\n2\n")
    with pytest.raises(DataError, match="2 entries for 1,000 images"):
        rowrnn.compare(a, b, groups=tmp_path / "short.csv")
    # A record that gave another accuracy is not the one that is compared.
    document = json.loads((b / "results.json").read_text())
    document["members"][3]["test_accuracy"] = 0.5
    (b / "results.json").write_text(json.dumps(document))
    assert rowrnn.compare(a, b).pairs[0].over_images is None
    shutil.rmtree(b / "members")
    assert rowrnn.compare(a, b).pairs[0].over_images is None
    with pytest.raises(RunError, match="rowrnn sweep --resume"):
        rowrnn.compare(a, b, groups=tmp_path / "writers.npy")


def test_a_comparison_fits_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    make_sweep(tmp_path / "a", *of_point(None, (*LOW, 0.9, 0.9)))
    make_sweep(tmp_path / "b", *of_point(None, HIGH))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    assert cli.run(["compare", "a", "b"]) == 0
    assert max(map(len, screen.getvalue().splitlines())) <= 80
    assert "8 seeds in pairs, 2 without a partner left out" in " ".join(screen.getvalue().split())


def test_seeds_are_compared_in_pairs_whatever_their_order(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    # Seed 8 is in one of them alone.
    b = make_sweep(tmp_path / "b", (None, 8, 0.1), *reversed(of_point(None, HIGH)))
    (pair,) = rowrnn.compare(a, b).pairs
    differences = np.subtract(HIGH, LOW)
    assert (pair.a, pair.b, pair.verdict) == (str(a), str(b), "better")
    assert pair.mean_b - pair.mean_a == pytest.approx(differences.mean())
    assert pair.comparison.difference == pytest.approx(differences.mean())
    # All eight are better: of the 256 ways to choose signs, two are as clear.
    assert (pair.adjusted_p, pair.comparison.test) == (2 / 256, "sign flips")
    assert (pair.side_a.unused, pair.side_b.unused) == (0, 1)


@pytest.mark.parametrize("apart", [4, 9])
def test_sweeps_that_share_few_seeds_are_compared_unpaired(tmp_path, apart):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    b = make_sweep(tmp_path / "b", *((None, s + apart, x) for _, s, x in of_point(None, HIGH)))
    (pair,) = rowrnn.compare(b, a).pairs
    assert (pair.verdict, pair.comparison.test) == ("worse", "relabelling")
    assert (pair.comparison.count_a, pair.comparison.count_b) == (8, 8)
    assert pair.mean_a == pytest.approx(np.mean(HIGH))


def test_few_seeds_cannot_tell_and_it_says_how_many_would(tmp_path, capsys):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW[:2]))
    b = make_sweep(tmp_path / "b", *of_point(None, [x - 0.001 for x in LOW[:2]]))
    (pair,) = rowrnn.compare(a, b).pairs
    assert (pair.verdict, pair.seeds_to_tell) == ("cannot tell", 6)
    assert cli.run(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "cannot tell, these seeds cannot reach p = 0.05; 6 each would" in said
    assert "(Student's, assumes normal values)" in said
    # Of six pairs one comparison can be told, and of two none.
    six = [*of_point(0.1, HIGH[:6]), *of_point(0.2, LOW[:6])]
    two = make_sweep(tmp_path / "two", *six, rates=(0.1, 0.2))
    assert [pair.verdict for pair in rowrnn.compare(two).pairs] == ["worse"]
    six += of_point(0.3, LOW[:6])
    three = make_sweep(tmp_path / "three", *six, rates=(0.1, 0.2, 0.3))
    assert {(p.verdict, p.seeds_to_tell) for p in rowrnn.compare(three).pairs} == {
        ("cannot tell", 7)
    }


def test_sweeps_on_different_data_are_refused(tmp_path, capsys):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    b = make_sweep(tmp_path / "b", *of_point(None, HIGH), data="b" * 64)
    assert cli.run(["compare", str(a), str(b)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "are on different data (fingerprints aaaaaaaaaaaa… and bbbbbbbbbbbb…)" in said


def test_the_same_within_a_margin_is_shown_and_not_assumed(tmp_path, capsys):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    near = [x + 0.001 * sign for x, sign in zip(LOW, [1, -1] * 4, strict=True)]
    b = make_sweep(tmp_path / "b", *of_point(None, near))
    (pair,) = rowrnn.compare(a, b, margin=0.002).pairs
    assert (pair.verdict, pair.equivalence) == ("not shown", "the same")
    # At both ends of the margin all signs are alike but for chance: the larger of both p-values.
    assert pair.adjusted_equivalent_p == max(
        scipy_stats.permutation_test(
            (np.subtract(near, LOW) + end,),
            lambda x, axis: np.mean(x, axis=axis),
            permutation_type="samples",
            alternative="greater" if end > 0 else "less",
        ).pvalue
        for end in (-0.002, 0.002)
    )
    assert cli.run(["compare", str(a), str(b), "--margin", "0.002"]) == 0
    assert "  the same within 0.2 points (two one-sided tests, p = " in capsys.readouterr().out
    assert cli.run(["compare", str(a), str(b), "--margin", "0.0001"]) == 0
    assert "  not shown to be the same within 0.01 points" in capsys.readouterr().out
    assert cli.run(["compare", str(a), str(b), "--margin", "2"]) == 2
    assert rowrnn.compare(a, b).pairs[0].equivalence is None


def test_failed_seeds_are_said_beside_the_interquartile_mean(tmp_path, capsys):
    a = make_sweep(tmp_path / "a", *of_point(None, LOW))
    failing = [*np.linspace(0.95, 0.96, 14), 0.1, None]
    b = make_sweep(tmp_path / "b", *of_point(None, failing))
    (pair,) = rowrnn.compare(a, b).pairs
    assert (pair.side_b.failed, pair.side_b.members) == (2, 16)
    assert pair.side_b.failure_interval == pytest.approx(
        scipy_stats.binomtest(2, 16).proportion_ci(0.95, "wilson"), abs=1e-9
    )
    cli.run(["compare", str(a), str(b)])
    said = capsys.readouterr().out
    assert "  failed seeds: 2 of 16 (12.5 %, 3.5 % to 36.0 %) against 0 of 8 (0.0 %, " in said
    assert "  interquartile mean 0.95" in said


def test_a_sequential_comparison_bets_on_the_seeds_in_ascending_order(tmp_path):
    seeds, ups = (1000, 64, 0, 128, 32, 8, 77, 5), (3, -1, 2, 9, 4, 1, 5, 8)
    rows = [(None, seed, x) for seed, x in zip(seeds, LOW, strict=True)]
    raised = [(*row[:2], row[2] + up / 1000) for row, up in zip(rows, ups, strict=True)]
    a, up = make_sweep(tmp_path / "a", *rows), make_sweep(tmp_path / "b", *raised)
    (pair,) = rowrnn.compare(a, up, sequential=True).pairs
    assert (pair.comparison.test, pair.verdict) == ("betting", "not shown")
    # By hand: a share tanh(c x) of what there is, x in root mean squares so far.
    grown, ordered = [], [up for _, up in sorted(zip(seeds, ups, strict=True))]
    for c in (0.125, 0.25, 0.5, 1, 2):
        capital = 1.0
        for k in range(8):
            typical = np.sqrt(np.mean(np.square(ordered[: k + 1])))
            capital *= 1 + np.tanh(c * ordered[k] / typical)
        grown.append(capital)
    assert pair.adjusted_p == pytest.approx(2 / np.mean(grown))
    # Whoever shares no seeds is paired by place.
    moved = make_sweep(tmp_path / "c", *((None, seed + 3000, x) for _, seed, x in raised))
    (other,) = rowrnn.compare(a, moved, sequential=True).pairs
    assert other.adjusted_p == pytest.approx(pair.adjusted_p)


def test_sweeps_of_earlier_versions_are_told_apart_by_their_accuracies(tmp_path):
    a = make_sweep(tmp_path / "a", *of_point(None, [0.91, 0.92] * 4), images=0, data="")
    b = make_sweep(tmp_path / "b", *of_point(None, [0.92, 0.93] * 4), images=0)
    (pair,) = rowrnn.compare(a, b).pairs
    # Of 100 images each counts 0.01, which is the difference.
    assert (pair.verdict, pair.comparison.test) == ("better", "sign flips")
    low, high = pair.comparison.interval
    assert low < 0.01 - 0.0069 < 0.01 + 0.0069 < high


def test_the_first_point_is_what_the_others_are_compared_with(tmp_path):
    rows = [*of_point(0.1, HIGH), *of_point(0.2, LOW), *of_point(0.3, HIGH[::-1])]
    found = rowrnn.compare(make_sweep(tmp_path / "a", *rows, rates=(0.1, 0.2, 0.3)))
    assert pairs_of(found) == [
        ("learning_rate=0.1", "learning_rate=0.2", "worse"),
        ("learning_rate=0.1", "learning_rate=0.3", "not shown"),
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
        "not shown",
    ]
    assert [pair.verdict for pair in rowrnn.compare(b, a).pairs] == [
        "worse",
        "not shown",
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
    assert "8 seeds in pairs (correlation 0.75)" in said
    # All eight are, which is not every seed.
    assert "better with a probability of less than 1 %" in said
