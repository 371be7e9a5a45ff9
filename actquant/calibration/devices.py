"""Where statistics and tuning are computed: on a GPU that has room for the policy, else the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from actquant.policies.base import LoadedPolicy

ROOM = 3
"""Times the policy's weights: for these, what is summed up for each, and activations."""


def find_device(loaded: LoadedPolicy) -> torch.device:
    """Returns this process's GPU if there is one and the policy, whose weights are in memory, fits
    into it ROOM times."""
    if not torch.cuda.is_available() or loaded.streamed is not None:
        return torch.device("cpu")
    gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    needed = ROOM * sum(p.numel() * p.element_size() for p in loaded.policy.parameters())
    return gpu if torch.cuda.mem_get_info(gpu)[0] >= needed else torch.device("cpu")


@contextmanager
def placed(loaded: LoadedPolicy, device: torch.device) -> Iterator[None]:
    """Lets the policy be on a device; afterwards it is on the CPU again."""
    if device.type == "cpu":
        yield
        return
    loaded.policy.to(device)
    try:
        yield
    finally:
        loaded.policy.to("cpu")


def device_of(loaded: LoadedPolicy) -> torch.device:
    """Returns where the policy is."""
    return next(loaded.policy.parameters()).device


def beside(loaded: LoadedPolicy, tensors: dict[str, Any]) -> dict[str, Any]:
    """Returns a policy's batch with its tensors where the policy is."""
    device = device_of(loaded)
    return {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in tensors.items()
    }
