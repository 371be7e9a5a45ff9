"""Golden inputs: observations that any reader of a file can make from a seed (docs/format.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import actquant_runtime
import numpy as np

from actquant.format.schema import PolicyInterface

VERIFY = {"none": 0, "quick": 2, "full": 16}
"""How many golden inputs prove a file. Their prompts differ in length, and the second has a masked
camera where the policy allows it. By default `full` with a dataset, `quick` without."""


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
    """Makes the observation of a seed. Masked cameras are drawn as well, and then left out.

    With several observation steps, images and state have a leading axis of steps, oldest first.
    """
    inputs, noise = actquant_runtime.golden_inputs(
        seed,
        cameras=interface.cameras,
        image_size=(interface.image_source_height, interface.image_source_width),
        state_mean=interface.state_mean,
        state_std=interface.state_std,
        noise_shape=interface.noise_shape,
        observation_steps=interface.observation_steps,
        masked_cameras=masked_cameras,
    )
    return GoldenInput(seed, prompt, tuple(masked_cameras), {"task": prompt, **inputs}, noise)


def golden_inputs(
    interface: PolicyInterface, prompts: Sequence[str], n: int = 16, first_seed: int = 1
) -> list[GoldenInput]:
    """Makes n inputs over all prompts.

    If a camera is optional, every third input, beginning with the second, masks one.
    """
    inputs = []
    for index in range(n):
        masked: tuple[str, ...] = ()
        if interface.optional_cameras and index % 3 == 1:
            masked = (interface.cameras[index // 3 % len(interface.cameras)],)
        prompt = prompts[index % len(prompts)]
        inputs.append(golden_input(interface, first_seed + index, prompt, masked))
    return inputs
