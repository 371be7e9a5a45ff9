import itertools

import numpy as np
import pytest

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.layer_balanced import allocate_layer_balanced
from actquant.common.errors import BudgetError
from actquant.format.tensor_types import FORMATS, file_bytes, menu
from actquant.recipes import find_recipe


def make_tensors(count: int, seed: int = 0) -> list[TensorSize]:
    rng = np.random.default_rng(seed)
    return [
        TensorSize(
            f"t{i}",
            int(rng.integers(16, 300)),
            int(rng.choice([48, 64, 256, 300, 720, 1024])),
            f"layer.{i // 3}",
            float(rng.lognormal()) - 0.3,
        )
        for i in range(count)
    ]


def allocate(tensors: list[TensorSize], recipe: str, budget: Budget | None) -> Allocation:
    return find_recipe(recipe).allocate(tensors, budget)


def budget_for(tensors: list[TensorSize], bpw: float, fixed: int = 5000) -> Budget:
    return Budget(bpw, sum(t.rows * t.columns for t in tensors) + 2000, fixed)


def size_of(tensors: list[TensorSize], types: dict[str, str]) -> int:
    return sum(file_bytes(t.rows, t.columns, types[t.name]) for t in tensors)


@pytest.mark.parametrize("recipe", ["paper", "rtn"])
@pytest.mark.parametrize("bpw", [4.0, 4.7, 5.5])
def test_the_budget_is_met_and_used_up(recipe: str, bpw: float):
    tensors = make_tensors(20)
    budget = budget_for(tensors, bpw)
    allocation = allocate(tensors, recipe, budget)
    assert list(allocation.types) == [t.name for t in tensors]
    assert allocation.file_bytes == size_of(tensors, allocation.types)
    assert allocation.file_bytes <= budget.tensor_bytes
    left = budget.tensor_bytes - allocation.file_bytes
    top = "Q6_K" if recipe == "paper" else "Q8_0"
    low = ("IQ2_XXS", True, None) if recipe == "paper" else ("Q2_K", False, "linear")
    usable = menu(low[0], top, importance=low[1], grid=low[2])
    for tensor in tensors:
        now = FORMATS[allocation.types[tensor.name]]
        for entry in usable:
            if entry.bits_per_weight > now.bits_per_weight:
                added = file_bytes(tensor.rows, tensor.columns, entry.name) - file_bytes(
                    tensor.rows, tensor.columns, now.name
                )
                assert added > left, (tensor, now.name, entry.name)


def test_more_budget_never_raises_the_objective_much_and_lowers_it_overall():
    tensors = make_tensors(15, seed=3)
    objectives = [
        allocate(tensors, "paper", budget_for(tensors, bpw)).objective
        for bpw in (3.8, 4.2, 4.6, 5.0, 6.0)
    ]
    assert all(b <= a for a, b in itertools.pairwise(objectives))
    assert objectives[-1] < objectives[0] / 2


def test_greedy_is_close_to_the_optimum_of_tiny_cases():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        tensors = [
            TensorSize(f"t{i}", 64, 256, f"layer.{i // 2}", float(rng.lognormal()))
            for i in range(4)
        ]
        budget = Budget(3.2, 4 * 64 * 256, 0)
        found = allocate_layer_balanced(tensors, budget, "IQ2_XXS", "Q4_K")
        best = min(
            objective(tensors, types)
            for types in (
                dict(zip((t.name for t in tensors), combination, strict=True))
                for combination in itertools.product(
                    [e.name for e in menu("IQ2_XXS", "Q4_K", importance=True)], repeat=4
                )
            )
            if size_of(tensors, types) <= budget.tensor_bytes
        )
        assert found.objective == pytest.approx(objective(tensors, found.types))
        assert best <= found.objective * (1 + 1e-12) <= 1.3 * best


def objective(tensors: list[TensorSize], types: dict[str, str]) -> float:
    errors: dict[str, float] = {}
    for t in tensors:
        noise = 2.0 ** (-2 * FORMATS[types[t.name]].bits_per_weight)
        errors[t.layer] = errors.get(t.layer, 0.0) + max(t.score, 0.0) * noise
    return sum(e**2 for e in errors.values())


def test_sensitive_tensors_get_more_bits_and_negative_scores_none():
    tensors = [TensorSize(f"t{i}", 64, 256, f"l{i}", s) for i, s in enumerate([5.0, 0.1, -9.0])]
    allocation = allocate(tensors, "paper", Budget(3.5, 3 * 64 * 256, 0))
    bits = [FORMATS[allocation.types[t.name]].bits_per_weight for t in tensors]
    assert bits[0] > bits[1] > bits[2]


def test_a_rich_budget_ends_at_the_ceiling():
    tensors = make_tensors(5)
    allocation = allocate(tensors, "paper", budget_for(tensors, 30.0))
    assert set(allocation.types.values()) == {"Q8_0"}
    assert allocate(tensors, "rtn", budget_for(tensors, 30.0)).types == allocation.types


def test_rtn_upgrades_in_forward_order():
    tensors = [TensorSize(f"t{i}", 64, 256, "l", 0.0) for i in range(4)]
    allocation = allocate(tensors, "rtn", Budget(3.3, 4 * 64 * 256, 0))
    assert list(allocation.types.values()) == ["Q3_K", "Q3_K", "Q3_K", "Q2_K"]


def test_rtn_falls_back_to_codebooks_only_below_its_grids():
    tensors = [TensorSize(f"t{i}", 64, 256, "l", 0.0) for i in range(4)]
    allocation = allocate(tensors, "rtn", Budget(2.2, 4 * 64 * 256, 0))
    assert list(allocation.types.values()) == ["Q2_K", "Q2_K", "IQ1_M", "IQ1_M"]
    assert not any(FORMATS[name].needs_importance for name in allocation.types.values())
    with pytest.raises(BudgetError, match="minimum is 1.750"):
        allocate(tensors, "rtn", Budget(1.5, 4 * 64 * 256, 0))


def test_f16_needs_no_budget():
    tensors = make_tensors(4)
    allocation = allocate(tensors, "f16", None)
    assert set(allocation.types.values()) == {"F16"} and allocation.quantized_bpw == 16


@pytest.mark.parametrize("recipe", ["paper", "rtn"])
def test_an_impossible_budget_names_the_feasible_range(recipe: str):
    tensors = make_tensors(6)
    with pytest.raises(BudgetError, match="feasible minimum") as caught:
        allocate(tensors, recipe, budget_for(tensors, 1.0))
    minimum = float(str(caught.value).split("feasible minimum is ")[1].split(",")[0])
    allocate(tensors, recipe, budget_for(tensors, minimum))
    with pytest.raises(BudgetError):
        allocate(tensors, recipe, budget_for(tensors, minimum - 0.01))


@pytest.mark.parametrize("bpw", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_budget_must_be_a_positive_number(bpw: float):
    with pytest.raises(BudgetError, match="positive"):
        Budget(bpw, 1000, 0)
