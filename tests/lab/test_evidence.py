"""The tests behind a verdict, against scipy's permutations and in simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_ind

from rowrnn.lab import evidence
from rowrnn.lab.evidence import betting, relabelling, sign_flips
from rowrnn.lab.stats import fewest_seeds, seeds_needed

FULL = pytest.param(20_000, marks=pytest.mark.soak)


def scipys_flips(differences, alternative):
    """The exact p-value of the mean of pairs by scipy, which flips the signs of one sample."""
    return permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=math.inf,
        alternative=alternative,
    ).pvalue


@pytest.mark.parametrize("count", [2, 5, 6, 9])
def test_sign_flips_are_those_of_scipy(count):
    # Whole numbers, so that scipy sees ties as what they are.
    differences = np.random.default_rng(count).integers(-3, 6, count).astype(float)
    found = sign_flips(differences, 0.0)
    greater, less = (scipys_flips(differences, side) for side in ("greater", "less"))
    assert found.tails(0.0) == pytest.approx((greater, less))
    assert found.p_value() == pytest.approx(min(1, 2 * min(greater, less)))


def test_sums_that_are_alike_but_for_rounding_are_ties():
    for answers in np.random.default_rng(0).integers(900, 1000, (20, 2, 8)):
        a, b = answers / 1000
        rounded, exact = sign_flips(b - a, 0.0), sign_flips(1.0 * (answers[1] - answers[0]), 0.0)
        assert rounded.tails(0.0) == exact.tails(0.0)


@pytest.mark.parametrize(("count_a", "count_b"), [(4, 4), (3, 6), (2, 7)])
def test_relabelling_is_the_share_of_labels_with_as_large_a_t(count_a, count_b):
    chosen = np.array([*itertools.combinations(range(count_a + count_b), count_b)])
    rest = [np.setdiff1d(range(count_a + count_b), row) for row in chosen]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(0, 1, count_a), rng.normal(0.5, 3, count_b)
        both = np.concatenate([a, b])
        t = ttest_ind(both[chosen], both[rest], axis=1, equal_var=False).statistic
        seen = ttest_ind(b, a, equal_var=False).statistic
        shares = np.mean(t >= seen - 1e-9), np.mean(t <= seen + 1e-9)
        welch = [
            ttest_ind(b, a, equal_var=False, alternative=side).pvalue
            for side in ("greater", "less")
        ]
        expected = np.maximum(shares, welch)
        assert relabelling(a, b, 0.0).tails(0.0) == pytest.approx(tuple(expected))
        # A shift of b is asked for as if b had been shifted.
        moved = relabelling(a, b, 0.0).tails(0.7)
        assert moved == pytest.approx(relabelling(a, b - 0.7, 0.0).tails(0.0))


@pytest.mark.parametrize("count", [6, 8, 20])
@pytest.mark.parametrize("test", ["sign flips", "relabelling", "betting"])
def test_the_interval_holds_what_the_test_does_not_reject(test, count):
    a, b = np.random.default_rng(count).normal([[0], [0.2]], 1, (2, count))
    found = relabelling(a, b, 0.0) if test == "relabelling" else sign_flips(b - a, 0.0)
    found = betting(b - a, 0.0) if test == "betting" else found
    interval = found.interval(0.95)
    if interval is None:
        assert (test, count) == ("betting", 6)
        return
    low, high = interval
    step = 1e-6 * (high - low)
    inside = [found.p_value(x) for x in np.linspace(low + step, high - step, 50)]
    assert min(inside) > 0.05
    assert max(found.p_value(low - step), found.p_value(high + step)) <= 0.05
    # Equivalence at 5 % is the 90 % interval lying within the margin.
    low, high = found.interval(0.9) or (-math.inf, math.inf)
    for margin in (0.5, 1.0, 2.0):
        assert (found.p_equivalent(margin) <= 0.05) == (-margin < low <= high < margin)


def test_many_seeds_are_sampled_as_all_labels_would_say():
    differences = np.random.default_rng(1).normal(0.4, 1, 15)
    exact = scipys_flips(differences, "greater")
    assert sign_flips(differences, 0.0).tails(0.0)[0] == pytest.approx(exact, abs=0.005)
    assert sign_flips(differences, 0.0).p_value() == sign_flips(differences, 0.0).p_value()


def test_a_difference_far_above_all_others_is_bet_on_without_a_warning():
    differences = np.array([0.001] * 200 + [1.0])
    assert betting(differences, 0.0).p_value() < 1e-10
    assert betting(-differences, 0.0).p_value() == betting(differences, 0.0).p_value()


def test_huge_numbers_of_seeds_need_no_more_memory_than_fits():
    differences = np.random.default_rng(1).normal(0.01, 1, 60_000)
    found = sign_flips(differences[:20_000], 0.0)
    assert found.interval(0.95)[0] < differences[:20_000].mean()
    assert betting(differences, 0.0).p_value() <= 1


@pytest.mark.parametrize(
    ("test", "comparisons", "fewest"),
    [("sign flips", 1, 6), ("sign flips", 2, 7), ("sign flips", 6, 8), ("sign flips", 7, 9),
     ("relabelling", 1, 4), ("betting", 1, 7), ("sign flips", 10_000, None)],
)  # fmt: skip
def test_few_seeds_cannot_tell_whatever_they_say(test, comparisons, fewest):
    assert fewest_seeds(test, comparisons=comparisons) == fewest
    if fewest is None:
        return
    alpha = 0.05 / comparisons
    for count in (fewest - 1, fewest):
        # The clearest values that there are.
        clear = 1000.0 ** np.arange(count) if test == "betting" else np.full(count, 1.0)
        found = relabelling(0 * clear, clear, 0.0) if test == "relabelling" else (
            sign_flips(clear, 0.0) if test == "sign flips" else betting(clear, 0.0)
        )  # fmt: skip
        assert (found.p_value() < alpha) == (count == fewest)
        assert found.p_value() == pytest.approx(found.smallest_p, rel=1e-3)


def normal(rng, shape):
    return rng.normal(0.98, 0.002, shape)


def discrete(rng, shape):
    """On 1,000 images, with a standard deviation of two."""
    return np.round(normal(rng, shape), 3)


def skewed(rng, shape):
    return 0.99 - rng.exponential(0.002, shape)


def contaminated(rng, shape):
    return np.where(rng.random(shape) < 0.03, 0.11, normal(rng, shape))


@pytest.mark.parametrize("runs", [600, FULL])
@pytest.mark.parametrize("draw", [normal, discrete, skewed, contaminated])
@pytest.mark.parametrize("count", [5, 6, pytest.param(8, marks=pytest.mark.slow)])
def test_equal_sides_are_seldom_called_different(draw, count, runs):
    a, b = draw(np.random.default_rng(count), (2, runs, count))
    flips = np.mean([sign_flips(y - x, 0.001).p_value() < 0.05 for x, y in zip(a, b, strict=True)])
    labels = np.mean([relabelling(x, y, 0.001).p_value() < 0.05 for x, y in zip(a, b, strict=True)])
    # Three standard errors of a share of 0.05.
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert flips <= (most if count > 5 else 0)
    assert labels <= most


@pytest.mark.parametrize("runs", [200, FULL])
@pytest.mark.parametrize(("effect", "comparisons"), [(2.0, 1), (1.72, 2), (1.7, 7), (1.0, 1)])
@pytest.mark.parametrize(
    "test", ["sign flips", pytest.param("relabelling", marks=pytest.mark.slow)]
)
def test_the_number_of_seeds_that_is_advised_has_the_power(test, effect, comparisons, runs):
    count = seeds_needed(1.0, effect, test=test, comparisons=comparisons)
    # Flips are quick.
    runs *= 5 if test == "sign flips" and runs < 1000 else 1
    a, b = np.random.default_rng(0).normal(0, 1, (2, runs, count))
    b += effect
    # Only p-values are kept: a result holds all that was permuted.
    found = [
        (sign_flips(y, 0.0) if test == "sign flips" else relabelling(x, y, 0.0)).p_value()
        for x, y in zip(a, b, strict=True)
    ]
    power = np.mean([p_value * comparisons < 0.05 for p_value in found])
    assert power >= 0.8 - 3 * math.sqrt(0.16 / runs)
    assert count == fewest_seeds(test, comparisons=comparisons) or power < 0.99


@pytest.mark.parametrize("runs", [1000, FULL])
def test_sides_of_unlike_spread_are_seldom_called_different(runs):
    a, b = np.random.default_rng(1).normal(0, [[[1]], [[10]]], (2, runs, 4))
    wrong = [relabelling(x, y, 0.0).p_value() < 0.05 for x, y in zip(a, b, strict=True)]
    assert np.mean(wrong) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("runs", [pytest.param(300, marks=pytest.mark.slow), FULL])
def test_betting_holds_however_often_it_is_looked_at(runs):
    rng = np.random.default_rng(3)
    differences = rng.normal(0, 1, (runs, 100)) * rng.choice([0.1, 1.0, 5.0], (runs, 100))
    grown = evidence.capital(evidence.in_typical_sizes(differences))
    lost = evidence.capital(-evidence.in_typical_sizes(differences))
    ever = ((grown >= 40) | (lost >= 40)).any(axis=1).mean()
    assert ever <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    # The sign flips of the same differences, looked at after every 8 seeds, do not.
    looks = [
        any(sign_flips(row[:n], 0.0).p_value() < 0.05 for n in range(8, 57, 8))
        for row in differences[:100]
    ]
    assert np.mean(looks) > 0.1
    # And it shows what there is.
    needed = seeds_needed(1.0, 1.0, test="betting")
    clear = rng.normal(1, 1, (runs, needed))
    shown = evidence.capital(evidence.in_typical_sizes(clear)) >= 40
    assert shown.any(axis=1).mean() >= 0.8 - 3 * math.sqrt(0.16 / runs)
