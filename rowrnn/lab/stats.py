"""Statistics on the host: what a count or a set of seeds says, and how surely.

scipy is imported where it is used: it takes longer to load than most of what needs this module.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rowrnn.lab import evidence
from rowrnn.lab.evidence import Evidence, Interval, mean_of
from rowrnn.lab.shown import Shown

Values = Sequence[float] | np.ndarray

SHARE: Interval = (0.0, 1.0)
"""Between what an accuracy lies."""

# More seeds than this are not searched for.
MOST_SEEDS = 1_000_000

# Sign flips of so many pairs or more have the power of a t-test with one pair less.
_AS_A_T_TEST = 15

# Fewest values of which some can be called far below the others.
_FEWEST_TO_FAIL = 8


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """What the values of one group of seeds say; see `summarize`.

    `sd` divides by count − 1. `argmin` and `argmax` are positions in the values (of the first,
    where several are alike). `far_below` are how many lie far below the others. `sd` and the
    intervals are None for a single value, `iqm_interval` also for fewer than 5.
    """

    count: int
    mean: float
    sd: float | None
    median: float
    iqm: float
    interval: Interval | None
    method: Literal["t"]
    iqm_interval: Interval | None
    far_below: int
    min: float
    max: float
    argmin: int
    argmax: int


@dataclass(frozen=True, repr=False)
class VarianceParts(Shown):
    """The variance of test accuracy over seeds and its two parts; see `variance_parts`.

    `total` = `finite_test` + `between_seeds`. `finite_share` is `finite_test` of `total`, and above
    1 where `between_seeds` is below 0; its 95 % interval assumes normal accuracies. Both are None
    where `total` is 0.
    """

    total: float
    finite_test: float
    between_seeds: float
    finite_share: float | None
    finite_share_interval: Interval | None


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What two groups of seeds say about each other; see `compare`.

    Attributes:
        count_a, count_b: seeds of either side.
        paired: whether they are compared in pairs.
        difference: the mean of b minus the mean of a.
        interval: of the difference.
        interval_method: the test, or "student", which assumes normal values.
        p_value: of the difference, two-sided.
        test: what gave it; see `evidence`.
        smallest_p: the smallest p-value that any values of so many seeds can have.
        equivalent_p: of the difference being within the margin; None without a margin.
        probability_of_improvement: how often b is above a, ties counted half.
        sd_difference: the standard deviation of the differences of the pairs, or, unpaired, the
            pooled one of the two sides.
        correlation: of the two sides over the pairs; None unpaired, or where a side has no spread.
        seeds_needed: for a difference as this one, each side; None where no number shows it.
        seeds_needed_between: the same at the ends of the 95 % interval of the difference in parts
            of its spread; the upper one is None where there is no end.
    """

    count_a: int
    count_b: int
    paired: bool
    difference: float
    interval: Interval
    interval_method: Literal["sign flips", "relabelling", "betting", "student"]
    p_value: float
    test: evidence.Name
    smallest_p: float
    equivalent_p: float | None
    probability_of_improvement: float
    sd_difference: float
    correlation: float | None
    seeds_needed: int | None
    seeds_needed_between: tuple[int, int | None] | None

    def _facts(self) -> dict[str, Any]:
        names = ("count_a", "count_b", "paired", "difference", "interval", "p_value", "test")
        return {name: getattr(self, name) for name in names}


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
    low, high = wilson(correct / count, z * z / count)
    # Rounding would leave a little beside the ends.
    return low if correct > 0 else 0.0, high if correct < count else 1.0


def wilson(share: float, weight: float) -> Interval:
    """Wilson's interval about a share; `weight`: squared quantile by number of answers."""
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return centre - half, centre + half


def interval_of_mean(
    values: Values,
    level: float = 0.95,
    *,
    resolution: float = 0.0,
    within: Interval = (-math.inf, math.inf),
) -> Interval:
    """Student's interval for the mean behind `values`, independent draws such as one for each seed.

    It assumes that values are normal; `experiments/results/verdicts.md` says how often it holds the
    mean where they are not. A spread below `resolution` (of accuracies one test image) counts as
    that. The interval is cut to what is possible, `within`. A single value gives (nan, nan).

    Source: Student, "The probable error of a mean", Biometrika 6 (1908), 1-25.

    Raises `ValueError` unless there are values, all of them finite, and 0 < level < 1.

    >>> low, high = interval_of_mean([0.987, 0.989, 0.988, 0.990])
    >>> round(low, 4), round(high, 4)
    (0.9864, 0.9906)
    """
    array = _checked("values", values)
    _check_share("level", level)
    if len(array) < 2:
        return math.nan, math.nan
    return _clipped(_student((array,), resolution, level), within)


def summarize(
    values: Values,
    level: float = 0.95,
    *,
    resolution: float = 0.0,
    within: Interval = (-math.inf, math.inf),
) -> Summary:
    """Mean, spread and extremes of `values`, one per seed, with an interval for the mean.

    The interquartile mean `iqm` leaves out a quarter of the values at either end: one failed seed
    does not move it, and it wavers less than the median. `far_below` are below the lower quartile
    by more than three times the distance of the quartiles, and more than three `resolution`, if
    there are at least 8 values. Where there are any, or members that diverged, read the
    interquartile mean beside the rate of failures: the interval of the mean holds it too rarely.
    `interval` is that of `interval_of_mean`.

    Sources of the interquartile mean: R. Agarwal et al., "Deep reinforcement learning at the edge
    of the statistical precipice", NeurIPS 2021, arXiv 2108.13264; of its interval: J. W. Tukey and
    D. H. McLaughlin, "Less vulnerable confidence and significance procedures for location based on
    a single sample: trimming/winsorization 1", Sankhyā A 25 (1963), 331-352; of the fence:
    J. W. Tukey, "Exploratory data analysis", 1977, chapter 2.

    Raises `ValueError` unless there are values, all of them finite, and 0 < level < 1.

    >>> summary = summarize([0.987, 0.989, 0.112, 0.990])
    >>> round(summary.mean, 4), round(summary.iqm, 4), summary.argmin
    (0.7695, 0.988, 2)
    """
    from scipy.stats import trim_mean

    array = _checked("values", values)
    interval = interval_of_mean(array, level, resolution=resolution, within=within)
    several, iqm_interval, far_below = len(array) > 1, None, 0
    if len(array) >= 5:
        iqm_interval = _clipped(_around_iqm(array, resolution, level), within)
    if len(array) >= _FEWEST_TO_FAIL:
        low, high = np.quantile(array, [0.25, 0.75])
        far_below = int((array < low - 3 * max(high - low, resolution)).sum())
    return Summary(
        count=len(array),
        mean=mean_of(array),
        sd=_sd(array) if several else None,
        median=float(np.median(array)),
        iqm=float(trim_mean(array, 0.25)),
        interval=interval if several else None,
        method="t",
        iqm_interval=iqm_interval,
        far_below=far_below,
        min=float(array.min()),
        max=float(array.max()),
        argmin=int(array.argmin()),
        argmax=int(array.argmax()),
    )


def settled_row(accuracy: np.ndarray) -> int:
    """The row, from 1, from which on accuracy after each row [T] is within 0.01 of the last one.

    >>> settled_row(np.array([0.1, 0.978, 0.5, 0.975, 0.98]))
    4
    """
    far = np.abs(accuracy - accuracy[-1]) > 0.01
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

    Of normal accuracies V is its expectation times χ²/(S − 1), beside which that of Σ v_i is known;
    from this follows the interval of the share of the finite test set.

    Source: K. Jordan, "On the variance of neural network training with respect to test sets and
    distributions", 2023, arXiv 2304.01910.

    Raises `ValueError` unless `correct` is a bool array with at least 2 seeds and 2 examples.

    >>> answers = [[True, True, False, False], [True, False, True, False]]  # equally good
    >>> parts = variance_parts(answers)
    >>> parts.total, round(parts.finite_test, 4), round(parts.between_seeds, 4)
    (0.0, 0.0833, -0.0833)
    """
    from scipy.stats import chi2

    answers = np.asarray(correct)
    if answers.dtype != bool or answers.ndim != 2 or min(answers.shape) < 2:
        raise ValueError(
            f"correct is a {answers.dtype} array of shape {answers.shape}: must be a bool array "
            "[seeds, examples] with at least 2 of each"
        )
    seeds, examples = answers.shape
    total = np.count_nonzero(answers, axis=1).var(ddof=1) / examples**2
    # k correct answers among S have the unbiased variance k(S−k)/(S(S−1)).
    right = np.count_nonzero(answers, axis=0)
    of_answers = (right * (seeds - right)).sum() / (seeds * (seeds - 1))
    between_seeds = examples / (examples - 1) * (total - of_answers / examples**2)
    share = float(1 - between_seeds / total) if total else None
    low, high = chi2.ppf([0.025, 0.975], seeds - 1) / (seeds - 1)
    return VarianceParts(
        total=float(total),
        finite_test=float(total - between_seeds),
        between_seeds=float(between_seeds),
        finite_share=share,
        finite_share_interval=None if share is None else (share * float(low), share * float(high)),
    )


def compare(
    a: Values,
    b: Values,
    *,
    paired: bool,
    level: float = 0.95,
    comparisons: int = 1,
    resolution: float = 0.0,
    margin: float | None = None,
    sequential: bool = False,
    within: Interval = (-math.inf, math.inf),
) -> Comparison:
    """What the values `a` and `b`, one per seed, say about b against a.

    Pairs, of sides that ran with the same seeds in the same order, are compared by sign flips, and
    what has no partners by relabelling. p-value and interval are of the same test. Where it has no
    finite interval (fewer than 6 pairs or 4 and 4 seeds), Student's or Welch's is given, which
    assumes normal values. With `sequential` the test is that of betting on pairs in the order of
    the seeds, which holds however often it is looked at while seeds are added: unpaired values are
    paired by their place then. See `evidence` for all three.

    A spread below `resolution` (of accuracies one test image) counts as that. `margin` asks
    besides whether the difference is smaller than that, by two one-sided tests. `seeds_needed` is
    that of the function of this name for the difference and the spread seen here, at 80 % power,
    where `comparisons` are made at once: a guess for planning, since a difference worth following
    up is more often over- than underestimated.

    Sources: B. L. Welch, "The generalization of 'Student's' problem when several different
    population variances are involved", Biometrika 34 (1947), 28-35; probability of improvement:
    R. Agarwal et al., arXiv 2108.13264; interval of a standardized difference: L. V. Hedges and
    I. Olkin, "Statistical methods for meta-analysis", 1985, chapter 5.

    Raises `ValueError` unless there are at least 2 finite values on each side, equally many where
    paired, and 0 < level < 1.

    >>> base = [0.987, 0.989, 0.988, 0.990, 0.986, 0.991]
    >>> better = [0.989, 0.990, 0.991, 0.992, 0.987, 0.992]
    >>> c = compare(base, better, paired=True)
    >>> round(c.difference, 4), c.probability_of_improvement, c.p_value, c.seeds_needed
    (0.0017, 1.0, 0.03125, 6)
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
    if sequential:
        count = min(len(side_a), len(side_b))
        side_a, side_b = side_a[:count], side_b[:count]
    in_pairs = paired or sequential
    differences = side_b - side_a if in_pairs else np.subtract.outer(side_b, side_a)
    sides = (differences,) if in_pairs else (side_a, side_b)
    if sequential:
        found = evidence.betting(differences, resolution)
    elif paired:
        found = evidence.sign_flips(differences, resolution)
    else:
        found = evidence.relabelling(side_a, side_b, resolution)
    interval = found.interval(level)
    sd = _sd(differences) if in_pairs else _pooled_sd(side_a, side_b)
    correlation = _correlation(side_a, side_b) if paired else None
    needed, between = _needed(found, max(sd, resolution), sides, level, comparisons)
    return Comparison(
        count_a=len(side_a),
        count_b=len(side_b),
        paired=paired,
        difference=found.difference,
        interval=_clipped(interval or _student(sides, resolution, level), within),
        interval_method="student" if interval is None else found.name,
        p_value=found.p_value(),
        test=found.name,
        smallest_p=found.smallest_p,
        equivalent_p=None if margin is None else found.p_equivalent(margin),
        probability_of_improvement=float(np.heaviside(differences, 0.5).mean()),
        sd_difference=sd,
        correlation=correlation,
        seeds_needed=needed,
        seeds_needed_between=between,
    )


def fewest_seeds(test: evidence.Name, *, level: float = 0.95, comparisons: int = 1) -> int | None:
    """How many seeds per side a test needs to have any p-value that says something.

    That is one below 1 − level where it is corrected for so many comparisons at once (Holm). None
    where there are too many comparisons for the random draws of the test.

    >>> fewest_seeds("sign flips"), fewest_seeds("sign flips", comparisons=2)
    (6, 7)
    >>> fewest_seeds("relabelling")
    4
    """
    counts = range(2, 64)
    at = bisect.bisect_left(
        counts,
        True,
        key=lambda count: evidence.smallest_p(test, count, count) * comparisons < 1 - level,
    )
    return counts[at] if at < len(counts) else None


def seeds_needed(
    sd: float,
    difference: float,
    *,
    test: evidence.Name,
    power: float = 0.8,
    level: float = 0.95,
    comparisons: int = 1,
) -> int:
    """How many seeds per side show `difference` with this `power`, of so many `comparisons`.

    `sd` is the standard deviation of the differences of the pairs, or, of relabelling, that of
    either side. Of sign flips and relabelling it is one more than a t-test needs, whose power is
    exact for normal values (noncentral t), and at least `fewest_seeds`; with fewer than 15 pairs,
    and for betting, the test is simulated. `experiments/results/verdicts.md` has the power that
    this gives. The correction is that of the smallest of the p-values, Bonferroni's.

    Source: J. Cohen, "Statistical power analysis for the behavioral sciences", 2nd edition, 1988,
    chapter 2.

    Raises `ValueError` unless sd >= 0, the difference is finite and not 0, power and level lie
    between 0 and 1, and `MOST_SEEDS` suffice.

    >>> seeds_needed(sd=0.001, difference=0.0005, test="relabelling")
    65
    >>> seeds_needed(sd=0.001, difference=0.0005, test="sign flips")
    35
    """
    _check_share("power", power)
    _check_share("level", level)
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd = {sd}: must be finite and at least 0")
    if difference == 0 or not math.isfinite(difference):
        raise ValueError(f"difference = {difference}: must be finite and other than 0 to be seen")
    effect = _effect(difference, sd)
    count = _seeds_for(effect, test, power, level, comparisons)
    if count is None:
        raise ValueError(
            f"difference = {difference} at sd = {sd}: {MOST_SEEDS:,} seeds would not show it; "
            "must be larger"
        )
    return count


def adjust(p_values: Values) -> list[float]:
    """The p-values of several comparisons, corrected for their number.

    Holm: whoever calls those below q differences is wrong anywhere at all with a probability of at
    most q, however the comparisons depend on one another.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979), 65-70.

    Raises `ValueError` unless all lie within [0, 1].

    >>> [round(p, 3) for p in adjust([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.09, 0.09, 0.5]
    """
    array = np.asarray(p_values, np.float64)
    wrong = array[~((array >= 0) & (array <= 1))]
    if wrong.size:
        raise ValueError(f"p-value {wrong[0]}: must lie within [0, 1]")
    order = np.argsort(array, kind="stable")
    times = np.arange(len(array), 0, -1)
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * times), 1)
    return adjusted.tolist()


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


# Counted from the first value, as `mean_of` does: equal values have no spread, and rounding does
# not drown differences in the last digits.
def _sd(array: np.ndarray) -> float:
    return float((array - array[0]).std(ddof=1))


def _pooled_sd(a: np.ndarray, b: np.ndarray) -> float:
    squares = (len(a) - 1) * _sd(a) ** 2 + (len(b) - 1) * _sd(b) ** 2
    return math.sqrt(squares / (len(a) + len(b) - 2))


def _clipped(interval: Interval, within: Interval) -> Interval:
    low, high = np.clip(interval, *within)
    return float(low), float(high)


def _student(sides: tuple[np.ndarray, ...], resolution: float, level: float) -> Interval:
    """Student's interval of the mean of one side, or Welch's of the second less the first."""
    from scipy.special import stdtrit

    errors = [max(_sd(side), resolution) ** 2 / len(side) for side in sides]
    middle = mean_of(sides[-1]) - (mean_of(sides[0]) if len(sides) > 1 else 0.0)
    if not sum(errors):
        return middle, middle
    parts = [error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True)]
    half = float(stdtrit(sum(errors) ** 2 / sum(parts), (1 + level) / 2)) * math.sqrt(sum(errors))
    return middle - half, middle + half


def _around_iqm(array: np.ndarray, resolution: float, level: float) -> Interval:
    """An interval of the interquartile mean, from the spread of what is not far out."""
    from scipy.special import stdtrit
    from scipy.stats import trim_mean
    from scipy.stats.mstats import winsorize

    spread = max(_sd(np.asarray(winsorize(array, (0.25, 0.25)))), resolution)
    kept = len(array) - 2 * (len(array) // 4)
    # Tukey and McLaughlin give kept - 1 degrees of freedom, too many for few seeds. Half of kept
    # holds what it says in simulation (experiments/verdicts.py).
    half = float(stdtrit(kept / 2, (1 + level) / 2)) * 2 * spread / math.sqrt(len(array))
    middle = float(trim_mean(array, 0.25))
    return middle - half, middle + half


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a - a[0], b - b[0])[0, 1])


def _effect(difference: float, sd: float) -> float:
    """The size of a difference in standard deviations, of which more than this is all the same."""
    return min(abs(difference) / sd if sd else math.inf, 1e4)


def _needed(
    found: Evidence, sd: float, sides: tuple[np.ndarray, ...], level: float, comparisons: int
) -> tuple[int | None, tuple[int, int | None] | None]:
    """`seeds_needed` for what was found, and at the ends of the interval of its effect."""
    if not found.difference:
        return None, None
    effect = _effect(found.difference, sd)
    error = math.sqrt(sum(1 / len(side) for side in sides) + effect**2 / (2 * sum(map(len, sides))))

    def seeds(effect: float) -> int | None:
        return _seeds_for(effect, found.name, 0.8, level, comparisons)

    z = NormalDist().inv_cdf(0.975)
    fewest = seeds(effect + z * error)
    most = seeds(effect - z * error) if effect > z * error else None
    return seeds(effect), None if fewest is None else (fewest, most)


def _seeds_for(
    effect: float, test: evidence.Name, power: float, level: float, comparisons: int
) -> int | None:
    """The number of seeds that shows a difference of `effect` standard deviations."""
    from scipy.stats import nct, t

    alpha, paired = (1 - level) / comparisons, test != "relabelling"

    def suffices(count: int) -> bool:
        freedom = count - 1 if paired else 2 * (count - 1)
        critical = t.isf(alpha / 2, freedom)
        shift = effect * math.sqrt(count if paired else count / 2)
        # The power is 1 to the last digit then, but scipy's function may give nan.
        if shift > 50 + 20 * critical:
            return True
        # A significant difference of the wrong sign is not seen, and rarer than 1 in 100,000.
        return bool(nct.sf(critical, freedom, shift) >= power)

    counts = range(2, MOST_SEEDS + 1)
    at = bisect.bisect_left(counts, True, key=suffices)
    fewest = fewest_seeds(test, level=level, comparisons=comparisons)
    if at == len(counts) or fewest is None:
        return None
    if test == "betting":
        return max(evidence.seeds_to_bet(effect, power, alpha), fewest)
    count = max(counts[at] + 1, fewest)
    # Few pairs have few p-values, and the next below alpha may be far from it. Ties and skew cost
    # more power, so that some is kept in reserve.
    while test == "sign flips" and count < _AS_A_T_TEST:
        kept = min(0.5 / count, (1 - power) / 2)
        if evidence.power_of_flips(effect, count, alpha) >= power + kept:
            break
        count += 1
    return count
