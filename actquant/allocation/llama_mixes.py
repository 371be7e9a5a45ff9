"""The type mixes of llama.cpp's quantizer (llama-quant.cpp), for models without experts and with an
importance matrix: a base type, and more bits for values, outputs and down projections."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.allocation.choices import Choices, require_feasible
from actquant.format.tensor_types import file_bytes, get_format, menu, resolve

ROLES = (
    ("value", r"\b(v_proj|wv|to_v)\.weight$"),
    ("query_key", r"\b(q_proj|k_proj|wq|wk|to_q|to_k)\.weight$"),
    ("output", r"\b(o_proj|out_proj|to_out|wo)\.weight$"),
    ("down", r"\b(down_proj|fc2|linear2|w2)\.weight$"),
)
"""Role in a transformer's block -> how a weight with it is named."""
Place = tuple[int, int]
"""(which of the tensors with this role it is, how many there are)"""


def _more_bits(place: Place) -> bool:
    at, count = place
    return at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2


@dataclass(frozen=True)
class Mix:
    """Types by role; a function takes the place of the tensor among those of its role."""

    name: str
    base: str
    value: str | Callable[[Place], str] | None = None
    query_key: str | None = None
    output: str | None = None
    down: str | Callable[[Place], str] | None = None

    def type_of(self, role: str, place: Place) -> str:
        by_role = {
            "value": self.value,
            "query_key": self.query_key,
            "output": self.output,
            "down": self.down,
        }
        wanted = by_role.get(role) or self.base
        return wanted if isinstance(wanted, str) else wanted(place)


def _first_eighth(type_name: str, base: str) -> Callable[[Place], str]:
    return lambda place: type_name if place[0] < place[1] // 8 else base


def _where_it_counts(type_name: str, base: str) -> Callable[[Place], str]:
    return lambda place: type_name if _more_bits(place) else base


MIXES = (
    Mix("IQ1_S", "IQ1_S", "Q2_K", None, "IQ2_XXS", _first_eighth("Q2_K", "IQ1_S")),
    Mix("IQ1_M", "IQ1_M", "Q2_K", None, "IQ2_XXS", _first_eighth("Q2_K", "IQ1_M")),
    Mix("IQ2_XXS", "IQ2_XXS", "Q2_K", down=_first_eighth("Q2_K", "IQ2_XXS")),
    Mix("IQ2_XS", "IQ2_XS", "Q2_K", down=_first_eighth("Q2_K", "IQ2_XS")),
    Mix("IQ2_S", "IQ2_XS", "IQ3_S", None, "IQ3_S", _first_eighth("IQ3_S", "IQ2_XS")),
    Mix("IQ2_M", "IQ2_S", "IQ3_S", None, "IQ3_S", _first_eighth("IQ3_S", "IQ2_S")),
    Mix("IQ3_XXS", "IQ3_XXS", "IQ3_XXS", "IQ2_S", "IQ3_S"),
    Mix("IQ3_S", "IQ3_S"),
    Mix("IQ3_M", "IQ3_S", "Q4_K", None, "Q4_K", _first_eighth("Q4_K", "IQ3_S")),
    Mix(
        "Q3_K_M",
        "Q3_K",
        lambda place: "Q5_K" if place[0] < 2 else "Q4_K",
        None,
        "Q4_K",
        lambda place: "Q5_K" if place[0] < place[1] // 16 else "Q4_K",
    ),
    Mix("IQ4_XS", "IQ4_XS"),
    Mix("Q4_K_M", "Q4_K", _where_it_counts("Q6_K", "Q4_K"), down=_where_it_counts("Q6_K", "Q4_K")),
    Mix("Q5_K_M", "Q5_K", _where_it_counts("Q6_K", "Q5_K"), down=_where_it_counts("Q6_K", "Q5_K")),
    Mix("Q6_K", "Q6_K"),
    Mix("Q8_0", "Q8_0"),
)
"""Facts of llama_tensor_get_type, from fewest to most bits."""


def allocate_llama_mix(tensors: Sequence[TensorSize], budget: Budget) -> Allocation:
    """Gives the largest mix that fits; the bytes that are left go to the next mix's types of the
    first tensors, so that files of all recipes are equally large.

    tensors: in forward order. Raises BudgetError when not even the smallest mix fits.
    """
    mixes = [_types(tensors, mix) for mix in MIXES]
    costs = [_cost(tensors, types) for types in mixes]
    fitting = [place for place, cost in enumerate(costs) if cost <= budget.tensor_bytes]
    if not fitting:
        choices = Choices(tensors, menu("IQ1_M", "Q8_0", importance=True))
        require_feasible(choices, budget, "Q8_0", tensors)
        return Allocation.of_types(tensors, [ladder[0].name for ladder in choices.ladders])
    best = max(fitting, key=lambda place: costs[place])
    types, left = mixes[best], budget.tensor_bytes - costs[best]
    for larger in mixes[best + 1 :]:
        for place, tensor in enumerate(tensors):
            now = file_bytes(tensor.rows, tensor.columns, types[place])
            added = file_bytes(tensor.rows, tensor.columns, larger[place]) - now
            if 0 < added <= left:
                types[place] = larger[place]
                left -= added
    return Allocation.of_types(tensors, types)


def _cost(tensors: Sequence[TensorSize], types: Sequence[str]) -> int:
    pairs = zip(tensors, types, strict=True)
    return sum(file_bytes(tensor.rows, tensor.columns, name) for tensor, name in pairs)


def _role(name: str) -> str:
    return next((role for role, pattern in ROLES if re.search(pattern, name)), "other")


def _types(tensors: Sequence[TensorSize], mix: Mix) -> list[str]:
    roles = [_role(tensor.name) for tensor in tensors]
    seen: dict[str, int] = {}
    types = []
    for tensor, role in zip(tensors, roles, strict=True):
        place = (seen.get(role, 0), roles.count(role))
        seen[role] = place[0] + 1
        wanted = get_format(mix.type_of(role, place))
        types.append(resolve(wanted, tensor.columns).name)
    return types
