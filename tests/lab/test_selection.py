"""A grid is judged on validation, and what came out goes into a paper's table."""

import csv
import io

import numpy as np
import pytest
from test_compare import HIGH, LOW, RATE, make_sweep, of_point

import rowrnn
from rowrnn import cli
from rowrnn.errors import ConfigError
from rowrnn.figures import Drawing
from rowrnn.lab.sweep import SweepResult, outcome
from rowrnn.show import tables
from rowrnn.store.ledger import Record

# The first is the better one on test images, the second on those for validation.
TEST = {0.1: (0.96, 0.97, 0.95), 0.2: (0.94, 0.95, 0.93)}
VALIDATION = {0.1: (0.90, 0.91, 0.92), 0.2: (0.93, 0.94, 0.92)}


def result_of(validation=VALIDATION, diverged=()):
    records = []
    for rate, accuracies in TEST.items():
        for seed, accuracy in enumerate(accuracies):
            fails = (rate, seed) in diverged
            records.append(
                Record(
                    key={"seed": seed}, name=f"learning_rate={rate},seed={seed}", seed=seed,
                    varied={RATE: rate}, status="diverged" if fails else "completed", steps=10,
                    train_loss=0.1,
                    validation_accuracy=None if fails or not validation else validation[rate][seed],
                    test_accuracy=None if fails else accuracy, test_loss=0.1,
                    first256_accuracy=None, params_sha256="", correct=None,
                    curve={} if fails else {"train_loss": [(10, 0.1)]}, wall_s=1.0,
                )
            )  # fmt: skip
    return SweepResult("sweep", records, outcome.summarize(records), {})


def drawn(result):
    drawings = {}
    outcome.draw(result, "", lambda name: drawings.setdefault(name, Drawing()), notebook=False)
    return drawings


def test_a_point_is_selected_on_validation_with_its_test_accuracy_beside_it():
    result = result_of()
    assert result.selected == "learning_rate=0.2"
    assert outcome.in_words(result)[-1] == (
        "The highest mean validation accuracy, 0.9300, has learning_rate=0.2: test accuracy 0.9400"
    )
    grid = drawn(result)["grid"]
    assert "the best ringed" in grid.caption
    assert "mean validation accuracy" in grid.svg


def test_without_validation_nothing_is_selected_on_test_images():
    result = result_of(validation=None)
    assert result.selected is None
    assert "no setting may be selected" in outcome.in_words(result)[-1]
    grid = drawn(result)["grid"]
    assert "best" not in grid.caption
    assert "mean test accuracy" in grid.svg


def test_a_member_that_diverged_takes_no_part_in_the_selection():
    result = result_of(diverged=[(0.2, 0), (0.2, 1), (0.2, 2)])
    assert result.selected is None
    assert "single setting has finished" in outcome.in_words(result)[-1]
    assert result_of(diverged=[(0.2, 1)]).validation["learning_rate=0.2"].mean == pytest.approx(
        0.925
    )


def test_points_are_rows_of_csv_and_of_a_table_of_pandas():
    pandas = pytest.importorskip("pandas")
    result = result_of(diverged=[(0.2, 1)])
    table = result.to_dataframe(points=True)
    assert isinstance(table, pandas.DataFrame)
    assert table[RATE].tolist() == [0.1, 0.2]
    assert table["seeds"].tolist() == [3, 2]
    assert table["failed"].tolist() == [0, 1]
    np.testing.assert_allclose(table["mean"], [0.96, 0.935])
    np.testing.assert_allclose(table["sd"][0], np.std(TEST[0.1], ddof=1))
    members = result.to_dataframe()
    assert len(members) == 6
    assert members.groupby(RATE)["test_accuracy"].mean().tolist() == pytest.approx([0.96, 0.935])


def test_another_point_is_the_baseline(tmp_path):
    rows = of_point(0.1, LOW) + of_point(0.2, HIGH) + of_point(0.3, LOW)
    sweep = make_sweep(tmp_path / "grid", *rows, rates=(0.1, 0.2, 0.3))
    found = rowrnn.compare(sweep, baseline="learning_rate=0.2")
    assert [(pair.a, pair.b, pair.verdict) for pair in found.pairs] == [
        ("learning_rate=0.2", "learning_rate=0.1", "worse"),
        ("learning_rate=0.2", "learning_rate=0.3", "worse"),
    ]
    with pytest.raises(ConfigError, match=r"no such point; it has learning_rate=0.1, learning_rat"):
        rowrnn.compare(sweep, baseline="learning_rate=1")
    with pytest.raises(ConfigError, match="a point of one sweep alone"):
        rowrnn.compare(sweep, sweep, baseline="learning_rate=0.2")


def test_a_comparison_is_a_table_for_a_paper(tmp_path, capsys):
    rows = of_point(0.1, LOW) + of_point(0.2, HIGH)
    sweep = make_sweep(tmp_path / "grid", *rows, rates=(0.1, 0.2))
    found = rowrnn.compare(sweep)
    (pair,) = found.pairs
    ends = [f"{100 * end:.2f}" for end in pair.side_b.summary.interval or ()]
    low, high = (f"${100 * end:+.2f}$" for end in pair.comparison.interval)
    assert cli.run(["compare", str(sweep), "--format", "latex"]) == 0
    out, told = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrl}"
    assert r"\toprule" in lines
    assert lines[5] == (
        rf"learning\_rate=0.2 & 8 & {100 * np.mean(HIGH):.2f} [{ends[0]}, {ends[1]}] & "
        rf"$+4.25$ [{low}, {high}] & 0.00781 & better \\"
    )
    assert "choose a setting by its validation accuracy" in told
    assert cli.run(["compare", str(sweep), "--format", "csv"]) == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["setting"], first["verdict"]) == ("learning_rate=0.1", "")
    assert float(second["difference"]) == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    assert float(second["p"]) == pytest.approx(2 / 2**8)
    assert tables.render(found, "markdown").count("\n") == 3
