"""Patterns become one operator: RMSNorm, RoPE, eager attention, gated MLP, patch embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from actquant.capture.ir import Graph, Node, const, node, permute, reshape
from actquant.capture.rank import limit_rank
from actquant.capture.rewrite import Uses, to_fixpoint
from actquant.capture.simplify import simplify_rule

MASKED = -1e30
"""A score below this is a mask, not a number."""


def fuse(graph: Graph) -> None:
    """Fuse all known patterns, in the order in which they depend on each other."""
    for rule in (rms_norm, rope, attention, grouped_heads, gate, trivial_mask, patches):
        to_fixpoint(graph, [simplify_rule, rule])
    limit_rank(graph)


def fusion_report(graph: Graph) -> dict[str, int]:
    """Fused operators, and what should have been fused: the `unfused_*` counts ought to be zero."""
    operations = graph.operations()
    counts = {op: 0 for op in ("rms_norm", "layer_norm", "rope", "sdpa", "glu", "linear")}
    for n in operations:
        if n.op in counts:
            counts[n.op] += 1
    return {
        **counts,
        "unfused_rms_norm": sum(_is_reciprocal_root(n) for n in operations),
        "unfused_rope": sum(_is_rotated_half(n) or _is_split_rotation(n) for n in operations),
        "unfused_sdpa": sum(_is_attention(n) for n in operations),
        "unfused_glu": sum(
            n.op == "mul" and any(x.op in ("silu", "gelu") for x in n.inputs) for n in operations
        ),
    }


def _is_attention(n: Node) -> bool:
    """softmax(…)·v; with a tensor of the file in the place of v it is a mean over fixed points."""
    if n.op != "matmul" or strip(n.inputs[0]).op != "softmax":
        return False
    return not strip(n.inputs[1], ("cast", "reshape", "expand", "permute")).is_tensor


def _is_reciprocal_root(n: Node) -> bool:
    """1 / sqrt(x), as it is before and after it is spelled out for the runtime."""
    return n.op == "rsqrt" or (n.op == "div" and n.inputs[1].op == "sqrt")


def strip(n: Node, ops: tuple[str, ...] = ("cast", "reshape", "expand")) -> Node:
    """The value beneath operators that only change its form."""
    while n.op in ops:
        n = n.inputs[0]
    return n


def orders(n: Node) -> Iterator[tuple[Node, Node]]:
    """Both orders of the operands of a commutative operator."""
    x, y = n.inputs
    yield x, y
    yield y, x


def rms_norm(n: Node, uses: Uses) -> Node | None:
    """x · rsqrt(mean(x²) + eps), and the weight that follows."""
    if n.op != "mul":
        return None
    for x, r in orders(n):
        if r.op == "rsqrt" and r.inputs[0].op == "affine" and r.inputs[0].attrs["a"] == 1:
            mean = r.inputs[0].inputs[0]
            square = mean.inputs[0] if mean.op == "mean" else mean
            last = (len(x.shape) - 1,)
            if mean.op == "mean" and mean.attrs["dims"] == last and square.op == "sqr":
                if strip(square.inputs[0], ("cast",)) is not strip(x, ("cast",)):
                    continue
                eps = r.inputs[0].attrs["b"]
                return node("rms_norm", [x], n.shape, n.dtype, eps=eps)
    for x, w in orders(n):
        unweighted = x.op == "rms_norm" and len(x.inputs) == 1 and uses.get(x, 1) == 1
        if unweighted and w.is_tensor and w.size == x.shape[-1]:
            if len(w.shape) != 1:
                w = const(w.tensor.reshape(-1), w.origin or frozenset((w.name,)))
            return node("rms_norm", [x.inputs[0], w], n.shape, n.dtype, **x.attrs)
    return None


def _half(n: Node, first: bool) -> Node | None:
    """The node of which n is the first or second half of the last dimension."""
    if n.op != "slice" or n.attrs["dim"] != len(n.shape) - 1:
        return None
    x = n.inputs[0]
    width = x.shape[-1]
    wanted = (0, width // 2) if first else (width // 2, width)
    return x if (n.attrs["start"], n.attrs["end"]) == wanted else None


def _joins_last(n: Node) -> bool:
    return n.op == "concat" and len(n.inputs) == 2 and n.attrs["dim"] == len(n.shape) - 1


def _rotated_half(n: Node) -> Node | None:
    """x, if n is concat(−x₂, x₁)."""
    if not _joins_last(n):
        return None
    minus, first = n.inputs
    if minus.op != "affine" or (minus.attrs["a"], minus.attrs["b"]) != (-1.0, 0.0):
        return None
    x = _half(first, True)
    return x if x is not None and _half(minus.inputs[0], False) is x else None


def _is_rotated_half(n: Node) -> bool:
    return _rotated_half(n) is not None


def _is_split_rotation(n: Node) -> bool:
    if not _joins_last(n) or n.inputs[0].op != "sub" or n.inputs[1].op != "add":
        return False
    return all(x.op == "mul" for part in n.inputs for x in part.inputs)


def rope(n: Node, uses: Uses) -> Node | None:
    """Both spellings of a rotary embedding whose angles are positions × frequencies."""
    if n.op == "add" and all(x.op == "mul" for x in n.inputs):
        matched = _match_rotate_half(n)
    elif _is_split_rotation(n):
        matched = _match_split(n)
    else:
        return None
    if matched is None:
        return None
    x, cos, sin = matched
    angles = _angles(cos, sin)
    found = angles and _positions_and_frequencies(angles, x.shape[-1] // 2)
    if not found:
        return None
    positions, frequencies = found
    operands = [reshape(positions, (math.prod(positions.shape),)), const(frequencies)]
    if cos.shape[-2] == 1:
        return node("rope", [x, *operands], n.shape, n.dtype)
    heads_last = permute(x, (0, 2, 1, 3))
    rotated = node("rope", [heads_last, *operands], heads_last.shape, n.dtype)
    return permute(rotated, (0, 2, 1, 3))


def _match_rotate_half(n: Node) -> tuple[Node, Node, Node] | None:
    """x·cos + concat(−x₂, x₁)·sin."""
    for straight, rotated in orders(n):
        for half, sin in orders(rotated):
            x = _rotated_half(half)
            for other, cos in orders(straight):
                if x is not None and other is x:
                    return x, cos, sin
    return None


def _match_split(n: Node) -> tuple[Node, Node, Node] | None:
    """concat(x₁·cos − x₂·sin, x₂·cos + x₁·sin)."""
    difference, total = n.inputs
    for x1, cos in orders(difference.inputs[0]):
        x = _half(x1, True)
        for x2, sin in orders(difference.inputs[1]):
            if x is None or _half(x2, False) is not x:
                continue
            wanted = {frozenset((x2, cos)), frozenset((x1, sin))}
            if {frozenset(m.inputs) for m in total.inputs} == wanted:
                return x, cos, sin
    return None


def _angles(cos: Node, sin: Node) -> Node | None:
    """The common argument of cosine and sine; a doubled one is halved."""
    cos, sin = strip(cos), strip(sin)
    if cos.op != "cos" or sin.op != "sin" or cos.inputs[0] is not sin.inputs[0]:
        return None
    angle = strip(cos.inputs[0])
    if angle.op == "concat" and len(angle.inputs) == 2 and angle.inputs[0] is angle.inputs[1]:
        angle = angle.inputs[0]
    return angle


def _positions_and_frequencies(angles: Node, size: int) -> tuple[Node, Tensor] | None:
    """Integer positions and the constant they are multiplied with (or divided by)."""
    angles = strip(angles, ("cast", "reshape", "expand", "permute"))
    if angles.op not in ("mul", "div", "matmul"):
        return None
    pairs = [tuple(angles.inputs)] if angles.op == "div" else list(orders(angles))
    for x, factor in pairs:
        factor = strip(factor)
        positions = strip(x, ("cast", "reshape", "expand", "permute"))
        if not factor.is_tensor or factor.size != size or positions.dtype != "i64":
            continue
        frequencies = factor.tensor.reshape(-1).double()
        if angles.op == "div":
            frequencies = 1.0 / frequencies
        return positions, frequencies.to(torch.float32)
    return None


def attention(n: Node, uses: Uses) -> Node | None:
    """matmul(softmax(scale · q·kᵀ, masked), v)."""
    if n.op != "matmul" or len(n.shape) not in (3, 4):
        return None
    softmax, v = n.inputs
    if softmax.op != "softmax" or softmax.attrs["dim"] != len(softmax.shape) - 1:
        return None
    scores, mask = _split_mask(softmax.inputs[0])
    scale = 1.0
    if scores.op == "affine" and scores.attrs["b"] == 0:
        scale, scores = scores.attrs["a"], scores.inputs[0]
    if scores.op != "matmul":
        return None
    q, transposed = scores.inputs
    if q.op == "affine" and q.attrs["b"] == 0:
        scale, q = scale * q.attrs["a"], q.inputs[0]
    rank = len(n.shape)
    k = permute(transposed, (*range(rank - 2), rank - 1, rank - 2))
    if rank == 3:
        q, k, v = (reshape(t, (1, *t.shape)) for t in (q, k, v))
    operands = [q, k, v] if mask is None else [q, k, v, mask]
    shape = (*q.shape[:-1], v.shape[-1])
    fused = node("sdpa", operands, shape, n.dtype, scale=scale, causal=False)
    return reshape(fused, n.shape)


def _split_mask(scores: Node) -> tuple[Node, Node | None]:
    if scores.op == "where_s" and scores.attrs["v"] < MASKED:
        mask, scores = scores.inputs
        return scores, strip(mask, ("expand",))
    if scores.op == "add":
        for x, mask in orders(scores):
            if x.op in ("affine", "matmul"):
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


def gate(n: Node, uses: Uses) -> Node | None:
    """act(a) · b."""
    if n.op != "mul" or n.inputs[0].shape != n.inputs[1].shape:
        return None
    for a, b in orders(n):
        if a.op in ("silu", "gelu") and uses.get(a, 1) == 1 and not b.is_tensor:
            operands = [a.inputs[0], b]
            return node("glu", operands, n.shape, n.dtype, act=a.op, **a.attrs)
    return None


def trivial_mask(n: Node, uses: Uses) -> Node | None:
    """A constant mask that masks nothing is dropped."""
    if n.op != "sdpa" or len(n.inputs) != 4:
        return None
    mask = strip(n.inputs[3])
    if mask.op != "const":
        return None
    passes = mask.tensor.all() if mask.dtype == "b8" else (mask.tensor == 0).all()
    if not bool(passes):
        return None
    return node("sdpa", n.inputs[:3], n.shape, n.dtype, **n.attrs)


def patches(n: Node, uses: Uses) -> Node | None:
    """A convolution whose windows do not overlap is a `linear` on patches.

    So its weight can be stored in any type, and needs no unfolding at run time.
    """
    if n.op != "conv2d" or n.attrs["groups"] != 1 or any(n.attrs["pad"]) or n.shape[0] != 1:
        return None
    x, weight, *bias = n.inputs
    window = weight.shape[2:]
    fits = all(size % step == 0 for size, step in zip(x.shape[2:], window, strict=True))
    if tuple(n.attrs["stride"]) != window or tuple(n.attrs["dil"]) != (1, 1) or not fits:
        return None
    if weight.op != "param" or uses.get(weight, 1) != 1:
        return None
    (_, out_channels, rows, columns), (height, width) = n.shape, window
    channels, area = x.shape[1], height * width
    # At most four dimensions at a time: windows first, then channels into the windows.
    cells = reshape(x, (channels * rows, height, columns, width))
    cells = reshape(permute(cells, (0, 2, 1, 3)), (channels, rows * columns, area))
    flat = reshape(permute(cells, (1, 0, 2)), (1, rows * columns, channels * area))
    data = weight.data
    assert data is not None
    matrix = Node(
        "param", [], {}, (out_channels, channels * area), weight.dtype,
        name=weight.name, data=data.reshape((out_channels, -1)), origin=weight.origin,
    )  # fmt: skip
    mapped = node("linear", [flat, matrix, *bias], (1, rows * columns, out_channels), n.dtype)
    return reshape(permute(mapped, (0, 2, 1)), n.shape)
