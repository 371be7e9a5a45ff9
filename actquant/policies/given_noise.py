"""LeRobot draws its noise inside the policy; for a comparison it must be given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _GivenNoise(TorchFunctionMode):
    def __init__(self, draws: list[Tensor], function: Any) -> None:
        super().__init__()
        self.draws = draws
        self.function = function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not self.function:
            return func(*args, **(kwargs or {}))
        drawn = func(*args, **(kwargs or {}))
        noise = self.draws.pop(0)
        if noise.shape != drawn.shape:
            raise ValueError(
                f"the noise is {list(noise.shape)}, the policy draws {list(drawn.shape)}"
            )
        return noise.to(drawn)


@contextmanager
def given_noise(*draws: Tensor, function: Any = torch.randn) -> Iterator[None]:
    """Lets the k-th call of `torch.randn`, or of another `function` of torch, inside return
    draws[k]. Raises ValueError for a wrong shape and if not all draws were used."""
    left = list(draws)
    with _GivenNoise(left, function):
        yield
    if left:
        raise ValueError(f"{len(left)} of {len(draws)} draws of noise were not used")
