"""A diffusers scheduler as the rows of a `Sampler`."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from actquant.common.errors import CheckpointError
from actquant.format.schema import Sampler

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def sampler(scheduler: Any, steps: int) -> Sampler:
    """Returns what `scheduler.step` computes in each of `steps` steps (DDPM, or DDIM with eta = 0).

    The coefficients are computed in float32 in the scheduler's own order of operations, so that
    they are the scheduler's, rounding included.

    Raises CheckpointError naming every setting that is not of this form.
    """
    _check(scheduler, steps)
    scheduler.set_timesteps(steps)
    timesteps = [int(t) for t in scheduler.timesteps]
    rows = tuple(_row(scheduler, t) for t in timesteps)
    if not all(math.isfinite(value) for row in rows for value in row):
        raise CheckpointError("the noise scheduler has a step without any signal (alpha is 0)")
    return Sampler(tuple(float(t) for t in timesteps), rows)


def _check(scheduler: Any, steps: int) -> None:
    wrong: list[str] = []
    if not isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        raise CheckpointError(
            f"the noise scheduler {type(scheduler).__name__} is not supported; supported: "
            "DDPMScheduler, DDIMScheduler"
        )
    config: Any = scheduler.config
    if config.thresholding:
        wrong.append("thresholding (clip_sample is supported)")
    if config.prediction_type not in PREDICTION_TYPES:
        wrong.append(f"prediction_type {config.prediction_type!r}")
    variance = config.get("variance_type", "fixed_small")
    if variance != "fixed_small":
        wrong.append(f"variance_type {variance!r} (fixed_small is supported)")
    if not 1 <= steps <= config.num_train_timesteps:
        wrong.append(f"{steps} inference steps (at most {config.num_train_timesteps})")
    if wrong:
        raise CheckpointError(f"the noise scheduler is not supported: {', '.join(wrong)}")


def _row(scheduler: Any, t: int) -> tuple[float, ...]:
    """Formulas (6) and (7) of DDPM (https://huggingface.co/papers/2006.11239), (12) of DDIM
    (https://huggingface.co/papers/2010.02502), as diffusers writes them."""
    config, alphas = scheduler.config, scheduler.alphas_cumprod
    is_ddpm = isinstance(scheduler, DDPMScheduler)
    if is_ddpm:
        previous, final = int(scheduler.previous_timestep(t)), scheduler.one
    else:
        stride = config.num_train_timesteps // scheduler.num_inference_steps
        previous, final = t - stride, scheduler.final_alpha_cumprod
    alpha = alphas[t]
    alpha_previous = alphas[previous] if previous >= 0 else final
    beta, beta_previous = 1 - alpha, 1 - alpha_previous
    signal, spread = alpha**0.5, beta**0.5
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    from_x, from_output = {
        "epsilon": (1 / signal, -spread / signal),
        "sample": (zero, one),
        "v_prediction": (signal, -spread),
    }[config.prediction_type]
    fresh = zero
    if is_ddpm:
        alpha_now = alpha / alpha_previous
        beta_now = 1 - alpha_now
        next_x0 = alpha_previous**0.5 * beta_now / beta
        next_x = alpha_now**0.5 * beta_previous / beta
        next_output = zero
        if t > 0:
            fresh = torch.clamp(beta_previous / beta * beta_now, min=1e-20) ** 0.5
    else:
        noise_x, noise_output = {
            "epsilon": (zero, one),
            "sample": (1 / spread, -signal / spread),
            "v_prediction": (spread, signal),
        }[config.prediction_type]
        next_x0 = alpha_previous**0.5
        next_x, next_output = beta_previous**0.5 * noise_x, beta_previous**0.5 * noise_output
    clip = config.clip_sample_range if config.clip_sample else 0.0
    columns = (from_x, from_output, clip, next_x0, next_x, next_output, fresh, zero)
    return tuple(float(column) for column in columns)
