"""A policy's stages run as the drivers of docs/format.md run them, in PyTorch alone."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor
from torch.nn.functional import pad

from actquant.format.image_steps import apply_image_steps
from actquant.format.schema import PolicyInterface
from actquant.policies.base import LoadedPolicy


def preprocess(face: PolicyInterface, image: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, height, width]."""
    pixels = apply_image_steps(image, face.image_steps)[None]
    return pixels / 255 * face.image_scale + face.image_offset


def sample(face: PolicyInterface, denoise: Any, fixed: dict[str, Tensor], noise: Tensor) -> Tensor:
    """The driver `sampling`: noise [R, N] or [1 + F, R, N] -> x [1, R, N]."""
    draws = list(noise if noise.ndim == 3 else noise[None])
    x = initial = draws.pop(0)[None]
    assert face.sampler is not None
    for time, row in zip(face.sampler.timesteps, face.sampler.coefficients, strict=True):
        p, q, c, u, v, w, s, z = row
        o = denoise(x_t=x, timestep=torch.tensor([time]), **fixed)["output"]
        x0 = p * x + q * o
        x0 = x0.clamp(-c, c) if c else x0
        x = u * x0 + v * x + w * o + z * initial
        if s:
            x = x + s * draws.pop(0)[None]
    assert not draws
    return x


def tokenize(face: PolicyInterface, task: str) -> dict[str, Tensor]:
    """Of a policy whose prompt is the task in its template, without a suffix."""
    assert face.prompt_task_steps in ((), ("strip",)) and not face.tokenizer_suffix
    task = task.strip() if face.prompt_task_steps else task
    tokenizer = tokenizers.Tokenizer.from_str(face.tokenizer_json)
    ids = tokenizer.encode(face.prompt_template.format(task=task)).ids
    length = max(len(ids), face.tokenizer_min_length)
    assert length <= face.tokenizer_max_length
    tokens = torch.full((1, length), face.tokenizer_pad_id)
    tokens[0, : len(ids)] = torch.tensor(ids)
    return {"tokens": tokens, "token_mask": torch.arange(length)[None] < len(ids)}


def act(loaded: LoadedPolicy, observation: dict[str, Any], noise: np.ndarray) -> np.ndarray:
    """What the stages answer, in the robot's units: [H, A]."""
    face = loaded.interface
    length = face.tokenizer_max_length
    stages = {stage.name: stage.module for stage in loaded.family.stages(loaded, length)}
    steps = face.observation_steps
    state = torch.from_numpy(observation["observation.state"]).reshape(steps, -1)
    mean, std = torch.tensor(face.state_mean), torch.tensor(face.state_std)
    state = (state - mean) / (std + face.normalization_eps)
    inputs = {"state": pad(state, (0, face.state_padded_dim - state.shape[1]))}
    if face.tokenizer_json is not None:
        given = tokenize(face, observation["task"])
        named = inspect.signature(stages["prefix"].forward).parameters
        inputs |= {name: value for name, value in given.items() if name in named}
    with torch.no_grad():
        for index, camera in enumerate(face.cameras):
            images = observation[camera] if steps > 1 else observation[camera][None]
            for t, image in enumerate(images):
                embedding = stages["vision"](image=preprocess(face, image))["embedding"]
                inputs[f"image_embedding_{t * len(face.cameras) + index}"] = embedding
        outputs = stages["prefix"](**inputs)
        if face.driver == "sampling":
            x = sample(face, stages["denoise"], outputs, torch.from_numpy(noise))
            outputs = stages["decode"](x=x) if "decode" in stages else {"actions": x}
        actions = outputs["actions"][0, :, : len(face.action_names)]
        return (actions * torch.tensor(face.action_std) + torch.tensor(face.action_mean)).numpy()
