"""Attention that is spelled out, its masks, and keys and values repeated for groups of heads."""

from __future__ import annotations

import math

from actquant.capture.rewrite.match import orders, strip
from actquant.capture.rewrite.rewrite import Uses
from actquant.program.ir import Node, node, permute, reshape

MASKED = -1e4
"""A score at or below this is a mask, not a number."""


def attention(n: Node, uses: Uses) -> Node | None:
    """Fuses matmul(softmax(scale · q·kᵀ, masked), v), heads within the batch or not."""
    if n.op != "matmul" or len(n.shape) not in (3, 4):
        return None
    weights, v = n.inputs
    softmax = _with_batch_as(weights)
    if softmax.op != "softmax" or softmax.attrs["dim"] != len(softmax.shape) - 1:
        return None
    scores, mask = _split_mask(softmax.inputs[0])
    scale, scores = _without_scale(scores)
    scores = _with_batch_as(scores)
    if scores.op == "affine":
        factor, scores = _without_scale(scores)
        scale *= factor
    if scores.op != "matmul":
        return None
    batch = softmax.shape[:-2]
    if len(batch) > 2 and mask is not None:
        return None
    lead = (1,) * (2 - len(batch)) + batch if len(batch) <= 2 else (1, math.prod(batch))
    (a, q), (b, transposed) = (_without_scale(t) for t in scores.inputs)
    rank = len(transposed.shape)
    k = permute(transposed, (*range(rank - 2), rank - 1, rank - 2))
    if any(math.prod(t.shape[:-2]) != math.prod(lead) for t in (q, k, v)):
        return None
    q, k, v = (reshape(t, (*lead, *t.shape[-2:])) for t in (q, k, v))
    operands = [q, k, v] if mask is None else [q, k, v, mask]
    shape = (*q.shape[:-1], v.shape[-1])
    fused = node("sdpa", operands, shape, n.dtype, scale=scale * a * b, causal=False)
    return reshape(fused, n.shape)


def _with_batch_as(n: Node) -> Node:
    """The value beneath a reshape that only divides or merges the dimensions of the batch."""
    while n.op == "reshape" and n.inputs[0].shape[-2:] == n.shape[-2:]:
        n = n.inputs[0]
    return n


def _without_scale(n: Node) -> tuple[float, Node]:
    if n.op == "affine" and n.attrs["b"] == 0:
        return n.attrs["a"], n.inputs[0]
    if n.op == "permute" and n.inputs[0].op == "affine" and n.inputs[0].attrs["b"] == 0:
        return n.inputs[0].attrs["a"], permute(n.inputs[0].inputs[0], n.attrs["perm"])
    return 1.0, n


def _split_mask(scores: Node) -> tuple[Node, Node | None]:
    if scores.op == "where_s" and scores.attrs["v"] <= MASKED:
        mask, scores = scores.inputs
        return scores, strip(mask, ("expand",))
    if scores.op == "add":
        for x, mask in orders(scores):
            if _with_batch_as(_without_scale(_with_batch_as(x))[1]).op == "matmul":
                return x, mask
    return scores, None


def grouped_heads(n: Node, uses: Uses) -> Node | None:
    """Keys and values repeated for each group of query heads need no repetition."""
    if n.op != "sdpa":
        return None
    k, v = (_without_repeat(t) for t in n.inputs[1:3])
    if k is None or v is None:
        return None
    return node("sdpa", [n.inputs[0], k, v, *n.inputs[3:]], n.shape, n.dtype, **n.attrs)


def _without_repeat(n: Node) -> Node | None:
    """[B, Hk, L, D] of which n repeats each head, or None."""
    permuted = n.op == "permute" and n.attrs["perm"] == (0, 2, 1, 3)
    y = n.inputs[0] if permuted else n
    if y.op != "reshape" or len(y.shape) != 4 or y.inputs[0].op != "expand":
        return None
    wide = y.inputs[0]
    narrow = wide.inputs[0]
    if len(wide.shape) != 5:
        return None
    head = 2 if permuted else 1
    repeats = tuple(w for i, w in enumerate(wide.shape) if i != head + 1)
    plain = tuple(d for i, d in enumerate(narrow.shape) if i != head + 1)
    merged = y.shape[head] == wide.shape[head] * wide.shape[head + 1]
    if narrow.shape[head + 1] != 1 or repeats != plain or not merged:
        return None
    x = reshape(narrow, plain)
    return permute(x, (0, 2, 1, 3)) if permuted else x


def trivial_mask(n: Node, uses: Uses) -> Node | None:
    """Drops a constant mask that masks nothing."""
    if n.op != "sdpa" or len(n.inputs) != 4:
        return None
    mask = strip(n.inputs[3])
    if mask.op != "const":
        return None
    passes = mask.tensor.all() if mask.dtype == "b8" else (mask.tensor == 0).all()
    if not bool(passes):
        return None
    return node("sdpa", n.inputs[:3], n.shape, n.dtype, **n.attrs)
