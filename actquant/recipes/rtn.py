"""Plain rounding to nearest: no data, one type for all tensors as far as the budget goes."""

from collections.abc import Sequence

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.forward_order import allocate_forward_order
from actquant.recipes.recipe import Recipe


def allocate(tensors: Sequence[TensorSize], budget: Budget | None) -> Allocation:
    """Gives all tensors one type and the first ones the next within the budget."""
    assert budget is not None, "the pipeline gives every recipe that needs it a budget"
    return allocate_forward_order(tensors, budget)


RTN = Recipe(name="rtn", summary="plain rounding to nearest", allocate=allocate)
