"""Intervals and paired tests for success rates."""

from math import comb, sqrt
from statistics import NormalDist


def wilson95(successes: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a success rate (Wilson 1927).

    Raises ValueError if n is not positive or successes is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are no success rate")
    z = NormalDist().inv_cdf(0.975)
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (
        0.0 if successes == 0 else max(0.0, middle - half),
        1.0 if successes == n else min(1.0, middle + half),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Returns the two-sided exact McNemar p-value from the discordant pairs (McNemar 1947).

    only_a: pairs in which A alone succeeded; only_b: pairs in which B alone succeeded.
    """
    discordant = only_a + only_b
    tail = sum(comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)
