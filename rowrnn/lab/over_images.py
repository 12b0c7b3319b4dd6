"""What the answers to some test images say of other images, alone or in groups.

Answers are a bool array [S seeds, N images]: who answered what correctly. `groups` [N] holds an
integer for each image, such as its writer: images of one group are alike, and count for less.

The mean over seeds and images has the variance A + B − C: A of the seeds' accuracies, B of the
images' (or groups') mean answers, and C of what is left when both are taken off, which A and B
both contain (Owen's two-way layout, with Cameron, Gelbach and Miller's groups).

Sources: A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007), 386-411;
A. C. Cameron, J. B. Gelbach and D. L. Miller, "Robust inference with multiway clustering", Journal
of Business & Economic Statistics 29 (2011), 238-249.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rowrnn.errors import count
from rowrnn.lab import stats
from rowrnn.lab.stats import Interval

# The question that an interval answers is one of these.
ANOTHER_SEED = "another seed, these images"
BOTH = "another seed, other images"
THIS_NETWORK = "this network, other images"

# Intervals are shorter than they should be where there are fewer groups than this.
_FEW_GROUPS = 20


@dataclass(frozen=True)
class Grouped:
    """What groups of images, such as those of one writer, do to an accuracy or a difference.

    Attributes:
        interval_by_group: 95 % interval with the groups as the sample: images of other groups, and
            of several seeds another seed.
        standard_error_by_group: of the accuracy, likewise.
        design_effect: how often the variance by groups is that of as many images without them;
            None where all answers are alike.
        effective_images: as many images without groups would say as much.
        names: the integers of the groups, G of them.
        counts: how many images each has.
        accuracy: share of right answers in each, the mean over seeds; or the difference of two.
        spread: standard deviation over images of their mean answers.
    """

    interval_by_group: Interval
    standard_error_by_group: float
    design_effect: float | None
    effective_images: float | None
    names: list[int]
    counts: list[int]
    accuracy: list[float]
    spread: float

    def summary(self) -> dict[str, Any]:
        """The figures as JSON takes them."""
        columns = (self.names, self.counts, self.accuracy)
        return {
            "groups": len(self.names),
            "interval_by_group": list(self.interval_by_group),
            "standard_error_by_group": self.standard_error_by_group,
            "design_effect": self.design_effect,
            "effective_images": self.effective_images,
            "by_group": [
                {"group": name, "images": images, "accuracy": accuracy}
                for name, images, accuracy in zip(*columns, strict=True)
            ],
        }

    def in_words(self, who: str, what: str = "Accuracy", sign: str = "") -> list[str]:
        """The figures, a sentence each; `who` is "this network" or "another seed"."""
        form = f"{{:{sign}.4f}}".format
        low, high = map(form, self.interval_by_group)
        words = [
            f"By {len(self.names):,} groups of images: 95 % interval {low} to {high}, "
            f"standard error {self.standard_error_by_group:.4f} ({who}, images of other groups)"
        ]
        if self.effective_images is not None:
            words.append(
                f"Design effect {self.design_effect:.2f}: {sum(self.counts):,} images say as much "
                f"as {self.effective_images:,.0f} without groups"
            )
        first, median, third = map(form, np.percentile(self.accuracy, [25, 50, 75]))
        at = int(np.argmin(self.accuracy))
        words.append(
            f"{what} in a group: quartiles {first}, {median} and {third}; the lowest "
            f"{form(self.accuracy[at])} (group {self.names[at]}, {count(self.counts[at], 'image')})"
        )
        if len(self.names) < _FEW_GROUPS:
            words.append(f"Of fewer than {_FEW_GROUPS} groups the interval is too short")
        return words


def interval_over_images(
    correct: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """An interval for the accuracy of another seed on other images, of other groups if given.

    With the half-widths a over seeds (`stats.interval_of_mean`) and b over images it reaches to
    √(a² + b²) on either side, which holds its level for any number of seeds whose accuracies are
    normal (Banerjee). b is Wilson's, with as many images as give the variance B − C, and Student's
    t. A single seed has no spread: its interval is for this network on other images. With groups
    it holds from about `_FEW_GROUPS` of them on.

    Sources: S. K. Banerjee, "On confidence interval for two-means problem based on separate
    estimates of variances and tabulated values of t-table", Sankhyā A 23 (1961), 359-378; for
    ends that differ, G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008), 1693-1702; for
    Wilson's with effective numbers, N. Dean and M. Pagano, Journal of Survey Statistics and
    Methodology 3 (2015), 484-503.

    Raises `ValueError` unless `correct` is a bool array [S, N] of at least 2 images, and `groups`
    are N integers of at least 2 kinds.

    >>> answers = np.arange(1000) % 20 > 0  # one network, and 950 of 1,000 are right
    >>> low, high = interval_over_images([answers])
    >>> round(low, 4), round(high, 4)
    (0.9347, 0.9619)
    """
    answers, index, sizes = _checked(correct, groups)
    if len(answers) == 1 and groups is None:
        return stats.wilson_interval(int(answers.sum()), answers.size, level)
    images = _of_images(answers, index, sizes, level)
    if len(answers) == 1:
        return images
    seeds = stats.interval_of_mean(answers.mean(axis=1), level, resolution=1 / len(index))
    low, high = _joined(float(answers.mean()), seeds, images)
    return max(low, 0.0), min(high, 1.0)


def grouped(correct: ArrayLike, groups: ArrayLike) -> Grouped:
    """What groups of images do to the accuracy behind `correct`; as `interval_over_images`.

    Source of the design effect: L. Kish, "Survey sampling", 1965, chapter 5.
    """
    answers, index, sizes = _checked(correct, groups)
    return _grouped([answers], interval_over_images(correct, groups), groups, index, sizes)


def interval_of_difference(
    a: ArrayLike,
    b: ArrayLike,
    over_seeds: Interval,
    *,
    paired: bool,
    groups: ArrayLike | None = None,
) -> Interval:
    """The 95 % interval of the accuracy of `b` less that of `a`, both asked the same images.

    As `interval_over_images`; `over_seeds` is the interval that the seeds give.
    """
    tables, index, sizes = _differences(a, b, paired, groups)
    difference = sum(float(table.mean()) for table in tables)
    variance, freedom = _variance(tables, index, sizes)
    half = _quantile(freedom, 0.95) * math.sqrt(variance)
    low, high = _joined(difference, over_seeds, (difference - half, difference + half))
    return max(low, -1.0), min(high, 1.0)


def grouped_difference(
    a: ArrayLike, b: ArrayLike, over_seeds: Interval, *, paired: bool, groups: ArrayLike
) -> Grouped:
    """What groups of images do to a difference of accuracies; as `interval_of_difference`."""
    tables, index, sizes = _differences(a, b, paired, groups)
    interval = interval_of_difference(a, b, over_seeds, paired=paired, groups=groups)
    return _grouped(tables, interval, groups, index, sizes)


def _differences(
    a: ArrayLike, b: ArrayLike, paired: bool, groups: ArrayLike | None
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Tables [S, N] whose means add up to the difference, the places and sizes of the groups."""
    (side_a, index, sizes), (side_b, _, _) = _checked(a, groups), _checked(b, groups)
    less = -side_a.astype(np.int8)
    return [side_b + less] if paired else [side_b.astype(np.int8), less], index, sizes


def _grouped(
    tables: Sequence[np.ndarray],
    interval: Interval,
    groups: ArrayLike,
    index: np.ndarray,
    sizes: np.ndarray,
) -> Grouped:
    """The figures of the sum of the means of tables [S, N]."""
    of_images = np.sum([table.mean(axis=0) for table in tables], axis=0)
    alone, _ = _variance(tables, np.arange(len(index)), np.ones(len(index)))
    variance, _ = _variance(tables, index, sizes)
    effect = variance / alone if alone > 0 else None
    of_seeds = sum(
        table.mean(axis=1).var(ddof=1) / len(table) for table in tables if len(table) > 1
    )
    return Grouped(
        interval_by_group=interval,
        standard_error_by_group=math.sqrt(variance + of_seeds),
        design_effect=effect,
        effective_images=len(index) / effect if effect else None,
        names=np.unique(groups).tolist(),
        counts=sizes.tolist(),
        accuracy=(np.bincount(index, of_images) / sizes).tolist(),
        spread=float(of_images.std()),
    )


def _checked(
    correct: ArrayLike, groups: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers [S, N], the place of each image's group [N], and the sizes of the groups [G]."""
    answers = np.asarray(correct)
    if answers.dtype != bool or answers.ndim != 2 or answers.shape[1] < 2 or not len(answers):
        raise ValueError(
            f"correct is a {answers.dtype} array of shape {answers.shape}: must be a bool array "
            "[seeds, images] with at least 2 images"
        )
    count = answers.shape[1]
    found = np.arange(count) if groups is None else np.asarray(groups)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(
            f"groups is a {found.dtype} array of shape {found.shape}: must be an integer for each "
            f"of {count:,} images"
        )
    _, index, sizes = np.unique(found, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("groups are all the same: must be of at least 2 kinds to show a spread")
    return answers, index, sizes


def _variance(
    tables: Sequence[np.ndarray], index: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """The part of images, B − C, in the variance of the sum of the means of tables [S, N].

    Beside it as many degrees of freedom as the kurtosis leaves: few hard images, or a few large
    groups, make all of the variance, and leave it uncertain.
    """
    groups, count = len(sizes), len(index)
    sums, left = np.zeros(groups), 0.0
    for table in tables:
        of_group = np.bincount(index, table.mean(axis=0), groups)
        mean = of_group.sum() / count
        sums += of_group - sizes * mean
        if len(table) > 1:
            for row in table:
                rest = np.bincount(index, row, groups) - of_group - sizes * (row.mean() - mean)
                left += rest @ rest / (len(table) * (len(table) - 1))
    squares = sums**2
    if not (total := float(squares.sum())):
        return 0.0, math.inf
    excess = float(squares @ squares) / total**2 - 1 / groups
    freedom = min(2 / excess if excess > 0 else math.inf, groups - 1)
    return max(total - left, 0.0) / count**2 * groups / (groups - 1), freedom


def _of_images(answers: np.ndarray, index: np.ndarray, sizes: np.ndarray, level: float) -> Interval:
    """Wilson's interval, with as many images as give the variance that the images have."""
    mean, (variance, freedom) = float(answers.mean()), _variance([answers], index, sizes)
    if 0 < mean < 1 and variance == 0:
        return mean, mean
    # Answers that are all alike do not tell how alike those of a group are: a group counts as one.
    number = mean * (1 - mean) / variance if 0 < mean < 1 else len(sizes)
    low, high = stats.wilson(mean, _quantile(freedom, level) ** 2 / number)
    return max(low, 0.0), min(high, 1.0)


def _quantile(freedom: float, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def _joined(mean: float, one: Interval, other: Interval) -> Interval:
    """The interval of a sum of two independent errors, from that of each."""
    return (
        mean - math.hypot(mean - one[0], mean - other[0]),
        mean + math.hypot(one[1] - mean, other[1] - mean),
    )
