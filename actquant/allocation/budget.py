"""The tensors of an allocation, the bytes they may take, and the types they get."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from actquant.common.errors import BudgetError
from actquant.format.tensor_types import file_bytes, tensor_bytes


@dataclass(frozen=True)
class TensorSize:
    """A quantizable tensor as allocation sees it: rows x columns weights of one layer.

    score: its sensitivity (any scale, negatives count as 0); errors: what it does to the actions in
    each type it may have, where that was measured; single_precision: it stays F32 beside BF16
    (`PolicyFamily.single_precision`).
    """

    name: str
    rows: int
    columns: int
    layer: str
    score: float = 0.0
    single_precision: bool = False
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The bytes there are: `parameter_count` parameters of the policy at `bpw` bits each, of which
    `fixed_bytes` go to everything that is not quantized (metadata, norms, embeddings).

    Raises BudgetError if bpw is not a positive number.
    """

    bpw: float
    parameter_count: int
    fixed_bytes: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bpw) and self.bpw > 0):
            raise BudgetError(f"the budget must be a positive number of bits, not {self.bpw}")

    @property
    def total_bytes(self) -> int:
        return math.floor(self.bpw * self.parameter_count / 8)

    @property
    def tensor_bytes(self) -> int:
        return self.total_bytes - self.fixed_bytes

    def to_bpw(self, quantized_bytes: int) -> float:
        """Returns the whole-file bits per weight if the quantized tensors take this many bytes."""
        return 8 * (self.fixed_bytes + quantized_bytes) / self.parameter_count


class Allocation(BaseModel):
    """The type of each quantizable tensor, in forward order, and what it comes to.

    file_bytes: of the quantized tensors with padding and alignment. quantized_bpw: bits per weight
    over the quantized tensors alone, padding of rows included. objective: what the algorithm
    minimised, 0 for one that minimises nothing.
    """

    model_config = ConfigDict(extra="forbid")

    types: dict[str, str]
    file_bytes: int
    quantized_bpw: float
    objective: float = 0.0

    @classmethod
    def of_types(
        cls, tensors: Sequence[TensorSize], types: Sequence[str], objective: float = 0.0
    ) -> "Allocation":
        """Returns the allocation of these types, one a tensor."""
        chosen = dict(zip((tensor.name for tensor in tensors), types, strict=True))
        return cls(
            types=chosen,
            file_bytes=sum(file_bytes(t.rows, t.columns, chosen[t.name]) for t in tensors),
            quantized_bpw=quantized_bpw(tensors, chosen),
            objective=objective,
        )


def quantized_bpw(tensors: Sequence[TensorSize], types: Mapping[str, str]) -> float:
    """Returns the bits per weight over the quantized tensors alone, padding of rows included."""
    data = sum(tensor_bytes(t.rows, t.columns, types[t.name]) for t in tensors)
    return 8 * data / sum(t.rows * t.columns for t in tensors)
