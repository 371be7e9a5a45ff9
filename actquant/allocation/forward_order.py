"""One type for all tensors, and the next one in forward order while the budget lasts."""

from collections.abc import Sequence

import numpy as np

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.choices import Choices, require_feasible
from actquant.format.tensor_types import get_format, menu

BASE = "Q2_K"
CEILING = "Q8_0"
LAST_RESORT = ("IQ1_M", "IQ2_S")


def allocate_forward_order(tensors: Sequence[TensorSize], budget: Budget) -> Allocation:
    """Gives all tensors the highest type that fits, and the first ones the next type.

    tensors: in forward order. The result never exceeds the budget, and no further upgrade of one
    tensor by one level would fit. Rounding to nearest knows evenly spaced levels and no importance,
    so the types are those with a linear grid; types that need importance are excluded. Only where
    the smallest of them does not fit, LAST_RESORT joins in: codebooks that ggml can encode without
    importance.

    Raises BudgetError when not even the smallest such type fits.
    """
    types = menu(BASE, CEILING, importance=False, grid="linear")
    choices = Choices(tensors, types)
    if budget.tensor_bytes < choices.bounds()[0]:
        types = [*map(get_format, LAST_RESORT), *types]
        choices = Choices(tensors, types)
    require_feasible(choices, budget, CEILING, tensors)
    rows = np.arange(len(tensors))
    level = np.zeros(len(tensors), np.int64)
    for entry in types:
        uniform = choices.uniform(tensors, entry)
        if choices.bytes[rows, uniform].sum() <= budget.tensor_bytes:
            level = uniform
    left = budget.tensor_bytes - int(choices.bytes[rows, level].sum())
    raised = True
    while raised:
        raised = False
        for row in rows:
            if level[row] == choices.top[row]:
                continue
            added = int(choices.bytes[row, level[row] + 1] - choices.bytes[row, level[row]])
            if added <= left:
                level[row] += 1
                left -= added
                raised = True
    names = [ladder[lvl].name for ladder, lvl in zip(choices.ladders, level, strict=True)]
    return Allocation.of_types(tensors, names)
