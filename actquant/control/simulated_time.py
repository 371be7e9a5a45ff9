"""Inference that takes control steps of a simulated world, whatever it takes this machine."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class SteppedInference(Executor):
    """Runs the policy at once, and gives what it answers as many control steps later as it thinks.

    For a ChunkScheduler. In its modes `async` and `rtc` a chunk is given by the `advance` after
    which its steps are over. In `sync` the scheduler waits for it: it is given at once, and
    `take_pause` says for how many steps the world has to go on before it is executed.
    """

    def __init__(self, delay: Callable[[], int], *, mode: str) -> None:
        """`delay` is called after each answer; it gives control steps."""
        self._delay, self.is_sync = delay, mode == "sync"
        self._now = self._pause = 0
        self._waiting: list[tuple[int, Future[Any], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls `fn` in the caller's thread; what it raises is given at once."""
        future: Future[Any] = Future()
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            future.set_exception(error)
            return future
        delay = self._delay()
        if self.is_sync:
            self._pause, delay = delay, 0
        self._waiting.append((self._now + delay, future, result))
        self._deliver()
        return future

    def advance(self) -> None:
        """Moves on by one control step."""
        self._now += 1
        self._deliver()

    def take_pause(self) -> int:
        """Returns for how many steps the world still has to wait for the last chunk; then none."""
        pause, self._pause = self._pause, 0
        return pause

    def _deliver(self) -> None:
        due = [entry for entry in self._waiting if entry[0] <= self._now]
        self._waiting = [entry for entry in self._waiting if entry[0] > self._now]
        for _, future, result in due:
            future.set_result(result)
