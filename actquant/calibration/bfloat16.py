"""Half the memory for what autograd saves, faster products: where float32 is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
            # Detached: an operator's output, kept as it is, would keep its operator and so itself.
            return saved.detach()
        return saved.detach().bfloat16()

    def unpack(kept: Tensor) -> Tensor:
        return kept.float() if kept.dtype == torch.bfloat16 else kept

    return saved_tensors_hooks(pack, unpack)


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Lets PyTorch round the factors of float32 matrix products to bfloat16, sums stay float32.

    PyTorch does so where the processor has instructions for it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
