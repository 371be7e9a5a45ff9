"""Plain rounding to nearest: no data, one type for all tensors as far as the budget goes."""

from actquant.allocation.forward_order import allocate_forward_order
from actquant.recipes.recipe import Recipe, within_budget

RTN = Recipe(
    name="rtn", summary="plain rounding to nearest", allocate=within_budget(allocate_forward_order)
)
