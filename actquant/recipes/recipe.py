"""What a recipe is: which statistics it needs, how it allocates, how it encodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.encoders.blocks import Encoded, encode
from actquant.format.tensor_types import get_format

if TYPE_CHECKING:
    from actquant.calibration.statistics import KindsOf, Statistics
    from actquant.policies.base import QuantizableTensor
    from actquant.recipes.settings import CompressionSettings

Allocate = Callable[[Sequence[TensorSize], Budget | None], Allocation]
"""(tensors in forward order, budget; None for a recipe of one type) -> their types. Raises
BudgetError, stating the feasible range, when the budget is too small."""
Encode = Callable[[str, np.ndarray, str, "Statistics | None"], Encoded]
"""(tensor, weight float32 [rows, columns], type, what was collected) -> blocks of that type."""
Scores = Callable[
    ["Sequence[QuantizableTensor]", "Statistics", "CompressionSettings"], Mapping[str, float]
]
"""(tensors in forward order, what was collected, settings) -> sensitivity of each tensor."""
Errors = Callable[[TensorSize, np.ndarray, "Statistics"], Mapping[str, float]]
"""(tensor, weight float32 [rows, columns], what was collected) -> its error in each type."""


@dataclass(frozen=True)
class Layer:
    """A weight float32 [rows, columns] and the type that it will have."""

    name: str
    weight: np.ndarray
    type_name: str


ScaleInputs = Callable[[Sequence[Layer], "Statistics"], np.ndarray]
"""(layers that share their input, what was collected) -> float32 [columns], which their weights are
multiplied by and their input is divided by."""


def round_to_nearest(
    name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None
) -> Encoded:
    """Encodes a weight as ggml does without importance."""
    return encode(name, weight, type_name)


def within_budget(
    allocate: Callable[[Sequence[TensorSize], Budget], Allocation],
) -> Allocate:
    """Returns `allocate` for a recipe that needs a budget, which the pipeline then gives it."""

    def allocate_within(tensors: Sequence[TensorSize], budget: Budget | None) -> Allocation:
        assert budget is not None, "the pipeline gives every recipe that needs it a budget"
        return allocate(tensors, budget)

    return allocate_within


@dataclass(frozen=True)
class Recipe:
    """One way of making a file smaller; `actquant.recipes.RECIPES` names them all.

    summary: for people; matrices: the kinds of matrices that it chooses types for (others have a
    fixed type), each with the statistics that are collected of it from a dataset, which the recipe
    then needs; scores, errors: what `allocate` finds in its tensors, from these statistics;
    scale_inputs: of layers whose inputs can be scaled at no cost, before they are encoded; tuned:
    whether block scales, norms and biases are trained when all is encoded; one_type: the type of
    every tensor, for a recipe that has no budget.
    """

    name: str
    summary: str
    allocate: Allocate
    encode: Encode = round_to_nearest
    matrices: KindsOf = field(default_factory=lambda: {"linear": ()})
    scores: Scores | None = None
    errors: Errors | None = None
    scale_inputs: ScaleInputs | None = None
    tuned: bool = False
    one_type: str | None = None

    def __post_init__(self) -> None:
        if self.tuned and self.scale_inputs is not None:
            raise ValueError(f"recipe {self.name}: tuning knows the policy's own norms only")

    @property
    def needs_dataset(self) -> bool:
        return any(self.matrices.values())

    @property
    def needs_budget(self) -> bool:
        return self.one_type is None

    @property
    def float_type(self) -> str | None:
        """The type of all matrices of the file where that has no blocks."""
        plain = self.one_type is not None and get_format(self.one_type).grid == "float"
        return self.one_type if plain else None
