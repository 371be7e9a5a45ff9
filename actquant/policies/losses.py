"""Training losses per sample, shared by policy families."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def chunk_mean(error: Tensor, is_pad: Tensor | None = None) -> Tensor:
    """Returns mean of [B, H, A] over the actions that are not padding (is_pad [B, H]): [B]."""
    per_action = error.mean(dim=2)
    if is_pad is None:
        return per_action.mean(dim=1)
    valid = ~is_pad
    return (per_action * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)


def noised(
    scheduler: Any, actions: Tensor, noise: Tensor, time: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (noisy actions, timesteps, target) of a diffusers scheduler, whose training timesteps
    divide the times (0, 1] evenly."""
    count = scheduler.config.num_train_timesteps
    timesteps = ((time * count).ceil().long() - 1).clamp(0, count - 1)
    target = {
        "epsilon": lambda: noise,
        "sample": lambda: actions,
        "v_prediction": lambda: scheduler.get_velocity(actions, noise, timesteps),
    }[scheduler.config.prediction_type]()
    return scheduler.add_noise(actions, noise, timesteps), timesteps, target
