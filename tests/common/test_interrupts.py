"""A signal is not lost, also where what it raises is swallowed."""

import signal
import weakref

import pytest
from rich.progress import Progress

from actquant.common.interrupts import look_again, unwinding
from actquant.common.progress import bar


class Thing:
    pass


def swallowed(number: int) -> None:
    """Gets a signal inside a weak reference's callback, which swallows what is raised there."""
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    assert reference() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_next_step_of_work_looks_again(number: int):
    steps = []
    with (
        pytest.raises(KeyboardInterrupt),
        unwinding() as received,
        Progress(disable=True) as progress,
        bar(progress, "work", 9) as advance,
    ):
        for step in range(9):
            if step == 3:
                swallowed(number)
            steps.append(step)
            advance(1)
    assert steps == [0, 1, 2, 3] and received == [number]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_came_to_an_inner_block_is_not_the_outer_ones():
    with unwinding() as outer:
        with unwinding() as inner:
            swallowed(signal.SIGTERM)
        look_again()
        assert inner and not outer
    look_again()
