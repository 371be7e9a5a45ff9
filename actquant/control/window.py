"""What a policy is shown: one observation, or the last ones of an episode."""

from typing import Any

from actquant_runtime import ObservationWindow

__all__ = ["Observation", "ObservationWindow"]

Observation = dict[str, Any]
"""Cameras -> uint8 [H, W, 3], `observation.state` -> float32 [S], `task` -> str. With T > 1
observation steps images and state have a leading axis of steps, oldest first."""
