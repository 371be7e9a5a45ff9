"""What each tensor may become: a ladder of types with their bytes and bits."""

import math
from collections.abc import Sequence

import numpy as np

from actquant.allocation.budget import Budget, TensorSize
from actquant.common.errors import BudgetError
from actquant.format.tensor_types import Format, file_bytes, resolve


class Choices:
    """What each tensor may become: arrays [tensors, levels] of bytes and noise, levels ascending.

    Every tensor has its own ladder, as padding costs short rows more: types are replaced by their
    fallback where that is cheaper, and a type that costs no fewer bytes than one with more bits per
    weight is left out. Short ladders are filled up with their last rung.
    """

    def __init__(self, tensors: Sequence[TensorSize], types: Sequence[Format]) -> None:
        self.ladders = [_ladder(tensor, types) for tensor in tensors]
        levels = max(len(ladder) for ladder in self.ladders)
        shape = (len(self.ladders), levels)
        self.bytes = np.zeros(shape, np.int64)
        self.bits = np.zeros(shape)
        for row, (tensor, ladder) in enumerate(zip(tensors, self.ladders, strict=True)):
            filled = [*ladder, *[ladder[-1]] * (levels - len(ladder))]
            self.bytes[row] = [file_bytes(tensor.rows, tensor.columns, e.name) for e in filled]
            self.bits[row] = [e.bits_per_weight for e in filled]
        self.noise = 2.0 ** (-2.0 * self.bits)
        self.top = np.array([len(ladder) - 1 for ladder in self.ladders])

    def bounds(self) -> tuple[int, int]:
        """Returns the bytes of all tensors at their lowest and at their highest level."""
        rows = np.arange(len(self.ladders))
        return int(self.bytes[:, 0].sum()), int(self.bytes[rows, self.top].sum())

    def uniform(self, tensors: Sequence[TensorSize], entry: Format) -> np.ndarray:
        """Returns each tensor's level when all have one type: the best for that type's bytes."""
        names = [resolve(entry, tensor.columns).name for tensor in tensors]
        costs = [file_bytes(t.rows, t.columns, n) for t, n in zip(tensors, names, strict=True)]
        reached = (self.bytes <= np.array(costs)[:, None]).sum(axis=1) - 1
        return np.clip(reached, 0, self.top)


def _ladder(tensor: TensorSize, types: Sequence[Format]) -> list[Format]:
    usable = {resolve(entry, tensor.columns) for entry in types}
    costs = [(file_bytes(tensor.rows, tensor.columns, entry.name), entry) for entry in usable]
    ladder: list[Format] = []
    cheapest: float = math.inf
    for cost, entry in sorted(costs, key=lambda c: (-c[1].bits_per_weight, c[0], c[1].name)):
        if cost < cheapest:
            ladder.append(entry)
            cheapest = cost
    return ladder[::-1]


def require_feasible(
    choices: Choices, budget: Budget, maximum: str, tensors: Sequence[TensorSize]
) -> None:
    """Raises BudgetError, stating the feasible range, if not even the lowest levels fit.

    maximum: the type with the most bits that the algorithm would give.
    """
    smallest, _ = choices.bounds()
    if budget.tensor_bytes >= smallest:
        return
    largest = sum(file_bytes(t.rows, t.columns, maximum) for t in tensors)
    low, high = budget.to_bpw(smallest), budget.to_bpw(largest)
    shown = math.ceil(low * 1000) / 1000
    raise BudgetError(
        f"{budget.bpw:g} bits per weight of the whole file cannot be met: the feasible minimum is "
        f"{shown:.3f}, and more than {high:.3f} is of no use. Of {budget.parameter_count} "
        f"parameters, tensors of fixed type and metadata take {budget.fixed_bytes} bytes "
        f"({budget.to_bpw(0):.3f} bits per weight), the quantized tensors at least {smallest}"
    )
