"""A world without physics for tiny policies: an episode ends after a few steps, and succeeds by its
start's number, so that a test knows what must come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_policies import CAMERAS

from actquant.environments.base import Step, SuiteFacts

STEPS = 6
FAILING = {("reach", 1), ("reach", 2), ("lift", 2)}
"""Task and start of the episodes that do not succeed."""


class FastWorld:
    """One task. breaks: start -> how often its episodes still break in their third step; sick:
    starts whose state is not finite after the first step."""

    breaks: dict[int, int] = {}
    sick: frozenset[int] = frozenset()

    def __init__(self, task: str) -> None:
        self.task = task

    def reset(self, start: int) -> dict:
        self.start, self.now = start, 0
        return self._seen()

    def step(self, action: np.ndarray, *, look: bool = True) -> Step:
        self.now += 1
        if self.now == 3 and self.breaks.get(self.start, 0):
            self.breaks[self.start] -= 1
            raise FloatingPointError(f"the solver of {self.task} <diverged>")
        done = self.now == STEPS
        success = done and (self.task, self.start) not in FAILING
        return Step(self._seen() if look else None, done, success)

    def render(self) -> np.ndarray:
        picture = np.zeros((120, 160, 3), np.uint8)
        picture[40:80, 20 * self.now : 20 * self.now + 30] = (200, 60, 30)
        return picture

    def _seen(self) -> dict:
        state = np.full(6, 0.1 * self.now, np.float32)
        if self.start in self.sick and self.now:
            state[2] = np.nan
        picture = np.full((48, 48, 3), 20 * self.now, np.uint8)
        seen = dict.fromkeys(CAMERAS, picture)
        return {**seen, "observation.state": state, "task": f"{self.task} <it>"}


class FastSuite:
    tasks: tuple[str, ...] = ("reach", "lift")
    cameras = tuple(CAMERAS)
    distribution = "numpy"
    about = SuiteFacts()
    opened = 0
    closed = 0

    def __init__(self) -> None:
        FastSuite.opened += 1

    def environment(self, task: str) -> FastWorld:
        return FastWorld(task)

    def mislead(self, instruction: str) -> str:
        return instruction

    def close(self) -> None:
        FastSuite.closed += 1


class MarkedSuite(FastSuite):
    """One with stand-ins for pictures, four starts, and published numbers."""

    about = SuiteFacts(
        conventions={"most steps": str(STEPS)},
        versions={"mujoco": "0.0.1"},
        marks=("stand-in visuals",),
        starts=4,
        published_starts="0:4",
        one_task_at_a_time=True,
    )


class PublishedSuite(MarkedSuite):
    """The same with the pictures that published numbers are of."""

    about = replace(MarkedSuite.about, marks=())
