import itertools

import numpy as np
import pytest

from actquant.allocation.budget import Budget, TensorSize
from actquant.allocation.measured import allocate_measured, types_of
from actquant.common.errors import BudgetError
from actquant.format.tensor_types import file_bytes

SHAPES = ((64, 256), (32, 512), (48, 96), (16, 1024))


def make(seed: int) -> list[TensorSize]:
    """Tensors whose errors fall with the bits, but not evenly, as measured ones do."""
    rng = np.random.default_rng(seed)
    tensors = []
    for k, (rows, columns) in enumerate(SHAPES):
        size = TensorSize(f"blk.{k}", rows, columns, f"layer.{k}")
        weight = np.exp(3 * rng.normal())
        errors = {
            entry.name: float(weight * 2 ** (-2 * entry.bits_per_weight) * rng.uniform(0.5, 2))
            for entry in types_of(size)
        }
        tensors.append(TensorSize(size.name, rows, columns, size.layer, errors=errors))
    return tensors


def cost(tensors: list[TensorSize], types: dict[str, str]) -> tuple[int, float]:
    """Bytes and error of an allocation."""
    size = sum(file_bytes(t.rows, t.columns, types[t.name]) for t in tensors)
    return size, sum(t.errors[types[t.name]] for t in tensors)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_allocation_of_as_many_bytes_has_less_error(seed: int):
    tensors = make(seed)
    parameters = sum(t.rows * t.columns for t in tensors)
    ladders = [[entry.name for entry in types_of(t)] for t in tensors]
    names = [t.name for t in tensors]
    every = [cost(tensors, dict(zip(names, x, strict=True))) for x in itertools.product(*ladders)]
    for bpw in (3.2, 4.0, 5.5):
        budget = Budget(bpw, parameters, fixed_bytes=0)
        found = allocate_measured(tensors, budget)
        size, error = cost(tensors, found.types)
        assert size == found.file_bytes <= budget.tensor_bytes
        assert error == pytest.approx(found.objective)
        # Upgrades on the hull are optimal but for what the last bytes would have bought.
        assert error <= min(e for s, e in every if s <= size - max(s for s, _ in cheapest(tensors)))


def cheapest(tensors: list[TensorSize]) -> list[tuple[int, str]]:
    """The largest step in bytes that each tensor's ladder has."""
    steps = []
    for tensor in tensors:
        sizes = [file_bytes(tensor.rows, tensor.columns, e.name) for e in types_of(tensor)]
        steps.append((max(np.diff(sizes)), tensor.name))
    return steps


def test_a_type_that_costs_more_and_is_no_better_is_never_chosen():
    size = TensorSize("blk.0", 64, 256, "layer.0")
    errors = {entry.name: 1.0 for entry in types_of(size)} | {"Q8_0": 0.1}
    tensor = TensorSize("blk.0", 64, 256, "layer.0", errors=errors)
    found = allocate_measured([tensor], Budget(5.0, 64 * 256, 0))
    assert found.types == {"blk.0": "IQ1_S"}
    found = allocate_measured([tensor], Budget(9.0, 64 * 256, 0))
    assert found.types == {"blk.0": "Q8_0"}


def test_a_budget_that_cannot_be_met_is_refused_before_errors_are_measured():
    tensors = [TensorSize("blk.0", 64, 256, "layer.0")]
    with pytest.raises(BudgetError, match="feasible minimum is 1.56"):
        allocate_measured(tensors, Budget(1.0, 64 * 256, 0))
    assert allocate_measured(tensors, Budget(4.0, 64 * 256, 0)).types == {"blk.0": "IQ1_S"}
