"""Golden inputs: observations that any reader can make from a seed (docs/format.md)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 6
_WORD = (1 << 64) - 1


class _SplitMix64:
    def __init__(self, seed: int):
        self._state = seed & _WORD

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1) with 24 random bits."""
        return np.array([self._next() >> 40 for _ in range(count)], np.float64) / (1 << 24)

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _WORD
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        return z ^ (z >> 31)


def _image(generator: _SplitMix64, height: int, width: int) -> NDArray[np.uint8]:
    cells = np.floor(256 * generator.uniform(GRID * GRID * 3)).reshape(GRID, GRID, 3)
    rows = GRID * np.arange(height) // height
    columns = GRID * np.arange(width) // width
    return cells[rows][:, columns].astype(np.uint8)


def golden_observation(
    description: Mapping[str, Any],
    seed: int,
    prompt: str = "",
    masked_cameras: Sequence[str] = (),
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The observation and the noise (of `noise_shape`) of a golden case.

    `description` is `Runtime.describe()`. A policy that takes several observation steps gets arrays
    with a first dimension of steps, oldest first. A masked camera is drawn like the others and then
    left out, so that masking changes no other input.
    """
    generator = _SplitMix64(seed)
    image, state = description["image"], description["state"]
    mean, std = np.array(state["mean"]), np.array(state["std"])
    images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in description["cameras"]}
    states = []
    for _ in range(description["observation_steps"]):
        for steps in images.values():
            steps.append(_image(generator, image["source_height"], image["source_width"]))
        states.append(mean + std * (4 * generator.uniform(len(mean)) - 2))
    inputs: dict[str, Any] = {
        camera: np.stack(steps) for camera, steps in images.items() if camera not in masked_cameras
    }
    if len(mean):
        inputs["observation.state"] = np.stack(states).astype(np.float32)
    if description["observation_steps"] == 1:
        inputs = {key: value[0] for key, value in inputs.items()}
    shape = tuple(description["noise_shape"])
    noise = generator.uniform(12 * math.prod(shape)).reshape(*shape, 12).sum(-1) - 6
    return {"task": prompt, **inputs}, noise.astype(np.float32)
