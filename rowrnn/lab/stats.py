"""Statistics on the host: what a count or a set of seeds says, and how surely.

scipy is imported where it is used: it takes longer to load than most of what needs this module.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]
Values = Sequence[float] | np.ndarray

# From this number of values on an interval is a BCa bootstrap, below it Student's t. Measured
# coverage of the 95 % interval in 20,000 simulated sweeps (their own error is 0.15 %), normal and
# with the skewness −1 of a reflected gamma distribution of shape 4:
#
#     values             8      16      32      64     128
#     t, normal       95.1    95.1    94.9    95.1    94.8
#     t, skewed       93.6    93.8    94.5    95.0    94.6
#     BCa, normal     88.7    92.0    93.5    94.4    94.3
#     BCa, skewed     87.7    91.3    93.2    94.4    94.3
BCA_FROM = 64

# Other random draws would move the ends of a BCa interval by about 2 % of its width.
RESAMPLES = 2_000

# More seeds than this are not searched for.
MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Summary:
    """What the values of one group of seeds say; see `summarize`.

    `sd` divides by count − 1. `argmin` and `argmax` are positions in the values (of the first,
    where several are alike). `sd` and `interval` are None for a single value.
    """

    count: int
    mean: float
    sd: float | None
    median: float
    iqm: float
    interval: Interval | None
    method: Literal["t", "bca"]
    min: float
    max: float
    argmin: int
    argmax: int


@dataclass(frozen=True)
class VarianceParts:
    """The variance of test accuracy over seeds and its two parts; see `variance_parts`.

    `total` = `finite_test` + `between_seeds`.
    """

    total: float
    finite_test: float
    between_seeds: float


@dataclass(frozen=True)
class Comparison:
    """What two groups of seeds say about each other; see `compare`.

    `difference` is the mean of b minus the mean of a. `sd_difference` is the standard deviation
    of the differences of the pairs, or, unpaired, the pooled one of the two sides.
    """

    count_a: int
    count_b: int
    paired: bool
    difference: float
    interval: Interval
    p_value: float
    test: Literal["wilcoxon", "mann-whitney"]
    probability_of_improvement: float
    sd_difference: float
    seeds_needed: int | None


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often a true class (row) was called what (column), int64 [C, C].

    `labels` and `predicted` are classes [N], from 0 to `classes` - 1.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    array([[1, 0],
           [1, 1]])
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each example in nats, float64 [N], from logits [N, C] and labels [N].

    >>> cross_entropies(np.zeros((1, 4)), np.array([2])).round(4)  # log 4
    array([1.3863])
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    at_label = np.take_along_axis(wide, labels[:, None], axis=1)[:, 0]
    return np.log(np.exp(wide).sum(axis=1)) - at_label


def wilson_interval(correct: int, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for the accuracy behind `correct` of `count` answers.

    Unlike the interval p ± z·√(p(1−p)/n) it stays within [0, 1] and keeps its level near
    accuracies of 0 and 1, where good classifiers live.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212.

    Raises `ValueError` unless 0 <= correct <= count, count >= 1 and 0 < level < 1.

    >>> low, high = wilson_interval(9_890, 10_000)
    >>> round(low, 4), round(high, 4)
    (0.9868, 0.9909)
    """
    _check_share("level", level)
    if not 0 <= correct <= count or count < 1:
        raise ValueError(f"{correct} of {count} correct: must be 0 to count, of at least 1")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = correct / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    # Where rounding would leave a little beside the ends.
    return (
        centre - half if correct > 0 else 0.0,
        centre + half if correct < count else 1.0,
    )


def interval_of_mean(values: Values, level: float = 0.95) -> Interval:
    """An interval for the mean behind `values`, independent draws such as one accuracy per seed.

    Student's t for fewer than `BCA_FROM` values; from there on the BCa bootstrap, which follows
    the skew of the values, always with the same random draws. Equal values v give (v, v), a
    single value gives (nan, nan).

    Sources: Student, "The probable error of a mean", Biometrika 6 (1908), 1-25; B. Efron, "Better
    bootstrap confidence intervals", Journal of the American Statistical Association 82 (1987),
    171-185.

    Raises `ValueError` unless there are values, all of them finite, and 0 < level < 1.

    >>> low, high = interval_of_mean([0.987, 0.989, 0.988, 0.990])
    >>> round(low, 4), round(high, 4)
    (0.9864, 0.9906)
    """
    array = _checked("values", values)
    _check_share("level", level)
    if len(array) < 2:
        return math.nan, math.nan
    first = float(array[0])
    if np.ptp(array) == 0:
        return first, first
    if len(array) >= BCA_FROM:
        return _bca(np.mean, level, array)
    from scipy.stats import ttest_1samp

    return _moved(ttest_1samp(array - first, 0).confidence_interval(level), first)


def summarize(values: Values, level: float = 0.95) -> Summary:
    """Mean, spread and extremes of `values`, one per seed, with an interval for the mean.

    The interquartile mean `iqm` leaves out a quarter of the values at either end: one failed seed
    does not move it, and it wavers less than the median. `interval` and `method` are those of
    `interval_of_mean`.

    Source of the interquartile mean: R. Agarwal et al., "Deep reinforcement learning at the edge
    of the statistical precipice", NeurIPS 2021, arXiv 2108.13264.

    Raises `ValueError` unless there are values, all of them finite, and 0 < level < 1.

    >>> summary = summarize([0.987, 0.989, 0.112, 0.990])
    >>> round(summary.mean, 4), round(summary.iqm, 4), summary.argmin
    (0.7695, 0.988, 2)
    """
    from scipy.stats import trim_mean

    array = _checked("values", values)
    interval = interval_of_mean(array, level)
    several = len(array) > 1
    return Summary(
        count=len(array),
        mean=_mean(array),
        sd=_sd(array) if several else None,
        median=float(np.median(array)),
        iqm=float(trim_mean(array, 0.25)),
        interval=interval if several else None,
        method="bca" if len(array) >= BCA_FROM else "t",
        min=float(array.min()),
        max=float(array.max()),
        argmin=int(array.argmin()),
        argmax=int(array.argmax()),
    )


def settled_row(accuracy: np.ndarray, within: float = 0.01) -> int:
    """From which row on, counted from 1, accuracy after each row [T] stays so near its last value.

    >>> settled_row(np.array([0.1, 0.978, 0.5, 0.975, 0.98]))
    4
    """
    far = np.abs(accuracy - accuracy[-1]) > within
    return int(np.flatnonzero(far).max(initial=-1)) + 2


def held_since(answers: np.ndarray) -> int:
    """From which row on, counted from 1, the answer after each row [T] is the last one.

    >>> held_since(np.array([7, 1, 7, 6, 6]))
    4
    """
    return int(np.flatnonzero(answers != answers[-1]).max(initial=-1)) + 2


def variance_parts(correct: ArrayLike) -> VarianceParts:
    """How much of the variance of test accuracy over seeds the finite test set explains.

    `correct` is a bool array [S seeds, N examples]: who answered what correctly. Seeds that are
    equally good on the distribution still differ on N examples drawn from it, by about a binomial
    variance of the examples on which seeds disagree. With the variance over seeds of the accuracy,
    V, and of the answers to example i, v_i (both divided by S − 1),

        between_seeds = N/(N−1) · (V − Σ v_i / N²)

    estimates the variance of the accuracy on the whole distribution without bias. For that reason
    it is left as it is where it comes out below 0, as it does half of the time if the seeds do not
    differ at all: read that as too small to be seen. Averages of it, over runs or test sets, stay
    right; clipped at 0 they would not.

    Source: K. Jordan, "On the variance of neural network training with respect to test sets and
    distributions", 2023, arXiv 2304.01910.

    Raises `ValueError` unless `correct` is a bool array with at least 2 seeds and 2 examples.

    >>> answers = [[True, True, False, False], [True, False, True, False]]  # equally good
    >>> parts = variance_parts(answers)
    >>> parts.total, round(parts.finite_test, 4), round(parts.between_seeds, 4)
    (0.0, 0.0833, -0.0833)
    """
    answers = np.asarray(correct)
    if answers.dtype != bool or answers.ndim != 2 or min(answers.shape) < 2:
        raise ValueError(
            f"correct is a {answers.dtype} array of shape {answers.shape}: must be a bool array "
            "[seeds, examples] with at least 2 of each"
        )
    seeds, examples = answers.shape
    total = np.count_nonzero(answers, axis=1).var(ddof=1) / examples**2
    # Of k correct answers among S, the unbiased variance is k(S−k)/(S(S−1)).
    right = np.count_nonzero(answers, axis=0)
    of_answers = (right * (seeds - right)).sum() / (seeds * (seeds - 1))
    between_seeds = examples / (examples - 1) * (total - of_answers / examples**2)
    return VarianceParts(
        total=float(total),
        finite_test=float(total - between_seeds),
        between_seeds=float(between_seeds),
    )


def compare(a: Values, b: Values, *, paired: bool, level: float = 0.95) -> Comparison:
    """What the values `a` and `b`, one per seed, say about b against a.

    Where both sides ran with the same seeds, in the same order, `paired` compares seed by seed,
    and what a seed does to both sides cancels. The interval of the difference is then that of
    `interval_of_mean`; otherwise it is Welch's t, or the BCa bootstrap where both sides have
    `BCA_FROM` values. The p-value is that of Wilcoxon's signed ranks or of Mann and Whitney's U,
    two-sided: 1 where nothing differs. The probability of improvement is how often b is above a,
    ties counted half: over the pairs, or over every a with every b. `seeds_needed` is that of the
    function of this name for the difference and the spread seen here, at 80 % power: a guess for
    planning, since a difference worth following up is more often over- than underestimated. It is
    None where there is no difference or `MOST_SEEDS` would not show it.

    Sources: B. L. Welch, "The generalization of 'Student's' problem when several different
    population variances are involved", Biometrika 34 (1947), 28-35; F. Wilcoxon, "Individual
    comparisons by ranking methods", Biometrics Bulletin 1 (1945), 80-83; H. B. Mann and D. R.
    Whitney, "On a test of whether one of two random variables is stochastically larger than the
    other", Annals of Mathematical Statistics 18 (1947), 50-60; probability of improvement:
    R. Agarwal et al., arXiv 2108.13264.

    Raises `ValueError` unless there are at least 2 finite values on each side, equally many where
    paired, and 0 < level < 1.

    >>> base = [0.987, 0.989, 0.988, 0.990, 0.986, 0.991]
    >>> better = [0.989, 0.990, 0.991, 0.992, 0.987, 0.992]
    >>> c = compare(base, better, paired=True)
    >>> round(c.difference, 4), c.probability_of_improvement, c.p_value, c.seeds_needed
    (0.0017, 1.0, 0.03125, 5)
    """
    _check_share("level", level)
    side_a, side_b = _checked("a", a), _checked("b", b)
    for name, side in (("a", side_a), ("b", side_b)):
        if len(side) < 2:
            raise ValueError(f"{name} has {len(side)} value: must have at least 2 to show a spread")
    if paired and len(side_a) != len(side_b):
        raise ValueError(
            f"a has {len(side_a)} values and b has {len(side_b)}: pairs must have both; "
            "compare what has no partner with paired=False"
        )
    differences = side_b - side_a if paired else np.subtract.outer(side_b, side_a)
    if paired:
        difference, sd = _mean(differences), _sd(differences)
        interval = interval_of_mean(differences, level)
        p_value = _wilcoxon(differences, max(np.abs(side_a).max(), np.abs(side_b).max()))
    else:
        difference, sd = _mean(side_b) - _mean(side_a), _pooled_sd(side_a, side_b)
        interval = _interval_of_difference(side_a, side_b, level)
        p_value = _mann_whitney(side_a, side_b)
    effect = abs(difference) / sd if sd else math.inf
    return Comparison(
        count_a=len(side_a),
        count_b=len(side_b),
        paired=paired,
        difference=difference,
        interval=interval,
        p_value=p_value,
        test="wilcoxon" if paired else "mann-whitney",
        probability_of_improvement=float(np.heaviside(differences, 0.5).mean()),
        sd_difference=sd,
        seeds_needed=_seeds_for(effect, paired, 0.8, level) if difference else None,
    )


def seeds_needed(
    sd: float, difference: float, *, paired: bool, power: float = 0.8, level: float = 0.95
) -> int:
    """How many seeds per side a two-sided t-test needs to see `difference` with this `power`.

    `sd` is the standard deviation of the differences of the pairs, or, unpaired, that of either
    side. The power is exact for normal values, from the noncentral t distribution.

    Source: J. Cohen, "Statistical power analysis for the behavioral sciences", 2nd edition, 1988,
    chapter 2.

    Raises `ValueError` unless sd >= 0, the difference is finite and not 0, power and level lie
    between 0 and 1, and `MOST_SEEDS` suffice.

    >>> seeds_needed(sd=0.001, difference=0.0005, paired=False)
    64
    >>> seeds_needed(sd=0.001, difference=0.0005, paired=True)
    34
    """
    _check_share("power", power)
    _check_share("level", level)
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd = {sd}: must be finite and at least 0")
    if difference == 0 or not math.isfinite(difference):
        raise ValueError(f"difference = {difference}: must be finite and other than 0 to be seen")
    effect = abs(difference) / sd if sd else math.inf
    count = _seeds_for(effect, paired, power, level)
    if count is None:
        raise ValueError(
            f"difference = {difference} at sd = {sd}: {MOST_SEEDS:,} seeds would not show it; "
            "must be larger"
        )
    return count


def adjust(p_values: Values) -> list[float]:
    """The p-values of a grid of comparisons, corrected for their number.

    Benjamini and Hochberg: whoever calls those at most q differences is wrong, on average, in at
    most a share q of them. Holds for independent comparisons and for those that depend positively
    on one another, such as many settings against one baseline.

    Source: Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", Journal of the
    Royal Statistical Society B 57 (1995), 289-300.

    Raises `ValueError` unless all lie within [0, 1].

    >>> [round(p, 3) for p in adjust([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    from scipy.stats import false_discovery_control

    array = np.asarray(p_values, np.float64)
    wrong = array[~((array >= 0) & (array <= 1))]
    if wrong.size:
        raise ValueError(f"p-value {wrong[0]}: must lie within [0, 1]")
    return false_discovery_control(array, method="bh").tolist() if array.size else []


def _checked(name: str, values: Values) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}: must be a sequence of at least 1 value")
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name}[{at}] = {array[at]}: must be finite; leave out failed seeds")
    return array


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} = {value}: must lie between 0 and 1, such as 0.95")


# All intervals and these two count from the first value, so that equal values have exactly their
# own mean and no spread, and rounding does not drown differences in the last digits.
def _mean(array: np.ndarray) -> float:
    return float(array[0] + (array - array[0]).mean())


def _sd(array: np.ndarray) -> float:
    return float((array - array[0]).std(ddof=1))


def _pooled_sd(a: np.ndarray, b: np.ndarray) -> float:
    squares = (len(a) - 1) * _sd(a) ** 2 + (len(b) - 1) * _sd(b) ** 2
    return math.sqrt(squares / (len(a) + len(b) - 2))


def _moved(interval: Any, by: float) -> Interval:
    """An interval of scipy, with both of its ends moved."""
    return by + float(interval.low), by + float(interval.high)


def _bca(statistic: Callable[..., np.ndarray], level: float, *samples: np.ndarray) -> Interval:
    from scipy.stats import bootstrap

    # Without their means: `statistic` is linear.
    means = [_mean(sample) for sample in samples]
    found = bootstrap(
        [sample - mean for sample, mean in zip(samples, means, strict=True)],
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return _moved(found.confidence_interval, means[0] - sum(means[1:]))


def _interval_of_difference(a: np.ndarray, b: np.ndarray, level: float) -> Interval:
    from scipy.stats import ttest_ind

    apart = float(b[0] - a[0])
    if np.ptp(a) == np.ptp(b) == 0:
        return apart, apart
    if min(len(a), len(b)) >= BCA_FROM:
        return _bca(lambda b, a, axis: b.mean(axis) - a.mean(axis), level, b, a)
    welch: Any = ttest_ind(b - b[0], a - a[0], equal_var=False)
    return _moved(welch.confidence_interval(level), apart)


def _wilcoxon(differences: np.ndarray, scale: float) -> float:
    from scipy.stats import wilcoxon

    # Accuracies are whole numbers of examples: differences that are alike must not be ranked by
    # the rounding errors of the subtraction.
    cleaned = np.round(differences / scale, 12) if scale else differences
    if not cleaned.any():
        return 1.0
    signed: Any = wilcoxon(cleaned)
    return float(signed.pvalue)


def _mann_whitney(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import mannwhitneyu

    if np.ptp([*a, *b]) == 0:  # scipy gives nan from 1.18 on.
        return 1.0
    ranked: Any = mannwhitneyu(b, a)
    return float(ranked.pvalue)


def _seeds_for(effect: float, paired: bool, power: float, level: float) -> int | None:
    """The smallest number of seeds that sees a difference of `effect` standard deviations."""
    from scipy.stats import nct, t

    def suffices(count: int) -> bool:
        freedom = count - 1 if paired else 2 * (count - 1)
        critical = t.ppf((1 + level) / 2, freedom)
        shift = effect * math.sqrt(count if paired else count / 2)
        # The power is 1 to the last digit then, but scipy's function may give nan.
        if shift > 50 + 20 * critical:
            return True
        # A significant difference of the wrong sign is not seen, and rarer than 1 in 100,000.
        return bool(nct.sf(critical, freedom, shift) >= power)

    counts = range(2, MOST_SEEDS + 1)
    at = bisect.bisect_left(counts, True, key=suffices)
    return counts[at] if at < len(counts) else None
