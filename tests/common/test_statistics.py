"""Intervals and paired tests against published values."""

import pytest

from actquant.common.statistics import mcnemar_exact, wilson95


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
