"""The action loss of calibration frames, with noise and time that no batching changes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actquant.calibration.frames import Batch, Frame
from actquant.common.errors import CalibrationError
from actquant.policies.base import LoadedPolicy


def draw_noise(
    loaded: LoadedPolicy, frames: Sequence[Frame], seed: int, draw: int = 0
) -> tuple[Tensor, Tensor]:
    """Draws noise [B, *noise_shape] and time [B], fixed per frame.

    Noise is N(0, 1), time as in training (`PolicyFamily.draw_time`), both from a generator seeded
    by (seed, row of the frame, draw): no batching changes them.
    """
    noise, times = [], []
    shape = loaded.interface.noise_shape
    for frame in frames:
        rng = np.random.default_rng([seed, frame.index, draw])
        noise.append(rng.standard_normal(shape, dtype=np.float32))
        times.append(loaded.family.draw_time(loaded, rng))
    return torch.from_numpy(np.stack(noise)), torch.tensor(times, dtype=torch.float32)


def action_losses(loaded: LoadedPolicy, batch: Batch, seed: int, draw: int = 0) -> Tensor:
    """Returns the policy's action loss [B] of a batch, with this draw's noise and time.

    Raises CalibrationError, naming episode and frame, if a loss is NaN or infinite.
    """
    noise, time = draw_noise(loaded, batch.frames, seed, draw)
    losses = loaded.family.action_loss(loaded, dict(batch.tensors), noise, time)
    for frame, loss in zip(batch.frames, losses.detach().tolist(), strict=True):
        if not np.isfinite(loss):
            raise CalibrationError(
                f"episode {frame.episode}, frame {frame.frame}: the action loss is {loss}"
            )
    return losses
