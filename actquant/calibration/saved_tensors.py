"""What autograd saves for the backward pass, in half the memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

SMALLEST_PACKED = 1 << 14
"""Elements; what is smaller stays as it is."""


def save_in_bfloat16(module: nn.Module) -> saved_tensors_hooks:
    """Returns a context in which autograd keeps float32 activations as bfloat16.

    module: whose parameters are not copied; all that autograd saves of them are views.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def pack(saved: Tensor) -> Tensor:
        large = saved.dtype == torch.float32 and saved.numel() >= SMALLEST_PACKED
        if not large or saved.untyped_storage().data_ptr() in parameters:
            return saved
        return saved.bfloat16()

    def unpack(kept: Tensor) -> Tensor:
        return kept.float() if kept.dtype == torch.bfloat16 else kept

    return saved_tensors_hooks(pack, unpack)
