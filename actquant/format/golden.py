"""Golden inputs: observations that any reader of a file can make from a seed (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actquant.format.schema import PolicyInterface

GRID = 6
MASK64 = (1 << 64) - 1


class SplitMix64:
    """Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK64

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """In [0, 1), a multiple of 2⁻²⁴."""
        return (self.next() >> 40) / (1 << 24)


@dataclass(frozen=True)
class GoldenInput:
    """One observation with its noise, float32 of `PolicyInterface.noise_shape`; masked cameras are
    absent from it."""

    seed: int
    prompt: str
    masked_cameras: tuple[str, ...]
    observation: dict[str, Any]
    noise: np.ndarray


def golden_input(
    interface: PolicyInterface, seed: int, prompt: str, masked_cameras: Sequence[str] = ()
) -> GoldenInput:
    """The observation of a seed. Masked cameras are drawn as well, and then left out.

    With several observation steps, images and state have a leading axis of steps, oldest first.
    """
    random = SplitMix64(seed)
    steps = interface.observation_steps
    images: dict[str, list[np.ndarray]] = {camera: [] for camera in interface.cameras}
    states = []
    for _ in range(steps):
        for camera in interface.cameras:
            images[camera].append(_image(random, interface))
        normalised = np.array([4 * random.uniform() - 2 for _ in interface.state_mean])
        states.append(np.array(interface.state_mean) + np.array(interface.state_std) * normalised)
    observation: dict[str, Any] = {"task": prompt}
    for camera in interface.cameras:
        if camera not in masked_cameras:
            observation[camera] = images[camera][0] if steps == 1 else np.stack(images[camera])
    if interface.state_mean:
        state = np.stack(states).astype(np.float32)
        observation["observation.state"] = state[0] if steps == 1 else state
    shape = interface.noise_shape
    noise = [sum(random.uniform() for _ in range(12)) - 6 for _ in range(math.prod(shape))]
    return GoldenInput(
        seed,
        prompt,
        tuple(masked_cameras),
        observation,
        np.array(noise, np.float32).reshape(shape),
    )


def _image(random: SplitMix64, interface: PolicyInterface) -> np.ndarray:
    height, width = interface.image_source_height, interface.image_source_width
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    cells = [int(256 * random.uniform()) for _ in range(GRID * GRID * 3)]
    grid = np.array(cells, np.uint8).reshape(GRID, GRID, 3)
    return np.ascontiguousarray(grid[rows][:, columns])


def golden_inputs(
    interface: PolicyInterface, prompts: Sequence[str], n: int = 16, first_seed: int = 1
) -> list[GoldenInput]:
    """n inputs over all prompts; if a camera is optional, every third, beginning with the second,
    masks one."""
    inputs = []
    for index in range(n):
        masked: tuple[str, ...] = ()
        if interface.optional_cameras and index % 3 == 1:
            masked = (interface.cameras[index // 3 % len(interface.cameras)],)
        prompt = prompts[index % len(prompts)]
        inputs.append(golden_input(interface, first_seed + index, prompt, masked))
    return inputs
