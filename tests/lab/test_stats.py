import doctest
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


def test_the_examples_are_true():
    found = doctest.testmod(stats)
    assert found.attempted > 0
    assert found.failed == 0


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


def bca_by_hand(level, *samples):
    """Efron 1987, for the mean of the first sample less that of the second, if there is one."""
    rng = np.random.default_rng(7)
    resampled, observed, cubes, squares = 0.0, 0.0, 0.0, 0.0
    for sign, sample in zip([1, -1], samples, strict=False):
        n = len(sample)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=40_000) / n
        influence = sign * (sample - sample.mean()) / n
        resampled = resampled + sign * (weights @ sample)
        observed += sign * sample.mean()
        cubes += (influence**3).sum()
        squares += (influence**2).sum()
    bias = norm.ppf((resampled < observed).mean())
    acceleration = cubes / squares**1.5 / 6
    z = bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(resampled, norm.cdf(bias + z / (1 - acceleration * z)))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_many_seeds_get_the_bca_interval(level, monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 40_000)  # for less doubt from the random draws
    rng = np.random.default_rng(3)
    b, a = rng.lognormal(0, 1, 80), rng.lognormal(1, 0.5, stats.BCA_FROM)
    expected = bca_by_hand(level, b)
    tolerance = 0.03 * np.diff(expected)[0]
    np.testing.assert_allclose(interval_of_mean(b, level), expected, atol=tolerance)
    expected = bca_by_hand(level, b, a)
    tolerance = 0.03 * np.diff(expected)[0]
    found = compare(a, b, paired=False, level=level).interval
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_few_seeds_get_students_interval():
    # By hand: mean 3, sd √2.5, and t = 2.776 from the tables for 4 degrees of freedom.
    half = 2.776 * math.sqrt(2.5 / 5)
    np.testing.assert_allclose(interval_of_mean([1, 2, 3, 4, 5]), [3 - half, 3 + half], rtol=1e-3)
    half = 2.132 * math.sqrt(2.5 / 5)
    found = interval_of_mean([1, 2, 3, 4, 5], level=0.9)
    np.testing.assert_allclose(found, [3 - half, 3 + half], rtol=1e-3)


@pytest.mark.parametrize("count", [stats.BCA_FROM - 1, stats.BCA_FROM])
def test_an_interval_is_repeatable_and_says_how_it_came_about(count):
    values = skewed(np.random.default_rng(0), count)[0]
    summary = summarize(values)
    assert summary.interval == interval_of_mean(list(values))
    assert summarize(values, level=0.5).interval == interval_of_mean(values, level=0.5)
    low, high = summary.interval
    symmetric = summary.mean - low == pytest.approx(high - summary.mean, rel=1e-6)
    assert (summary.method, symmetric) in {("t", True), ("bca", False)}
    assert (summary.method == "bca") == (count == stats.BCA_FROM)


@pytest.mark.parametrize("count", [2, 3, 10, 100])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.9871])
def test_equal_values_have_no_spread(value, count):
    summary = summarize([value] * count)
    assert summary.interval == (value, value)
    assert (summary.mean, summary.sd, summary.argmin, summary.argmax) == (value, 0, 0, 0)


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
    assert found.interval == interval_of_mean(differences)
    narrow = compare(BASE, OTHER, paired=True, level=0.5).interval
    assert narrow == interval_of_mean(differences, level=0.5)
    assert found.sd_difference == pytest.approx(differences.std(ddof=1))
    # Above in 5 of 8 pairs, equal in 1.
    assert found.probability_of_improvement == 5.5 / 8
    assert found.seeds_needed == seeds_needed(found.sd_difference, found.difference, paired=True)


def test_wilcoxon_is_the_share_of_signs_that_do_as_well():
    # Whole numbers of examples, so that ranks do not depend on rounding.
    examples = [round(10_000 * (b - a)) for a, b in zip(BASE, OTHER, strict=True)]
    sizes = sorted(abs(d) for d in examples if d)
    rank = {d: np.mean([i for i, size in enumerate(sizes, 1) if size == d]) for d in sizes}
    nonzero = [d for d in examples if d]
    ranks = [rank[abs(d)] for d in nonzero]
    middle = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, nonzero, strict=True) if d > 0) - middle)
    as_far = [
        abs(sum(itertools.compress(ranks, signs)) - middle) >= seen
        for signs in itertools.product([0, 1], repeat=len(ranks))
    ]
    found = compare(BASE, OTHER, paired=True)
    assert (found.test, found.p_value) == ("wilcoxon", pytest.approx(np.mean(as_far)))


def test_an_unpaired_comparison_is_over_all_pairs():
    a, b = BASE[:6], OTHER
    found = compare(a, b, paired=False)
    assert (found.count_a, found.count_b, found.paired) == (6, 8, False)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))
    welch = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval, welch)
    wins = [(y > x) + (y == x) / 2 for x in a for y in b]
    assert found.probability_of_improvement == pytest.approx(np.mean(wins))
    pooled = math.sqrt((5 * np.var(a, ddof=1) + 7 * np.var(b, ddof=1)) / 12)
    assert found.sd_difference == pytest.approx(pooled)
    assert found.seeds_needed == seeds_needed(pooled, found.difference, paired=False)


def test_mann_whitney_is_the_share_of_splits_that_do_as_well():
    a, b = [0.981, 0.984, 0.987, 0.983], [0.986, 0.989, 0.982, 0.991, 0.988]
    both = a + b

    def distance(chosen):
        rest = set(both) - set(chosen)
        return abs(sum(x > y for x in chosen for y in rest) - 10)

    as_far = [distance(chosen) >= distance(a) for chosen in itertools.combinations(both, 4)]
    found = compare(a, b, paired=False)
    assert (found.test, found.p_value) == ("mann-whitney", pytest.approx(np.mean(as_far)))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [2, 3, 10, 14, 64])
def test_ties_and_constant_sides_compare_without_a_warning(count, paired):
    same = [0.5] * count
    found = compare(same, same, paired=paired)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)
    assert (found.probability_of_improvement, found.seeds_needed) == (0.5, None)
    found = compare(same, [0.75] * count, paired=paired)
    assert (found.difference, found.interval) == (0.25, (0.25, 0.25))
    assert (found.probability_of_improvement, found.seeds_needed) == (1, 2)
    found = compare(same, [*same[1:], 0.501], paired=paired)
    assert 0 < found.difference < 0.001
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert 0.1 < found.p_value <= 1


@pytest.mark.parametrize("paired", [True, False])
def test_a_hopeless_difference_needs_no_number_of_seeds(paired):
    values = [0.98, 0.99, 0.97, 0.985]
    barely = [v + 1e-8 * sign for v, sign in zip(values, [3000, -1000, -1000, -999], strict=True)]
    assert compare(values, barely, paired=paired).seeds_needed is None
    with pytest.raises(ValueError, match="would not show it"):
        seeds_needed(1.0, 1e-9, paired=paired)


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
def test_seeds_needed_are_those_of_the_tables(effect, paired, power, expected):
    assert seeds_needed(0.002, effect * 0.002, paired=paired, power=power) == expected
    assert seeds_needed(0.002, -effect * 0.002, paired=paired, power=power) == expected


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("level", [0.9, 0.99])
@pytest.mark.parametrize("effect", [0.03, 0.4, 3.0])
def test_one_seed_fewer_than_needed_has_too_little_power(effect, level, paired):
    def power(count):
        # The estimated sd is a scaled chi variable; given it, the estimated mean is normal.
        freedom = count - 1 if paired else 2 * count - 2
        shift = effect * math.sqrt(count if paired else count / 2)
        critical = t.ppf((1 + level) / 2, freedom)
        scale = 1 / math.sqrt(freedom)
        ends = chi.ppf([1e-12, 1 - 1e-12], freedom, scale=scale)
        return quad(
            lambda s: chi.pdf(s, freedom, scale=scale) * norm.sf(critical * s - shift), *ends
        )[0]

    needed = seeds_needed(1.0, effect, paired=paired, level=level)
    assert power(needed) >= 0.8
    assert needed == 2 or power(needed - 1) < 0.8


def test_two_seeds_show_any_difference_without_spread():
    assert seeds_needed(0.0, 0.1, paired=True) == 2
    assert seeds_needed(1e-12, 0.1, paired=False) == 2


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
        seeds_needed(**arguments, paired=True)


def test_adjust_rejects_what_benjamini_and_hochberg_reject():
    # The example of their paper: at a false discovery rate of 5 % the first four stand.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p_values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    order = np.random.default_rng(0).permutation(15)
    adjusted = adjust([p_values[i] for i in order])
    assert {p_values[i] for i, p in zip(order, adjusted, strict=True) if p <= 0.05} == {
        *p_values[:4]
    }
    for i, p in zip(order, adjusted, strict=True):
        expected = min(15 / (k + 1) * p_values[k] for k in range(i, 15))
        assert p == pytest.approx(expected)


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
        compare(BASE * 10, OTHER * 10, paired=False),
    ]
    for result in results:
        for value in asdict(result).values():
            parts = value if isinstance(value, tuple) else [value]
            assert {type(part) for part in parts} <= {int, float, bool, str, type(None)}
        json.dumps(asdict(result), allow_nan=False)
