"""Greedy allocation that balances the errors of layers (ActQuant, arXiv:2605.24011, stage 1).

The noise of a type is 2^(-2 bpw), the error E_l of a layer the sum of score x noise over its
tensors; sum_l E_l^2 is minimised greedily by the improvement per added bit, a layer's other tensors
being scored again after each upgrade.
"""

from collections.abc import Sequence

import numpy as np

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.choices import Choices, require_feasible
from actquant.format.tensor_types import menu

BASE = "IQ2_XXS"
MAXIMUM = "Q6_K"
CEILING = "Q8_0"
"""Allocation goes on to this type when even its maximum leaves some of the budget."""


def allocate_layer_balanced(
    tensors: Sequence[TensorSize],
    budget: Budget,
    base: str = BASE,
    maximum: str | None = None,
) -> Allocation:
    """Chooses types between a base and a maximum type.

    tensors: in forward order. The result never exceeds the budget, and no further upgrade of one
    tensor by one level would fit. maximum: None means MAXIMUM, or CEILING when that one fits for
    every tensor.

    Raises BudgetError when not even the base type of every tensor fits.
    """
    choices = Choices(tensors, menu(base, maximum or MAXIMUM, importance=True))
    if maximum is None and budget.tensor_bytes >= choices.bounds()[1]:
        choices = Choices(tensors, menu(base, CEILING, importance=True))
    require_feasible(choices, budget, CEILING if maximum is None else maximum, tensors)
    levels, objective = _greedy(choices, tensors, budget.tensor_bytes)
    types = [ladder[lvl].name for ladder, lvl in zip(choices.ladders, levels, strict=True)]
    return Allocation.of_types(tensors, types, objective)


def _greedy(
    choices: Choices, tensors: Sequence[TensorSize], available: int
) -> tuple[list[int], float]:
    """Returns the levels of the tensors, and sum_l E_l^2. Upgrades by one level at a time."""
    rows = np.arange(len(tensors))
    layers = {name: i for i, name in enumerate(dict.fromkeys(t.layer for t in tensors))}
    layer = np.array([layers[tensor.layer] for tensor in tensors])
    score = np.array([max(tensor.score, 0.0) for tensor in tensors])
    level = np.zeros(len(tensors), np.int64)
    left = available - int(choices.bytes[:, 0].sum())
    while True:
        following = np.minimum(level + 1, choices.top)
        added = choices.bytes[rows, following] - choices.bytes[rows, level]
        possible = (level < choices.top) & (added <= left)
        noise = choices.noise[rows, level]
        error = np.bincount(layer, score * noise, minlength=len(layers))
        if not possible.any():
            return [int(value) for value in level], float((error**2).sum())
        before = error[layer]
        after = before - score * (noise - choices.noise[rows, following])
        gain = np.where(possible, (before**2 - after**2) / np.maximum(added, 1), -1.0)
        # Where nothing more is to be gained (score 0) the coarsest tensor comes first.
        bits = choices.bits[rows, level]
        best = int(np.lexsort((rows, bits, -gain))[0])
        left -= int(added[best])
        level[best] += 1
