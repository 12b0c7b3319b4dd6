import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from rowrnn.stats import wilson_interval


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (3, 7), (989, 1000), (0, 50)])
def test_wilson_interval_is_the_closed_formula(correct, count, level):
    z = norm.ppf((1 + level) / 2)
    share = correct / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    expected = [middle - half, middle + half]
    np.testing.assert_allclose(wilson_interval(correct, count, level), expected, atol=1e-12)


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
