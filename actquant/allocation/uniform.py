"""One type for every tensor, whatever it costs."""

from collections.abc import Sequence

from actquant.allocation.budget import Allocation, Budget, TensorSize


def allocate_uniform(
    tensors: Sequence[TensorSize], budget: Budget | None, type_name: str
) -> Allocation:
    """Gives every tensor the type; those of single precision stay F32 beside BF16.

    budget: not looked at.
    """
    kept = type_name == "BF16"
    types = ["F32" if kept and tensor.single_precision else type_name for tensor in tensors]
    return Allocation.of_types(tensors, types)
