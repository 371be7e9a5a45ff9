"""Properties of allocations that hold for whatever tensors and budgets hypothesis thinks of."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.layer_balanced import allocate_layer_balanced
from actquant.allocation.measured import allocate_measured, types_of
from actquant.common.errors import BudgetError
from actquant.format.tensor_types import file_bytes

ALGORITHMS = (allocate_measured, allocate_layer_balanced)


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorSize]:
    found = []
    for k in range(draw(st.integers(1, 6))):
        size = TensorSize(
            f"blk.{k}",
            rows=draw(st.integers(1, 64)),
            columns=draw(st.integers(1, 1024)),
            layer=f"layer.{draw(st.integers(0, 2))}",
            score=draw(st.floats(-1, 1e6)),
        )
        errors = {entry.name: draw(st.floats(0, 1e6)) for entry in types_of(size)}
        found.append(TensorSize(**(vars(size) | {"errors": errors})))
    return found


def parameters(sizes: list[TensorSize]) -> int:
    return sum(size.rows * size.columns for size in sizes)


@settings(max_examples=60, deadline=None)
@given(tensors(), st.floats(0.5, 20), st.integers(0, 2000), st.sampled_from(ALGORITHMS))
def test_a_budget_is_kept_or_refused(sizes, bpw: float, fixed: int, allocate) -> None:
    budget = Budget(bpw, parameters(sizes), fixed)
    try:
        found = allocate(sizes, budget)
    except BudgetError as error:
        assert "feasible minimum" in str(error)
        return
    assert list(found.types) == [size.name for size in sizes]
    assert found.file_bytes <= budget.tensor_bytes
    assert found.file_bytes == sum(
        file_bytes(size.rows, size.columns, found.types[size.name]) for size in sizes
    )
    assert budget.to_bpw(found.file_bytes) <= bpw


@settings(max_examples=60, deadline=None)
@given(tensors(), st.floats(1, 20), st.floats(0, 5), st.sampled_from(ALGORITHMS))
def test_a_feasible_budget_stays_feasible_when_it_grows(
    sizes, bpw: float, more: float, allocate
) -> None:
    count = parameters(sizes)
    try:
        allocate(sizes, Budget(bpw, count, 0))
    except BudgetError:
        return
    larger = Budget(bpw + more, count, 0)
    assert larger.to_bpw(allocate(sizes, larger).file_bytes) <= bpw + more


@settings(max_examples=40, deadline=None)
@given(tensors())
def test_with_room_for_all_the_measured_error_is_the_least_there_is(sizes) -> None:
    found = allocate_measured(sizes, Budget(1e4, parameters(sizes), 0))
    least = sum(min(size.errors.values()) for size in sizes)
    assert found.objective == pytest.approx(least)


@given(tensors(), st.sampled_from(["Q8_0", "Q4_K", "F16"]))
def test_bits_per_weight_follow_from_bytes(sizes, name: str) -> None:
    found = Allocation.of_types(sizes, [name] * len(sizes))
    assert 0 < found.quantized_bpw * parameters(sizes) / 8 <= found.file_bytes


@given(st.one_of(st.floats(max_value=0), st.just(math.inf), st.just(math.nan)))
def test_no_budget_is_not_a_positive_number(bpw: float) -> None:
    with pytest.raises(BudgetError):
        Budget(bpw, 1, 0)
