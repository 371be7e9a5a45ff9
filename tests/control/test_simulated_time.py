"""Inference that takes control steps."""

import pytest

from actquant.control.simulated_time import SteppedInference


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_an_answer_is_there_after_so_many_steps(delay):
    executor = SteppedInference(lambda: delay, mode="async")
    future = executor.submit(lambda x: 2 * x, 21)
    for _ in range(delay):
        assert not future.done()
        executor.advance()
    assert future.result(timeout=0) == 42 and executor.take_pause() == 0


def test_in_sync_it_is_there_at_once_and_the_world_owes_the_steps():
    executor = SteppedInference(lambda: 3, mode="sync")
    assert executor.submit(lambda: 42).result(timeout=0) == 42
    assert (executor.take_pause(), executor.take_pause()) == (3, 0)


def test_what_is_raised_is_given_at_once():
    def fail():
        raise KeyError("no such thing")

    executor = SteppedInference(lambda: pytest.fail("nothing was answered"), mode="rtc")
    with pytest.raises(KeyError, match="no such thing"):
        executor.submit(fail).result(timeout=0)
