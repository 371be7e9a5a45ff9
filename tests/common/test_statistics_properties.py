"""Properties of intervals and paired tests that hold for all counts."""

from hypothesis import given
from hypothesis import strategies as st

from actquant.common.statistics import mcnemar_exact, wilson95
from actquant.common.tables import printable
from actquant.evaluation.compare import paired_difference


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 10_000))
    return draw(st.integers(0, n)), n


@given(counts())
def test_an_interval_holds_its_rate_and_mirrors(pair: tuple[int, int]) -> None:
    successes, n = pair
    low, high = wilson95(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson95(n - successes, n)
    assert abs(low - (1 - mirrored[1])) < 1e-12 and abs(high - (1 - mirrored[0])) < 1e-12


@given(counts(), st.integers(2, 10))
def test_more_of_the_same_is_surer(pair: tuple[int, int], times: int) -> None:
    successes, n = pair
    low, high = wilson95(successes, n)
    narrower = wilson95(times * successes, times * n)
    assert narrower[1] - narrower[0] < high - low


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_p_value_is_one_and_the_same_from_both_sides(a: int, b: int) -> None:
    p = mcnemar_exact(a, b)
    assert 0 < p <= 1 and p == mcnemar_exact(b, a)
    assert mcnemar_exact(a, a) == 1
    assert mcnemar_exact(a, a + b + 1) <= mcnemar_exact(a, a + b)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_a_paired_difference_is_that_of_the_rates(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (list(side) for side in zip(*pairs, strict=True))
    found = paired_difference(a, b)
    assert found.both + found.only_a + found.only_b + found.neither == found.n == len(pairs)
    assert abs(found.difference - (sum(a) - sum(b)) / len(pairs)) < 1e-12
    low, high = found.difference95
    assert -1 <= low <= found.difference <= high <= 1


@given(st.text())
def test_what_is_shown_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert shown.isascii() or shown.encode("utf-8")
    assert not any(ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160 for c in shown)
