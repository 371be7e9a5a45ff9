"""A bar of a rich Progress, or nothing where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from actquant.common.interrupts import look_again


@contextmanager
def bar(
    progress: Progress | None, name: str, total: float | None, completed: int = 0
) -> Iterator[Callable[[int], None]]:
    """Shows a bar for the length of the block; what it gives advances it. Without a total it
    pulses. Beginning and advancing are steps of work: a signal that came before ends them."""
    look_again()
    if progress is None:
        yield lambda count: look_again()
        return
    task = progress.add_task(name, total=total, completed=completed)

    def advance(count: int) -> None:
        look_again()
        progress.advance(task, count)

    try:
        yield advance
    finally:
        progress.remove_task(task)
