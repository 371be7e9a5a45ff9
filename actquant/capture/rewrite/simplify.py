"""Rules that make a graph smaller without knowing any pattern of a model."""

from __future__ import annotations

import torch

from actquant.capture.rewrite.rewrite import SMALL, Uses, to_fixpoint
from actquant.program.interpret import evaluate
from actquant.program.ir import (
    Graph,
    Node,
    affine,
    concat,
    const,
    node,
    permute,
    reshape,
    slice_,
)
from actquant.program.ir import expand as expand_

ELEMENTWISE = frozenset(("add", "sub", "mul", "div", "and", "or", "le", "lt", "eq", "select"))


def simplify(graph: Graph) -> None:
    """Folds, merges and drops until nothing changes."""
    to_fixpoint(graph, [simplify_rule])


def simplify_rule(n: Node, uses: Uses) -> Node | None:
    rule = RULES.get(n.op)
    new = rule(n, uses) if rule else None
    return new or _drop_expand(n) or _fold(n)


def _fold(n: Node) -> Node | None:
    """An operator on constants only is a constant."""
    if not n.inputs or any(x.op != "const" for x in n.inputs):
        return None
    if sum(x.size for x in n.inputs) > SMALL or n.op == "expand":
        return None
    origin = frozenset().union(*(x.origin for x in n.inputs))
    return const(evaluate(n, [x.tensor for x in n.inputs]), origin)


def _cast(n: Node, _: Uses) -> Node | None:
    return n.inputs[0] if n.inputs[0].dtype == n.dtype else None


def _reshape(n: Node, _: Uses) -> Node | None:
    x = n.inputs[0]
    if x.shape == n.shape:
        return x
    if x.op == "reshape":
        return reshape(x.inputs[0], n.shape)
    if x.op == "const" and x.data is not None:
        return const(x.data.reshape(n.shape), x.origin)
    return None


def _permute(n: Node, _: Uses) -> Node | None:
    x, perm = n.inputs[0], n.attrs["perm"]
    if perm == tuple(range(len(perm))):
        return x
    if x.op == "permute":
        return permute(x.inputs[0], [x.attrs["perm"][p] for p in perm])
    moved = [p for p in perm if x.shape[p] != 1]
    if moved == sorted(moved):
        return reshape(x, n.shape)
    return None


def _expand(n: Node, _: Uses) -> Node | None:
    x = n.inputs[0]
    if x.shape == n.shape:
        return x
    return expand_(x.inputs[0], n.shape) if x.op == "expand" else None


def _slice(n: Node, _: Uses) -> Node | None:
    x = n.inputs[0]
    dim, start, end, step = (n.attrs[k] for k in ("dim", "start", "end", "step"))
    if (start, end, step) == (0, x.shape[dim], 1):
        return x
    if step != 1:
        return None
    if x.op == "slice" and x.attrs["dim"] == dim and x.attrs["step"] == 1:
        offset = x.attrs["start"]
        return slice_(x.inputs[0], dim, offset + start, offset + end)
    if x.op == "concat" and x.attrs["dim"] == dim:
        offset = 0
        for part in x.inputs:
            width = part.shape[dim]
            if offset <= start and end <= offset + width:
                return slice_(part, dim, start - offset, end - offset)
            offset += width
    return None


def _concat(n: Node, _: Uses) -> Node | None:
    dim = n.attrs["dim"]

    def nested(x: Node) -> bool:
        return x.op == "concat" and x.attrs["dim"] == dim

    def sliced(x: Node) -> bool:
        return x.op == "slice" and x.attrs["dim"] == dim and x.attrs["step"] == 1

    if len(n.inputs) == 1:
        return n.inputs[0]
    if any(nested(x) for x in n.inputs):
        return concat([y for x in n.inputs for y in (x.inputs if nested(x) else [x])], dim)
    if all(sliced(x) and x.inputs[0] is n.inputs[0].inputs[0] for x in n.inputs):
        ends = [x.attrs["end"] for x in n.inputs]
        starts = [x.attrs["start"] for x in n.inputs]
        if ends[:-1] == starts[1:]:
            return slice_(n.inputs[0].inputs[0], dim, starts[0], ends[-1])
    return None


def _affine(n: Node, uses: Uses) -> Node | None:
    x, a, b = n.inputs[0], n.attrs["a"], n.attrs["b"]
    if (a, b) == (1, 0) and x.dtype == n.dtype:
        return x
    if x.op == "affine" and uses.get(x, 1) == 1 and n.dtype == x.dtype != "i64":
        inner_a, inner_b = x.attrs["a"], x.attrs["b"]
        return affine(x.inputs[0], a * inner_a, a * inner_b + b, n.dtype)
    return None


def _arithmetic(n: Node, _: Uses) -> Node | None:
    """Arithmetic with a one-element constant is `affine`."""
    x, y = n.inputs
    if y.op == "const" and y.size == 1 and x.shape == n.shape and x.dtype == n.dtype:
        value = float(y.tensor)
        if n.op == "div" and value == 0:
            return None
        factors = {"mul": (value, 0.0), "add": (1.0, value), "sub": (1.0, -value)}
        return affine(x, *(factors[n.op] if n.op != "div" else (1 / value, 0.0)))
    if x.op == "const" and x.size == 1 and y.shape == n.shape and y.dtype == n.dtype:
        value = float(x.tensor)
        factors = {"mul": (value, 0.0), "add": (1.0, value), "sub": (-1.0, value)}
        return affine(y, *factors[n.op]) if n.op in factors else None
    return None


def _drop_expand(n: Node) -> Node | None:
    """Operators that broadcast need no explicit `expand`."""
    if n.op not in ELEMENTWISE or all(x.op != "expand" for x in n.inputs):
        return None
    operands = [x.inputs[0] if x.op == "expand" else x for x in n.inputs]
    if torch.broadcast_shapes(*(x.shape for x in operands)) != torch.Size(n.shape):
        return None
    return node(n.op, operands, n.shape, n.dtype, **n.attrs)


RULES = {
    "cast": _cast,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "concat": _concat,
    "affine": _affine,
    "add": _arithmetic,
    "sub": _arithmetic,
    "mul": _arithmetic,
    "div": _arithmetic,
}
