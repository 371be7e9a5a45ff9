"""What is differentiated over calibration frames, with noise and time that no batching changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actquant.calibration.accumulators import ACTIONS, LOSS
from actquant.calibration.devices import beside, device_of
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
    device = device_of(loaded)
    tensors = beside(loaded, batch.tensors)
    losses = loaded.family.action_loss(loaded, tensors, noise.to(device), time.to(device))
    for frame, loss in zip(batch.frames, losses.detach().tolist(), strict=True):
        if not np.isfinite(loss):
            raise CalibrationError(
                f"episode {frame.episode}, frame {frame.frame}: the action loss is {loss}"
            )
    return losses


def action_projections(loaded: LoadedPolicy, batch: Batch, seed: int, draw: int = 0) -> Tensor:
    """Returns u'a [B]: the normalised chunk a [H, A] after all flow steps, from this draw's noise,
    projected on u ~ N(0, 1) / sqrt(H A), which is new for each frame and draw.

    Raises CalibrationError, naming episode and frame, if a chunk is NaN or infinite.
    """
    noise, _ = draw_noise(loaded, batch.frames, seed, draw)
    with through_no_grad():
        tensors = beside(loaded, batch.tensors)
        chunks = loaded.family.predict_chunk(loaded, tensors, noise.to(device_of(loaded)))
    directions = [
        np.random.default_rng([seed, frame.index, draw, 1]).standard_normal(chunks.shape[1:])
        for frame in batch.frames
    ]
    scale = float(np.sqrt(chunks[0].numel()))
    u = torch.from_numpy(np.stack(directions)).to(chunks) / scale
    projections = (chunks * u).flatten(1).sum(dim=1)
    for frame, value in zip(batch.frames, projections.detach().tolist(), strict=True):
        if not np.isfinite(value):
            raise CalibrationError(
                f"episode {frame.episode}, frame {frame.frame}: the policy's actions are {value}"
            )
    return projections


OBJECTIVES: dict[str, Callable[[LoadedPolicy, Batch, int, int], Tensor]] = {
    LOSS: action_losses,
    ACTIONS: action_projections,
}
"""Name -> (policy, batch, seed, draw) -> [B], differentiable."""


@contextmanager
def through_no_grad() -> Iterator[None]:
    """Lets gradients through functions that PyTorch's `no_grad` decorates, as LeRobot's policies
    decorate what predicts actions; where gradients are off, they stay off. For one thread."""
    enter = torch.no_grad.__enter__

    def keep(self: Any) -> None:
        self.prev = torch.is_grad_enabled()

    torch.no_grad.__enter__ = keep
    try:
        yield
    finally:
        torch.no_grad.__enter__ = enter
