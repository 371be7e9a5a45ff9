"""The smallest budget whose file keeps an action error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.common.errors import BudgetError
from actquant.compression.contents import FileContents
from actquant.recipes import Recipe

LARGEST_BPW, BPW_STEP = 9.0, 0.02
"""What is searched: up to a file of Q8_0."""


def smallest_budget(
    recipe: Recipe,
    contents: FileContents,
    sizes: Sequence[TensorSize],
    error: Callable[[Allocation], float],
    limit: float,
) -> Budget:
    """Returns the smallest budget whose error is at most a limit, to within BPW_STEP.

    error: the action error of an allocation, which falls as the budget grows.

    Raises BudgetError if that of the largest file is above the limit.
    """
    errors: dict[int, float] = {}

    def error_at(step: int) -> float:
        if step not in errors:
            budget = contents.budget(step * BPW_STEP, sizes)
            errors[step] = error(recipe.allocate(sizes, budget))
        return errors[step]

    high = round(LARGEST_BPW / BPW_STEP)
    low = math.ceil(_smallest_bpw(recipe, contents, sizes) / BPW_STEP) - 1
    if error_at(high) > limit:
        raise BudgetError(
            f"no file of recipe {recipe.name} has an action error below {limit:g}: at "
            f"{LARGEST_BPW:g} bits per weight it is {error_at(high):.4f}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error_at(middle) <= limit else (middle, high)
    return contents.budget(high * BPW_STEP, sizes)


def _smallest_bpw(recipe: Recipe, contents: FileContents, sizes: Sequence[TensorSize]) -> float:
    """Returns the smallest budget that this recipe can meet, or a little more."""
    low, high = 0.0, LARGEST_BPW
    while high - low > BPW_STEP / 2:
        middle = (low + high) / 2
        try:
            recipe.allocate(sizes, contents.budget(middle, sizes))
            high = middle
        except BudgetError:
            low = middle
    return high
