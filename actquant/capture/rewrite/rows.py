"""Rows that nothing reads are not computed: a slice moves before what works row by row."""

from __future__ import annotations

import math

from actquant.capture.rewrite.rewrite import Uses, to_fixpoint
from actquant.capture.rewrite.simplify import simplify_rule
from actquant.program.ir import Graph, Node, node, permute, reshape, slice_

ACTIVATIONS = frozenset(("gelu", "silu", "relu", "tanh", "sigmoid", "exp", "sqr", "sqrt"))
ELEMENTWISE = ACTIVATIONS | {"add", "sub", "mul", "div", "affine", "cast", "glu"}
ROWWISE = frozenset(("linear", "rms_norm", "layer_norm"))
"""Operators on the last dimension of their first operand; the others are weights."""


def keep_read_rows(graph: Graph) -> None:
    """Moves slices of rows towards the inputs, past operators whose other rows nobody reads."""
    to_fixpoint(graph, [simplify_rule, _push])


def _push(n: Node, uses: Uses) -> Node | None:
    if n.op != "slice" or n.attrs["dim"] == len(n.shape) - 1 or n.attrs["step"] != 1:
        return None
    x, dim = n.inputs[0], n.attrs["dim"]
    if uses.get(x, 1) != 1 or x.is_tensor or n.shape[dim] == x.shape[dim]:
        return None
    operands = _sliced_operands(n, x, dim)
    if operands is None:
        return None
    if x.op == "permute":
        return permute(operands[0], x.attrs["perm"])
    if x.op == "reshape":
        return reshape(operands[0], n.shape)
    return node(x.op, operands, n.shape, x.dtype, **x.attrs)


def _sliced_operands(n: Node, x: Node, dim: int) -> list[Node] | None:
    """The operands of x, of which only what the slice n reads is kept; None if x needs them all."""
    bounds = n.attrs["start"], n.attrs["end"]
    if not x.inputs:
        return None
    first, *others = x.inputs
    if x.op in ELEMENTWISE:
        return [_aligned(y, dim - len(n.shape), *bounds) for y in x.inputs]
    if x.op in ROWWISE:
        return [slice_(first, dim, *bounds), *others]
    if x.op == "permute":
        return [slice_(first, x.attrs["perm"][dim], *bounds)]
    if x.op == "reshape":
        inner = _same_dimension(first.shape, x.shape, dim)
        return None if inner is None else [slice_(first, inner, *bounds)]
    if x.op == "rope" and dim == 1 and x.shape[0] == 1:
        positions, frequencies = others
        return [slice_(first, dim, *bounds), slice_(positions, 0, *bounds), frequencies]
    if x.op == "sdpa" and dim == 2 and not x.attrs["causal"]:
        k, v, *mask = others
        return [slice_(first, dim, *bounds), k, v, *(_aligned(m, -2, *bounds) for m in mask)]
    return None


def _aligned(x: Node, dim: int, start: int, end: int) -> Node:
    """A slice along a dimension counted from the end, unless x is broadcast along it."""
    if len(x.shape) < -dim or x.shape[dim] == 1:
        return x
    return slice_(x, len(x.shape) + dim, start, end)


def _same_dimension(before: tuple[int, ...], after: tuple[int, ...], dim: int) -> int | None:
    """The dimension of `before` that a reshape to `after` leaves as its dimension `dim`."""
    leading = math.prod(after[:dim])
    for index, size in enumerate(before):
        if size == after[dim] and math.prod(before[:index]) == leading:
            return index
    return None
