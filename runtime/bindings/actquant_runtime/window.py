"""The last observations of an episode, as a policy takes them."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np


class ObservationWindow:
    """Keeps the last `steps` observations; the first is repeated until there are enough."""

    def __init__(self, steps: int) -> None:
        self._observations: deque[Mapping[str, Any]] = deque(maxlen=steps)
        self._steps = steps

    def append(self, observation: Mapping[str, Any]) -> None:
        """Adds the newest observation, without an axis of steps."""
        self._observations.extend([observation] * (1 if self._observations else self._steps))

    @property
    def last(self) -> list[Mapping[str, Any]]:
        """The observations in the window, oldest first."""
        return list(self._observations)

    @property
    def observation(self) -> dict[str, Any]:
        """What `Runtime.act` takes now: images and state with a leading axis of steps if the policy
        takes several."""
        newest = dict(self._observations[-1])
        if self._steps == 1:
            return newest
        stacked = {key: [o[key] for o in self._observations] for key in newest if key != "task"}
        return {**newest, **{key: np.stack(values) for key, values in stacked.items()}}
