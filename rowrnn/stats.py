"""Statistics on the host: what a count or a set of seeds says, and how surely."""


def wilson_interval(correct: int, count: int, level: float = 0.95) -> tuple[float, float]:
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
    from scipy.stats import binomtest

    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must lie between 0 and 1, such as 0.95")
    interval = binomtest(correct, count).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)
