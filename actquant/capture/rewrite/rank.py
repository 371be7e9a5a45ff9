"""Operators on more than four dimensions, said with four: neighbouring dimensions become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from actquant.capture.rewrite.rewrite import Uses, to_fixpoint
from actquant.capture.rewrite.simplify import simplify_rule
from actquant.program.ir import Graph, Node, concat, expand, node, permute, reshape, slice_

MAX_RANK = 4


def limit_rank(graph: Graph) -> None:
    """Says with four dimensions what can be; unit dimensions do not count."""
    to_fixpoint(graph, [simplify_rule, _limit])


def _limit(n: Node, _: Uses) -> Node | None:
    rule = RULES.get(n.op)
    if rule is None or max((len(t.shape) for t in (n, *n.inputs)), default=0) <= MAX_RANK:
        return None
    real = max(sum(d != 1 for d in t.shape) for t in (n, *n.inputs))
    if real <= MAX_RANK and n.op not in LAYOUT:
        return None
    new = rule(n)
    return None if new is None else reshape(new, n.shape)


def _merged(shape: Sequence[int], groups: Iterable[Sequence[int]]) -> list[int]:
    return [math.prod(shape[d] for d in group) for group in groups]


def _groups(keys: Sequence[object]) -> list[list[int]]:
    """Neighbouring dimensions of equal keys."""
    return [list(group) for _, group in groupby(range(len(keys)), key=lambda d: keys[d])]


def _around(x: Node, dim: int) -> tuple[int, int, int]:
    return math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])


def _slice(n: Node) -> Node:
    x, a = n.inputs[0], n.attrs
    return slice_(reshape(x, _around(x, a["dim"])), 1, a["start"], a["end"], a["step"])


def _concat(n: Node) -> Node:
    return concat([reshape(x, _around(x, n.attrs["dim"])) for x in n.inputs], 1)


def _softmax(n: Node) -> Node:
    x = reshape(n.inputs[0], _around(n.inputs[0], n.attrs["dim"]))
    return node("softmax", [x], x.shape, n.dtype, dim=1)


def _permute(n: Node) -> Node:
    """One permutation of merged dimensions, or, if they are too many, one after another moved to
    its place from the left."""
    x = n.inputs[0]
    order = [d for d in n.attrs["perm"] if x.shape[d] != 1]
    groups = [[order[0]]]
    for d in order[1:]:
        between = range(groups[-1][-1] + 1, d)
        if d > groups[-1][-1] and all(x.shape[b] == 1 for b in between):
            groups[-1].append(d)
        else:
            groups.append([d])
    sources = sorted(groups)
    x = reshape(x, _merged(x.shape, sources))
    perm = [sources.index(group) for group in groups]
    if len(perm) <= MAX_RANK:
        return permute(x, perm)
    sizes = list(x.shape)
    at = list(range(len(perm)))
    for place, wanted in enumerate(perm):
        found = at.index(wanted)
        if found != place:
            blocks = [at[:place], at[place:found], [wanted], at[found + 1 :]]
            x = permute(reshape(x, _merged(sizes, blocks)), (0, 2, 1, 3))
            at = [d for i in (0, 2, 1, 3) for d in blocks[i]]
    return x


def _expand(n: Node) -> Node | None:
    shape = (1,) * (len(n.shape) - len(n.inputs[0].shape)) + n.inputs[0].shape
    groups = _groups([old == 1 and new != 1 for old, new in zip(shape, n.shape, strict=True)])
    if len(groups) > MAX_RANK:
        return None
    return expand(reshape(n.inputs[0], _merged(shape, groups)), _merged(n.shape, groups))


def _elementwise(n: Node) -> Node | None:
    """Dimensions in which the operands are broadcast alike become one."""
    shapes = [(1,) * (len(n.shape) - len(x.shape)) + x.shape for x in n.inputs]
    kept = [d for d, size in enumerate(n.shape) if size != 1]
    keys = [tuple(shape[d] == 1 for shape in shapes) for d in kept]
    groups = [[kept[i] for i in group] for group in _groups(keys)]
    if len(groups) > MAX_RANK:
        return None
    operands = [
        reshape(x, _merged(shape, groups)) for x, shape in zip(n.inputs, shapes, strict=True)
    ]
    return node(n.op, operands, _merged(n.shape, groups), n.dtype, **n.attrs)


def _reduction(n: Node) -> Node | None:
    x = n.inputs[0]
    kept = [d for d, size in enumerate(x.shape) if size != 1]
    keys = [d in n.attrs["dims"] for d in kept]
    groups = [[kept[i] for i in group] for group in _groups(keys)]
    if len(groups) > MAX_RANK:
        return None
    x = reshape(x, _merged(x.shape, groups))
    reduced = [i for i, group in enumerate(groups) if group[0] in n.attrs["dims"]]
    shape = [1 if i in reduced else size for i, size in enumerate(x.shape)]
    return node(n.op, [x], shape, n.dtype, dims=tuple(reduced), keep=True)


def _matmul(n: Node) -> Node | None:
    x, y = n.inputs
    if x.shape[:-2] != y.shape[:-2]:
        return None
    batch = math.prod(x.shape[:-2])
    operands = [reshape(t, (batch, *t.shape[-2:])) for t in (x, y)]
    return node("matmul", operands, (batch, *n.shape[-2:]), n.dtype)


def _rows(n: Node) -> Node:
    """Operators along the last dimension of the first operand."""
    x = n.inputs[0]
    rows = math.prod(x.shape[:-1])
    x = reshape(x, (rows, x.shape[-1]))
    return node(n.op, [x, *n.inputs[1:]], (rows, n.shape[-1]), n.dtype, **n.attrs)


LAYOUT = frozenset(("permute", "slice", "concat"))
UNARY = ("affine", "cast", "gelu", "silu", "relu", "tanh", "sigmoid", "exp", "log", "sqr", "sqrt")
UNARY += ("sin", "cos", "mish", "softplus", "elu", "leaky_relu", "clamp", "not", "select_s")
BINARY = ("add", "sub", "mul", "div", "glu", "and", "or", "le", "lt", "eq", "select")
RULES: dict[str, Callable[[Node], Node | None]] = {
    "permute": _permute,
    "slice": _slice,
    "concat": _concat,
    "softmax": _softmax,
    "expand": _expand,
    "sum": _reduction,
    "mean": _reduction,
    "matmul": _matmul,
    "linear": _rows,
    "layer_norm": _rows,
    "rms_norm": _rows,
    **dict.fromkeys(UNARY + BINARY, _elementwise),
}
