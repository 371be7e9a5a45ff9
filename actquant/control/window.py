"""The last observations of an episode, as a policy takes them."""

from collections import deque
from typing import Any

import numpy as np

Observation = dict[str, Any]
"""Cameras -> uint8 [H, W, 3], `observation.state` -> float32 [S], `task` -> str. With T > 1
observation steps images and state have a leading axis of steps, oldest first."""


class ObservationWindow:
    """Keeps the last `steps` observations; the first is repeated until there are enough."""

    def __init__(self, steps: int) -> None:
        self._observations: deque[Observation] = deque(maxlen=steps)
        self._steps = steps

    def append(self, observation: Observation) -> None:
        """Adds the newest observation, without an axis of steps."""
        self._observations.extend([observation] * (1 if self._observations else self._steps))

    @property
    def observation(self) -> Observation:
        """What the policy takes now: with a leading axis of steps if it takes several."""
        last = self._observations[-1]
        if self._steps == 1:
            return last
        stacked = {key: [o[key] for o in self._observations] for key in last if key != "task"}
        return {**last, **{key: np.stack(values) for key, values in stacked.items()}}
