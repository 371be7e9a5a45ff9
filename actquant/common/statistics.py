"""Intervals and paired tests for success rates."""

from scipy.stats import binomtest


def wilson95(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate (Wilson 1927).

    Raises ValueError if n is not positive or successes is outside 0..n.
    """
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value from the discordant pairs (McNemar 1947).

    only_a: pairs in which A alone succeeded; only_b: pairs in which B alone succeeded.
    """
    discordant = only_a + only_b
    return 1.0 if discordant == 0 else float(binomtest(only_a, discordant, 0.5).pvalue)
