"""ATen operators on masks and indices: comparisons, logic, choice."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from actquant.capture.export.aten_registry import (
    HANDLERS,
    Handler,
    dtype_of,
    handles,
    number,
    shape_of,
)
from actquant.program.ir import Node, affine, cast, node, reshape


def operand(value: Any) -> Node:
    return value if isinstance(value, Node) else number(value)


def _compare(op: str, swap: bool = False, negate: bool = False) -> Handler:
    def handler(meta: Tensor, x: Any, y: Any) -> Node:
        operands = [operand(y), operand(x)] if swap else [operand(x), operand(y)]
        result = node(op, operands, shape_of(meta), "b8")
        return _not(meta, result) if negate else result

    return handler


COMPARISONS = {
    "le": _compare("le"),
    "lt": _compare("lt"),
    "ge": _compare("le", swap=True),
    "gt": _compare("lt", swap=True),
    "eq": _compare("eq"),
    "ne": _compare("eq", negate=True),
}
for _name, _handler in COMPARISONS.items():
    HANDLERS[f"aten.{_name}.Tensor"] = HANDLERS[f"aten.{_name}.Scalar"] = _handler


def _logic(op: str) -> Handler:
    def handler(meta: Tensor, x: Any, y: Any) -> Node:
        return node(op, [cast(operand(t), "b8") for t in (x, y)], shape_of(meta), "b8")

    return handler


for _op in ("and", "or"):
    for _name in (f"__{_op}__.Tensor", f"bitwise_{_op}.Tensor", f"logical_{_op}.default"):
        HANDLERS[f"aten.{_name}"] = _logic(_op)


@handles("aten.logical_not.default", "aten.bitwise_not.default")
def _not(meta: Tensor, x: Node) -> Node:
    if x.op == "not":
        return x.inputs[0]
    return node("not", [cast(x, "b8")], x.shape, "b8")


def _quantifier(op: str) -> Handler:
    """`any` is the largest of booleans, `all` the smallest."""

    def handler(meta: Tensor, x: Node, dims: Any = None, keepdim: bool = False) -> Node:
        rank = len(x.shape)
        dims = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
        dims = tuple(d % rank for d in dims)
        return node(op, [cast(x, "b8")], shape_of(meta), "b8", dims=dims, keep=bool(keepdim))

    return handler


for _form in ("default", "dim", "dims"):
    HANDLERS[f"aten.any.{_form}"] = _quantifier("max")
    HANDLERS[f"aten.all.{_form}"] = _quantifier("min")


@handles("aten.where.ScalarOther")
def _where_scalar(meta: Tensor, condition: Node, x: Node, value: float) -> Node:
    x = cast(x, dtype_of(meta))
    return node("where_s", [condition, x], shape_of(meta), dtype_of(meta), v=float(value))


@handles("aten.where.ScalarSelf")
def _where_scalar_self(meta: Tensor, condition: Node, value: float, y: Node) -> Node:
    return _where_scalar(meta, _not(meta, condition), y, value)


@handles("aten.where.Scalar")
def _select_scalars(meta: Tensor, condition: Node, a: float, b: float) -> Node:
    return node("select_s", [condition], shape_of(meta), dtype_of(meta), a=float(a), b=float(b))


@handles("aten.where.self")
def _where(meta: Tensor, condition: Node, x: Node, y: Node) -> Node:
    if y.op == "const" and y.size == 1:
        return _where_scalar(meta, condition, x, float(y.tensor))
    if x.op == "const" and x.size == 1:
        return _where_scalar(meta, _not(meta, condition), y, float(x.tensor))
    branches = [cast(t, dtype_of(meta)) for t in (x, y)]
    return node("select", [condition, *branches], shape_of(meta), dtype_of(meta))


@handles("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(meta: Tensor, x: Node, mask: Node, value: Any) -> Node:
    if isinstance(value, Node):
        return _where(meta, mask, value, x)
    return _where_scalar(meta, _not(meta, mask), x, value)


def _extreme(first_if: str) -> Handler:
    """The element of two that is smaller or larger."""

    def handler(meta: Tensor, x: Node, y: Node) -> Node:
        dtype = dtype_of(meta)
        x, y = cast(x, dtype), cast(y, dtype)
        if dtype == "i64":
            pair = [x, y] if first_if == "lt" else [y, x]
            smaller = node("lt", pair, shape_of(meta), "b8")
            return node("select", [smaller, x, y], shape_of(meta), dtype)
        pair = [y, x] if first_if == "lt" else [x, y]
        excess = node("relu", [node("sub", pair, shape_of(meta), dtype)], shape_of(meta), dtype)
        op = "sub" if first_if == "lt" else "add"
        return node(op, [y, excess], shape_of(meta), dtype)

    return handler


HANDLERS["aten.minimum.default"] = _extreme("lt")
HANDLERS["aten.maximum.default"] = _extreme("gt")


def positions(shape: tuple[int, ...], dim: int) -> Node:
    """Returns 0, 1, 2, … along `dim`, i64."""
    ones = node("full", [], shape, "i64", shape=shape, value=1)
    return affine(node("cumsum", [ones], shape, "i64", dim=dim), 1, -1)


@handles("aten.argmax.default")
def _argmax(meta: Tensor, x: Node, dim: int | None = None, keepdim: bool = False) -> Node:
    """The first position of the largest value; for values of the host."""
    if dim is None:
        x, dim = reshape(x, (math.prod(x.shape),)), 0
    dim %= len(x.shape)
    kept = tuple(1 if d == dim else size for d, size in enumerate(x.shape))
    largest = node("max", [x], kept, x.dtype, dims=(dim,), keep=True)
    found = node("eq", [x, largest], x.shape, "b8")
    line = tuple(size if d == dim else 1 for d, size in enumerate(x.shape))
    last = number(x.shape[dim])
    choice = node("select", [found, positions(line, dim), last], x.shape, "i64")
    return node("min", [choice], shape_of(meta), "i64", dims=(dim,), keep=bool(keepdim))
