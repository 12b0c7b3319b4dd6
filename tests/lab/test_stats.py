import itertools
import json
import math
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest, chi, norm, t, ttest_ind

from rowrnn.lab import stats
from rowrnn.lab.stats import (
    adjust,
    compare,
    interval_of_mean,
    seeds_needed,
    summarize,
    variance_parts,
    wilson_interval,
)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (3, 7), (989, 1000), (0, 50)])
def test_wilson_interval_is_the_closed_formula(correct, count, level):
    z = norm.ppf((1 + level) / 2)
    share = correct / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    expected = [middle - half, middle + half]
    np.testing.assert_allclose(wilson_interval(correct, count, level), expected, atol=1e-12)
    scipys = binomtest(correct, count).proportion_ci(level, "wilson")
    np.testing.assert_allclose(wilson_interval(correct, count, level), scipys, atol=1e-12)


def test_wilson_interval_covers_the_truth_as_often_as_it_says():
    # Exact: every possible count, weighted by its probability. The count is discrete, so the
    # coverage of any one accuracy wavers about the level; their mean is close to it.
    count = 60
    low, high = np.array([wilson_interval(k, count) for k in range(count + 1)]).T
    truths = np.linspace(0.05, 0.95, 181)
    covers = (low <= truths[:, None]) & (truths[:, None] <= high)
    coverage = (binom.pmf(np.arange(count + 1), count, truths[:, None]) * covers).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.005)
    assert coverage.min() > 0.90


@pytest.mark.parametrize(
    "arguments", [(1, 0), (-1, 4), (5, 4), (1, 4, 0.0), (1, 4, 1.0), (1, 4, math.nan)]
)
def test_wilson_interval_refuses_what_is_no_share(arguments):
    with pytest.raises(ValueError, match="must"):
        wilson_interval(*arguments)


def normal(rng, shape):
    return rng.normal(0.99, 0.001, shape), 0.99


def skewed(rng, shape):
    """Accuracies with a tail of bad seeds: a reflected gamma distribution, skewness −1."""
    return 0.992 - rng.gamma(4, 0.0005, shape), 0.99


@pytest.mark.parametrize("draw", [normal, skewed])
@pytest.mark.parametrize("seeds", [8, 16, pytest.param(64, marks=pytest.mark.slow)])
def test_the_interval_of_the_mean_covers_it_as_often_as_it_says(seeds, draw):
    sweeps, truth = draw(np.random.default_rng(seeds), (2_000, seeds))
    low, high = np.array([interval_of_mean(values) for values in sweeps]).T
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_the_interval_of_a_mean_is_students():
    # By hand: mean 3, sd √2.5, and t = 2.776 from the tables for 4 degrees of freedom.
    half = 2.776 * math.sqrt(2.5 / 5)
    np.testing.assert_allclose(interval_of_mean([1, 2, 3, 4, 5]), [3 - half, 3 + half], rtol=1e-3)
    half = 2.132 * math.sqrt(2.5 / 5)
    found = interval_of_mean([1, 2, 3, 4, 5], level=0.9)
    np.testing.assert_allclose(found, [3 - half, 3 + half], rtol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 10, 100])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.9871])
def test_equal_values_have_no_spread(value, count):
    summary = summarize([value] * count)
    assert summary.interval == (value, value)
    assert (summary.mean, summary.sd, summary.argmin, summary.argmax) == (value, 0, 0, 0)


def test_no_spread_counts_as_one_image():
    # t = 3.182 from the tables for 3 degrees of freedom.
    low, high = interval_of_mean([0.98] * 4, resolution=0.001)
    assert (low, high) == pytest.approx((0.98 - 0.001 * 3.182 / 2, 0.98 + 0.001 * 3.182 / 2))
    wide = [0.97, 0.98, 0.99, 0.98]
    assert interval_of_mean(wide, resolution=0.001) == interval_of_mean(wide)


def test_an_accuracy_lies_between_0_and_1():
    low, high = interval_of_mean([0.4, 1.0], within=stats.SHARE)
    assert (low, high) == (0, 1)
    summary = summarize([1.0, 1.0, 0.99, 1.0, 1.0], resolution=0.01, within=stats.SHARE)
    assert summary.interval[1] == summary.iqm_interval[1] == 1


def test_failed_seeds_are_counted_and_move_no_interquartile_mean():
    good = np.random.default_rng(4).normal(0.98, 0.002, 40).tolist()
    summary = summarize([*good, 0.11, 0.3])
    assert (summarize(good).far_below, summary.far_below) == (0, 2)
    low, high = summary.iqm_interval
    assert low < 0.98 < high < low + 0.002
    # One image apart is no failure, and of a few nobody can tell.
    assert summarize([0.98] * 20 + [0.979], resolution=0.001).far_below == 0
    assert summarize([0.98, 0.979, 0.981, 0.1]).far_below == 0


def test_the_interval_of_the_interquartile_mean_is_wider_than_tukey_and_mclaughlins():
    values = [9, 1, 3, 100, 4, 2, 5, 50]
    # The lower and the upper quarter take the values that are nearest to them.
    winsorized = [9, 3, 3, 9, 4, 3, 5, 9]
    error = np.std(winsorized, ddof=1) / (0.5 * math.sqrt(8))
    half = t.ppf(0.975, 2) * error  # They have 3 degrees of freedom, which are too many.
    np.testing.assert_allclose(summarize(values).iqm_interval, [5.25 - half, 5.25 + half])


def test_values_that_differ_in_their_last_digit_have_an_interval():
    above = np.nextafter(0.3, 1)
    for values in ([0.3] * 99 + [above], [0.3, above] * 50, [0.3, above]):
        low, high = interval_of_mean(values)
        assert 0.3 - 1e-14 < low <= high < 0.3 + 1e-14


def test_a_summary_of_known_values():
    # Of 8 values the interquartile mean keeps the middle 4: 3, 4, 5 and 9.
    summary = summarize([9, 1, 3, 100, 4, 2, 5, 50])
    assert (summary.count, summary.mean, summary.median, summary.iqm) == (8, 21.75, 4.5, 5.25)
    assert summary.sd == pytest.approx(math.sqrt((12_636 - 8 * 21.75**2) / 7))
    assert (summary.min, summary.argmin, summary.max, summary.argmax) == (1, 1, 100, 3)


def test_a_single_value_has_no_interval():
    assert all(math.isnan(end) for end in interval_of_mean([0.5]))
    summary = summarize([0.5])
    assert (summary.mean, summary.sd, summary.interval) == (0.5, None, None)


@pytest.mark.parametrize("values", [[], [[0.5, 0.6]], [0.5, math.nan], [0.5, 0.5, math.inf]])
@pytest.mark.parametrize(
    "function", [interval_of_mean, summarize, lambda values: compare(values, values, paired=True)]
)
def test_what_is_no_set_of_values_is_refused(function, values):
    with pytest.raises(ValueError, match="must be"):
        function(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_what_is_no_level_is_refused(level):
    for function in (interval_of_mean, summarize):
        with pytest.raises(ValueError, match=r"level = .*: must lie between 0 and 1"):
            function(BASE, level=level)
    for paired in (True, False):
        with pytest.raises(ValueError, match=r"level = .*: must lie between 0 and 1"):
            compare(BASE, OTHER, paired=paired, level=level)


@pytest.mark.parametrize(("seeds", "examples"), [(2, 2), (3, 2), (2, 3)])
def test_variance_parts_are_unbiased(seeds, examples):
    # A world of three kinds of seeds and three of examples, all equally likely. The mean of the
    # estimates over every sample of seeds and every test set is the truth, to the last digit.
    world = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1]], bool)
    parts = [
        variance_parts(world[np.ix_(rows, columns)])
        for rows in itertools.product(range(3), repeat=seeds)
        for columns in itertools.product(range(3), repeat=examples)
    ]
    between_seeds = world.mean(axis=1).var()
    assert np.mean([part.between_seeds for part in parts]) == pytest.approx(between_seeds)
    finite_test = (world.var(axis=0).mean() - between_seeds) / examples
    assert np.mean([part.finite_test for part in parts]) == pytest.approx(finite_test)
    for part in parts:
        assert part.total == pytest.approx(part.finite_test + part.between_seeds)
    assert min(part.between_seeds for part in parts) < 0


def test_variance_parts_find_the_spread_of_a_simulated_sweep():
    # The chance of a right answer is the skill of the seed, times the ease of the example.
    rng = np.random.default_rng(5)
    skill, ease = rng.normal(0.9, 0.01, 400), rng.beta(9, 1, 2_000)
    parts = variance_parts(rng.random((400, 2_000)) < skill[:, None] * ease)
    truth = (0.01 * 0.9) ** 2
    # Relative standard error of a variance over 400 seeds: √(2/399) = 7 %, of the total.
    assert parts.between_seeds == pytest.approx(truth, abs=3 * 0.07 * parts.total)
    # The mean of p(1−p) for p = 0.9 · ease, whose mean is 9/10 and whose mean square is 9/11.
    of_answers = 0.9 * 9 / 10 - 0.9**2 * 9 / 11
    assert parts.finite_test == pytest.approx((of_answers - truth) / 2_000, rel=0.05)


def test_variance_parts_are_the_formula_in_loops():
    correct = np.random.default_rng(2).random((5, 7)) < 0.7
    accuracies = [sum(row) / 7 for row in correct.tolist()]
    total = sum((x - sum(accuracies) / 5) ** 2 for x in accuracies) / 4
    noise = 0.0
    for answers in correct.T.tolist():
        noise += sum((x - sum(answers) / 5) ** 2 for x in answers) / 4
    parts = variance_parts(correct)
    assert parts.total == pytest.approx(total)
    assert parts.between_seeds == pytest.approx(7 / 6 * (total - noise / 49))


def test_variance_parts_need_little_more_memory_than_the_answers():
    correct = np.zeros((500, 5_000), bool)
    tracemalloc.start()
    parts = variance_parts(correct)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < correct.nbytes / 2
    assert (parts.total, parts.finite_test, parts.between_seeds) == (0, 0, 0)


@pytest.mark.parametrize(
    "correct",
    [np.zeros((1, 5), bool), np.zeros((5, 1), bool), np.zeros(5, bool), np.zeros((5, 5), np.int8)],
)
def test_variance_parts_refuse_what_is_no_table_of_answers(correct):
    with pytest.raises(ValueError, match="must be a bool array"):
        variance_parts(correct)


# Accuracies on 10,000 examples, with ties among the differences and one difference of 0.
BASE = [0.9871, 0.9889, 0.9880, 0.9902, 0.9865, 0.9910, 0.9877, 0.9893]
OTHER = [0.9881, 0.9899, 0.9875, 0.9907, 0.9865, 0.9915, 0.9897, 0.9888]


def test_a_paired_comparison_is_that_of_the_differences():
    differences = np.subtract(OTHER, BASE)
    found = compare(BASE, OTHER, paired=True)
    assert (found.count_a, found.count_b, found.paired) == (8, 8, True)
    assert found.difference == pytest.approx(np.mean(OTHER) - np.mean(BASE))
    assert found.sd_difference == pytest.approx(differences.std(ddof=1))
    # Above in 5 of 8 pairs, equal in 1.
    assert found.probability_of_improvement == 5.5 / 8
    assert found.correlation == pytest.approx(np.corrcoef(BASE, OTHER)[0, 1])
    spread = found.sd_difference
    assert found.seeds_needed == seeds_needed(spread, found.difference, test="sign flips")
    assert (found.test, found.interval_method) == ("sign flips", "sign flips")


def test_an_unpaired_comparison_is_over_all_pairs():
    a, b = BASE[:6], OTHER
    found = compare(a, b, paired=False)
    assert (found.count_a, found.count_b, found.paired) == (6, 8, False)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))
    wins = [(y > x) + (y == x) / 2 for x in a for y in b]
    assert found.probability_of_improvement == pytest.approx(np.mean(wins))
    pooled = math.sqrt((5 * np.var(a, ddof=1) + 7 * np.var(b, ddof=1)) / 12)
    assert found.sd_difference == pytest.approx(pooled)
    assert found.seeds_needed == seeds_needed(pooled, found.difference, test="relabelling")
    assert (found.test, found.correlation) == ("relabelling", None)
    assert compare(a, [0.5] * 6, paired=True).correlation is None


def test_where_a_test_has_no_interval_it_is_students_or_welchs():
    found = compare(BASE[:5], OTHER[:5], paired=True)
    assert found.interval_method == "student"
    assert found.interval == interval_of_mean(np.subtract(OTHER[:5], BASE[:5]))
    found = compare(BASE[:3], OTHER[:5], paired=False)
    assert found.interval_method == "relabelling"
    found = compare(BASE[:3], OTHER[:4], paired=False)
    assert found.interval_method == "student"
    welch = ttest_ind(OTHER[:4], BASE[:3], equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval, welch)


def test_a_pilot_says_how_little_it_knows_of_the_number():
    found = compare(BASE, OTHER, paired=True)
    low, high = found.seeds_needed_between
    assert (low < found.seeds_needed, high) == (True, None)
    clear = compare(BASE, np.add(BASE, [0.01, 0.012] * 4), paired=True)
    assert clear.seeds_needed_between == (6, 6)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [2, 3, 10, 14, 64])
def test_ties_and_constant_sides_compare_without_a_warning(count, paired):
    same = [0.5] * count
    found = compare(same, same, paired=paired)
    assert (found.difference, found.p_value) == (0, 1)
    assert found.interval == pytest.approx((0, 0), abs=1e-12)
    assert (found.probability_of_improvement, found.seeds_needed) == (0.5, None)
    found = compare(same, [0.75] * count, paired=paired)
    # Some of the random labels may be the true ones.
    assert (found.difference, found.p_value) == (0.25, pytest.approx(found.smallest_p, abs=4e-4))
    assert found.interval == pytest.approx((0.25, 0.25))
    assert (found.probability_of_improvement, found.seeds_needed) == (1, 6 if paired else 4)
    found = compare(same, [*same[1:], 0.501], paired=paired)
    assert 0 < found.difference < 0.001
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert 0.1 < found.p_value <= 1


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [2, 4, 6, 8, 64])
def test_without_spread_one_image_is_no_difference(count, paired):
    found = compare([0.9] * count, [0.901] * count, paired=paired, resolution=0.001)
    # What normal values with a standard deviation of one image would have at least.
    z = math.sqrt(count if paired else count / 2)
    assert found.p_value >= 2 * norm.sf(z) - 1e-9
    half = 1.95 / z
    assert found.interval[0] < 0.001 * (1 - half) < 0.001 * (1 + half) < found.interval[1]


@pytest.mark.parametrize("paired", [True, False])
def test_a_hopeless_difference_needs_no_number_of_seeds(paired):
    values = [0.98, 0.99, 0.97, 0.985]
    barely = [v + 1e-8 * sign for v, sign in zip(values, [3000, -1000, -1000, -999], strict=True)]
    assert compare(values, barely, paired=paired).seeds_needed is None
    with pytest.raises(ValueError, match="would not show it"):
        seeds_needed(1.0, 1e-9, test="sign flips" if paired else "relabelling")


@pytest.mark.parametrize(
    ("a", "b", "paired", "message"),
    [
        ([0.5], [0.5, 0.6], False, "a has 1 value: must have at least 2"),
        ([0.5, 0.6], [0.5], True, "b has 1 value: must have at least 2"),
        ([0.5, 0.6], [0.5, 0.6, 0.7], True, "a has 2 values and b has 3: pairs must"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(a, b, paired, message):
    with pytest.raises(ValueError, match=message):
        compare(a, b, paired=paired)


@pytest.mark.parametrize(
    ("effect", "paired", "power", "expected"),
    [
        # Cohen 1988, table 2.4.1 (two-sided, 5 %), and the same by G*Power 3.1 for pairs.
        (0.5, False, 0.8, 64),
        (0.8, False, 0.8, 26),
        (1.0, False, 0.8, 17),
        (0.2, True, 0.8, 199),
        (0.5, True, 0.8, 34),
        (0.8, True, 0.8, 15),
        (0.5, True, 0.9, 44),
    ],
)
def test_one_seed_more_is_needed_than_the_tables_say_of_t(effect, paired, power, expected):
    test = "sign flips" if paired else "relabelling"
    for sign in (1, -1):
        found = seeds_needed(0.002, sign * effect * 0.002, test=test, power=power)
        assert found == expected + 1


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("comparisons", [1, 10])
@pytest.mark.parametrize("effect", [0.03, 0.4])
def test_two_seeds_fewer_than_needed_have_too_little_power(effect, comparisons, paired):
    def power(count):
        # The estimated sd is a scaled chi variable; given it, the estimated mean is normal.
        freedom = count - 1 if paired else 2 * count - 2
        shift = effect * math.sqrt(count if paired else count / 2)
        critical = t.isf(0.025 / comparisons, freedom)
        scale = 1 / math.sqrt(freedom)
        ends = chi.ppf([1e-12, 1 - 1e-12], freedom, scale=scale)
        return quad(
            lambda s: chi.pdf(s, freedom, scale=scale) * norm.sf(critical * s - shift), *ends
        )[0]

    test = "sign flips" if paired else "relabelling"
    needed = seeds_needed(1.0, effect, test=test, comparisons=comparisons)
    assert power(needed - 1) >= 0.8 > power(needed - 2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sd": -1.0, "difference": 1.0},
        {"sd": math.nan, "difference": 1.0},
        {"sd": 1.0, "difference": 0.0},
        {"sd": 1.0, "difference": math.nan},
        {"sd": 1.0, "difference": 1.0, "power": 1.0},
        {"sd": 1.0, "difference": 1.0, "level": 0.0},
    ],
)
def test_seeds_needed_refuses_what_cannot_be_planned(arguments):
    with pytest.raises(ValueError, match="must"):
        seeds_needed(**arguments, test="sign flips")


def test_adjust_rejects_what_holm_rejects():
    # Holm's procedure, step by step, at every level.
    p_values = np.random.default_rng(0).beta(0.3, 3, 12)
    adjusted = adjust(p_values)
    for level in np.linspace(0.001, 0.5, 97):
        left, rejected = len(p_values), set()
        for at in np.argsort(p_values):
            if p_values[at] > level / left:
                break
            rejected.add(at)
            left -= 1
        assert rejected == {at for at, p in enumerate(adjusted) if p <= level}


def test_adjust_takes_an_empty_grid_and_refuses_what_is_no_p_value():
    assert adjust([]) == []
    for wrong in ([0.5, 1.5], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match="must lie within"):
            adjust(wrong)


def test_results_are_plain_numbers():
    results = [
        summarize(BASE),
        summarize(BASE[:1]),
        summarize(BASE * 10),
        variance_parts(np.eye(5, dtype=bool)),
        compare(BASE, OTHER, paired=True),
        compare(BASE, BASE * 2, paired=False),
        compare(BASE * 10, OTHER * 10, paired=False, margin=0.1),
        compare(BASE, OTHER, paired=True, sequential=True),
    ]
    for result in results:
        for value in asdict(result).values():
            parts = value if isinstance(value, tuple) else [value]
            assert {type(part) for part in parts} <= {int, float, bool, str, type(None)}
        json.dumps(asdict(result), allow_nan=False)
