"""How many episodes show a difference of success rates, and what a number of episodes can show.

Power is that of the tests that `actquant compare` makes: McNemar's exact test for episodes from the
same starts. For other starts it is that of the test of two proportions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError

SIGNIFICANCE, POWER = 0.05, 0.8
"""p below which a difference counts as shown, and the chance that one there is is shown."""
MOST_PAIRS = 30_000
"""Pairs up to which power is counted out; for more, the approximation is as good."""
_NORMAL = NormalDist()
_NEGLIGIBLE = 1e-12


class AtHand(BaseModel):
    """What n episodes of each model can show.

    power: the chance that they show the difference that was asked for; smallest_difference: the
    least one that they show with the power that was asked for, None if none is large enough.
    """

    model_config = ConfigDict(extra="forbid")

    n: int
    power: float
    smallest_difference: float | None


class Design(BaseModel):
    """One way to compare two models. episodes: of each of them, for the difference asked for."""

    model_config = ConfigDict(extra="forbid")

    episodes: int
    at_hand: list[AtHand]


class Plan(BaseModel):
    """Rates and differences as fractions.

    discordance: of the starts, on which one model alone succeeds; discordance_is_assumed: whether
    it is only what two models without anything in common would have.
    """

    model_config = ConfigDict(extra="forbid")

    difference: float
    success: float
    power: float
    significance: float
    discordance: float
    discordance_is_assumed: bool
    paired: Design
    unpaired: Design | None


def plan(
    difference: float,
    *,
    success: float = 0.9,
    power: float = POWER,
    significance: float = SIGNIFICANCE,
    discordance: float | None = None,
    at_hand: Sequence[int] = (),
    paired_alone: bool = False,
) -> Plan:
    """Plans a comparison of a model with one that succeeds less often by `difference`.

    success: the better model's rate; discordance: the share of starts on which one alone succeeds,
    by default that of models that succeed independently of each other; at_hand: numbers of
    episodes to judge.
    Raises EvaluationError for rates that cannot be.
    """
    _demand("the difference", difference, 0, 1)
    _demand("the success rate", success, 0, 1, ends=True)
    _demand("the power", power, 0.05, 1)
    _demand("the significance", significance, 0, 0.5)
    worse = success - difference
    if worse < 0:
        raise EvaluationError(
            f"a success of {success:.1%} cannot fall by {difference:.1%}; ask for less"
        )
    assumed = discordance is None
    if discordance is None:
        discordance = success * (1 - worse) + worse * (1 - success)
    most = min(success + worse, 2 - success - worse)
    if not difference - 1e-9 <= discordance <= most + 1e-9:
        raise EvaluationError(
            f"a discordance of {discordance:.1%} cannot be: rates of {success:.1%} and "
            f"{worse:.1%} have one between {difference:.1%} and {most:.1%}"
        )
    discordance = max(discordance, difference)

    def show_paired(n: int, d: float) -> float:
        return paired_power(n, d, max(d, discordance), significance)

    def show_unpaired(n: int, d: float) -> float:
        return unpaired_power(n, success, success - d, significance)

    def judge(show: Callable[[int, float], float], n: int) -> AtHand:
        # A larger difference than the better model's success, or the pairs' discordance, is none.
        return AtHand(
            n=n,
            power=show(n, difference),
            smallest_difference=_least(lambda d: show(n, d), power, success),
        )

    unpaired = None
    if not paired_alone:
        unpaired = Design(
            episodes=unpaired_episodes(success, worse, power=power, significance=significance),
            at_hand=[judge(show_unpaired, n) for n in at_hand],
        )
    paired = Design(
        episodes=paired_episodes(difference, discordance, power=power, significance=significance),
        at_hand=[judge(show_paired, n) for n in at_hand],
    )
    return Plan(
        difference=difference,
        success=success,
        power=power,
        significance=significance,
        discordance=discordance,
        discordance_is_assumed=assumed,
        paired=paired,
        unpaired=unpaired,
    )


def _demand(what: str, value: float, low: float, high: float, *, ends: bool = False) -> None:
    if not (low <= value <= high if ends else low < value < high):
        raise EvaluationError(f"{what} must be between {low:.0%} and {high:.0%}, not {value:.4%}")


def connor_pairs(
    difference: float,
    discordance: float,
    *,
    power: float = POWER,
    significance: float = SIGNIFICANCE,
) -> float:
    """Returns how many pairs McNemar's test needs by the approximation of Connor 1987 (Biometrics
    43, 207): (z(1 − α/2) √ψ + z(power) √(ψ − d²))² / d², with the discordance ψ and the difference
    d of the rates."""
    two_sided, one_sided = _NORMAL.inv_cdf(1 - significance / 2), _NORMAL.inv_cdf(power)
    spread = sqrt(max(0.0, discordance - difference**2))
    return ((two_sided * sqrt(discordance) + one_sided * spread) / difference) ** 2


def paired_episodes(
    difference: float,
    discordance: float,
    *,
    power: float = POWER,
    significance: float = SIGNIFICANCE,
) -> int:
    """Returns the least number of pairs of which McNemar's exact test shows the difference with
    this power; beyond MOST_PAIRS by `connor_pairs`."""
    first = ceil(connor_pairs(difference, discordance, power=power, significance=significance))
    if first > MOST_PAIRS:
        return first

    def enough(n: int) -> bool:
        return paired_power(n, difference, discordance, significance) >= power

    # The exact test needs a few pairs more than its approximation.
    low, high = max(0, first // 2), first
    while not enough(high):
        low, high = high, high + max(1, high // 10)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def paired_power(
    n: int, difference: float, discordance: float, significance: float = SIGNIFICANCE
) -> float:
    """Returns the chance that McNemar's exact test of n pairs gives p ≤ significance for the
    difference, summed over all numbers of discordant pairs; beyond MOST_PAIRS by Connor 1987."""
    if n > MOST_PAIRS:
        spread = sqrt(max(discordance - difference**2, 1e-300))
        two_sided = _NORMAL.inv_cdf(1 - significance / 2)
        return _NORMAL.cdf((difference * sqrt(n) - two_sided * sqrt(discordance)) / spread)
    share = (1 + difference / discordance) / 2  # of the discordant pairs, won by the better model
    weights = binomial(n, min(1.0, discordance))
    power = 0.0
    for count in np.flatnonzero(weights > _NEGLIGIBLE):
        fewest = critical_count(int(count), significance)
        if fewest >= 0:
            chances = binomial(int(count), min(1.0, share))
            shown = chances[: fewest + 1].sum() + chances[count - fewest :].sum()
            power += float(weights[count] * shown)
    return min(1.0, power)


@lru_cache(maxsize=1 << 16)
def critical_count(discordant: int, significance: float) -> int:
    """Returns the most of so many discordant pairs that one model may win where McNemar's exact
    test gives p ≤ significance; −1 where it never does."""
    tails = 2 * np.cumsum(binomial(discordant, 0.5)[: (discordant + 1) // 2])
    return int(np.searchsorted(tails, significance * (1 + 1e-12), side="right")) - 1


def binomial(n: int, chance: float) -> NDArray[np.float64]:
    """Returns the probabilities [n + 1] of 0 … n successes."""
    if chance in (0.0, 1.0):
        return np.eye(1, n + 1, n if chance else 0)[0]
    k = np.arange(n + 1)
    logarithms = _log_factorials(1 << max(n, 1).bit_length())
    ways = logarithms[n] - logarithms[k] - logarithms[n - k]
    return np.exp(ways + k * np.log(chance) + (n - k) * np.log1p(-chance))


@lru_cache(maxsize=4)
def _log_factorials(most: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def unpaired_episodes(
    better: float, worse: float, *, power: float = POWER, significance: float = SIGNIFICANCE
) -> int:
    """Returns how many episodes of each model the test of two proportions needs, by the normal
    approximation: Fleiss, Levin & Paik, Statistical Methods for Rates and Proportions, 2003,
    equation 4.14."""
    two_sided, one_sided = _NORMAL.inv_cdf(1 - significance / 2), _NORMAL.inv_cdf(power)
    same, apart = _spreads(better, worse)
    return ceil(((two_sided * same + one_sided * apart) / (better - worse)) ** 2)


def unpaired_power(
    n: int, better: float, worse: float, significance: float = SIGNIFICANCE
) -> float:
    """Returns the chance that n episodes of each model show the difference; see
    `unpaired_episodes`."""
    same, apart = _spreads(better, worse)
    two_sided = _NORMAL.inv_cdf(1 - significance / 2)
    return _NORMAL.cdf(((better - worse) * sqrt(n) - two_sided * same) / max(apart, 1e-150))


def _spreads(better: float, worse: float) -> tuple[float, float]:
    middle = (better + worse) / 2
    return (
        sqrt(2 * middle * (1 - middle)),
        sqrt(better * (1 - better) + worse * (1 - worse)),
    )


def smallest_difference(
    n: int, discordance: float, *, power: float = POWER, significance: float = SIGNIFICANCE
) -> float | None:
    """Returns the least difference that n pairs of this discordance show with this power, None if
    they show none at all. (Where they show none within the discordance, it grows with the
    difference.)"""
    return _least(lambda d: paired_power(n, d, max(d, discordance), significance), power, 1.0)


def _least(power_of: Callable[[float], float], power: float, most: float) -> float | None:
    """Returns the least difference up to `most` with this power, to a hundredth of a point."""
    if most <= 0 or power_of(most) < power:
        return None
    low, high = 0.0, most
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
