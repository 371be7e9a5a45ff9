"""Where the handlers of ATen operators are kept, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actquant.program.ir import TORCH_TO_DTYPE, Node, const

Handler = Callable[..., Any]
"""`handler(meta, *args, **kwargs)`: meta is the fake result (or a list of them); args: Nodes."""

HANDLERS: dict[str, Handler] = {}

PASS_THROUGH = frozenset(
    f"aten.{name}.default"
    for name in ("clone", "alias", "detach", "detach_", "lift_fresh_copy", "contiguous", "dropout")
)
CHECKS = frozenset(
    (
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten._assert_async.msg",
        "aten.sym_constrain_range_for_size.default",
    )
)
FILLS = {
    "aten.ones_like.default": 1,
    "aten.zeros_like.default": 0,
    "aten.empty_like.default": 0,
    "aten.new_ones.default": 1,
    "aten.new_zeros.default": 0,
    "aten.new_empty.default": 0,
}
"""Operators whose result depends on a shape only."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    def register(function: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


def shape_of(meta: Tensor) -> tuple[int, ...]:
    return tuple(int(d) for d in meta.shape)


def dtype_of(meta: Tensor) -> str:
    return TORCH_TO_DTYPE[meta.dtype]


def number(value: float) -> Node:
    """Returns a constant without dimensions: integers and booleans as i64, floats as exactly as
    needed."""
    if isinstance(value, (bool, int)):
        return const(torch.tensor(int(value)))
    exact = torch.tensor(value, dtype=torch.float64)
    single = exact.float()
    return const(single if bool(single.double() == exact) else exact)
