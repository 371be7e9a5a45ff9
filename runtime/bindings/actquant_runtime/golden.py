"""Golden inputs: observations that any reader can make from a seed (docs/format.md)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant_runtime import _core


def golden_inputs(
    seed: int,
    *,
    cameras: Sequence[str],
    image_size: tuple[int, int],
    state_mean: Sequence[float],
    state_std: Sequence[float],
    noise_shape: Sequence[int],
    observation_steps: int = 1,
    masked_cameras: Sequence[str] = (),
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Makes the images and the state of a seed, and the noise of `noise_shape`.

    image_size: height and width of the cameras' pictures. With several observation steps arrays
    have a first dimension of steps, oldest first. A masked camera is drawn like the others and then
    left out, so that masking changes no other input.
    """
    height, width = image_size
    pixels, states, noise = _core.golden_inputs(
        observation_steps,
        len(cameras),
        height,
        width,
        list(state_mean),
        list(state_std),
        math.prod(noise_shape),
        seed,
    )
    images = pixels.reshape(observation_steps, len(cameras), height, width, 3)
    inputs: dict[str, Any] = {
        camera: np.ascontiguousarray(images[:, k])
        for k, camera in enumerate(cameras)
        if camera not in masked_cameras
    }
    if len(state_mean):
        inputs["observation.state"] = states.reshape(observation_steps, -1)
    if observation_steps == 1:
        inputs = {key: value[0] for key, value in inputs.items()}
    return inputs, noise.reshape(tuple(noise_shape))


def golden_observation(
    description: Mapping[str, Any],
    seed: int,
    prompt: str = "",
    masked_cameras: Sequence[str] = (),
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Makes the observation and the noise of a golden case; description: `Runtime.describe()`."""
    image, state = description["image"], description["state"]
    inputs, noise = golden_inputs(
        seed,
        cameras=description["cameras"],
        image_size=(image["source_height"], image["source_width"]),
        state_mean=state["mean"],
        state_std=state["std"],
        noise_shape=description["noise_shape"],
        observation_steps=description["observation_steps"],
        masked_cameras=masked_cameras,
    )
    return {"task": prompt, **inputs}, noise
