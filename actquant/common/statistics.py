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


def newcombe95(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference A − B of paired success rates: method 10 of
    Newcombe 1998 (Statistics in Medicine 17, 2635), Wilson intervals of both rates joined by their
    correlation.

    Raises ValueError if there is no pair.
    """
    n = both + only_a + only_b + neither
    of_a, of_b = both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = wilson95(of_a, n), wilson95(of_b, n)
    rate_a, rate_b = of_a / n, of_b / n
    margins = of_a * (n - of_a) * of_b * (n - of_b)
    agreement = both * neither - only_a * only_b
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)  # Newcombe's correction for continuity
    phi = agreement / sqrt(margins) if margins else 0.0

    def half(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = (only_a - only_b) / n
    return (
        max(-1.0, difference - half(rate_a - low_a, high_b - rate_b)),
        min(1.0, difference + half(high_a - rate_a, rate_b - low_b)),
    )
