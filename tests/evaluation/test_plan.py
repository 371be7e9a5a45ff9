"""Numbers of episodes against the power of the tests, counted out over all outcomes."""

import itertools
import json
from math import comb, factorial, sqrt
from statistics import NormalDist

import pytest
from typer.testing import CliRunner

from actquant.cli import app
from actquant.common.errors import EvaluationError
from actquant.common.statistics import mcnemar_exact
from actquant.evaluation.plan import (
    MOST_PAIRS,
    connor_pairs,
    critical_count,
    paired_episodes,
    paired_power,
    plan,
    smallest_difference,
    unpaired_episodes,
    unpaired_power,
)


def counted_power(n: int, difference: float, discordance: float, significance: float) -> float:
    """Sums the chances of all tables of n pairs that McNemar's exact test rejects."""
    only_a = (discordance + difference) / 2
    only_b = discordance - only_a
    power = 0.0
    for a, b in itertools.product(range(n + 1), repeat=2):
        if a + b <= n and mcnemar_exact(a, b) <= significance:
            ways = factorial(n) // (factorial(a) * factorial(b) * factorial(n - a - b))
            power += ways * only_a**a * only_b**b * (1 - discordance) ** (n - a - b)
    return power


@pytest.mark.parametrize(
    ("n", "difference", "discordance", "significance"),
    [(20, 0.3, 0.4, 0.05), (45, 0.2, 0.3, 0.05), (45, 0.2, 0.2, 0.01), (30, 0.5, 1.0, 0.05)],
)
def test_power_of_pairs_is_that_of_all_their_tables(n, difference, discordance, significance):
    expected = counted_power(n, difference, discordance, significance)
    found = paired_power(n, difference, discordance, significance)
    assert found == pytest.approx(expected, abs=1e-9)


def test_critical_counts_are_those_of_the_test_that_compare_makes():
    for discordant in range(60):
        most = critical_count(discordant, 0.05)
        rejected = [
            k for k in range(discordant // 2 + 1) if mcnemar_exact(k, discordant - k) <= 0.05
        ]
        assert most == max(rejected, default=-1)


@pytest.mark.parametrize("power", [0.8, 0.9])
@pytest.mark.parametrize(("difference", "discordance"), [(0.03, 0.05), (0.1, 0.2), (0.03, 0.2)])
def test_enough_pairs_are_just_enough_and_near_connor(difference, discordance, power):
    n = paired_episodes(difference, discordance, power=power)
    assert paired_power(n, difference, discordance) >= power
    assert paired_power(n - 1, difference, discordance) < power
    # The exact test is the stricter one, by a few pairs.
    approximate = connor_pairs(difference, discordance, power=power)
    assert approximate < n < 1.12 * approximate


def test_connor_in_numbers():
    # z(0.975) = 1.959964, z(0.8) = 0.841621, ψ = 0.2, d = 0.1.
    expected = (1.959964 * sqrt(0.2) + 0.841621 * sqrt(0.19)) ** 2 / 0.01
    assert connor_pairs(0.1, 0.2) == pytest.approx(expected, rel=1e-5)


def test_what_is_counted_out_goes_over_into_what_is_approximated():
    at = [paired_power(n, 0.01, 0.09) for n in (MOST_PAIRS, MOST_PAIRS + 1)]
    assert at[0] == pytest.approx(at[1], abs=2e-4)
    assert paired_episodes(0.001, 0.05) > MOST_PAIRS


def proportions_power(n: int, better: float, worse: float) -> float:
    """Sums the chances of all pairs of counts that the pooled test of two proportions rejects."""
    limit = NormalDist().inv_cdf(0.975)

    def chance(k: int, rate: float) -> float:
        return comb(n, k) * rate**k * (1 - rate) ** (n - k)

    power = 0.0
    for a, b in itertools.product(range(n + 1), repeat=2):
        pooled = (a + b) / (2 * n)
        spread = sqrt(2 * pooled * (1 - pooled) / n)
        if spread and abs(a - b) / n > limit * spread:
            power += chance(a, better) * chance(b, worse)
    return power


@pytest.mark.parametrize(("better", "worse"), [(0.9, 0.7), (0.6, 0.4)])
def test_unpaired_episodes_have_about_the_power_asked_for(better, worse):
    n = unpaired_episodes(better, worse)
    assert proportions_power(n, better, worse) == pytest.approx(0.8, abs=0.03)
    assert unpaired_power(n - 1, better, worse) < 0.8 <= unpaired_power(n, better, worse)


def test_the_smallest_difference_is_the_one_that_needs_so_many():
    least = smallest_difference(300, 0.06)
    assert least is not None
    assert paired_power(300, least, 0.06) == pytest.approx(0.8, abs=0.01)
    assert abs(paired_episodes(least, 0.06) - 300) < 10
    assert smallest_difference(5, 0.5) is None  # five pairs give no p below 0.06
    assert plan(0.1, at_hand=[5]).paired.at_hand[0].power == 0


def test_pairs_that_agree_more_need_fewer():
    together = plan(0.03, discordance=0.05)
    apart = plan(0.03)
    assert apart.discordance_is_assumed and apart.discordance == pytest.approx(0.204)
    assert together.paired.episodes < apart.paired.episodes / 3
    assert together.unpaired == apart.unpaired


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"success": 0.02}, "cannot fall by 3.0%"),
        ({"discordance": 0.01}, r"between 3.0% and 23.0%"),
        ({"discordance": 0.5}, r"between 3.0% and 23.0%"),
        ({"power": 1.0}, "the power must be between"),
        ({"significance": 0.9}, "the significance must be between"),
    ],
)
def test_what_cannot_be_is_refused(values, told):
    with pytest.raises(EvaluationError, match=told):
        plan(0.03, **values)


def test_the_command():
    def run(*words: str):
        return CliRunner().invoke(app, ["plan", *words])

    outcome = run("--detect", "3", "--agreement", "95", "--have", "300", "--json")
    found = json.loads(outcome.stdout)
    assert found["discordance"] == pytest.approx(0.05)
    assert found["paired"]["episodes"] == paired_episodes(0.03, 0.05)
    assert [each["n"] for each in found["paired"]["at_hand"]] == [300]
    assert json.loads(run("--detect", "3", "--paired", "--json").stdout)["unpaired"] is None
    told = run("--detect", "3").stdout
    assert "same starts: 1,836 episodes" in told and "other starts: 1,774 episodes" in told
    for wrong in (["--detect", "95"], ["--detect", "nan"], [], ["--detect", "3", "--have", "many"]):
        assert run(*wrong).exit_code == 2
    both = run("--detect", "3", "--agreement", "95", "--discordance", "5")
    assert both.exit_code == 2 and "not both" in both.output
