"""Intervals and paired tests against published values."""

import itertools
from math import factorial

import pytest

from actquant.common.statistics import mcnemar_exact, newcombe95, wilson95


def test_wilson_matches_the_closed_form() -> None:
    # p = 0.9, n = 50, z = 1.959964: centre (p + z²/2n) / (1 + z²/n), half-width likewise.
    low, high = wilson95(45, 50)
    z2 = 1.959963984540054**2
    centre = (0.9 + z2 / 100) / (1 + z2 / 50)
    half = (z2 * (0.9 * 0.1 / 50 + z2 / (4 * 50**2))) ** 0.5 / (1 + z2 / 50)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_wilson_stays_inside_zero_and_one() -> None:
    assert wilson95(0, 20)[0] == 0.0
    assert wilson95(20, 20)[1] == 1.0
    assert wilson95(20, 20)[0] < 0.9


def test_mcnemar_is_the_binomial_test_of_discordant_pairs() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar_exact(3, 7) == mcnemar_exact(7, 3)
    assert mcnemar_exact(10, 10) == 1.0


def test_newcombe_matches_his_paper() -> None:
    # Newcombe 1998, method 10, for 36 pairs of both, 12 and 2 of one alone, none of neither.
    assert newcombe95(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_newcombe_mirrors_and_stays_inside() -> None:
    low, high = newcombe95(10, 7, 3, 5)
    assert newcombe95(10, 3, 7, 5) == pytest.approx((-high, -low))
    assert newcombe95(5, 7, 3, 10) == pytest.approx((low, high))  # failures for successes
    assert newcombe95(0, 8, 0, 0)[1] == 1.0
    low, high = newcombe95(40, 0, 0, 0)  # none differs, and yet they might
    assert -0.1 < low < 0 < high < 0.1


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(0.1, 0.05, 0.8), (0.3, 0.1, 0.4)])
def test_newcombe_holds_the_true_difference_as_often_as_it_says(only_a, only_b, both) -> None:
    n, held = 25, 0.0
    for a, b, c in itertools.product(range(n + 1), repeat=3):
        if a + b + c > n:
            continue
        low, high = newcombe95(c, a, b, n - a - b - c)
        if low <= only_a - only_b <= high:
            rest = n - a - b - c
            ways = factorial(n) // (factorial(a) * factorial(b) * factorial(c) * factorial(rest))
            chance = only_a**a * only_b**b * both**c * (1 - only_a - only_b - both) ** rest
            held += ways * chance
    assert 0.94 < held < 0.985
