import pytest

from actquant.common.clock import Clock, iso_date
from actquant.common.errors import ActquantError


def test_the_date_follows_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert iso_date() == "1970-01-02T00:00:00+00:00"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert iso_date() > "2026"


@pytest.mark.parametrize("text", ["", "tomorrow", "1e3", "99999999999999999999"])
def test_a_date_that_is_no_number_of_seconds_is_refused(text, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(ActquantError, match="SOURCE_DATE_EPOCH"):
        iso_date()


def test_a_stage_that_comes_twice_is_timed_together():
    clock = Clock(None)
    for _ in range(2):
        with clock("write"):
            sum(range(10_000))
    assert list(clock.timings_s) == ["write"] and clock.timings_s["write"] >= 0
