"""A type for every quantizable tensor, under a budget on the size of the whole file.

Recipe `paper` (ActQuant, arXiv:2605.24011, stage 1): the noise of a type is 2^(-2 bpw), the error
E_l of a layer the sum of score x noise over its tensors; sum_l E_l^2 is minimised greedily by the
improvement per added bit, a layer's other tensors being scored again after each upgrade.
Recipe `rtn`: the highest type that all tensors can have, then the next one in forward order; no
type that needs importance.
Recipes `f32`, `f16`, `bf16` and `q8_0`: that type for every tensor, no budget.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import BudgetError
from actquant.format.tensor_types import Format, file_bytes, get_format, menu, resolve, tensor_bytes

UNIFORM = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Recipes that give every tensor one type, and need no budget."""
RECIPES = ("paper", "rtn", *UNIFORM)
PAPER_BASE = "IQ2_XXS"
PAPER_MAXIMUM = "Q6_K"
CEILING = "Q8_0"
"""The paper recipe goes on to this type when even its maximum leaves some of the budget."""
RTN_BASE = "Q2_K"
RTN_LAST_RESORT = ("IQ1_M", "IQ2_S")


@dataclass(frozen=True)
class TensorSize:
    """A quantizable tensor as allocation sees it: rows x columns weights of one layer.

    score: its sensitivity (any scale, negatives count as 0); single_precision: it stays F32 in the
    recipe `bf16` (`PolicyFamily.single_precision`).
    """

    name: str
    rows: int
    columns: int
    layer: str
    score: float = 0.0
    single_precision: bool = False


@dataclass(frozen=True)
class Budget:
    """The room there is: `parameter_count` parameters of the policy at `bpw` bits each, of which
    `fixed_bytes` go to everything that is not quantized (metadata, norms, embeddings)."""

    bpw: float
    parameter_count: int
    fixed_bytes: int

    @property
    def total_bytes(self) -> int:
        return math.floor(self.bpw * self.parameter_count / 8)

    @property
    def tensor_bytes(self) -> int:
        return self.total_bytes - self.fixed_bytes

    def to_bpw(self, quantized_bytes: int) -> float:
        """Whole-file bits per weight if the quantized tensors take this many bytes."""
        return 8 * (self.fixed_bytes + quantized_bytes) / self.parameter_count


class Allocation(BaseModel):
    """The type of each quantizable tensor, in forward order, and what it comes to.

    file_bytes: of the quantized tensors with padding and alignment. quantized_bpw: bits per weight
    over the quantized tensors alone. objective: sum_l E_l^2 (paper), else 0.
    """

    model_config = ConfigDict(extra="forbid")

    recipe: str
    types: dict[str, str]
    file_bytes: int
    quantized_bpw: float
    objective: float = 0.0


class _Choices:
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
        """Bytes of all tensors at their lowest and at their highest level."""
        rows = np.arange(len(self.ladders))
        return int(self.bytes[:, 0].sum()), int(self.bytes[rows, self.top].sum())

    def uniform(self, tensors: Sequence[TensorSize], entry: Format) -> np.ndarray:
        """The level of each tensor when all have one type: the best for the bytes of that type."""
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


def allocate(tensors: Sequence[TensorSize], recipe: str, budget: Budget | None) -> Allocation:
    """Choose the types by a recipe of RECIPES; those of UNIFORM need no budget.

    tensors: in forward order. The result never exceeds the budget, and no further upgrade of one
    tensor by one level would fit.

    Raises BudgetError, stating the feasible range, when the budget is too small or no number.
    """
    if recipe not in RECIPES:
        raise BudgetError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    if not tensors:
        raise BudgetError("the policy has no quantizable tensor")
    if recipe in UNIFORM:
        kept = UNIFORM[recipe] == "BF16"
        types = ["F32" if kept and t.single_precision else UNIFORM[recipe] for t in tensors]
        return _report(tensors, types, recipe)
    if budget is None:
        raise BudgetError(f"recipe {recipe} needs a budget in bits per weight")
    if not (math.isfinite(budget.bpw) and budget.bpw > 0):
        raise BudgetError(f"the budget must be a positive number of bits, not {budget.bpw}")
    return allocate_paper(tensors, budget) if recipe == "paper" else allocate_rtn(tensors, budget)


def allocate_paper(
    tensors: Sequence[TensorSize],
    budget: Budget,
    base: str = PAPER_BASE,
    maximum: str | None = None,
) -> Allocation:
    """The paper's greedy allocation between a base and a maximum type.

    maximum: None means PAPER_MAXIMUM, or CEILING when that one fits for every tensor.

    Raises BudgetError when not even the base type of every tensor fits.
    """
    choices = _Choices(tensors, menu(base, maximum or PAPER_MAXIMUM, importance=True))
    if maximum is None and budget.tensor_bytes >= choices.bounds()[1]:
        choices = _Choices(tensors, menu(base, CEILING, importance=True))
    _require(choices, budget, CEILING if maximum is None else maximum, tensors)
    levels, objective = _greedy(choices, tensors, budget.tensor_bytes)
    types = [ladder[lvl].name for ladder, lvl in zip(choices.ladders, levels, strict=True)]
    return _report(tensors, types, "paper", objective)


def _greedy(
    choices: _Choices, tensors: Sequence[TensorSize], available: int
) -> tuple[list[int], float]:
    """Levels of the tensors, and sum_l E_l^2. Upgrades by one level at a time."""
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


def allocate_rtn(tensors: Sequence[TensorSize], budget: Budget) -> Allocation:
    """Plain rounding: one type for all, the highest that fits, and the next one for the first
    tensors in forward order while the budget lasts.

    Rounding to nearest knows evenly spaced levels and no importance, so the types are those with a
    linear grid; types that need importance are excluded. Only where the smallest of them does not
    fit, RTN_LAST_RESORT joins in: codebooks that ggml can encode without importance.

    Raises BudgetError when not even the smallest such type fits.
    """
    types = menu(RTN_BASE, CEILING, importance=False, grid="linear")
    choices = _Choices(tensors, types)
    if budget.tensor_bytes < choices.bounds()[0]:
        types = [*map(get_format, RTN_LAST_RESORT), *types]
        choices = _Choices(tensors, types)
    _require(choices, budget, CEILING, tensors)
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
    return _report(tensors, names, "rtn")


def _require(
    choices: _Choices, budget: Budget, maximum: str, tensors: Sequence[TensorSize]
) -> None:
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


def _report(
    tensors: Sequence[TensorSize], types: Sequence[str], recipe: str, objective: float = 0.0
) -> Allocation:
    chosen = dict(zip((tensor.name for tensor in tensors), types, strict=True))
    return Allocation(
        recipe=recipe,
        types=chosen,
        file_bytes=sum(file_bytes(t.rows, t.columns, chosen[t.name]) for t in tensors),
        quantized_bpw=quantized_bpw(tensors, chosen),
        objective=objective,
    )


def quantized_bpw(tensors: Sequence[TensorSize], types: Mapping[str, str]) -> float:
    """Bits per weight over the quantized tensors alone, padding of rows included."""
    data = sum(tensor_bytes(t.rows, t.columns, types[t.name]) for t in tensors)
    return 8 * data / sum(t.rows * t.columns for t in tensors)
