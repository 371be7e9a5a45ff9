import pytest

from actquant.allocation.budget import Budget, TensorSize
from actquant.allocation.llama_mixes import allocate_llama_mix
from actquant.common.errors import BudgetError

BLOCK = {
    "attn.q_proj": (256, 256),
    "attn.k_proj": (256, 256),
    "attn.v_proj": (256, 256),
    "attn.o_proj": (256, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}
TENSORS = [
    TensorSize(f"blk.{layer}.{name}.weight", *shape, f"blk.{layer}")
    for layer in range(16)
    for name, shape in BLOCK.items()
]
PARAMETERS = sum(t.rows * t.columns for t in TENSORS)


def allocated(bpw: float) -> dict[str, str]:
    budget = Budget(bpw, PARAMETERS, fixed_bytes=0)
    found = allocate_llama_mix(TENSORS, budget)
    assert found.file_bytes <= budget.tensor_bytes
    return found.types


def test_values_outputs_and_the_first_down_projections_get_more_bits():
    types = allocated(2.2)  # the mix IQ2_XXS, and what is left goes to the first tensors
    last = {name: types[f"blk.15.{name}.weight"] for name in BLOCK}
    assert last == dict.fromkeys(BLOCK, "IQ2_XXS") | {"attn.v_proj": "Q2_K"}
    assert [types[f"blk.{layer}.mlp.down_proj.weight"] for layer in (0, 1)] == ["Q2_K", "Q2_K"]
    types = allocated(3.13)
    assert types["blk.15.attn.q_proj.weight"] == "IQ2_S"
    assert types["blk.15.attn.o_proj.weight"] == "IQ3_S"
    assert types["blk.15.mlp.up_proj.weight"] == "IQ3_XXS"


@pytest.mark.parametrize("bpw", [1.8, 2.5, 3.0, 3.5, 4.0, 5.0, 7.0])
def test_what_is_left_is_spent_in_forward_order(bpw: float):
    budget = Budget(bpw, PARAMETERS, fixed_bytes=0)
    found = allocate_llama_mix(TENSORS, budget)
    assert 0.98 * budget.tensor_bytes < found.file_bytes <= budget.tensor_bytes


def test_short_rows_get_the_type_of_small_blocks():
    short = [*TENSORS, TensorSize("action_proj.weight", 64, 32, "projection")]
    found = allocate_llama_mix(short, Budget(2.5, PARAMETERS, 0))
    assert found.types["action_proj.weight"] in ("IQ4_NL", "Q4_0", "Q5_0", "Q8_0")


def test_too_small_a_budget_is_refused():
    with pytest.raises(BudgetError, match="feasible minimum"):
        allocated(1.2)
