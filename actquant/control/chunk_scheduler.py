"""Which action a control tick executes, and when the policy is asked for its next chunk of them."""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from actquant_runtime import PreviousChunk
from actquant_runtime.previous import SCHEDULES
from numpy.typing import NDArray

from actquant.common.errors import SchedulingError

MODES = ("sync", "async", "rtc")
RECENT_CHUNKS = 10
"""Over how many chunks the delay to be expected is remembered."""

Actions = NDArray[np.float32]
Act = Callable[[Any, PreviousChunk | None], Actions]
"""(observation, what is left of the chunk before) -> actions [H, A] in the robot's units."""


@dataclass(frozen=True, eq=False)
class Tick:
    """What to execute in one control tick."""

    action: Actions
    """[A]"""
    upcoming: Actions
    """[m, A]: what follows if no other chunk comes before."""
    chunk: int
    """Which chunk of the episode, from 0."""
    index: int
    """Which action of the chunk, from 0."""
    observation_time_s: float
    """When the observation was made that the chunk answers."""
    age_s: float
    """How long ago that is."""
    delay: int
    """How many actions were executed while the chunk was made; these it skipped of its own."""
    seam: bool
    """Whether the action before was of another chunk."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    actions: Actions
    number: int
    observation_time_s: float
    delay: int


@dataclass(eq=False)
class _Inference:
    """A chunk in the making, and what has happened since it was begun."""

    future: Future[Actions]
    observation_time_s: float
    executed: int = 0
    ticks: int = 0


class _Inline(Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ChunkScheduler:
    """Turns a policy that answers an observation with a chunk of actions into one action a tick.

    After `steps_per_chunk` actions of a chunk have passed, the next one is asked for:

    - `sync`: in the tick itself, which so takes as long as the policy.
    - `async`: in one background thread, while the chunk goes on. When the next chunk comes, as many
      of its actions are skipped as were executed since its observation: counted, not estimated.
    - `rtc`: the same, and the next chunk is guided to begin as the old one goes on.

    In `async` and `rtc` the next chunk is asked for earlier if it would come after the last action,
    judged by the longest of the last RECENT_CHUNKS delays. If it comes late all the same, there is
    nothing to execute: the robot holds, and `underruns` counts the ticks.

    Every action that a tick gives counts as executed unless `refused` or `not_executed` says that
    it was not.

    All methods are for one thread. Neither images nor state of an observation may be changed after
    it was given.
    """

    def __init__(
        self,
        act: Act,
        *,
        mode: str,
        steps_per_chunk: int,
        execution_horizon: int = 10,
        max_guidance: float = 10.0,
        schedule: str = "linear",
        supports_guidance: bool = True,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`execution_horizon`, `max_guidance` and `schedule` are of the guidance (PreviousChunk).
        `supports_guidance` is what `Runtime.describe()` says of the policy. `executor`, where to
        run `act` instead of in a thread of the scheduler's own, stays open.

        Raises SchedulingError naming every setting that is wrong, such as `rtc` with a policy that
        is no flow.
        """
        wrong = []
        if mode not in MODES:
            wrong.append(f"mode '{mode}'; choose one of {', '.join(MODES)}")
        if mode == "rtc" and not supports_guidance:
            wrong.append(
                "mode 'rtc' with a policy whose chunk does not come from a flow; choose sync, async"
            )
        if steps_per_chunk < 1:
            wrong.append(f"steps_per_chunk {steps_per_chunk}; at least 1")
        if execution_horizon < 1:
            wrong.append(f"execution_horizon {execution_horizon}; at least 1")
        if not 0 < max_guidance < math.inf:
            wrong.append(f"max_guidance {max_guidance}; a number above 0")
        if schedule not in SCHEDULES:
            wrong.append(f"schedule '{schedule}'; choose one of {', '.join(SCHEDULES)}")
        if wrong:
            raise SchedulingError("\n".join(wrong))
        self.mode = mode
        self.steps_per_chunk = steps_per_chunk
        self.underruns = 0
        """Ticks of this episode without an action, after its first one."""
        self._act = act
        self._guidance = (execution_horizon, max_guidance, schedule)
        self._clock = clock
        self._owns_executor = executor is None
        if executor is None:
            is_sync = mode == "sync"
            executor = _Inline() if is_sync else ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._executor = executor
        self._recent_ticks: deque[int] = deque(maxlen=RECENT_CHUNKS)
        self._inference: _Inference | None = None
        self.reset()

    @property
    def expected_delay(self) -> int:
        """In ticks: the longest that one of the last chunks took, 0 before the first."""
        return max(self._recent_ticks, default=0)

    def reset(self) -> None:
        """Begins an episode: no action of the one before is given any more.

        A chunk that is being made for it is dropped when it is ready, and so is its error.
        """
        self._drop_inference()
        self._chunk: _Chunk | None = None
        self._index = 0
        self._before: tuple[int, int | None] | None = None
        self._was_refused = False
        self._chunk_count = 0
        self._last_chunk: int | None = None
        self.underruns = 0

    def close(self) -> None:
        """Waits for a chunk that is being made, and drops it."""
        self._drop_inference()
        if self._owns_executor:
            self._executor.shutdown(wait=True)

    def __enter__(self) -> "ChunkScheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tick(self, observation: Any, observation_time_s: float | None = None) -> Tick | None:
        """Returns the action of this control tick, or None where the robot has to hold.

        Called once per control tick with the newest observation, which `act` gets as it is;
        `observation_time_s`, by `clock`, is when it was made (now, if left out).

        Raises what `act` raised since the last tick, and SchedulingError if it gave no chunk of at
        least `steps_per_chunk` actions. The next tick then begins anew.
        """
        self._before = None
        self._adopt()
        if self._inference is None and self.is_chunk_due:
            self._begin(
                observation, self._clock() if observation_time_s is None else observation_time_s
            )
            self._adopt()
        if self._inference is not None:
            self._inference.ticks += 1
        if self._chunk is None or self._index >= len(self._chunk.actions):
            self.underruns += self._last_chunk is not None
            return None
        return self._execute(self._chunk)

    def not_executed(self) -> None:
        """Takes back the last tick's action, which was only looked at.

        Raises SchedulingError if that tick gave none, or was said so already.
        """
        self._take_back()

    def refused(self) -> None:
        """Takes back the last tick's action, which was refused: the robot holds.

        The robot is not where the rest of the chunk begins. The next tick asks for another one, not
        guided to follow it; until it comes, the refused action is given again.

        Raises SchedulingError as `not_executed`.
        """
        self._index, self._last_chunk = self._take_back()
        self._was_refused = True

    def _take_back(self) -> tuple[int, int | None]:
        """Index and last chunk as they were before the last action."""
        if self._before is None:
            raise SchedulingError("the last tick gave no action that could be taken back")
        before, self._before = self._before, None
        if self._inference is not None:
            self._inference.executed -= 1
        return before

    def _drop_inference(self) -> None:
        if self._inference is not None:
            self._inference.future.cancel()
        self._inference = None

    @property
    def is_chunk_due(self) -> bool:
        """Whether the next tick asks for a chunk, if none is being made."""
        if self._chunk is None or self._was_refused or self._index >= self.steps_per_chunk:
            return True
        left = len(self._chunk.actions) - self._index
        return self.mode != "sync" and left <= self.expected_delay

    def _begin(self, observation: Any, observation_time_s: float) -> None:
        future = self._executor.submit(self._act, observation, self._previous())
        self._inference = _Inference(future, observation_time_s)
        self._was_refused = False

    def _previous(self) -> PreviousChunk | None:
        if self.mode != "rtc" or self._chunk is None or self._was_refused:
            return None
        left = self._chunk.actions[self._index :]
        if len(left) == 0:
            return None
        return PreviousChunk(left.copy(), min(self.expected_delay, len(left)), *self._guidance)

    def _adopt(self) -> None:
        """Take over the chunk that is ready, if there is one."""
        inference = self._inference
        if inference is None or not inference.future.done():
            return
        self._inference = None
        actions = np.asarray(inference.future.result(), np.float32)
        if actions.ndim != 2 or len(actions) < self.steps_per_chunk:
            raise SchedulingError(
                f"the policy gave a chunk of shape {actions.shape}; expected at least "
                f"{self.steps_per_chunk} actions, as many as are executed of each chunk"
            )
        self._recent_ticks.append(inference.ticks)
        self._chunk = _Chunk(
            actions, self._chunk_count, inference.observation_time_s, inference.executed
        )
        self._chunk_count += 1
        self._index = inference.executed
        self._was_refused = False

    def _execute(self, chunk: _Chunk) -> Tick:
        index = self._index
        # Waiting for the policy, the robot must not run ahead of the observation it thinks about.
        end = self.steps_per_chunk if self.mode == "sync" else len(chunk.actions)
        tick = Tick(
            action=chunk.actions[index],
            upcoming=chunk.actions[index + 1 : end],
            chunk=chunk.number,
            index=index,
            observation_time_s=chunk.observation_time_s,
            age_s=self._clock() - chunk.observation_time_s,
            delay=chunk.delay,
            seam=self._last_chunk is not None and self._last_chunk != chunk.number,
        )
        self._before = index, self._last_chunk
        self._index += 1
        self._last_chunk = chunk.number
        if self._inference is not None:
            self._inference.executed += 1
        return tick
