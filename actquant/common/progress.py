"""A bar of a rich Progress, or nothing where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def bar(
    progress: Progress | None, name: str, total: float | None, completed: int = 0
) -> Iterator[Callable[[int], None]]:
    """Shows a bar for the length of the block; what it gives advances it. Without a total it
    pulses."""
    if progress is None:
        yield lambda count: None
        return
    task = progress.add_task(name, total=total, completed=completed)
    try:
        yield lambda count: progress.advance(task, count)
    finally:
        progress.remove_task(task)
